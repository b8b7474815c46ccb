"""What is predicted lies where the image lies, whoever reads it: nibabel, SimpleITK, pydicom, highdicom.

Every reader tells where the voxels lie that it finds marked; these must be the voxels of the image that are bright. For
what is brighter than 127 is what the model of these tests finds.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ahm_env.images.pixels.fit import AXES
from tests.ahm_env.images.references import itk
from tests.downstream.prediction.examples import Run, make_dicom

pytestmark = [pytest.mark.usefixtures("own_cache"), pytest.mark.slow]

STEPS = (0.7, 1.3, 2.5)  # millimetres
TO_LPS = np.diag([-1.0, -1, 1, 1])  # from RAS
# A rotation about an axis that is none of the patient's.
COSINE, SINE, AXIS = np.cos(0.4), np.sin(0.4), np.array([2.0, -1, 3]) / np.sqrt(14)
CROSS = np.cross(np.eye(3), AXIS)
ROTATION = COSINE * np.eye(3) - SINE * CROSS + (1 - COSINE) * np.outer(AXIS, AXIS)

# Where the axes of a volume lead; across, down and from slice to slice of a series.
VOLUMES = ("RAS", "LAS", "LPS", "RPI", "ASR", "PIL", "SLA", "IRP", "oblique LAS", "oblique PIR")
SERIES = ("LPS", "LPI", "RAS", "PIL", "PIR", "LIP", "LIA", "PLS", "oblique LPS", "oblique PIR")

# (I, J, K) and (4, 4), from voxels to millimetres, to the patient's left, back and top.
Marked = tuple[np.ndarray, np.ndarray]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(10, 250, shape).astype(np.int16)


def on_grid(marked: Marked, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The voxels of a grid that are marked; all that is marked must lie on one."""
    values, where = marked
    places = np.argwhere(values) @ where[:3, :3].T + where[:3, 3]
    inverse = np.linalg.inv(affine)
    found = places @ inverse[:3, :3].T + inverse[:3, 3]
    voxels = np.rint(found).astype(int)
    assert np.abs(found - voxels).max() < 0.01
    assert len(np.unique(voxels, axis=0)) == len(voxels)
    grid = np.zeros(shape, bool)
    grid[tuple(voxels.T)] = True
    return grid


def by_nibabel(path: str) -> Marked:
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(path)
    return np.asarray(image.dataobj) > 0, TO_LPS @ image.affine


def by_simpleitk(path: str) -> Marked:
    pytest.importorskip("SimpleITK")
    image = itk.read(Path(path))
    where = np.eye(4)
    where[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    where[:3, 3] = image.GetOrigin()
    return itk.array(image).T > 0, where


def by_highdicom(path: str) -> Marked:
    highdicom = pytest.importorskip("highdicom")
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    return volume.array > 0, volume.affine


def by_pydicom(path: str) -> Marked:
    """Each frame by what is said of it alone; their planes lie in the order of their places."""
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dcmread(path)
    shared, frames = dataset.SharedFunctionalGroupsSequence[0], dataset.PerFrameFunctionalGroupsSequence
    right, down = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    between_rows, between_columns = shared.PixelMeasuresSequence[0].PixelSpacing
    places = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], float)
    depths = places @ np.cross(right, down)
    order = np.argsort(depths)
    where, step = np.eye(4), (places[order[-1]] - places[order[0]]) / (len(order) - 1)
    assert np.abs(places[order] - places[order[0]] - np.arange(len(order))[:, None] * step).max() < 0.01
    where[:3, :3] = np.stack([step, down * between_rows, right * between_columns], axis=1)
    where[:3, 3] = places[order[0]]
    return dataset.pixel_array[order] > 0, where


def directed(codes: str) -> np.ndarray:
    """Directions by where they lead: (3, 3), a column each, to the patient's left, back and top."""
    towards = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    return np.array([towards[code] for code in codes], float).T


NIFTI: dict[str, Callable[[str], Marked]] = {"nibabel": by_nibabel, "SimpleITK": by_simpleitk}


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("codes", VOLUMES)
def test_a_volume_is_marked_where_it_is_bright(run: Run, codes: str, axis: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    directions = (ROTATION if "oblique" in codes else np.eye(3)) @ directed(codes[-3:])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * STEPS, (11, -7, 5)
    # Of every slice the longer side is what the model sees: nothing is resized.
    sides = {"sagittal": (5, 16, 12), "coronal": (12, 5, 16), "axial": (16, 12, 5)}[axis]
    shape = tuple(sides[int(np.abs(column).argmax())] for column in directed(codes[-3:]).T)
    values = noise(*shape)
    Path("scans").mkdir()
    nibabel.save(nibabel.Nifti1Image(values, TO_LPS @ affine), "scans/v.nii.gz")
    assert run("scans", axis=axis) == 0
    for name, read in NIFTI.items():
        assert np.array_equal(on_grid(read("out/masks/v.nii.gz"), affine, shape), values > 127), name


SEG: dict[str, Callable[[str], Marked]] = {"pydicom": by_pydicom, "highdicom": by_highdicom, "SimpleITK": by_simpleitk}


@pytest.mark.parametrize("codes", SERIES)
def test_a_series_is_marked_where_it_is_bright(run: Run, codes: str) -> None:
    pytest.importorskip("highdicom")
    across, down, through = ((ROTATION if "oblique" in codes else np.eye(3)) @ directed(codes[-3:])).T
    values, first = noise(5, 16, 12), np.array([11.0, -7, 5])
    for number in (3, 0, 4, 1, 2):
        make_dicom(
            f"archive/{number * 7 % 5}.dcm",
            values[number],
            ImagePositionPatient=np.round(first + number * STEPS[2] * through, 6).tolist(),
            ImageOrientationPatient=np.round([*across, *down], 8).tolist(),
            PixelSpacing=[STEPS[1], STEPS[0]],
        )
    affine = np.eye(4)
    affine[:3, :3] = np.stack([through * STEPS[2], down * STEPS[1], across * STEPS[0]], axis=1)
    affine[:3, 3] = first
    assert run("archive") == 0
    (path,) = Path("out/masks").glob("*.seg.dcm")
    for name, read in SEG.items():
        assert np.array_equal(on_grid(read(str(path)), affine, values.shape), values > 127), name
