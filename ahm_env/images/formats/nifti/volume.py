"""One NIfTI file: its header, its values, and its orientation.

Read are single files (.nii, .nii.gz) of NIfTI-1 and NIfTI-2. Of a header only numbers are used: its texts and
extensions, which may tell who the patient is, are not even parsed.
"""

import gzip
import io
import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.formats.files import readable
from ahm_env.images.formats.limits import MOST_DEFLATED, MOST_SIDE, MOST_VOLUME_BYTES, MOST_VOXELS
from ahm_env.images.source import Pixels

COMPRESSED = ".nii.gz"
LONGEST = 540  # bytes of a header
BLOCK = 2**20
DAMAGE = (zlib.error, gzip.BadGzipFile, EOFError, ArithmeticError, LookupError, ValueError)
# What nibabel mends in a header it would tell the terminal.
QUIET = logging.Logger("nifti", level=logging.CRITICAL + 1)

Stream = io.BufferedReader | gzip.GzipFile
Affine = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class VolumeHeader:
    """What a file says of its volume.

    Attributes:
        path: The file.
        shape: (X, Y, Z) voxels, in the order of the file; Z is 1 for a 2-D image.
        volumes: How many there are, 1 for what is not 4-D; the first is read.
        dtype: Type of a stored value; has fields where it is a colour.
        offset: Bytes before the values.
        scale: Slope and intercept from stored values to intensities.
        affine: (4, 4), voxels of the file to millimetres, to the patient's right, front and top.
        orientation: (3, 2), for each axis of the file its axis in RAS order and 1 or -1, as nibabel has it.
    """

    path: Path
    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype[Any]
    offset: int
    scale: tuple[float, float]
    affine: Affine
    orientation: npt.NDArray[np.float64]

    @property
    def ras_shape(self) -> tuple[int, ...]:
        """Voxels to the patient's right, front and top."""
        return tuple(self.shape[axis] for axis in self._file_axes)

    @property
    def ras_affine(self) -> Affine:
        """(4, 4), voxels of the volume in RAS order to millimetres."""
        return np.asarray(self.affine @ nibabel("orientations").inv_ornt_aff(self.orientation, self.shape), np.float64)

    def to_ras(self, values: Pixels) -> Pixels:
        """Turn (X, Y, Z[, 3]) from the order of the file to RAS order, in which right, front and top grow; a view."""
        flipped = values[tuple(slice(None, None, int(sign)) for sign in self.orientation[:, 1])]
        return flipped.transpose(*self._file_axes, *range(3, values.ndim))

    def from_ras(self, values: Pixels) -> Pixels:
        """Undo `to_ras`: what is saved with `affine` lies where the file's own volume lies; a view."""
        order = self.orientation[:, 0].astype(int)
        stored = values.transpose(*order, *range(3, values.ndim))
        return stored[tuple(slice(None, None, int(sign)) for sign in self.orientation[:, 1])]

    @property
    def _file_axes(self) -> list[int]:
        return [int(axis) for axis in np.argsort(self.orientation[:, 0])]


def read_header(path: Path) -> VolumeHeader:
    """Read the header of a file, and check whether the file can hold what it promises.

    Raises:
        ImageError: It cannot be read, is damaged or forged, or holds what is no grey or colour volume.
        SettingsError: nibabel is not installed.
    """
    with undamaged(path), _opened(path) as stream:
        header = parse_header(stream.read(LONGEST), path)
        slope, inter = header.get_slope_inter()
        affine = np.asarray(header.get_best_affine(), np.float64)
        shape = [int(side) for side in header.get_data_shape()]
        dtype = np.dtype(header.get_data_dtype())
        offset = max(header.get_data_offset(), header.single_vox_offset)
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) not in (2, 3, 4) or min(shape) < 1:
        raise ImageError(f"{path}: has shape {tuple(shape)}; 2-D, 3-D and 4-D volumes are read, save it as one")
    width, height, depth = (*shape, 1)[:3]
    if dtype.kind not in "iuf" and (dtype.names or ())[:3] != ("R", "G", "B"):
        raise ImageError(f"{path}: holds {dtype.name}, neither real numbers nor RGB; save its magnitude as float32")
    _check_size(path, shape, dtype.itemsize, offset)
    return VolumeHeader(
        path=path,
        shape=(width, height, depth),
        volumes=shape[3] if len(shape) == 4 else 1,
        dtype=dtype,
        offset=offset,
        scale=(1.0, 0.0) if slope is None else (slope, inter),
        affine=affine,
        orientation=_orientation(path, affine, (width, height, depth)),
    )


def read_volume(header: VolumeHeader) -> Pixels:
    """Read the first volume of a file as stored; read what follows it only to find damage.

    Returns:
        (X, Y, Z) or (X, Y, Z, 3) uint8 in the order of the file, first axis fastest.

    Raises:
        ImageError: The file is truncated or damaged, or there is not enough memory.
    """
    with undamaged(header.path), _opened(header.path) as stream:
        _skip(stream, header.offset)
        content = np.empty(prod(header.shape) * header.dtype.itemsize, np.uint8)
        for start in range(0, content.size, BLOCK):
            block = content[start : start + BLOCK]
            if stream.readinto(block.data) < block.size:
                raise EOFError
        if is_compressed(header.path):
            _skip(stream, content.size * (header.volumes - 1))
            # One more byte makes gzip compare the checksum.
            stream.read(1)
        if header.dtype.names:
            colours = content.reshape((header.dtype.itemsize, *header.shape), order="F")[:3]
            return np.moveaxis(colours, 0, -1)
        return content.view(header.dtype).reshape(header.shape, order="F")


def parse_header(block: bytes, path: Path) -> Any:
    """Header, as nibabel has it, that a file begins with; what nibabel can mend in it is mended.

    Raises:
        ImageError: It is not that of a file in one piece.
        HeaderDataError: It is damaged.
    """
    for kind in (nibabel("nifti1").Nifti1Header, nibabel("nifti2").Nifti2Header):
        if kind.may_contain_header(block):
            header = kind(block[: kind.sizeof_hdr], check=False)
            if header["magic"].item() == kind.single_magic and header["sizeof_hdr"] == kind.sizeof_hdr:
                header.check_fix(logger=QUIET, error_level=logging.ERROR)
                return header
    raise ImageError(f"{path}: no NIfTI-1 or NIfTI-2 file in one piece (.hdr with .img is not read); convert it")


def _check_size(path: Path, shape: list[int], item: int, offset: int) -> None:
    """Refuse a header that promises more than the file can hold, or than is sane, before anything is allocated."""
    leaks, promised = "x".join(map(str, shape)), offset + prod(shape) * item
    if max(shape[:3]) > MOST_SIDE or prod(shape[:3]) > MOST_VOXELS:
        limits = f"at most {MOST_SIDE:,} a side and {MOST_VOXELS:,} in all are read"
        raise ImageError(f"{path}: header claims {leaks} voxels; {limits}: damaged, or crop it")
    stored = path.stat().st_size
    held = stored * MOST_DEFLATED if is_compressed(path) else stored
    if promised > held:
        cause = f"header promises {promised:,} bytes ({leaks} voxels), more than {stored:,} bytes of file can hold"
        raise ImageError(f"{path}: {cause}; truncated or damaged, copy or export it again")
    read = promised if is_compressed(path) else prod(shape[:3]) * item
    if read > MOST_VOLUME_BYTES:
        raise ImageError(f"{path}: unpacks to {read:,} bytes; at most {MOST_VOLUME_BYTES:,} are read, split or crop it")


def _orientation(path: Path, affine: Affine, shape: Sequence[int]) -> npt.NDArray[np.float64]:
    if not np.isfinite(affine).all():
        raise ImageError(f"{path}: its affine is not finite; export it again with its orientation")
    with undamaged(path):
        orientation = np.asarray(nibabel("orientations").io_orientation(affine), np.float64)
    lost = np.flatnonzero(np.isnan(orientation[:, 0]))
    if len(lost) == 1 and shape[lost[0]] == 1:
        # Of a 2-D image some programs write no third direction: it is the one that is left.
        orientation[lost[0]] = 3 - np.nansum(orientation[:, 0]), 1
    elif len(lost):
        raise ImageError(f"{path}: its affine does not say how its axes lie; export it again with its orientation")
    return orientation


def nibabel(module: str) -> Any:
    """Import a module of nibabel.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        return import_module(f"nibabel.{module}")
    except ImportError as error:
        raise SettingsError("reading NIfTI needs nibabel: pip install 'ahm-env[medical]'") from error


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed, by its name."""
    return path.name.lower().endswith(COMPRESSED)


@contextmanager
def _opened(path: Path) -> Iterator[Stream]:
    with path.open("rb") as file:
        if is_compressed(path):
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream
        else:
            yield file


def _skip(stream: Stream, count: int) -> None:
    place = stream.tell() + count
    if stream.seek(place) < place:
        raise EOFError


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Turn what a missing, damaged or forged file raises into an `ImageError` that quotes none of its content."""
    try:
        with readable(path), np.errstate(all="ignore"):
            yield
    except (*DAMAGE, nibabel("spatialimages").HeaderDataError) as error:
        raise ImageError(f"{path}: truncated, damaged or no NIfTI file; copy or export it again") from error
    except MemoryError as error:
        raise ImageError(f"{path}: too large for the memory that is left; crop it, or end other programs") from error
