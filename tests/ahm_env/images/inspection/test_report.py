from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images import check_source
from ahm_env.images.pixels.opencv import cv2

TABLE = "image,label,split\n0000,A,train\n0001,B,val\n0002,A,train\n0003,,test\n"


def test_a_good_folder_is_described(make_folder) -> None:
    root = make_folder(4, masks=True, table=TABLE)
    report = check_source(root)
    assert (report.source, report.kind, report.images) == (str(root), "folder", 4)
    assert report.sizes == {(30, 20): 4}
    assert report.channels == {3: 4}
    assert report.pixel_types == {"uint8": 4}
    assert (report.masks, report.empty_masks, report.mask_values) == (4, 0, (0, 255))
    assert report.classes == {"A": {"train": 2}, "B": {"val": 1}, "(no label)": {"test": 1}}
    assert report.splits == {"train": 2, "val": 1, "test": 1}
    assert report.problems == report.notes == []


def test_every_problem_is_listed_with_its_file(make_folder) -> None:
    root = make_folder(8, masks=True, table=TABLE + "0004,A,holdout\n0005,A,train\n0006,A,train\nzzz,A,train\n")
    (root / "images" / "0000.png").write_bytes(b"text")
    (root / "images" / "0001.png").write_bytes(b"")
    (root / "masks" / "0002.png").unlink()
    cv2.imwrite(str(root / "masks" / "0003.png"), np.zeros((3, 3), np.uint8))
    cv2.imwrite(str(root / "masks" / "orphan.png"), np.zeros((3, 3), np.uint8))
    cv2.imwrite(str(root / "masks" / "0005.png"), np.zeros((20, 30, 3), np.uint8) + np.arange(3, dtype=np.uint8))
    told: list[tuple[int, int]] = []
    report = check_source(root, progress=lambda done, total: told.append((done, total)))
    assert (report.images, report.masks) == (2, 1)
    expected = ["masks/orphan.png", "labels.csv: line 9", *(f"000{i}.png" for i in (0, 1, 3, 4, 5, 7))]
    assert len(report.problems) == len(expected)
    for problem, name in zip(report.problems, expected, strict=True):
        assert name in problem
        assert "; " in problem
        assert "\n" not in problem
    assert told[-1] == (8, 8)


@pytest.mark.parametrize("table", [None, "name\n0000\n"])
def test_a_folder_of_no_use_is_a_problem_and_no_error(make_folder, table: str | None) -> None:
    root = make_folder(0 if table is None else 2, table=table)
    (problem,) = check_source(root).problems
    assert str(root) in problem


def test_depths_and_empty_masks_are_counted(make_folder) -> None:
    root = make_folder(3, masks=True)
    cv2.imwrite(str(root / "images" / "0000.png"), np.arange(600, dtype=np.uint16).reshape(20, 30))
    cv2.imwrite(str(root / "masks" / "0001.png"), np.zeros((20, 30), np.uint8))
    report = check_source(root)
    assert report.pixel_types == {"uint16": 1, "uint8": 2}
    assert report.channels == {1: 1, 3: 2}
    assert (report.masks, report.empty_masks) == (3, 1)


def test_phantoms_and_npz_files_are_described(tmp_path: Path) -> None:
    phantoms = check_source("phantom:20")
    assert (phantoms.kind, phantoms.images, phantoms.masks) == ("phantom", 20, 20)
    assert phantoms.splits == {"train": 16, "val": 2, "test": 2}
    np.savez(tmp_path / "a.npz", val_images=np.zeros((3, 9, 8), np.float32), val_labels=np.zeros((3, 4), int))
    report = check_source(tmp_path / "a.npz")
    assert (report.kind, report.images, report.sizes) == ("npz", 3, {(8, 9): 3})
    assert len(report.notes) == 1


def test_a_truncated_npz_is_a_problem(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 64, 64), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train_images=noise)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[150_000] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    (problem,) = check_source(tmp_path / "a.npz").problems
    assert "a.npz: train_images: truncated, damaged" in problem


def test_what_is_no_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file or folder"):
        check_source(tmp_path / "gone")
    with pytest.raises(SettingsError, match="not phantom:COUNT:SEED"):
        check_source("phantom:x")


def test_what_is_turned_or_has_several_pages_is_counted(make_folder) -> None:
    root = make_folder(3)
    exif = Image.Exif()
    exif[0x0112] = 3
    for name in ("0000.png", "0001.png"):
        Image.open(root / "images" / name).save(root / "images" / name, exif=exif)
    pages = [Image.new("L", (30, 20), value) for value in (10, 20)]
    pages[0].save(root / "images" / "a.tif", save_all=True, append_images=pages[1:])
    report = check_source(root)
    assert report.problems == []
    assert report.notes == [
        f"{root}: images of several pages, of which the first is read: 1",
        f"{root}: images that their EXIF orientation turns; masks must be drawn on the turned images: 2",
    ]


@pytest.mark.parametrize(("values", "notes"), [((0, 255), 0), ((0, 1, 2), 0), ((0, 1, 255), 1)])
def test_that_255_is_a_class_is_noted(make_folder, values: tuple[int, ...], notes: int) -> None:
    root = make_folder(1, masks=True)
    columns = np.repeat(np.array(values, np.uint8), 30 // len(values))
    assert cv2.imwrite(str(root / "masks" / "0000.png"), np.tile(columns, (20, 1)))
    found = check_source(root).notes
    told = "255 in masks is a class like the others, unless it is ignored: --ignore 255"
    assert found == [f"{root}: {told}"] * notes
