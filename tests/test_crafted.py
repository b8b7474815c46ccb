"""Files made to harm are refused; how soon, `python -m benchmarks.reading.crafted` measures."""

from pathlib import Path

import pytest

pytest.importorskip("pydicom")
pytest.importorskip("nibabel")

from ahm_env.errors import AHMError
from ahm_env.images.dataset.loader import load_images
from tests.crafted import make


@pytest.mark.slow
def test_crafted_files_are_refused_in_a_line_and_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for what, (path, read) in make(tmp_path).items():
        with pytest.raises(AHMError) as caught:
            read(path)
        assert "\n" not in str(caught.value), what
        assert str(tmp_path) in str(caught.value), what
        assert ("is a link that leads out of the folder" in str(caught.value)) is what.startswith("a link"), what
    assert not (tmp_path / "unpickled").exists()
    for kind in ("png", "nii", "dcm"):
        assert len(load_images(tmp_path / f"harmless-{kind}", 16)) == 1
