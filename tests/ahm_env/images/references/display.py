"""How intensities become 0..255 by the documentation, written a second time: for values that others have read."""

from typing import Any

import numpy as np

Values = np.ndarray[Any, Any]
LOW, HIGH = 0.5, 99.5  # percentiles


def of_range(values: Values) -> Values:
    """Scale a picture of more than 8 bits."""
    finite = values[np.isfinite(values)].astype(np.float64)
    return _between_percentiles(values, finite, finite)


def of_volume(values: Values) -> Values:
    """Scale a volume; what is as dark as its darkest value does not count."""
    finite = values[np.isfinite(values)].astype(np.float64)
    bright = finite[finite > finite.min()]
    return _between_percentiles(values, bright, finite) if bright.size else np.zeros(values.shape)


def of_bits(values: Values, bits: int) -> Values:
    """Scale whole numbers of so many bits."""
    return values.astype(np.float64) * (255 / (2**bits - 1))


def between(values: Values, low: float, high: float) -> Values:
    """Show `low` and what is below as 0, `high` and what is above as 255; NaN is black."""
    with np.errstate(invalid="ignore"):
        scaled = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    return np.nan_to_num(scaled, nan=0.0).clip(0, 1) * 255


def _between_percentiles(values: Values, counted: Values, finite: Values) -> Values:
    low, high = np.percentile(counted, (LOW, HIGH))
    return between(values, *((low, high) if low < high else (finite.min(), finite.max())))
