"""NIfTI: volumes as a source of images, slice by slice."""

from ahm_env.images.formats.nifti.names import is_nifti, nifti_stem
from ahm_env.images.formats.nifti.slices import from_slices, to_slice
from ahm_env.images.formats.nifti.source import Nifti, Volume

__all__ = ["Nifti", "Volume", "from_slices", "is_nifti", "nifti_stem", "to_slice"]
