"""NIfTI: volumes as a source of images, slice by slice."""

from ahm_env.images.formats.nifti.mask_volume import save_mask
from ahm_env.images.formats.nifti.names import is_nifti, nifti_stem
from ahm_env.images.formats.nifti.slices import from_slices, to_slice
from ahm_env.images.formats.nifti.source import Nifti

__all__ = ["Nifti", "from_slices", "is_nifti", "nifti_stem", "save_mask", "to_slice"]
