"""Images for the masking problem: one call for every source, decoded once, memory-mapped."""

from ahm_env.images.image_set import ImageSet
from ahm_env.images.loading import load_images

__all__ = ["ImageSet", "load_images"]
