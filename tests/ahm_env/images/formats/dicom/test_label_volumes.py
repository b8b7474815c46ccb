"""Label volumes on DICOM series, against labels whose place in the patient is computed by the standard's formula."""

from pathlib import Path

import numpy as np
import pytest

from ahm_env.images.formats.dicom import masks
from ahm_env.images.formats.dicom.masks import cut
from ahm_env.images.formats.dicom.planes import plane
from ahm_env.images.formats.dicom.source import Dicom
from ahm_env.images.formats.nifti.volume import read_volume
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.source import Sample
from tests.ahm_env.images.samples import outcomes
from tests.dicom_file import item

nibabel = pytest.importorskip("nibabel")

ROWS, COLUMNS, SLICES = 4, 6, 3
LABELS = np.arange(COLUMNS * ROWS * SLICES, dtype=np.uint8).reshape(COLUMNS, ROWS, SLICES)
AXIAL = (1, 0, 0, 0, 1, 0)
OBLIQUE = (
    *(np.array([0.8, 0.6, 0])),
    *(np.array([-0.6, 0.8, 0]) @ np.array([[1, 0, 0], [0, 0.6, 0.8], [0, -0.8, 0.6]])),
)


def series_affine(orientation: tuple[float, ...], spacing: tuple[float, float], gap: float) -> np.ndarray:
    """Of voxels (column, row, slice) to millimetres in RAS: PS3.3 C.7.6.2.1.1, the first two axes turned about."""
    x, y = np.array(orientation[:3]), np.array(orientation[3:])
    affine = np.eye(4)
    affine[:3, :3] = np.stack([x * spacing[1], y * spacing[0], np.cross(x, y) * gap], 1)
    affine[:3, 3] = (-31, 17.25, 40)
    return np.diag([-1, -1, 1, 1]) @ affine


def write_series(
    make_dicom, root: Path, orientation=AXIAL, spacing=(0.5, 0.75), gap=2.5, images=None, **elements: object
) -> np.ndarray:
    affine = series_affine(orientation, spacing, gap)
    images = [np.eye(ROWS, COLUMNS, dtype=np.uint8)] * SLICES if images is None else images
    for number in range(SLICES):
        place = (np.diag([-1, -1, 1, 1]) @ affine @ [0, 0, number, 1])[:3]
        where = {
            "ImagePositionPatient": [f"{one:.6f}" for one in place],
            "ImageOrientationPatient": [f"{one:.6f}" for one in orientation],
            "PixelSpacing": list(spacing),
        }
        make_dicom(root / f"{number}.dcm", images[number], **(where | elements))
    return affine


def save(path: Path, labels: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(labels, affine), path)


@pytest.mark.parametrize("orientation", [AXIAL, (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 0, -1), OBLIQUE])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2)])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_each_image_has_its_slice_however_the_volume_is_stored(
    tmp_path: Path, make_dicom, orientation: tuple[float, ...], flips: tuple[int, ...], ending: str
) -> None:
    affine = write_series(make_dicom, tmp_path / "images" / "p" / "ct", orientation)
    labels, stored = LABELS, affine.copy()
    for axis in flips:
        labels = np.flip(labels, axis)
        stored[:3, 3] += stored[:3, axis] * (LABELS.shape[axis] - 1)
        stored[:3, axis] *= -1
    order = [2, 0, 1]
    save(tmp_path / "masks" / "p" / f"ct{ending}", labels.transpose(order), stored[:, [*order, 3]])
    assert Dicom(tmp_path).index().problems == []
    for number, sample in enumerate(outcomes(Dicom(tmp_path))):
        assert isinstance(sample, Sample)
        assert np.array_equal(sample.mask, LABELS[:, :, number].T)


@pytest.mark.parametrize(
    "orientation", [AXIAL, (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 0, -1), (0.8, 0.6, 0, -0.48, 0.64, 0.6)]
)
def test_what_simpleitk_marks_in_a_series_is_marked_in_its_images(
    tmp_path: Path, make_dicom, orientation: tuple[float, ...]
) -> None:
    itk = pytest.importorskip("SimpleITK")
    images = np.random.default_rng(2).permutation(LABELS.size).astype(np.uint8).reshape(SLICES, ROWS, COLUMNS)
    folder = tmp_path / "images" / "ct"
    write_series(make_dicom, folder, orientation, images=images, StudyInstanceUID="1.2", SeriesInstanceUID="1.3")
    volume = itk.ReadImage(itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    (tmp_path / "masks").mkdir()
    itk.WriteImage(volume > 30, str(tmp_path / "masks" / "ct.nii.gz"))
    samples = outcomes(Dicom(tmp_path))
    assert len(samples) == SLICES
    for sample in samples:
        assert isinstance(sample, Sample)
        assert np.array_equal(sample.mask, sample.image > 30)


@pytest.mark.parametrize("name", ["p.nii.gz", "p/ct.nii.gz", "p/ct/0.nii.gz"])
def test_a_volume_is_for_the_file_or_the_folder_of_its_name(tmp_path: Path, make_dicom, name: str) -> None:
    affine = write_series(make_dicom, tmp_path / "images" / "p" / "ct")
    save(tmp_path / "masks" / name, LABELS, affine)
    found = [sample.mask is not None for sample in outcomes(Dicom(tmp_path))]
    assert found == ([True, False, False] if "0" in name else [True] * 3)


def test_frames_of_an_enhanced_object_have_planes_of_their_own(tmp_path: Path, make_dicom) -> None:
    affine = series_affine(AXIAL, (0.5, 0.75), 2.5)
    frames = [
        item(PlanePositionSequence=[item(ImagePositionPatient=[-31, 17.25, 40 + 2.5 * number])]) for number in (2, 0, 1)
    ]
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=list(AXIAL))],
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.75])],
    )
    sequences = {"PerFrameFunctionalGroupsSequence": frames, "SharedFunctionalGroupsSequence": [shared]}
    make_dicom(tmp_path / "images" / "a.dcm", np.ones((3, ROWS, COLUMNS), np.uint8), **sequences)
    save(tmp_path / "masks" / "a.nii", LABELS, affine)
    found = outcomes(Dicom(tmp_path))
    assert [np.array_equal(one.mask, LABELS[:, :, k].T) for one, k in zip(found, (2, 0, 1), strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda affine: affine + affine[:, :1] @ [[0, 0, 0, 0.3]],
            "its voxels lie up to 0.30 of a voxel beside the image's",
        ),
        (lambda affine: affine @ np.diag([1.1, 1, 1, 1]), "of a voxel beside the image's"),
        (lambda affine: affine @ np.diag([2, 1, 1, 1]), "its voxels are not of the image's size and direction"),
        (lambda affine: affine @ np.diag([5 / 6, 1, 1, 1]), "of a voxel beside the image's"),
        (lambda affine: affine @ np.diag([1, 0.75, 1, 1]), "of a voxel beside the image's"),
        (
            lambda affine: affine @ np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
            "its voxels are not of the image's size and direction",
        ),
        (lambda affine: affine + affine[:, 2:3] @ np.array([[0, 0, 0, 3]]), "does not reach to this image"),
        (lambda affine: affine + affine[:, :1] @ np.array([[0, 0, 0, 1]]), "does not reach to this image"),
    ],
)
def test_a_volume_that_lies_elsewhere_is_refused(tmp_path: Path, make_dicom, change, complaint: str) -> None:
    affine = write_series(make_dicom, tmp_path / "images" / "Gerda")
    save(tmp_path / "masks" / "Gerda.nii", LABELS, change(affine))
    found = outcomes(Dicom(tmp_path))
    assert all(isinstance(each, str) and complaint in each for each in found)
    assert not any("Gerda" in each or "\n" in each for each in found)


@pytest.mark.parametrize("spacing", [["", ""], ["1", ""], None, ["1", "0"], ["1", "2", "3"]])
def test_numbers_that_are_missing_spoil_no_image(tmp_path: Path, make_dicom, spacing: object) -> None:
    for number in range(2):
        make_dicom(
            tmp_path / "images" / "p" / f"{number}", np.eye(4, dtype=np.uint8), ImagePositionPatient=["0", "", "0"]
        )
        make_dicom(tmp_path / "images" / "q" / f"{number}", np.eye(4, dtype=np.uint8), PixelSpacing=spacing)
    assert all(isinstance(each, Sample) for each in outcomes(Dicom(tmp_path)))


def test_a_flat_volume_is_refused(tmp_path: Path, make_dicom) -> None:
    affine = write_series(make_dicom, tmp_path / "images" / "p")
    affine[:, 2] = 0
    header = nibabel.Nifti1Header()
    header.set_data_shape(LABELS.shape[:2])
    header.set_sform(affine, 1)
    (tmp_path / "masks").mkdir()
    nibabel.save(nibabel.Nifti1Image(LABELS[:, :, 0], None, header), tmp_path / "masks" / "p.nii")
    assert all(isinstance(each, str) and "its affine does not say" in each for each in outcomes(Dicom(tmp_path)))


def test_a_bad_volume_is_read_once(tmp_path: Path, make_dicom, monkeypatch) -> None:
    affine = write_series(make_dicom, tmp_path / "images" / "p")
    save(tmp_path / "masks" / "p.nii", (LABELS / 7).astype(np.float32), affine)
    read: list[Path] = []
    monkeypatch.setattr(masks, "read_volume", lambda header: read.append(header.path) or read_volume(header))
    assert all("not class numbers" in each for each in outcomes(Dicom(tmp_path)))
    assert len(read) == 1


def test_a_folder_of_masks_may_be_a_link(tmp_path: Path, make_dicom) -> None:
    affine = write_series(make_dicom, tmp_path / "archive" / "images" / "p")
    save(tmp_path / "elsewhere" / "p.nii", LABELS, affine)
    (tmp_path / "archive" / "masks").symlink_to(tmp_path / "elsewhere")
    assert all(isinstance(each, Sample) for each in outcomes(Dicom(tmp_path / "archive")))


def test_endings_in_capitals_are_told(tmp_path: Path, make_dicom) -> None:
    affine = write_series(make_dicom, tmp_path / "images" / "p")
    save(tmp_path / "masks" / "p.nii", LABELS, affine)
    (tmp_path / "masks" / "p.nii").rename(tmp_path / "masks" / "p.NII")
    (problem,) = Dicom(tmp_path).index().problems
    assert "its ending is in capitals" in problem


def test_numbers_that_are_rounded_are_no_fault(tmp_path: Path, make_dicom) -> None:
    affine = write_series(make_dicom, tmp_path / "images" / "p", OBLIQUE)
    save(tmp_path / "masks" / "p.nii", LABELS, affine.round(2))
    assert all(isinstance(each, Sample) for each in outcomes(Dicom(tmp_path)))


@pytest.mark.parametrize("missing", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_an_image_that_does_not_say_where_it_lies_needs_a_png(tmp_path: Path, make_dicom, missing: str) -> None:
    affine = write_series(make_dicom, tmp_path / "images" / "p", **{missing: None})
    save(tmp_path / "masks" / "p.nii", LABELS, affine)
    assert all(
        "its image does not say where it lies in the patient; draw" in each for each in outcomes(Dicom(tmp_path))
    )


def test_what_is_no_label_volume_is_refused_and_told_without_names(tmp_path: Path, make_dicom) -> None:
    affine = write_series(make_dicom, tmp_path / "images" / "Gerda")
    for labels, complaint in (
        (LABELS / 7, "not class numbers"),
        (LABELS[..., None].repeat(2, 3), "holds 2 volumes"),
    ):
        save(tmp_path / "masks" / "Gerda.nii", labels.astype(np.float32), affine)
        found = outcomes(Dicom(tmp_path))
        assert all(isinstance(each, str) and complaint in each and "Gerda" not in each for each in found)
    (tmp_path / "masks" / "Gerda.nii").write_bytes(b"damaged")
    assert all("its mask: no NIfTI-1 or NIfTI-2 file" in each for each in outcomes(Dicom(tmp_path)))


def test_two_masks_of_an_image_and_masks_of_none_are_problems(tmp_path: Path, make_dicom) -> None:
    affine = write_series(make_dicom, tmp_path / "images" / "p")
    for name in ("p.nii", "q.nii.gz"):
        save(tmp_path / "masks" / name, LABELS, affine)
    (problem,) = Dicom(tmp_path).index().problems
    assert "there is no image of its name" in problem
    (tmp_path / "masks" / "p").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "p" / "1.png"), np.zeros((ROWS, COLUMNS), np.uint8))
    found = outcomes(Dicom(tmp_path))
    assert [isinstance(each, Sample) for each in found] == [True, False, True]
    assert "more than one mask in" in found[1]


def test_planes_and_cuts_by_hand(tmp_path: Path) -> None:
    lies = plane([10, 20, 30], [0, 1, 0, 0, 0, -1], [3, 2])
    assert lies is not None
    # the next column is 2 mm further back, the next row 3 mm further down; the first pixel is 10 mm left of 0
    assert lies.T.tolist() == [[0, -2, 0], [0, 0, -3], [-10, -20, 30]]
    affine = np.diag([5.0, -2, -3, 1])
    affine[:3, 3] = (-15, -20, 30)
    labels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)  # slice, column, row
    save(tmp_path / "a.nii", labels, affine)
    assert cut(tmp_path / "a.nii", lies, (3, 4)).tolist() == labels[1].T.tolist()
    for spacing in ([0, 1], [1e-160, 1e-160], [1e200, 1e200]):
        assert plane([10, 20, 30], [0, 1, 0, 0, 0, -1], spacing) is None
    assert plane(None, [0, 1, 0, 0, 0, -1], [3, 2]) is plane([1, 2, np.nan], [0, 1, 0, 0, 0, -1], [3, 2]) is None
