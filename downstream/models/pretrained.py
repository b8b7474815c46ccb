"""Where fine-tuning starts from: a run of pretraining, a file of U-Net weights, or nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ahm_env import CheckpointError, Standardisation, UNet
from ahm_env.model.weights import load_unet
from downstream.models.model import ENCODER, MODEL_FILE, Model


@dataclass(frozen=True)
class PretrainedWeights:
    """What is known of a start, and its weights.

    Attributes:
        name: As the user gave it.
        unet: The pretrained U-Net, None for `scratch`.
        standardisation: Of the images it was trained on, where that is known.
        run: Settings of the run it comes from; empty where there is none.
    """

    name: str
    unet: UNet | None
    standardisation: Standardisation | None
    run: Mapping[str, Any]

    @classmethod
    def find(cls, name: str) -> "PretrainedWeights":
        """Read a start: `scratch`, a run directory, or a file of U-Net weights.

        Raises:
            CheckpointError: There is no such thing, or it holds no weights.
            RunError: A directory holds no run of pretraining, or its `config.json` is damaged.
        """
        if name == "scratch":
            return cls(name, None, None, {})
        path = Path(name)
        if not path.is_dir():
            if not path.exists():
                what = "no such run or file; give a run directory, a file of weights or `scratch`"
                raise CheckpointError(f"{name}: {what}")
            return cls(name, *load_unet(path), {})
        if (path / MODEL_FILE).exists():
            raise CheckpointError(f"{name}: holds a fine-tuned model; give the directory that `ahm train-agent` wrote")
        from agents.pretraining.run_directory import RunDirectory

        settings = RunDirectory.open(path)[1]
        if not (path / "unet.safetensors").is_file():
            raise CheckpointError(
                f"{name}: this run has no weights yet; finish it with `ahm train-agent --resume --out {name}`"
            )
        return cls(name, *load_unet(path / "unet.safetensors"), settings.as_dict())

    def transfer(self, model: Model, encoder_only: bool) -> None:
        """Copy the pretrained weights into a model: all but the last layer, or those of the encoder.

        Raises:
            CheckpointError: They do not fit.
        """
        if self.unet is None:
            return
        own = model.network.state_dict()
        given = {name: tensor for name, tensor in self.unet.state_dict().items() if not name.startswith("outc.")}
        if encoder_only or model.spec.task == "classification":
            given = {name: tensor for name, tensor in given.items() if name.partition(".")[0] in ENCODER}
        parts = {name.partition(".")[0] for name in given}
        wanted = {name: tensor.shape for name, tensor in own.items() if name.partition(".")[0] in parts}
        if wanted != {name: tensor.shape for name, tensor in given.items()}:
            raise CheckpointError(
                f"{self.name}: its U-Net (width {self.unet.width}, {self.unet.n_channels} channels, norm "
                f"{self.unet.norm}) does not fit the model (width {model.spec.width}, {model.spec.channels} channels, "
                f"norm {model.spec.norm}); leave out --width and --channels"
            )
        model.network.load_state_dict({**own, **given})
