"""Images that are lent to a machine without their files: the pixels, and nothing that says what they show."""

import pickle
import shutil
from pathlib import Path

import numpy as np

from ahm_env import load_images
from ahm_env.images.dataset.lent import LentImages
from ahm_env.images.pixels.opencv import cv2


def inverted(images: np.ndarray) -> np.ndarray:
    return 255 - images


def test_pixels_and_splits_go_along_and_names_do_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "scans" / "images").mkdir(parents=True)
    for number in range(6):
        cv2.imwrite(str(tmp_path / "scans" / "images" / f"mustermann{number}.png"), rng.integers(0, 256, (16, 16)))
    images = load_images(tmp_path / "scans", 16, cache_dir=tmp_path / "cache").mapped(inverted)
    every, train = np.arange(6), images.split("train")
    pixels, statistics = images.images(every), images.standardisation(train)
    pickled = pickle.dumps(LentImages(images))
    assert b"mustermann" not in pickled
    shutil.rmtree(tmp_path / "cache")
    lent = pickle.loads(pickled)
    assert (len(lent), lent.channels, lent.image_size) == (6, 1, 16)
    assert (lent.images(every) == pixels).all()
    assert (lent.split("train") == train).all()
    assert all((one == other).all() for one, other in zip(lent.standardisation(train), statistics, strict=True))
