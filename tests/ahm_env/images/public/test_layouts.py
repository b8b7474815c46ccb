"""Sets as they are downloaded, made small on the spot: `check` names the command, and the command works."""

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.dataset.loader import load_images
from ahm_env.images.formats.pictures.picture import read_mask
from ahm_env.images.inspection.report import check_images
from ahm_env.images.layouts.layout import find_layout, named_split
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.public.importer import import_data

ROWS, COLUMNS = 12, 16


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def picture(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(1, 256, (ROWS, COLUMNS, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)


def mask(path: Path, number: int = 0, value: int = 255, row: int = 0) -> None:
    """A mask of as many pixels as the number of its image, and one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.zeros((ROWS, COLUMNS), np.uint8)
    drawn[row, : number + 1] = value
    assert cv2.imwrite(str(path), drawn)


def volume(path: Path, number: int = 0, drawn: bool = False) -> None:
    nibabel = pytest.importorskip("nibabel")
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(1, 200, (8, 7, 3)).astype(np.int16)
    if drawn:
        values = np.zeros((8, 7, 3), np.uint8)
        values[0, : number + 1] = 1
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


def beside(root: Path) -> None:
    for number in range(3):
        picture(root / f"benign ({number}).png", number)
        mask(root / f"benign ({number})_mask.png", number)
    mask(root / "benign (2)_mask_1.png", 0, row=5)


def superpixels(root: Path) -> None:
    for number in range(3):
        picture(root / f"ISIC_000000{number}.jpg", number)
        picture(root / f"ISIC_000000{number}_superpixels.png", number)
        mask(root / f"ISIC_000000{number}_segmentation.png", number)


def isic2017(root: Path) -> None:
    for number, part in enumerate(("Training", "Validation", "Test_v2")):
        name = f"ISIC_000000{number}"
        picture(root / f"ISIC-2017_{part}_Data" / f"{name}.jpg", number)
        picture(root / f"ISIC-2017_{part}_Data" / f"{name}_superpixels.png", number)
        mask(root / f"ISIC-2017_{part}_Part1_GroundTruth" / f"{name}_segmentation.png", number)


def patients(root: Path) -> None:
    """Of patients whose codes look like words."""
    for number, patient in enumerate(("TCGA_GT_0123", "BraTS_7", "P3")):
        picture(root / "all" / patient / "1.tif", number)
        mask(root / "all" / patient / "1_mask.tif", number)


def labels(root: Path) -> None:
    for number in range(3):
        picture(root / "images" / f"{number}.png", number)
        mask(root / "labels" / f"{number}.png", number, 1)


def annotations(root: Path) -> None:
    for number in range(3):
        picture(root / "images" / f"{number}.jpg", number)
        mask(root / "annotations" / f"{number}_gt.png", number, 2)


def splits_outside(root: Path) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        picture(root / split / "images" / "same.png", number)
        mask(root / split / "masks" / "same.png", number)


def splits_inside(root: Path) -> None:
    for number, split in enumerate(("training", "val", "Test")):
        picture(root / "img" / split / f"{number}.png", number)
        mask(root / "ground_truth" / split / f"{number}.png", number)


def splits_in_names(root: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        picture(root / f"{split}_images" / f"{number}.png", number)
        mask(root / f"{split}_gt" / f"{number}.png", number)


def one_folder_of_masks(root: Path) -> None:
    """Masks of all splits together."""
    for number, split in enumerate(("train", "val", "test")):
        picture(root / "images" / split / f"{number}.png", number)
        mask(root / "masks" / f"{number}.png", number)


def words_of_their_own(root: Path) -> None:
    """Each image is called as an image, each mask as a mask."""
    for number, (word, drawn) in enumerate((("img_a{}", "mask_a{}"), ("{}b_img", "{}b_masks"), ("{} c", "{} c.Seg"))):
        picture(root / f"{word.format(number)}.png", number)
        mask(root / f"{drawn.format(number)}.png", number)


def endings(root: Path) -> None:
    for number, ending in enumerate(("_anno", "Mask", " (label 1)")):
        picture(root / f"x{number}.bmp", number)
        mask(root / f"x{number}{ending}.bmp", number)


def brats_slices(root: Path) -> None:
    for number in range(3):
        for scan in ("flair", "t1", "t1ce"):
            picture(root / f"BraTS20_00{number}_{scan}.png", number)
        mask(root / f"BraTS20_00{number}_seg.png", number)


PICTURES = [beside, superpixels, isic2017, patients, labels, annotations]
PICTURES += [splits_outside, splits_inside, splits_in_names, one_folder_of_masks]
PICTURES += [words_of_their_own, endings, brats_slices]


@pytest.mark.parametrize("make", PICTURES)
@pytest.mark.parametrize("name", ["set", "the set (1)"])
def test_pictures_are_imported_by_the_command_that_the_check_names(
    call: Callable[..., tuple[int, str, str]], make: Callable[[Path], None], name: str
) -> None:
    make(Path(name))
    (problem,) = check_images(name).problems
    words = shlex.split(problem.partition("`ahm ")[2].partition("`")[0])
    assert words[:4] == ["data", "import", "auto", name]
    with pytest.raises(ImageError, match="ahm data import auto"):
        load_images(name)
    assert call(*words)[0] == 0
    out = words[-1]
    report = check_images(out)
    assert (report.images, report.masks, report.problems) == (3, 3, [])
    images = load_images(out, COLUMNS)
    order = [named(one, out) for one in images.names]
    assert sorted(order) == [0, 1, 2]
    splits = ["train", "val", "test"] if make in (*PICTURES[6:10], isic2017) else ["train"] * 3
    for index, number in enumerate(order):
        stem = Path(images.names[index]).stem
        (path,) = Path(out, "masks").glob(stem.replace("(", "[(]") + ".*")
        assert np.count_nonzero(read_mask(path)) == number + 1 + (make is beside and number == 2)
        assert index in images.split(splits[number])


def named(name: str, out: str) -> int:
    """The number of an image, by its pixels."""
    found = cv2.imread(str(Path(out, "images", name)))
    made = [np.random.default_rng(number).integers(1, 256, (ROWS, COLUMNS, 3), np.uint8) for number in range(3)]
    return int(np.argmin([np.abs(found.astype(int) - one).mean() for one in made]))  # a JPEG is not exact


def brats(root: Path) -> None:
    for number in range(3):
        patient = f"BraTS2021_0000{number}"
        for scan in ("flair", "t1", "t1ce", "t2"):
            volume(root / patient / f"{patient}_{scan}.nii.gz", number)
        volume(root / patient / f"{patient}_seg.nii.gz", number, drawn=True)


def nnunet(root: Path) -> None:
    for number in range(3):
        for scan in range(2):
            volume(root / "imagesTr" / f"la_00{number}_000{scan}.nii.gz", number)
        volume(root / "labelsTr" / f"la_00{number}.nii.gz", number, drawn=True)
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "left atrium": 1, "ignore": 2}}
    (root / "dataset.json").write_text(json.dumps(about))


def decathlon(root: Path) -> None:
    for number in range(3):
        volume(root / "imagesTr" / f"la_00{number}.nii.gz", number)
        volume(root / "labelsTr" / f"la_00{number}.nii.gz", number, drawn=True)
    (root / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "left atrium"}}))


def volume_labels(root: Path) -> None:
    for number in range(3):
        volume(root / "images" / f"{number}.nii", number)
        volume(root / "labels" / f"{number}.nii", number, drawn=True)


def volumes_beside(root: Path) -> None:
    for number in range(3):
        volume(root / f"{number}.nii.gz", number)
        volume(root / f"{number}-seg.nii.gz", number, drawn=True)


def lits(root: Path) -> None:
    for number in range(3):
        volume(root / f"volume-{number}.nii", number)
        volume(root / f"segmentation-{number}.nii", number, drawn=True)


def kits(root: Path) -> None:
    for number in range(3):
        volume(root / f"case_0000{number}" / "imaging.nii.gz", number)
        volume(root / f"case_0000{number}" / "segmentation.nii.gz", number, drawn=True)


@pytest.mark.parametrize("make", [brats, nnunet, decathlon, volume_labels, volumes_beside, lits, kits])
def test_volumes_are_imported_by_the_command_that_the_check_names(
    call: Callable[..., tuple[int, str, str]], make: Callable[[Path], None]
) -> None:
    make(Path("set"))
    (problem,) = check_images("set").problems
    words = shlex.split(problem.partition("`ahm ")[2].partition("`")[0])
    assert words == ["data", "import", "auto", "set", "--out", "set-imported"]
    status, told, _ = call(*words)
    assert status == 0
    report = check_images("set-imported")
    assert (report.images, report.masks, report.problems, report.splits) == (9, 9, [], {"train": 9})
    for number in range(3):
        (image,) = Path("set-imported/images").glob(f"*{number}.nii*")
        drawn = Path("set-imported/masks") / image.name
        for path, is_mask in ((image, False), (drawn, True)):
            volume(Path(f"expected-{is_mask}.nii"), number, is_mask)
            assert np.array_equal(values_of(path), values_of(Path(f"expected-{is_mask}.nii")))
    scans = {brats: "flair is taken; --scan takes another (t1, t1ce, t2)", nnunet: "0000 is taken"}
    assert scans.get(make, "imported") in told
    assert ("1 left atrium" in told) == (make in (nnunet, decathlon))
    assert ("--ignore 2" in told) == (make is nnunet)


def values_of(path: Path) -> np.ndarray:
    nibabel = pytest.importorskip("nibabel")
    return np.asarray(nibabel.load(path).dataobj)


def test_another_scan_may_be_taken_and_who_lacks_it_is_told() -> None:
    brats(Path("set"))
    Path("set/BraTS2021_00001/BraTS2021_00001_t2.nii.gz").unlink()
    made = import_data("auto", Path("set"), Path("out"), scan="t2")
    assert made.images == 2
    assert any(note.endswith("patients without the scan t2, who are left out: 1") for note in made.notes)
    with pytest.raises(SettingsError, match="--scan t3: set has flair, t1, t1ce, t2"):
        import_data("auto", Path("set"), Path("none"), scan="t3")
    assert not Path("none").exists()


def test_folders_are_patients_or_classes_where_that_is_said() -> None:
    for number in range(4):
        picture(Path("set") / "ab"[number % 2] / f"{number}.png", number)
        mask(Path("set") / "ab"[number % 2] / f"{number}_mask.png", number)
    made = import_data("auto", Path("set"), Path("none"))
    assert made.patients == 0
    assert "--folders patient, or --folders label" in made.notes[0]
    assert import_data("auto", Path("set"), Path("patients"), folders="patient").patients == 2
    assert dict(import_data("auto", Path("set"), Path("classes"), folders="label").classes) == {"a": 2, "b": 2}
    with pytest.raises(SettingsError, match="--folders sex is unknown"):
        import_data("auto", Path("set"), Path("other"), folders="sex")
    with pytest.raises(SettingsError, match="--folders and --scan are for"):
        import_data("busi", Path("set"), Path("other"), folders="label")


def test_a_table_of_labels_is_taken_along() -> None:
    beside(Path("set"))
    Path("set/labels.csv").write_text(
        "image,label,split,patient\nbenign (1).png,cyst,test,P1\nother.png,cyst,test,P2\n"
    )
    Path("set/2020.csv").write_text("image,patient\n")
    made = import_data("auto", Path("set"), Path("out"))
    assert any("lines of labels.csv that are about none of these images: 1" in note for note in made.notes)
    assert any("tables that are not read: 2020.csv; bring" in note for note in made.notes)
    assert (dict(made.classes), made.patients) == ({"cyst": 1}, 1)
    assert "benign (1).png,cyst,test,P1" in Path("out/labels.csv").read_text()


def test_a_table_that_is_a_link_out_of_the_folder_is_refused() -> None:
    beside(Path("set"))
    Path("secret.csv").write_text("image,patient\nbenign (1).png,Smith\n")
    Path("set/labels.csv").symlink_to("../secret.csv")
    with pytest.raises(ImageError, match=r"labels\.csv: is a link that leads out of the folder"):
        import_data("auto", Path("set"), Path("out"))


def test_a_line_of_labels_is_about_the_image_in_its_folder() -> None:
    for patient in ("P1", "P2"):
        picture(Path("set") / patient / "imaging.png")
        mask(Path("set") / patient / "segmentation.png")
    table = Path("set/labels.csv")
    table.write_text("image,label\nP1/imaging.png,cyst\nP2/imaging.png,tumour\n")
    import_data("auto", Path("set"), Path("out"))
    lines = Path("out/labels.csv").read_text().splitlines()[1:]
    assert sorted(line.split(",")[:2] for line in lines) == [["P1.png", "cyst"], ["P2.png", "tumour"]]
    for lines, cause in (
        ("imaging.png,cyst", "line 2 could be about several images"),
        ("P1/imaging.png,cyst\nP1,tumour", "line 3 is about an image that has another line"),
    ):
        table.write_text(f"image,label\n{lines}\n")
        with pytest.raises(ImageError, match=rf"labels\.csv: {cause}"):
            import_data("auto", Path("set"), Path("other"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["slice_1", "slice_2", "slice_mask_1", "slice_mask_2"], {"slice_1": [1], "slice_2": [1]}),
        (["P_img_1", "P_img_2", "P_mask_1", "P_mask_2"], {"P_img_1": [1], "P_img_2": [1]}),
        (["ct_1", "mr_1", "ct_mask_1", "mr_mask_1"], {"ct_1": [1], "mr_1": [1]}),
        (["cell 1", "cell 2", "cell mask 1", "cell mask 2"], {"cell 1": [1], "cell 2": [1]}),
        (["a (1)", "a (1)_mask", "a (1)_mask_1"], {"a (1)": [2]}),
        (["P1/a", "P1/a_mask_1", "P2/a_1"], {"a": [1], "a_1": []}),
        (["a", "a_1", "b", "a_mask", "a_mask_1", "b_mask_1"], {"a": [2], "a_1": [], "b": [1]}),
        (["a", "a_1", "b_1", "a_mask", "a_mask_1", "b_mask_1"], {"a": [1], "a_1": [1], "b_1": [1]}),
        (["images/a", "images/a_1", "masks/a_mask", "masks/a_1"], {"a": [1], "a_1": [1]}),
        (
            ["images/img_1", "images/img_2", "images/img_1_2", "masks/mask_1"],
            {"img_1": [1], "img_2": [], "img_1_2": []},
        ),
        ([*(f"scan_{number:04}" for number in range(20)), "scan_0003_mask"], {"scan_0003": [1]}),
    ],
)
def test_a_number_of_a_mask_is_that_of_its_image(names: list[str], expected: dict[str, list[int]]) -> None:
    for name in names:
        picture(Path("set") / f"{name}.png")
    found = find_layout(Path("set"))
    masks = {path.stem: [len(found.masks[key])] if key in found.masks else [] for key, path in found.images.items()}
    assert {stem: masks[stem] for stem in expected} == expected
    assert len(masks) == sum("mask" not in name for name in names)


@pytest.mark.parametrize(
    "names",
    [
        ["images/1", "images/2", "images/P3_4", "masks/1", "masks/2", "masks/4"],
        ["images/2", "images/10_1", "masks/2", "masks/1"],
        ["images/P1_01", "images/P1_02", "images/P2", "masks/P1", "masks/P2"],
        ["P1/images/1", "P1/masks/1", "P1/masks/2", "P2/images/1", "P2/images/2"],
        ["P1/images/raw/1", "P1/masks/1", "P1/masks/2", "P2/images/raw/1", "P2/images/raw/2"],
        ["images/1", "images/2", "images/P2/3", "masks/1", "masks/2", "masks/3"],
        ["train/images/1", "train/P1/images/2", "images/3", "train/masks/1", "train/masks/3"],
        ["train/P1/1", "train/P2/2", "3", "train/masks/1", "train/masks/2", "train/masks/3"],
        ["siteA/images/1", "siteB/masks/1"],
        ["siteA_images/1", "siteA_images/2", "siteB/masks/1"],
        ["images/siteA/1", "masks/siteB/1"],
    ],
)
def test_a_mask_whose_image_is_lacking_is_not_that_of_another(names: list[str]) -> None:
    for name in names:
        picture(Path("set") / f"{name}.png")
    with pytest.raises(ImageError, match="masks without an image: 1"):
        find_layout(Path("set"))


@pytest.mark.parametrize(
    "names",
    [
        ["scans/1", "lungMasks/1"],
        ["images/1", "masks/lesion/1"],
        ["xrays/siteA/1", "xrays/siteB/1_2", "lungMasks/siteA/1"],
        ["ISIC-2017_Training_Data/1", "ISIC-2017_Training_Part1_GroundTruth/1_segmentation"],
        ["400/Glaucoma/1", "Annotation-400/Disc_Cup_Masks/Glaucoma/1"],
    ],
)
def test_a_mask_in_folders_called_after_what_is_masked_has_its_image(names: list[str]) -> None:
    for name in names:
        picture(Path("set") / f"{name}.png")
    found = find_layout(Path("set"))
    assert {path.stem: len(found.masks.get(key, ())) for key, path in found.images.items()}["1"] == 1


@pytest.mark.parametrize(
    ("names", "example"),
    [
        (["a", "a_1", "a_mask", "a_mask_1", "a_1_mask"], "1, such as a_mask_1.png of a_1 or a;"),
        (["a", "a_1", "a_mask_1", "b", "b_mask_1", "c_1", "c_mask_1"], "1, such as a_mask_1.png of a_1 or a;"),
        (["images/train/a", "images/train/a_1", "masks/a_mask_1"], "1, such as masks/a_mask_1.png of train/a_1 or"),
        (["images/train/a", "images/val/a", "masks/a"], "1, such as masks/a.png of train/a or val/a; name each as"),
    ],
)
def test_a_mask_that_could_be_of_two_images_is_refused(names: list[str], example: str) -> None:
    for name in names:
        picture(Path("set") / f"{name}.png")
    with pytest.raises(ImageError, match=f"set: masks that could be of several images: {example}"):
        find_layout(Path("set"))


def test_a_mask_of_no_image_is_said_to_be_taken_for_one() -> None:
    for name in ("b_1", "b_2", "b_mask"):
        picture(Path("set") / f"{name}.png")
    found = find_layout(Path("set"))
    assert (len(found.images), dict(found.masks)) == (3, {})
    assert found.notes == ["set: called as masks are, but taken for images, since they have none: 1"]


def test_masks_drawn_by_hand_and_those_of_the_field_of_view_are_told_apart() -> None:
    for name in ("images/01_dr", "manual1/01_dr", "mask/01_dr_mask"):
        picture(Path("set") / f"{name}.png")
    with pytest.raises(ImageError, match=r"masks in several folders \(manual1, mask\)"):
        find_layout(Path("set"))


def test_an_image_with_a_mask_of_its_own_is_no_scan_of_another() -> None:
    for name in ("1", "1_2", "1_3"):
        picture(Path("set/images") / f"{name}.png")
        mask(Path("set/labels") / f"{name}.png")
    assert import_data("auto", Path("set"), Path("out")).images == 3
    Path("set/images/1.png").unlink()
    with pytest.raises(ImageError, match=r"masks without an image: 1, such as labels/1\.png"):
        import_data("auto", Path("set"), Path("other"))


def test_a_table_may_name_images_by_their_files_or_by_what_they_share_with_masks() -> None:
    brats_slices(Path("set"))
    Path("set/labels.csv").write_text("image,label\nBraTS20_000,low\nBraTS20_001_flair.png,high\n")
    made = import_data("auto", Path("set"), Path("out"))
    assert dict(made.classes) == {"low": 1, "high": 1}


def test_masks_of_several_numbers_are_not_united() -> None:
    beside(Path("set"))
    mask(Path("set/benign (2)_mask_1.png"), 0, value=3)
    with pytest.raises(ImageError, match=r"benign \(2\).png: its 2 masks .* several numbers; merge them"):
        import_data("auto", Path("set"), Path("out"))
    assert not Path("out").exists()


def test_what_is_incomplete_or_not_clear_is_refused() -> None:
    beside(Path("alone"))
    Path("alone/benign (0).png").rename("alone/malignant (0).png")
    labels(Path("apart"))
    mask(Path("apart/labels/7.png"))
    for root, name in (("alone", "benign (0)_mask.png"), ("apart", "labels/7.png")):
        with pytest.raises(ImageError) as caught:
            import_data("auto", Path(root), Path("out"))
        assert f"masks without an image: 1, such as {name}; the set is incomplete" in str(caught.value)
        assert str(caught.value) in check_images(root).problems[0]
    labels(Path("twice"))
    shutil.copytree("twice/labels", "twice/other_labels")
    with pytest.raises(ImageError, match=r"masks in several folders \(labels, other_labels\)"):
        import_data("auto", Path("twice"), Path("out"))
    labels(Path("rivals"))
    picture(Path("rivals/images/1.jpg"))
    with pytest.raises(ImageError, match=r"1.jpg and 1.png have one stem"):
        import_data("auto", Path("rivals"), Path("out"))


def test_what_is_no_mask_is_let_be() -> None:
    """Folders whose images have no masks elsewhere are read as before."""
    for number in range(3):
        picture(Path("set/images") / f"{number}.png", number)
    Path("set/annotations").mkdir()
    Path("set/annotations/0.xml").write_text("<box/>")
    Path("set/labels").mkdir()
    Path("set/labels/0.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert check_images("set").problems == []


@pytest.mark.parametrize(("folders", "split"), [
    (("imagesTr",), "train"), (("labelsTs",), "test"), (("BraTS2021",), ""), (("val2017",), "val"), (("TS",), ""),
    (("ISIC-2017_Validation_Data",), "val"), (("train", "test"), "test"), (("tests",), ""),
])  # fmt: skip
def test_splits_by_the_names_of_folders(folders: tuple[str, ...], split: str) -> None:
    assert named_split(folders) == split


@pytest.mark.parametrize(("name", "files"), [
    ("busi", {"benign/benign (1).png": 0, "benign/benign (1)_mask.png": 1}),
    ("lgg", {"kaggle_3m/TCGA_CS_4_1/TCGA_CS_4_1_1.tif": 0, "kaggle_3m/TCGA_CS_4_1/TCGA_CS_4_1_1_mask.tif": 1}),
    ("isic2018", {
        "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg": 0,
        "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png": 1,
        "ISIC2018_Task2_Training_GroundTruth_v3/ISIC_0000000_attribute_globules.png": 1,
    }),
])  # fmt: skip
def test_a_set_with_an_importer_of_its_own_is_known(
    call: Callable[..., tuple[int, str, str]], name: str, files: dict[str, int]
) -> None:
    for path, is_mask in files.items():
        (mask if is_mask else picture)(Path("set") / path)
    (problem,) = check_images("set").problems
    words = shlex.split(problem.partition("`ahm ")[2].partition("`")[0])
    assert words == ["data", "import", name, "set", "--out", "set-imported"]
    assert call(*words)[0] == 0
    assert (check_images("set-imported").masks, check_images("set-imported").problems) == (1, [])


def test_files_and_folders_of_volumes_are_not_named(tmp_path: Path) -> None:
    volume(tmp_path / "scans" / "images" / "x.nii.gz")
    link = tmp_path / "scans" / "labels" / "SMITH_JOHN.nii.gz"
    link.parent.mkdir()
    link.symlink_to("nowhere")
    with pytest.raises(ImageError, match="a file or folder in it is a link that leads out") as caught:
        load_images(tmp_path / "scans", 16)
    assert "SMITH" not in str(caught.value) + str(check_images(tmp_path / "scans").as_dict())


def test_a_name_that_no_table_can_hold_is_refused_before_anything_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"M\xfcller")
    for folder, stem in (("named", name), (f"placed/{name}", "a"), ("placed/x", "b")):
        Path(folder).mkdir(parents=True)
        picture(Path("a.png"))
        Path("a.png").rename(Path(folder) / f"{stem}.png")
    monkeypatch.setattr(shutil, "copyfile", None)
    for source, folders in (("named", None), ("placed", "patient")):
        with pytest.raises(ImageError, match="its name is not UTF-8"):
            import_data("auto", Path(source), Path("out"), folders=folders)
    volume(Path("volumes/a.nii"))
    Path("volumes/a.nii").rename(f"volumes/{name}.nii")
    with pytest.raises(ImageError, match="volumes: a volume': its name is not UTF-8"):
        import_data("auto", Path("volumes"), Path("out"))
