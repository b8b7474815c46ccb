"""What fine-tuning makes: a network with a description of its images and classes, in one file that anyone can load."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, get_args, get_type_hints

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ahm_env import CheckpointError, SettingsError, Standardisation, UNet
from ahm_env.errors import check_kind
from ahm_env.files import first_line, load_tensors, save_tensors
from ahm_env.images.pixels.fit import PixelSettings
from ahm_env.model.devices import as_tensor, find_device, find_precision
from ahm_env.model.ranks import BatchNorm1d, gather, share
from ahm_env.model.reconstruction import SMALLEST_IMAGE
from ahm_env.model.unet import initialise
from downstream.models.vgg import VGG16

TASKS = ("segmentation", "classification")
MODELS = ("unet", "vgg16")
MODEL_FILE = "model.safetensors"
ENCODER = ("inc", "down1", "down2", "down3", "down4")
DEEP = ENCODER[2:]
_FLIPS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))


@dataclass(frozen=True)
class ModelSpec:
    """What a model is, stored beside its weights.

    Attributes:
        task: `segmentation` or `classification`.
        model: `unet` or `vgg16`.
        classes: Names of the classes; of segmentation the first is the background.
        values: Of segmentation, the number that stands for each class in a mask; else empty.
        ignore: Number in masks that stands for no class: such pixels are kept out of learning and scores.
        image_size: S; images are resized to S x S pixels.
        channels: 1 or 3.
        fit: How images become square: `stretch` or `pad`.
        window: Of DICOM and NIfTI images: which intensities are shown; None is the file's own.
        axis: Of NIfTI volumes: across which axis they are cut.
        mean: Of each channel, in 0..255 units, by which images are standardised.
        std: Likewise.
        width: Channels of the U-Net's first level; 0 for VGG16.
        norm: Of the U-Net.
        bilinear: Of the U-Net.
        cropped: Whether it looks at the lesion that a segmenter finds, not at the whole image.
    """

    task: str
    model: str
    classes: tuple[str, ...]
    values: tuple[int, ...]
    image_size: int
    channels: int
    fit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    width: int
    norm: str
    bilinear: bool
    cropped: bool = False
    window: str | None = None
    axis: str = "axial"
    ignore: int | None = None

    @property
    def pixels(self) -> PixelSettings:
        """How images become the pixels that the model sees."""
        return PixelSettings(self.image_size, self.channels, self.fit, self.window, self.axis)

    @classmethod
    def from_dict(cls, about: Mapping[str, Any]) -> "ModelSpec":
        """Read what `asdict` gave.

        Raises:
            KeyError, TypeError: Something is missing or of another kind.
        """
        lists = ("classes", "values", "mean", "std")
        return cls(
            **{one.name: about[one.name] for one in fields(cls) if one.name in about or one.default is MISSING}
            | {name: tuple(about[name]) for name in lists}
        )

    def check(self) -> None:
        """Refuse a description that fits no model, as one that was damaged or edited by hand.

        Raises:
            SettingsError: A field is of another type or out of range, or does not fit the others.
        """
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            check_kind(name, value, kind)
            for one in value if isinstance(value, tuple) else ():
                check_kind(f"one of {name},", one, get_args(kind)[0])
        _ = self.pixels
        if self.image_size < (smallest := SMALLEST_IMAGE if self.model == "unet" else 32):
            raise SettingsError(f"image_size {self.image_size} is below {smallest}")
        if not len(self.mean) == len(self.std) == self.channels:
            raise SettingsError(f"mean and std are not those of {self.channels} channels")
        if not all(0 <= mean <= 255 and 0 < std <= 255 for mean, std in zip(self.mean, self.std, strict=True)):
            raise SettingsError("mean or std is outside 0 to 255, or std is 0")
        wanted = len(self.classes) if self.task == "segmentation" else 0
        numbers = {*self.values, *(() if self.ignore is None else (self.ignore,))}
        if len(self.values) != wanted or len(numbers) != wanted + (self.ignore is not None):
            raise SettingsError(f"values are not {wanted} numbers, one a class, each another, and other than ignore")
        if not all(0 <= number <= 255 for number in numbers):
            raise SettingsError("values or ignore are no numbers of a mask, from 0 to 255")


class EncoderClassifier(nn.Module):
    """The encoder of a U-Net, what its levels hold of the whole image, and a linear layer to the classes.

    Of every channel of the three deepest levels: mean, standard deviation and maximum over the image, each standardised
    over the batches seen.
    """

    def __init__(self, unet: UNet, classes: int) -> None:
        super().__init__()
        self._frozen = False
        for name in ENCODER:
            self.add_module(name, getattr(unet, name))
        channels = unet.width * (4 + 8 + 16 // (2 if unet.bilinear else 1))
        self.standardise = BatchNorm1d(3 * channels, affine=False)
        self.head = nn.Linear(3 * channels, classes)

    def freeze(self) -> None:
        """From here on only the layer to the classes learns; the encoder stays as it is, its normalisation too."""
        self._frozen = True
        for name in ENCODER:
            getattr(self, name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As of any module, but for a frozen encoder."""
        super().train(mode)
        for name in ENCODER if self._frozen else ():
            getattr(self, name).eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to logits `(B, K)`."""
        features, pooled = images, list[Tensor]()
        for name in ENCODER:
            features = getattr(self, name)(features)
            if name in DEEP:
                std = (features.var((2, 3), unbiased=False) + 1e-5).sqrt()
                pooled += [features.mean((2, 3)), std, features.amax((2, 3))]
        return self.head(self.standardise(torch.cat(pooled, 1)))  # type: ignore[no-any-return]


class Model:
    """A network and its spec: uint8 images in, probabilities out.

    Args:
        spec: What it is.
        network: Of the kind that the spec names.
        device: Where to compute.
        precision: Of the network's layers: `fp32`, `bf16`, or `auto`, see `find_precision`.
    """

    def __init__(
        self, spec: ModelSpec, network: nn.Module, device: str | torch.device = "cpu", precision: str = "auto"
    ) -> None:
        self.spec = spec
        self.device = find_device(device)
        self.precision = find_precision(precision, self.device)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean, self._std = Standardisation(spec.mean, spec.std).tensors(self.device)

    @classmethod
    def create(cls, spec: ModelSpec, seed: int, device: str | torch.device = "cpu", precision: str = "auto") -> "Model":
        """Build an untrained model whose weights depend on `seed` alone."""
        network = _network(spec)
        generator = torch.Generator().manual_seed(seed)
        initialise(network, generator)
        if isinstance(network, VGG16):
            network.initialise(generator)
        return cls(spec, network, device, precision)

    def logits(self, images: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(B, C, S, S)` in 0..255 to logits: `(B, K, S, S)` of segmentation, `(B, K)` of classification.

        Args:
            images: The images.
            weights: Weights and buffers to compute with, by name; those left out, or all by default, are the network's.
        """
        pixels = share(images).to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            standardised = (pixels - self._mean) / self._std
            made = functional_call(self.network, dict(weights), standardised) if weights else self.network(standardised)
            return gather(made.float(), len(images))

    def predict(self, images: Tensor, tta: bool = False, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Predict the class probabilities of images `(B, C, S, S)` in 0..255, without learning.

        Args:
            images: The images.
            tta: Average over the image and its three mirror images (test-time augmentation).
            weights: As of `logits`.

        Returns:
            `(B, K, S, S)` of segmentation, `(B, K)` of classification; they sum to 1 over K.
        """
        self.network.eval()
        with torch.no_grad():
            pixels, found = images.to(self.device), []
            for axes in _FLIPS if tta else _FLIPS[:1]:
                some = self.logits(pixels.flip(axes), weights).softmax(1)
                found.append(some.flip(axes) if some.ndim == 4 else some)
            return torch.stack(found).mean(0)

    def probabilities(self, images: npt.NDArray[np.uint8], tta: bool = False) -> npt.NDArray[np.float32]:
        """As `predict`, of images `(B, C, S, S)` uint8."""
        return self.predict(as_tensor(images, self.device), tta).cpu().numpy()

    def save(self, path: Path) -> None:
        """Write weights and spec as one file."""
        save_tensors(path, self.network.state_dict(), asdict(self.spec))

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "cpu", precision: str = "auto") -> "Model":
        """Read what `save` wrote.

        Args:
            path: The file, or the directory that `ahm finetune` wrote.
            device: Where to compute.
            precision: Of the network's layers.

        Raises:
            CheckpointError: Missing, damaged, or something else.
        """
        if path.is_dir():
            if not (path / MODEL_FILE).is_file():
                raise CheckpointError(f"{path}: holds no {MODEL_FILE}; give the directory that `ahm finetune` wrote")
            path = path / MODEL_FILE
        weights, about = load_tensors(path)
        try:
            spec = ModelSpec.from_dict(about)
            spec.check()
            network = _network(spec)
            network.load_state_dict(weights)
        except (KeyError, TypeError, RuntimeError, SettingsError) as error:
            reason = first_line(error)
            raise CheckpointError(
                f"{path}: not a fine-tuned model ({reason}); give what `ahm finetune` wrote"
            ) from None
        return cls(spec, network, device, precision)


def _network(spec: ModelSpec) -> nn.Module:
    """Build an untrained network of the kind that a spec describes."""
    if spec.task not in TASKS or spec.model not in MODELS:
        raise SettingsError(f"task {spec.task!r} with model {spec.model!r} is unknown")
    if spec.model == "vgg16":
        return VGG16(len(spec.classes))
    unet = UNet(spec.channels, len(spec.classes), spec.width, spec.norm, spec.bilinear)
    return unet if spec.task == "segmentation" else EncoderClassifier(unet, len(spec.classes))
