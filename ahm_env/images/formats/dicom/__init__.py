"""DICOM: files of an archive as a source of images."""
