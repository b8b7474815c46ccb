"""The run directory: what a run of pretraining is and measured, and the frames of its history."""

from pathlib import Path
from typing import Self

from agents.pretraining.settings import RunSettings
from agents.pretraining.snapshots import Frame, load_frame, save_frame
from ahm_env import RunError
from ahm_env.runs.directory import Directory, Row

COLUMNS = (
    "images",
    "seconds",
    "images_per_second",
    "unet_loss",
    "reward",
    "hardness_sampled",
    "hardness_likeliest",
    "entropy",
    "agent_share",
    "mask_ratio",
    "policy_loss",
    "value_loss",
    "unet_updates",
    "reference_hardness_sampled",
    "reference_hardness_likeliest",
    "staleness",
    "refused",
)


class RunDirectory(Directory[RunSettings]):
    """A run of pretraining on disk, held by one process at a time. Use as a context manager."""

    settings_type = RunSettings
    columns = COLUMNS

    @classmethod
    def open(cls, path: Path) -> tuple[Self, RunSettings]:
        """Return the directory of a run that is only read, and its settings.

        Raises:
            RunError: There is no run of pretraining, or its `config.json` is damaged.
        """
        remedy = "give the directory that `ahm train-agent` wrote"
        if not (path / "config.json").is_file():
            raise RunError(f"{path}: holds no run; {remedy}")
        directory = cls(path)
        directory.instead = remedy
        settings = directory.settings()
        assert settings is not None
        return directory, settings

    def save_frame(self, frame: Frame) -> None:
        """Add a frame to the history."""
        save_frame(self.path / "frames" / f"{frame.images:012d}.safetensors", frame)

    def frames(self) -> list[Frame]:
        """Read the history, from the first frame to the last.

        Raises:
            CheckpointError: A frame is damaged.
        """
        return [load_frame(path) for path in sorted((self.path / "frames").glob("[0-9]*.safetensors"))]

    def restore(self, rows: list[Row], images: int) -> None:
        """Cut `metrics.csv` and TensorBoard back to these rows, and the history to so many images."""
        for path in (self.path / "frames").glob("[0-9]*.safetensors"):
            if int(path.stem) > images:
                path.unlink()
        super().restore(rows, images)
