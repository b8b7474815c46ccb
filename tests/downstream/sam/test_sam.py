"""Segment Anything as an annotator: geometry, prompts, weights, and the labelled source that comes of it."""

import json
import shutil
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ahm_env import CheckpointError, ImageError, RunError, SettingsError, load_images
from ahm_env.files import read_rows, write_rows
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.pixels.fit import PixelSettings
from downstream.evaluation.metrics import score_mask
from downstream.sam.annotation import Annotation, check_annotation
from downstream.sam.annotation import annotate as draw
from downstream.sam.prompts import (
    PointTable,
    Prompt,
    box_prompt,
    centre_prompt,
    find_prompts,
    grid_prompt,
    points_prompt,
)
from downstream.sam.sam import DEVIATION, MEAN, Frame, SegmentAnything

CPU = torch.device("cpu")
SIDE = 64


def annotate(sam: Path, prompt: str, data: str, out: Path, split: str = "all", device: str = "auto") -> Annotation:
    """The function, its arguments in the order in which these tests name them."""
    return draw(sam, data, out, prompt=prompt, split=split, device=device)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAM of a few thousand weights, as `transformers` saves it; random, but its masks depend on image and prompt."""
    pytest.importorskip("transformers")
    from transformers import SamConfig, SamModel

    torch.manual_seed(0)
    shared = {"hidden_size": 16, "image_size": SIDE, "patch_size": 8}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 32}
    windows = {"window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 8, "output_channels": 16}
    decoder = {"hidden_size": 16, "iou_head_hidden_dim": 16, **layers}
    model = SamModel(
        SamConfig(
            vision_config={**shared, **layers, **windows},
            prompt_encoder_config={**shared, "mask_input_channels": 4},
            mask_decoder_config=decoder,
        )
    )
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1 and "positional" not in name:
                weights.normal_(std=0.5)
    directory = tmp_path_factory.mktemp("sam")
    model.save_pretrained(directory)
    return directory


@pytest.fixture
def own(tiny: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "own"))


class Spots(torch.nn.Module):
    """In place of the network: proposal j of a question is a disc of radius side (2 j + 1) / 32 around its point."""

    def __init__(self, scores: list[list[float]], side: int = SIDE) -> None:
        super().__init__()
        self.config = SimpleNamespace(vision_config=SimpleNamespace(image_size=side))
        self.scores, self.side, self.seen = scores, side, torch.zeros(0)

    def forward(self, pixels: torch.Tensor, input_points: torch.Tensor, input_labels: torch.Tensor) -> SimpleNamespace:
        self.seen = pixels
        places = (torch.arange(self.side // 4) + 0.5) * 4
        x, y = (input_points[0, :, 0, axis, None, None] for axis in (0, 1))
        distances = ((places[None, None] - x) ** 2 + (places[None, :, None] - y) ** 2).sqrt()
        radii = [self.side * (2 * j + 1) / 32 for j in range(len(self.scores[0]))]
        proposals = torch.stack([radius - distances for radius in radii], dim=1)
        return SimpleNamespace(pred_masks=proposals[None], iou_scores=torch.tensor(self.scores)[None])


def with_spots(scores: list[list[float]], side: int = SIDE) -> SegmentAnything:
    return SegmentAnything(Spots(scores, side), np.array(MEAN), np.array(DEVIATION), CPU)


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def write_folder(path: Path, sizes: list[tuple[int, int]], masks: bool = True) -> Path:
    rng = np.random.default_rng(1)
    (path / "images").mkdir(parents=True)
    (path / "masks").mkdir()
    lines = ["image,label,split"]
    for index, (height, width) in enumerate(sizes):
        ending = ".jpg" if index % 2 else ".png"
        cv2.imwrite(str(path / "images" / f"scan{index}{ending}"), rng.integers(0, 255, (height, width, 3), np.uint8))
        if masks:
            truth = np.zeros((height, width), np.uint8)
            truth[2 : height // 2, 3 : width // 2] = 255
            cv2.imwrite(str(path / "masks" / f"scan{index}.png"), truth)
        lines.append(f"scan{index},{('naevus', 'melanoma', '')[index % 3]},{('train', 'val', 'test')[index % 3]}")
    (path / "labels.csv").write_text("\n".join(lines) + "\n")
    return path


# Geometry


def test_an_image_lies_at_the_top_left_of_the_square():
    frame = Frame(height=30, width=60, side=64)
    assert frame.inner == (32, 64)
    assert frame.into(np.array([[0.0, 0.0], [30.0, 15.0], [60.0, 30.0]])).tolist() == [[0, 0], [32, 16], [64, 32]]
    assert Frame(600, 450, 1024).inner == (1024, 768)
    assert Frame(1, 5000, 64).inner == (1, 64)  # never nothing


def test_the_padding_is_cut_off_on_the_way_back():
    logits = torch.full((16, 16), -1.0)
    logits[:8] = 1.0  # what an image of 20 x 40 fills, and no more
    assert (Frame(20, 40, 64).back(logits) > 0)[:18].all()
    logits = torch.full((16, 16), 1.0)
    logits[:6] = -1.0
    back = Frame(20, 40, 64).back(logits) > 0
    assert back.shape == (20, 40)
    assert not back[:12].any()
    assert back[17:].all()


@settings(max_examples=40)
@given(st.integers(100, 200), st.integers(100, 200), st.floats(0.25, 0.75), st.floats(0.25, 0.75))
def test_what_is_found_at_a_point_comes_back_to_that_point(height: int, width: int, across: float, down: float):
    x, y = across * width, down * height
    mask, iou = with_spots([[0.1, 0.9, 0.5]], side=256).segment(grey(height, width), points_prompt([[x, y]], [1]))
    assert mask.shape == (height, width)
    assert mask.dtype == bool
    assert iou == pytest.approx(0.9)
    found = np.argwhere(mask) + 0.5
    assert np.abs(found.mean(0) - (y, x)).max() < 0.5
    assert mask.sum() == pytest.approx(np.pi * (max(height, width) * 3 / 32) ** 2, rel=0.1)


def test_pixels_are_standardised_and_padded_with_zeros():
    sam = with_spots([[1.0]])
    image = np.zeros((32, 64, 3), np.uint8)
    image[..., 0] = 255
    sam.segment(image, centre_prompt(32, 64))
    seen = sam._model.seen
    assert seen.shape == (1, 3, 64, 64)
    expected = [(1 - MEAN[0]) / DEVIATION[0], -MEAN[1] / DEVIATION[1], -MEAN[2] / DEVIATION[2]]
    assert torch.allclose(seen[0, :, :32], torch.tensor(expected)[:, None, None].expand(3, 32, 64))
    assert (seen[0, :, 32:] == 0).all()


# Prompts


def test_prompts_are_where_they_say():
    assert centre_prompt(30, 60).points.tolist() == [[[30.0, 15.0]]]
    assert box_prompt(30, 60).boxes == pytest.approx(np.array([[6.0, 3.0, 54.0, 27.0]]))
    grid = grid_prompt(40, 80)
    assert grid.points.shape == (16, 1, 2)
    assert grid.points[0, 0].tolist() == [10, 5]
    assert grid.points[1, 0].tolist() == [30, 5]
    assert grid.points[-1, 0].tolist() == [70, 35]
    assert (grid.labels == 1).all()


def test_of_a_grid_the_best_mask_is_taken_that_is_neither_speck_nor_background():
    # Discs of radius 8 and 24 in a square of 256: 0.3 % and 2.8 % of the image.
    scores = [[0.9, 0.2] for _ in range(16)]
    scores[5] = [0.8, 0.6]
    prompt = grid_prompt(64, 64)
    mask, iou = with_spots(scores, side=256).segment(grey(64, 64), prompt)
    assert iou == pytest.approx(0.6)
    assert np.argwhere(mask).mean(0) + 0.5 == pytest.approx([24, 24], abs=0.5)
    assert 0.01 <= mask.mean() <= 0.8
    specks = [[0.1] for _ in range(15)] + [[0.3]]
    mask, iou = with_spots(specks, side=256).segment(grey(64, 64), prompt)
    assert iou == pytest.approx(0.3)
    assert 0 < mask.mean() < 0.01
    assert np.argwhere(mask).mean(0) + 0.5 == pytest.approx([56, 56], abs=0.5)


def test_the_points_of_a_table(tmp_path: Path):
    path = tmp_path / "points.csv"
    path.write_text("image;x;y;label\na.png;3;4;1\n\nb;1;2\na;5;6;0\n")
    table = PointTable(path)
    prompt = table("a.png", 10, 10)
    assert prompt.points.tolist() == [[[3.0, 4.0], [5.0, 6.0]]]
    assert prompt.labels.tolist() == [[1, 0]]
    assert table("b.jpg", 10, 10).labels.tolist() == [[1]]
    path.write_text("image,x,y\nphantom_000001,3,4\n")
    assert PointTable(path)("phantom_000001", 10, 10).points.tolist() == [[[3.0, 4.0]]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,x\na,1\n", "line 1: needs the columns image,x,y"),
        ("", "line 1: needs the columns image,x,y"),
        ("image,x,y\nscan0,1,1\nscan1,one,1\n", "line 3: x and y must be pixels"),
        ("image,x,y\nscan0,1,nan\n", "line 2: x and y must be pixels"),
        ("image,x,y,label\nscan0,1,1,2\n", "line 2: .* label 1 or 0"),
        ("image,x,y\nscan0\n", "line 2: x and y must be pixels"),
        ("image,x,y\nscan0,1,1\nscan1,40,1\n", r"line 3: \(40, 1\) is outside scan1.jpg, 40x20"),
        ("image,x,y\nscan0,1,1\nscan1,1,-1\n", r"line 3: \(1, -1\) is outside scan1.jpg, 40x20"),
        ("image,x,y\nscan0,1,1\n", "no line names scan1.jpg"),
        ("image,x,y\nscan0,1,1\nscan1,1,1\nscan7,1,1\n", "line 4 names 'scan7', which is not there"),
        ("image,x,y\nscan0,1,1\nscan1.png,1,1\n", "no line names scan1.jpg"),
        ("image,x,y\n\xff", "UTF-8"),
    ],
)
def test_a_mistake_in_a_table_is_one_line_with_file_and_line(tiny: Path, text: str, message: str):
    write_folder(Path("data"), [(20, 30), (20, 40)])
    Path("points.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ImageError, match=message) as error:
        annotate(tiny, "points.csv", "data", Path("out"))
    assert "points.csv" in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("out").exists()


def test_a_table_may_be_of_one_split_and_of_a_bad_image_too(tiny: Path, capsys: pytest.CaptureFixture[str]):
    write_folder(Path("data"), [(20, 30), (20, 40), (20, 20)])
    Path("points.csv").write_text("image,x,y\nscan1,1,1\n")
    assert not annotate(tiny, "points.csv", "data", Path("out"), "val").problems
    assert [row["image"] for row in read_rows(Path("out/labels.csv"))] == ["scan1.jpg"]
    Path("data/images/scan0.png").write_bytes(b"no image")
    Path("points.csv").write_text("image,x,y\nscan1,1,1\nscan0,1,1\n")
    (problem,) = annotate(tiny, "points.csv", "data", Path("out2"), "val").problems
    assert "scan0.png" in problem


def test_an_unknown_prompt_is_refused():
    with pytest.raises(SettingsError, match="centre is unknown; choose one of: center, box, grid"):
        find_prompts("centre")
    with pytest.raises(ImageError, match=r"nowhere.csv: cannot be read"):
        find_prompts("nowhere.csv")


# Weights


def test_loaded_weights_are_the_saved_ones_and_prompts_matter(tiny: Path):
    from transformers import SamModel

    sam = SegmentAnything.load(tiny, CPU)
    assert sam.side == SIDE
    saved = SamModel.from_pretrained(tiny, local_files_only=True, use_safetensors=True).state_dict()
    loaded = sam._model.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)

    image = np.random.default_rng(0).integers(0, 255, (40, 90, 3), np.uint8)
    prompts = [centre_prompt(40, 90), box_prompt(40, 90), points_prompt([[5, 5], [80, 30]], [1, 0])]
    found = [sam.segment(image, prompt) for prompt in prompts]
    assert {mask.shape for mask, _ in found} == {(40, 90)}
    assert len({iou for _, iou in found}) == 3
    again, iou = sam.segment(image, prompts[0])
    assert np.array_equal(again, found[0][0])
    assert iou == found[0][1]


@pytest.mark.parametrize("kind", ["points", "boxes"])
def test_the_network_is_asked_as_its_library_asks_it(tiny: Path, kind: str):
    """An image of the square's size needs no geometry: the best of the network's own masks must come out."""
    sam = SegmentAnything.load(tiny, CPU)
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    values = (torch.from_numpy(image).permute(2, 0, 1) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(
        DEVIATION
    )[:, None, None]
    asked = {"input_points": torch.tensor([[[[12.0, 40.0]]]]), "input_labels": torch.tensor([[[1]]])}
    if kind == "boxes":
        asked = {"input_boxes": torch.tensor([[[4.0, 8.0, 50.0, 60.0]]])}
    with torch.no_grad():
        expected = sam._model(pixel_values=values[None], **asked)
    best = int(expected.iou_scores.argmax())
    large = torch.nn.functional.interpolate(expected.pred_masks[0], (SIDE, SIDE), mode="bilinear", align_corners=False)
    prompt = points_prompt([[12, 40]], [1]) if kind == "points" else Prompt(boxes=np.array([[4.0, 8.0, 50.0, 60.0]]))
    mask, iou = sam.segment(image, prompt)
    assert iou == pytest.approx(float(expected.iou_scores.max()), rel=1e-4)
    assert (mask == (large[0, best] > 0).numpy()).mean() > 0.999


@pytest.mark.slow
def test_the_standardisation_beside_the_weights_counts(own: Path):
    (own / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 0.5, 2]}')
    sam = SegmentAnything.load(own, CPU)
    assert sam._mean.flatten().tolist() == [0, 0, 0]
    assert sam._std.flatten().tolist() == [1, 0.5, 2]
    (own / "preprocessor_config.json").write_text("{}")
    assert SegmentAnything.load(own, CPU)._mean.flatten().tolist() == pytest.approx(MEAN)
    for wrong in ('{"image_std": [1, 0, 1]}', '{"image_mean": 3}', '{"image_mean": ["a", 1, 1]}', "[]", "{"):
        (own / "preprocessor_config.json").write_text(wrong)
        with pytest.raises(CheckpointError, match=r"preprocessor_config.json"):
            SegmentAnything.load(own, CPU)


def change_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def only_pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "own: no such directory"),
        (lambda own: (own / "config.json").unlink(), r"config.json: no such file"),
        (lambda own: (own / "config.json").write_text("{"), r"config.json: damaged"),
        (lambda own: (own / "config.json").write_text("[]"), r"config.json: holds no settings"),
        (lambda own: change_config(own, model_type="sam2"), r"config.json: model_type is 'sam2', not 'sam'"),
        (lambda own: (own / "model.safetensors").unlink(), r"model.safetensors: no such file; save"),
        (only_pickle, r"pytorch_model.bin is a pickle, which can execute code, and is not read"),
        (lambda own: (own / "model.safetensors").write_bytes(b"\0" * 99), r"model.safetensors: damaged"),
        (
            lambda own: (own / "model.safetensors").write_bytes((own / "model.safetensors").read_bytes()[:-9]),
            r"model.safetensors: damaged",
        ),
        (
            lambda own: change_config(own, mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2}),
            r"model.safetensors: does not fit the config.json",
        ),
        (lambda own: change_config(own, vision_config={"image_size": "large"}), r"does not fit the config.json"),
    ],
)
def test_a_directory_that_cannot_be_used_is_one_line(own: Path, spoil, message: str):
    spoil(own)
    with pytest.raises(CheckpointError, match=message) as error:
        SegmentAnything.load(own, CPU)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_told(own: Path):
    sam = SegmentAnything.load(own, CPU)
    for weights in sam._model.parameters():
        weights.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        sam.segment(grey(20, 30), centre_prompt(20, 30))


def test_a_pickle_beside_the_weights_and_code_named_in_the_config_are_left_alone(own: Path):
    (own / "pytorch_model.bin").write_bytes(b"cos\nabort\n(tR.")
    (own / "evil.py").write_text("raise SystemExit('executed')")
    change_config(own, auto_map={"AutoModel": "evil.Model"}, _attn_implementation="somebody/kernel")
    assert SegmentAnything.load(own, CPU)._model.config._attn_implementation == "sdpa"


def test_without_transformers_it_says_what_to_install(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SettingsError, match=r"pip install 'ahm-env\[sam\]'"):
        SegmentAnything.load(tiny, CPU)


# The labelled source


def test_a_folder_becomes_a_labelled_source(tiny: Path, capsys: pytest.CaptureFixture[str]):
    sizes = [(24, 40), (40, 24), (32, 32), (64, 20)]
    data, out = write_folder(Path("data"), sizes), Path("out")
    found = annotate(tiny, "center", "data", out)
    assert not found.problems

    sam = SegmentAnything.load(tiny, CPU)
    samples = {
        sample.name: sample for sample in (load() for load in find_source(data, PixelSettings(64)).index().samples)
    }
    masks = {name: sam.segment(one.image, centre_prompt(*one.image.shape[:2]))[0] for name, one in samples.items()}
    assert any(0 < mask.mean() < 1 for mask in masks.values())  # or the test would tell little
    for name, mask in masks.items():
        assert (out / "images" / name).read_bytes() == (data / "images" / name).read_bytes()
        written = cv2.imread(str(out / "masks" / f"{Path(name).stem}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(written, np.where(mask, 255, 0))

    before, after = load_images(data, 32), load_images(out, 32)
    every = np.arange(4)
    assert list(after.names) == list(before.names)
    assert np.array_equal(after.images(every), before.images(every))
    assert after.classes == before.classes
    assert np.array_equal(after.labels(every), before.labels(every))
    assert all(np.array_equal(after.split(name), before.split(name)) for name in ("train", "val", "test"))
    assert after.skipped == 0
    square = list(after.names).index("scan2.png")  # 32 x 32: nothing was resized
    assert np.array_equal(after.masks(square)[0], masks["scan2.png"])

    scores = {row["image"]: row for row in read_rows(out / "scores.csv")}
    assert scores.keys() == masks.keys()
    for name, row in scores.items():
        expected = score_mask(samples[name].mask != 0, masks[name])
        for measure in ("dice", "iou", "hd95", "sensitivity", "specificity"):
            assert float(row[measure]) == pytest.approx(getattr(expected, measure), rel=1e-5, abs=1e-9)
    mean = np.mean([float(row["dice"]) for row in scores.values()])
    assert found.dice == pytest.approx(mean, abs=1e-5)
    assert capsys.readouterr() == ("", "")


def test_pixels_to_be_ignored_are_not_scored(tiny: Path):
    data = write_folder(Path("data"), [(32, 32)])
    [file] = (data / "masks").iterdir()
    truth = np.zeros((32, 32), np.uint8)
    truth[:, :8], truth[:12, 8:] = 1, 255
    cv2.imwrite(str(file), truth)
    annotate(tiny, "center", "data", Path("plain"))
    draw(tiny, "data", Path("out"), ignore=255, device="cpu")
    found = cv2.imread(str(Path("out/masks") / file.name), cv2.IMREAD_UNCHANGED) > 0
    assert found[:12, 8:].any()  # or nothing would be ignored
    for out, expected in {
        "plain": score_mask(truth > 0, found),
        "out": score_mask(truth == 1, found, truth != 255),
    }.items():
        [row] = read_rows(Path(out) / "scores.csv")
        assert float(row["dice"]) == pytest.approx(expected.dice, rel=1e-5)
        assert float(row["specificity"]) == pytest.approx(expected.specificity, rel=1e-5)


def test_masks_that_hold_but_what_is_ignored_are_told(tiny: Path):
    data = write_folder(Path("data"), [(32, 32)])
    [file] = (data / "masks").iterdir()
    cv2.imwrite(str(file), np.pad(np.full((16, 16), 255, np.uint8), 8))
    assert not draw(tiny, "data", Path("plain"), device="cpu").problems
    [problem] = draw(tiny, "data", Path("out"), ignore=255, device="cpu").problems
    assert "hold only 255" in problem


def test_what_somebody_has_written_in_the_table_stays(tiny: Path):
    write_folder(Path("data"), [(20, 30), (30, 20)])
    table = Path("out/labels.csv")
    annotate(tiny, "center", "data", Path("out"))
    first, second = read_rows(table)
    changed = [{**first, "split": "val", "label": "benign", "site": "A"}, {**second, "site": "B"}]
    write_rows(table, changed)
    assert annotate(tiny, "center", "data", Path("out")).made == 0
    assert read_rows(table) == changed
    shutil.rmtree("data")
    write_folder(Path("data"), [(20, 30), (30, 20), (25, 25)])
    assert annotate(tiny, "center", "data", Path("out")).made == 1
    assert read_rows(table)[:2] == changed
    assert read_rows(table)[2]["image"] == "scan2.png"


def test_what_is_corrected_in_the_source_arrives_beside_what_somebody_has_changed(tiny: Path):
    data = write_folder(Path("data"), [(20, 30), (30, 20), (25, 25)])
    (data / "labels.csv").write_text("image,label,split,patient\nscan0,a,train,p\nscan1,a,test,q\nscan2,a,val,\n")
    table = Path("out/labels.csv")
    annotate(tiny, "center", "data", Path("out"))
    first, second, third = read_rows(table)
    added = {"image": "own.png", "label": "b", "split": "train", "patient": "me"}
    write_rows(table, [{**first, "label": "b"}, second, third, added])
    (data / "labels.csv").write_text("image,label,split,patient\nscan0,c,test,q\nscan1,c,test,q\nscan2,a,val,\n")
    assert not annotate(tiny, "center", "data", Path("out")).problems
    corrected = {"split": "test", "patient": second["patient"]}
    assert read_rows(table) == [{**first, "label": "b", **corrected}, {**second, "label": "c"}, third, added]

    Path("out/source.csv").unlink()
    with pytest.raises(RunError, match=r"out/source\.csv: is missing, .*; copy that table there if none, or choose"):
        annotate(tiny, "center", "data", Path("out"))


def test_images_that_the_source_has_no_more_are_told(tiny: Path):
    data = write_folder(Path("data"), [(20, 30), (30, 20), (25, 25), (20, 20)])
    assert not annotate(tiny, "center", "data", Path("out"), "train").problems
    labels = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(labels.replace("scan3,naevus,train", "scan3,naevus,test"))
    for _ in range(2):
        [problem] = annotate(tiny, "center", "data", Path("out"), "train").problems
        assert problem.startswith("out/labels.csv: lists images that are not among those of the source (--split train)")
        assert "now: 1, the first is scan3.jpg; mend the source, or delete their lines, images and masks" in problem
    write_rows(Path("out/labels.csv"), read_rows(Path("out/labels.csv"))[:1])
    assert not annotate(tiny, "center", "data", Path("out"), "train").problems


def test_an_image_that_has_changed_in_the_source_keeps_no_old_mask_unnoticed(tiny: Path):
    data = write_folder(Path("data"), [(20, 30), (30, 20)])
    annotate(tiny, "center", "data", Path("out"))
    image, mask = Path("out/images/scan0.png"), Path("out/masks/scan0.png")
    cv2.imwrite(str(mask), np.eye(20, 30, dtype=np.uint8))  # somebody's
    kept = mask.read_bytes()
    cv2.imwrite(str(data / "images/scan0.png"), 255 - cv2.imread(str(data / "images/scan0.png")))
    (data / "labels.csv").write_text("image,split\nscan0,test\nscan1,val\n")
    found = annotate(tiny, "center", "data", Path("out"))
    [problem] = found.problems
    assert problem.startswith("out/images/scan0.png: is not the image that the source has now; delete it and out/masks")
    assert mask.read_bytes() == kept
    assert [row["image"] for row in read_rows(Path("out/scores.csv"))] == ["scan1.jpg"]
    assert [row["split"] for row in read_rows(Path("out/labels.csv"))] == ["test", "val"]
    image.unlink()
    mask.unlink()
    found = annotate(tiny, "center", "data", Path("out"))
    assert (found.problems, found.made, found.scored) == ([], 1, 2)
    assert image.read_bytes() == (data / "images/scan0.png").read_bytes()


@pytest.mark.parametrize(("shape", "text"), [((9, 9), "mask is 9x9 but image is 30x20"), (None, "scan0.png: ")])
def test_a_mask_that_somebody_has_spoilt_is_told_and_not_lost(tiny: Path, shape: tuple[int, int] | None, text: str):
    write_folder(Path("data"), [(20, 30), (30, 20)])
    annotate(tiny, "center", "data", Path("out"))
    mask = Path("out/masks/scan0.png")
    mask.write_bytes(b"spoilt" if shape is None else cv2.imencode(".png", np.zeros(shape, np.uint8))[1].tobytes())
    kept = mask.read_bytes()
    [problem] = annotate(tiny, "center", "data", Path("out")).problems
    assert text in problem
    assert mask.read_bytes() == kept


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["box", "grid"])
def test_a_phantom_is_written_as_png_with_its_masks_measured(tiny: Path, prompt: str):
    assert not annotate(tiny, prompt, "phantom:20:3", Path("out"), "test", "cpu").problems
    before, after = load_images("phantom:20:3", 64), load_images("out", 64)
    test = before.split("test")
    assert len(after) == len(test) == len(after.split("test"))
    assert list(after.names) == [f"{before.names[index]}.png" for index in test]
    assert np.array_equal(after.images(np.arange(2)), before.images(test))
    assert [after.classes[i] for i in after.labels([0, 1])] == [before.classes[i] for i in before.labels(test)]
    sam = SegmentAnything.load(tiny, CPU)
    image = before.images(test[1])[0].transpose(1, 2, 0).copy()
    assert np.array_equal(after.masks(1)[0], sam.segment(image, find_prompts(prompt)("", 64, 64))[0])
    assert [row["split"] for row in read_rows(Path("out/scores.csv"))] == ["test", "test"]


def test_deep_grey_images_keep_their_depth_and_without_masks_nothing_is_measured(tiny: Path):
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 60_000, (2, 20, 30)).astype(np.uint16)
    np.savez("deep.npz", train_images=deep, test_images=rng.normal(size=(1, 20, 30)).astype(np.float32))
    assert not annotate(tiny, "center", "deep.npz", Path("out")).problems
    assert not Path("out/scores.csv").exists()
    assert np.array_equal(cv2.imread("out/images/train_000001.png", cv2.IMREAD_UNCHANGED), deep[1])
    assert annotate(tiny, "center", "deep.npz", Path("out")).made == 0
    after = load_images("out", 16)
    assert after.classes == ()
    assert [len(after.split(name)) for name in ("train", "val", "test")] == [2, 0, 1]


def test_an_interrupted_command_goes_on_where_it_was(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    write_folder(Path("data"), [(20, 30), (30, 20), (20, 20), (25, 25)])
    out, segment, asked = Path("out"), SegmentAnything.segment, []

    def stop_at_the_third(*arguments):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return segment(*arguments)

    monkeypatch.setattr(SegmentAnything, "segment", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        annotate(tiny, "center", "data", out)
    stamps = {path.name: path.stat().st_mtime_ns for path in (out / "masks").iterdir()}
    assert stamps.keys() == {"scan0.png", "scan1.png"}
    assert not list(out.rglob("*.tmp"))
    with pytest.raises(ImageError, match=r"labels.csv"):
        load_images(out, 16)  # an unfinished source is nothing to train on

    assert not annotate(tiny, "center", "data", out).problems
    assert len(asked) == 5  # two, the one that was stopped, two more
    assert all((out / "masks" / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    assert not annotate(tiny, "center", "data", Path("whole")).problems
    for name in ("labels.csv", "scores.csv", "masks/scan1.png", "masks/scan3.png"):
        assert (out / name).read_bytes() == (Path("whole") / name).read_bytes()


def test_masks_of_another_prompt_or_of_somebody_else_are_not_mixed(tiny: Path, own: Path):
    write_folder(Path("data"), [(20, 30)])
    assert not annotate(tiny, "center", "data", Path("out")).problems
    assert not annotate(own, "center", "data", Path("out")).problems  # the same weights elsewhere
    for command in ((tiny, "box", "data"), (tiny, "center", "data/images")):
        with pytest.raises(RunError, match=r"holds an annotation with another (prompt|data); give the same"):
            annotate(*command, Path("out"))
    with pytest.raises(RunError, match="not an empty directory"):
        annotate(tiny, "center", "data", Path("data"))


def test_what_an_annotation_would_refuse_can_be_asked_before_it_is_made(tiny: Path):
    write_folder(Path("scans"), [(20, 30), (16, 16)])
    check_annotation(tiny, "scans", "out", prompt="box")
    assert not Path("out").exists()
    annotate(tiny, "box", "scans", Path("out"))
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    check_annotation(tiny, "scans", "out", prompt="box")
    with pytest.raises(RunError, match="out: holds an annotation with another prompt"):
        check_annotation(tiny, "scans", "out", prompt="center")
    Path("points.csv").write_text("image,x,y\nscan0,3,4\n")
    with pytest.raises(ImageError, match=r"points.csv: no line names .*; add one"):
        check_annotation(tiny, "scans", "other", prompt="points.csv")
    assert not Path("other").exists()
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before


def test_a_bad_image_is_told_and_skipped_until_it_is_mended(tiny: Path, capsys: pytest.CaptureFixture[str]):
    data = write_folder(Path("data"), [(20, 30), (30, 20), (20, 20)])
    whole = (data / "images/scan1.jpg").read_bytes()
    (data / "images/scan1.jpg").write_bytes(whole[:200])
    (problem,) = annotate(tiny, "center", "data", Path("out")).problems
    assert "scan1.jpg" in problem
    assert list(load_images("out", 16).names) == ["scan0.png", "scan2.png"]
    (data / "images/scan1.jpg").write_bytes(whole)
    assert not annotate(tiny, "center", "data", Path("out")).problems
    assert list(load_images("out", 16).names) == ["scan0.png", "scan1.jpg", "scan2.png"]


def test_an_empty_split_is_an_error(tiny: Path):
    write_folder(Path("data"), [(20, 30)])
    with pytest.raises(ImageError, match="no image could be annotated \\(--split test\\); see `ahm data check`"):
        annotate(tiny, "center", "data", Path("out"), "test")
    Path("data/images/scan0.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"\(--split all\); the last problem: data/images/scan0.png: "):
        annotate(tiny, "center", "data", Path("bad"))


def test_the_command(tiny: Path, call: Callable[..., tuple[int, str, str]]):
    annotated = partial(call, "annotate", "--sam", str(tiny), "--data", "phantom:10")
    status, _, err = annotated("--out", "out", "--split", "val", "--prompt", "box")
    assert (status, err) == (0, "")
    assert len(load_images("out", 64)) == 1
    for words, text in ((["--split", "some"], "--split some"), (["--prompt", "dot"], "--prompt dot")):
        status, _, err = annotated("--out", "out2", *words)
        assert (status, err.count("\n")) == (2, 1)
        assert text in err
