from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ahm_env.errors import ImageError
from ahm_env.images.formats.pictures.folder import Folder
from ahm_env.images.layouts.hints import import_hint
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.source import Sample
from tests.ahm_env.images.samples import outcomes

TABLE = "image,label,split\n" + "".join(f"{i:04d},{'AB'[i % 2]},{['train', 'val'][i // 3]}\n" for i in range(4))


def only_error(root: Path) -> str:
    (error,) = [sample for sample in outcomes(Folder(root)) if isinstance(sample, str)]
    assert "\n" not in error
    return error


def test_images_masks_and_labels_come_together(make_folder) -> None:
    root = make_folder(4, masks=True, table=TABLE)
    index = Folder(root).index()
    assert (index.count, index.classes, index.has_masks) == (4, ("A", "B"), True)
    assert index.problems == index.notes == []
    loaded = [load() for load in index.samples]
    assert [sample.name for sample in loaded] == ["0000.png", "0001.png", "0002.png", "0003.png"]
    assert [sample.label for sample in loaded] == [0, 1, 0, 1]
    assert [sample.split for sample in loaded] == [0, 0, 0, 1]
    assert [int((sample.mask > 0).sum()) for sample in loaded] == [200, 220, 240, 260]
    assert loaded[2].path == str(root / "images" / "0002.png")


def test_a_folder_of_images_alone_is_enough(make_folder, tmp_path: Path) -> None:
    (make_folder(3) / "images").rename(tmp_path / "flat")
    loaded = outcomes(Folder(tmp_path / "flat"))
    assert [(sample.name, sample.mask, sample.label, sample.split) for sample in loaded] == [
        (f"{i:04d}.png", None, -1, 0) for i in range(3)
    ]


def test_images_directly_in_the_folder_may_have_masks_and_a_table(make_folder) -> None:
    root = make_folder(4, masks=True, table=TABLE)
    for image in (root / "images").iterdir():
        image.rename(root / image.name)
    (root / "images").rmdir()
    index = Folder(root).index()
    assert (index.count, index.classes, index.has_masks, index.notes) == (4, ("A", "B"), True, [])


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=rf"{tmp_path}: no image directly in it"):
        Folder(tmp_path).index()


def test_an_empty_masks_folder_is_no_masks(make_folder) -> None:
    root = make_folder(2)
    (root / "masks").mkdir()
    assert not Folder(root).index().has_masks
    assert all(sample.mask is None for sample in outcomes(Folder(root)))


def test_a_mask_of_another_size_is_refused(make_folder) -> None:
    root = make_folder(3, masks=True)
    cv2.imwrite(str(root / "masks" / "0001.png"), np.zeros((12, 16), np.uint8))
    assert only_error(root) == f"{root}/images/0001.png: mask is 16x12 but image is 30x20; re-export one of them"


def test_an_image_without_a_mask_is_an_image_without_a_mask(make_folder) -> None:
    root = make_folder(3, masks=True)
    (root / "masks" / "0001.png").unlink()
    assert [sample.mask is None for sample in outcomes(Folder(root))] == [False, True, False]


def test_a_bad_image_says_so_though_the_table_lacks_it_too(make_folder) -> None:
    root = make_folder(3, table="image\n0000\n0002\n")
    (root / "images" / "0001.png").write_bytes(b"text")
    assert "not an image" in only_error(root)


def test_a_mask_without_its_image_is_a_problem(make_folder) -> None:
    root = make_folder(3, masks=True)
    (root / "images" / "0000.png").unlink()
    (problem,) = Folder(root).index().problems
    assert problem.startswith(f"{root}/masks/0000.png: mask without an image of that stem; ")


def test_a_line_without_its_image_is_a_problem(make_folder) -> None:
    root = make_folder(3, table=TABLE)
    (problem,) = Folder(root).index().problems
    assert problem.startswith(f"{root}/labels.csv: line 5 names '0003', which is not there; ")


def test_an_image_without_its_line_is_refused(make_folder) -> None:
    root = make_folder(5, table=TABLE)
    assert only_error(root).startswith(f"{root}/images/0004.png: not in {root}/labels.csv; ")


def test_two_images_of_one_stem_are_both_refused(make_folder) -> None:
    root = make_folder(2)
    cv2.imwrite(str(root / "images" / "0001.bmp"), np.zeros((4, 4), np.uint8))
    good, *bad = outcomes(Folder(root))
    assert good.name == "0000.png"
    assert [text.partition(";")[0] for text in bad] == [
        f"{root}/images/0001.{ending}: stem is not unique (0001.bmp, 0001.png)" for ending in ("bmp", "png")
    ]


def test_two_masks_of_one_stem_are_refused(make_folder) -> None:
    root = make_folder(2, masks=True)
    cv2.imwrite(str(root / "masks" / "0001.bmp"), np.zeros((20, 30), np.uint8))
    assert "more than one mask" in only_error(root)


def test_a_damaged_mask_is_named(make_folder) -> None:
    root = make_folder(2, masks=True)
    (root / "masks" / "0000.png").write_bytes(b"not a mask")
    assert only_error(root).startswith(f"{root}/masks/0000.png: not an image")


def test_hidden_files_are_ignored_and_others_noted(make_folder) -> None:
    root = make_folder(2)
    for name in (".DS_Store", "Thumbs.db", "a.dcm", "b.dcm"):
        (root / "images" / name).write_bytes(b"")
    index = Folder(root).index()
    assert index.count == 2
    (root / "masks").mkdir()
    (root / "masks" / "a.nii").write_bytes(b"")
    notes = [
        f"{root}/images: files of type '.dcm', which are not read: 2",
        f"{root}/masks: files of type '.nii', which are not read: 1",
    ]
    assert (index.notes, Folder(root).index().notes) == (notes[:1], notes)
    for name in ("images/more", "masks/.hidden", "masks/a", "masks/b"):
        (root / name).mkdir()
    folders = [note for note in Folder(root).index().notes if "folders" in note]
    assert folders == [
        f"{root}/{part}: folders in it, whose files are not read: {n}" for part, n in (("images", 1), ("masks", 2))
    ]


def test_the_fingerprint_follows_images_masks_and_table(make_folder) -> None:
    root = make_folder(2, masks=True, table=TABLE)
    seen = [Folder(root).fingerprint()]
    assert Folder(root).fingerprint() == seen[0]
    (root / "labels.csv").write_text(TABLE.replace("A", "C"))
    seen.append(Folder(root).fingerprint())
    (root / "masks" / "0000.png").write_bytes(b"")
    seen.append(Folder(root).fingerprint())
    (root / "masks" / "0000.png").rename(root / "images" / "0002.png")
    seen.append(Folder(root).fingerprint())
    assert len(set(seen)) == 4


@pytest.mark.parametrize("place", ["images/0001.png", "masks/0001.png"])
def test_a_link_that_leads_out_of_the_folder_is_refused_and_one_within_is_not(
    tmp_path: Path, make_folder, place: str
) -> None:
    root = make_folder(3, masks=True)
    (root / place).rename(root / "kept")
    (root / place).symlink_to(root / "kept")
    assert all(isinstance(sample, Sample) for sample in outcomes(Folder(root)))
    (root / "kept").rename(tmp_path / "elsewhere")
    (root / place).unlink()
    (root / place).symlink_to(tmp_path / "elsewhere")
    assert only_error(root).startswith(f"{root / place}: is a link that leads out of the folder")


def test_folders_that_are_links_are_followed(tmp_path: Path, make_folder) -> None:
    root = make_folder(2, masks=True)
    (tmp_path / "linked").mkdir()
    for name in ("images", "masks"):
        (tmp_path / "linked" / name).symlink_to(root / name)
    (root / "images" / "0002.png").symlink_to("0000.png")
    (root / "masks" / "0002.png").symlink_to(root / "masks" / "0000.png")
    assert len([sample for sample in outcomes(Folder(tmp_path / "linked")) if isinstance(sample, Sample)]) == 3


def test_a_table_that_is_a_link_out_of_the_folder_is_not_read(tmp_path: Path, make_folder) -> None:
    root = make_folder(2)
    (tmp_path / "secret.csv").write_text("image\nroot:x:0:0\n")
    (root / "labels.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(ImageError, match="is a link that leads out of the folder") as caught:
        Folder(root).index()
    assert "root:x" not in str(caught.value)


@pytest.mark.parametrize(
    "ending", ["_mask", "_mask_1", "_seg", "_segmentation", "_superpixels", "_label", "-Mask", " mask"]
)
def test_masks_among_images_are_refused_with_the_remedy(make_folder, ending: str) -> None:
    root = make_folder(3)
    cv2.imwrite(str(root / "images" / f"0001{ending}.png"), np.zeros((20, 30), np.uint8))
    with pytest.raises(ImageError) as caught:
        Folder(root, hint=import_hint).index()
    text = str(caught.value)
    masks = "" if "superpixels" in ending else " and 1 mask among them"
    assert text.startswith(f"{root / 'images'}: 3 images{masks}; `ahm data import auto {root} --out ")
    assert "\n" not in text


def test_a_name_like_that_of_a_mask_is_one_beside_its_image_only(make_folder) -> None:
    root = make_folder(3)
    (root / "images" / "0001.png").rename(root / "images" / "scan_label_1.png")
    assert Folder(root).index().count == 3


def test_a_mask_of_another_name_is_to_be_renamed(make_folder) -> None:
    root = make_folder(3, masks=True)
    (root / "masks" / "0001.png").rename(root / "masks" / "0001_mask.png")
    (problem,) = Folder(root).index().problems
    assert problem == f"{root / 'masks' / '0001_mask.png'}: its name is not that of its image; rename it to 0001.png"


def test_a_mask_that_is_not_turned_as_its_image_is_told_why(make_folder) -> None:
    root = make_folder(1, masks=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(root / "images" / "0000.png").save(root / "images" / "0000.png", exif=exif)
    cause = "mask is 30x20 but image is 20x30: its EXIF orientation turns the image, not the mask"
    assert f"{cause}; turn the mask alike, or take" in only_error(root)


def test_soft_edges_are_refused(make_folder) -> None:
    root = make_folder(1, masks=True)
    mask = cv2.imread(str(root / "masks" / "0000.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(root / "masks" / "0000.png"), cv2.GaussianBlur(mask, (0, 0), 2))
    assert "mask has soft edges" in only_error(root)


@pytest.mark.parametrize(("image", "mask"), [("Scan", "SCAN"), ("\u00e4", "a\u0308"), ("007", "7")])
def test_a_mask_that_is_spelt_otherwise_than_its_image_is_to_be_renamed(make_folder, image: str, mask: str) -> None:
    root = make_folder(2, masks=True)
    for folder, name in (("images", image), ("masks", mask)):
        (root / folder / "0000.png").rename(root / folder / f"{name}.png")
    (problem,) = Folder(root).index().problems
    assert problem.startswith(f"{root}/masks/{mask}.png: its name differs from that of its image in case")
    assert problem.endswith(f"; rename it to {image}.png")
