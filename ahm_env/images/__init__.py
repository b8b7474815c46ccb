"""Images for the masking problem: one call for every source, decoded once, memory-mapped.

`load_images` opens a folder, an .npz file or drawn phantoms as an `ImageSet`; `check_images` reports what is
in them and what is wrong.
"""

from ahm_env.images.image_set import ImageSet
from ahm_env.images.loading import load_images
from ahm_env.images.report import SourceReport, check_images

__all__ = ["ImageSet", "SourceReport", "check_images", "load_images"]
