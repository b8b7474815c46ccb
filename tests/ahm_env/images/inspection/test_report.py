import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.inspection.report import SourceReport, check_images
from ahm_env.images.pixels.opencv import cv2

TABLE = "image,label,split\n0000,A,train\n0001,B,val\n0002,A,train\n0003,,test\n"


def test_a_good_folder_is_described(make_folder) -> None:
    root = make_folder(4, masks=True, table=TABLE)
    report = check_images(root)
    assert (report.source, report.kind, report.images) == (str(root), "folder", 4)
    assert report.sizes == {(30, 20): 4}
    assert report.channels == {3: 4}
    assert report.pixel_types == {"uint8": 4}
    assert (report.masks, report.empty_masks, report.mask_values) == (4, 0, (0, 255))
    assert report.classes == {"A": {"train": 2}, "B": {"val": 1}, "(no label)": {"test": 1}}
    assert report.splits == {"train": 2, "val": 1, "test": 1}
    assert report.problems == report.warnings == report.notes == []


def test_every_problem_is_listed_with_its_file(make_folder) -> None:
    root = make_folder(8, masks=True, table=TABLE + "0004,A,holdout\n0005,A,train\n0006,A,train\nzzz,A,train\n")
    (root / "images" / "0000.png").write_bytes(b"text")
    (root / "images" / "0001.png").write_bytes(b"")
    (root / "masks" / "0002.png").unlink()
    cv2.imwrite(str(root / "masks" / "0003.png"), np.zeros((3, 3), np.uint8))
    cv2.imwrite(str(root / "masks" / "orphan.png"), np.zeros((3, 3), np.uint8))
    cv2.imwrite(str(root / "masks" / "0005.png"), np.zeros((20, 30, 3), np.uint8) + np.arange(3, dtype=np.uint8))
    told: list[tuple[int, int]] = []
    report = check_images(root, progress=lambda done, total: told.append((done, total)))
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
    (problem,) = check_images(root).problems
    assert str(root) in problem


def test_depths_and_empty_masks_are_counted(make_folder) -> None:
    root = make_folder(3, masks=True)
    cv2.imwrite(str(root / "images" / "0000.png"), np.arange(600, dtype=np.uint16).reshape(20, 30))
    cv2.imwrite(str(root / "masks" / "0001.png"), np.zeros((20, 30), np.uint8))
    report = check_images(root)
    assert report.pixel_types == {"uint16": 1, "uint8": 2}
    assert report.channels == {1: 1, 3: 2}
    assert (report.masks, report.empty_masks) == (3, 1)


def test_phantoms_and_npz_files_are_described(tmp_path: Path) -> None:
    phantoms = check_images("phantom:20")
    assert (phantoms.kind, phantoms.images, phantoms.masks) == ("phantom", 20, 20)
    assert phantoms.splits == {"train": 16, "val": 2, "test": 2}
    np.savez(tmp_path / "a.npz", val_images=np.zeros((3, 9, 8), np.float32), val_labels=np.zeros((3, 4), int))
    report = check_images(tmp_path / "a.npz")
    assert (report.kind, report.images, report.sizes) == ("npz", 3, {(8, 9): 3})
    assert len(report.notes) == 1


def test_a_truncated_npz_is_a_problem(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 64, 64), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train_images=noise)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[150_000] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    (problem,) = check_images(tmp_path / "a.npz").problems
    assert "a.npz: train_images: truncated, damaged" in problem


def test_what_is_no_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file or folder"):
        check_images(tmp_path / "gone")
    with pytest.raises(SettingsError, match="not phantom:COUNT:SEED"):
        check_images("phantom:x")


def test_what_is_turned_or_has_several_pages_is_counted(make_folder) -> None:
    root = make_folder(3)
    exif = Image.Exif()
    exif[0x0112] = 3
    for name in ("0000.png", "0001.png"):
        Image.open(root / "images" / name).save(root / "images" / name, exif=exif)
    pages = [Image.new("L", (30, 20), value) for value in (10, 20)]
    pages[0].save(root / "images" / "a.tif", save_all=True, append_images=pages[1:])
    report = check_images(root)
    assert report.problems == []
    found = {one.kind: one for one in report.warnings}
    assert (found["pages"].count, found["turned"].count) == (1, 2)
    several, turned = found["pages"].text, found["turned"].text
    assert several == f"{root}: images of several pages, of which the first is read: 1 (a.tif)"
    cause = "images that their EXIF orientation turns: 2 (0000.png, 0001.png)"
    assert turned == f"{root}: {cause}; masks must be drawn on the turned images"


@pytest.mark.parametrize(("values", "notes"), [((0, 255), 0), ((0, 1, 2), 0), ((0, 1, 255), 1)])
def test_that_255_is_a_class_is_noted(make_folder, values: tuple[int, ...], notes: int) -> None:
    root = make_folder(1, masks=True)
    columns = np.repeat(np.array(values, np.uint8), 30 // len(values))
    assert cv2.imwrite(str(root / "masks" / "0000.png"), np.tile(columns, (20, 1)))
    found = check_images(root).notes
    told = "255 in masks is a class like the others, unless it is ignored: --ignore 255"
    assert found == [f"{root}: {told}"] * notes


def kinds(root: Path) -> dict[str, int]:
    report = check_images(root)
    assert report.problems == []
    for one in report.warnings:
        assert one.text.startswith(f"{root}")
        assert "; " in one.text
        assert "\n" not in one.text
    return {one.kind: one.count for one in report.warnings}


def write_masks(root: Path, *masks: np.ndarray) -> None:
    for number, mask in enumerate(masks):
        assert cv2.imwrite(str(root / "masks" / f"{number:04d}.png"), mask.astype(np.uint8))


@pytest.mark.parametrize("value", [0, 1])
def test_masks_of_one_class_only_are_warned_of(make_folder, value: int) -> None:
    root = make_folder(2, masks=True)
    assert kinds(root) == {}
    write_masks(root, *[np.full((20, 30), value)] * 2)
    assert kinds(root) == {"one-class": 2}
    write_masks(root, np.eye(20, 30))
    assert kinds(root) == {}


def test_a_class_in_hardly_any_pixel_is_warned_of(make_folder) -> None:
    root = make_folder(40, masks=True)
    mask = np.eye(20, 30)
    write_masks(root, *[mask] * 40)
    mask[3, 4:6] = 2
    write_masks(root, mask)  # 2 of 24,000 pixels
    (warning,) = check_images(root).warnings
    assert "classes in hardly any of the 24,000 pixels of 40 masks: 1 (2: 2 in 1 masks); take" in warning.text
    mask[3, 4:8] = 2
    write_masks(root, mask)
    assert kinds(root) == {}


def test_images_of_nearly_one_colour_are_warned_of(make_folder) -> None:
    root = make_folder(3)
    noise = np.random.default_rng(0).normal(128, 2, (20, 30, 3))
    for name, image in (("flat.png", noise), ("black.png", np.zeros((20, 30))), ("line.png", np.eye(20, 30) * 255)):
        assert cv2.imwrite(str(root / "images" / name), image.astype(np.uint8))
    few, plain = check_images(root).warnings
    assert (plain.kind, plain.images) == ("plain", ("black.png", "flat.png"))
    assert (few.kind, few.images) == ("few-shades", ("line.png",))  # it may be a mask
    assert "images of 8 grey levels or fewer, as masks have: 1 (line.png); look at them" in few.text
    assert plain.text.startswith(f"{root}: images of nearly one colour: 2 (black.png, flat.png); ")


def test_copies_and_names_alike_are_warned_of(make_folder) -> None:
    root = make_folder(4, table="image,split\n0000,train\n0001,train\n0002,test\n0003,val\na,test\nA,test\n")
    for name in ("a", "A"):
        (root / "images" / f"{name}.png").write_bytes((root / "images" / "0000.png").read_bytes())
    image = cv2.GaussianBlur(cv2.imread(str(root / "images" / "0001.png")), (0, 0), 2)
    assert cv2.imwrite(str(root / "images" / "0001.png"), image)
    assert cv2.imwrite(str(root / "images" / "0003.png"), cv2.resize(image, (60, 40)))
    assert kinds(root) == {"names": 1, "same-in-splits": 2, "near-in-splits": 1, "same": 1}


def test_a_report_is_json(make_folder) -> None:
    root = make_folder(4, masks=True, table=TABLE)
    write_masks(root, *[np.zeros((20, 30))] * 4)
    (root / "images" / "0003.png").write_bytes(b"text")
    report = check_images(root)
    found = json.loads(json.dumps(report.as_dict()))
    names = {field.name for field in fields(SourceReport)} - {"mask_pixels", "mask_images"}
    assert set(found) == names | {"mask_values"}
    assert found["sizes"] == [{"width": 30, "height": 20, "images": 3}]
    assert found["channels"] == [{"channels": 3, "images": 3}]
    assert found["mask_values"] == [{"value": 0, "pixels": 1800, "masks": 3}]
    assert found["classes"] == {"A": {"train": 2}, "B": {"val": 1}}
    (warning,) = found["warnings"]
    assert warning == {"kind": "one-class", "text": report.warnings[0].text, "count": 3, "images": []}
    assert found["problems"] == report.problems
