"""DICOM SEG as masks, made here element by element."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from ahm_env.images.formats.dicom.source import Dicom
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.privacy import pseudonym
from tests.ahm_env.images.samples import outcomes
from tests.dicom_file import item

pydicom = pytest.importorskip("pydicom")

from pydicom.pixels.utils import pack_bits  # noqa: E402

from ahm_env.images.formats.dicom import dicom_file, segmentations  # noqa: E402
from ahm_env.images.formats.dicom.dicom_file import PLACE  # noqa: E402

SEGMENTATION, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
ROWS, COLUMNS = 4, 6
Frame = tuple[str, int | None, int, np.ndarray]  # UID of the image, number of its frame, segment, values


def marks(*numbers: int) -> np.ndarray:
    """(4, 6), 1 at these places."""
    found = np.zeros(ROWS * COLUMNS, np.uint8)
    found[list(numbers)] = 1
    return found.reshape(ROWS, COLUMNS)


def write_images(make_dicom, root: Path, count: int = 3, **elements: object) -> None:
    for number in range(count):
        pixels = np.eye(ROWS, COLUMNS, dtype=np.uint8)
        make_dicom(root / "images" / "p" / f"{number}.dcm", pixels, SOPInstanceUID=f"1.2.3.{number}", **elements)


def write_segmentation(
    make_dicom,
    path: Path,
    frames: list[Frame],
    kind: str = "BINARY",
    slices: list[float] | None = None,
    **elements: object,
) -> None:
    """Write a SEG; slices are where its frames lie along z."""
    values = np.stack([each[3] for each in frames])
    groups = []
    for uid, number, segment, _ in frames:
        image = item(ReferencedSOPInstanceUID=uid, **({"ReferencedFrameNumber": number} if number else {}))
        group = item(DerivationImageSequence=[item(SourceImageSequence=[image])])
        if kind != "LABELMAP":
            group.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=segment)]
        groups.append(group)
    for group, z in zip(groups, slices or (), strict=False):
        group.PlanePositionSequence = [item(ImagePositionPatient=[0, 0, z])]
    described = {
        "SOPClassUID": LABEL_MAP if kind == "LABELMAP" else SEGMENTATION,
        "SegmentationType": kind,
        "PerFrameFunctionalGroupsSequence": groups,
        "MaximumFractionalValue": 200 if kind == "FRACTIONAL" else None,
    }
    if kind == "BINARY":
        described |= {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelData": pack_bits(values.ravel())}
    make_dicom(path, values, **(described | elements))


def test_segments_are_classes_and_the_larger_number_wins(tmp_path: Path, make_dicom) -> None:
    write_images(make_dicom, tmp_path)
    frames = [("1.2.3.1", 1, 2, marks(0, 1, 7)), ("1.2.3.0", 1, 1, marks(5)), ("1.2.3.1", 1, 1, marks(1, 9))]
    write_segmentation(make_dicom, tmp_path / "masks" / "whatever", frames)
    index = Dicom(tmp_path).index()
    assert (index.has_masks, index.problems, index.notes) == (True, [], [])
    first, second, third = outcomes(Dicom(tmp_path))
    assert np.array_equal(first.mask, marks(5))
    assert np.array_equal(second.mask, np.maximum(2 * marks(0, 1, 7), marks(1, 9)))
    assert third.mask is None


def test_an_image_that_a_segmentation_is_about_may_have_nothing_marked(tmp_path: Path, make_dicom) -> None:
    write_images(make_dicom, tmp_path)
    about = [item(ReferencedInstanceSequence=[item(ReferencedSOPInstanceUID=f"1.2.3.{number}") for number in (0, 2)])]
    frames = [("1.2.3.0", 1, 1, marks(3))]
    write_segmentation(make_dicom, tmp_path / "masks" / "a.dcm", frames, ReferencedSeriesSequence=about)
    first, second, third = outcomes(Dicom(tmp_path))
    assert (first.mask.sum(), second.mask, third.mask.any()) == (1, None, False)


def test_frames_of_a_file_are_marked_one_by_one(tmp_path: Path, make_dicom) -> None:
    make_dicom(tmp_path / "images" / "a.dcm", np.ones((3, ROWS, COLUMNS), np.uint8), SOPInstanceUID="1.2.3.9")
    frames = [("1.2.3.9", 3, 1, marks(3)), ("1.2.3.9", 1, 1, marks(1))]
    write_segmentation(make_dicom, tmp_path / "masks" / "a.dcm", frames)
    assert [np.flatnonzero(sample.mask).tolist() for sample in outcomes(Dicom(tmp_path))] == [[1], [], [3]]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [("FRACTIONAL", [0, 99, 100, 200], [0, 0, 4, 4]), ("LABELMAP", [0, 1, 7, 255], [0, 1, 7, 255])],
)
def test_shares_and_label_maps(tmp_path: Path, make_dicom, kind: str, values: list[int], expected: list[int]) -> None:
    write_images(make_dicom, tmp_path, 1)
    pixels = np.resize(np.array(values, np.uint8), (ROWS, COLUMNS))
    write_segmentation(make_dicom, tmp_path / "masks" / "a", [("1.2.3.0", 1, 4, pixels)], kind)
    (sample,) = outcomes(Dicom(tmp_path))
    assert np.array_equal(sample.mask, np.resize(np.array(expected, np.uint8), (ROWS, COLUMNS)))


def test_what_cannot_be_used_is_told_without_names(tmp_path: Path, make_dicom) -> None:
    write_images(make_dicom, tmp_path)
    masks = tmp_path / "masks"
    write_segmentation(make_dicom, masks / "Gerda" / "other", [("9.9.9", 1, 1, marks(1))])
    unsaid = [("1.2.3.0", 1, 1, marks(1))]
    write_segmentation(make_dicom, masks / "Gerda" / "mute", unsaid, PerFrameFunctionalGroupsSequence=[item()])
    write_segmentation(make_dicom, masks / "Gerda" / "high", [("1.2.3.0", 1, 256, marks(1))])
    (masks / "Gerda" / "cut").write_bytes((masks / "Gerda" / "other").read_bytes()[:-2])
    make_dicom(masks / "Gerda" / "image", marks(2))
    (masks / "Gerda" / "notes.txt").write_text("Gerda")
    index = Dicom(tmp_path).index()
    assert index.notes == [f"{masks}: files that are neither PNG nor NIfTI nor DICOM SEG, and are not read: 2"]
    assert len(index.problems) == 4
    for part in ("none of its images is there", "does not say which images", "segment 256 is more", "truncated"):
        assert sum(part in problem for problem in index.problems) == 1
    assert not any("Gerda" in text or "\n" in text for text in index.problems)
    assert [sample.mask for sample in outcomes(Dicom(tmp_path))] == [None] * 3


@pytest.mark.parametrize("said", [{}, {"DerivationImageSequence": []}, {"DerivationImageSequence": [item()]}])
def test_a_segmentation_is_refused_if_one_of_its_frames_names_no_image(tmp_path: Path, make_dicom, said: dict) -> None:
    write_images(make_dicom, tmp_path)
    images = [item(ReferencedSOPInstanceUID=f"1.2.3.{number}") for number in range(3)]
    named = item(DerivationImageSequence=[item(SourceImageSequence=images[:1])])
    each = [named, item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 1])], **said)]
    for group in each:
        group.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=1)]
    write_segmentation(
        make_dicom,
        tmp_path / "masks" / "a",
        [("1.2.3.0", 1, 1, marks(1)), ("1.2.3.1", 1, 1, marks(2))],
        PerFrameFunctionalGroupsSequence=each,
        ReferencedSeriesSequence=[item(ReferencedInstanceSequence=images)],
    )
    (problem,) = Dicom(tmp_path).index().problems
    assert "does not say which images its frames mark, of 1 of 2; save it with references to the source" in problem
    assert [sample.mask for sample in outcomes(Dicom(tmp_path))] == [None] * 3


def test_a_damaged_kind_is_told(tmp_path: Path, make_dicom) -> None:
    write_images(make_dicom, tmp_path)
    path = tmp_path / "masks" / "a"
    write_segmentation(make_dicom, path, [("1.2.3.0", 1, 1, marks(1))])
    path.write_bytes(path.read_bytes().replace(b"\x08\0\x16\0UI", b"\x08\0\x16\0UU"))
    (problem,) = Dicom(tmp_path).index().problems
    assert "its header cannot be read: damaged, truncated or not as the standard has it" in problem


def test_a_bomb_among_the_masks_is_not_inflated(tmp_path: Path, make_dicom, monkeypatch) -> None:
    monkeypatch.setattr(dicom_file, "MOST_INFLATED", 2**20)
    write_images(make_dicom, tmp_path, 1)
    path = make_dicom(tmp_path / "masks" / "bomb", marks(1), pydicom.uid.DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    path.write_bytes(content[:start] + zlib.compress(bytes(3 * 2**20), 9, -zlib.MAX_WBITS))
    (problem,) = Dicom(tmp_path).index().problems
    assert "inflates to more than 1,048,576 bytes; export it without compression" in problem


def test_of_two_masks_none_is_taken(tmp_path: Path, make_dicom) -> None:
    write_images(make_dicom, tmp_path)
    for name in ("a", "b", "d"):
        write_segmentation(make_dicom, tmp_path / "masks" / name, [("1.2.3.0", 1, 1, marks(1))])
    write_segmentation(make_dicom, tmp_path / "masks" / "c", [("1.2.3.2", 1, 1, marks(1))])
    (tmp_path / "masks" / "p").mkdir()
    assert cv2.imwrite(str(tmp_path / "masks" / "p" / "2.png"), marks(1))
    problems = Dicom(tmp_path).index().problems
    assert len(problems) == 3
    assert all("one of its images has another segmentation, too; keep one" in each for each in problems)
    first, second, third = outcomes(Dicom(tmp_path))
    assert (first.mask, second.mask) == (None, None)
    assert "more than one mask in" in third


def test_a_segmentation_of_another_size_is_refused(tmp_path: Path, make_dicom) -> None:
    write_images(make_dicom, tmp_path, 1)
    write_segmentation(make_dicom, tmp_path / "masks" / "a", [("1.2.3.0", 1, 1, np.ones((8, 8), np.uint8))])
    (error,) = outcomes(Dicom(tmp_path))
    assert "mask is 8x8 but image is 6x4" in error


RIGHT, DOWN = np.array([0.6, 0.8, 0]), np.array([-0.8, 0.6, 0])
FIRST = np.array([-31, 17.25, 40])


def lie(first: np.ndarray, right: np.ndarray, down: np.ndarray, spacing: tuple[float, float]) -> dict[str, list[float]]:
    """Elements that say how an image lies: its first pixel, its directions, and how far apart rows and columns are."""
    elements = {"ImagePositionPatient": first, "ImageOrientationPatient": [*right, *down], "PixelSpacing": spacing}
    return {keyword: [round(float(one), 6) for one in value] for keyword, value in elements.items()}


def shared(elements: dict[str, list[float]]) -> list[object]:
    groups = {keyword: [item(**{PLACE[keyword]: elements[PLACE[keyword]]})] for keyword in PLACE}
    return [item(**groups)]


@pytest.mark.parametrize(
    ("turn", "first", "right", "down", "spacing"),
    [
        (lambda mask: mask, (0, 0), RIGHT, DOWN, (0.5, 0.75)),
        (lambda mask: mask[::-1], (0, ROWS - 1), RIGHT, -DOWN, (0.5, 0.75)),
        (lambda mask: mask[:, ::-1], (COLUMNS - 1, 0), -RIGHT, DOWN, (0.5, 0.75)),
        (lambda mask: mask.T, (0, 0), DOWN, RIGHT, (0.75, 0.5)),
        (lambda mask: mask.T[::-1, ::-1], (COLUMNS - 1, ROWS - 1), -DOWN, -RIGHT, (0.75, 0.5)),
        (lambda mask: np.pad(mask, ((3, 1), (2, 0))), (-2, -3), RIGHT, DOWN, (0.5, 0.75)),
    ],
    ids=["alike", "rows", "columns", "transposed", "all", "larger"],
)
def test_a_segmentation_that_is_turned_marks_the_same_places(
    tmp_path: Path, make_dicom, turn, first: tuple[int, int], right: np.ndarray, down: np.ndarray, spacing
) -> None:
    write_images(make_dicom, tmp_path, 1, **lie(FIRST, RIGHT, DOWN, (0.5, 0.75)))
    place = FIRST + 0.75 * first[0] * RIGHT + 0.5 * first[1] * DOWN + 0.1 * np.cross(RIGHT, DOWN)
    lies = shared(lie(place, right, down, spacing))
    frames = [("1.2.3.0", 1, 2, turn(marks(0, 1, 9))), ("1.2.3.0", 1, 1, turn(marks(13)))]
    write_segmentation(make_dicom, tmp_path / "masks" / "a", frames, SharedFunctionalGroupsSequence=lies)
    (sample,) = outcomes(Dicom(tmp_path))
    assert np.array_equal(sample.mask, 2 * marks(0, 1, 9) + marks(13))


@pytest.mark.parametrize(
    ("moved", "spacing", "complaint"),
    [
        (2.5 * np.cross(RIGHT, DOWN), (0.5, 0.75), "its voxels lie up to 0.18 of a voxel beside the image's pixels"),
        (0.5 * np.cross(RIGHT, DOWN), (0.5, 0.75), "its voxels lie up to 0.16 of a voxel beside the image's pixels"),
        (0.75 * RIGHT, (0.5, 0.75), "does not reach to this image"),
        (0.25 * DOWN, (0.5, 0.75), "its voxels lie up to 0.50 of a voxel beside the image's pixels"),
        (0 * DOWN, (0.5, 1.5), "its voxels are not of the image's size and direction"),
    ],
)
def test_a_segmentation_that_lies_elsewhere_is_refused(
    tmp_path: Path, make_dicom, moved: np.ndarray, spacing: tuple[float, float], complaint: str
) -> None:
    write_images(make_dicom, tmp_path, 1, **lie(FIRST, RIGHT, DOWN, (0.5, 0.75)))
    lies = shared(lie(FIRST + moved, RIGHT, DOWN, spacing))
    frames = [("1.2.3.0", 1, 1, marks(0))]
    write_segmentation(make_dicom, tmp_path / "masks" / "a", frames, SharedFunctionalGroupsSequence=lies)
    (error,) = outcomes(Dicom(tmp_path))
    assert f": its mask: {complaint}; save the segmentation on the pixels of its images (" in error


def called(**labels: str) -> list[object]:
    return [item(SegmentNumber=int(name[1:]), SegmentLabel=label) for name, label in labels.items()]


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        (called(s1="Gerda's tumour", s2="Liver"), "its segment 1 has another label than that of mask "),
        (called(s3="liver"), "its segment 3 has the label of segment 1 of mask "),
        (
            called(s1="Liver", s2="Cyst", s3="cyst "),
            "two of its segments have one label; give a segment the",
        ),
        (called(s1="LIVER", s2="", s3="Cyst"), ""),
    ],
)
def test_segments_of_all_files_mean_the_same(tmp_path: Path, make_dicom, second: list[object], complaint: str) -> None:
    write_images(make_dicom, tmp_path, 2)
    first = called(s1="Liver", s2="Gerda's tumour")
    for number, (name, segments) in enumerate({"a": first, "b": second}.items()):
        frames = [(f"1.2.3.{number}", 1, 1, marks(3))]
        write_segmentation(make_dicom, tmp_path / "masks" / name, frames, SegmentSequence=segments)
    problems = Dicom(tmp_path).index().problems
    assert len(problems) == bool(complaint)
    assert [sample.mask is None for sample in outcomes(Dicom(tmp_path))] == [False, bool(complaint)]
    for problem in problems:
        assert problem.startswith(f"{tmp_path}: mask {pseudonym('path masks/b')}: {complaint}")
        assert ("mask " + pseudonym("path masks/a") in problem) == ("of mask" in complaint)
        assert "Gerda" not in problem


AXIAL = shared(lie(np.zeros(3), np.array([1, 0, 0]), np.array([0, 1, 0]), (1, 1)))
del AXIAL[0].PlanePositionSequence


def write_stack(make_dicom, path: Path, slices: list[float]) -> None:
    """Write an enhanced object whose frames lie at these places along z."""
    each = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])]) for z in slices]
    pixels = np.ones((len(slices), ROWS, COLUMNS), np.uint8)
    groups = {"PerFrameFunctionalGroupsSequence": each, "SharedFunctionalGroupsSequence": AXIAL}
    make_dicom(path, pixels, SOPInstanceUID="1.2.3.9", **groups)


def test_frames_without_numbers_mark_the_frames_that_they_lie_on(tmp_path: Path, make_dicom, monkeypatch) -> None:
    matched, level = [], segmentations.level
    monkeypatch.setattr(segmentations, "level", lambda *planes: matched.append(planes) or level(*planes))
    write_stack(make_dicom, tmp_path / "images" / "a", [0, 1, 2, 3])
    frames = [("1.2.3.9", None, 1, marks(z)) for z in (2, 0, 1)]
    write_segmentation(
        make_dicom, tmp_path / "masks" / "a", frames, slices=[2, 0, 1], SharedFunctionalGroupsSequence=AXIAL
    )
    assert [np.flatnonzero(sample.mask).tolist() for sample in outcomes(Dicom(tmp_path))] == [[0], [1], [2], []]
    assert len(matched) == 3  # each once, not once a frame of the image


@pytest.mark.parametrize(
    ("slices", "number", "marked"),
    [([0, 1], None, [5, 6]), ([0, 0], None, [0, 0]), ([0, 1], None, None), ([0], 2, [0])],
)
def test_what_does_not_say_which_frames_it_marks_is_refused(
    tmp_path: Path, make_dicom, slices: list[float], number: int | None, marked: list[float] | None
) -> None:
    write_stack(make_dicom, tmp_path / "images" / "a", slices)
    frames = [("1.2.3.9", number, 1, marks(z)) for z in range(len(slices))]
    write_segmentation(
        make_dicom, tmp_path / "masks" / "a", frames, slices=marked, SharedFunctionalGroupsSequence=AXIAL
    )
    cause = f"does not say which of the {len(slices)} frames of its image it marks"
    cause = cause if number is None else "marks frame 2 of an image that has 1"
    for error in outcomes(Dicom(tmp_path)):
        assert f": its mask: {cause}; save it with the numbers of its source frames (" in error


@pytest.mark.parametrize("placed", [True, False])
def test_images_in_several_places_must_not_have_one_uid(tmp_path: Path, make_dicom, placed: bool) -> None:
    for z in (0, 1, 1):
        lies = lie(np.array([0, 0, z]), np.array([1, 0, 0]), np.array([0, 1, 0]), (1, 1)) if placed else {}
        name = f"{len(list(tmp_path.glob('images/*')))}"
        make_dicom(tmp_path / "images" / name, np.eye(ROWS, COLUMNS, dtype=np.uint8), SOPInstanceUID="1.2", **lies)
    write_segmentation(make_dicom, tmp_path / "masks" / "a", [("1.2", None, 1, marks(1))])
    problems = Dicom(tmp_path).index().problems
    assert len(problems) == placed
    cause = "images that lie in different places share a SOP Instance UID that it refers to; keep one of them"
    assert all(cause in problem for problem in problems)
    assert [sample.mask is None for sample in outcomes(Dicom(tmp_path))] == [placed] * 3


@pytest.mark.parametrize("columns", [5, 7, 8])
def test_frames_of_bits_need_not_begin_with_a_byte(tmp_path: Path, make_dicom, columns: int) -> None:
    drawn = np.random.default_rng(columns).integers(0, 2, (9, 3, columns), np.uint8)
    make_dicom(tmp_path / "images" / "a", np.ones_like(drawn), SOPInstanceUID="1.2.3.9")
    frames = [("1.2.3.9", number, 1, drawn[number - 1]) for number in range(1, 10)]
    write_segmentation(make_dicom, tmp_path / "masks" / "a", frames)
    assert np.array_equal([sample.mask for sample in outcomes(Dicom(tmp_path))], drawn)


def test_a_header_of_many_frames_is_read_once(tmp_path: Path, make_dicom, monkeypatch) -> None:
    write_images(make_dicom, tmp_path)
    frames = [(f"1.2.3.{number % 3}", 1, 1 + number // 3, marks(number)) for number in range(18)]
    write_segmentation(make_dicom, tmp_path / "masks" / "a", frames)
    parsed = list[bool]()
    reader = pydicom.filereader
    parse, pixels_come = reader.read_dataset, reader._at_pixel_data
    monkeypatch.setattr(
        reader, "read_dataset", lambda *a, **b: parsed.append(b.get("stop_when") is pixels_come) or parse(*a, **b)
    )
    assert all(sample.mask.any() for sample in outcomes(Dicom(tmp_path)))
    assert 3 < sum(parsed) < 10
