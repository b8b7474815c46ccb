from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest

from ahm_env.errors import ImageError
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.pixels.fit import PixelSettings
from ahm_env.images.source import Decoded, Entry, class_order


def test_class_names_are_sorted() -> None:
    assert class_order({"nevus", "melanoma", "Keratosis"}) == ("Keratosis", "melanoma", "nevus")


def test_class_numbers_are_sorted_as_numbers() -> None:
    assert class_order({"10", "2", "0"}) == ("0", "2", "10")
    assert class_order({"10", "2", "0", "none"}) == ("0", "10", "2", "none")


def fill(kind: str, root: Path, make_folder, make_dicom) -> Path:
    """Make a source of this kind: two images or more, with labels, splits and patients where the kind has them."""
    table = "image,label,split,patient\n0000{0},a,train,x\n0001{0},b,test,y\n"
    if kind == "folder":
        return make_folder(2, masks=True, table=table.format(""))
    if kind == "npz":
        np.savez(root / "a.npz", train_images=np.ones((2, 4, 4), np.uint8), train_labels=np.arange(2))
        return root / "a.npz"
    if kind == "dicom":
        for number in range(2):
            make_dicom(root / f"000{number}.dcm", np.full((2, 4, 6), number, np.uint8), PatientID=f"P{number}")
    if kind == "nifti":
        nibabel = pytest.importorskip("nibabel")
        for number in range(2):
            volume = nibabel.Nifti1Image(np.arange(36, dtype=np.int16).reshape(3, 4, 3), np.eye(4))
            nibabel.save(volume, root / f"000{number}.nii.gz")
    (root / "labels.csv").write_text(table.format({"dicom": ".dcm", "nifti": ".nii.gz"}[kind]))
    return root


@pytest.mark.parametrize("kind", ["phantom", "npz", "folder", "nifti", "dicom"])
def test_entries_are_named_without_being_decoded_and_again_and_again(
    kind: str, tmp_path: Path, make_folder, make_dicom
) -> None:
    (tmp_path / "tree").mkdir()
    path = "phantom:12" if kind == "phantom" else fill(kind, tmp_path / "tree", make_folder, make_dicom)
    source = find_source(path, PixelSettings(8))
    assert source.kind == kind
    index = source.index()

    def refuse() -> None:
        raise AssertionError("decoded")

    named = [replace(entry, decode=refuse) for entry in index.samples]
    samples = [entry() for entry in index.samples]
    assert len(named) == len(samples) == index.count > 1
    about = attrgetter("name", "path", "label", "split", "patient")
    assert [about(entry) for entry in named] == [about(sample) for sample in samples]
    assert len({entry.name for entry in named}) == index.count


def test_what_is_wrong_with_a_file_comes_before_what_is_wrong_with_its_line() -> None:
    def damaged() -> None:
        raise ImageError("a.png: damaged")

    def whole() -> Decoded:
        return Decoded(np.zeros((2, 2), np.uint8))

    for decode, problem in ((damaged, "damaged"), (whole, "no line"), (lambda: None, "no line")):
        with pytest.raises(ImageError, match=problem):
            Entry("a.png", "a.png", decode, trouble="a.png: no line")()


def test_a_mask_is_read_with_its_image_or_later() -> None:
    read = list[str]()

    def mask() -> np.ndarray:
        read.append("mask")
        return np.ones((2, 2), np.uint8)

    entry = Entry("a", "a", lambda: Decoded(np.zeros((2, 2), np.uint8), mask), masks=False)
    sample = entry()
    assert (sample.masked, sample.mask, read) == (True, None, [])
    assert sample.with_mask().mask.all()
    assert replace(entry, masks=True)().mask.all()
    assert read == ["mask"] * 2


def test_what_shows_nothing_counts_only_where_its_mask_is_read_and_marked() -> None:
    blank, marked = np.zeros((2, 2), np.uint8), np.eye(2, dtype=np.uint8)

    def entry(image: np.ndarray, mask: np.ndarray | None, **how: bool) -> Entry:
        later = None if mask is None else lambda: mask
        return Entry("a", "a", lambda: Decoded(image, later, blank=not image.any()), **how)

    for how in ({"masks": True}, {"masks": False, "marks": True}):
        assert entry(blank, marked, **how)().mask is marked
        assert entry(blank, blank, **how)() is entry(blank, None, **how)() is None
    assert entry(blank, marked, masks=False)() is None
    assert entry(marked, marked, masks=False, marks=True)().mask is None  # it counts without
