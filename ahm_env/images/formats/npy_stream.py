"""One array of an .npz file, row after row: never unpickled, never whole, never more bytes than it states."""

import errno
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError
from ahm_env.images.formats.files import readable
from ahm_env.images.formats.limits import MOST_ROW_BYTES

BLOCK_BYTES = 2**20
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
)


class NpyStream:
    """An array in an .npz file.

    Attributes:
        where: File and array, as an error names them.
        shape: Shape of the array; the first axis is the rows.
        dtype: Type of its values.
        packed: Bytes that it takes up in the file.
        unpacked: Bytes that it states to have.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Read the header.

        Raises:
            ImageError: The file is damaged, or the array is of a kind that is not read.
        """
        self._path, self._member = path, f"{name}.npy"
        self.where = f"{path}: {name}"
        with self._open() as (stream, stated, packed):
            self.shape, self.dtype, self._start = self._header(stream)
        self._row_bytes = prod(self.shape[1:]) * self.dtype.itemsize
        if self.shape[0] < 0 or min(self.shape[1:], default=1) < 1 or self._row_bytes > MOST_ROW_BYTES:
            raise ImageError(f"{self.where} has shape {self.shape}, which cannot be images; export it again")
        if self._start + self.shape[0] * self._row_bytes != stated:
            claims = f"claims {self.shape[0] * self._row_bytes} bytes of values but stores {stated - self._start}"
            raise ImageError(f"{self.where} {claims}: damaged or forged; download it again")
        self.packed, self.unpacked = packed, stated

    def rows(self) -> Iterator[npt.NDArray[Any]]:
        """Yield one row after another, each of shape `shape[1:]`, read-only.

        Raises:
            ImageError: The file is damaged.
        """
        step = max(1, BLOCK_BYTES // self._row_bytes)
        with self._open() as (stream, _, _):
            stream.read(self._start)
            for first in range(0, self.shape[0], step):
                count = min(step, self.shape[0] - first)
                block = stream.read(count * self._row_bytes)
                if len(block) < count * self._row_bytes:
                    raise EOFError("values are missing")
                yield from np.frombuffer(block, self.dtype).reshape(count, *self.shape[1:])
            # One more byte makes zipfile compare the checksum.
            stream.read(1)

    @contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], int, int]]:
        with undamaged(self.where), readable(self._path), zipfile.ZipFile(self._path) as archive:
            member = archive.getinfo(self._member)
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ImageError(f"{self.where} is compressed in a way that NumPy does not write; save it with NumPy")
            with archive.open(member) as stream:
                yield stream, member.file_size, member.compress_size

    def _header(self, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], int]:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ImageError(f"{self.where} is in .npy format {version}, which holds no numbers; save it again")
        if dtype.kind not in "buif":
            raise ImageError(f"{self.where} holds {dtype}, not numbers, and is not unpickled; save it as integers")
        if fortran and len(shape) > 1:
            raise ImageError(f"{self.where} is in Fortran order; save it after numpy.ascontiguousarray")
        if not shape:
            raise ImageError(f"{self.where} is a single number; it needs one row an image")
        return shape, dtype, stream.tell()


@contextmanager
def undamaged(where: str) -> Iterator[None]:
    """Turn what a damaged .npz file raises into an `ImageError`."""
    try:
        yield
    except (*DAMAGE, OSError) as error:
        # A forged offset makes zipfile seek to where no file reaches; other errors are of the disk.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        cause = " ".join(str(error).split())[:120]
        raise ImageError(f"{where}: truncated, damaged or no .npz file ({cause}); download it again") from error
