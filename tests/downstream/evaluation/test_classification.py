"""Classification of labelled images: what is compared with what, and what is written."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ahm_env import ImageSet
from ahm_env.files import read_rows
from ahm_env.images.pixels.opencv import cv2
from downstream.evaluation import classification
from downstream.evaluation.classification import ClassificationAssessment, assess_classifier
from downstream.evaluation.metrics import score_labels
from downstream.models.model import Model, ModelSpec


@pytest.fixture
def model(spec: ModelSpec, drawn: ImageSet) -> Model:
    return Model.create(replace(spec, task="classification", classes=drawn.classes, values=()), 0)


@pytest.mark.slow
@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_images_are_compared_with_their_labels(
    model: Model, drawn: ImageSet, monkeypatch: pytest.MonkeyPatch, tta: bool, batch: int
):
    monkeypatch.setattr(classification, "BATCH", batch)
    indices = drawn.split("train")[:7]
    found = assess_classifier(model, drawn, indices, tta)
    expected = model.probabilities(drawn.images(indices), tta)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert found.truth.tolist() == drawn.labels(indices).tolist()
    assert found.images == [drawn.names[index] for index in indices]
    scores = score_labels(drawn.labels(indices), found.probabilities)
    assert (found.scores.accuracy, found.scores.auroc) == (scores.accuracy, scores.auroc)
    assert found.summary["confusion"] == scores.confusion.tolist()


def test_what_is_not_defined_is_none_in_json(model: Model, drawn: ImageSet):
    indices = drawn.split("train")[drawn.labels(drawn.split("train")) == 1][:2]
    summary = assess_classifier(model, drawn, indices).summary
    assert summary["auroc"] is None
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_a_table_of_images_and_the_confusion_are_written(model: Model, drawn: ImageSet, tmp_path: Path):
    found = assess_classifier(model, drawn, drawn.split("test"))
    found.write(tmp_path)
    table = read_rows(tmp_path / "test.csv")
    assert list(table[0]) == ["image", "patient", "label", "prediction", *(f"p {name}" for name in drawn.classes)]
    for row, index, shares in zip(table, drawn.split("test"), found.probabilities, strict=True):
        assert row["image"] == drawn.names[index]
        assert int(row["patient"]) == drawn.patients([index])[0]
        assert row["label"] == drawn.classes[drawn.labels([index])[0]]
        assert row["prediction"] == drawn.classes[shares.argmax()]
        assert [float(row[f"p {name}"]) for name in drawn.classes] == pytest.approx(shares, rel=1e-5)
    assert cv2.imread(str(tmp_path / "confusion.png")) is not None


def test_what_giving_the_most_frequent_class_would_have():
    truth = np.array([0, 1, 1, 1])
    shares = np.tile([[0.6, 0.4]], (4, 1)).astype(np.float32)
    assessed = ClassificationAssessment(("a", "b"), "wxyz", np.arange(4), truth, shares, score_labels(truth, shares))
    assert (assessed.summary["accuracy"], assessed.summary["majority_accuracy"]) == (1 / 4, 3 / 4)
    assert assessed.measures()(np.array([0, 0, 1]))["majority_accuracy"] == 1 / 3
