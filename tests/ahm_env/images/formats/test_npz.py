from pathlib import Path

import numpy as np
import pytest

from ahm_env.errors import ImageError
from ahm_env.images.formats.npz import Npz
from ahm_env.images.source import Sample


def save(tmp_path: Path, **arrays: np.ndarray) -> Npz:
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    return Npz(tmp_path / "set.npz")


def images(count: int, *shape: int, kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 200, (count, *(shape or (8, 9))), dtype=np.uint8).astype(kind)


def samples(npz: Npz) -> list[Sample]:
    return [load() for load in npz.index().samples]


def test_medmnist_has_class_numbers_and_splits(tmp_path: Path) -> None:
    arrays = {f"{split}_images": images(count, 28, 28, 3) for split, count in (("train", 4), ("val", 2), ("test", 3))}
    labels = {"train_labels": [[2], [0], [10], [0]], "val_labels": [[0], [2]], "test_labels": [[10], [0], [0]]}
    npz = save(tmp_path, **arrays, **{name: np.array(value, np.uint8) for name, value in labels.items()})
    index = npz.index()
    assert (index.count, index.classes, index.has_masks) == (9, ("0", "2", "10"), False)
    loaded = samples(npz)
    assert [sample.label for sample in loaded] == [1, 0, 2, 0, 0, 1, 2, 0, 0]
    assert [sample.split for sample in loaded] == [0] * 4 + [1] * 2 + [2] * 3
    assert [loaded[i].name for i in (0, 4, 8)] == ["train_000000", "val_000000", "test_000002"]
    assert np.array_equal(loaded[5].image, arrays["val_images"][1])


def test_medsegbench_has_masks(tmp_path: Path) -> None:
    masks = images(3, 8, 9) % 4
    npz = save(tmp_path, train_images=images(3, 8, 9, 3), train_label=masks)
    index = npz.index()
    assert (index.classes, index.has_masks) == ((), True)
    assert np.array_equal([sample.mask for sample in samples(npz)], masks)
    assert {sample.label for sample in samples(npz)} == {-1}


def test_a_split_may_have_no_masks(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=images(3), train_label=images(3) > 100, val_images=images(2))
    index = Npz(tmp_path / "a.npz").index()
    assert index.has_masks
    assert [load().mask is None for load in index.samples] == [False] * 3 + [True] * 2


def test_masks_and_labels_may_come_together(tmp_path: Path) -> None:
    npz = save(tmp_path, val_images=images(2), val_labels=np.array([5, 3]), val_masks=images(2, 8, 9, 1))
    loaded = samples(npz)
    assert npz.index().classes == ("3", "5")
    assert [sample.label for sample in loaded] == [1, 0]
    assert all(sample.mask is not None and sample.mask.shape == (8, 9) for sample in loaded)


@pytest.mark.parametrize(("shape", "expected"), [((8, 9), (8, 9)), ((8, 9, 1), (8, 9)), ((8, 9, 4), (8, 9, 3))])
def test_grey_and_alpha_are_understood(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert samples(save(tmp_path, train_images=images(2, *shape)))[1].image.shape == expected


@pytest.mark.parametrize("kind", [np.uint16, np.float32, np.int64, ">u2"])
def test_images_keep_their_type(tmp_path: Path, kind: type) -> None:
    assert samples(save(tmp_path, train_images=images(2, kind=kind)))[0].image.dtype == np.dtype(kind)


def test_without_labels_all_are_unknown(tmp_path: Path) -> None:
    index = save(tmp_path, train_images=images(2)).index()
    assert (index.classes, index.has_masks, index.notes) == ((), False, [])


def test_an_empty_split_is_no_fault(tmp_path: Path) -> None:
    assert save(tmp_path, train_images=images(2), test_images=images(0)).index().count == 2


def test_negative_class_numbers_are_unknown(tmp_path: Path) -> None:
    npz = save(tmp_path, train_images=images(3), train_labels=np.array([[4], [-1], [-7]]))
    assert npz.index().classes == ("4",)
    assert [sample.label for sample in samples(npz)] == [0, -1, -1]


def test_several_labels_an_image_are_left_out_and_noted(tmp_path: Path) -> None:
    index = save(tmp_path, train_images=images(3), train_labels=np.zeros((3, 14), np.uint8)).index()
    assert index.classes == ()
    assert index.notes == [f"{tmp_path}/set.npz: train_labels has 14 labels an image; they are not read"]


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x": images(3)}, "no images in train_images, val_images, test_images; it has x"),
        ({"train_images": images(0)}, "no images in"),
        ({"train_images": images(3, 28, 28, 28)}, r"train_images has shape \(3, 28, 28, 28\).*is it 3-D"),
        ({"train_images": images(3, 8)}, "not .N, H, W."),
        ({"train_images": images(3), "train_labels": np.zeros((4, 1), int)}, "4 rows for 3 images"),
        ({"train_images": images(3), "train_labels": np.zeros((3, 1))}, "holds float64, not class numbers"),
        ({"train_images": images(3), "train_label": images(3, 9, 8)}, r"shape \(3, 9, 8\) for images \(3, 8, 9\)"),
        ({"train_images": np.asfortranarray(images(3))}, "Fortran order"),
        ({"train_images": np.array([None, "a"], object)}, "not unpickled"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint) as caught:
        save(tmp_path, **arrays).index()
    assert str(caught.value).startswith(f"{tmp_path}/set.npz: ")
    assert "\n" not in str(caught.value)


def test_a_mask_with_other_values_names_its_image(tmp_path: Path) -> None:
    masks = images(3, kind=np.int64)
    masks[1, 2, 3] = 1000
    loads = list(save(tmp_path, train_images=images(3), train_label=masks).index().samples)
    loads[0]()
    with pytest.raises(ImageError, match=r"set\.npz: train_images\[1\]: mask holds values"):
        loads[1]()


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    save(tmp_path, train_images=images(20))
    path = tmp_path / "set.npz"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageError, match=r"set\.npz: truncated, damaged or no \.npz file"):
        samples(Npz(path))


def test_the_fingerprint_follows_the_file(tmp_path: Path) -> None:
    before = save(tmp_path, train_images=images(2)).fingerprint()
    assert Npz(tmp_path / "set.npz").fingerprint() == before
    assert save(tmp_path, train_images=images(3)).fingerprint() != before
