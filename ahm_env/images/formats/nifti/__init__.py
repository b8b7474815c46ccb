"""NIfTI: volumes as a source of images, slice by slice."""
