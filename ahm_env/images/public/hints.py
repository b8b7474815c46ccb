"""Which command brings a set that lies otherwise into the layout of a folder."""

import re
import shlex
from pathlib import Path

from ahm_env.errors import ImageError
from ahm_env.images.public.coco import coco_files
from ahm_env.images.public.layouts import Layout, find_layout, image_files, is_of_masks

# What tells a set that has an importer of its own
KNOWN = {
    "isic2018": re.compile(r"/ISIC(2018_Task1|_2019)_[^/]*/"),
    "busi": re.compile(r"/(benign|malignant|normal)/\1 \(\d+\)_mask(_\d+)?\.png$"),
    "lgg": re.compile(r"/(TCGA_\w+)/\1_\d+_mask\.tif$"),
}


def import_hint(source: Path) -> str:
    """Say how a set lies on disk, and the command that brings it into one folder; empty if there is no image below it.

    Raises:
        ImageError: The set is incomplete, or it is not clear which masks belong to which images.
    """
    try:
        image_files(source)
    except ImageError:
        return ""
    if tables := coco_files(source):
        return f"masks are outlines in {tables[0].name}; {_command('coco', source)}"
    layout = find_layout(source)
    return f"{layout}; {_command(_known(layout), source)}"


def masks_elsewhere(source: Path) -> str:
    """As `import_hint`, of a folder that may lack `masks/`; empty if its images have no masks elsewhere."""
    try:
        folders = [path.name for path in source.iterdir() if path.is_dir()]
        if "masks" in folders or not (any(map(is_of_masks, folders)) or coco_files(source)):
            return ""
        return import_hint(source) if coco_files(source) or find_layout(source).masks else ""
    except ImageError as error:
        return str(error)


def _command(name: str, source: Path) -> str:
    out = f"{source.absolute().name}-imported"
    return f"`ahm data import {name} {shlex.quote(str(source))} --out {shlex.quote(out)}` brings them into one folder"


def _known(layout: Layout) -> str:
    masks = [str(path) for some in layout.masks.values() for path in some]
    return next((name for name, words in KNOWN.items() if masks and all(map(words.search, masks))), "auto")
