import builtins
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

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
