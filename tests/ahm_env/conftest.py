"""Fixtures for the tests of the masking problem: a cache of images that nobody else uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.images.dataset.loader import load_images


@pytest.fixture(scope="session")
def image_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("image-cache")


@pytest.fixture(scope="module")
def own_cache(image_cache: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AHM_CACHE", str(image_cache))
        yield image_cache


@pytest.fixture(scope="session")
def images(image_cache: Path) -> ImageSet:
    """Ten phantoms of 32 px: eight to train, one for validation, one to test."""
    return load_images("phantom:10:1", 32, cache_dir=image_cache)
