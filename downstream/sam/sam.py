"""Segment Anything (Kirillov et al. 2023, arXiv:2304.02643): a prompt in, one mask out; weights from a local directory.

Only the network is taken from `transformers`. Weights are read by ourselves, from safetensors, so that neither another
file format nor code nor the network can come into play; images are resized and padded here, because the library's own
processor needs torchvision.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ahm_env.errors import CheckpointError, SettingsError
from ahm_env.files import first_line, load_tensors
from ahm_env.images.pixels.fit import Image8
from ahm_env.images.pixels.opencv import cv2
from ahm_env.masks import Bools, Floats
from downstream.sam.prompts import Prompt

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB in 0..1, SAM's own
SHARED = "shared_image_embedding.positional_embedding"
SHARES_IT = "prompt_encoder.shared_embedding.positional_embedding"


@dataclass(frozen=True)
class Frame:
    """Where an image lies in SAM's square: at the top left, its longest side as long as the square's.

    Attributes:
        height: Of the original image, in pixels.
        width: Of the original image.
        side: Of the square.
    """

    height: int
    width: int
    side: int

    @property
    def inner(self) -> tuple[int, int]:
        """Height and width of the image within the square; the rest, below it or to its right, is padding."""
        scale = self.side / max(self.height, self.width)
        return max(1, int(self.height * scale + 0.5)), max(1, int(self.width * scale + 0.5))

    def into(self, places: Floats) -> Tensor:
        """Move places `(..., 2)`, x and y in pixels of the original image, into the square: float32."""
        height, width = self.inner
        moved = places * (width / self.width, height / self.height)
        return torch.from_numpy(moved.astype(np.float32))

    def back(self, logits: Tensor) -> Tensor:
        """Brings logits `(h, w)` of the whole square, at any resolution, to the original image: `(height, width)`."""
        height, width = self.inner
        square = _resize(logits, self.side, self.side)
        return _resize(square[:height, :width], self.height, self.width)


class SegmentAnything:
    """A frozen SAM.

    Args:
        model: A `transformers.SamModel`.
        mean: Of RGB in 0..1, three numbers.
        std: The same.
        device: Where it computes.

    Attributes:
        side: Of the square that it sees, in pixels.
    """

    def __init__(self, model: Any, mean: Floats, std: Floats, device: torch.device) -> None:
        self._model = model.to(device).eval().requires_grad_(False)
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device)[:, None, None] for values in (mean, std)
        )
        self._device = device
        self.side: int = model.config.vision_config.image_size

    @classmethod
    def load(cls, directory: Path, device: torch.device) -> "SegmentAnything":
        """Read `config.json`, `model.safetensors` and, where there is one, `preprocessor_config.json`.

        Raises:
            CheckpointError: One of them is missing, damaged, or not of a SAM.
            SettingsError: `transformers` is not installed.
        """
        config = _read_config(directory)
        weights = weights_file(directory)
        try:
            from transformers import SamConfig, SamModel
        except ImportError as error:
            raise SettingsError(
                f"Segment Anything needs the package transformers ({first_line(error)}): pip install 'ahm-env[sam]'"
            ) from None
        tensors, _ = load_tensors(weights)
        if SHARED in tensors:  # files hold what is shared once
            tensors.setdefault(SHARES_IT, tensors[SHARED])
        try:
            settings = SamConfig.from_dict(config)
            settings._attn_implementation = "sdpa"  # a config may name one that the library would download
            model: Any = SamModel(settings)
            model.float().load_state_dict(tensors)
        except Exception as error:  # the library raises errors of many kinds on a config that makes no sense
            raise CheckpointError(
                f"{weights}: does not fit the config.json beside it ({shorten(str(error), 200)}); "
                f"copy both from the same model"
            ) from None
        return cls(model, *_read_standardisation(directory), device)

    @torch.inference_mode()
    def segment(self, image: Image8, prompt: Prompt) -> tuple[Bools, float]:
        """Segments one image.

        Of all proposals, the one with the highest predicted IoU is taken whose mask has the wanted coverage; where none
        has, the one with the highest predicted IoU.

        Args:
            image: `(H, W, 3)` uint8, RGB.
            prompt: What to segment.

        Returns:
            The mask, `(H, W)` bool, and its predicted IoU.

        Raises:
            CheckpointError: The model gives values that are not finite.
        """
        frame = Frame(image.shape[0], image.shape[1], self.side)
        found = self._model(self._standardised(image, frame), **self._questions(prompt, frame))
        proposals, scores = found.pred_masks[0].flatten(0, 1), found.iou_scores[0].flatten()
        if not (scores.isfinite().all() and proposals.isfinite().all()):
            raise CheckpointError(
                "Segment Anything gave values that are not finite: its weights are damaged; copy them again"
            )
        least, most = prompt.coverage
        order = scores.argsort(descending=True).tolist()
        masks = ((index, frame.back(proposals[index]) > 0) for index in order)
        fitting = (one for one in masks if least <= one[1].float().mean() <= most)
        best, mask = next(fitting, None) or (order[0], frame.back(proposals[order[0]]) > 0)
        return mask.cpu().numpy(), float(scores[best])

    def _standardised(self, image: Image8, frame: Frame) -> Tensor:
        height, width = frame.inner
        way = cv2.INTER_AREA if self.side < max(image.shape[:2]) else cv2.INTER_LINEAR
        resized = torch.from_numpy(cv2.resize(image, (width, height), interpolation=way)).to(self._device)
        values = (resized.permute(2, 0, 1).float() / 255 - self._mean) / self._std
        return functional.pad(values, (0, self.side - width, 0, self.side - height))[None]

    def _questions(self, prompt: Prompt, frame: Frame) -> dict[str, Tensor]:
        questions = {}
        if prompt.points is not None and prompt.labels is not None:
            questions["input_points"] = frame.into(prompt.points)
            questions["input_labels"] = torch.from_numpy(prompt.labels)
        if prompt.boxes is not None:
            questions["input_boxes"] = frame.into(prompt.boxes.reshape(-1, 2, 2)).flatten(1)
        return {name: tensor[None].to(self._device) for name, tensor in questions.items()}


def weights_file(directory: Path) -> Path:
    """Find the file with the weights.

    Raises:
        CheckpointError: There is none.
    """
    weights = directory / "model.safetensors"
    if weights.is_file():
        return weights
    others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    pickled = f"; {others[0]} is a pickle, which can execute code, and is not read" if others else ""
    raise CheckpointError(f"{weights}: no such file{pickled}; save the model in one piece with safetensors")


def _read_config(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise CheckpointError(
            f"{directory}: no such directory; give one with config.json and model.safetensors of a SAM"
        )
    path = directory / "config.json"
    config = _read_json(path)
    kind = config.get("model_type")
    if kind != "sam":
        raise CheckpointError(f"{path}: model_type is {kind!r}, not 'sam'; give the directory of a Segment Anything")
    return config


def _read_standardisation(directory: Path) -> tuple[Floats, Floats]:
    path = directory / "preprocessor_config.json"
    config = _read_json(path) if path.exists() else {}
    try:
        mean, std = np.array([config.get("image_mean", MEAN), config.get("image_std", DEVIATION)], np.float64)
    except (TypeError, ValueError):
        mean = std = np.zeros(0)
    if mean.shape != (3,) or not np.isfinite([mean, std]).all() or (std <= 0).any():
        raise CheckpointError(f"{path}: image_mean or image_std is not three numbers; copy it again, or delete it")
    return mean, std


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; copy it from where the weights are from") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged ({first_line(error)}); copy it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no settings; copy it again")
    return content


def _resize(logits: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(logits[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]
