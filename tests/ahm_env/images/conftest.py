"""What the tests of images share: a cache of their own, and folders made on the spot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ahm_env.images.pixels.opencv import cv2

MakeFolder = Callable[..., Path]
MakeDicom = Callable[..., Path]

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
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
def make_dicom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MakeDicom:
    """Writes a DICOM file of (H, W), (N, H, W) or, for colours, (H, W, 3); an element that is None is left out."""
    pydicom = pytest.importorskip("pydicom")
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))

    def make(
        path: Path, pixels: np.ndarray, syntax: str = "1.2.840.10008.1.2.1", little: bool = True, **elements: Any
    ) -> Path:
        samples = elements.get("SamplesPerPixel", 1)
        rows, columns = pixels.shape[-3:-1] if samples > 1 else pixels.shape[-2:]
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        described = {
            "SOPClassUID": CT,
            "SOPInstanceUID": "1.2.3.4",
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "PlanarConfiguration": 0 if samples > 1 else None,
            "NumberOfFrames": None if pixels.ndim == (3 if samples > 1 else 2) else len(pixels),
            "Rows": rows,
            "Columns": columns,
            "BitsAllocated": 8 * pixels.dtype.itemsize,
            "BitsStored": 8 * pixels.dtype.itemsize,
            "HighBit": 8 * pixels.dtype.itemsize - 1,
            "PixelRepresentation": int(pixels.dtype.kind == "i"),
            "PixelData": pixels.tobytes() + b"\0" * (pixels.nbytes % 2),
        }
        for keyword, value in (described | elements).items():
            if value is not None:
                setattr(dataset, keyword, value)
        if "PixelData" in dataset:
            dataset["PixelData"].VR = "OB" if "PixelData" in elements else "OW"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, implicit_vr=False, little_endian=little, enforce_file_format=True)
        return path

    return make


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Real images that lie beside the project where they are available."""
    data = Path(__file__).resolve().parents[3].parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip(f"no real images in {data}")
    return data
