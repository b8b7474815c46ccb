"""How stored values of a DICOM image become what a viewer shows: rescaling, lookup tables, windows, palettes.

This module needs pydicom: import it where it is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from ahm_env.errors import ImageError
from ahm_env.images.pixels.window import Window
from ahm_env.images.source import Pixels

GREY, INVERTED, PALETTE = "MONOCHROME2", "MONOCHROME1", "PALETTE COLOR"
PALETTES = tuple(f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue"))
PADDING = "PixelPaddingValue", "PixelPaddingRangeLimit"
NARROWEST = 1e-6  # stands for a width of 0: a threshold


@dataclass(frozen=True, slots=True)
class Rescale:
    """Values in the units of the modality, such as Hounsfield units (PS3.3 C.11.1.1.2)."""

    slope: float
    intercept: float

    def apply(self, values: Pixels) -> Pixels:
        """Any shape to the same, float32, or float64 where that is too coarse."""
        precise: npt.NDArray[np.floating] = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
        return precise * self.slope + self.intercept


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A lookup table (PS3.3 C.11.1.1.1): `first` is shown as its first row, what is below or above as its ends."""

    first: int
    rows: Pixels
    bits: int

    def apply(self, values: Pixels) -> Pixels:
        """Any shape to the same shape, and the table's own for each row."""
        places = np.nan_to_num(np.rint(values)) if values.dtype.kind == "f" else values
        return np.asarray(self.rows[(places.astype(np.int64) - self.first).clip(0, len(self.rows) - 1)])

    def shown(self, values: Pixels) -> Pixels:
        """Apply this to values and scale the result to 0..255."""
        return full_range(self.apply(values), self.bits)


@dataclass(frozen=True, slots=True, eq=False)
class Display:
    """How values of a frame are shown.

    Attributes:
        modality: Turns stored values into the modality's units.
        look: What the file says of the range that is shown: values of any shape to the same, uint8.
        palette: Colours.
        padding: Stored values from the first to the second show nothing (PS3.3 C.7.5.1.1.2); None if all do.
    """

    modality: Rescale | Table | None = None
    look: Callable[[Pixels], Pixels] | None = None
    palette: Table | None = None
    padding: tuple[int, int] | None = None

    def grey(self, stored: Pixels, bits: int, inverted: bool, window: Window | None) -> Pixels:
        """Show grey values.

        Args:
            stored: (H, W).
            bits: How many of a stored value are used.
            inverted: The lowest is white.
            window: Instead of the file's own.

        Returns:
            (H, W), uint8 where there is a window, else what is to be scaled by its own range.
        """
        values = self.modality.apply(stored) if self.modality else stored
        if window:
            values = window.apply(values)
        elif self.look:
            values = self.look(values)
        elif values.dtype == np.uint8:
            values = full_range(values, self.modality.bits if isinstance(self.modality, Table) else bits)
        elif self.padding:  # its own range is that of what shows something
            low, high = np.sort(np.array(self.padding).astype(stored.dtype))  # some write signed values as unsigned
            shown = (stored < low) | (stored > high)
            if shown.any():
                values = np.where(shown, values, values[shown].max() if inverted else values[shown].min())
        if not inverted:
            return values
        return -values if values.dtype.kind == "f" else ~values

    def palette_colours(self, stored: Pixels) -> Pixels:
        """Numbers of colours, (H, W), as RGB: (H, W, 3) uint8.

        Raises:
            ImageError: There is no palette.
        """
        if self.palette is None:
            raise ImageError("it has no palette for its colours; export it again in RGB")
        return self.palette.apply(stored)


def full_range(values: Pixels, bits: int) -> npt.NDArray[np.uint8]:
    """Values of so many bits, of any shape, as 0..255."""
    if values.dtype == np.uint8 and bits == 8:
        return values
    return np.asarray((values.astype(np.float64) * (255 / (2**bits - 1))).clip(0, 255).round(), np.uint8)


def read_displays(dataset: Dataset, frames: int) -> tuple[Display, ...]:
    """How each frame is shown; one for all of them where the file does not tell them apart.

    What a frame of an enhanced object says comes before what it shares with the others, and that before what
    stands in the dataset itself.
    """
    if str(dataset.get("PhotometricInterpretation", "")) == PALETTE:
        return (Display(palette=_palette(dataset)),)
    first, last = (dataset.get(keyword) for keyword in PADDING)
    padding = (first, last if isinstance(last, int) else first) if isinstance(first, int) else None
    return tuple(
        Display(
            _modality(functional_group(places, "PixelValueTransformationSequence") or dataset),
            _look(functional_group(places, "FrameVOILUTSequence") or dataset, dataset),
            padding=padding,
        )
        for places in frame_groups(dataset, frames)
    )


def frame_groups(dataset: Dataset, frames: int) -> list[tuple[Dataset | None, Dataset | None]]:
    """Pair what an enhanced object says of each frame with what it says of all; one pair if no frame has its own."""
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    each: list[Dataset | None] = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])[:frames]
    # What the sequence, if there is one, does not reach has what all share.
    each += [None] * (frames - len(each) if each else 1)
    return [(own, shared) for own in each]


def functional_group(places: tuple[Dataset | None, ...], keyword: str) -> Dataset | None:
    """Return the first such group in these places, or None."""
    return next((found for place in places if place is not None and (found := first_item(place, keyword))), None)


def first_item(dataset: Dataset, keyword: str) -> Dataset | None:
    """Return the first item of a sequence; None if there is none, or it is empty."""
    items = dataset.get(keyword)
    return items[0] if items and any(not element.is_empty for element in items[0]) else None


def _modality(dataset: Dataset) -> Rescale | Table | None:
    if found := first_item(dataset, "ModalityLUTSequence"):
        return _table(found, dataset)
    slope, intercept = _number(dataset, "RescaleSlope", 1.0), _number(dataset, "RescaleIntercept", 0.0)
    if slope == 0 or not np.isfinite((slope, intercept)).all():
        raise ImageError("its rescale slope is 0 or no number; the header is damaged: export it again")
    return Rescale(slope, intercept) if (slope, intercept) != (1, 0) else None


def _look(dataset: Dataset, whole: Dataset) -> Callable[[Pixels], Pixels] | None:
    if found := first_item(dataset, "VOILUTSequence"):
        return _table(found, whole).shown
    centre, width = _number(dataset, "WindowCenter", np.nan), _number(dataset, "WindowWidth", np.nan)
    if not (np.isfinite((centre, width)).all() and width > 0):
        # Some devices write a width of 0 where they know of none.
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        return partial(_sigmoid, centre, width)
    # PS3.3 C.11.2.1.2.1; a linear window narrower than 1, which that excludes, is meant exactly.
    if function == "LINEAR" and width >= 1:
        return Window(centre - 0.5, max(width - 1, NARROWEST)).apply
    return Window(centre, width).apply


def _sigmoid(centre: float, width: float, values: Pixels) -> Pixels:
    """Show a window without edges (PS3.3 C.11.2.1.3.1): any shape to the same, uint8."""
    exponent = -4 * (values.astype(np.float64) - centre) / width
    return np.asarray(np.nan_to_num(255 / (1 + np.exp(exponent))).round(), np.uint8)


def _number(dataset: Dataset, keyword: str, otherwise: float) -> float:
    """Return the first number of an element, or `otherwise` if it has none."""
    value: Any = dataset.get(keyword)
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        value = [value]
    return otherwise if not len(value) or value[0] in (None, "") else float(value[0])


def _table(item: Dataset, whole: Dataset) -> Table:
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries or 2**16
    if first >= 2**15 and first + entries > 2**16:
        first -= 2**16  # a negative one: where types are not written out, pydicom takes it for unsigned
    data = item.LUTData
    if isinstance(data, bytes):
        data = _unpacked(data, entries, whole)
    return Table(first, np.atleast_1d(np.asarray(data, np.uint16)), bits)


def _unpacked(data: bytes, entries: int, whole: Dataset) -> Pixels:
    little = whole.original_encoding[1]
    kind = np.dtype(np.uint8) if len(data) < 2 * entries else np.dtype("<u2" if little else ">u2")
    if kind == np.uint8 and not little:
        # Bytes in words: the second comes first.
        return np.frombuffer(data, "<u2").byteswap().view(np.uint8)[:entries]
    return np.frombuffer(data, kind, entries)


def _palette(dataset: Dataset) -> Table:
    descriptors = [[int(number) for number in dataset[f"{palette}Descriptor"].value] for palette in PALETTES]
    entries, first, bits = descriptors[0]
    entries = entries or 2**16
    if f"{PALETTES[0]}Data" in dataset:  # of which pydicom refuses tables of an odd number of bytes
        columns = [_unpacked(dataset[f"{palette}Data"].value, entries, dataset) for palette in PALETTES]
        rows = np.stack(columns, axis=-1)
    else:
        rows = apply_color_lut(np.arange(first, first + entries), dataset)[..., :3]
    # Some write 8 bits and mean 16.
    return Table(first, full_range(rows, 16 if rows.max() > 2**bits - 1 else bits), 8)
