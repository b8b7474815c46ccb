"""A made-up hospital: DICOM files as an archive exports them, with everything private in them that a tag can hold."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless)
STUDIES = 5
BROKEN = 3


@dataclass(frozen=True)
class Hospital:
    """Where the files are, and what nobody may read elsewhere."""

    root: Path
    secrets: tuple[str, ...]
    images: int


def build(root: Path, patients: int = 40, side: int = 48, seed: int = 0) -> Hospital:
    """Write `root/images/NAME_OF_PATIENT/DATE_OF_STUDY/IM0001`, and masks of the same paths.

    Of each patient five studies of one image: CT with a slope and an intercept; 8-bit MONOCHROME1; 16-bit without a
    window; colour; and one that says that text is burned in, for every fourth patient. Three files are broken.
    """
    rng = np.random.default_rng(seed)
    secrets: list[str] = []
    files: list[Path] = []
    for patient in range(patients):
        private = _identity(patient)
        secrets += private.values()
        for study in range(STUDIES):
            place = Path(private["name"].replace("^", "_"), f"STUDY{private['birth']}{study}", "IM0001")
            shape, mask = _picture(rng, side)
            dataset = _dataset(patient, study, private, shape)
            path = root / "images" / place
            path.parent.mkdir(parents=True)
            _save(dataset, path, SYNTAXES[(patient + study) % len(SYNTAXES)])
            files.append(path)
            drawn = (root / "masks" / place).with_suffix(".png")
            drawn.parent.mkdir(parents=True)
            assert cv2.imwrite(str(drawn), mask)
    for number, path in enumerate(files[3 :: len(files) // BROKEN][:BROKEN]):
        content = path.read_bytes()
        path.write_bytes((content[: len(content) // 2], content[:140], content[:200] + b"\xff" * 400)[number])
    burned_in = len(range(0, patients, 4))
    return Hospital(root, tuple(sorted(set(secrets))), len(files) - BROKEN - burned_in)


def build_volumes(root: Path, patients: int = 8, side: int = 24) -> tuple[str, ...]:
    """Write `root/images/NAME_OF_PATIENT.nii.gz` and masks of the same names, one of them broken; gives the names."""
    rng = np.random.default_rng(0)
    names = [_identity(patient)["name"].replace("^", "_") for patient in range(patients)]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for name in names:
        drawn = [_picture(rng, side) for _ in range(6)]
        images, masks = (np.stack(each, 2) for each in zip(*drawn, strict=True))
        for folder, values in (("images", (images * 1000).astype(np.int16)), ("masks", (masks > 0).astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), root / folder / f"{name}.nii.gz")
    broken = root / "images" / f"{names[-1]}.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    return tuple(part for name in names for part in name.split("_"))


def _identity(patient: int) -> dict[str, str]:
    """Values that are found nowhere else by chance."""
    return {
        "name": f"Zwiebelfisch{patient:02d}^Kunigunde{patient:02d}",
        "id": f"PID{70_000_000 + patient * 7919}",
        "birth": f"{1930 + patient}0{1 + patient % 9}17",
        "accession": f"ACC{55_000_000 + patient * 104_729}",
        "institution": "Klabauter-Klinikum",
        "physician": f"Quacksalber{patient:02d}^Ottokar",
        "address": "Hinterm-Deich-Weg",
        "phone": f"+49-40-55{patient:05d}",
    }


def _picture(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """An image in 0..1 with a bright ellipse, and the mask of it."""
    mask = np.zeros((side, side), np.uint8)
    centre = rng.integers(side // 3, 2 * side // 3, 2).tolist()
    axes = rng.integers(side // 8, side // 4, 2).tolist()
    cv2.ellipse(mask, centre, axes, float(rng.integers(180)), 0, 360, 255, -1)
    image = 0.25 + 0.05 * rng.standard_normal((side, side)) + 0.5 * (mask > 0)
    return np.clip(image, 0, 1), mask


def _dataset(patient: int, study: int, private: dict[str, str], image: np.ndarray) -> FileDataset:
    colour = study == 3
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage if colour else CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID, found.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    found.StudyInstanceUID, found.SeriesInstanceUID = generate_uid(), generate_uid()
    found.FrameOfReferenceUID, found.StudyID = generate_uid(), private["accession"]
    found.Modality = "OT" if colour else "CT"
    found.PatientName, found.PatientID, found.PatientBirthDate = private["name"], private["id"], private["birth"]
    found.PatientSex, found.PatientAddress = "O", private["address"]
    found.OtherPatientIDs, found.PatientTelephoneNumbers = private["id"], private["phone"]
    found.AccessionNumber, found.InstitutionName = private["accession"], private["institution"]
    found.InstitutionAddress, found.ReferringPhysicianName = private["address"], private["physician"]
    found.PerformingPhysicianName = found.OperatorsName = private["physician"]
    found.StudyDescription = found.SeriesDescription = found.ImageComments = f"{private['name']} {private['id']}"
    found.StudyDate = found.SeriesDate = found.ContentDate = "20240131"
    found.StudyTime = found.ContentTime = "120000"
    found.Manufacturer, found.InstanceNumber, found.SeriesNumber = "AHM", 1, 1
    found.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    found.ImagePositionPatient, found.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    found.PixelSpacing, found.SliceThickness = [1, 1], 1
    block = found.private_block(0x0099, private["institution"], create=True)
    block.add_new(0x01, "LO", private["name"])
    item = Dataset()
    item.PatientID, item.PatientName = private["id"], private["name"]
    found.OtherPatientIDsSequence = [item]
    found.Rows, found.Columns = image.shape
    found.PhotometricInterpretation, found.SamplesPerPixel = ("RGB", 3) if colour else ("MONOCHROME2", 1)
    found.PixelRepresentation = 0
    bits = 8 if study in (1, 3) else 16
    found.BitsAllocated, found.BitsStored, found.HighBit = bits, bits, bits - 1
    if study == 0:  # Hounsfield units with an offset, and a window of its own
        found.RescaleSlope, found.RescaleIntercept = 2, -1024
        found.WindowCenter, found.WindowWidth = 0, 2000
        pixels = (image * 1000).astype(np.uint16)
    elif study == 1:
        found.PhotometricInterpretation = "MONOCHROME1"
        pixels = (255 - image * 255).astype(np.uint8)
    elif colour:
        found.PlanarConfiguration = 0
        pixels = (image[..., None] * np.array([255, 180, 160])).astype(np.uint8)
    else:
        pixels = (image * 4095).astype(np.uint16)
    if study == 4 and patient % 4 == 0:
        found.BurnedInAnnotation = "YES"
    found.PixelData = pixels.tobytes()
    return found


def _save(dataset: FileDataset, path: Path, syntax: str) -> None:
    if syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
