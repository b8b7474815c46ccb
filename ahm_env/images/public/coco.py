"""Sets in COCO's JSON format: the images that they list, and masks of their instances."""

import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from ahm_env.errors import ImageError
from ahm_env.images.formats.files import readable, refuse_link
from ahm_env.images.formats.pictures.picture import read_picture
from ahm_env.images.layouts.hints import coco_files
from ahm_env.images.layouts.layout import image_files, named_split
from ahm_env.images.pixels.png import encode_png
from ahm_env.images.public.archives import PublicSet, Row, refuse_names
from ahm_env.images.public.outlines import class_map, is_line

NEEDED = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}


@dataclass(frozen=True)
class Drawn:
    """An image and its instances.

    Attributes:
        table: The file that lists it.
        path: The image.
        split: Its split, or empty.
        size: (height, width) as the table has it; None where it does not.
        instances: Class number and outline of each; None where one has no outline, so that the mask is not known.
        lines: How many outlines are left out, as they have fewer than three points.
    """

    table: Path
    path: Path
    split: str
    size: tuple[int, int] | None
    instances: Sequence[tuple[int, Any]] | None
    lines: int


def coco(source: Path) -> PublicSet:
    """Find the images of a set in COCO's format; masks hold the numbers of its categories, from 1.

    Where instances overlap, the smaller one is seen. An image without instances has an empty mask.

    Raises:
        ImageError: There is no such file, it is damaged, or names an image that is not there.
    """
    tables = coco_files(source)
    if not tables:
        raise ImageError(f"{source}: no JSON file of images, annotations and categories; give the folder above it")
    contents = {table: _read(table) for table in tables}
    names, numbers = _numbered(contents)
    paths = defaultdict[str, list[Path]](list)
    for path in image_files(source)[0]:
        paths[path.name].append(path)
    images = [
        one for table, content in contents.items() for one in _images(table, content, numbers[table], paths, source)
    ]
    if len({one.path for one in images}) < len(images):
        listing = ", ".join(path.name for path in tables)
        raise ImageError(f"{source}: an image is listed twice ({listing}); keep one of these files")
    alike = len({one.path.stem.casefold() for one in images}) < len(images)
    outlined = sum(one.instances is not None for one in images)
    notes = [f"{source}: classes in masks: {', '.join(f'{number} {name}' for name, number in names.items())}"]
    others, without = sum(map(len, paths.values())) - len(images), len(images) - outlined
    lines = sum(one.lines for one in images)
    notes += [f"{source}: outlines of fewer than three points, which are left out: {lines:,}"] * bool(lines)
    notes += [f"{source}: images with boxes only, which have no mask: {without:,}"] * bool(without)
    notes += [f"{source}: images that are not listed, and are left out: {others:,}"] * bool(others)
    named = ["_".join(one.path.relative_to(source).parts) if alike else one.path.name for one in images]
    rows = [(Row(name, split=one.split), one) for name, one in zip(named, images, strict=True)]
    refuse_names((row, one.path) for row, one in rows)
    writes = (partial(_write, row, one, source) for row, one in rows)
    return PublicSet(len(images), writes, outlined > 0, notes)


def _read(table: Path) -> dict[str, list[dict[str, Any]]]:
    """Read a file of instances, and check that it has what is needed."""
    try:
        with readable(table):
            content = json.loads(table.read_bytes())
        for name, keys in NEEDED.items():
            for one in content[name]:
                hash(tuple(one[key] for key in keys))
        sorted(one["id"] for one in content["categories"])  # so that they have an order
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ImageError(f"{table}: not in COCO's format ({type(error).__name__}: {error}); export it again") from None
    return content  # type: ignore[no-any-return]


def _numbered(contents: Mapping[Path, Mapping[str, Any]]) -> tuple[dict[Any, int], dict[Path, dict[Any, int]]]:
    """Give all categories numbers from 1, in the order of their ids, used or not; those of several files by name.

    So a class has one number in all sets that list the same categories. An unused category 0 that others name as what
    they are kinds of, as some programs write it, is none.

    Returns:
        The numbers by name, and by id in each file.

    Raises:
        ImageError: A file contradicts itself, or there are too many categories.
    """
    names, numbers = dict[Any, int](), dict[Path, dict[Any, int]]()
    zero = any(one["category_id"] == 0 for content in contents.values() for one in content["annotations"])
    for table, content in contents.items():
        kinds = [one.get("supercategory") for one in content["categories"] if one["id"] != 0]
        listed = {
            (one["id"], one["name"])
            for one in content["categories"]
            if zero or one["id"] != 0 or one["name"] not in kinds
        }
        named = dict(sorted(listed, key=itemgetter(0)))
        if len(listed) > min(len(named), len(set(named.values()))):
            cause = "a category has two names, or two have one name"
            raise ImageError(f"{table}: {cause}; export the set again, or rename one")
        if not {one["category_id"] for one in content["annotations"]} <= named.keys():
            raise ImageError(f"{table}: uses categories that it does not list; export the set again")
        for name in named.values():
            names.setdefault(name, len(names) + 1)
        numbers[table] = {one: names[name] for one, name in named.items()}
    if len(names) > 255:
        cause = f"{len(names):,} categories are listed, but masks hold 255 at most"
        raise ImageError(f"{next(iter(contents))}: {cause}; take out those that are not used")
    return names, numbers


def _images(
    table: Path,
    content: Mapping[str, Any],
    numbers: Mapping[Any, int],
    paths: Mapping[str, list[Path]],
    source: Path,
) -> list[Drawn]:
    """Find the images that a file lists: by name, and where several have that, by folder and split."""
    instances, lines = defaultdict[Any, list[tuple[int, Any]]](list), Counter[Any]()
    for one in content["annotations"]:
        outline, some = one.get("segmentation"), instances[one["image_id"]]
        left_out = [part for part in outline if is_line(part)] if isinstance(outline, list) else []
        if left_out:
            outline = [part for part in outline if not is_line(part)]
            lines[one["image_id"]] += len(left_out)
        if outline or not left_out:
            some.append((numbers[one["category_id"]], outline))
    listed = {one["id"] for one in content["images"]}
    if len(listed) < len(content["images"]) or not instances.keys() <= listed:
        cause = "two of its images have one id, or an instance is of an image that is not listed"
        raise ImageError(f"{table}: {cause}; export the set again")
    split, found = named_split(table.relative_to(source).with_suffix("").parts), []
    for one in content["images"]:
        parts = re.split(r"[/\\]", str(one["file_name"]))
        rivals = paths.get(parts[-1], [])
        rivals = [path for path in rivals if path.parts[-len(parts) :] == tuple(parts)] or rivals
        rivals = [path for path in rivals if split == named_split(path.relative_to(source).parts[:-1])] or rivals
        rivals = [path for path in rivals if path.parent == table.parent] or rivals
        if len(rivals) != 1:
            what = "is there more than once" if rivals else "is not there"
            raise ImageError(f"{table}: its image {one['file_name']} {what}; give the folder of images and tables")
        outlines = instances[one["id"]]
        size = (one["height"], one["width"]) if {"height", "width"} <= one.keys() else None
        undrawn = not outlines and lines[one["id"]]
        known = None if undrawn or not all(outline for _, outline in outlines) else outlines
        whose = split or named_split(rivals[0].relative_to(source).parts[:-1])
        found.append(Drawn(table, rivals[0], whose, size, known, lines[one["id"]]))
    return found


def _write(row: Row, image: Drawn, source: Path, directory: Path) -> Row:
    """Copy an image, and draw its mask."""
    refuse_link(image.path, source)
    picture = read_picture(image.path)
    height, width = picture.pixels.shape[:2]
    if image.size not in (None, (height, width)):
        listed = "x".join(map(str, (image.size or ())[::-1]))
        cause, remedy = f"is {width}x{height}, but {listed} in {image.table.name}", "export the set again"
        if picture.turned and image.size == (width, height):
            cause += ": its EXIF orientation turns the image, not the outlines"
            remedy = "take the orientation out of the image"
        raise ImageError(f"{image.path}: {cause}; {remedy}")
    with readable(image.path):
        shutil.copyfile(image.path, directory / "images" / row.image)
    if image.instances is None:
        return row
    try:
        mask = class_map(image.instances, height, width)
    except (TypeError, ValueError, KeyError, OverflowError, IndexError) as error:
        cause = f"the outline of an instance of {image.path.name} cannot be read ({error})"
        raise ImageError(f"{image.table}: {cause}; export the set again") from None
    (directory / "masks" / Path(row.image).with_suffix(".png").name).write_bytes(encode_png(mask))
    return row
