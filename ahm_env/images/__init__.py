"""Images for the masking problem: one call for every source, decoded once, memory-mapped.

`load_images` opens a folder, an .npz file or drawn phantoms as an `ImageSet`; `check_source` reports what is
in them and what is wrong.
"""

from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.images.dataset.loader import load_images
from ahm_env.images.inspection.report import SourceReport, check_source

__all__ = ["ImageSet", "SourceReport", "check_source", "load_images"]
