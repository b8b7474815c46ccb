"""Damaged files: `python -m benchmarks.reading.fuzzing [COUNT] [SEED]` (needs the extra `medical`).

Makes small files of every kind that is read – PNG, JPEG, TIFF, BMP, .npz, NIfTI, DICOM in several transfer syntaxes,
masks of DICOM images, labels.csv, checkpoints – changes some bytes of them COUNT times (by default 100,000), and reads
them as the product does. Each must end in images or in an error of ours, of one line, within a second; whatever else
happens is printed.
"""

import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from ahm_env.errors import AHMError
from ahm_env.files import load_tensors, save_tensors
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.formats.pictures import picture
from ahm_env.images.pixels.fit import PixelSettings, fit_image
from ahm_env.images.pixels.opencv import cv2

SLOW = 1.0  # seconds
SIDE = 32  # JPEG 2000 needs as many


def main() -> None:
    """Fuzz and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    warnings.simplefilter("error")
    ends: dict[str, Counter[str]] = {}
    slowest = dict[str, float]()
    with tempfile.TemporaryDirectory() as name:
        kinds = make_seeds(Path(name))
        for number in range(count):
            kind, (source, read) = list(kinds.items())[number % len(kinds)]
            rng = np.random.default_rng([seed, number])
            target = Path(name) / "damaged" / source.name
            shutil.rmtree(target.parent, ignore_errors=True)
            target.parent.mkdir()
            target.write_bytes(damaged(source.read_bytes(), rng))
            begin = time.perf_counter()
            end = attempt(read, target)
            taken = time.perf_counter() - begin
            slowest[kind] = max(slowest.get(kind, 0.0), taken)
            end = "slow" if taken > SLOW else end
            ends.setdefault(kind, Counter())[end.split(":")[0]] += 1
            if end not in ("image", "error"):
                Console().print(f"{kind}, seed {seed} {number}: {end}", markup=False, soft_wrap=True)
    table = Table("kind", "inputs", "read", "refused", "anything else", "slowest, s")
    for kind, found in ends.items():
        rest = found.total() - found["image"] - found["error"]
        table.add_row(
            kind,
            f"{found.total():,}",
            f"{found['image']:,}",
            f"{found['error']:,}",
            f"{rest:,}",
            f"{slowest[kind]:.2f}",
        )
    Console().print(table)


def attempt(read: Callable[[Path], object], path: Path) -> str:
    """How reading ends: `image`, `error` (ours), or what should not be."""
    try:
        read(path)
    except AHMError as error:
        return "error" if "\n" not in str(error) else f"several lines: {error!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "image"


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage the content of a file: change, leave out, put in or repeat some bytes, or cut off the end."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        # the beginning, where headers are, more often than the rest
        span = len(data) if rng.random() < 0.5 else min(len(data), 256)
        place, length = int(rng.integers(span)), int(rng.integers(1, 9))
        match rng.integers(6):
            case 0:
                data[place] ^= 1 << int(rng.integers(8))
            case 1:
                data[place : place + length] = rng.bytes(len(data[place : place + length]))
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = rng.bytes(length)
            case 4:
                data[place : place + length] = rng.choice([b"\0", b"\xff", b"\x7f"]) * len(data[place : place + length])
            case _:
                if rng.random() < 0.3:
                    del data[place:]
        if not data:
            break
    return bytes(data)


def read_source(path: Path) -> None:
    """All images of a file, made ready as for the cache."""
    settings = PixelSettings(SIDE, burned_in=True)
    samples = [load() for load in find_source(str(path), settings).index().samples]
    for sample in samples:
        if sample is not None:
            fit_image(sample.image, settings)


def read_folder(path: Path) -> None:
    """Read the image of a folder that holds only this file."""
    read_source(path.parent)


def read_table(path: Path) -> None:
    """Read a folder of two images with this table."""
    for name in "ab":
        cv2.imwrite(str(path.with_name(f"{name}.png")), np.zeros((4, 4), np.uint8))
    read_source(path.parent)


def read_mask(path: Path) -> None:
    """Read a DICOM image with this mask."""
    root = path.parent
    for name in ("images", "masks"):
        (root / name).mkdir()
    shutil.copy(root.parent / "0.dcm", root / "images" / "mask.dcm")
    path.rename(root / "masks" / path.name)
    read_source(root)


def read_drawn(path: Path) -> None:
    """Read a mask alone."""
    picture.read_mask(path)


def make_seeds(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """Write a file of every kind, and give the function that reads it."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (SIDE, SIDE))
    seeds: dict[str, tuple[Path, Callable[[Path], object]]] = {}
    for ending in ("png", "jpg", "tif", "bmp"):
        cv2.imwrite(str(folder / f"a.{ending}"), image)
        seeds[ending] = folder / f"a.{ending}", read_folder
    Image.fromarray(image).convert("P").save(folder / "a.gif")
    Image.fromarray(image).convert("P").save(folder / "p.bmp")
    seeds |= {"gif": (folder / "a.gif", read_folder), "bmp, palette as a mask": (folder / "p.bmp", read_drawn)}
    for compression in (None, "deflate", "jpeg", "jpeg2000"):
        path = folder / f"{compression}.tif"
        tifffile.imwrite(path, image, tile=(16, 16), compression=compression, photometric="rgb")
        seeds[f"tif, tiles, {compression}"] = path, read_folder
    np.savez(folder / "a.npz", train_images=image[None], train_label=image[None, ..., 0])
    np.savez_compressed(folder / "b.npz", train_images=image[None], train_labels=np.array([[3]]))
    seeds |= {"npz": (folder / "a.npz", read_source), "npz, compressed": (folder / "b.npz", read_source)}
    (folder / "labels.csv").write_text("image,label,split,patient\na,NV,train,1\nb,MEL,test,2\n")
    seeds["labels.csv"] = folder / "labels.csv", read_table
    save_tensors(folder / "unet.safetensors", {"w": torch.arange(8.0)}, {"width": 4})
    seeds["checkpoint"] = folder / "unet.safetensors", load_tensors
    return seeds | nifti_seeds(folder) | dicom_seeds(folder)


def nifti_seeds(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """Volumes, compressed and not."""
    import nibabel

    volume = np.random.default_rng(1).integers(0, 900, (6, 5, 4)).astype(np.int16)
    for name in ("a.nii", "b.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([2, 2, 3, 1])), folder / name)
    return {"nii": (folder / "a.nii", read_source), "nii.gz": (folder / "b.nii.gz", read_source)}


def dicom_seeds(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """Write the same image in several transfer syntaxes."""
    from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

    from benchmarks.reading.dicom import slice_of

    seeds: dict[str, tuple[Path, Callable[[Path], object]]] = {}
    place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
    pixels = np.random.default_rng(2).integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
    syntaxes = {"": None, ", RLE": RLELossless, ", JPEG-LS": JPEGLSLossless, ", J2K": JPEG2000Lossless}
    for number, (name, syntax) in enumerate(syntaxes.items()):
        one = slice_of(pixels, "1.2.3", PatientID="x", **place)
        if syntax is not None:
            one.compress(syntax, generate_instance_uid=False)
        path = folder / f"{number}.dcm"
        one.save_as(path, enforce_file_format=True)
        seeds[f"DICOM{name}"] = path, read_source
    return seeds | mask_seeds(folder)


def mask_seeds(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """Write a label volume and a SEG for the DICOM image."""
    import nibabel
    from pydicom.dataset import Dataset
    from pydicom.pixels.utils import pack_bits
    from pydicom.uid import SegmentationStorage

    from benchmarks.reading.dicom import new_file

    marked = np.random.default_rng(3).integers(0, 2, (SIDE, SIDE), np.uint8)
    nibabel.save(nibabel.Nifti1Image(marked.T[..., None], np.diag([-1, -1, 1, 1])), folder / "mask.nii.gz")
    one = new_file(SegmentationStorage, "1.2.4", "SEG")
    one.SegmentationType = "BINARY"
    one.Rows, one.Columns, one.SamplesPerPixel, one.PhotometricInterpretation = SIDE, SIDE, 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation, one.NumberOfFrames = 1, 1, 0, 0, 1
    image, derivation, segment, frame = Dataset(), Dataset(), Dataset(), Dataset()
    image.ReferencedSOPInstanceUID, segment.ReferencedSegmentNumber = "1.2.3", 1
    derivation.SourceImageSequence = [image]
    frame.DerivationImageSequence, frame.SegmentIdentificationSequence = [derivation], [segment]
    one.PerFrameFunctionalGroupsSequence = [frame]
    one.PixelData = pack_bits(marked.ravel())
    one.save_as(folder / "mask", enforce_file_format=True)
    return {"mask, nii.gz": (folder / "mask.nii.gz", read_mask), "mask, SEG": (folder / "mask", read_mask)}


if __name__ == "__main__":
    main()
