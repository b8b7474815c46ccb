import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ahm_env.errors import ImageError, SettingsError
from ahm_env.files import cache_root
from ahm_env.images.dataset.cache import Meta, new_entry, write_meta
from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.images.dataset.loader import load_images
from ahm_env.images.pixels.fit import PixelSettings
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.source import SPLITS

TABLE = "image,label,split\n" + "".join(
    f"{i:04d},{'AB'[i % 2] if i else ''},{'train' if i < 5 else 'val'}\n" for i in range(7)
)


@pytest.fixture
def images(make_folder, cache: Path) -> ImageSet:
    return load_images(make_folder(7, masks=True, table=TABLE), 16, cache_dir=cache)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return load_images("phantom:30", 16, cache_dir=tmp_path_factory.mktemp("cache"))


def test_images_and_masks_are_copies(images: ImageSet) -> None:
    chosen = images.images([2, 0, 2])
    assert (type(chosen), chosen.shape, chosen.dtype) == (np.ndarray, (3, 3, 16, 16), np.uint8)
    assert np.array_equal(chosen[0], chosen[2])
    before = chosen[1].copy()
    chosen[:] = 0
    assert np.array_equal(images.images([0])[0], before)
    assert images.masks(range(7)).shape == (7, 16, 16)
    assert set(np.unique(images.masks([1, 2]))) == {0, 1}


@pytest.mark.parametrize("indices", [3, np.int64(3), [3], (3,), np.array([3], np.int32), [-4]])
def test_indices_come_in_many_shapes(images: ImageSet, indices: object) -> None:
    assert np.array_equal(images.images(indices), images.images([3]))
    assert images.labels(indices).tolist() == [1]


def test_no_indices_give_no_images(images: ImageSet) -> None:
    assert images.images([]).shape == (0, 3, 16, 16)
    assert images.masks([]).shape == (0, 16, 16)
    assert images.labels([]).shape == (0,)


@pytest.mark.parametrize("index", [7, -8])
def test_an_index_outside_is_an_index_error(images: ImageSet, index: int) -> None:
    for read in (images.images, images.masks, images.labels):
        with pytest.raises(IndexError):
            read([index])


def test_labels_splits_and_names(images: ImageSet) -> None:
    assert images.classes == ("A", "B")
    assert images.labels(range(7)).tolist() == [-1, 1, 0, 1, 0, 1, 0]
    assert images.labels([0]).dtype == images.split("train").dtype == np.int64
    assert [images.split(name).tolist() for name in ("train", "val", "test")] == [[0, 1, 2, 3, 4], [5, 6], []]
    assert list(images.names) == [f"{i:04d}.png" for i in range(7)]
    assert (images.names[-1], images.names[2:4]) == ("0006.png", ["0002.png", "0003.png"])
    with pytest.raises(IndexError):
        images.names[7]


def test_an_unknown_split_is_refused(images: ImageSet) -> None:
    with pytest.raises(SettingsError, match="split is 'valid'; choose one of: train, val, test"):
        images.split("valid")


def test_some_images_may_have_masks(make_folder, cache: Path) -> None:
    root = make_folder(4, masks=True)
    for name in ("0000", "0002"):
        (root / "masks" / f"{name}.png").unlink()
    images = load_images(root, 16, cache_dir=cache)
    assert images.has_masks
    assert images.masked(range(4)).tolist() == [False, True, False, True]
    assert images.masked([3, 0]).tolist() == [True, False]
    assert images.masks(range(4)).any((1, 2)).tolist() == [False, True, False, True]
    empty = np.zeros((20, 30), np.uint8)
    for name in ("0000", "0002"):
        cv2.imwrite(str(root / "masks" / f"{name}.png"), empty)
    marked = load_images(root, 16, cache_dir=cache)
    assert marked.masked(range(4)).all()
    assert np.array_equal(marked.masks(range(4)), images.masks(range(4)))
    assert marked.content_key != images.content_key  # nothing marked is not the same as not looked at


def test_the_split_of_each_image_is_that_which_lists_it(images: ImageSet) -> None:
    every = images.splits(range(7))
    for number, name in enumerate(SPLITS):
        assert np.flatnonzero(every == number).tolist() == images.split(name).tolist()
    assert images.splits([3, 0]).tolist() == every[[3, 0]].tolist()


def test_a_set_without_masks_says_where_they_belong(make_folder, cache: Path) -> None:
    images = load_images(make_folder(2), 8, cache_dir=cache)
    assert not images.has_masks
    with pytest.raises(ImageError, match="no masks; put them in masks/"):
        images.masks([0])


def test_the_numbers_in_masks_are_those_of_the_images_asked_for(make_folder, cache: Path) -> None:
    root = make_folder(3, masks=True)
    two = load_images(root, 8, cache_dir=cache)
    assert two.mask_values(range(3)) == (0, 1)  # 0 and 255 in the files
    cv2.imwrite(str(root / "masks" / "0001.png"), np.full((20, 30), 7, np.uint8))
    several = load_images(root, 8, cache_dir=cache)
    assert several.mask_values([1]) == (7,)
    assert several.mask_values([2, 1]) == (0, 7, 255)
    assert several.mask_values([]) == ()
    with pytest.raises(IndexError):
        several.mask_values([3])
    with pytest.raises(ImageError, match="no masks"):
        load_images(make_folder(2, name="bare"), 8, cache_dir=cache).mask_values([0])


def test_a_number_is_in_a_mask_though_resizing_leaves_nothing_of_it(make_folder, cache: Path) -> None:
    root = make_folder(3, masks=True)
    mask = np.zeros((20, 30), np.uint8)
    mask[0, 0], mask[5:, :] = 9, 7
    cv2.imwrite(str(root / "masks" / "0001.png"), mask)
    (root / "masks" / "0002.png").unlink()
    images = load_images(root, 8, cache_dir=cache)
    assert 9 not in images.masks(1)
    assert images.mask_values(1) == (0, 7, 9)
    assert images.mask_values(1, resized=True) == (0, 7)
    assert images.mask_values(2) == images.mask_values(2, resized=True) == ()


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(indices=st.lists(st.integers(0, 29), min_size=1, max_size=60), chunk=st.sampled_from([1, 2000, 2**18]))
def test_standardisation_is_that_of_all_pixels(phantoms: ImageSet, indices: list[int], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ahm_env.images.dataset.image_set.CHUNK_BYTES", chunk)
        mean, std = phantoms.standardisation(indices)
    pixels = phantoms.images(indices).astype(np.float64)
    assert mean.dtype == std.dtype == np.float32
    assert np.allclose(mean, pixels.mean(axis=(0, 2, 3)))
    assert np.allclose(std, pixels.std(axis=(0, 2, 3)))


def test_the_deviation_is_never_zero(make_folder, cache: Path) -> None:
    images = load_images(make_folder(1), 1, cache_dir=cache)
    assert images.standardisation([0])[1].tolist() == [1.0, 1.0, 1.0]


def test_standardisation_needs_an_image(phantoms: ImageSet) -> None:
    with pytest.raises(ImageError, match="no image to standardise by"):
        phantoms.standardisation([])


def test_a_pickle_holds_the_path_only(images: ImageSet) -> None:
    content = pickle.dumps(images)
    assert len(content) < 2000
    copy = pickle.loads(content)
    assert (copy.source, copy.content_key, copy.classes) == (images.source, images.content_key, images.classes)
    assert np.array_equal(copy.images(range(7)), images.images(range(7)))


def test_a_pickle_whose_cache_is_gone_says_so(images: ImageSet, cache: Path) -> None:
    content = pickle.dumps(images)
    shutil.rmtree(cache)
    with pytest.raises(ImageError, match=r"cached images are gone or damaged; load .*scans again"):
        pickle.loads(content)


def test_a_set_survives_the_removal_of_its_cache(images: ImageSet, cache: Path) -> None:
    before = images.images(range(7))
    shutil.rmtree(cache)
    assert np.array_equal(images.images(range(7)), before)


def test_arrays_are_mapped_and_not_loaded(images: ImageSet) -> None:
    for array in (images._images, images._masks, images._labels, images._splits):
        assert isinstance(array.base, np.memmap)


def private_bytes() -> int:
    """Memory of this process that is its own, not mapped from files."""
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("no /proc to read the memory of a process from")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_a_hundred_thousand_images_need_no_private_memory(cache: Path) -> None:
    count = 100_000
    names = b"".join(b"ISIC_%07d.jpg" % index for index in range(count))
    with new_entry(cache_root(cache), "many") as directory:
        np.save(directory / "images.npy", np.zeros((count, 1, 8, 8), np.uint8))
        np.save(directory / "labels.npy", np.zeros(count, np.int32))
        np.save(directory / "masked.npy", np.zeros(count, np.bool_))
        np.save(directory / "splits.npy", (np.arange(count) % 3).astype(np.uint8))
        np.save(directory / "patients.npy", np.arange(count))
        np.save(directory / "positions.npy", np.arange(count))
        np.save(directory / "names.npy", np.frombuffer(names, np.uint8))
        np.save(directory / "name_ends.npy", np.arange(1, count + 1) * 16)
        write_meta(
            directory,
            Meta(PixelSettings(8), 1, ("a",), False, True, True, skipped=0, empty=0, images_content="", content=""),
        )
    before = private_bytes()
    images = ImageSet(cache / "many", "many")
    assert images.names[count - 1] == "ISIC_0099999.jpg"
    assert len(images.split("val")) == 33_333
    images.standardisation(images.split("train"))
    images.images(range(0, count, 100))
    assert private_bytes() - before < 8 * 2**20


def test_the_attributes_are_plain(images: ImageSet) -> None:
    assert (images.image_size, images.channels, len(images), images.skipped) == (16, 3, 7, 0)
    assert json.dumps([images.source, images.image_size, images.channels, images.classes, images.content_key])
