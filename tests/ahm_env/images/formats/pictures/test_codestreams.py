import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ahm_env.errors import ImageError
from ahm_env.images.formats.pictures.codestreams import frame_shape, sample_bits


def encoded(kind: str, *shape: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)).save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
@pytest.mark.parametrize("shape", [(20, 30), (33, 17, 3)])
def test_jpeg_and_jpeg_2000_tell_their_size(kind: str, shape: tuple[int, ...]) -> None:
    assert frame_shape(encoded(kind, *shape)) == (*shape[:2], shape[2] if len(shape) == 3 else 1)


def test_a_bare_jpeg_2000_codestream_tells_its_size() -> None:
    content = encoded("JPEG2000", 20, 30)
    assert frame_shape(content[content.index(b"\xff\x4f\xff\x51") :]) == (20, 30, 1)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_jpeg_and_jpeg_2000_tell_how_many_bits_a_sample_has(kind: str) -> None:
    assert sample_bits(encoded(kind, 20, 30)) == 8


def test_padding_is_no_part_of_the_image() -> None:
    assert frame_shape(encoded("JPEG", 20, 30) + b"\0") == (20, 30, 1)
    assert frame_shape(encoded("JPEG", 20, 30) + b"\xff") == (20, 30, 1)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_truncated_image_is_refused(kind: str, share: float) -> None:
    content = encoded(kind, 20, 30)
    with pytest.raises(ImageError, match="the end of its compressed pixels is missing; it is truncated"):
        frame_shape(content[: int(share * len(content))])


@given(st.sampled_from([b"", b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "]), st.binary(max_size=60))
def test_anything_else_is_refused(start: bytes, content: bytes) -> None:
    try:
        rows, columns, components = frame_shape(start + content + b"\xff\xd9")
    except ImageError:
        return
    assert (rows, columns, components) != (None, None, None)
