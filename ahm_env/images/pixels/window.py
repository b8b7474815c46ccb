"""Windows: which range of intensities is shown from black to white, as radiologists choose it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ahm_env.errors import SettingsError
from ahm_env.images.source import Pixels

# Usual windows of CT in Hounsfield units: centre, width.
NAMED = {"lung": (-600.0, 1500.0), "bone": (400.0, 1800.0), "brain": (40.0, 80.0), "soft": (40.0, 400.0)}


@dataclass(frozen=True, slots=True)
class Window:
    """A range of intensities.

    Attributes:
        centre: The value in its middle, in the image's own units (CT: Hounsfield units).
        width: Its extent, above 0.
    """

    centre: float
    width: float

    @classmethod
    def parse(cls, text: str) -> "Window":
        """Read `lung`, `bone`, `brain`, `soft`, or CENTRE,WIDTH such as `-600,1500`.

        Raises:
            SettingsError: It is none of these.
        """
        try:
            centre, width = NAMED[text] if text in NAMED else map(float, text.split(","))
        except ValueError:
            centre, width = np.nan, np.nan
        if not (np.isfinite(centre) and np.isfinite(width) and width > 0):
            raise SettingsError(
                f"--window {text} is unknown; give {', '.join(NAMED)}, or CENTRE,WIDTH such as -600,1500"
            )
        return cls(centre, width)

    def apply(self, values: Pixels) -> npt.NDArray[np.uint8]:
        """Scale intensities of any shape to 0..255; what is below or above becomes 0 or 255, NaN 0."""
        low = self.centre - self.width / 2
        scaled = np.nan_to_num((values.astype(np.float64) - low) / self.width, nan=0.0)
        return np.asarray((scaled.clip(0, 1) * 255).round(), np.uint8)
