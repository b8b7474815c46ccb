"""New images on their way into a model: found in files and folders, decoded ahead by a few threads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ahm_env import ImageError
from ahm_env.images.decoding import read_image
from ahm_env.images.files import EXTENSIONS, ImageFiles, is_image
from ahm_env.images.source import Sample


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files to predict: those given, and those in folders, in `images/` where there is one, else directly in them.

    Raises:
        ImageError: A path does not exist or is no image, a folder has no image, or two images have the same stem.
    """
    types = ", ".join(EXTENSIONS)
    found: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            folder = path / "images" if (path / "images").is_dir() else path
            files = [folder / (stem + ending) for stem, ending in ImageFiles(folder)]
            if not files:
                raise ImageError(f"{folder}: no image directly in it ({types}); give the folder that the images are in")
        elif not path.exists():
            raise ImageError(f"{path}: no such file or folder; check the path")
        elif not is_image(path.name):
            raise ImageError(f"{path}: not an image that can be read ({types}); export it as one of these")
        else:
            files = [path]
        for file in files:
            # some file systems take names for the same that differ in case only
            rival = found.setdefault(file.stem.casefold(), file)
            if _place(rival) != _place(file):
                raise ImageError(
                    f"{file}: has the same stem as {rival}, so one mask would overwrite the other; rename one of them, "
                    f"or predict them into two directories"
                )
    return list(found.values())


def load_image(path: Path) -> Sample | ImageError:
    """Read an image; gives the error where it cannot be used."""
    try:
        path.name.encode()
        image = read_image(path)
    except ImageError as error:
        return error
    except UnicodeEncodeError:
        return ImageError(f"{str(path)!a}: its name is not UTF-8; rename the file")
    if image.dtype.kind == "f" and not np.isfinite(image).any():
        return ImageError(f"{path}: holds no finite value; export it again")
    return Sample(path.name, str(path), image)


def _place(path: Path) -> Path:
    """Where a file lies, without following it where it is a link: its name is what counts."""
    return path.parent.resolve() / path.name
