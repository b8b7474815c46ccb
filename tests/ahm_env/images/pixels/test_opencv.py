import builtins
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ahm_env.images.pixels.opencv
from ahm_env.errors import SettingsError


@pytest.fixture
def failing_import(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes `import cv2` fail with a text of choice, and mends it afterwards."""
    real = builtins.__import__

    def fail_with(text: str) -> None:
        def fake(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == "cv2":
                raise ImportError(text)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", fake)

    loaded = sys.modules["cv2"]
    yield fail_with
    monkeypatch.undo()
    sys.modules["cv2"] = loaded
    importlib.reload(ahm_env.images.pixels.opencv)


@pytest.mark.parametrize(
    ("library", "package"),
    [("libGL.so.1", "libgl1"), ("libgthread-2.0.so.0", "libglib2.0-0"), ("libglib-2.0.so.0", "libglib2.0-0")],
)
def test_a_missing_system_library_is_explained_with_its_package(
    failing_import: Any, library: str, package: str
) -> None:
    failing_import(f"{library}: cannot open shared object file: No such file or directory")
    with pytest.raises(SettingsError, match=f"{library}.*apt-get install {package}") as caught:
        importlib.reload(ahm_env.images.pixels.opencv)
    assert "\n" not in str(caught.value)


def test_another_import_error_of_opencv_is_left_as_it_is(failing_import: Any) -> None:
    failing_import("No module named 'cv2'")
    with pytest.raises(ImportError, match="No module named"):
        importlib.reload(ahm_env.images.pixels.opencv)


READ_ALL = """
import sys
from ahm_env.errors import ImageError
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.pixels.fit import PixelSettings
for path in sys.argv[1:]:
    (entry,) = find_source(path, PixelSettings(), bare=True).index().samples
    try:
        print(entry().image.size)
    except ImageError as error:
        print("refused")
"""


@pytest.mark.parametrize(("limit", "expected"), [("399", "refused"), ("400", "400")])
def test_one_limit_of_pixels_is_that_of_all_formats(tmp_path: Path, make_dicom, limit: str, expected: str) -> None:
    pixels = np.arange(400, dtype=np.uint16).reshape(20, 20) % 256
    picture = Image.fromarray(pixels.astype(np.uint8))
    for ending in ("png", "jpg", "tif", "bmp", "gif"):
        kept = picture.convert("1") if ending == "bmp" else picture
        kept.save(tmp_path / f"a.{ending}")
    make_dicom(tmp_path / "a.dcm", pixels)
    paths = sorted(map(str, tmp_path.glob("a.*")))
    words = [sys.executable, "-c", READ_ALL, *paths]
    environment = os.environ | {"OPENCV_IO_MAX_IMAGE_PIXELS": limit}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected] * 6


def test_a_limit_that_is_no_number_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "100MB")
    with pytest.raises(SettingsError, match=r"OPENCV_IO_MAX_IMAGE_PIXELS=100MB: not a number of pixels; give one such"):
        importlib.reload(ahm_env.images.pixels.opencv)
    monkeypatch.undo()
    importlib.reload(ahm_env.images.pixels.opencv)
