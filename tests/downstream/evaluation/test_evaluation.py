"""Evaluation of a fine-tuned model, as a person asks for it: the numbers, how sure they are, and what is refused."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import isnan, nan, sqrt
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ahm_env import ImageError, load_images
from ahm_env.files import read_rows
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.pixels.fit import PixelSettings
from downstream import console
from downstream.evaluation import evaluation
from downstream.evaluation.classification import assess_classifier
from downstream.evaluation.cropping import Cropped
from downstream.evaluation.evaluation import with_intervals
from downstream.evaluation.metrics import score_classes, score_labels
from downstream.evaluation.page import stacked
from downstream.evaluation.segmentation import segment
from downstream.models.model import MODEL_FILE, Model
from tests.downstream import tiny

SIDE = 16
SPLIT = ("train", "val", "test", "test")


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def call(call: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    """Run `ahm evaluate --from tuned --device cpu …` in this process: status, output, errors."""
    return partial(call, "evaluate", "--from", "tuned", "--device", "cpu")


def make_model(name: str, *about: Any, **more: Any) -> Model:
    return tiny.make_model(Path("tuned") / name, *about, fit="stretch", normalises=False, **more)


def write_source(path: Path, count: int = 24, masks: int = 2, classes: tuple[str, ...] = ("mel", "nev")) -> Path:
    """Images of several sizes with masks of 0 … masks - 1, a label and a split."""
    rng = np.random.default_rng(0)
    lines = ["image,label,split"]
    for directory in ("images", "masks"):
        (path / directory).mkdir(parents=True)
    for number in range(count):
        height, width = 12 + number % 5, 20 - number % 3
        pixels = cv2.resize(rng.integers(0, 256, (4, 4, 3), np.uint8), (width, height))
        cv2.imwrite(str(path / f"images/{number:02}.png"), pixels)
        truth = cv2.resize(rng.integers(0, masks, (3, 3), np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(path / f"masks/{number:02}.png"), truth)
        lines.append(f"{number:02},{classes[number % 3 % len(classes)]},{SPLIT[number % 4]}")
    (path / "labels.csv").write_text("\n".join(lines) + "\n")
    return path


def scores_of(model: Model, data: Path, splits: set[str]) -> list[dict[int, object]]:
    """Scores of every image of these splits, found without the code of the evaluation."""
    found = []
    for number, load in enumerate(find_source(data, PixelSettings(SIDE)).index().samples):
        if SPLIT[number % 4] in splits:
            one = load()
            (result,) = segment(model, [one])
            assert one.mask is not None
            found.append(score_classes(one.mask, result.mask, range(len(model.spec.classes))))
    return found


@pytest.mark.slow
def test_the_numbers_of_a_segmenter_are_means_over_the_images_of_the_split(call):
    model, data = make_model("model.safetensors"), write_source(Path("data"))
    status, out, _ = call("--data", "data", "--out", "e.json", "--pictures", "shown")
    assert status == 0
    found = json.loads(Path("e.json").read_text())
    scores = [one[1] for one in scores_of(model, data, {"test"})]
    assert (found["task"], found["split"], found["images"]) == ("segmentation", "test", 12)
    assert len({one.dice for one in scores}) > 3
    for measure in ("dice", "iou", "hd95", "sensitivity", "specificity"):
        values = [getattr(one, measure) for one in scores]
        assert found[measure] == pytest.approx(np.mean(values))
        low, high = found["intervals"][measure]
        assert min(values) <= low <= found[measure] <= high <= max(values)
    assert f"{found['dice']:.3f}" in out
    table = read_rows(Path("shown/test.csv"))
    assert [float(row["dice"]) for row in table] == pytest.approx([one.dice for one in scores], rel=1e-5)
    assert cv2.imread("shown/cases.png") is not None


@pytest.mark.slow
def test_splits_and_several_classes(call):
    model = make_model("model.safetensors", classes=("background", "disc", "cup"), seed=2)
    data = write_source(Path("data"), masks=3)
    for split, splits in (("val", {"val"}), ("all", {"train", "val", "test"})):
        assert call("--data", "data", "--split", split, "--out", "e.json")[0] == 0
        found = json.loads(Path("e.json").read_text())
        scores = scores_of(model, data, splits)
        assert found["images"] == len(scores)
        for number, name in ((1, "disc"), (2, "cup")):
            assert found[f"dice {name}"] == pytest.approx(np.mean([one[number].dice for one in scores]))
            assert len(found["intervals"][f"dice {name}"]) == 2
        assert found["dice"] == pytest.approx((found["dice disc"] + found["dice cup"]) / 2)


@pytest.mark.slow
def test_test_time_augmentation_changes_the_numbers_as_it_does_the_masks(call):
    model, data = make_model("model.safetensors"), write_source(Path("data"))
    assert call("--data", "data", "--tta", "--out", "e.json")[0] == 0
    found, dice = json.loads(Path("e.json").read_text()), []
    for number, load in enumerate(find_source(data, PixelSettings(SIDE)).index().samples):
        if SPLIT[number % 4] == "test":
            one = load()
            (result,) = segment(model, [one], tta=True)
            dice.append(score_classes(one.mask, result.mask, (1,))[1].dice)
    assert found["tta"] is True
    assert found["dice"] == pytest.approx(np.mean(dice))
    assert found["dice"] != pytest.approx(np.mean([one[1].dice for one in scores_of(model, data, {"test"})]))


@pytest.mark.slow
def test_the_numbers_of_a_classifier(call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluation, "DRAWS", 100)
    model, data = make_model("model.safetensors", "classification", ("mel", "nev")), write_source(Path("data"))
    status, out, _ = call("--data", "data", "--split", "all", "--out", "e.json", "--pictures", "shown")
    assert status == 0
    found = json.loads(Path("e.json").read_text())
    images = load_images(data, SIDE, 3)
    truth, shares = images.labels(range(24)), model.probabilities(images.images(range(24)))
    scores, predicted = score_labels(truth, shares), shares.argmax(1)
    assert found["images"] == 24
    assert found["accuracy"] == pytest.approx(np.mean(truth == predicted))
    assert found["balanced_accuracy"] == pytest.approx(scores.balanced_accuracy)
    assert found["auroc"] == pytest.approx(scores.auroc)
    assert found["confusion"] == scores.confusion.tolist()
    for number, name in enumerate(("mel", "nev")):
        assert found[f"sensitivity {name}"] == pytest.approx(np.mean(predicted[truth == number] == number))
    low, high = found["intervals"]["auroc"]
    assert 0 <= low < found["auroc"] < high <= 1
    assert f"{found['accuracy']:.3f}" in out
    assert cv2.imread("shown/confusion.png") is not None


def test_a_measure_that_is_not_defined_is_null(call):
    make_model("model.safetensors", "classification", ("mel", "nev"))
    data = write_source(Path("data"))
    lines = (data / "labels.csv").read_text().replace("nev,test", "mel,test")
    (data / "labels.csv").write_text(lines)
    assert call("--data", "data", "--out", "e.json")[0] == 0
    found = json.loads(Path("e.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["auroc"] is found["sensitivity nev"] is None
    assert found["intervals"]["auroc"] is found["intervals"]["sensitivity nev"] is None
    assert found["accuracy"] == found["sensitivity mel"]


@pytest.mark.slow
def test_a_classifier_of_lesions_is_measured_on_what_its_segmenter_finds(call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluation, "DRAWS", 20)
    model, data = make_model("model.safetensors", "classification", ("mel", "nev"), seed=1), write_source(Path("data"))
    assert call("--data", "data", "--split", "all", "--out", "whole.json")[0] == 0
    segmenter = make_model("segmenter.safetensors", background=0.5)
    make_model("model.safetensors", "classification", ("mel", "nev"), seed=1, cropped=True)
    assert call("--data", "data", "--split", "all", "--out", "e.json")[0] == 0
    images = load_images(Cropped(find_source(data, PixelSettings(SIDE)), segmenter, "data"), SIDE, 3)
    expected = assess_classifier(model, images, np.arange(24)).summary
    found = json.loads(Path("e.json").read_text())
    assert {name: found[name] for name in expected} == expected
    assert found["auroc"] != json.loads(Path("whole.json").read_text())["auroc"]


# Intervals


def alone(count: int) -> list[np.ndarray]:
    """Patients with one image each."""
    return list(np.arange(count)[:, None])


def test_patients_are_drawn_with_all_of_their_images():
    drawn: list[set[int]] = []

    def measure(chosen: np.ndarray) -> dict[str, float]:
        drawn.append(set(chosen.tolist()))
        return {"mean": float((chosen >= 10).mean())}

    patients = [np.arange(10), np.arange(10, 12)]
    found = with_intervals(measure, patients, draws=200)["mean"]
    assert all(some in ({*range(10)}, {10, 11}, {*range(12)}) for some in drawn)
    assert (found.low, found.mean, found.high) == (0, 2 / 12, 1)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution_for_many_images():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = with_intervals(lambda chosen: {"mean": float(values[chosen].mean())}, alone(400), draws=1000)["mean"]
    half = 1.96 * values.std() / sqrt(400)
    assert found.mean == values.mean()
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_intervals_repeat_and_leave_out_what_is_not_defined():
    def measure(chosen: np.ndarray) -> dict[str, float]:
        return {"constant": 0.5, "never": nan, "sometimes": 1.0 if 0 in chosen else nan}

    found = with_intervals(measure, alone(3), draws=50)
    assert found["constant"].mean == 0.5
    assert isnan(found["constant"].low)  # the same in all resamples: it says nothing of how much it varies
    assert isnan(found["constant"].high)
    assert all(isnan(value) for value in (found["never"].low, found["never"].mean, found["never"].high))
    assert isnan(found["sometimes"].low)
    many = np.random.default_rng(0).random(30)
    first, second = (
        with_intervals(lambda chosen: {"m": float(many[chosen].mean())}, alone(30), draws=50) for _ in range(2)
    )
    assert first == second


# What is refused


def refused(result: tuple[int, str, str], *texts: str) -> None:
    status, _, err = result
    assert (status, err.count("\n")) == (2, 1), err
    for text in texts:
        assert text in err


def test_classes_must_be_those_of_the_classifier(call):
    make_model("model.safetensors", "classification", ("mel", "nev"))
    refused(call("--data", "data", "--ignore", "7"), "--ignore 7 is for models that segment")
    write_source(Path("more"), classes=("mel", "nev", "ker"))
    write_source(Path("other"), classes=("melanoma", "nev"))
    refused(call("--data", "more", "--out", "e.json"), "more", "unknown: ker")
    refused(call("--data", "other", "--out", "e.json"), "other", "(mel, nev)", "unknown: melanoma", "labels.csv")
    (Path("other") / "labels.csv").unlink()
    refused(call("--data", "other", "--out", "e.json"), "no image of its test split has a label")
    assert not Path("e.json").exists()


def test_what_is_marked_in_slices_that_show_nothing_is_missed(call):
    nibabel = pytest.importorskip("nibabel")
    make_model("model.safetensors")
    generator = np.random.default_rng(0)
    for number in range(2):
        volume = generator.integers(1, 200, (16, 16, 6)).astype(np.uint8)
        volume[..., 3:] = 0
        for folder, pixels in (("images", volume), ("masks", np.ones_like(volume))):
            path = Path("data") / folder / f"{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), path)
    found = evaluation.evaluate("tuned", Path("data"), "all", device="cpu")
    assert (len(found.assessed.scores), found.images.empty) == (12, 0)
    assert sum(one.found + one.missed for score in found.assessed.scores for one in score.overlaps.values()) == 12 * 256


def test_no_result_of_a_run_is_lost_and_no_patients_of_other_images_are_left(call):
    make_model("model.safetensors")
    data = write_source(Path("data"))
    Path("tuned/config.json").write_text("{}")
    refused(call("--data", "data", "--out", "tuned/test.json"), "belongs to the run", "give another name")
    refused(call("--data", "data", "--pictures", "tuned"), "is a run", "give another directory")
    labels = (data / "labels.csv").read_text()
    table = [f"{line},{name}" for line, name in zip(labels.splitlines(), ["patient", *"abcd" * 6], strict=True)]
    (data / "labels.csv").write_text("\n".join(table) + "\n")
    assert call("--data", str(data), "--pictures", "shown")[0] == 0
    assert len(read_rows(Path("shown/patients.csv"))) == 2
    (data / "labels.csv").write_text(labels)
    assert call("--data", str(data), "--pictures", "shown")[0] == 0
    assert not Path("shown/patients.csv").exists()
    make_model("model.safetensors", "classification", ("mel", "nev"))
    assert call("--data", str(data), "--pictures", "shown")[0] == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("patients.csv", b"patient,age\n1,40\n"),
        ("patients.csv", b"\xff"),
        ("test.csv", b"image,patient,label\na.png,1,mel\n"),
        ("test.csv", b""),
        ("cases.png", b"a picture"),
    ],
)
def test_what_no_evaluation_wrote_is_not_lost(call, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes):
    monkeypatch.setattr(console, "evaluate", lambda *_, **__: pytest.fail("something was computed"))
    Path("study").mkdir()
    Path("study", name).write_bytes(content)
    refused(call("--data", "data", "--pictures", "study"), f"study/{name}", "would be lost; give another --pictures")
    assert [path.read_bytes() for path in Path("study").iterdir()] == [content]


def test_masks_must_hold_what_the_segmenter_knows(call):
    make_model("model.safetensors")
    write_source(Path("data"), masks=4)
    refused(call("--data", "data"), "its mask holds", "knows 0, 1")


def test_255_beside_1_is_no_lesion(call):
    make_model("model.safetensors")
    data = write_source(Path("data"))
    path = next((data / "masks").iterdir())
    truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert truth.max() == 1
    truth[:3] = 255
    cv2.imwrite(str(path), truth)
    arguments = ("--data", "data", "--split", "all")
    refused(call(*arguments), path.name, "its mask holds 255", "leave 255 out with --ignore 255")
    assert call(*arguments, "--ignore", "255")[0] == 0


@pytest.mark.slow
def test_pixels_to_be_ignored_are_not_scored(call):
    model, data = make_model("model.safetensors"), write_source(Path("data"))
    plain = evaluation.evaluate("tuned", data, device="cpu")
    for path in (data / "masks").iterdir():  # a part that is not known, whatever the model finds there
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        truth[:, :7] = 255
        cv2.imwrite(str(path), truth)
    expected = []
    for number, load in enumerate(find_source(data, PixelSettings(SIDE)).index().samples):
        if SPLIT[number % 4] == "test":
            one = load()
            (result,) = segment(model, [one])
            expected.append(score_classes(one.mask[:, 7:], result.mask[:, 7:], (1,))[1].dice)
    found = evaluation.evaluate("tuned", data, ignore=255, device="cpu")
    assert found.measures["dice"].mean == pytest.approx(np.mean(expected))
    assert found.measures["dice"].mean != plain.measures["dice"].mean
    counts = [(one.found + one.missed) for score in found.assessed.scores for one in score.overlaps.values()]
    assert max(counts) < max(load().mask[:, 7:].size for load in find_source(data, PixelSettings(SIDE)).index().samples)
    assert call("--data", "data", "--ignore", "255", "--out", "one.json", "--pictures", "pictures")[0] == 0
    assert json.loads(Path("one.json").read_text())["dice"] == found.as_dict()["dice"]
    # the model remembers what it was taught with
    Model(replace(model.spec, ignore=255), model.network).save(Path("tuned/model.safetensors"))
    assert evaluation.evaluate("tuned", data, device="cpu").as_dict() == found.as_dict()
    with pytest.raises(ImageError, match="its mask holds 255, but the model knows 0, 1"):
        evaluation.evaluate("tuned", data, ignore="none", device="cpu")


@pytest.mark.slow
def test_what_cannot_be_ignored(call):
    make_model("model.safetensors")
    data = write_source(Path("data"))
    refused(call("--data", "data", "--ignore", "0"), "--ignore 0 must be a number in masks from 1 to 255")
    refused(call("--data", "data", "--ignore", "x"), "--ignore x is neither a number nor none")
    refused(call("--data", "data", "--ignore", "1"), "--ignore 1 is a class of the model (0, 1)")
    for path in (data / "masks").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED) * 255)
    refused(call("--data", "data", "--ignore", "255"), "hold only 0 and 255", "evaluate with --ignore none")


@pytest.mark.slow
def test_a_split_without_images_is_told_with_those_that_have_some(call):
    make_model("model.safetensors")
    data = write_source(Path("data"))
    (data / "labels.csv").write_text((data / "labels.csv").read_text().replace(",test", ",train"))
    refused(call("--data", "data"), "no image of its test split has a mask", "train (18)", "val (6)")
    for mask in (data / "masks").iterdir():
        mask.unlink()
    refused(call("--data", "data"), "no image of its test split has a mask", "add masks")
    make_model("model.safetensors", "classification", ("mel", "nev"))
    lines = (data / "labels.csv").read_text().replace("mel,val", ",val").replace("nev,val", ",val")
    (data / "labels.csv").write_text(lines)
    refused(call("--data", "data", "--split", "val"), "no image of its val split has a label", "--split train (18)")


@pytest.mark.slow
def test_what_else_cannot_be_used(call):
    make_model("model.safetensors")
    write_source(Path("data"))
    refused(call("--data", "nowhere"), "nowhere")
    refused(call("--data", "data", "--split", "holdout"), "holdout", "train, val, test, all")
    refused(call("--data", "data", "--out", "."), "is a directory")
    refused(call("--data", "data", "--out", "data/labels.csv"), "must end in .json", "data/labels.json")
    assert (Path("data/labels.csv").read_text()).startswith("image,label,split")
    Path("run").mkdir()
    Path("run/config.json").touch()
    refused(call("--data", "data", "--pictures", "run"), "whose own test.csv would be lost")
    assert not Path("run/test.csv").exists()
    refused(call("--data", "data", "--from", "data"), "holds no model.safetensors")
    Path("data/images/03.png").write_bytes(b"x")
    refused(call("--data", "data"), "03.png", "--skip-bad")
    assert call("--data", "data", "--skip-bad", "--out", "e.json")[0] == 0
    assert json.loads(Path("e.json").read_text())["images"] == 11


# Patients, and images without a mask


@pytest.mark.slow
def test_dice_of_a_patient_is_that_of_all_pixels_together(call):
    model, data = make_model("model.safetensors", classes=("background", "disc", "cup")), Path("data")
    write_source(data, masks=3)
    lines = (data / "labels.csv").read_text().splitlines()
    whose = ["a", "a", "a", "b"] * 5 + ["c", "", "", "a"]
    table = [f"{line.rpartition(',')[0]},test,{one}" for line, one in zip(lines[1:], whose, strict=True)]
    (data / "labels.csv").write_text("\n".join([f"{lines[0]},patient", *table]) + "\n")
    assert call("--data", "data", "--out", "e.json", "--pictures", "shown")[0] == 0
    found = json.loads(Path("e.json").read_text())
    pixels: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for number, load in enumerate(find_source(data, PixelSettings(SIDE)).index().samples):
        one = load()
        (result,) = segment(model, [one])
        pixels.setdefault(whose[number] or str(number), []).append((one.mask.ravel(), result.mask.ravel()))
    expected, of_discs = [], []
    for pairs in pixels.values():
        truth, predicted = (np.concatenate(some)[None] for some in zip(*pairs, strict=True))
        scores = score_classes(truth, predicted, range(3))
        expected.append(np.mean([scores[1].dice, scores[2].dice]))
        of_discs.append(scores[1].dice)
    table = read_rows(Path("shown/patients.csv"))
    assert [float(row["dice"]) for row in table] == pytest.approx(expected, rel=1e-5)
    assert [float(row["dice disc"]) for row in table] == pytest.approx(of_discs, rel=1e-5)
    assert [int(row["images"]) for row in table] == [len(pairs) for pairs in pixels.values()]
    assert found["patient_dice disc"] == pytest.approx(np.mean(of_discs))
    assert len(expected) == found["patients"] == 5
    assert next(iter(found["intervals"])) == "patient_dice"
    assert found["patient_dice"] == pytest.approx(np.mean(expected))
    low, high = found["intervals"]["patient_dice"]
    assert min(expected) <= low < found["patient_dice"] < high <= max(expected)


@pytest.mark.slow
def test_of_one_patient_there_is_no_interval(call):
    make_model("model.safetensors")
    data = write_source(Path("data"))
    lines = (data / "labels.csv").read_text().splitlines()
    (data / "labels.csv").write_text(
        "\n".join([f"{lines[0]},patient", *(f"{line},P" for line in lines[1:])])
        .replace(",val,", ",test,")
        .replace(",train,", ",test,")
    )
    status, out, _ = call("--data", "data", "--out", "e.json", "--page", "e.html")
    assert status == 0
    found = json.loads(Path("e.json").read_text())
    assert set(found["intervals"].values()) == {None}
    told = " ".join(out.split())
    assert "24 images of 1 patient " in told
    assert "This is one patient, which says nothing of others: there is no interval." in told
    page = Path("e.html").read_text()
    assert "95 % confidence" not in page
    assert "nan to" not in page


@pytest.mark.slow
def test_only_images_with_a_mask_are_measured_and_blank_ones_are_told(call):
    make_model("model.safetensors")
    data = write_source(Path("data"))
    for number in range(0, 24, 3):
        (data / f"masks/{number:02}.png").unlink()
    blank = cv2.imread(str(data / "masks/01.png"), cv2.IMREAD_UNCHANGED) * 0
    cv2.imwrite(str(data / "masks/01.png"), blank)
    status, out, _ = call("--data", "data", "--split", "all", "--out", "e.json", "--pictures", "shown")
    assert (status, json.loads(Path("e.json").read_text())["images"]) == (0, 16)
    told = " ".join(out.split())
    assert re.search(r"In [12] of 16 images nothing is marked: there, Dice is 1 where nothing is found", told)
    names = [row["image"] for row in read_rows(Path("shown/test.csv"))]
    assert names == [f"{number:02}.png" for number in range(24) if number % 3]


# The page


@pytest.mark.slow
def test_the_page_says_how_good_the_model_is_on_these_patients_and_fetches_nothing(call):
    make_model(MODEL_FILE)
    data = write_source(Path("data"))
    table = (data / "labels.csv").read_text().splitlines()
    rows = [f"{line},P{number // 8}" for number, line in enumerate(table[1:])]
    text = "\n".join([f"{table[0]},patient", *rows]).replace(",val", ",train").replace(",test", ",train")
    (data / "labels.csv").write_text(text + "\n")
    status, out, err = call("--data", "data", "--split", "all", "--page", "e.html", "--out", "e.json")
    assert (status, err) == (0, "")
    assert "24 images of 3 patients" in " ".join(out.split())
    found, page = json.loads(Path("e.json").read_text()), Path("e.html").read_text()
    low, high = found["intervals"]["patient_dice"]
    assert (found["images"], found["patients"]) == (24, 3)
    assert f"<h1>Dice of a patient {found['patient_dice']:.3f}</h1>" in page
    assert "These are few patients: with fewer than 10, intervals are too narrow." in " ".join(out.split())
    assert "These are few patients" in page
    assert f"between {low:.3f} and {high:.3f} for patients" in page
    assert page.count("<circle") == 3
    assert "data:image/png;base64," in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)


@pytest.mark.slow
def test_a_classifier_has_a_page_too(call):
    make_model(MODEL_FILE, "classification", ("mel", "nev"))
    write_source(Path("data"))
    status, _, err = call("--data", "data", "--split", "all", "--page", "e.html")
    assert (status, err) == (0, "")
    assert "<circle" not in Path("e.html").read_text()


def test_a_page_of_another_ending_is_refused(call):
    make_model(MODEL_FILE)
    write_source(Path("data"))
    status, _, err = call("--data", "data", "--page", "data/labels.csv")
    assert status == 2
    assert err.count("\n") == 1
    assert "--page data/labels.csv must end in .html" in err


def test_dots_of_equal_values_are_stacked_within_the_drawing():
    places = stacked(np.array([0.0, 0.5, 0.5, 1.0, *[0.99] * 40]))
    assert len(set(places)) == len(places) == 44
    assert all(0 <= left <= 1000 and 0 <= top <= 112 for left, top in places)
    assert places[1][0] == places[2][0] != places[0][0]
