import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ahm_env.errors import ImageError
from ahm_env.images.dataset import builder
from ahm_env.images.dataset.builder import build, prepare_all
from ahm_env.images.dataset.cache import read_meta
from ahm_env.images.pixels.fit import PixelSettings
from ahm_env.images.source import DatasetIndex, Entry, Sample

SETTINGS = PixelSettings(8)


def index(samples: list[Sample | str], **fields: object) -> DatasetIndex:
    """An index of these samples; a text is the error of a bad one."""

    def load(sample: Sample | str) -> Sample:
        if isinstance(sample, str):
            raise ImageError(sample)
        return sample

    loads: Iterator[Entry] = (lambda sample=sample: load(sample) for sample in samples)
    return DatasetIndex(len(samples), loads, **fields)


def sample(value: int = 0, colour: bool = False, mask: np.ndarray | None = None, name: str = "n") -> Sample:
    image = np.full((10, 12, 3) if colour else (10, 12), value, np.uint8)
    if colour:
        image[..., 0] = 255
    return Sample(name, f"folder/{name}", image, mask, label=value, split=value % 3)


def built(tmp_path: Path, samples: list[Sample | str], settings: PixelSettings = SETTINGS, **fields: object) -> Path:
    skip_bad = bool(fields.pop("skip_bad", False))
    directory = tmp_path / "entry"
    directory.mkdir()
    build(directory, index(samples, **fields), settings, skip_bad, "source", None)
    return directory


def test_samples_are_prepared_in_order_whatever_the_thread() -> None:
    gate = threading.Event()

    def wait_then(index: int) -> Sample:
        if index == 0:
            assert gate.wait(60)
        elif index == 1:
            gate.set()
        return sample(index)

    loads = (lambda index=index: wait_then(index) for index in range(100))
    prepared = list(prepare_all(DatasetIndex(100, loads), SETTINGS))
    assert [each.sample.label for each in prepared] == list(range(100))


def test_only_a_few_samples_are_loaded_ahead() -> None:
    started = 0

    def loads() -> Iterator[Entry]:
        nonlocal started
        for index in range(1000):
            started += 1
            yield lambda index=index: sample(index % 200)

    samples = prepare_all(DatasetIndex(1000, loads()), SETTINGS)
    for taken, _ in zip(range(1, 200), samples, strict=False):
        assert started <= taken + builder.AHEAD
    samples.close()


def test_a_sample_keeps_what_is_known_of_its_original() -> None:
    mask = np.zeros((10, 12), np.uint8)
    mask[3, 4] = 7
    (prepared,) = prepare_all(index([sample(5, mask=mask)]), SETTINGS)
    assert prepared.mask_values == {0, 7}
    assert (prepared.sample.image.shape, prepared.sample.mask.shape) == ((1, 8, 8), (8, 8))


def test_an_image_without_a_finite_value_is_named() -> None:
    bad = Sample("a.tif", "folder/a.tif", np.full((4, 4), np.nan))
    (error,) = prepare_all(index([bad]), SETTINGS)
    assert str(error) == "folder/a.tif: holds no finite value; export it again"


def test_grey_images_stay_grey_and_one_in_colour_makes_all_rgb(tmp_path: Path) -> None:
    grey = built(tmp_path, [sample(1), sample(2)])
    assert np.load(grey / "images.npy").shape == (2, 1, 8, 8)
    grey.rename(tmp_path / "grey")
    mixed = built(tmp_path, [sample(1), sample(2), sample(3, colour=True), sample(4)])
    images = np.load(mixed / "images.npy")
    assert images[:, :, 0, 0].tolist() == [[1, 1, 1], [2, 2, 2], [255, 3, 3], [4, 4, 4]]
    assert read_meta(mixed).channels == 3
    assert sorted(path.suffix for path in mixed.iterdir()) == [".json"] + [".npy"] * 10


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_that_are_asked_for_are_kept(tmp_path: Path, channels: int) -> None:
    entry = built(tmp_path, [sample(1), sample(2, colour=True)], PixelSettings(8, channels))
    assert np.load(entry / "images.npy").shape == (2, channels, 8, 8)


@pytest.mark.parametrize(
    ("values", "binary"),
    [([(0, 255), (0, 1)], True), ([(0,), (255,)], True), ([(0, 1, 255)], False), ([(0, 255), (0, 2)], False)],
)
def test_masks_are_binary_where_each_has_two_values(tmp_path: Path, values: list, binary: bool) -> None:
    masks = [np.resize(np.array(each, np.uint8), (10, 12)) for each in values]
    entry = built(tmp_path, [sample(mask=mask) for mask in masks], has_masks=True)
    assert read_meta(entry).binary_masks is binary


def test_a_bad_image_stops_the_build_with_remedies(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^a\.png: damaged \(--skip-bad .*`ahm data check source`.*\)$"):
        built(tmp_path, [sample(1), "a.png: damaged", "b.png: damaged"])


def test_a_problem_of_no_image_stops_the_build_and_says_how_many(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^m: orphan \(2 such problems; --skip-bad"):
        built(tmp_path, [sample(1)], problems=["m: orphan", "n: orphan"])


def test_bad_images_are_left_out_and_counted(tmp_path: Path) -> None:
    samples = [sample(1), "bad", sample(2), "bad"]
    entry = built(tmp_path, samples, skip_bad=True, problems=["m: orphan"])
    assert np.load(entry / "labels.npy").tolist() == [1, 2]
    assert read_meta(entry).skipped == 3


def test_a_source_of_bad_images_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"source: all of its 2 images are bad; the first: first"):
        built(tmp_path, ["first", "second"], skip_bad=True)
