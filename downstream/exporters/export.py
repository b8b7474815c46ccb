"""Trained networks for other programs: ONNX for any runtime, and state dicts for milesial/Pytorch-UNet.

Mirror images (`--tta`) are no part of what is exported.
"""

import json
import logging
import warnings
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ahm_env import CheckpointError, SettingsError, Standardisation, UNet
from ahm_env.files import Saved, atomic, check_name, first_line, path_of
from downstream.evaluation.cropping import SEGMENTER_FILE
from downstream.exporters.fold_normalization import fold, fold_differences
from downstream.models.model import MODEL_FILE, Model
from downstream.models.pretrained import PretrainedWeights

FORMATS = {"onnx": ".onnx", "pytorch-unet": ".pth"}  # and how their files end
TOLERANCE = 1e-4
PUBLISHED_WIDTH = 64  # of Pytorch-UNet, which has no other
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class WholeModel(nn.Module):
    """A model from pixels to probabilities, standardisation included.

    Args:
        model: On the CPU.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.network
        mean, std = Standardisation(model.spec.mean, model.spec.std).tensors(model.device)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, C, S, S)` float32 in 0..255 to probabilities, `(B, K, S, S)` or `(B, K)`."""
        return self.network((images - self.mean) / self.std).softmax(1)  # type: ignore[no-any-return]


def export_onnx(model: Model, out: Path) -> float:
    """Write a fine-tuned model as one ONNX file, after onnxruntime has shown that it computes the same.

    Input `images`: `(B, C, S, S)` float32 in 0..255, any B. Output `probabilities`: `(B, K, S, S)` of segmentation,
    `(B, K)` of classification. The spec is JSON under the key `spec` of the file's metadata.

    Args:
        model: On the CPU.
        out: File to write.

    Returns:
        The largest difference from PyTorch's probabilities, on random images in batches of 1 and 3.

    Raises:
        SettingsError: A package is not installed.
        CheckpointError: It cannot be written as ONNX, or computes something else; no file is written.
    """
    try:
        for name in _PACKAGES:
            import_module(name)
    except ImportError as error:
        raise SettingsError(
            f"--format onnx needs the packages {', '.join(_PACKAGES)} ({first_line(error)}): "
            f"pip install 'ahm-env[onnx]'"
        ) from None
    model = Model(model.spec, model.network, precision="fp32")  # in which the file computes
    try:
        content = _trace(model)
        with atomic(out) as temporary:
            temporary.write_bytes(content)
            difference = _onnx_difference(model, temporary)
            _check(difference, out, "onnxruntime", f"update {', '.join(_PACKAGES)}")
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # each of these packages has errors of its own
        raise CheckpointError(
            f"{out}: cannot be made ({first_line(error)}); the versions of torch, {', '.join(_PACKAGES)} may not go "
            f"together: update them"
        ) from error
    return difference


def export_pytorch_unet(
    unet: UNet, standardisation: Standardisation, mask_values: tuple[int, ...] | None, image_size: int, out: Path
) -> tuple[float, float]:
    """Write a U-Net as a `.pth` state dict for Pytorch-UNet, standardisation folded in; see `fold`.

    Args:
        unet: Of width 64 with norm batch; on the CPU. Where its skip connections are cut, Pytorch-UNet, which has them,
            computes the same in the encoder only.
        standardisation: Of its images.
        mask_values: What stands for each class in a mask; None if the U-Net reconstructs images.
        image_size: S, for the check on random images.
        out: File to write.

    Returns:
        The largest difference of the outputs (probabilities, or pixels in 0..1) where images are padded with their
        mean, as this project does, and the largest where they are padded with black, as Pytorch-UNet does.

    Raises:
        SettingsError: Another width or norm.
        CheckpointError: The file computes something else; no file is written.
    """
    if unet.width != PUBLISHED_WIDTH or unet.norm != "batch":
        other = "" if mask_values is None else ", or export this one with --format onnx"
        raise SettingsError(
            f"--format pytorch-unet needs a U-Net of width {PUBLISHED_WIDTH} with norm batch, but this one has width "
            f"{unet.width} with norm {unet.norm}; train one with --width {PUBLISHED_WIDTH} --norm batch{other}"
        )
    reconstructs = mask_values is None
    tensors = fold(unet.state_dict(), standardisation, reconstructs)
    with atomic(out) as temporary:
        # Pytorch-UNet's train.py and predict.py take mask_values out before they load the rest
        values = list(range(unet.n_classes) if mask_values is None else mask_values)
        torch.save({**tensors, "mask_values": values}, temporary)
        folded = deepcopy(unet).eval()
        written = torch.load(temporary, weights_only=True)
        del written["mask_values"]
        folded.load_state_dict(written)
        images = torch.from_numpy(_random_images(2, unet.n_channels, image_size)).float()
        inside, border = fold_differences(unet, folded, standardisation, images, reconstructs)
        _check(inside, out, "the exported U-Net", "fine-tune it again: its weights may not be finite")
    return inside, border


@dataclass(frozen=True)
class Exported:
    """A file for other programs.

    Attributes:
        path: The file.
        differences: The largest from PyTorch's outputs on random images; of `pytorch-unet` also that with its padding.
        accuracy: The same as a sentence.
        usage: How to use it, line by line.
    """

    path: Path
    differences: tuple[float, ...]
    accuracy: str
    usage: tuple[str, ...]


def export(source: str | Path | Saved, out: str | Path, form: str = "onnx") -> Exported:
    """Export a network as a file for other programs.

    Args:
        source: A fine-tuned model, or its directory; for `pytorch-unet` also a run of pretraining, whose U-Net others
            can then fine-tune in their own code.
        out: File to write.
        form: `onnx` or `pytorch-unet`.

    Returns:
        How exact the file is, and how to use it.

    Raises:
        AHMError: Anything that the user can mend.
    """
    path, out = path_of(source), Path(out)
    if form not in FORMATS:
        raise SettingsError(f"--format {form!r} is unknown; choose {' or '.join(FORMATS)}")
    check_name(out, FORMATS[form])  # else a slip overwrites a model or an image
    if path.is_dir() and not (path / MODEL_FILE).is_file() and (path / "unet.safetensors").is_file():
        return _export_pretrained(path, form, out)
    return _export_model(Model.load(path), form, out)


def _export_model(model: Model, form: str, out: Path) -> Exported:
    spec = model.spec
    if form == "onnx":
        difference = export_onnx(model, out)
        images = f"(B, {spec.channels}, {spec.image_size}, {spec.image_size})"
        lines: tuple[str, ...] = (
            f"Use it with images {images} float32 in 0..255:",
            f"  session = onnxruntime.InferenceSession({str(out)!r})",
            '  spec = json.loads(session.get_modelmeta().custom_metadata_map["spec"])',
            '  probabilities = session.run(None, {"images": images})[0]',
        )
        if spec.cropped:
            lines = (
                "This classifier looks at parts of images, squares around what its segmenter finds:",
                f"  export {SEGMENTER_FILE}, beside it, too, and cut images as lesion_box does in",
                "  downstream/evaluation/cropping.py.",
                *lines,
            )
        accuracy = f"largest difference from PyTorch's probabilities: {difference:.1e}"
        return Exported(out, (difference,), accuracy, lines)
    if not isinstance(model.network, UNet):
        raise SettingsError(
            "--format pytorch-unet is for segmentation, but this model classifies; export it with --format onnx"
        )
    unet, standardisation = model.network, Standardisation(spec.mean, spec.std)
    differences = export_pytorch_unet(unet, standardisation, spec.values, spec.image_size, out)
    grey = ["  (with UNet(n_channels=1, …) in predict.py: this model's images are grey)"] if spec.channels == 1 else []
    bilinear = " --bilinear" if spec.bilinear else ""
    usage = (
        f"Use it in Pytorch-UNet, on images of {spec.image_size} x {spec.image_size} pixels:",
        f"  python predict.py --model {out} --classes {unet.n_classes}{bilinear} --scale 1 --input IMAGE --output MASK",
        *grey,
    )
    return Exported(out, differences, _accuracy(differences, "probabilities"), usage)


def _export_pretrained(run: Path, form: str, out: Path) -> Exported:
    if form == "onnx":
        raise SettingsError(
            f"{run}: a pretrained U-Net reconstructs images and finds nothing in them; fine-tune it with `ahm finetune "
            f"--from {run}` and export that, or export this one with --format pytorch-unet"
        )
    start = PretrainedWeights.find(str(run))
    if start.unet is None or start.standardisation is None:
        raise CheckpointError(
            f"{run}: its U-Net comes without the mean and std of its images; use a run that `ahm` wrote"
        )
    unet = start.unet
    differences = export_pytorch_unet(unet, start.standardisation, None, start.run["image_size"], out)
    what, kept = "all but its last layer", 'not name.startswith(("mask_values", "outc."))'
    if not unet.skip_connections:
        what, kept = "only its encoder, for its decoder has never seen skip connections", 'name[:4] in ("inc.", "down")'
    usage = (
        f"Fine-tune it, images in 0..1, from net = UNet(n_channels={unet.n_channels}, n_classes=…, "
        f"bilinear={unet.bilinear}), {what}:",
        f"  weights = torch.load({str(out)!r}, weights_only=True)",
        f"  weights = {{name: one for name, one in weights.items() if {kept}}}",
        "  net.load_state_dict(weights, strict=False)",
    )
    return Exported(out, differences, _accuracy(differences, "pixels in 0..1"), usage)


def _accuracy(differences: tuple[float, float], of: str) -> str:
    inside, border = differences
    return (
        f"largest difference of {of} on random images: {inside:.1e}, and {border:.1e} with Pytorch-UNet's padding "
        f"(black at the border, not the images' mean)"
    )


def _trace(model: Model) -> bytes:
    """Export the model as ONNX, without what the exporter writes about this machine's files."""
    spec = model.spec
    example = torch.zeros(2, spec.channels, spec.image_size, spec.image_size)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that torchvision is missing, which is not needed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's about its own code
            program = torch.onnx.export(
                WholeModel(model).eval(),
                (example,),
                input_names=["images"],
                output_names=["probabilities"],
                dynamic_shapes=({0: "batch"},),
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    proto: Any = program.model_proto
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]  # stack traces, with the paths of source files
    proto.metadata_props.add(key="spec", value=json.dumps(asdict(spec)))
    return bytes(proto.SerializeToString())


def _onnx_difference(model: Model, path: Path) -> float:
    onnxruntime: Any = import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for count in (1, 3):
        images = _random_images(count, model.spec.channels, model.spec.image_size)
        found = session.run(["probabilities"], {"images": images.astype(np.float32)})[0]
        differences.append(np.abs(found - model.probabilities(images)).max())
    return float(np.max(differences))


def _random_images(count: int, channels: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(count).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def _check(difference: float, out: Path, what: str, remedy: str) -> None:
    if not difference <= TOLERANCE:  # NaN is not, either
        raise CheckpointError(
            f"{out}: not written, since {what} differs from PyTorch's model by {difference:.1e}, and {TOLERANCE:.0e} "
            f"is allowed; {remedy}"
        )
