"""Public data sets, made small on the spot, come out as folders that are read back as they were."""

import csv
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.dataset.loader import load_images
from ahm_env.images.formats.pictures.picture import read_mask, read_picture
from ahm_env.images.inspection.report import check_images
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.public.importer import IMPORTERS, import_data

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8))


def mask(path: Path, columns: range = range(4), number: int = 255) -> None:
    """A mask that has so many columns of its 16 inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inside = np.isin(np.arange(16), list(columns))
    assert cv2.imwrite(str(path), np.tile(np.where(inside, number, 0).astype(np.uint8), (12, 1)))


def one_hot(path: Path, classes: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [["image", *CLASSES]]
    lines += [[name, *("1.0" if label == one else "0.0" for one in CLASSES)] for name, label in classes.items()]
    path.write_text("".join(",".join(line) + "\n" for line in lines))


def segmentation(root: Path, part: str, numbers: range) -> None:
    for number in numbers:
        picture(root / f"ISIC2018_Task1-2_{part}_Input" / f"ISIC_{number:07d}.jpg", number)
        mask(root / f"ISIC2018_Task1_{part}_GroundTruth" / f"ISIC_{number:07d}_segmentation.png", range(number + 1))


def isic(root: Path) -> Path:
    """Tasks 1 and 3 of ISIC 2018: three images to train, one for validation, one to test."""
    for part, numbers in (("Training", range(3)), ("Validation", range(3, 4)), ("Test", range(4, 5))):
        segmentation(root, part, numbers)
    inputs = root / "ISIC2018_Task1-2_Training_Input"
    (inputs / "LICENSE.txt").write_text("CC-0")
    mask(inputs / "ISIC_0000000_superpixels.png")
    mask(root / "ISIC2018_Task2_Training_GroundTruth_v3" / "ISIC_0000000_attribute_globules.png")
    for number in (0, 1, 7):
        picture(root / "ISIC2018_Task3_Training_Input" / f"ISIC_{number:07d}.jpg", number)
    truth = {"ISIC_0000000": "NV", "ISIC_0000001": "MEL", "ISIC_0000007": "NV"}
    one_hot(root / "ISIC2018_Task3_Training_GroundTruth" / "ISIC2018_Task3_Training_GroundTruth.csv", truth)
    (root / "ISIC2018_Task3_Training_LesionGroupings.csv").write_text(
        "image,lesion_id,diagnosis_confirm_type\nISIC_0000000,HAM_1,histopathology\nISIC_0000001,HAM_1,confocal\n"
        "ISIC_0000007,HAM_2,follow-up\n"
    )
    return root


def table(out: Path) -> list[dict[str, str]]:
    with (out / "labels.csv").open(newline="") as file:
        return sorted(csv.DictReader(file), key=lambda row: row["image"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_isic_comes_with_masks_classes_lesions_and_official_splits(tmp_path: Path) -> None:
    source, out = isic(tmp_path / "isic"), tmp_path / "out"
    seen: list[tuple[int, int]] = []
    made = import_data("isic2018", source, out, lambda done, count: seen.append((done, count)))
    assert (made.images, made.has_masks, made.patients, made.leaking) == (5, True, 1, 0)
    cause = "have no masks and are left out; import them from a folder of their own"
    assert made.notes == [f"{source}: 3 images of Task 3 and of 2019 {cause}"]
    assert seen == [(done, 5) for done in range(1, 6)]
    assert not check_images(out).problems
    images = load_images(out, 16)
    assert list(images.names) == [f"ISIC_{number:07d}.jpg" for number in range(5)]
    assert images.classes == ("MEL", "NV")
    assert images.labels(range(5)).tolist() == [1, 0, -1, -1, -1]
    assert [images.split(name).tolist() for name in ("train", "val", "test")] == [[0, 1, 2], [3], [4]]
    assert images.patients(range(5)).tolist() == [0, 0, 2, 3, 4]
    assert [int(one[8].sum()) for one in images.masks(range(5))] == [1, 2, 3, 4, 5]  # of 16 columns


def test_images_are_copied_byte_for_byte(tmp_path: Path) -> None:
    source, out = isic(tmp_path / "isic"), tmp_path / "out"
    import_data("isic2018", source, out)
    copied, own = (
        folder / "ISIC_0000002.jpg" for folder in (out / "images", source / "ISIC2018_Task1-2_Training_Input")
    )
    assert copied.read_bytes() == own.read_bytes()
    assert copied.stat().st_ino != own.stat().st_ino
    assert set(np.unique(read_mask(out / "masks" / "ISIC_0000002.png")).tolist()) == {0, 255}


def test_isic_task_3_alone_has_no_masks_and_its_one_split_is_none(tmp_path: Path) -> None:
    source, out = tmp_path / "isic", tmp_path / "out"
    for number in range(3):
        picture(source / "nested" / "ISIC2018_Task3_Training_Input" / f"ISIC_{number:07d}.jpg")
    one_hot(source / "ISIC2018_Task3_Training_GroundTruth.csv", {"ISIC_0000000": "DF", "ISIC_0000002": "NV"})
    made = import_data("isic2018", source, out)
    assert (made.has_masks, made.splits, dict(made.classes)) == (False, {}, {"DF": 1, "NV": 1})
    assert not (out / "masks").exists()
    assert [list(row.values()) for row in table(out)] == [
        ["ISIC_0000000.jpg", "DF"],
        ["ISIC_0000001.jpg", ""],
        ["ISIC_0000002.jpg", "NV"],
    ]
    assert load_images(out, 16).labels(range(3)).tolist() == [0, -1, 1]


def test_isic_2019_is_understood_too(tmp_path: Path) -> None:
    source, out = tmp_path / "isic", tmp_path / "out"
    for part, name in (("Training", "ISIC_0000002_downsampled"), ("Test", "ISIC_0000005")):
        picture(source / f"ISIC_2019_{part}_Input" / f"{name}.jpg")
    (source / "ISIC_2019_Training_GroundTruth.csv").write_text(
        "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\nISIC_0000002_downsampled,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0\n"
    )
    (source / "ISIC_2019_Test_GroundTruth.csv").write_text(
        "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK,score_weight\nISIC_0000005,0.0,0.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0,1.0\n"
    )
    (source / "ISIC_2019_Training_Metadata.csv").write_text(
        "image,age_approx,anatom_site_general,lesion_id,sex\nISIC_0000002_downsampled,55.0,anterior torso,MSK4_1,male\n"
    )
    import_data("isic2018", source, out)
    assert [list(row.values()) for row in table(out)] == [
        ["ISIC_0000002_downsampled.jpg", "SCC", "train", "MSK4_1"],
        ["ISIC_0000005.jpg", "AK", "test", ""],
    ]


def test_a_split_whose_masks_are_not_there_is_left_out_and_noted(tmp_path: Path) -> None:
    source = tmp_path / "isic"
    segmentation(source, "Training", range(2))
    picture(source / "ISIC2018_Task1-2_Test_Input" / "ISIC_0000009.jpg")
    made = import_data("isic2018", source, tmp_path / "out")
    assert made.images == 2
    assert made.notes == [f"{source}/ISIC2018_Task1-2_Test_Input: 1 images without masks are left out"]


def test_lesions_in_two_splits_are_counted_and_refused_when_loaded(tmp_path: Path) -> None:
    source, out = isic(tmp_path / "isic"), tmp_path / "out"
    with (source / "ISIC2018_Task3_Training_LesionGroupings.csv").open("a") as file:
        file.write("ISIC_0000004,HAM_1,histopathology\n")
    assert import_data("isic2018", source, out).leaking == 1
    with pytest.raises(ImageError, match="more than one split"):
        load_images(out, 16)


def busi(root: Path) -> Path:
    tumours = root / "Dataset_BUSI_with_GT"
    for label, number in (("benign", 1), ("benign", 12), ("malignant", 1), ("normal", 3)):
        picture(tumours / label / f"{label} ({number}).png", number)
        mask(tumours / label / f"{label} ({number})_mask.png", range(0 if label == "normal" else 4))
    mask(tumours / "benign" / "benign (12)_mask_1.png", range(8, 10))
    return root


def test_busi_has_classes_and_masks_are_united(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = import_data("busi", busi(tmp_path / "busi"), out)
    assert dict(made.classes) == {"benign": 2, "malignant": 1, "normal": 1}
    assert not check_images(out).problems
    images = load_images(out, 16)
    assert list(images.names) == ["benign_001.png", "benign_012.png", "malignant_001.png", "normal_003.png"]
    assert images.labels(range(4)).tolist() == [0, 0, 1, 2]
    assert [np.flatnonzero(one[8]).tolist() for one in images.masks(range(4))] == [
        [0, 1, 2, 3],
        [0, 1, 2, 3, 8, 9],
        [0, 1, 2, 3],
        [],
    ]
    assert table(out)[0] == {"image": "benign_001.png", "label": "benign"}


def test_the_folder_that_holds_the_classes_may_be_given_itself(tmp_path: Path) -> None:
    root = busi(tmp_path / "busi")
    assert import_data("busi", root / "Dataset_BUSI_with_GT", tmp_path / "out").images == 4


def lgg(root: Path) -> Path:
    for patient, slices in (("TCGA_CS_4941_19960909", 3), ("TCGA_DU_5849_19950405", 2)):
        for number in range(1, slices + 1):
            stem = root / "kaggle_3m" / patient / f"{patient}_{number}"
            picture(stem.with_suffix(".tif"), number)
            mask(stem.with_name(f"{stem.name}_mask.tif"), range(number - 1), number=1)
    (root / "kaggle_3m" / "data.csv").write_text("Patient,RNASeqCluster\nTCGA_CS_4941,2\n")
    return root


AS_DOWNLOADED = {"isic2018": isic, "busi": busi, "lgg": lgg}


def test_lgg_keeps_slices_of_a_patient_together(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = import_data("lgg", lgg(tmp_path / "lgg"), out)
    assert (made.images, made.patients, made.classes, made.splits) == (5, 2, {}, {})
    images = load_images(out, 16)
    assert images.patients(range(5)).tolist() == [0, 0, 0, 3, 3]
    assert [int(one[8].sum()) for one in images.masks(range(5))] == [0, 1, 2, 0, 1]
    assert names(out / "masks")[0] == "TCGA_CS_4941_19960909_1.png"
    assert read_mask(out / "masks" / "TCGA_CS_4941_19960909_2.png").max() == 255


@pytest.mark.parametrize("kind", ["medmnist", "medsegbench"])
def test_an_npz_file_comes_out_as_it_was(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"{split}_images": rng.integers(0, 256, (2, 8, 9, 3), np.uint8) for split in ("train", "val", "test")}
    if kind == "medmnist":
        arrays |= {f"{split}_labels": np.array([[3], [10]]) for split in ("train", "val", "test")}
    else:
        arrays |= {f"{split}_label": rng.integers(0, 3, (2, 8, 9), np.uint8) for split in ("train", "val", "test")}
    path, out = tmp_path / "set.npz", tmp_path / "out"
    np.savez(path, **arrays)
    made = import_data(kind, path, out)
    assert made.splits == {"train": 2, "val": 2, "test": 2}
    there, here = (load_images(source, 16) for source in (path, out))
    order = [list(here.names).index(f"{name}.png") for name in there.names]
    assert np.array_equal(here.images(order), there.images(range(6)))
    assert (here.classes, here.has_masks) == (there.classes, there.has_masks)
    assert np.array_equal(here.labels(order), there.labels(range(6)))
    if there.has_masks:
        assert np.array_equal(here.masks(order), there.masks(range(6)))


def test_other_integers_keep_their_values_and_their_scaling(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 200, (2, 8, 9))
    np.savez(tmp_path / "set.npz", train_images=values)
    import_data("medmnist", tmp_path / "set.npz", tmp_path / "out")
    stored = read_picture(tmp_path / "out" / "images" / "train_000001.png").pixels
    assert stored.dtype == np.uint16
    assert np.array_equal(stored, values[1])
    there, here = (load_images(tmp_path / name, 8) for name in ("set.npz", "out"))
    assert np.array_equal(here.images(range(2)), there.images(range(2)))


@pytest.mark.parametrize("value", [0.5, -1.0, 70000.0, np.nan])
def test_what_png_cannot_keep_is_refused_and_nothing_stays(tmp_path: Path, value: float) -> None:
    np.savez(tmp_path / "set.npz", train_images=np.full((2, 8, 9), value))
    with pytest.raises(ImageError, match=r"train_images\[0\] holds float64 that PNG cannot keep"):
        import_data("medmnist", tmp_path / "set.npz", tmp_path / "out")
    assert names(tmp_path) == ["set.npz"]


def package(monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
    """A package that downloads as `medmnist` does, from nowhere."""

    class Path_:  # noqa: N801 (a data set named path)
        size_flag = "_64"

        def __init__(self, split: str, download: bool, root: str) -> None:
            assert (split, download) == ("train", True)
            if fails:
                raise RuntimeError("Something went wrong\n when downloading!")
            np.savez(Path(root) / "pathmnist_64.npz", train_images=np.zeros((3, 8, 8), np.uint8))

    info, dataset = ModuleType("medmnist.info"), ModuleType("medmnist.dataset")
    vars(info)["INFO"] = {"pathmnist": {"python_class": "PathMNIST"}}
    vars(dataset)["PathMNIST"] = Path_
    for module in (ModuleType("medmnist"), info, dataset):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_a_name_downloads_by_its_own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(monkeypatch)
    made = import_data("medmnist:pathmnist", tmp_path / "downloads", tmp_path / "out")
    assert made.images == 3
    assert names(tmp_path / "downloads") == ["pathmnist_64.npz"]
    with pytest.raises(SettingsError, match="medmnist:other is unknown; choose one of: pathmnist"):
        import_data("medmnist:other", tmp_path / "downloads", tmp_path / "out2")


def test_a_download_that_fails_or_has_no_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(monkeypatch, fails=True)
    with pytest.raises(ImageError, match=r"\(Something went wrong when downloading!\); give the .npz file instead"):
        import_data("medmnist:pathmnist", tmp_path, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "medsegbench", None)
    with pytest.raises(SettingsError, match=r"needs the package medsegbench \(.*\): pip install medsegbench, or"):
        import_data("medsegbench:busi", tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["ham10000", "busi:benign", "", ":"])
def test_an_unknown_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="choose one of: auto, coco, isic2018, busi, lgg, medmnist, medsegbench"):
        import_data(name, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", sorted(IMPORTERS.keys() - {"auto", "coco"}))
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    source = tmp_path / "holiday"
    picture(source / "beach.png")
    with pytest.raises(ImageError, match=rf"{source}: .*(expected .*; found beach.png; |give the .npz file)"):
        import_data(name, source, tmp_path / "out")
    with pytest.raises(ImageError, match="no such file or folder"):
        import_data(name, tmp_path / "absent", tmp_path / "out")
    assert names(tmp_path) == ["holiday"]


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("isic2018", "ISIC2018_Task1_Training_GroundTruth/ISIC_0000001_segmentation.png"),
        ("isic2018", "ISIC2018_Task1-2_Test_Input/ISIC_0000004.jpg"),
        ("busi", "Dataset_BUSI_with_GT/normal/normal (3)_mask.png"),
        ("busi", "Dataset_BUSI_with_GT/benign/benign (1).png"),
        ("lgg", "kaggle_3m/TCGA_CS_4941_19960909/TCGA_CS_4941_19960909_2_mask.tif"),
    ],
)
def test_half_a_pair_is_refused(tmp_path: Path, name: str, gone: str) -> None:
    source = AS_DOWNLOADED[name](tmp_path / "data")
    (source / gone).unlink()
    with pytest.raises(ImageError, match=r": its (mask|image) is not there; the data set is incomplete"):
        import_data(name, source, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "linked"),
    [
        ("isic2018", "ISIC2018_Task1-2_Training_Input/ISIC_0000001.jpg"),
        ("isic2018", "ISIC2018_Task3_Training_LesionGroupings.csv"),
        ("isic2018", "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"),
        ("busi", "Dataset_BUSI_with_GT/benign/benign (1).png"),
        ("busi", "Dataset_BUSI_with_GT/benign/benign (1)_mask.png"),
        ("busi", "Dataset_BUSI_with_GT/benign"),
        ("busi", "Dataset_BUSI_with_GT"),
        ("lgg", "kaggle_3m/TCGA_CS_4941_19960909/TCGA_CS_4941_19960909_2.tif"),
        ("lgg", "kaggle_3m/TCGA_CS_4941_19960909"),
    ],
)
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, name: str, linked: str) -> None:
    source = AS_DOWNLOADED[name](tmp_path / "data")
    (source / linked).rename(tmp_path / "elsewhere")
    (source / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ImageError, match=f"{re.escape(linked)}: is a link that leads out of the folder"):
        import_data(name, source, tmp_path / "out")
    assert names(tmp_path) == ["data", "elsewhere"]


def test_the_given_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(busi(tmp_path / "busi"))
    assert import_data("busi", tmp_path / "link", tmp_path / "out").images == 4


def test_names_that_collide_or_hold_a_path_are_refused(tmp_path: Path) -> None:
    source = busi(tmp_path / "busi")
    for ending in (".png", "_mask.png"):
        picture(source / "Dataset_BUSI_with_GT" / "benign" / f"benign (01){ending}")
    with pytest.raises(ImageError, match=r"benign \(1\).png: has the same name as .*benign \(01\).png"):
        import_data("busi", source, tmp_path / "out")
    source = lgg(tmp_path / "lgg")
    for ending in (".tif", "_mask.tif"):
        picture(source / "kaggle_3m" / "TCGA_CS_4941_19960909" / f"TCGA\\a{ending}")
    with pytest.raises(ImageError, match="its name holds a path"):
        import_data("lgg", source, tmp_path / "out")


def test_a_name_that_no_table_can_hold_is_refused(tmp_path: Path) -> None:
    source = lgg(tmp_path / "lgg")
    (source / "kaggle_3m" / "TCGA_DU_5849_19950405").rename(source / "kaggle_3m" / "TCGA_AA\udcff")
    with pytest.raises(ImageError, match="its name is not UTF-8, or that of a folder"):
        import_data("lgg", source, tmp_path / "out")


def test_masks_of_one_image_must_have_one_size(tmp_path: Path) -> None:
    source = busi(tmp_path / "busi")
    cv2.imwrite(str(source / "Dataset_BUSI_with_GT" / "benign" / "benign (1)_mask_1.png"), np.zeros((3, 4), np.uint8))
    with pytest.raises(ImageError, match=r"benign \(1\)_mask_1.png: its size is not that of benign \(1\)_mask.png"):
        import_data("busi", source, tmp_path / "out")
    assert names(tmp_path) == ["busi"]


def test_a_table_that_marks_two_classes_is_refused(tmp_path: Path) -> None:
    source = isic(tmp_path / "isic")
    path = source / "ISIC2018_Task3_Training_GroundTruth" / "ISIC2018_Task3_Training_GroundTruth.csv"
    path.write_text("image,MEL,NV\nISIC_0000000,1.0,1.0\n")
    with pytest.raises(ImageError, match=f"{path}: line 2 marks MEL and NV"):
        import_data("isic2018", source, tmp_path / "out")


def test_what_is_there_is_never_touched(tmp_path: Path) -> None:
    source, out = busi(tmp_path / "busi"), tmp_path / "out"
    out.mkdir()
    (out / "work.txt").write_text("mine")
    with pytest.raises(SettingsError, match=f"{out}: is there already"):
        import_data("busi", source, out)
    with pytest.raises(SettingsError, match="is there already"):
        import_data("busi", source, out / "work.txt")
    assert (names(out), names(tmp_path)) == (["work.txt"], ["busi", "out"])
    (out / "work.txt").unlink()
    assert import_data("busi", source, out).images == 4
    assert names(out) == ["images", "labels.csv", "masks"]
    assert names(tmp_path) == ["busi", "out"]


def test_stopped_halfway_nothing_stays(tmp_path: Path) -> None:
    def stop(done: int, count: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_data("busi", busi(tmp_path / "busi"), tmp_path / "out", stop)
    assert names(tmp_path) == ["busi"]


def test_soft_edges_of_a_mask_are_cut_at_half(tmp_path: Path) -> None:
    source = busi(tmp_path / "busi")
    soft = np.tile(np.array([0, 100, 127, 128, 200, 255], np.uint8), (12, 1))
    cv2.imwrite(str(source / "Dataset_BUSI_with_GT" / "malignant" / "malignant (1)_mask.png"), soft)
    import_data("busi", source, tmp_path / "out")
    stored = read_mask(tmp_path / "out" / "masks" / "malignant_001.png")
    assert stored[0].tolist() == [0, 0, 0, 255, 255, 255]
