"""What the tests of images share: a cache of their own, and folders made on the spot."""

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ahm_env.images.pixels.opencv import cv2
from tests.dicom_file import write_dicom

MakeFolder = Callable[..., Path]
MakeDicom = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, with the salt of pseudonyms, that nobody else uses."""
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Makes a folder of `count` small colour images, with masks and a table where asked for."""

    def make(count: int = 4, masks: bool = False, table: str | None = None, name: str = "scans") -> Path:
        rng = np.random.default_rng(count)
        root = tmp_path / name
        (root / "images").mkdir(parents=True)
        if masks:
            (root / "masks").mkdir()
        for index in range(count):
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            assert cv2.imwrite(str(root / "images" / f"{index:04d}.png"), pixels)
            if masks:
                mask = np.where(np.arange(30) < 10 + index, 255, 0).astype(np.uint8)
                assert cv2.imwrite(str(root / "masks" / f"{index:04d}.png"), np.tile(mask, (20, 1)))
        if table is not None:
            (root / "labels.csv").write_text(table, encoding="utf-8")
        return root

    return make


@pytest.fixture
def make_dicom() -> MakeDicom:
    """Writes a DICOM file of (H, W), (N, H, W) or, for colours, (H, W, 3); an element that is None is left out."""
    pytest.importorskip("pydicom")

    def make(path: Path, pixels: np.ndarray, *syntax: Any, **elements: Any) -> Path:
        write_dicom(path, pixels, *syntax, **elements)
        return path

    return make


@pytest.fixture
def unlook(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Denies what is in a folder, as one of mode 0644 does that can be listed; to root, too, whom no mode keeps out."""

    def unlook(folder: Path) -> None:
        def denied(look: Callable[..., os.stat_result], path: Any, **options: Any) -> os.stat_result:
            if folder in Path(os.fsdecode(path)).parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return look(path, **options)

        for name in ("stat", "lstat"):
            monkeypatch.setattr(os, name, partial(denied, getattr(os, name)))

    return unlook


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Real images that lie beside the project where they are available."""
    data = Path(__file__).resolve().parents[3].parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip(f"no real images in {data}")
    return data
