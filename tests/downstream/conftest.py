"""Tiny images, models and runs, for the tests of fine-tuning; nothing here acts on a test that does not ask for it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from ahm_env import ImageSet, load_images
from ahm_env.images.pixels.opencv import cv2
from downstream.models.model import ModelSpec

WriteSource = Callable[..., Path]
SIZES = ((20, 30), (33, 17), (16, 16), (40, 25))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Forty phantoms of 16 px in colour: 32 to train, 4 for validation, 4 to test; only ever read."""
    return load_images("phantom:40:0", 16, cache_dir=tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of pretraining: a U-Net of width 2 for images of 16 px in colour."""
    from agents.pretraining.console import train_agent

    root = tmp_path_factory.mktemp("pretrained")
    given = {
        "algo": "random",
        "data": "phantom:40:0",
        "total_images": 48,
        "width": 2,
        "image_size": 16,
        "patch_size": 4,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AHM_CACHE", str(root / "cache"))
        assert train_agent({**given, "workers": 1, "device": "cpu"}, None, root / "run", False) == 0
    return root / "run"


@pytest.fixture
def spec() -> ModelSpec:
    """Of a U-Net that finds one kind of lesion in colour images of 16 px."""
    names = ("background", "foreground")
    return ModelSpec(
        "segmentation", "unet", names, (0, 1), 16, 3, "stretch", (120.0,) * 3, (60.0,) * 3, 2, "batch", False
    )


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache and a working directory that nobody else uses."""
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write_source(tmp_path: Path) -> WriteSource:
    """Writes a folder of images of several sizes, each with a bright box that is its lesion."""

    def write(
        name: str = "source",
        splits: Sequence[str] = ("train",) * 6 + ("val", "test", "test"),
        values: Sequence[int] = (0, 255),
        classes: Sequence[str] = (),
        grey: bool = False,
        masks: bool = True,
        sizes: Sequence[tuple[int, int]] = SIZES,
    ) -> Path:
        root, rng = tmp_path / name, np.random.default_rng(0)
        (root / "images").mkdir(parents=True)
        (root / "masks").mkdir()
        lines = ["image,label,split"]
        for number, split in enumerate(splits):
            height, width = sizes[number % len(sizes)]
            truth = np.zeros((height, width), np.uint8)
            for value in values[1:]:
                top, left = (int(rng.integers(0, side // 2)) for side in (height, width))
                truth[top : top + height // 2, left : left + width // 3] = value
            pixels = rng.integers(0, 60, (height, width) if grey else (height, width, 3), np.uint8)
            pixels[truth > 0] += 150
            assert cv2.imwrite(str(root / "images" / f"{number:02}.png"), pixels)
            if masks:
                assert cv2.imwrite(str(root / "masks" / f"{number:02}.png"), truth)
            lines.append(f"{number:02},{classes[number % len(classes)] if classes else ''},{split}")
        (root / "labels.csv").write_text("\n".join(lines) + "\n")
        return root

    return write
