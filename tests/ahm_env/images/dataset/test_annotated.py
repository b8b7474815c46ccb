"""Sets of which only some images have a mask and a label: the others' are not read, and not known."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ahm_env.errors import ImageError
from ahm_env.images.dataset.annotated import annotated
from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.images.dataset.loader import load_images, originals
from ahm_env.images.pixels.opencv import cv2

SIDE, COUNT = 16, 6


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(1, 255, (SIDE, SIDE), np.uint8)


def drawn(number: int) -> np.ndarray:
    return np.where(np.arange(SIDE * SIDE).reshape(SIDE, SIDE) < 20 + 16 * number, 255, 0).astype(np.uint8)


def folder(root: Path, _: object) -> list[Path]:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(COUNT):
        cv2.imwrite(str(root / "images" / f"{number}.png"), pixels(number))
        cv2.imwrite(str(root / "masks" / f"{number}.png"), drawn(number))
    return [root / "masks" / f"{number}.png" for number in range(COUNT)]


def slices(root: Path, _: object) -> list[Path]:
    nibabel = pytest.importorskip("nibabel")
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number in range(COUNT):
        image = nibabel.Nifti1Image(pixels(number)[..., None].astype(np.int16), np.eye(4))
        nibabel.save(image, root / "images" / f"v{number}.nii.gz")
        mask = nibabel.Nifti1Image((drawn(number)[..., None] > 0).astype(np.uint8), np.eye(4))
        nibabel.save(mask, root / "masks" / f"v{number}.nii.gz")
    return [root / "masks" / f"v{number}.nii.gz" for number in range(COUNT)]


def drawn_slices(root: Path, _: object) -> list[Path]:
    nibabel = pytest.importorskip("nibabel")
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    volume = np.stack([pixels(number) for number in range(COUNT)], 2).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), root / "images" / "v.nii.gz")
    paths = [root / "masks" / f"v_{number:04d}.png" for number in range(COUNT)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), drawn(number))
    return paths


def dicom(root: Path, make_dicom: Callable[..., Path]) -> list[Path]:
    for number in range(COUNT):
        make_dicom(root / "images" / f"{number}.dcm", pixels(number), SOPInstanceUID=f"1.2.{number}")
        (root / "masks").mkdir(exist_ok=True)
        cv2.imwrite(str(root / "masks" / f"{number}.png"), drawn(number))
    return [root / "masks" / f"{number}.png" for number in range(COUNT)]


KINDS = [folder, slices, drawn_slices, dicom]


@pytest.mark.parametrize("make", KINDS)
def test_only_the_masks_that_are_asked_for_are_read(make, make_dicom, tmp_path: Path):
    paths = make(tmp_path / "scans", make_dicom)
    whole = load_images(tmp_path / "scans", SIDE)
    assert whole.masked(range(COUNT)).all()
    chosen = np.array([1, 4])
    for number, path in enumerate(paths):
        if number not in chosen:
            path.write_bytes(b"damaged")
    images = load_images(tmp_path / "scans", SIDE, masks=False)
    assert images.masked(range(COUNT)).all()  # they are there, whatever they hold
    assert images.images(range(COUNT)).tolist() == whole.images(range(COUNT)).tolist()
    some = annotated(images, chosen)
    assert some.masked(range(COUNT)).tolist() == [False, True, False, False, True, False]
    assert some.masks(range(COUNT))[chosen].tolist() == whole.masks(chosen).tolist()
    assert not some.masks([0, 2, 3, 5]).any()
    assert some.mask_values(range(COUNT)) == (0, 1)
    assert [sample.mask.shape for sample in originals(some, chosen)] == [(SIDE, SIDE)] * 2
    with pytest.raises(ImageError, match="scans"):
        annotated(images, [0, 1])
    most = annotated(images, range(COUNT), skip_bad=True)
    assert np.flatnonzero(most.masked(range(COUNT))).tolist() == [1, 4]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["phantom:20:0", "npz"])
def test_sources_without_mask_files_give_the_same_masks(source: str, tmp_path: Path):
    if source == "npz":
        source = str(tmp_path / "set.npz")
        images = np.stack([pixels(number) for number in range(COUNT)])
        np.savez(source, train_images=images, train_label=np.stack([drawn(n) > 0 for n in range(COUNT)]))
    whole, images = load_images(source, SIDE), load_images(source, SIDE, masks=False)
    some = annotated(images, [0, 3])
    assert some.masks([0, 3]).tolist() == whole.masks([0, 3]).tolist()
    assert not some.masked([1, 2]).any()
    assert annotated(whole, [0, 3]).masks(range(4)).tolist() == some.masks(range(4)).tolist()


def labelled(tmp_path: Path, labels: str) -> ImageSet:
    folder(tmp_path / "scans", None)
    lines = [f"{number},{label},train" for number, label in enumerate(labels)]
    (tmp_path / "scans" / "labels.csv").write_text("\n".join(["image,label,split", *lines]))
    return load_images(tmp_path / "scans", SIDE, masks=False)


def test_labels_are_those_of_the_chosen_images(tmp_path: Path):
    images = labelled(tmp_path, "cabcab")
    some = annotated(images, [1, 2, 4])
    assert some.classes == ("a", "b")
    assert some.labels(range(COUNT)).tolist() == [-1, 0, 1, -1, 0, -1]
    named = annotated(images, [1, 2], ("b", "x", "a"))
    assert named.labels([1, 2]).tolist() == [2, 0]
    with pytest.raises(ImageError, match=r"0\.png is labelled c, which is none of the classes .* \(a, b\)"):
        annotated(images, [0, 1], ("a", "b"))
    again = annotated(some, [2])
    assert again.classes == ("b",)
    assert again.labels(range(COUNT)).tolist() == [-1, -1, 0, -1, -1, -1]


def test_the_content_is_that_of_what_is_known(tmp_path: Path):
    images = labelled(tmp_path, "cabcab")
    keys = {annotated(images, some).content_key for some in ([0], [0, 1], [1])}
    assert len(keys | {images.content_key}) == 4
    some = annotated(images, [0, 1])
    assert some.content_key == annotated(images, [0, 1]).content_key
    other = pickle.loads(pickle.dumps(some))
    assert other.content_key == some.content_key
    assert other.masks([0, 1, 2]).tolist() == some.masks([0, 1, 2]).tolist()
    path = tmp_path / "scans" / "masks" / "0.png"
    cv2.imwrite(str(path), drawn(5))
    changed = annotated(load_images(tmp_path / "scans", SIDE, masks=False), [0, 1])
    assert changed.content_key != some.content_key
    assert changed.masks(0).sum() == (drawn(5) > 0).sum()


def test_masks_that_are_lost_from_the_cache_are_named(tmp_path: Path):
    some = annotated(labelled(tmp_path, "cabcab"), [0, 1])
    assert some.annotations is not None
    assert some.annotations.entry is not None
    (some.annotations.entry / "masks.npy").write_bytes(b"")
    with pytest.raises(ImageError, match=r"cached masks are gone or damaged; load .* again"):
        pickle.loads(pickle.dumps(some))


def save_masks(root: Path, *masks: np.ndarray) -> Path:
    """A folder of as many images with these masks."""
    folder(root, None)
    for number in range(len(masks), COUNT):
        (root / "masks" / f"{number}.png").unlink()
    for number, mask in enumerate(masks):
        cv2.imwrite(str(root / "masks" / f"{number}.png"), mask.astype(np.uint8))
    return root


@pytest.mark.parametrize("read", [True, False])
def test_a_number_that_is_no_class_stays_what_it_is(tmp_path: Path, read: bool) -> None:
    rows = np.arange(SIDE).repeat(SIDE).reshape(SIDE, SIDE)
    marked, unsure, both = rows > 3, np.where(rows > 7, 255, 0), np.select([rows > 12, rows > 3], [255, 1], 0)
    root = save_masks(tmp_path / "scans", marked, unsure, both, np.full_like(rows, 255))
    images = load_images(root, SIDE, masks=read)
    chosen = np.arange(4)
    assert images.ignore is None
    some = annotated(images, chosen, ignore=255)
    assert some.ignore == 255
    assert some.masked(chosen).tolist() == [True, True, True, False]  # one where all is ignored has no mask
    assert np.array_equal(some.masks([0, 1, 2]), [marked, unsure, both])
    assert some.mask_values([0, 1, 2]) == (0, 1, 255)
    assert pickle.loads(pickle.dumps(some)).ignore == 255
    assert (some.skipped, some.unknown, images.unknown) == (0, 1, 0)  # and nothing is bad about it
    # of the first two, each is a mask of two values
    assert annotated(images, [0, 1], ignore=128).mask_values([0, 1]) == (0, 1)
    assert annotated(images, [0, 1], ignore=1).mask_values([0, 1]) == (0, 1, 255)


def test_a_number_that_is_no_class_is_not_lost_by_resizing(tmp_path: Path) -> None:
    mask = np.zeros((SIDE, SIDE), int)
    mask[2:6, 2:14], mask[8:14, 2:14] = 255, 7
    root = save_masks(tmp_path / "scans", mask)
    small = annotated(load_images(root, SIDE // 2, masks=False), [0], ignore=255).masks(0)[0]
    assert np.array_equal(small, mask[1::2, 1::2])
    cv2.imwrite(str(root / "images" / "0.png"), pixels(0)[:, : SIDE // 2])
    cv2.imwrite(str(root / "masks" / "0.png"), mask[:, : SIDE // 2].astype(np.uint8))
    assert annotated(load_images(root, SIDE // 2, masks=False), [0]).mask_values(0) == (0, 7, 255)
    padded = annotated(load_images(root, SIDE, fit="pad", masks=False), [0], ignore=255).masks(0)[0]
    assert np.array_equal(padded[:, 4:12], mask[:, :8])
    assert not padded[:, :4].any()  # the margin is background


@pytest.mark.parametrize("read", [True, False])
def test_masks_of_two_values_are_zeros_and_ones_unless_they_are_to_stay(tmp_path: Path, read: bool) -> None:
    images = load_images(save_masks(tmp_path / "scans", drawn(0), drawn(1)), SIDE, masks=read)
    assert annotated(images, [0, 1]).mask_values([0, 1]) == (0, 1)
    stored = annotated(images, [0, 1], as_stored=True)
    for one in (stored, pickle.loads(pickle.dumps(stored))):
        assert one.mask_values([0, 1]) == one.mask_values([0, 1], resized=True) == (0, 255)
        assert np.array_equal(one.masks([0, 1]), [drawn(0), drawn(1)])


def test_numbers_are_known_of_the_masks_that_were_asked_for_alone(tmp_path: Path) -> None:
    root = save_masks(tmp_path / "scans", *(np.full((SIDE, SIDE), number) for number in (3, 4, 5)))
    some = annotated(load_images(root, SIDE, masks=False), [0, 2])
    assert some.mask_values(range(3)) == (3, 5)
    assert [some.mask_values(number) for number in range(3)] == [(3,), (), (5,)]


@pytest.mark.parametrize("values", [(0, 255), (255,)])
def test_masks_that_hold_nothing_but_what_is_ignored_are_refused(tmp_path: Path, values: tuple[int, ...]) -> None:
    masks = [np.resize(np.array(values), (SIDE, SIDE)) for _ in range(2)]
    images = load_images(save_masks(tmp_path / "scans", *masks), SIDE, masks=False)
    for _ in range(2):  # it is not taken from the cache, either
        with pytest.raises(ImageError, match=r"hold only 0 and 255, .* nothing is marked; .* leave out --ignore"):
            annotated(images, [0, 1], ignore=255)
    assert annotated(images, [0, 1]).mask_values([0, 1]) == tuple(int(value > 0) for value in values)
