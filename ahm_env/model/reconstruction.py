"""The Reconstructor: a U-Net that fills in what is hidden, and the loss of every patch."""

from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ahm_env.errors import CheckpointError, SettingsError, TrainingError
from ahm_env.masks import Bools, PatchGrid
from ahm_env.model.devices import as_tensor, find_device, find_precision
from ahm_env.model.optimiser import SharedAdam
from ahm_env.model.ranks import gather, share, sum_gradients
from ahm_env.model.unet import UNet, initialise
from ahm_env.model.weights import Standardisation, copy_state, load_unet, save_unet

SMALLEST_IMAGE = 16  # four halvings


class Reconstructor:
    """A U-Net with its optimiser: hides patches, reconstructs them, and learns from what it missed.

    Args:
        unet: The U-Net; as many input as output channels.
        grid: How images are cut into patches.
        standardisation: Of the images, as many numbers as the U-Net has channels.
        learning_rate: Step size of Adam.
        loss_on: `hidden` (the U-Net learns from hidden patches) or `all`.
        device: Where to compute.
        precision: Of the U-Net's layers: `fp32`, `bf16`, or `auto`, see `find_precision`.

    Raises:
        SettingsError: The U-Net does not map images to images of these channels, or images are too small.
    """

    def __init__(
        self,
        unet: UNet,
        grid: PatchGrid,
        standardisation: Standardisation,
        learning_rate: float = 1e-3,
        loss_on: str = "hidden",
        device: str | torch.device = "cpu",
        precision: str = "auto",
    ) -> None:
        channels = len(standardisation.mean)
        if unet.n_channels != channels or unet.n_classes != channels:
            raise SettingsError(
                f"the U-Net maps {unet.n_channels} channels to {unet.n_classes}, but a reconstruction of these "
                f"images maps {channels} to {channels}; choose other weights or --channels {unet.n_channels}"
            )
        if grid.image_size < SMALLEST_IMAGE:
            raise SettingsError(f"image size {grid.image_size} is too small for a U-Net; use 16 or more")
        if loss_on not in ("hidden", "all"):
            raise SettingsError(f"loss_on {loss_on!r} is unknown; choose hidden or all")
        if not 0 < learning_rate < float("inf"):
            raise SettingsError(f"learning_rate {learning_rate} must be a positive number")
        self.device = find_device(device)
        self.precision = find_precision(precision, self.device)
        self.unet = unet.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.grid = grid
        self.standardisation = standardisation
        self.loss_on = loss_on
        self.mean, self.std = standardisation.tensors(self.device)
        # fill is 0 in standardised units: the channel mean
        self.fill = np.rint(standardisation.mean).clip(0, 255).astype(np.uint8)
        self.optimiser = SharedAdam(unet.parameters(), learning_rate)

    @classmethod
    def create(
        cls,
        grid: PatchGrid,
        standardisation: Standardisation,
        width: int = 16,
        norm: str = "batch",
        seed: int = 0,
        skip_connections: bool = True,
        **settings: Any,
    ) -> "Reconstructor":
        """Build an untrained Reconstructor whose weights depend on `seed` alone."""
        channels = len(standardisation.mean)
        unet = UNet(channels, channels, width, norm, skip_connections=skip_connections)
        initialise(unet, torch.Generator().manual_seed(seed))
        return cls(unet, grid, standardisation, **settings)

    def standardise(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """Images `(B, C, S, S)` uint8 to float32, minus the channel mean, over the channel std."""
        # in this order: broadcasting over channels that come last is several times slower
        return ((as_tensor(images, self.device) - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def hide(self, images: Tensor, masks: Tensor) -> Tensor:
        """x·(1 − M) + fill·M, fill being 0 in standardised units.

        Args:
            images: `(B, C, S, S)`, standardised.
            masks: `(B, N)`, 1 hides.
        """
        return images * (1 - self.grid.to_pixels(masks))

    def reconstruct(self, images: npt.NDArray[np.uint8], masks: Bools) -> npt.NDArray[np.uint8]:
        """Reconstruct the masked images with the U-Net, `(B, C, S, S)` uint8 in and out."""
        self._switch(training=False)
        with torch.inference_mode():
            output, _, _ = self._forward(images, masks)
            pixels = gather(output, len(images)) * self.std + self.mean
        return pixels.clamp(0, 255).round().to(torch.uint8).contiguous().cpu().numpy()

    def patch_losses(
        self, images: npt.NDArray[np.uint8], masks: Bools, training: bool = False
    ) -> npt.NDArray[np.float32]:
        """Patch loss ℓ of every patch, hidden or not, without learning.

        Args:
            images: `(B, C, S, S)` uint8.
            masks: `(B, N)` bool, 1 hides.
            training: As `learn` finds it: BatchNorm takes the statistics of these images, and keeps its own.

        Returns:
            `(B, N)` mean squared error over the pixels and channels of each patch, in standardised intensities.
        """
        self._switch(training)
        statistics = self._statistics() if training else None
        with torch.inference_mode():
            _, losses, _ = self._forward(images, masks)
        if statistics is not None:
            self._put_back(statistics)
        return losses.cpu().numpy()

    def learn(self, images: npt.NDArray[np.uint8], masks: Bools) -> npt.NDArray[np.float32]:
        """One optimiser step on the loss of the hidden patches; the same forward pass gives the patch losses.

        Args:
            images: `(B, C, S, S)` uint8.
            masks: `(B, N)` bool, 1 hides.

        Returns:
            `(B, N)` patch losses before the step.

        Raises:
            TrainingError: The loss or its gradient is not finite; weights and statistics are left as they were.
        """
        self._switch(training=True)
        statistics = self._statistics()
        _, losses, hidden = self._forward(images, masks)
        everything = self.loss_on == "all" or not masks.any()  # an autoencoder hides nothing
        loss = losses.mean() if everything else (losses * hidden).sum() / hidden.sum()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        sum_gradients(self.unet.parameters())
        if not self.optimiser.is_finite(loss):
            self._put_back(statistics)
            raise TrainingError(
                f"the U-Net's loss is no longer finite ({loss.item():.3g}); the step size is probably too large: "
                f"lower --learning-rate"
            )
        self.optimiser.step()
        return losses.detach().cpu().numpy()

    def _forward(self, images: npt.NDArray[np.uint8], masks: Bools) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct this rank's share `(B, C, S, S)`; patch losses and masks `(B, N)` of all; in full precision."""
        targets, hidden = self.standardise(share(images)), as_tensor(masks, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = self.unet(self.hide(targets, share(hidden)))
        output = output.to(targets.dtype)
        losses = self.grid.patch_means((output - targets).square())
        return output, gather(losses, len(images)), hidden

    def _statistics(self) -> list[Tensor]:
        """Copy BatchNorm's statistics, which a pass in training mode changes."""
        return [buffer.clone() for buffer in self.unet.buffers()]

    def _put_back(self, statistics: list[Tensor]) -> None:
        for buffer, before in zip(self.unet.buffers(), statistics, strict=True):
            buffer.copy_(before)

    def _switch(self, training: bool) -> None:
        """Set the U-Net's mode, where it has another: to go through all its layers takes time."""
        if self.unet.training != training:
            self.unet.train(training)

    @property
    def updates(self) -> int:
        """Steps that the optimiser has taken, in all processes."""
        return int(self.optimiser.tensors()["0.step"])

    def state(self) -> dict[str, Tensor]:
        """Every tensor that learning changes: weights, statistics and optimiser; not copies."""
        weights = {f"unet.{name}": tensor for name, tensor in self.unet.state_dict().items()}
        return weights | {f"optimiser.{name}": tensor for name, tensor in self.optimiser.tensors().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to what `state` returned."""
        copy_state(self.state(), state)

    def share_memory(self) -> None:
        """Let several processes learn at once on the same weights, with the same statistics of BatchNorm."""
        self.unet.share_memory()
        self.optimiser.share_memory()

    def frozen(self) -> "Reconstructor":
        """Return one with a copy of the U-Net as it is now, which no process changes; not to learn with."""
        found = copy(self)
        found.unet = deepcopy(self.unet)
        return found

    def save(self, path: str | Path) -> None:
        """Write weights and standardisation; the tensors have the names of Pytorch-UNet."""
        save_unet(Path(path), self.unet, self.standardisation)

    @classmethod
    def load(cls, path: Path, grid: PatchGrid, **settings: Any) -> "Reconstructor":
        """Read what `save` wrote.

        Raises:
            CheckpointError: Damaged, not a U-Net, or without the standardisation of its images.
        """
        unet, standardisation = load_unet(path)
        if standardisation is None:
            raise CheckpointError(
                f"{path}: holds weights but not the mean and std of its images; use a file that `ahm` wrote"
            )
        return cls(unet, grid, standardisation, **settings)
