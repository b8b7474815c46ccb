import contextlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ahm_env.errors import ImageError
from ahm_env.images.formats import npy_stream
from ahm_env.images.formats.npy_stream import NpyStream


def forged(path: Path, header: dict, values: bytes, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """An .npz file whose only array `x` has this header and these bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", stream.getvalue() + values)
    return path


def header(shape: tuple[int, ...] = (2, 3), kind: str = "|u1", fortran: bool = False) -> dict:
    return {"descr": kind, "fortran_order": fortran, "shape": shape}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.sampled_from(["<u1", ">u2", "<i8", "<f4", "|b1"]), hnp.array_shapes(min_dims=1, max_dims=4), st.booleans())
def test_rows_are_those_of_the_array(tmp_path: Path, kind: str, shape: tuple[int, ...], compressed: bool) -> None:
    array = (np.arange(np.prod(shape)).reshape(shape) % 2).astype(kind)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", x=array)
    stream = NpyStream(tmp_path / "a.npz", "x")
    assert (stream.shape, stream.dtype) == (shape, np.dtype(kind))
    assert np.array_equal(list(stream.rows()), array)


def test_rows_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npy_stream, "BLOCK_BYTES", 20)
    array = np.arange(63, dtype=np.uint8).reshape(9, 7)
    np.savez_compressed(tmp_path / "a.npz", x=array)
    assert np.array_equal(list(NpyStream(tmp_path / "a.npz", "x").rows()), array)


@pytest.mark.parametrize(
    ("head", "values", "complaint"),
    [
        (header((10**12, 3)), b"123456", "claims 3000000000000 bytes of values but stores 6"),
        (header((2, 2)), b"123456", "claims 4 bytes of values but stores 6"),
        (header((2, 2**40)), b"123456", "which cannot be images"),
        (header((2, 0)), b"", "which cannot be images"),
        (header((2, -3)), b"123456", "which cannot be images"),
        (header((-2, 3)), b"", "which cannot be images"),
        (header(()), b"1", "is a single number"),
        (header(fortran=True), b"123456", "is in Fortran order; save it after numpy.ascontiguousarray"),
        (header(kind="|O"), b"123456", "holds object, not numbers, and is not unpickled"),
        (header(kind="<U1"), b"1" * 24, "not numbers"),
        (header(kind="<c8"), b"1" * 48, "not numbers"),
    ],
)
def test_arrays_that_lie_or_are_of_no_use_are_refused(
    tmp_path: Path, head: dict, values: bytes, complaint: str
) -> None:
    path = forged(tmp_path / "a.npz", head, values)
    with pytest.raises(ImageError, match=complaint) as caught:
        NpyStream(path, "x")
    assert str(caught.value).startswith(f"{path}: x ")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"any": "object"}], dtype=object))
    with pytest.raises(ImageError, match="not unpickled"):
        NpyStream(tmp_path / "a.npz", "x")


def test_a_member_that_unpacks_to_more_than_it_states_yields_no_more(tmp_path: Path) -> None:
    path = forged(tmp_path / "bomb.npz", header((2, 3)), b"123456" + b"\0" * 10**6)
    content = bytearray(path.read_bytes())
    true_size = struct.pack("<I", zipfile.ZipFile(path).getinfo("x.npy").file_size)
    stated = struct.pack("<I", zipfile.ZipFile(path).getinfo("x.npy").file_size - 10**6)
    path.write_bytes(bytes(content).replace(true_size, stated))
    with pytest.raises(ImageError, match=r"truncated, damaged or no \.npz file"):
        list(NpyStream(path, "x").rows())


def test_a_huge_header_is_refused_in_one_line(tmp_path: Path) -> None:
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}" + b" " * 20000 + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"1")
    with pytest.raises(ImageError, match="damaged") as caught:
        NpyStream(tmp_path / "a.npz", "x")
    assert "\n" not in str(caught.value)


def test_another_compression_is_refused(tmp_path: Path) -> None:
    path = forged(tmp_path / "a.npz", header(), b"123456", zipfile.ZIP_LZMA)
    with pytest.raises(ImageError, match="compressed in a way that NumPy does not write"):
        NpyStream(path, "x")


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_damage_anywhere_is_an_image_error_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.arange(60, dtype=np.uint16).reshape(4, 15))
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    with contextlib.suppress(ImageError):
        list(NpyStream(path, "x").rows())
