"""Files made to harm: bombs, sizes of 100,000 x 100,000, pickles, links that lead out of the folder."""

import gzip
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ahm_env.errors import AHMError
from ahm_env.files import load_tensors
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.pixels.fit import PixelSettings, fit_image
from ahm_env.images.pixels.opencv import cv2
from tests.dicom_file import write_dicom

SIDE = 100_000
BOMB = 300_000_000


def read_source(path: Path) -> None:
    """Decode and scale every image; the first problem is raised."""
    settings = PixelSettings(16)
    index = find_source(path, settings).index()
    for problem in index.problems:
        raise AHMError(problem)
    for load in index.samples:
        sample = load()
        if sample is not None:
            fit_image(sample.image, settings)


def make(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """Write the files: what each is, where it is, and what reads it."""
    made: dict[str, tuple[Path, Callable[[Path], object]]] = {}

    def add(
        what: str, write: Callable[[Path], object], path: str, read: Callable[[Path], object] | None = None
    ) -> None:
        place = folder / f"{len(made)}" / path
        place.parent.mkdir(parents=True)
        write(place)
        made[what] = (place if read or place.suffix == ".npz" else place.parent, read or read_source)

    for ending in (".png", ".nii", ".dcm"):
        harmless = folder / f"harmless-{ending[1:]}" / "images" / f"a{ending}"
        harmless.parent.mkdir(parents=True)
        whole(harmless)
    for name, shape in (("npz, 100,000 x 100,000", (1, SIDE, SIDE)), ("npz, 100,000 x 100,000 rows", (SIDE, SIDE, 1))):
        add(name, lambda path, shape=shape: npz(path, shape, b"\0" * 100), "a.npz")
    add("npz, a bomb that states its size", lambda path: npz(path, (BOMB // 2500, 50, 50), bytes(BOMB)), "a.npz")
    add("npz, a bomb of one image", lambda path: npz(path, (1, BOMB // 10_000, 10_000), bytes(BOMB)), "a.npz")
    add("npz, a bomb that states less", lambda path: npz(path, (2, 3, 4), bytes(BOMB), 24), "a.npz")
    add("npz, objects to unpickle", pickled, "a.npz")
    add("PNG, 100,000 x 100,000", png, "a.png")
    add("JPEG, 65,500 x 65,500", jpeg, "a.jpg")
    add("TIFF, 100,000 x 100,000", tiff, "a.tif")
    add("BMP, 100,000 x 100,000", bmp, "a.bmp")
    add("NIfTI-2, 100,000 x 100,000", lambda path: nifti(path, (SIDE, SIDE, 1), 0), "a.nii.gz")
    add("NIfTI-2, 100,000 x 100,000, as compressed", lambda path: nifti(path, (SIDE, SIDE, 1), BOMB), "a.nii.gz")
    add("NIfTI-2, a bomb", lambda path: nifti(path, (1000, 1000, BOMB // 1_000_000), BOMB), "a.nii.gz")
    for syntax in ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"):
        add(f"DICOM, 65,535 x 65,535, {syntax}", lambda path, syntax=syntax: dicom(path, syntax), "a.dcm")
    add("DICOM, deflated, a bomb", lambda path: dicom(path, "1.2.840.10008.1.2.1.99"), "a.dcm")
    add("a checkpoint that is a pickle", lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n."), "a.pt", load_tensors)
    add("a checkpoint with a header of 100 GB", checkpoint, "a.safetensors", load_tensors)
    for ending in (".png", ".nii", ".dcm"):
        target, beside = folder / f"harmless{ending}", f"b{ending}"
        whole(target)
        add(f"a link that leads out, {ending}", partial(linked, target, beside), f"images/a{ending}", read_above)
    return made


def read_above(path: Path) -> None:
    """Read the set that the file of an `images/` belongs to."""
    read_source(path.parent.parent)


def npz(path: Path, shape: tuple[int, ...], values: bytes, stated: int | None = None) -> None:
    """`train_images` of this shape; `stated` is how many bytes of values the directory claims."""
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + values
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("train_images.npy", content)
    if stated is not None:
        true, claimed = (struct.pack("<I", size) for size in (len(content), len(content) - len(values) + stated))
        path.write_bytes(path.read_bytes().replace(true, claimed))


class Runs:
    """Creates a file where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        """What pickle would call."""
        return os.mkdir, ("unpickled",)


def pickled(path: Path) -> None:
    """An array that would run code."""
    np.savez(path, train_images=np.array([Runs()], dtype=object))


def png(path: Path) -> None:
    """A header with its checksum, and a little of what it promises."""
    head = b"IHDR" + struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(10_000_000))
    parts = [
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (head, data, b"IEND")
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def jpeg(path: Path) -> None:
    """A JPEG whose sides are changed in its header."""
    content = cv2.imencode(".jpg", np.zeros((32, 32), np.uint8))[1].tobytes()
    place = content.index(b"\xff\xc0") + 5
    path.write_bytes(content[:place] + struct.pack(">HH", 65_500, 65_500) + content[place + 4 :])


def tiff(path: Path) -> None:
    """A TIFF of one strip."""
    entries = ((256, SIDE), (257, SIDE), (258, 8), (259, 1), (262, 1), (273, 200), (277, 1), (278, SIDE), (279, 100))
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + bytes(4) + bytes(300))


def bmp(path: Path) -> None:
    """A BMP whose sides are changed in its header."""
    content = cv2.imencode(".bmp", np.zeros((32, 32), np.uint8))[1].tobytes()
    path.write_bytes(content[:18] + struct.pack("<ii", SIDE, SIDE) + content[26:])


def nifti(path: Path, shape: tuple[int, int, int], zeros: int) -> None:
    """A compressed NIfTI-2 volume of this shape, with so many bytes of values."""
    import nibabel

    header = nibabel.Nifti2Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"], header["magic"] = 544, b"n+2\0\r\n\x1a\n"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.binaryblock + bytes(4) + bytes(zeros))


def dicom(path: Path, syntax: str, pixels: np.ndarray | None = None) -> None:
    """An image; without pixels one of the largest sides there are, or, where it is deflated, of many zeros."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    side = 65_535 if pixels is None else len(pixels)
    values = bytes(BOMB) if syntax.endswith(".99") else bytes(1000) if pixels is None else pixels.tobytes()
    content = encapsulate([values]) if UID(syntax).is_encapsulated else values
    about = {"Modality": "CT", "Rows": side, "Columns": side, "PixelData": content}
    write_dicom(path, np.zeros((1, 1), np.uint8), syntax, **about)


def checkpoint(path: Path) -> None:
    """A file of tensors that states a header longer than itself."""
    path.write_bytes(struct.pack("<Q", 10**11) + b"{}")


def whole(path: Path) -> None:
    """A file with an image in it, of the kind that its ending says."""
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
    if path.suffix == ".nii":
        import nibabel

        nibabel.save(nibabel.Nifti1Image(pixels[..., None], np.eye(4)), path)
    elif path.suffix == ".dcm":
        dicom(path, "1.2.840.10008.1.2.1", pixels)
    else:
        cv2.imwrite(str(path), pixels)


def linked(target: Path, beside: str, path: Path) -> None:
    """A link out of its folder, beside a file that makes the folder one of images."""
    whole(path.with_name(beside))
    path.symlink_to(target)
