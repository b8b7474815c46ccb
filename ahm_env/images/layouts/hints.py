"""Which command brings a set that lies otherwise into the layout of a folder."""

import mmap
import os
import re
import shlex
from pathlib import Path

from ahm_env.errors import ImageError
from ahm_env.images.formats.files import files_in, folders_in, readable
from ahm_env.images.layouts.layout import find_layout, image_files, is_of_masks

KEYS = (b'"images"', b'"annotations"', b'"categories"')  # of a JSON file of COCO's
# What tells a set that has an importer of its own
KNOWN = {
    "isic2018": re.compile(r"/ISIC(2018_Task1|_2019)_[^/]*/"),
    "busi": re.compile(r"/(benign|malignant|normal)/\1 \(\d+\)_mask(_\d+)?\.png$"),
    "lgg": re.compile(r"/(TCGA_\w+)/\1_\d+_mask\.tif$"),
}


def import_hint(source: Path, elsewhere: bool = False) -> str:
    """Say how a set lies on disk, and the command that brings it into one folder.

    Args:
        source: A folder.
        elsewhere: Only if it has no `masks/`, and its images have masks elsewhere; what is wrong with these is said.

    Returns:
        A line; empty if there is nothing to say.

    Raises:
        ImageError: The set is incomplete, or it is not clear which masks belong to which images; not if `elsewhere`.
    """
    try:
        if elsewhere and not _has_masks_elsewhere(source):
            return ""
        paths = image_files(source)[0]
    except ImageError as error:
        return str(error) if elsewhere else ""
    if known := next((name for name, words in KNOWN.items() if any(words.search(f"/{path}") for path in paths)), ""):
        return f"it lies as {known} does; {_command(known, source)}"
    if tables := coco_files(source):
        return f"masks are outlines in {tables[0].name}; {_command('coco', source)}"
    try:
        layout = find_layout(source)
    except ImageError as error:
        if elsewhere:
            return str(error)
        raise
    return "" if elsewhere and not layout.masks else f"{layout}; {_command('auto', source)}"


def coco_files(source: Path) -> list[Path]:
    """List the JSON files of instances in a folder and the folders in it; where some are called so, only these."""
    folders = [source, *(source / name for name in folders_in(source))]
    names = (Path(entry.path) for folder in folders for entry in files_in(folder) if entry.name.endswith(".json"))
    tables = sorted(path for path in names if not path.is_symlink() and _is_coco(path))
    return [path for path in tables if "instances" in path.name] or tables


def _is_coco(path: Path) -> bool:
    with readable(path), path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(key) >= 0 for key in KEYS)


def _has_masks_elsewhere(source: Path) -> bool:
    folders = folders_in(source)
    return "masks" not in folders and (any(map(is_of_masks, folders)) or bool(coco_files(source)))


def _command(name: str, source: Path) -> str:
    out = f"{source.absolute().name}-imported"
    return f"`ahm data import {name} {shlex.quote(str(source))} --out {shlex.quote(out)}` brings them into one folder"
