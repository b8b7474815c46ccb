"""The masks of DICOM images: PNGs of their names, and label volumes (NIfTI) of the names of files or of folders."""

from pathlib import Path, PurePosixPath

from ahm_env.errors import ImageError
from ahm_env.images.decoding import read_mask
from ahm_env.images.dicom.index import DicomFiles
from ahm_env.images.dicom.label_volumes import Plane, cut
from ahm_env.images.dicom.tree import walk
from ahm_env.images.files import ASTRAY, inside
from ahm_env.images.nifti.names import nifti_stem
from ahm_env.images.pixels import Image8
from ahm_env.images.source import Pixels

DRAWN, VOLUMES = ".png", (".nii.gz", ".nii")
ALONE = "is a mask without an image of its name; add the image or delete the mask"


def masks_of(folder: Path, within: Path, files: DicomFiles) -> tuple[bool, dict[str, str], int]:
    """What is in a folder of masks.

    Args:
        folder: It may be missing.
        within: The folder of the source, out of which no link may lead.
        files: The images.

    Returns:
        Whether there is any mask; for each that belongs to nothing what is wrong; how many files are no masks.
    """
    any_mask, alone, others = False, dict[str, str](), 0
    for found in walk(folder, within):
        name = found.relative
        if not name.endswith((*VOLUMES, DRAWN)):
            others += 1
            continue
        any_mask = True
        known = files.has_frame(name[: -len(DRAWN)]) if name.endswith(DRAWN) else files.has(nifti_stem(name))
        if found.trouble or not known:
            alone[name] = found.trouble or ALONE
    return any_mask, alone, others


def read_mask_of(
    folder: Path, within: Path, stem: str, number: str, lies: Plane | None, image: Pixels
) -> Image8 | None:
    """Class numbers of an image: of its own PNG, or of a label volume named after its file or a folder that it is in.

    Args:
        folder: Where masks are.
        within: The folder of the source, out of which no link may lead.
        stem: Of the image's file, with the folders that it is in.
        number: Of the frame, as in `_0001`; empty where there is but one.
        lies: Where the image lies in the patient, if that is known.
        image: (H, W) or (H, W, 3).

    Returns:
        (H, W), as a rule; None where there is no mask.

    Raises:
        ImageError: There are several, or it cannot be used.
    """
    folders = [str(parent) for parent in PurePosixPath(stem).parents][:-1]
    names = [f"{stem}{number}{DRAWN}", *(f"{one}{ending}" for one in (stem, *folders) for ending in VOLUMES)]
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        return None
    if not all(inside(path, within) for path in found):
        raise ImageError(f"its mask {ASTRAY}")
    if len(found) > 1:
        raise ImageError(f"more than one mask in {folder}; keep one, a PNG or a label volume")
    (path,) = found
    try:
        return read_mask(path) if path.suffix == DRAWN else cut(path, lies, (image.shape[0], image.shape[1]))
    except ImageError as error:
        raise ImageError(f"its mask: {str(error).removeprefix(f'{path}: ')}") from None
