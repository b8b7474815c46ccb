"""Settings that all kinds of runs share."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

from ahm_env.errors import SettingsError
from ahm_env.images import ImageSet, load_images
from ahm_env.images.pixels import PixelSettings
from ahm_env.images.source import Source
from ahm_env.model.devices import find_device, find_precision

AUTO_PRECISION = ("precision", "auto")


@dataclass(frozen=True)
class Settings:
    """Settings that a run is repeated by: plain values, through JSON and back."""

    device: str = "auto"
    """cpu, cuda, mps, or the best there is."""
    precision: str = "auto"
    """Of the network's layers: fp32, bf16, or auto: bf16 where the device has instructions for it."""

    presets: ClassVar[Mapping[str, dict[str, Any]]] = {}

    @classmethod
    def asked(cls, preset: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a preset, overridden by what is given (None is not given).

        Raises:
            SettingsError: Unknown preset.
        """
        if preset is not None and preset not in cls.presets:
            raise SettingsError(f"--preset {preset} is unknown; choose one of {', '.join(cls.presets)}")
        return {**cls.presets.get(preset or "", {}), **{key: one for key, one in given.items() if one is not None}}

    def on_this_machine(self) -> Self:
        """The same with the precision that `auto` means here, so that a run goes on elsewhere as it began."""
        return replace(self, precision=find_precision(self.precision, find_device(self.device)))

    def as_dict(self) -> dict[str, Any]:
        """All settings, as JSON can hold them."""
        return asdict(self)

    def differences(self, given: Mapping[str, Any]) -> list[str]:
        """Names of those given settings that are not this run's; None is not given, nor is a precision of auto."""
        own = self.as_dict()
        asked = {key: value for key, value in given.items() if value is not None and (key, value) != AUTO_PRECISION}
        return sorted(key for key, value in asked.items() if own.get(key) != value)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read what `as_dict` gave, now or in an older version: a setting that it did not have has its default.

        Raises:
            SettingsError: A setting is unknown.
        """
        if odd := sorted(set(settings) - {one.name for one in fields(cls)}):
            raise SettingsError(f"settings {', '.join(odd)} are unknown: another command or version wrote them")
        return cls(**settings)


@dataclass(frozen=True)
class ImageSettings(Settings):
    """Which images, and how they are read and become pixels."""

    data: str = "phantom"
    """Source of images."""
    image_size: int = 64
    """Images are resized to this many pixels a side."""
    channels: int | None = None
    """1 or 3; by default what the images are."""
    fit: str = "stretch"
    """How images become square: stretch or pad."""
    window: str | None = None
    """Of DICOM and NIfTI: lung, bone, brain, soft, or centre,width; by default the file's own."""
    axis: str = "axial"
    """Of NIfTI volumes: across which axis they are cut into slices."""
    burned_in: bool = False
    """Whether to take DICOM images in that say that text is burned into them."""
    skip_bad: bool = False
    """Go on without images that cannot be read."""

    @property
    def pixels(self) -> PixelSettings:
        """How images become pixels.

        Raises:
            SettingsError: A setting is out of range.
        """
        return PixelSettings(self.image_size, self.channels, self.fit, self.window, self.axis, self.burned_in)

    def load_images(self, source: Source | None = None, progress: Callable[[int, int], None] | None = None) -> ImageSet:
        """The images, or those of another source; they are decoded where that was not done before.

        No mask is opened.

        Args:
            source: Instead of `data`.
            progress: Told how many of how many images are read.

        Raises:
            AHMError: The source cannot be read.
        """
        asked = asdict(self.pixels)
        return load_images(source or self.data, skip_bad=self.skip_bad, progress=progress, masks=False, **asked)
