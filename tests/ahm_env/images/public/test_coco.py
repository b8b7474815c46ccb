"""Sets in COCO's format, made on the spot."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ahm_env.errors import ImageError
from ahm_env.images.formats.pictures.picture import read_mask
from ahm_env.images.inspection.report import check_images
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.public.importer import import_data

HEIGHT, WIDTH = 10, 14
CATEGORIES = [{"id": 3, "name": "tool"}, {"id": 7, "name": "polyp"}, {"id": 9, "name": "unused"}]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("outline", [
    [[]], [[1, 1, 2, 2, float("nan"), 3]], [[1, 1, 2, 2, 3]], 3, [3], {"counts": [HEIGHT * WIDTH]},
    {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}, {"size": [HEIGHT, WIDTH], "counts": [3]},
    {"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]}, {"size": [HEIGHT, WIDTH], "counts": "o" * 1000},
    {"size": [HEIGHT, WIDTH], "counts": [2**62, 2**62, 2**62, 2**62 + HEIGHT * WIDTH]},
])  # fmt: skip
def test_outlines_that_make_no_sense_are_one_error(outline: Any) -> None:
    picture(Path("set/a.png"))
    table(Path("set/instances.json"), ["a.png"], [{"image_id": 0, "category_id": 3, "segmentation": outline}])
    with pytest.raises(ImageError, match=r"instances.json: the outline of an instance of a.png cannot be read"):
        import_data("coco", Path("set"), Path("out"))
    assert not Path("out").exists()


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def table(path: Path, names: list[str], annotations: list[dict[str, Any]] | None = None) -> None:
    """A list of images: a polyp and a smaller tool on it in the first, nothing in the last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in enumerate(names)]
    if annotations is None:
        tool = {"image_id": 0, "category_id": 3, "segmentation": [[3, 3, 5, 3, 5, 5, 3, 5]]}
        outlines = [[2, 2, 8, 2, 8, 7, 2, 7]]
        polyps = [{"image_id": n, "category_id": 7, "segmentation": outlines} for n in range(len(names) - 1)]
        annotations = [tool, *polyps]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps(content))


def as_published(root: Path) -> None:
    for split in ("train", "val"):
        names = [f"{split}{number}.jpg" for number in range(3)]
        for name in names:
            picture(root / f"{split}2017" / name)
        table(root / "annotations" / f"instances_{split}2017.json", names)
    table(root / "annotations" / "person_keypoints_val2017.json", names)


def in_each_split(root: Path) -> None:
    for split in ("train", "valid"):
        names = [f"{number}.jpg" for number in range(3)]
        for name in names:
            picture(root / split / name)
        table(root / split / "_annotations.coco.json", names)


@pytest.mark.parametrize("make", [as_published, in_each_split])
def test_a_set_is_imported_by_the_command_that_the_check_names(
    call: Callable[..., tuple[int, str, str]], make: Callable[[Path], None]
) -> None:
    make(Path("set"))
    (problem,) = check_images("set").problems
    words = shlex.split(problem.partition("`ahm ")[2].partition("`")[0])
    assert words == ["data", "import", "coco", "set", "--out", "set-imported"]
    status, told, _ = call(*words)
    assert status == 0
    assert "classes in masks: 1 tool, 2 polyp, 3 unused" in told
    report = check_images("set-imported")
    assert (report.images, report.masks, report.empty_masks, report.problems) == (6, 6, 2, [])
    assert report.splits == {"train": 3, "val": 3}
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[2:7, 2:8] = 2
    found = [read_mask(path) for path in sorted(Path("set-imported/masks").iterdir())]
    assert np.array_equal(found[1], expected)
    expected[3:5, 3:5] = 1  # the smaller one is seen
    assert np.array_equal(found[0], expected)
    assert not found[2].any()


def test_a_flat_folder_with_a_list_is_told_of() -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(Path("set/images") / name)
    boxes = [{"image_id": 0, "category_id": 3, "bbox": [1, 1, 2, 2]}]
    table(Path("set/annotations.json"), ["images/a.png", "images/b.png"], boxes)
    (problem,) = check_images("set").problems
    assert "outlines in annotations.json; `ahm data import coco set" in problem
    made = import_data("coco", Path("set"), Path("out"))
    assert made.images == 2
    assert sorted(path.name for path in Path("out/masks").iterdir()) == ["b.png"]  # of a box, the mask is not known
    assert any("images with boxes only, which have no mask: 1" in note for note in made.notes)
    assert any("not listed, and are left out: 1" in note for note in made.notes)


def test_outlines_that_are_lines_are_left_out_and_counted() -> None:
    names = ["a.png", "b.png", "c.png"]
    for name in names:
        picture(Path("set") / name)
    square, line, point = [1, 1, 4, 1, 4, 4, 1, 4], [6, 6, 7, 6], [8, 8]
    outlines = [(0, [square, line]), (0, [line, point]), (1, [square]), (2, [line])]
    annotations = [{"image_id": one, "category_id": 3, "segmentation": some} for one, some in outlines]
    table(Path("set/list.json"), names, annotations)
    made = import_data("coco", Path("set"), Path("out"))
    assert "set: outlines of fewer than three points, which are left out: 4" in made.notes
    masks = {path.name: read_mask(path) for path in Path("out/masks").iterdir()}
    assert sorted(masks) == ["a.png", "b.png"]  # of the third, nothing of what is in it is known
    assert masks["b.png"].sum() == 9
    assert np.array_equal(masks["a.png"], masks["b.png"])


def test_an_image_that_exif_turns_is_refused_by_that_name() -> None:
    Path("set").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save("set/a.jpg", exif=exif)
    table(Path("set/list.json"), ["a.jpg"], [])
    cause = f"is {HEIGHT}x{WIDTH}, but {WIDTH}x{HEIGHT} in list.json: its EXIF orientation turns the image, not the"
    with pytest.raises(ImageError, match=f"a.jpg: {cause} outlines; take the orientation out of the image"):
        import_data("coco", Path("set"), Path("out"))


def test_images_that_would_have_one_name_are_refused() -> None:
    names = ["a_b/c.png", "a/b_c.png", "z/c.png"]
    for name in names:
        picture(Path("set") / name)
    table(Path("set/list.json"), names)
    with pytest.raises(ImageError, match=r"a/b_c\.png: has the same name as set/a_b/c\.png when they"):
        import_data("coco", Path("set"), Path("out"))
    Path("set/a_b").rename("set/ab")
    table(Path("set/list.json"), ["ab/c.png", *names[1:]])
    assert import_data("coco", Path("set"), Path("out")).images == len(list(Path("out/images").iterdir())) == 3


def test_lists_that_do_not_fit_are_refused() -> None:
    def refused(words: str) -> None:
        with pytest.raises(ImageError, match=words):
            import_data("coco", Path("set"), Path("out"))
        assert not Path("out").exists()

    picture(Path("set/a.png"))
    refused("no JSON file of images")
    path = Path("set/list.json")
    table(path, ["a.png", "b.png"])
    refused("its image b.png is not there")
    table(path, ["../set/a.png", "a.png"])
    refused("an image is listed twice")
    content = json.loads(path.read_text())
    content["images"] = [{"id": 0, "file_name": "a.png", "width": HEIGHT, "height": WIDTH}]
    path.write_text(json.dumps(content))
    refused(f"is {WIDTH}x{HEIGHT}, but {HEIGHT}x{WIDTH} in list.json")
    for text in ('{"images": 3, "annotations": [], "categories": []}', '"images" "annotations" "categories"',
                 '["images", "annotations", "categories"]', '{"images": [{}], "annotations": [], "categories": []}',
                 '{"images": [{"id": [], "file_name": "a.png"}], "annotations": [], "categories": []}',
                 '"images" "annotations" "categories"' + "[" * 100_000):  # fmt: skip
        path.write_text(text)
        refused("list.json: not in COCO's format")
    table(path, ["a.png"], [{"image_id": 0, "category_id": 8, "segmentation": []}])
    refused("uses categories that it does not list")
    table(path, ["a.png"], [{"image_id": "0", "category_id": 3, "segmentation": []}])
    refused("an instance is of an image that is not listed")
    content = json.loads(path.read_text()) | {"annotations": []}
    path.write_text(json.dumps(content | {"images": content["images"] * 2}))
    refused("two of its images have one id")
    path.write_text(json.dumps(content | {"categories": [*CATEGORIES, {"id": 3, "name": "other"}]}))
    refused("list.json: a category has two names, or two have one name")
    path.write_text(json.dumps(content | {"categories": [*CATEGORIES, {"id": 4, "name": "tool"}]}))
    refused("list.json: a category has two names, or two have one name")
    path.write_text(json.dumps(content | {"categories": [{"id": one, "name": str(one)} for one in range(256)]}))
    refused("list.json: 256 categories are listed, but masks hold 255 at most; take out those that are not used")
    path.write_text(json.dumps(content | {"categories": [{"id": 1, "name": "a"}, {"id": None, "name": "b"}]}))
    refused("list.json: not in COCO's format")


def listed(path: Path, categories: list[dict[str, Any]], used: list[int]) -> None:
    """A list of an image beside it, which has an instance of each of some categories, two pixels wide."""
    picture(path.with_suffix(".png"))
    outlines = [[2.0 * place, 0, 2 * place + 2, 0, 2 * place + 2, HEIGHT, 2 * place, HEIGHT] for place in range(7)]
    annotations = [
        {"image_id": 0, "category_id": one, "segmentation": [outlines[place]]} for place, one in enumerate(used)
    ]
    table(path, [path.with_suffix(".png").name], annotations)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"categories": categories}))


def drawn(out: str, name: str) -> list[int]:
    """Numbers of the instances of an image."""
    return list(read_mask(Path(out, "masks", name))[0, ::2])


def test_a_class_has_one_number_whichever_are_used() -> None:
    organs = [{"id": 3, "name": "tumour"}, {"id": 1, "name": "liver"}, {"id": 2, "name": "kidney"}]
    for name, used in (("all", [1, 2, 3]), ("some", [1, 3])):
        listed(Path(name, "a.json"), organs, used)
        made = import_data("coco", Path(name), Path(f"{name}-out"))
        assert made.notes == [f"{name}: classes in masks: 1 liver, 2 kidney, 3 tumour"]
    assert drawn("all-out", "a.png")[:4] == [1, 2, 3, 0]
    assert drawn("some-out", "a.png")[:3] == [1, 3, 0]


def test_a_class_has_one_number_in_several_files() -> None:
    listed(Path("set/train/a.json"), [{"id": 1, "name": "liver"}, {"id": 2, "name": "kidney"}], [1, 2])
    listed(Path("set/val/b.json"), [{"id": 1, "name": "kidney"}, {"id": 5, "name": "liver"}], [5, 1])
    made = import_data("coco", Path("set"), Path("out"))
    assert made.notes == ["set: classes in masks: 1 liver, 2 kidney"]
    assert drawn("out", "a.png") == drawn("out", "b.png") == [1, 2, 0, 0, 0, 0, 0]


def test_a_category_that_only_says_what_the_others_are_is_no_class() -> None:
    cells = [{"id": 0, "name": "cell", "supercategory": "none"}, {"id": 1, "name": "cell", "supercategory": "cell"}]
    listed(Path("one/a.json"), cells, [1])
    assert import_data("coco", Path("one"), Path("one-out")).notes == ["one: classes in masks: 1 cell"]
    kinds = [cells[0], *({"id": one, "name": f"kind {one}", "supercategory": "cell"} for one in (1, 2))]
    for used, first in (([2], []), ([0, 2], ["cell"])):
        listed(Path("two/a.json"), kinds, used)
        names = [*first, "kind 1", "kind 2"]
        classes = ", ".join(f"{number} {name}" for number, name in enumerate(names, 1))
        assert import_data("coco", Path("two"), Path(f"two-{len(used)}")).notes == [f"two: classes in masks: {classes}"]
        assert drawn(f"two-{len(used)}", "a.png")[len(used) - 1] == len(names)
