"""DICOM files made on the spot."""

from pathlib import Path
from typing import Any

import numpy as np

CT = "1.2.840.10008.5.1.4.1.1.2"


def item(**elements: Any) -> Any:
    """A data set of these elements, such as an item of a sequence."""
    import pydicom

    made = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def write_dicom(
    path: Path, pixels: np.ndarray, syntax: str = "1.2.840.10008.1.2.1", little: bool = True, **elements: Any
) -> Any:
    """Writes (H, W), (N, H, W) or, for colours, (H, W, 3), and returns its elements; one that is None is left out."""
    from pydicom.dataset import FileMetaDataset

    samples = elements.get("SamplesPerPixel", 1)
    rows, columns = pixels.shape[-3:-1] if samples > 1 else pixels.shape[-2:]
    described = {
        "SOPClassUID": CT,
        "SOPInstanceUID": "1.2.3.4",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PlanarConfiguration": 0 if samples > 1 else None,
        "NumberOfFrames": None if pixels.ndim == (3 if samples > 1 else 2) else len(pixels),
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 8 * pixels.dtype.itemsize,
        "BitsStored": 8 * pixels.dtype.itemsize,
        "HighBit": 8 * pixels.dtype.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes() + b"\0" * (pixels.nbytes % 2),
    }
    dataset = item(**{keyword: value for keyword, value in (described | elements).items() if value is not None})
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if "PixelData" in elements else "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, implicit_vr=False, little_endian=little, enforce_file_format=True)
    return dataset
