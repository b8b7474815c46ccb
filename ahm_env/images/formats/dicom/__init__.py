"""DICOM: files of an archive as a source of images."""

from ahm_env.images.formats.dicom.index import holds_dicom, is_dicom
from ahm_env.images.formats.dicom.source import Dicom

__all__ = ["Dicom", "holds_dicom", "is_dicom"]
