"""The cache: each set decoded once, kept as plain .npy files that are memory-mapped.

An entry is a directory named by a key of content and settings. It is written under another name, by ordinary
file writes (a full disk is then an error; in a memory map it would be a crash), and renamed when complete.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from ahm_env.errors import SettingsError
from ahm_env.files import explained
from ahm_env.images.pixels.fit import PixelSettings

# To be raised with every change of what is stored, so that old entries are not found.
FORMAT = 12
META = "set.json"
IMAGES, ANNOTATIONS = ("images", "patients", "splits"), ("labels", "masks")
IDENTITIES, PATIENT_DIGESTS = "identities.npy", "patient_digests.npy"


@dataclass(frozen=True)
class Meta:
    """What an entry holds.

    Attributes:
        pixels: How the images were asked for.
        channels: 1 or 3.
        classes: Sorted class names.
        has_masks: Whether an image has a mask.
        masks_read: Whether masks were read with their images.
        binary_masks: Whether each mask has two values only, 0 and 1 or 0 and 255.
        skipped: How many bad images were left out, or bad masks.
        empty: How many were left out that show nothing, or say that text is burned in.
        images_content: Hex digest of images, splits and patients; the same for the same images, wherever they lie.
        content: Hex digest of these, and of masks and labels.
        unknown: How many masks were left out that hold nothing but the number to be ignored.
    """

    pixels: PixelSettings
    channels: int
    classes: tuple[str, ...]
    has_masks: bool
    masks_read: bool
    binary_masks: bool
    skipped: int
    empty: int
    images_content: str
    content: str
    unknown: int = 0


def entry_key(fingerprint: str, settings: dict[str, object]) -> str:
    """Name the entry for this content under these settings, in hex digits."""
    text = json.dumps([FORMAT, fingerprint, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_meta(entry: Path) -> Meta | None:
    """Read what an entry holds; return None if it is absent or damaged."""
    try:
        stored = json.loads((entry / META).read_text())
        if any((entry / name).stat().st_size != size for name, size in stored["sizes"].items()):
            return None
        meta = stored["meta"]
        return Meta(**meta | {"classes": tuple(meta["classes"]), "pixels": PixelSettings(**meta["pixels"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SettingsError):
        return None


def write_meta(directory: Path, meta: Meta) -> None:
    """Write what an entry holds, and the sizes of its files, by which damage is noticed."""
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    (directory / META).write_text(json.dumps({"meta": asdict(meta), "sizes": sizes}))


def images_digest(directory: Path) -> str:
    """Hex digest of images, patients and splits in a directory.

    Names of images are left out: they may be pseudonyms, which differ between computers.
    """
    return _digest(directory, IMAGES, "")


def content_digest(directory: Path, classes: tuple[str, ...]) -> str:
    """Hex digest of the classes and of the arrays in a directory, names left out."""
    masked = np.load(directory / "masked.npy", mmap_mode="r")
    # Where all images have a mask, or none, the masks themselves say so.
    names = (*IMAGES, *ANNOTATIONS, *["masked"] * bool(masked.any() and not masked.all()))
    return _digest(directory, names, json.dumps(classes))


def _digest(directory: Path, names: tuple[str, ...], text: str) -> str:
    content = hashlib.sha256(text.encode())
    for path in sorted(directory / f"{name}.npy" for name in names if (directory / f"{name}.npy").is_file()):
        with path.open("rb") as file:
            content.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return content.hexdigest()[:32]


@contextmanager
def locked(root: Path, key: str) -> Iterator[None]:
    """Let one process at a time build an entry.

    Raises:
        SettingsError: The cache directory is not writable.
    """
    lock = FileLock(root / f"{key}.lock")
    with explained(root):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def new_entry(root: Path, key: str) -> Iterator[Path]:
    """Create a directory that becomes the entry at the end, or is removed after an error; call it when `locked`.

    Raises:
        SettingsError: The cache directory is not writable.
        OSError: The disk is full.
    """
    for left_by_a_killed_process in root.glob(f"{key}.*.tmp"):
        shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
    directory = root / f"{key}.{secrets.token_hex(4)}.tmp"
    with explained(root):
        directory.mkdir(mode=0o700)  # others may not be permitted to see these images
    try:
        yield directory
        for path in (*directory.iterdir(), directory):
            _sync(path)
        _replace(directory, root / key)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _replace(directory: Path, entry: Path) -> None:
    damaged = directory.with_suffix(".old.tmp")
    with suppress(FileNotFoundError):
        entry.rename(damaged)
    try:
        directory.rename(entry)
    except OSError:
        # Where locks do not work (some network disks), another process may have been first with the same.
        if read_meta(entry) is None:
            raise
    _sync(entry.parent)
    shutil.rmtree(damaged, ignore_errors=True)


class ArrayWriter:
    """Writes a .npy file row after row, in flat memory.

    Attributes:
        path: The file.
        row_shape: Shape of one row.
        rows: How many were written.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Open the file; it is complete only after `close`."""
        self.path, self.row_shape, self.rows = path, row_shape, 0
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        self._write_header()

    def append(self, rows: npt.ArrayLike) -> None:
        """Append rows: (N, *row_shape)."""
        array = np.ascontiguousarray(rows, self._dtype).reshape(-1, *self.row_shape)
        self._file.write(array.data)
        self.rows += len(array)

    def close(self) -> None:
        """Write the number of rows and close the file."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        # On a full disk closing fails as well, and would hide the error that tells why.
        with suppress(OSError):
            self._file.close()

    def _write_header(self) -> None:
        # NumPy pads a header so that the first axis may grow in place.
        shape = (self.rows, *self.row_shape)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
