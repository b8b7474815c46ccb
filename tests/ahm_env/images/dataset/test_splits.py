import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.dataset.loader import load_images
from ahm_env.images.dataset.splits import BEFORE, split_source

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def of_patients(count: int, patients: int, classes: int = 2) -> str:
    rows = [f"{index:04d},{'abc'[index % patients % classes]},P{index % patients}" for index in range(count)]
    return "\n".join(["image,label,patient", *rows]) + "\n"


def test_shares_are_met_and_each_patient_is_on_one_side(make_folder) -> None:
    root = make_folder(40, table=of_patients(40, 20))
    counts = split_source(str(root), SHARES)
    assert counts == {"train": 28, "val": 4, "test": 8}
    images = load_images(root, 8)  # which refuses a leak
    assert {name: len(images.split(name)) for name in SHARES} == counts
    leaks = [set(images.patients(images.split(name)).tolist()) for name in SHARES]
    assert len(set.union(*leaks)) == sum(map(len, leaks)) == 20


def test_stratified_by_label_every_split_has_its_share_of_each_class(make_folder) -> None:
    table = "image,label\n" + "".join(f"{index:04d},{'rare' if index % 5 == 0 else 'usual'}\n" for index in range(50))
    root = make_folder(50, table=table)
    split_source(str(root), {"train": 0.6, "val": 0.2, "test": 0.2}, stratify="label")
    images = load_images(root, 8)
    found = {name: Counter(images.labels(images.split(name)).tolist()) for name in SHARES}
    assert found == {"train": {0: 6, 1: 24}, "val": {0: 2, 1: 8}, "test": {0: 2, 1: 8}}


def test_a_seed_repeats_and_another_differs(make_folder) -> None:
    drawn = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        root = make_folder(30, name=name)
        split_source(str(root), SHARES, seed=seed)
        drawn.append((root / "labels.csv").read_text())
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0].startswith("image,split\n0000.png,")


def test_other_columns_and_the_separator_stay(make_folder) -> None:
    root = make_folder(4, table="Image;Age;Label\n0003;40;b\n0001.png;;a\n0002;7;a\n0000;1;b\n")
    split_source(str(root), {"train": 0.5, "val": 0, "test": 0.5})
    lines = (root / "labels.csv").read_text().splitlines()
    assert lines[0] == "image;age;label;split"
    assert [line.rpartition(";")[0] for line in lines[1:]] == ["0003;40;b", "0001.png;;a", "0002;7;a", "0000;1;b"]
    assert Counter(line.rpartition(";")[2] for line in lines[1:]) == {"train": 2, "test": 2}


def test_columns_stay_that_the_first_line_does_not_reach(make_folder) -> None:
    rows = ["a,0000", "b,0001,P1", "a,0002,P1", "b,0003,P2"]
    root = make_folder(4, table="\n".join(["label,image,patient", *rows]))
    split_source(str(root), {"train": 0.5, "val": 0, "test": 0.5})
    first, *lines = (root / "labels.csv").read_text().splitlines()
    assert first == "label,image,patient,split"
    assert [line.rpartition(",")[0] for line in lines] == ["a,0000,", *rows[1:]]


def test_splits_that_are_there_are_kept_unless_asked_for_and_the_table_before_is_never_lost(make_folder) -> None:
    before = "image,label,split\n0000,a,train\n0001,b,\n0002,a,\n"
    root = make_folder(3, table=before)
    with pytest.raises(SettingsError, match=r"labels.csv: has splits already; --again"):
        split_source(str(root), {"train": 0.7, "val": 0, "test": 0.3})
    assert (root / "labels.csv").read_text() == before
    split_source(str(root), {"train": 0.7, "val": 0, "test": 0.3}, again=True)
    assert (root / BEFORE).read_text() == before
    second = (root / "labels.csv").read_text()
    split_source(str(root), {"train": 0.7, "val": 0, "test": 0.3}, again=True)
    split_source(str(root), {"train": 0.7, "val": 0, "test": 0.3}, again=True)
    assert (root / BEFORE).read_text() == before
    assert (root / "labels.before-2.csv").read_text() == second
    assert (root / "labels.before-3.csv").exists()
    assert (root / "labels.csv").read_text() != before


def test_a_leaking_table_can_be_split_anew(make_folder) -> None:
    table = "image,split,patient\n" + "".join(f"{i:04d},{'train' if i % 2 else 'test'},P{i // 4}\n" for i in range(16))
    root = make_folder(16, table=table)
    with pytest.raises(ImageError, match="ahm data split"):
        load_images(root, 8)
    split_source(str(root), {"train": 0.5, "val": 0, "test": 0.5}, again=True)
    assert len(load_images(root, 8).split("train")) == 8


def test_names_without_an_ending_that_begin_alike_keep_their_own_splits(make_folder) -> None:
    """`0003.b` must not be taken for `0003` with an ending."""
    root = make_folder(8)
    for number in range(4, 8):
        (root / "images" / f"{number:04d}.png").rename(root / "images" / f"{number - 4:04d}.b.png")
    names = [f"{number:04d}{ending}" for number in range(4) for ending in ("", ".b")]
    (root / "labels.csv").write_text("image,patient\n" + "".join(f"{name},{name}\n" for name in names))
    counts = split_source(str(root), {"train": 0.5, "val": 0.25, "test": 0.25})
    images = load_images(root, 8)
    assert {name: len(images.split(name)) for name in counts} == counts == {"train": 4, "val": 2, "test": 2}


@pytest.mark.parametrize(
    "shares",
    [{"train": 0.7, "val": 0.1, "test": 0.1}, {"train": 1.2, "val": -0.2, "test": 0}, {"train": np.nan, "val": 0}],
)
def test_shares_must_add_up(make_folder, shares: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="add up to 1"):
        split_source(str(make_folder(3)), shares)


def test_no_patient_left_for_a_share_is_an_error(make_folder) -> None:
    root = make_folder(4, table="image,patient\n0000,P1\n0001,P2\n0002,P2\n0003,P2\n")
    with pytest.raises(SettingsError, match=r"too few patients \(2\), .* 0.25 of them in test"):
        split_source(str(root), {"train": 0.75, "val": 0, "test": 0.25})


def test_too_few_patients_for_a_share_are_an_error(make_folder) -> None:
    root = make_folder(10, table=of_patients(10, 2))
    with pytest.raises(SettingsError, match=r"too few patients \(2\), .*--val 0"):
        split_source(str(root), SHARES)
    assert "split" not in (root / "labels.csv").read_text()


def test_what_has_no_table_is_refused() -> None:
    with pytest.raises(SettingsError, match="phantom has splits of its own"):
        split_source("phantom:10", SHARES)


def test_without_labels_nothing_is_stratified(make_folder) -> None:
    with pytest.raises(SettingsError, match=r"--stratify label: .* has no labels"):
        split_source(str(make_folder(10)), SHARES, stratify="label")


def test_an_unknown_way_to_stratify_is_refused(make_folder) -> None:
    with pytest.raises(SettingsError, match="--stratify age"):
        split_source(str(make_folder(3)), SHARES, stratify="age")


def test_no_image_is_opened(make_folder) -> None:
    root = make_folder(10)
    for path in (root / "images").iterdir():
        path.write_bytes(b"no image")
    assert split_source(str(root), {"train": 0.5, "val": 0, "test": 0.5}) == {"train": 5, "test": 5}


def test_volumes_are_split_whole_and_counted_by_their_slices(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    slices = {"a": 6, "b": 2, "c": 4}
    for name, count in slices.items():
        nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, count), np.int16), np.eye(4)), tmp_path / f"{name}.nii.gz")
    counts = split_source(str(tmp_path), {"train": 0.5, "val": 0, "test": 0.5})
    lines = [line.split(",") for line in (tmp_path / "labels.csv").read_text().splitlines()[1:]]
    assert sorted(name for name, _ in lines) == [f"{name}.nii.gz" for name in slices]
    assert counts == {side: sum(slices[name[0]] for name, split in lines if split == side) for side in counts}
    assert len(counts) == 2


def test_lines_that_name_files_as_windows_does_get_splits(tmp_path: Path, make_dicom) -> None:
    for name in "abcd":
        make_dicom(tmp_path / "images" / name / "1.dcm", np.eye(4, dtype=np.uint8))
    table = tmp_path / "labels.csv"
    table.write_text("image,patient\n" + "".join(f"{name}\\1.dcm,{name}\n" for name in "abcd"))
    split_source(str(tmp_path), {"train": 0.5, "val": 0, "test": 0.5})
    assert Counter(line.rpartition(",")[2] for line in table.read_text().splitlines()[1:]) == {"train": 2, "test": 2}


def test_a_table_that_is_not_in_utf8_is_refused(make_folder) -> None:
    root = make_folder(2)
    (root / "labels.csv").write_bytes("image,label\n0000,b\u00f6sartig\n0001,gutartig\n".encode("cp1252"))
    with pytest.raises(ImageError, match=r"labels\.csv: not a CSV file in UTF-8 \(.*; save it as `CSV UTF-8`$"):
        split_source(str(root), {"train": 0.5, "val": 0, "test": 0.5})


def test_an_image_without_a_line_stops_it_unless_it_may_be_left_out(make_folder) -> None:
    root = make_folder(4, table="image,label\n0000,a\n0001,b\n0002,a\n")
    with pytest.raises(ImageError, match=r"0003\.png: not in .*labels\.csv; .*--skip-bad"):
        split_source(str(root), {"train": 0.5, "val": 0, "test": 0.5})
    assert sum(split_source(str(root), {"train": 0.5, "val": 0, "test": 0.5}, skip_bad=True).values()) == 3


def test_a_name_that_is_not_utf_8_is_refused_before_a_table_is_written_or_left_out(make_folder) -> None:
    root = make_folder(4)
    path = root / "images" / "0000.png"
    path.rename(path.with_name(os.fsdecode(b"M\xfcller.png")))
    with pytest.raises(ImageError, match="its name is not UTF-8"):
        split_source(str(root), {"train": 0.5, "test": 0.5})
    assert not (root / "labels.csv").exists()
    assert split_source(str(root), {"train": 0.5, "test": 0.5}, skip_bad=True).total() == 3
    assert "0000" not in (root / "labels.csv").read_text()


def test_a_volume_or_dicom_file_whose_name_is_not_utf_8_is_refused_by_its_pseudonym(tmp_path, make_dicom) -> None:
    nibabel = pytest.importorskip("nibabel")
    name = os.fsdecode(b"M\xfcller")
    (tmp_path / "volumes").mkdir()
    for number, one in enumerate((name, "x", "y")):
        pixels = np.arange(24, dtype=np.int16).reshape(4, 6) + number
        make_dicom(tmp_path / "tree" / one / "1.dcm", pixels, PatientID=one[-1])
        nibabel.save(nibabel.Nifti1Image(pixels[..., None], np.eye(4)), tmp_path / "volumes" / "z.nii")
        (tmp_path / "volumes" / "z.nii").rename(tmp_path / "volumes" / f"{one}.nii")
    for folder in ("tree", "volumes"):
        with pytest.raises(ImageError, match=r"its name is not UTF-8.*\(`ahm data find .*\), or leave") as caught:
            split_source(str(tmp_path / folder), {"train": 0.5, "test": 0.5})
        assert "ller" not in str(caught.value)
        assert split_source(str(tmp_path / folder), {"train": 0.5, "test": 0.5}, skip_bad=True).total() == 2
