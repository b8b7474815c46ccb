from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ahm_env.images.formats.pictures.picture import read_picture
from ahm_env.images.pixels.png import encode_png, save_picture


@pytest.mark.parametrize("shape", [(7, 9, 3), (7, 9)])
def test_a_file_holds_the_picture_and_nothing_else(tmp_path: Path, shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    save_picture(tmp_path / "deeper" / "a.png", picture)
    stored = Image.open(tmp_path / "deeper" / "a.png")
    assert np.array_equal(np.asarray(stored), picture)
    assert stored.info == {}
    assert [path.name for path in (tmp_path / "deeper").iterdir()] == ["a.png"]


def test_sixteen_bits_stay(tmp_path: Path) -> None:
    picture = np.array([[0, 255, 65535], [256, 7, 1000]], np.uint16)
    (tmp_path / "a.png").write_bytes(encode_png(picture))
    assert np.array_equal(read_picture(tmp_path / "a.png").pixels, picture)
