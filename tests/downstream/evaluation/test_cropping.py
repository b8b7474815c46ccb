"""Crops: the square around a lesion, and sources that show nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ahm_env import CheckpointError, ImageError, load_images
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.pixels.fit import PixelSettings
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.source import Sample
from downstream.evaluation.cropping import MARGIN, Cropped, crop, lesion_box, load_segmenter
from downstream.models.model import Model, ModelSpec
from downstream.models.resizing import to_square

pytestmark = pytest.mark.usefixtures("own_cache")

PIXELS = PixelSettings(16)


class Bright:
    """Takes for lesion what is bright."""

    precision = "fp32"

    def __init__(self, spec: ModelSpec) -> None:
        self.spec, self.network = spec, torch.nn.Identity()

    def probabilities(self, images: np.ndarray, tta: bool = False) -> np.ndarray:
        lesion = images.mean(1) / 255
        return np.stack([1 - lesion, lesion], 1).astype(np.float32)


@pytest.fixture
def segmenter(spec: ModelSpec) -> Model:
    return Model.create(spec, 0)


def found_at(shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    found = np.zeros(shape, bool)
    found[rows, columns] = True
    return found


@pytest.mark.parametrize(
    ("shape", "rows", "columns", "box"),
    [
        # 40 wide, so 52 with its margins, around (50, 100)
        ((100, 200), slice(40, 60), slice(80, 120), (24, 74, 52, 52)),
        # the same in a corner, cut off there
        ((100, 200), slice(0, 20), slice(0, 40), (0, 0, 36, 46)),
        ((100, 200), slice(80, 100), slice(160, 200), (64, 154, 36, 46)),
        # a pixel becomes an eighth of the longer side
        ((100, 160), slice(50, 51), slice(80, 81), (40, 70, 20, 20)),
        # all of it
        ((100, 200), slice(0, 100), slice(0, 200), (0, 0, 100, 200)),
        # nothing
        ((100, 200), slice(0, 0), slice(0, 0), (0, 0, 100, 200)),
    ],
)
def test_the_box_of_a_lesion_by_hand(shape, rows, columns, box):
    assert lesion_box(found_at(shape, rows, columns)) == box


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    pixels=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=5),
)
def test_a_box_lies_in_the_image_and_holds_the_lesion(shape, pixels):
    found = np.zeros(shape, bool)
    for row, column in pixels:
        found[row % shape[0], column % shape[1]] = True
    top, left, height, width = lesion_box(found)
    assert 0 <= top < top + height <= shape[0]
    assert 0 <= left < left + width <= shape[1]
    assert found[top : top + height, left : left + width].sum() == found.sum()
    if found.any():
        rows, columns = (np.flatnonzero(found.any(axis)) for axis in (1, 0))
        longer = max(np.ptp(rows), np.ptp(columns)) + 1
        assert max(height, width) <= max(longer * (1 + 2 * MARGIN), max(shape) / 8) + 1


def test_a_crop_is_what_lies_in_the_box(spec: ModelSpec):
    image = np.random.default_rng(0).integers(0, 60, (64, 96, 3), np.uint8)
    image[16:32, 24:48] = 255
    sample = Sample("a.png", "scans/a.png", image, np.ones((64, 96), np.uint8), 2, 1)
    for fit in ("stretch", "pad"):
        cut = crop(sample, Bright(replace(spec, fit=fit, image_size=32)))
        assert (cut.name, cut.path, cut.mask, cut.label, cut.split) == ("a.png", "scans/a.png", None, 2, 1)
        assert 24 * 1.3 - 6 <= max(cut.image.shape[:2]) <= 24 * 1.3 + 6
        assert np.count_nonzero((cut.image == 255).all(2)) == 16 * 24


def test_a_cropped_source_shows_crops_and_no_masks(write_source, spec: ModelSpec):
    root = write_source(classes=("mel", "nev"))
    whole = list(find_source(root, PIXELS).index().samples)
    source = Cropped(find_source(root, PIXELS), Bright(spec), str(root))
    images = load_images(source, 16)
    assert (str(source), images.source) == (str(root), str(root))
    assert (images.has_masks, images.classes, len(images)) == (False, ("mel", "nev"), len(whole))
    changed = 0
    for index, load in enumerate(whole):
        cut = crop(load(), Bright(spec))
        np.testing.assert_array_equal(images.images(index)[0], to_square(cut.image, spec))
        assert images.labels(index)[0] == cut.label
        changed += cut.image.shape != load().image.shape
    assert changed > 5
    assert load_images(root, 16).content_key != images.content_key


def test_other_weights_or_images_are_another_source(write_source, spec: ModelSpec, segmenter: Model):
    root = write_source()
    prints = [
        Cropped(find_source(root, PIXELS), one, "name").fingerprint() for one in (segmenter, Model.create(spec, 0))
    ]
    assert prints[0] == prints[1]
    prints.append(Cropped(find_source(root, PIXELS), Model.create(spec, 1), "name").fingerprint())
    prints.append(Cropped(find_source(root, PIXELS), Model.create(replace(spec, fit="pad"), 0), "name").fingerprint())
    prints.append(Cropped(find_source("phantom:3", PIXELS), segmenter, "name").fingerprint())
    with torch.no_grad():
        segmenter.network.inc.double_conv[1].running_mean[0] += 1e-6  # statistics count as well
    prints.append(Cropped(find_source(root, PIXELS), segmenter, "name").fingerprint())
    segmenter.precision = "bf16"  # crops differ with rounding
    prints.append(Cropped(find_source(root, PIXELS), segmenter, "name").fingerprint())
    assert len(set(prints[1:])) == 6


def test_an_image_that_cannot_be_used_is_named(write_source, segmenter: Model):
    root = write_source(masks=False)
    cv2.imwrite(str(root / "images" / "03.tif"), np.full((8, 8), np.nan, np.float32))
    (root / "images" / "03.png").unlink()
    with pytest.raises(ImageError, match=r"images/03\.tif: holds no finite value"):
        load_images(Cropped(find_source(root, PIXELS), segmenter, "name"), 16)
    assert load_images(Cropped(find_source(root, PIXELS), segmenter, "name"), 16, skip_bad=True).skipped == 1


def test_a_segmenter_is_no_classifier(spec: ModelSpec, segmenter: Model, tmp_path: Path):
    segmenter.save(tmp_path / "segmenter" / "model.safetensors")
    assert load_segmenter(tmp_path / "segmenter").spec == spec
    other = Model.create(replace(spec, task="classification", values=()), 0)
    other.save(tmp_path / "classifier" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"classifier: holds a classifier, not a segmenter"):
        load_segmenter(tmp_path / "classifier")
    with pytest.raises(CheckpointError, match=r"nowhere: no such file"):
        load_segmenter(tmp_path / "nowhere")
