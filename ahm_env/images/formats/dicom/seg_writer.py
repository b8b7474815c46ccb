"""DICOM SEG: masks of DICOM images as a hospital's archive takes them, each referring to its image.

A SEG carries the patient and the study of its images, as it must. highdicom writes it; what that raises or logs may
quote a patient's name, so none of its words get out.
"""

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ahm_env.errors import ImageError, SettingsError
from ahm_env.files import atomic
from ahm_env.images.pixels.fit import Image8
from ahm_env.images.privacy import pseudonym, unnamed

FRAMED = ("SeriesInstanceUID", "SOPInstanceUID", "Rows", "Columns")
PLACED = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient")
# The standard has them in every image, maybe empty (type 2): one that is missing is taken for empty.
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
PACKAGE, MAKER, SERIES_NUMBER, LONGEST_LABEL = "ahm-env", "AHM", 9000, 64
WRITING = "a DICOM SEG cannot be made"
PRECISION = 3  # decimals of millimetres in which planes are told apart


class NoPlaceError(ImageError):
    """Images that no segmentation can be made of."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file whose images get masks.

    Attributes:
        path: The file.
        names: Of its images.
        instance: SOP instance UID.
        plane: Where it lies across its plane, in millimetres; 0 where that is unknown.
    """

    path: Path
    names: list[str]
    instance: str
    plane: float


Series = list[Source]


def need_highdicom() -> None:
    """Check that highdicom is installed.

    Raises:
        SettingsError: It is missing.
    """
    if find_spec("highdicom") is None:
        raise SettingsError("writing DICOM SEG needs highdicom: pip install 'ahm-env[medical]'")


def find_series(frames: Iterable[tuple[str, Path]]) -> dict[str, Series]:
    """Images that belong together: of a series those of one size, orientation and space.

    A file of several frames, and an image without a place in the patient, such as a photograph, is alone: a SEG can
    refer to no more. So is a file that cannot be read: why is told when its SEG is to be written.

    Args:
        frames: Name and file of each image; those of a file come one after another.

    Returns:
        The series, each by a pseudonym.
    """
    found = dict[str, Series]()
    for path, some in groupby(frames, lambda frame: frame[1]):
        names = [name for name, _ in some]
        try:
            key, instance, plane = _belonging(path, len(names))
        except ImageError:
            key, instance, plane = str(path), "", 0.0
        found.setdefault(pseudonym(f"DICOM SEG {key}"), []).append(Source(path, names, instance, plane))
    return found


def without_copies(series: Series) -> tuple[Series, int]:
    """Keep each instance of a series once, and count the images that this leaves out.

    Raises:
        ImageError: Images that lie in different planes have one SOP Instance UID: a SEG could not tell them apart.
    """
    instances = dict[str, Source]()
    for source in series:
        if instances.setdefault(source.instance, source).plane != source.plane:
            shared = sum(other.instance == source.instance for other in series)
            raise ImageError(
                f"{WRITING}: {shared:,} of its images have the same SOP Instance UID; their masks are PNGs only, give "
                "each image a UID of its own for a SEG"
            )
    copies = sum(len(source.names) for source in series if instances[source.instance] is not source)
    return list(instances.values()), copies


def without_repeats(series: Series) -> list[Series]:
    """Split a series into parts that have each plane once, as a SEG must; a dynamic series has several parts."""
    parts, times = list[Series](), Counter[float]()
    for source in series:
        if times[source.plane] == len(parts):
            parts.append([])
        parts[times[source.plane]].append(source)
        times[source.plane] += 1
    return parts


def is_segmentation_of(path: Path, series: Series) -> bool:
    """Whether a file is a SEG that refers to these images and no others."""
    from ahm_env.images.formats.dicom.dicom_file import HEADER, understood

    try:
        with unnamed(str(path)), understood(HEADER):
            (images,) = _read(path, ["ReferencedSeriesSequence"]).ReferencedSeriesSequence
            found = {str(image.ReferencedSOPInstanceUID) for image in images.ReferencedInstanceSequence}
    except ImageError:
        return False
    return found == {source.instance for source in series}


def save_segmentation(
    path: Path, series: Series, masks: Sequence[Image8], classes: Sequence[str], network: str, model: str
) -> None:
    """Write a SEG, binary, of one segment a class; the same images, masks and model give it the same UIDs.

    Args:
        path: File to write.
        series: Files of one frame each, or one of several.
        masks: `(H, W)` class numbers, 0 the background, of each frame.
        classes: Their names, the background first.
        network: Name of the model's architecture.
        model: Digest of the weights.

    Raises:
        ImageError: It cannot be made of these images; the message names no image.
    """
    from ahm_env.images.formats.dicom.dicom_file import understood

    logging.getLogger("highdicom").setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings(action="ignore"), understood(WRITING):
        with unnamed(WRITING):
            sources = [_read(source.path) for source in series]
        sizes = {mask.shape for mask in masks} | {(source.Rows, source.Columns) for source in sources}
        if len(sizes) > 1:
            raise ImageError(f"{WRITING}: images or masks have changed since they were predicted; choose another --out")
        segmentation = _segmentation(sources, np.stack(masks), classes, network, model)
        with atomic(path) as temporary:
            segmentation.save_as(temporary)


def _segmentation(sources: Sequence[Any], masks: Image8, classes: Sequence[str], network: str, model: str) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from highdicom.spatial import get_image_coordinate_system
    from pydicom.datadict import tag_for_keyword
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    frames = sum(int(source.get("NumberOfFrames") or 1) for source in sources)
    if frames > 1 and get_image_coordinate_system(sources[0]) is None:
        raise NoPlaceError("several frames that have no place in the patient cannot be a DICOM SEG")
    algorithm = AlgorithmIdentificationSequence(
        name=MAKER, family=codes.cid7162.ArtificialIntelligence, version=_version(), parameters={"model": model}
    )
    # What a class is, is known by its name only.
    kind = codes.cid7150.MorphologicallyAbnormalStructure
    segments = [
        SegmentDescription(number, name[:LONGEST_LABEL], kind, kind, "AUTOMATIC", algorithm)
        for number, name in enumerate(classes[1:], 1)
    ]
    content = hashlib.sha256(np.ascontiguousarray(masks).data).hexdigest()
    entropy = [model, content, *(str(source.SOPInstanceUID) for source in sources)]
    # Names of classes may need letters that the images' character set does not have.
    characters = sources[0].get("SpecificCharacterSet") if all(map(str.isascii, classes)) else "ISO_IR 192"
    try:
        return Segmentation(
            source_images=sources,
            pixel_array=masks,
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=generate_uid(entropy_srcs=["series", *entropy]),
            series_number=SERIES_NUMBER,
            series_description=f"{MAKER} segmentation",
            sop_instance_uid=generate_uid(entropy_srcs=["instance", *entropy]),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=network,
            software_versions=_version(),
            device_serial_number=model,
            specific_character_set=characters,
        )
    except (AttributeError, ValueError) as error:
        missing = error.name if isinstance(error, AttributeError) else "FrameOfReferenceUID"
        if missing is None or tag_for_keyword(missing) is None or missing in sources[0]:
            raise
        raise ImageError(f"{WRITING}: its images lack {missing}; export them again with it") from None


def _belonging(path: Path, frames: int) -> tuple[str, str, float]:
    """Read what images that belong together have in common, the SOP instance UID, and the plane."""
    from ahm_env.images.formats.dicom.dicom_file import HEADER, understood

    with unnamed(""), understood(HEADER):
        dataset = _read(path, [*FRAMED, *PLACED])
        series, instance, *size = (str(dataset.get(keyword, "")) for keyword in FRAMED)
        space, position, orientation = (dataset.get(keyword) for keyword in PLACED)
        if frames > 1 or not (space and position and orientation):
            return f"{series} {instance}", instance, 0.0
        right, down = np.asarray(orientation, float).reshape(2, 3)
        plane = float(np.cross(right, down) @ np.asarray(position, float))
        return f"{series} {size} {space} {orientation}", instance, round(plane, PRECISION)


def _read(path: Path, tags: list[str] | None = None) -> Any:
    """Read a header; if all of it is wanted, what may be empty and is missing is added as empty."""
    from pydicom import dcmread

    dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
    for keyword in MAY_BE_EMPTY if tags is None else ():
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    return dataset


def _version() -> str:
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "unknown"
