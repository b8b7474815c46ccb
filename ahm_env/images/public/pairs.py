"""Writes the images and masks that are found by their names into one folder."""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.dataset.values import mask_values
from ahm_env.images.formats.files import readable, refuse_link
from ahm_env.images.formats.labels import NO_IMAGE, table_lines
from ahm_env.images.formats.nifti.names import is_nifti
from ahm_env.images.formats.pictures.picture import read_mask
from ahm_env.images.layouts.layout import find_layout, stem_of
from ahm_env.images.layouts.owners import Key
from ahm_env.images.pixels.png import encode_png
from ahm_env.images.public.archives import PublicSet, Row, refuse_names

FOLDERS = ("patient", "label")


def pairs(source: Path, folders: str | None = None, scan: str | None = None) -> PublicSet:
    """Find the images of a set and their masks by the names of files and folders; `labels.csv` is taken along.

    Args:
        source: The folder that it was unpacked in.
        folders: What folders of images are that are called neither images nor after a split: `patient` or `label`.
        scan: As of `find_layout`.

    Raises:
        ImageError: As of `find_layout`.
        SettingsError: `folders` or `scan` is unknown.
    """
    if folders not in (None, *FOLDERS):
        raise SettingsError(f"--folders {folders} is unknown; choose one of: {', '.join(FOLDERS)}")
    layout = find_layout(source, scan)
    known, unused = _lines(source / "labels.csv", layout.images)
    rows = list[Row]()
    for key, name in zip(layout.images, _names(layout.images), strict=True):
        split, place, _ = key
        of_folder = {folders: "/".join(place)} if folders else {}
        cells = {"split": split, **of_folder, **{column: one for column, one in known.get(key, {}).items() if one}}
        rows.append(Row(name, cells.get("label", ""), cells.get("split", ""), cells.get("patient", "")))
    shown = (f"{source}: a volume" if is_nifti(path.name) else path for path in layout.images.values())
    refuse_names(zip(rows, shown, strict=True))
    places = Counter(place for _, place, _ in layout.images)
    notes = layout.notes + _classes(source)
    if unused:
        notes.append(f"{source}: lines of labels.csv that are about none of these images: {unused:,}")
    if layout.tables:
        named = ", ".join(layout.tables[:3]) + ", …" * (len(layout.tables) > 3)
        notes.append(f"{source}: tables that are not read: {named}; bring what they tell into labels.csv")
    if len(places) > 1 and max(places.values()) > 1 and folders is None and not known:
        cause = f"{len(places):,} folders of images are taken neither for patients nor for classes"
        notes.append(f"{source}: {cause}; --folders patient, or --folders label, does")
    writes = (
        partial(_write, row, path, layout.masks.get(key, ()), source)
        for row, (key, path) in zip(rows, layout.images.items(), strict=True)
    )
    return PublicSet(len(rows), writes, bool(layout.masks), notes)


def _lines(table: Path, images: Mapping[Key, Path]) -> tuple[dict[Key, dict[str, str]], int]:
    """Find the line of a table that is about each image, and count those that are about none.

    A line names the file, or what several scans share, with as many of the folders before it as are needed.

    Raises:
        ImageError: A line could be about several images, two are about one, or the table is a link that leads out.
    """
    refuse_link(table, table.parent)
    found, unused = dict[Key, dict[str, str]](), 0
    named = defaultdict[str, set[Key]](set)
    for key, path in images.items():
        for stem in (key[2], stem_of(path)):
            named[stem].add(key)
    for number, cells in table_lines(table, ("image",), NO_IMAGE) if table.is_file() else ():
        name = PurePosixPath(cells["image"].replace("\\", "/"))
        folders = name.parent.parts
        fits = [key for key in named[stem_of(Path(name.name))] if images[key].parts[-1 - len(folders) : -1] == folders]
        if len(fits) > 1 or (fits and found.get(fits[0], cells) != cells):
            cause = "could be about several images" if len(fits) > 1 else "is about an image that has another line"
            raise ImageError(f"{table}: line {number} {cause}; write the folders before the name, or take it out")
        unused += not fits
        found |= dict.fromkeys(fits, cells)
    return found, unused


def _classes(source: Path) -> list[str]:
    """Say what a `dataset.json` of nnU-Net or of the Medical Segmentation Decathlon tells of the classes."""
    table = source / "dataset.json"
    if not table.is_file() or table.is_symlink():
        return []
    try:
        with readable(table):
            labels = json.loads(table.read_bytes())["labels"]
        # number to name in the older form, name to number, or numbers, in the newer
        named = {key: one for key, one in labels.items() if not isinstance(one, str)} or {
            one: int(key) for key, one in labels.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        cause = f"not as nnU-Net has it ({type(error).__name__}: {error})"
        raise ImageError(f"{table}: {cause}; mend it, or take it out") from None
    classes = ", ".join(f"{number} {name}" for name, number in named.items() if name not in ("background", "ignore"))
    notes = [f"{source}: classes in masks: {classes}"]
    if "ignore" in named:
        notes.append(f"{source}: {named['ignore']} in masks is no class: --ignore {named['ignore']}")
    return notes


def _names(images: Mapping[Key, Path]) -> list[str]:
    """Name images in one folder: by their stems; where two are the same, with folders, or else splits, before them."""
    choices = (
        [stem for _, _, stem in images],
        ["_".join((*place, stem)) for _, place, stem in images],
        ["_".join(filter(None, (split, *place, stem))) for split, place, stem in images],
    )
    stems = next((some for some in choices if len({one.casefold() for one in some}) == len(some)), None)
    if stems is None:
        raise ImageError("two images would have the same name, or one but for upper and lower case; rename one of them")
    return [stem + path.name[len(stem_of(path)) :] for stem, path in zip(stems, images.values(), strict=True)]


def _write(row: Row, image: Path, masks: Sequence[Path], source: Path, directory: Path) -> Row:
    """Copy an image and its mask; several masks are united, if each has one number beside 0, and all the same."""
    for path in (image, *masks):
        refuse_link(path, source)
    with readable(image):
        shutil.copyfile(image, directory / "images" / row.image)
    target = directory / "masks" / stem_of(Path(row.image))
    if len(masks) == 1:
        with readable(masks[0]):
            shutil.copyfile(masks[0], f"{target}{masks[0].name[len(stem_of(masks[0])) :]}")
    elif masks:
        if is_nifti(image.name):
            raise ImageError(f"{source}: a volume has {len(masks)} masks; merge them into one")
        drawn = [read_mask(path) for path in masks]
        values = {0}.union(*map(mask_values, drawn))
        if len(values) > 2 or len({mask.shape for mask in drawn}) > 1:
            names = ", ".join(path.name for path in masks)
            cause = f"its {len(masks)} masks ({names}) are of several sizes or hold several numbers"
            raise ImageError(f"{image}: {cause}; merge them into one")
        Path(f"{target}.png").write_bytes(encode_png(np.maximum.reduce(drawn)))
    return row
