"""The frames of DICOM files as others read them."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.ahm_env.images.references import itk
from tests.ahm_env.images.references.display import Values, between, of_bits, of_range

BEYOND = np.array([[-1e9, 1e9]])  # all windows
INVERTED, PALETTE = "MONOCHROME1", "PALETTE COLOR"
GROUPS = "PerFrameFunctionalGroupsSequence"


def pydicom(path: Path) -> list[Values]:
    """Let pydicom decode, rescale and window."""
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

    dataset = dcmread(path, force=True)
    if GROUPS in dataset:
        raise NotImplementedError  # what an enhanced object says of a frame
    frames = []
    for index in range(int(dataset.get("NumberOfFrames") or 1)):
        stored = pixel_array(dataset, index=index)
        if dataset.PhotometricInterpretation == PALETTE:
            colours = apply_color_lut(stored, dataset)
            frames.append(of_bits(colours, 8 * colours.dtype.itemsize))
        elif stored.ndim == 3:
            frames.append(of_bits(stored, dataset.BitsStored))
        else:
            values = apply_modality_lut(stored, dataset)
            if dataset.get("VOILUTSequence"):
                shown = of_bits(apply_voi_lut(values, dataset), dataset.VOILUTSequence[0].LUTDescriptor[2])
            elif dataset.get("WindowWidth"):
                shown = between(apply_voi_lut(values, dataset), *apply_voi_lut(BEYOND, dataset)[0])
            else:
                shown = _unwindowed(values, dataset)
            frames.append(255 - shown if dataset.PhotometricInterpretation == INVERTED else shown)
    return frames


def highdicom(path: Path) -> list[Values]:
    """Let highdicom do all that is said of a frame."""
    import highdicom

    image = highdicom.imread(path)
    windowed = any(name in image for name in ("VOILUTSequence", "WindowWidth", GROUPS))
    frames = []
    for number in range(1, image.number_of_frames + 1):
        values = image.get_frame(
            number,
            dtype=np.float64,
            apply_real_world_transform=False,
            apply_voi_transform=None,
            voi_output_range=(0.0, 255.0),
            apply_icc_profile=False,
        )
        if values.ndim == 3:
            palette = image.PhotometricInterpretation == PALETTE
            bits = image.RedPaletteColorLookupTableDescriptor[2] if palette else image.BitsStored
            frames.append(of_bits(values, bits))
        else:
            frames.append(values if windowed else _unwindowed(values, image))
    return frames


def simpleitk(path: Path) -> list[Values]:
    """Let SimpleITK decode and rescale; the window is applied here."""
    from pydicom import dcmread

    dataset = dcmread(path, force=True, stop_before_pixels=True)
    if any(name in dataset for name in ("VOILUTSequence", "ModalityLUTSequence", "VOILUTFunction", GROUPS)):
        raise NotImplementedError  # tables, other windows, and what an enhanced object says of a frame
    values = itk.array(itk.read(path))
    if dataset.SamplesPerPixel == 3 or dataset.PhotometricInterpretation == PALETTE:
        return [of_bits(frame, dataset.BitsStored if dataset.SamplesPerPixel == 3 else 8) for frame in values]
    slope, intercept = (
        dataset.get(name) or default for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    inverted = dataset.PhotometricInterpretation == INVERTED
    if inverted:  # which SimpleITK does before it rescales
        if dataset.PixelRepresentation or dataset.BitsAllocated > 16:
            raise NotImplementedError
        values = slope * (2.0**dataset.BitsStored - 1) + 2 * intercept - values
    if dataset.get("WindowWidth"):
        centre, width = (np.atleast_1d(dataset[name].value)[0] for name in ("WindowCenter", "WindowWidth"))
        half = (width - 1) / 2  # PS3.3 C.11.2.1.2.1
        frames = [between(frame, centre - 0.5 - half, centre - 0.5 + half) for frame in values]
    else:
        frames = [_unwindowed(frame, dataset) for frame in values]
    return [255 - frame for frame in frames] if inverted else frames


def _unwindowed(values: Values, dataset: Any) -> Values:
    """Stored bytes by their bits, other values by their range."""
    slope, intercept = dataset.get("RescaleSlope") or 1, dataset.get("RescaleIntercept") or 0
    stored = (slope, intercept) == (1, 0) and "ModalityLUTSequence" not in dataset
    if stored and dataset.BitsAllocated == 8 and dataset.PixelRepresentation == 0:
        return of_bits(values, dataset.BitsStored)
    return of_range(values)


READERS = {"pydicom": pydicom, "highdicom": highdicom, "SimpleITK": simpleitk}
