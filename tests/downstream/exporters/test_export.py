"""Exported networks in the hands of others: onnxruntime, and code that does as Pytorch-UNet's predict.py does."""

import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.pretraining.run_directory import RunDirectory
from agents.pretraining.settings import RunSettings
from ahm_env import CheckpointError, SettingsError, Standardisation, UNet
from ahm_env.model import devices
from ahm_env.model.weights import load_unet, save_unet
from downstream.exporters import export
from downstream.exporters.fold_normalization import fold
from downstream.models.model import MODEL_FILE, Model, ModelSpec
from tests.downstream.tiny import shake

RGB = Standardisation((150.0, 110.0, 70.0), (30.0, 45.0, 60.0))
ON_BLACK = Standardisation((0.0, 0.0, 0.0), (30.0, 45.0, 60.0))
SEGMENTER = ModelSpec(
    task="segmentation",
    model="unet",
    classes=("background", "naevus", "hair"),
    values=(0, 7, 255),
    image_size=32,
    channels=3,
    fit="pad",
    mean=RGB.mean,
    std=RGB.std,
    width=2,
    norm="batch",
    bilinear=False,
)
CLASSIFIER = replace(SEGMENTER, task="classification", classes=("benign", "malignant"), values=())
CARDS = {
    "batch norm": SEGMENTER,
    # 40 px: halved to an odd size, so that the decoder has to pad
    "group norm, bilinear, grey": replace(
        SEGMENTER, norm="group", bilinear=True, channels=1, mean=(100.0,), std=(50.0,), image_size=40
    ),
    "encoder": CLASSIFIER,
    "vgg16": replace(CLASSIFIER, model="vgg16", width=0, norm=""),
}


def make(spec: ModelSpec) -> Model:
    model = Model.create(spec, 0)
    shake(model.network)
    return model


def make_unet(width: int) -> UNet:
    unet = make(replace(SEGMENTER, width=width)).network
    assert isinstance(unet, UNet)
    return unet.eval()


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


# ONNX


@pytest.fixture(scope="module")
def onnx_packages() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)


@pytest.fixture(scope="module", params=CARDS)
def exported(
    request: pytest.FixtureRequest, onnx_packages: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Model, Path, float, list[warnings.WarningMessage]]]:
    """A model, its file, the difference that was measured, and what was warned of."""
    model, path = make(CARDS[request.param]), tmp_path_factory.mktemp("onnx") / "model.onnx"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        difference = export.export_onnx(model, path)
    yield model, path, difference, warned
    path.unlink()


def session_of(path: Path):
    return import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_where_auto_is_bf16_the_file_is_that_of_fp32(tmp_path, monkeypatch, onnx_packages):
    make(next(iter(CARDS.values()))).save(tmp_path / "model.safetensors")
    monkeypatch.setattr(devices, "has_bf16", lambda device: True)
    model = Model.load(tmp_path / "model.safetensors")
    assert model.precision == "bf16"
    assert export.export_onnx(model, tmp_path / "own.onnx") <= 1e-4
    assert export.export(tmp_path / "model.safetensors", tmp_path / "model.onnx").differences[0] <= 1e-4


@pytest.mark.slow
def test_of_a_classifier_of_lesions_the_segmenter_is_asked_for(tmp_path, onnx_packages):
    spec = next(spec for spec in CARDS.values() if spec.task == "classification")
    make(replace(spec, cropped=True)).save(tmp_path / "model.safetensors")
    assert "segmenter.safetensors" in " ".join(export.export(tmp_path, tmp_path / "model.onnx").usage)
    make(spec).save(tmp_path / "model.safetensors")
    assert "segmenter.safetensors" not in " ".join(export.export(tmp_path, tmp_path / "model.onnx").usage)


@pytest.mark.slow
def test_onnxruntime_finds_the_probabilities_that_we_find_in_batches_of_any_size(exported):
    model, path, difference, _ = exported
    assert 0 <= difference <= 1e-4
    session, spec = session_of(path), model.spec
    for count in (1, 2, 5):
        images = random_images(count, spec.channels, spec.image_size, spec.image_size)
        (found,) = session.run(None, {"images": images.astype(np.float32)})
        expected = model.probabilities(images)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-4)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert np.ptp(expected) > 0.01  # there was something to find


@pytest.mark.slow
def test_the_file_alone_says_what_it_takes_and_gives(exported):
    model, path, _, _ = exported
    session, spec = session_of(path), model.spec
    (given,), (made) = session.get_inputs(), session.get_outputs()
    size = [spec.image_size, spec.image_size]
    assert (given.name, given.type, given.shape) == ("images", "tensor(float)", ["batch", spec.channels, *size])
    spread = size if spec.task == "segmentation" else []
    assert [(one.name, one.shape) for one in made] == [("probabilities", ["batch", len(spec.classes), *spread])]
    about = json.loads(session.get_modelmeta().custom_metadata_map["spec"])
    assert ModelSpec.from_dict(about) == spec
    assert about == json.loads(json.dumps(asdict(spec)))


@pytest.mark.slow
def test_the_file_is_the_only_one_and_tells_nothing_about_this_machine(exported):
    _, path, _, warned = exported
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    content = path.read_bytes()
    for place in (Path(export.__file__).parents[2], Path(torch.__file__).parent, Path.home() / "x"):
        assert str(place).encode() not in content
    assert b'File "' not in content
    assert not warned


@pytest.mark.slow
@pytest.mark.parametrize("error", [0.001, -0.001, float("nan")])
@pytest.mark.parametrize("exported", ["batch norm"], indirect=True)
def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch, exported, error):
    (model, traced, _, _), path = exported, tmp_path / "model.onnx"
    path.write_text("the old one")
    monkeypatch.setattr(export, "_trace", lambda model: traced.read_bytes())
    export.export_onnx(model, tmp_path / "right.onnx")
    right = Model.probabilities
    monkeypatch.setattr(Model, "probabilities", lambda self, images: right(self, images) + np.float32(error))
    with pytest.raises(CheckpointError, match=r"model\.onnx: not written, since onnxruntime differs") as refusal:
        export.export_onnx(model, path)
    assert "\n" not in str(refusal.value)
    assert {file.name for file in tmp_path.iterdir()} == {"right.onnx", "model.onnx"}
    assert path.read_text() == "the old one"


def test_an_exporter_that_fails_is_one_line(tmp_path, monkeypatch, onnx_packages):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("step 1/3 failed\nand much more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(CheckpointError, match=r"model\.onnx: cannot be made \(step 1/3 failed\); the versions") as told:
        export.export_onnx(make(SEGMENTER), tmp_path / "model.onnx")
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_a_file_that_onnxruntime_cannot_read_is_not_left_behind(tmp_path, monkeypatch, onnx_packages):
    monkeypatch.setattr(export, "_trace", lambda model: b"no graph")
    with pytest.raises(CheckpointError, match=r"model\.onnx: cannot be made"):
        export.export_onnx(make(SEGMENTER), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_package_that_is_missing_is_named_with_its_remedy(tmp_path, monkeypatch, missing):
    for name in ("onnx", "onnxruntime", "onnxscript"):  # whether installed here or not
        monkeypatch.setitem(sys.modules, name, None if name == missing else sys)
    with pytest.raises(SettingsError, match=rf"({missing}\b.*){{2}}: pip install 'ahm-env\[onnx\]'"):
        export.export_onnx(make(SEGMENTER), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("exported", ["batch norm"], indirect=True)
def test_the_printed_lines_of_python_work(tmp_path, monkeypatch, call, exported):
    monkeypatch.chdir(tmp_path)
    model, traced, _, _ = exported
    monkeypatch.setattr(export, "_trace", lambda model: traced.read_bytes())
    model.save(tmp_path / "run" / MODEL_FILE)
    status, out, errors = call("export", "--from", "run", "--format", "onnx", "--out", "some/model.onnx")
    assert (status, errors) == (0, "")
    written, difference, _, *lines = out.splitlines()
    size = Path("some/model.onnx").stat().st_size
    assert written == f"some/model.onnx: {size / 1e6:.1f} MB"
    assert float(difference.rpartition(" ")[2]) <= 1e-4
    images = random_images(2, 3, 32, 32)
    room = {"json": json, "onnxruntime": import_module("onnxruntime"), "images": images.astype(np.float32)}
    assert len(lines) == 3
    exec("\n".join(line.strip() for line in lines), room)
    assert room["spec"]["classes"] == list(SEGMENTER.classes)
    np.testing.assert_allclose(room["probabilities"], model.probabilities(images), atol=1e-4)


# Pytorch-UNet


def predict(path: Path, image: np.ndarray, n_classes: int, bilinear: bool) -> np.ndarray:
    """What Pytorch-UNet's predict.py does at scale 1: `(S, S, 3)` uint8 to a mask of the values in the file."""
    weights = torch.load(path, map_location="cpu", weights_only=True)
    mask_values = weights.pop("mask_values", [0, 1])
    net = UNet(n_channels=3, n_classes=n_classes, bilinear=bilinear)  # names and shapes are theirs
    net.load_state_dict(weights)
    net.eval()
    pixels = torch.from_numpy(image.transpose(2, 0, 1) / 255).float()[None]
    with torch.no_grad():
        classes = net(pixels).argmax(1)[0].numpy()
    return np.asarray(mask_values, dtype=np.uint8)[classes]


@pytest.mark.slow
@pytest.mark.parametrize("bilinear", [False, True])
def test_pytorch_unet_draws_the_mask_that_we_draw(tmp_path, call, bilinear):
    # the mean is black, so that padding is the same in both
    spec = replace(SEGMENTER, width=64, bilinear=bilinear, mean=ON_BLACK.mean)
    model = make(spec)
    run, path = tmp_path / "run", tmp_path / "model.pth"
    model.save(run / MODEL_FILE)
    status, out, errors = call("export", "--from", str(run), "--format", "pytorch-unet", "--out", str(path))
    assert (status, errors) == (0, "")
    image = random_images(32, 32, 3)
    ours = model.probabilities(image.transpose(2, 0, 1)[None])[0]
    mask = predict(path, image, 3, bilinear)
    clear = np.diff(np.sort(ours, 0)[1:], axis=0)[0] > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(mask[clear], np.array(spec.values)[ours.argmax(0)][clear])
    assert len(np.unique(mask)) > 1
    assert f"--model {path} --classes 3 {'--bilinear ' if bilinear else ''}--scale 1" in out
    assert "32 x 32 pixels" in out
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["model.pth"]


@pytest.mark.slow
def test_the_difference_at_the_border_is_measured_and_told(tmp_path):
    unet = make_unet(width=64)
    inside, border = export.export_pytorch_unet(unet, RGB, (0, 7, 255), 32, tmp_path / "model.pth")
    assert inside <= 1e-4
    images = np.random.default_rng(2).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)  # as in the export
    theirs, _ = load_unet(tmp_path / "model.pth")
    model = Model(replace(SEGMENTER, width=64), unet)
    with torch.no_grad():
        found = theirs.eval()(torch.from_numpy(images).float() / 255).softmax(1).numpy()
    assert np.abs(found - model.probabilities(images)).max() == pytest.approx(border, rel=0.01)
    assert border > 1e-3


@pytest.mark.slow
def test_weights_that_compute_nothing_are_not_written(tmp_path):
    unet = make_unet(width=64)
    unet.outc.conv.weight.data[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"model\.pth: not written, since the exported U-Net differs"):
        export.export_pytorch_unet(unet, RGB, (0, 7, 255), 32, tmp_path / "model.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (SEGMENTER, r"has width 2 with norm batch; train one with --width 64 --norm batch, or export .* onnx"),
        (replace(SEGMENTER, norm="group"), "width 2 with norm group"),
        (CLASSIFIER, "this model classifies; export it with --format onnx"),
        (CARDS["vgg16"], "this model classifies"),
    ],
)
def test_what_pytorch_unet_cannot_be_is_refused(tmp_path, spec, says):
    Model.create(spec, 0).save(tmp_path / "run" / MODEL_FILE)
    out = tmp_path / "model.pth"
    with pytest.raises(SettingsError, match=says):
        export.export(tmp_path / "run", out, "pytorch-unet")
    assert not out.exists()


def test_group_norm_of_the_right_width_is_refused(tmp_path):
    with torch.device("meta"):
        unet = UNet(3, 2, 64, "group")
    with pytest.raises(SettingsError, match="width 64 with norm group"):
        export.export_pytorch_unet(unet, RGB, (0, 1), 32, tmp_path / "model.pth")


# A pretrained U-Net


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    run = RunDirectory(tmp_path / "pretrained")
    run.path.mkdir()
    run.write_config(RunSettings.make(image_size=32, width=64, algo="random"), {})
    save_unet(run.path / "unet.safetensors", make_unet(width=64), RGB)
    return run.path


@pytest.mark.slow
def test_a_pretrained_unet_is_fine_tuned_elsewhere_with_the_printed_lines(pretrained, tmp_path, call):
    path = tmp_path / "unet.pth"
    status, out, errors = call("export", "--from", str(pretrained), "--format", "pytorch-unet", "--out", str(path))
    assert (status, errors) == (0, "")
    assert "UNet(n_channels=3, n_classes=…, bilinear=False)" in out
    net = UNet(3, 2)
    last = net.outc.conv.weight.clone()
    exec("\n".join(line.strip() for line in out.splitlines()[-3:]), {"torch": torch, "net": net})
    expected = fold(make_unet(width=64).state_dict(), RGB)
    assert torch.equal(net.outc.conv.weight, last)
    for name, tensor in net.state_dict().items():
        assert name.startswith("outc.") or torch.equal(tensor, expected[name]), name
    # as Pytorch-UNet's train.py --load does with --classes 3
    weights = torch.load(path, weights_only=True)
    del weights["mask_values"]
    UNet(3, 3).load_state_dict(weights)


@pytest.mark.slow
def test_of_a_unet_pretrained_without_skip_connections_the_printed_lines_take_the_encoder(pretrained, tmp_path, call):
    unet = make_unet(width=64)
    unet.skip_connections = False
    save_unet(pretrained / "unet.safetensors", unet, RGB)
    path = tmp_path / "unet.pth"
    status, out, errors = call("export", "--from", str(pretrained), "--format", "pytorch-unet", "--out", str(path))
    assert (status, errors) == (0, "")
    assert "only its encoder, for its decoder has never seen skip connections" in out
    net = UNet(3, 2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    exec("\n".join(line.strip() for line in out.splitlines()[-3:]), {"torch": torch, "net": net})
    expected = before | {
        name: tensor for name, tensor in fold(unet.state_dict(), RGB).items() if name.startswith(("inc.", "down"))
    }
    assert all(torch.equal(tensor, expected[name]) for name, tensor in net.state_dict().items())


def test_a_pretrained_unet_is_no_onnx_model(tmp_path):
    pretrained = tmp_path / "pretrained"
    pretrained.mkdir()
    (pretrained / "unet.safetensors").touch()
    with pytest.raises(SettingsError, match=r"fine-tune it with `ahm finetune --from .*pretrained`"):
        export.export(pretrained, tmp_path / "model.onnx", "onnx")


# The command


def test_an_unknown_format_is_named(tmp_path):
    with pytest.raises(SettingsError, match="--format 'tflite' is unknown; choose onnx or pytorch-unet"):
        export.export(tmp_path, tmp_path / "model", "tflite")


def test_a_directory_without_a_model_is_named_in_one_line(tmp_path, call):
    status, _, errors = call("export", "--from", str(tmp_path), "--out", str(tmp_path / "model.onnx"))
    assert status == 2
    assert errors == f"error: {tmp_path}: holds no {MODEL_FILE}; give the directory that `ahm finetune` wrote\n"


@pytest.mark.parametrize(("form", "ending"), [("onnx", ".onnx"), ("pytorch-unet", ".pth")])
def test_a_slip_overwrites_nothing(tmp_path, form, ending):
    (tmp_path / "labels.csv").write_text("mine")
    (tmp_path / f"full{ending}").mkdir()
    for name in ("labels.csv", f"full{ending}", "."):
        with pytest.raises(SettingsError, match=rf"(must end|is a directory.* that ends) in \{ending}"):
            export.export(tmp_path, tmp_path / name, form)
    assert (tmp_path / "labels.csv").read_text() == "mine"
