"""What `ahm data import`, `ahm data show` and `ahm data find` print and leave behind."""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.console import check_data, find_data, import_into, show_data
from ahm_env.images.pixels.opencv import cv2


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, train_images=np.zeros((3, 8, 8), np.uint8), **arrays)
    return path


def test_an_import_says_what_it_made_and_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = npz(
        tmp_path / "a.npz",
        train_labels=np.array([1, 0, 1]),
        test_images=np.zeros((1, 8, 8), np.uint8),
        test_labels=np.array([0]),
    )
    out = tmp_path / "my data"
    assert import_into("medmnist", source, out) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"imported     {out}: 4 images",
        "classes      1 2, 0 2",
        "splits       train 3, test 1",
        f"next         ahm data check '{out}'",
    ]


def test_without_splits_drawing_them_is_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    source = npz(tmp_path / "a.npz", train_label=np.ones((3, 8, 8), np.uint8))
    assert import_into("medsegbench", source, out) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"imported     {out}: 3 images with masks",
        f"next         ahm data check {out}; ahm data split {out}",
    ]


def test_lesions_on_two_sides_are_told_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "isic", tmp_path / "out"
    for number, part in enumerate(("Training", "Training", "Test")):
        (source / f"ISIC_2019_{part}_Input").mkdir(parents=True, exist_ok=True)
        path = source / f"ISIC_2019_{part}_Input" / f"ISIC_{number:07d}.jpg"
        cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    (source / "ISIC_2019_Training_Metadata.csv").write_text(
        "image,lesion_id\nISIC_0000000,A\nISIC_0000001,B\nISIC_0000002,B\n"
    )
    assert import_into("isic2018", source, out) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"imported     {out}: 3 images, 2 patients or lesions",
        "splits       train 2, test 1",
        "note: 1 patients or lesions have images in more than one split, which training refuses; draw splits anew",
        f"next         ahm data split {out} --again; ahm data check {out}",
    ]


@pytest.mark.slow
def test_a_picture_of_a_source_is_written_without_metadata(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deeper" / "sheet.PNG"
    assert show_data("phantom:9:1", out, count=4) == 0
    assert capsys.readouterr().out == f"picture      {out}: 4 of 9 images\n"
    picture = Image.open(out)
    assert picture.info == {}
    first = out.read_bytes()
    show_data("phantom:9:1", out, count=4)
    assert out.read_bytes() == first
    show_data("phantom:9:1", out, count=4, seed=1)
    assert out.read_bytes() != first
    assert [path.name for path in out.parent.iterdir()] == ["sheet.PNG"]


def test_a_file_that_is_no_picture_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    for name in ("labels.csv", "folder.png", "sheet", "sheet.jpg"):
        with pytest.raises(SettingsError, match=rf"--out .*{name} (must end|is a directory.* that ends) in .png"):
            show_data("phantom:3", tmp_path / name)
    assert (tmp_path / "labels.csv").read_text() == "mine"
    with pytest.raises(SettingsError, match="--count 0: too few"):
        show_data("phantom:3", tmp_path / "a.png", count=0)


@pytest.mark.parametrize("kind", ["nii", "dcm"])
def test_a_pseudonym_leads_back_to_its_file(
    tmp_path: Path, make_dicom, capfdbinary: pytest.CaptureFixture[bytes], kind: str
) -> None:
    files = [tmp_path / "scans" / f"{name}.{kind}" for name in ("a", "b, c", "d\udcfc")]
    for file in files:
        if kind == "dcm":
            make_dicom(file, np.zeros((4, 6), np.uint8))
        else:
            file.parent.mkdir(exist_ok=True)
            pytest.importorskip("nibabel").save(
                pytest.importorskip("nibabel").Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)),
                file,
            )
    scans = str(tmp_path / "scans")
    assert find_data(scans, None) == 0
    names = {row["file"]: row["name"] for row in csv.DictReader(os.fsdecode(capfdbinary.readouterr().out).splitlines())}
    assert set(names) == set(map(str, files))
    for shown in (names[str(files[2])], f"{names[str(files[2])]}_0003"):
        assert find_data(scans, shown) == 0
        assert os.fsdecode(capfdbinary.readouterr().out) == f"{files[2]}\n"
    with pytest.raises(SettingsError, match="scans: no file of name 0123456789 in it; give a name that was shown"):
        find_data(scans, "0123456789")


def test_images_with_names_of_their_own_have_no_pseudonyms(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="shown by their own names"):
        find_data("phantom:4", None)


def test_bad_images_stop_a_picture_unless_they_are_skipped(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((8, 8), np.uint8))
    (tmp_path / "2.png").write_bytes(b"not an image")
    out = tmp_path / "pictures" / "sheet.png"
    with pytest.raises(ImageError, match=r"2.png: not an image"):
        show_data(str(tmp_path), out)
    assert not out.parent.exists()
    assert show_data(str(tmp_path), out, skip_bad=True) == 0


def test_a_check_reads_as_training_would(tmp_path: Path, make_dicom, capsys: pytest.CaptureFixture[str]) -> None:
    make_dicom(tmp_path / "archive" / "a.dcm", np.eye(6, dtype=np.uint8))
    make_dicom(tmp_path / "archive" / "b.dcm", np.eye(6, dtype=np.uint8), BurnedInAnnotation="YES")
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)), tmp_path / "v.nii")

    def images(source: str, **options: object) -> int:
        assert check_data(str(tmp_path / source), **options) == 0
        return int(re.search(r"images +│ (\d+)", capsys.readouterr().out)[1])

    assert (images("archive"), images("archive", burned_in=True)) == (1, 2)
    assert [images("v.nii", axis=axis) for axis in ("sagittal", "coronal", "axial")] == [3, 4, 5]
    with pytest.raises(SettingsError, match="--window wide"):
        check_data("phantom:2", window="wide")


def test_of_many_problems_that_are_alike_a_few_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    for number in range(12):
        (tmp_path / "images" / f"{number:02}.png").write_bytes(b"text")
    for number in range(6):
        (tmp_path / "images" / f"empty{number}.png").touch()

    def problems(**options: bool) -> list[str]:
        assert check_data(str(tmp_path), **options) == 2
        out = capsys.readouterr().out
        assert "18 problems." in out
        return [line for line in out.splitlines() if line.startswith("problem: ")]

    few = problems()
    assert len(few) == 5 + 1 + 6
    assert sum("… and 7 more like it; --all lists them" in line for line in few) == 1
    assert len(problems(every=True)) == 18


def test_a_check_prints_warnings_whatever_the_names(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    folder = tmp_path / "d\udcff"
    folder.mkdir()
    for name in ("a", "b", "c\udcff"):
        (folder / f"{name}.png").write_bytes(cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes())
    assert check_data(str(folder)) == 2
    lines = os.fsdecode(capfdbinary.readouterr().out).splitlines()
    assert any(line.startswith(f"warning: {folder}: images of nearly one colour: 2 (a.png, b.png); ") for line in lines)
    assert any("c\\udcff.png': its name is not UTF-8" in line for line in lines)


def test_a_check_as_json_is_one_object_on_stdout(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.png").write_bytes(b"text")
    assert check_data(str(tmp_path), as_json=True) == 2
    out, err = capfd.readouterr()
    assert len(json.loads(out)["problems"]) == 12
    assert err == ""
    assert check_data("phantom:2", as_json=True) == 0
    assert json.loads(capfd.readouterr().out)["images"] == 2
