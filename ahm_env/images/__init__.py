"""Images for the masking problem: one call for every source, decoded once, memory-mapped.

`load_images` opens a folder, an .npz file or drawn phantoms as an `ImageSet`; `check_images` reports what is in them,
what is wrong and what is likely wrong; `find_file` leads from a pseudonym to its file.
"""

from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.images.dataset.loader import find_file, find_files, load_images
from ahm_env.images.inspection.report import SourceReport, check_images
from ahm_env.images.source import DataWarning

__all__ = [
    "DataWarning",
    "ImageSet",
    "SourceReport",
    "check_images",
    "find_file",
    "find_files",
    "load_images",
]
