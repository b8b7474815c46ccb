"""Real files that are not as another reader has them, and why."""

SEGMENTATION, DOSE = "segmentations are no images", "doses are no images"
ROUNDED = "YCbCr that others round before it becomes RGB; we and SimpleITK round once"
BYTES = "SimpleITK mixes the bytes of RLE with more than 8 bits in colour"
SHADES, DEEP = "shades of grey, which are no mask", "16 bits, more than there are classes"

# Refused though another reads them, or read by us alone: kind, name.
REFUSED = {
    ("DICOM", "liver_1frame.dcm"): SEGMENTATION,
    **{
        ("DICOM", f"rtdose{ending}.dcm"): DOSE
        for ending in ("", "_1frame", "_expb", "_expb_1frame", "_rle", "_rle_1frame")
    },
    ("DICOM", "JPEG-lossy.dcm"): "its JPEG has parameters that none may have; SimpleITK overlooks them",
    ("DICOM", "badVR.dcm"): "its Number of Frames is 1A; SimpleITK takes that for 1",
    ("masks", "chessboard_RGB.png"): DEEP,
    ("masks", "clockwise.png"): "drawn in transparency alone, which Pillow leaves out",
    **{
        ("masks", f"{name}.png"): SHADES
        for name in ("camera", "cell", "chessboard_GRAY", "grass", "gravel", "horse", "moon")
    },
}
# Read by us and by another: kind, name, the other.
DIFFERENT = {
    **{
        ("DICOM", f"SC_rgb_rle_{ending}.dcm", "SimpleITK"): BYTES
        for ending in ("16bit", "16bit_2frame", "32bit", "32bit_2frame")
    },
    **{
        ("DICOM", f"{name}.dcm", reader): ROUNDED
        for name in ("SC_rgb_dcmtk_+eb+cy+n1", "SC_rgb_dcmtk_+eb+cy+np", "SC_rgb_jpeg_lossy_gdcm", "examples_ybr_color")
        for reader in ("pydicom", "highdicom")
    },
    ("DICOM", "JPGExtended.dcm", "SimpleITK"): "lossy JPEG of 12 bits, decoded to one stored value more or less",
    ("NIfTI", "resampled_anat_moved.nii", "SimpleITK"): "SimpleITK reads NaN as 0, which changes the range",
}
