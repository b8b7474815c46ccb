"""Settings that all kinds of runs share."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, ClassVar, Self, get_type_hints

from ahm_env.errors import SettingsError, check_kind
from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.images.dataset.loader import load_images
from ahm_env.images.pixels.fit import PixelSettings
from ahm_env.images.source import Source
from ahm_env.model.devices import find_device, find_precision
from ahm_env.model.unet import can_normalise
from ahm_env.runs.flags import Flag, flag_name, plain

IMAGES = "Images and masks"


@dataclass(frozen=True)
class Settings:
    """Settings that a run is repeated by: plain values, through JSON and back."""

    device: Annotated[str, Flag("cpu, cuda, mps, or auto: the best there is.")] = "auto"
    precision: Annotated[str, Flag("fp32, bf16, or auto: bf16 where there are instructions for it.")] = "auto"

    presets: ClassVar[Mapping[str, dict[str, Any]]] = {}
    free: ClassVar[frozenset[str]] = frozenset(("device",))
    """Settings that may be others when a run goes on."""
    parsers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    """Settings that may be given as text, such as `0.3:0.7`, and what reads them; `str` writes them again."""

    def __post_init__(self) -> None:
        for name, parse in self.parsers.items():
            object.__setattr__(self, name, parse(getattr(self, name)))
        kinds = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            check_kind(flag_name(type(self), field.name), value, kinds[field.name])
            object.__setattr__(self, field.name, plain(value))

    @classmethod
    def asked(cls, preset: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a preset, overridden by what is given (None is not given).

        Raises:
            SettingsError: Unknown preset, or a setting that does not exist.
        """
        if preset is not None and preset not in cls.presets:
            raise SettingsError(f"--preset {preset} is unknown; choose one of {', '.join(cls.presets)}")
        if odd := sorted(set(given) - {field.name for field in fields(cls)}):
            raise SettingsError(f"there is no setting {odd[0]}; see the fields of {cls.__name__}")
        return {**cls.presets.get(preset or "", {}), **{key: one for key, one in given.items() if one is not None}}

    def on_this_machine(self) -> Self:
        """Replace the precision `auto` by what it means here, so that a run goes on elsewhere as it began."""
        return replace(self, precision=find_precision(self.precision, find_device(self.device)))

    def as_dict(self) -> dict[str, Any]:
        """All settings, as JSON can hold them."""
        own = {name: getattr(self, name) for name in self.parsers}
        return {**asdict(self), **{name: str(one) for name, one in own.items() if is_dataclass(one)}}

    def differences(self, given: Mapping[str, Any]) -> list[str]:
        """Names of those given settings that are not this run's; None is not given, nor is a precision of auto.

        A run may go on elsewhere: what is `free` does not count.
        """
        asked = {key: value for key, value in given.items() if value is not None and key not in self.free}
        if asked.get("precision") == "auto":
            del asked["precision"]
        asked |= {key: parse(asked[key]) for key, parse in self.parsers.items() if key in asked}
        return sorted(key for key, value in asked.items() if getattr(self, key, None) != value)

    def changes(self, other: "Settings") -> list[str]:
        """List the names of the settings that another run has otherwise."""
        own, others = self.as_dict(), other.as_dict()
        return sorted(key for key in own if own[key] != others.get(key))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read what `as_dict` gave, now or in an older version: a setting that it did not have has its default.

        Raises:
            SettingsError: A setting is unknown.
        """
        if odd := sorted(set(settings) - {one.name for one in fields(cls)}):
            some = ", ".join(odd[:3]) + (", …" if len(odd) > 3 else "")
            raise SettingsError(f"another command or version wrote these settings ({some} are unknown)")
        return cls(**settings)


@dataclass(frozen=True)
class ImageSettings(Settings):
    """Which images, and how they are read and become pixels."""

    data: Annotated[str, Flag("Images: a folder, a file (.npz, .nii.gz, DICOM), or phantom[:COUNT[:SEED]].")] = (
        "phantom"
    )
    image_size: Annotated[int, Flag("Size of the square images, pixels a side.", IMAGES)] = 64
    channels: Annotated[int | None, Flag("Number of channels, 1 or 3.", IMAGES, "what the images are")] = None
    fit: Annotated[str, Flag("How images become square: stretch, or pad to keep the aspect ratio.", IMAGES)] = "stretch"
    window: Annotated[
        str | None,
        Flag("Window of CT: lung, bone, brain, soft, or CENTRE,WIDTH.", IMAGES, "the file's own"),
    ] = None
    axis: Annotated[str, Flag("Slices of volumes: sagittal, coronal or axial.", IMAGES)] = "axial"
    burned_in: Annotated[
        bool, Flag("Take in DICOM images that say that text, a name perhaps, is burned into them.", IMAGES)
    ] = False
    skip_bad: Annotated[bool, Flag("Go on without images that cannot be read.", IMAGES)] = False

    @property
    def pixels(self) -> PixelSettings:
        """How images become pixels.

        Raises:
            SettingsError: A setting is out of range.
        """
        return PixelSettings(self.image_size, self.channels, self.fit, self.window, self.axis, self.burned_in)

    def load_images(self, source: Source | None = None, progress: Callable[[int, int], None] | None = None) -> ImageSet:
        """Load the images, or those of another source; they are decoded if that was not done before.

        No mask is opened.

        Args:
            source: Instead of `data`.
            progress: Called with (done, total).

        Raises:
            AHMError: The source cannot be read.
        """
        asked = asdict(self.pixels)
        return load_images(source or self.data, skip_bad=self.skip_bad, progress=progress, masks=False, **asked)


def check_norm(norm: str, batch_size: int, image_size: int) -> None:
    """Refuse a U-Net whose deepest level would be normalised by a batch of one pixel.

    Raises:
        SettingsError: It would.
    """
    if not can_normalise(norm, batch_size, image_size):
        raise SettingsError("--batch-size 1 below --image-size 32 has no batch to normalise by; use --norm group")


def check_seed(seed: int) -> None:
    """Refuse what PyTorch cannot take for a random seed.

    Raises:
        SettingsError: It is negative, or has more than 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise SettingsError(f"--seed {seed} must {'not be negative' if seed < 0 else 'be below 2**63'}")
