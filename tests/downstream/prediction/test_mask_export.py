"""Results come back in the form of the images: volumes voxel on voxel, DICOM SEG on its images, and nobody's name."""

import gzip
import json
import os
import re
import signal
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ahm_env import SettingsError
from ahm_env.images.formats.dicom import seg_writer
from ahm_env.images.formats.dicom.source import Dicom
from ahm_env.images.formats.nifti import source as nifti_source
from ahm_env.images.pixels.fit import AXES
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.privacy import pseudonym
from downstream.console import predict_images
from downstream.models.model import MODEL_FILE, ModelSpec
from downstream.prediction import prediction
from tests.dicom_file import item
from tests.downstream.prediction.examples import BORN, NAME, NUMBER, SPOKEN, Bands, Run, make_dicom, rows

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

pytestmark = pytest.mark.usefixtures("own_cache")

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
XRAY, ULTRASOUND = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.3.1"
TURNED = np.array([[0.8, -0.6, 0.1, 3], [0.5, 0.7, -0.4, -7], [0.2, 0.3, 0.9, 11], [0, 0, 0, 1]])
AFFINES = {
    "RAS": np.diag([2.0, 1, 3, 1]),
    "LPS": np.array([[-1.0, 0, 0, 9], [0, -2, 0, 5], [0, 0, 1, -4], [0, 0, 0, 1]]),
    "SAL": np.array([[0.0, 0, -1.5, 1], [0, 2, 0, 2], [1, 0, 0, 3], [0, 0, 0, 1]]),
    "oblique": TURNED,
}


def noise(seed: int, *shape: int) -> np.ndarray:
    """Values that the window of these tests leaves as they are; none so dark that it shows nothing."""
    return np.random.default_rng(seed).integers(10, 250, shape).astype(np.int16)


def save(path: str, values: np.ndarray, affine: np.ndarray, kind: Any = nibabel.Nifti1Image) -> Path:
    image = kind(values, affine)
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        if name in image.header:
            image.header[name] = "Doe^Jane"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"Doe^Jane"))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return Path(path)


def problems() -> dict[str, str]:
    return {row["image"]: row["problem"] for row in rows("out/problems.csv")}


def read_png(name: str) -> np.ndarray:
    return cv2.imread(f"out/masks/{name}.png", cv2.IMREAD_UNCHANGED)


def contents(folder: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


# NIfTI


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("orientation", AFFINES)
def test_a_volume_comes_back_voxel_on_voxel(run: Run, orientation: str, axis: str):
    affine = AFFINES[orientation]
    # in RAS order, so that the longer side of a slice is what the model sees: nothing is resized
    shape = {"axial": (16, 12, 5), "coronal": (12, 5, 16), "sagittal": (5, 16, 12)}[axis]
    code = nibabel.orientations.io_orientation(affine)[:, 0].astype(int)
    values = noise(1, *(shape[place] for place in code))
    save("scans/v.nii.gz", values, affine)
    assert run("scans", axis=axis) == 0
    assert len(rows()) == 5
    found = nibabel.load("out/masks/v.nii.gz")
    assert found.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(found.dataobj), values > 127)
    assert 0.3 < np.asarray(found.dataobj).mean() < 0.7
    given = nibabel.load("scans/v.nii.gz")
    assert np.array_equal(found.affine, given.affine)
    assert found.header.get_zooms() == given.header.get_zooms()
    top = nibabel.as_closest_canonical(given).get_fdata()
    if axis == "axial":  # the front is up, the patient's right on the left
        assert np.array_equal(read_png("v_0004") > 0, (top[:, :, 4] > 127)[::-1, ::-1].T)


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (1, 3)])
def test_where_a_volume_lies_is_copied_and_no_text_of_it(run: Run, codes: tuple[int, int]):
    values, turned = noise(2, 16, 16, 3), nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.3, 0.2, 0.1), [1])
    image = nibabel.Nifti1Image(values, None)
    image.header.set_zooms((1.5, 2.5, 3.5))
    image.set_qform(turned @ np.diag([1.5, 2.5, 3.5, 1]), codes[0])
    image.set_sform(TURNED, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = "Doe^Jane"
    Path("scans").mkdir()
    nibabel.save(image, "scans/v.nii")
    assert run("scans/v.nii") == 0
    given, found = nibabel.load("scans/v.nii"), nibabel.load("out/masks/v.nii.gz")
    assert np.array_equal(np.asarray(found.dataobj), values > 127)
    for name in ("qform_code", "sform_code", "pixdim", "quatern_b", "qoffset_x", "srow_x", "srow_z", "xyzt_units"):
        assert np.array_equal(found.header[name], given.header[name]), name
    assert np.array_equal(found.affine, given.affine)
    content = gzip.decompress(Path("out/masks/v.nii.gz").read_bytes())
    assert b"Doe" in Path("scans/v.nii").read_bytes()
    assert b"Doe" not in content
    assert len(content) == 352 + values.size


def test_volumes_of_every_kind_come_back(run: Run):
    save("scans/two.nii.gz", noise(1, 16, 16, 3), TURNED, nibabel.Nifti2Image)
    save("scans/flat.nii", noise(2, 16, 12), np.eye(4))
    save("scans/series.1.nii.gz", noise(3, 16, 16, 3, 2), np.eye(4))
    swapped = nibabel.Nifti1Image(noise(4, 16, 16, 3), TURNED, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(swapped, "scans/big.NII.GZ")
    assert run("scans") == 0
    found = {name: nibabel.load(f"out/masks/{name}.nii.gz") for name in ("two", "flat", "series.1", "big")}
    assert {name: image.shape for name, image in found.items()} == {
        "two": (16, 16, 3),
        "flat": (16, 12, 1),
        "series.1": (16, 16, 3),
        "big": (16, 16, 3),
    }
    assert isinstance(found["two"], nibabel.Nifti2Image)
    for name, path in {"two": "two.nii.gz", "series.1": "series.1.nii.gz", "big": "big.NII.GZ"}.items():
        given = nibabel.load(f"scans/{path}")
        first = np.asarray(given.dataobj).reshape(16, 16, 3, -1)[..., 0]
        assert np.array_equal(np.asarray(found[name].dataobj), first > 127), name
        assert np.array_equal(found[name].affine, given.affine)
    assert np.array_equal(np.asarray(found["flat"].dataobj)[..., 0], noise(2, 16, 12) > 127)
    # names with dots are not cut
    assert [path.name for path in sorted(Path("out/masks").glob("series*.png"))] == [
        f"series.1_000{index}.png" for index in range(3)
    ]


def test_classes_have_the_numbers_that_they_had_in_training(run: Run):
    values = noise(5, 16, 16, 3)
    save("scans/v.nii.gz", values, AFFINES["LPS"])
    assert run("scans", classes=("background", "7", "3"), values=(0, 7, 3)) == 0
    found = np.asarray(nibabel.load("out/masks/v.nii.gz").dataobj)
    assert np.array_equal(found, np.array([0, 7, 3])[values.astype(int) * 3 // 256])


def test_slices_that_show_nothing_are_background_without_a_row(run: Run, capsys: pytest.CaptureFixture[str]):
    values = noise(6, 16, 16, 6)
    values[:, :, [0, 3]] = 0
    save("scans/v.nii.gz", values, np.eye(4))
    save("scans/w.nii.gz", np.zeros((16, 16, 3), np.int16), np.eye(4))
    assert run("scans") == 0
    assert [row["image"] for row in rows()] == [f"v_000{index}" for index in (1, 2, 4, 5)]
    assert len(list(Path("out/masks").glob("*.png"))) == 4
    assert np.array_equal(np.asarray(nibabel.load("out/masks/v.nii.gz").dataobj), values > 127)
    assert not np.asarray(nibabel.load("out/masks/w.nii.gz").dataobj).any()
    assert "4 of 9 images; 5 show nothing" in capsys.readouterr().out


def test_a_bad_volume_is_told_and_added_when_it_is_mended(run: Run):
    good = save("scans/v.nii.gz", noise(7, 16, 16, 3), np.eye(4)).read_bytes()
    save("scans/w.nii.gz", noise(8, 16, 16, 3), np.eye(4))
    Path("scans/v.nii.gz").write_bytes(good[:-300])
    Path("scans/x.nii.gz").write_bytes(b"nothing")
    assert run("scans") == 1
    assert set(problems()) == {"v_0000", "v.nii.gz", "x.nii.gz"}
    assert "truncated" in problems()["v_0000"]
    assert "v.nii.gz is not written" in problems()["v.nii.gz"]
    assert [path.name for path in Path("out/masks").glob("*.nii.gz")] == ["w.nii.gz"]
    Path("scans/v.nii.gz").write_bytes(good)
    Path("scans/x.nii.gz").unlink()
    assert run("scans") == 0
    assert np.array_equal(np.asarray(nibabel.load("out/masks/v.nii.gz").dataobj), noise(7, 16, 16, 3) > 127)
    assert not Path("out/problems.csv").exists()


def test_masks_and_labels_beside_volumes_are_not_read_and_a_volume_counts_once(run: Run):
    save("scans/images/v.nii.gz", noise(9, 16, 16, 3), np.eye(4))
    save("scans/masks/v.nii.gz", noise(9, 4, 4, 4), np.eye(4))
    Path("scans/labels.csv").write_text("nonsense")
    assert run("scans", "scans/images/v.nii.gz", "scans/images") == 0
    assert len(rows()) == 3


def test_two_volumes_of_one_stem_are_refused(run: Run):
    save("scans/v.nii.gz", noise(9, 16, 16, 3), np.eye(4))
    save("other/V.nii", noise(9, 16, 16, 3), np.eye(4))
    cv2.imwrite("scans/v_0001.png", noise(1, 8, 8).astype(np.uint8))
    for others in ("other", "scans/v_0001.png"):
        with pytest.raises(Exception, match="has the same stem as"):
            run("scans/v.nii.gz", others)
    assert not Path("out").exists()


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_volumes(run: Run, monkeypatch: pytest.MonkeyPatch):
    for number in range(12):
        save(f"scans/{number:02}.nii", noise(number, 16, 16, 12), np.eye(4))
    alive, most, keep = set[int](), 0, nifti_source.shown

    def shown(*words: Any) -> np.ndarray:
        nonlocal most
        volume, number = keep(*words), len(counted)
        counted.append(number)
        alive.add(number)
        weakref.finalize(volume.base if volume.base is not None else volume, alive.discard, number)
        most = max(most, len(alive))
        return volume

    counted: list[int] = []
    monkeypatch.setattr(nifti_source, "shown", shown)
    assert run("scans") == 0
    assert len(counted) == 12  # each is decoded once
    assert most <= 3
    assert len(list(Path("out/masks").glob("*.nii.gz"))) == 12


@pytest.mark.slow
def test_volumes_and_pictures_and_dicom_go_together(run: Run):
    save("scans/v.nii.gz", noise(10, 16, 16, 3), np.eye(4))
    Path("pictures").mkdir()
    cv2.imwrite("pictures/a.png", noise(1, 16, 16).astype(np.uint8))
    make_series("dicom", 2)
    assert run("dicom", "scans", "pictures") == 0
    assert [row["image"] for row in rows()][:4] == ["a.png", "v_0000", "v_0001", "v_0002"]
    assert len(rows()) == 6
    assert np.array_equal(read_png("a") > 0, noise(1, 16, 16) > 127)
    assert Path("out/masks/v.nii.gz").exists()
    assert len(list(Path("out/masks").glob("*.seg.dcm"))) == 1


# DICOM


Images = dict[str, np.ndarray]


def make_series(folder: str, count: int = 5, shape: tuple[int, int] = (16, 12), **elements: Any) -> Images:
    """Slices whose files have another order than the slices have; the pixels of each SOP instance."""
    found = {}
    for number in range(count):
        pixels = noise(number, *shape)
        place = {"ImagePositionPatient": [0, 0, 2.0 * (number * 3 % 5)]} | elements
        made = make_dicom(f"{folder}/{NAME}/{number}.dcm", pixels, **place)
        found[str(made.SOPInstanceUID)] = pixels
    return found


def segmentations(out: str = "out") -> list[Any]:
    return [highdicom.seg.segread(path) for path in sorted(Path(out, "masks").glob("*.seg.dcm"))]


def numbers(seg: Any, instances: Sequence[str]) -> np.ndarray:
    return seg.get_pixels_by_source_instance(
        list(instances), combine_segments=True, assert_missing_frames_are_empty=True
    )


@pytest.mark.slow
def test_a_series_comes_back_as_a_seg_on_its_images(run: Run):
    images = make_series("archive", PatientSex=None, StudyID=None)
    assert run("archive") == 0
    (seg,) = segmentations()
    assert np.array_equal(numbers(seg, images), np.stack(list(images.values())) > 127)
    assert seg.SegmentationType == "BINARY"
    assert (seg.PatientName, seg.PatientID, seg.StudyInstanceUID) == (NAME, NUMBER, "1.2.3")
    assert seg.FrameOfReferenceUID == "1.2.3.5"
    (segment,) = seg.SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("foreground", "AUTOMATIC")
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "49755003"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "AHM"
    # a PNG an image as well
    names = [row["image"] for row in rows()]
    assert sorted(names) == sorted(pseudonym(f"path {NAME}/{number}.dcm") for number in range(5))
    assert np.array_equal(read_png(pseudonym(f"path {NAME}/3.dcm")) > 0, noise(3, 16, 12) > 127)


@pytest.mark.slow
def test_classes_are_segments(run: Run):
    images = make_series("archive", SpecificCharacterSet="ISO_IR 100", PatientName="Übel^Zoë")
    assert run("archive", classes=("background", "Λοίμωξη", "edge"), values=(0, 7, 3)) == 0
    (seg,) = segmentations()
    expected = np.stack(list(images.values())).astype(int) * 3 // 256
    assert np.array_equal(numbers(seg, images), expected)
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["Λοίμωξη", "edge"]
    assert seg.PatientName == "Übel^Zoë"


@pytest.mark.slow
def test_nobody_is_named_but_in_the_seg(run: Run, capsys: pytest.CaptureFixture[str]):
    make_series("archive/images")
    damaged = Path(f"archive/images/{NAME}/{SPOKEN}.dcm")
    damaged.write_bytes(Path(f"archive/images/{NAME}/1.dcm").read_bytes()[:700])
    make_dicom(f"archive/images/{NAME}/cine.dcm", noise(1, 3, 16, 16), **CINE)
    assert run("archive") == 1
    assert len(problems()) == 1
    assert len(segmentations()) == 1
    captured = capsys.readouterr()
    secret = re.compile("|".join(re.escape(part) for part in (*NAME.split("^"), NUMBER, BORN, *SPOKEN.split("^"))))
    assert not secret.search(captured.out + captured.err)
    for name, content in contents("out").items():
        assert not secret.search(name)
        if not name.endswith(".seg.dcm"):
            assert not secret.search(content.decode("latin-1")), name
    about = json.loads(Path("out/predictions.json").read_text())
    assert about["folder"] == [pseudonym(f"folder {Path('archive').resolve()}")]


CINE = {
    "SOPClassUID": ULTRASOUND,
    "SeriesInstanceUID": "1.2.3.9",
    "NumberOfFrames": 3,
    "FrameOfReferenceUID": None,
    "ImagePositionPatient": None,
    "ImageOrientationPatient": None,
}


def test_frames_that_lie_nowhere_keep_their_pngs_and_are_told(run: Run, capsys: pytest.CaptureFixture[str]):
    make_dicom("archive/cine", noise(1, 3, 16, 16), **CINE)
    assert run("archive") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "several frames that have no place in the patient cannot be a DICOM SEG; the masks of its 3 images are" in told
    )
    assert not Path("out/returned.csv").exists()
    first = pseudonym("path cine") + "_0001"
    assert np.array_equal(read_png(first) > 0, noise(1, 3, 16, 16)[0] > 127)
    assert len(rows()) == 3


def test_an_enhanced_object_of_several_frames_comes_back(run: Run):
    spacing = item(PixelSpacing=[1, 1], SliceThickness=2)
    shared = item(
        PixelMeasuresSequence=[spacing],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
    frames = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2 * place])]) for place in (0, 2, 1)]
    pixels = noise(3, 3, 16, 16)
    pixels[1] = 20
    made = make_dicom(
        "archive/enhanced",
        pixels,
        SOPClassUID=ENHANCED_CT,
        NumberOfFrames=3,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
    )
    assert run("archive") == 0
    (seg,) = segmentations()
    found = seg.get_pixels_by_source_frame(
        made.SOPInstanceUID, [1, 2, 3], combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(found, pixels > 127)


@pytest.mark.slow
def test_what_cannot_be_in_one_seg_is_in_several(run: Run):
    small, large = make_series("archive/a", 3), make_series("archive/b", 3, (12, 16))
    turned = make_series("archive/c", 2, ImageOrientationPatient=[1, 0, 0, 0, 0.6, 0.8])
    nowhere = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "FrameOfReferenceUID": None}
    photographs = make_series("archive/d", 2, SOPClassUID=XRAY, Modality="CR", **nowhere)
    assert run("archive") == 0
    expected = [small, large, turned, *({one: pixels} for one, pixels in photographs.items())]
    found = segmentations()
    assert len(found) == len(expected)
    for images in expected:
        (seg,) = (seg for seg in found if {row[2] for row in seg.get_source_image_uids()} == set(images))
        assert np.array_equal(numbers(seg, images), np.stack(list(images.values())) > 127)


def test_each_repetition_of_a_dynamic_series_is_a_seg(run: Run):
    first = make_series("archive/1", 3)
    assert run("archive") == 0
    second = make_series("archive/2", 3)
    assert run("archive") == 0
    found = {frozenset(row[2] for row in seg.get_source_image_uids()): seg for seg in segmentations()}
    assert set().union(*found) == {*first, *second}
    assert len(found) == 2
    for instances, seg in found.items():
        assert np.array_equal(numbers(seg, [*instances]), np.stack([(first | second)[one] for one in instances]) > 127)


def test_a_series_given_file_by_file_is_one_seg(run: Run):
    images = make_series("archive")
    files = [str(path) for path in sorted(Path("archive").rglob("*.dcm"))]
    assert run(*files) == 0
    (seg,) = segmentations()
    assert np.array_equal(numbers(seg, images), np.stack(list(images.values())) > 127)
    # a file of a tree that is given as well counts once
    assert run("archive", files[0], "archive", out="second") == 0
    assert len(rows("second/predictions.csv")) == 5


def test_a_series_with_a_bad_image_is_written_when_that_is_mended(run: Run):
    images = make_series("archive")
    path = Path(f"archive/{NAME}/2.dcm")
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    assert run("archive") == 1
    assert segmentations() == []
    assert len(rows()) == 4
    assert any("is not written" in problem or "not written" in problem for problem in problems().values())
    path.write_bytes(good)
    assert run("archive") == 0
    (seg,) = segmentations()
    assert np.array_equal(numbers(seg, images), np.stack(list(images.values())) > 127)


def test_a_series_that_grew_is_written_again_and_nothing_else(run: Run):
    images = make_series("archive", 3)
    other = make_series("archive/other", 2, SeriesInstanceUID="1.2.3.8")
    assert run("archive") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out/masks").iterdir()}
    more = make_dicom("archive/late.dcm", noise(9, 16, 12), ImagePositionPatient=[0, 0, 30])
    assert run("archive") == 0
    changed = [path for path, stamp in before.items() if path.stat().st_mtime_ns != stamp]
    assert [path.name.endswith(".seg.dcm") for path in changed] == [True]
    images[str(more.SOPInstanceUID)] = noise(9, 16, 12)
    found = {len(seg.get_source_image_uids()): seg for seg in segmentations()}
    assert np.array_equal(numbers(found[4], images), np.stack(list(images.values())) > 127)
    assert np.array_equal(numbers(found[2], other), np.stack(list(other.values())) > 127)


def test_images_with_burned_in_text_are_left_out_unless_asked_for(run: Run, capsys: pytest.CaptureFixture[str]):
    images = make_series("archive", 4)
    make_dicom("archive/text.dcm", noise(9, 16, 12), BurnedInAnnotation="YES", ImagePositionPatient=[0, 0, 30])
    assert run("archive") == 0
    assert "text is burned in: 1" in capsys.readouterr().out
    assert len(rows()) == 4
    (seg,) = segmentations()
    assert {row[2] for row in seg.get_source_image_uids()} == set(images)
    assert run("archive", burned_in=True) == 0
    assert len(rows()) == 5
    assert len(segmentations()[0].get_source_image_uids()) == 5


def test_what_is_given_back_can_be_learned_from(run: Run):
    make_series("whole/images", 4)
    assert run("whole") == 0
    (seg,) = Path("out/masks").glob("*.seg.dcm")
    Path("whole/masks").mkdir()
    seg.rename("whole/masks/corrected")
    source = Dicom(Path("whole"))
    index = source.index()
    assert (index.has_masks, index.problems) == (True, [])
    found = [load() for load in index.samples]
    assert any(sample.mask.any() for sample in found)
    for sample in found:
        assert np.array_equal(sample.mask > 0, read_png(sample.name) > 0)


def test_a_table_says_where_the_mask_of_an_image_went(run: Run):
    images = make_series("archive", 4)
    save("scans/v.nii.gz", noise(1, 16, 12, 3), np.eye(4))
    assert run("archive", "scans") == 0
    table = {row["image"]: row["file"] for row in rows("out/returned.csv")}
    (seg,) = Path("out/masks").glob("*.seg.dcm")
    assert sorted(table) == sorted(row["image"] for row in rows())
    assert sum(name == f"masks/{seg.name}" for name in table.values()) == len(images)
    assert set(table.values()) == {f"masks/{seg.name}", "masks/v.nii.gz"}
    before = Path("out/returned.csv").read_bytes()
    assert run("archive", "scans") == 0
    assert Path("out/returned.csv").read_bytes() == before


@pytest.mark.parametrize("element", ["StudyInstanceUID", "FrameOfReferenceUID", "PixelSpacing", "Modality"])
def test_an_image_without_what_a_seg_needs_is_told_by_the_name_of_the_element(run: Run, element: str):
    make_dicom("archive/a", noise(1, 16, 16), **{element: None})
    assert run("archive") == 1
    ((_, problem),) = problems().items()
    assert f"lack {element}" in problem
    assert len(rows()) == 1


def test_a_class_of_an_image_is_no_seg(run: Run, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch):
    class Classifier(Bands):
        def probabilities(self, images: np.ndarray, tta: bool = False) -> np.ndarray:
            return super().probabilities(images).mean((2, 3))

    make_series("archive", 2)
    save("scans/v.nii.gz", noise(1, 16, 16, 2), np.eye(4))
    Path("tuned", MODEL_FILE).write_text("weights")
    model = Classifier(replace(spec, task="classification", values=(), channels=1))
    monkeypatch.setattr(prediction, "load_tuned", lambda *_: (model, None))
    paths = [Path("archive"), Path("scans")]
    assert predict_images(Path("tuned"), paths, Path("out"), overlays=True) == 0
    assert len(rows()) == 4
    assert not Path("out/masks").exists()


def test_trees_that_name_images_alike_are_refused(run: Run):
    make_dicom("a/IM1", noise(1, 16, 16))
    make_dicom("b/IM1", noise(2, 16, 16))
    with pytest.raises(Exception, match="give the folder that both are in"):
        run("a", "b")
    assert not Path("out").exists()


def test_without_highdicom_nothing_is_begun(run: Run, monkeypatch: pytest.MonkeyPatch):
    make_series("archive", 2)
    monkeypatch.setattr(seg_writer, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"needs highdicom: pip install 'ahm-env\[medical\]'"):
        run("archive")


# Interruptions


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_files(run: Run, monkeypatch: pytest.MonkeyPatch):
    values = noise(11, 16, 16, 12)
    values[:, :, 5] = 0
    save("scans/v.nii.gz", values, TURNED)
    save("scans/w.nii.gz", noise(12, 16, 16, 48), TURNED)  # more slices than can be under way at once
    make_series("archive")
    assert run("scans", "archive", out="straight") == 0
    keep, written = prediction.save_picture, []

    def save_then_stop(path: Path, picture: np.ndarray) -> None:
        written.append(path.name)
        if len(written) == 9:
            os.kill(os.getpid(), signal.SIGINT)
        keep(path, picture)

    monkeypatch.setattr(prediction, "save_picture", save_then_stop)
    assert run("scans", "archive") == 130
    monkeypatch.setattr(prediction, "save_picture", keep)
    first = {row["image"] for row in rows()}
    assert 0 < len(first) < 64
    assert not list(Path("out/masks").glob("*.seg.dcm"))
    assert not Path("out/masks/w.nii.gz").exists()
    assert run("scans", "archive") == 0
    straight, found = contents("straight"), contents("out")
    assert straight.keys() == found.keys()
    for name, content in straight.items():
        if not name.endswith(".seg.dcm"):
            assert content == found[name], name
    # times of day apart
    one, other = (pydicom.dcmread(*Path(out, "masks").glob("*.seg.dcm")) for out in ("straight", "out"))
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "PixelData", "SegmentSequence", "SourceImageSequence"):
        assert one.get(keyword) == other.get(keyword), keyword
    # nothing is left to do
    stamps = {path: path.stat().st_mtime_ns for path in Path("out/masks").iterdir()}
    assert run("scans", "archive") == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in Path("out/masks").iterdir()}


def test_what_is_done_is_not_decoded_again(run: Run, monkeypatch: pytest.MonkeyPatch):
    save("scans/v.nii.gz", noise(1, 16, 16, 3), np.eye(4))
    make_series("archive", 2)
    assert run("scans", "archive") == 0
    Path("out/masks/v.nii.gz").unlink()

    def decode(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("ahm_env.images.formats.nifti.source.read_volume", decode)
    monkeypatch.setattr("ahm_env.images.formats.dicom.pixels.read_frame", decode)
    monkeypatch.setattr("downstream.prediction.mask_export.save_segmentation", decode)
    assert run("scans", "archive") == 0
    # gathered from the PNGs
    assert np.array_equal(np.asarray(nibabel.load("out/masks/v.nii.gz").dataobj), noise(1, 16, 16, 3) > 127)


def test_a_series_that_grew_in_a_run_that_was_killed_is_whole_after_the_next(run: Run, monkeypatch: pytest.MonkeyPatch):
    images = make_series("archive", 3)
    assert run("archive") == 0
    more = make_dicom("archive/late.dcm", noise(9, 16, 12), ImagePositionPatient=[0, 0, 30])
    images[str(more.SOPInstanceUID)] = noise(9, 16, 12)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("downstream.prediction.mask_export.save_segmentation", killed)
        with pytest.raises(KeyboardInterrupt):
            run("archive")
    assert len(rows()) == 4
    assert len(segmentations()[0].get_source_image_uids()) == 3
    assert run("archive") == 0
    (seg,) = segmentations()
    assert np.array_equal(numbers(seg, images), np.stack(list(images.values())) > 127)


def test_a_mask_that_is_gone_is_told(run: Run):
    save("scans/v.nii.gz", noise(1, 16, 16, 3), np.eye(4))
    assert run("scans") == 0
    Path("out/masks/v.nii.gz").unlink()
    Path("out/masks/v_0001.png").unlink()
    assert run("scans") == 1
    assert "v_0001.png: cannot be read" in problems()["v.nii.gz"]
    assert not Path("out/masks/v.nii.gz").exists()


def test_slices_that_have_one_uid_are_not_left_out_unsaid(run: Run, capsys: pytest.CaptureFixture[str]):
    make_series("archive", 5, SOPInstanceUID="1.2.3.4.5")
    assert run("archive") == 1
    assert segmentations() == []
    assert len(rows()) == 5
    problem = Path("out/problems.csv").read_text()
    assert "5 of its images have the same SOP Instance UID; their masks are PNGs only" in problem
    assert "SOP Instance UID" in " ".join(capsys.readouterr().out.split())


def test_copies_of_an_image_are_said_to_be_left_out(run: Run, capsys: pytest.CaptureFixture[str]):
    made = make_dicom("archive/a", noise(1, 16, 16))
    make_dicom("archive/b", noise(1, 16, 16), SOPInstanceUID=made.SOPInstanceUID)
    assert run("archive") == 0
    assert len(segmentations()) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "1 images have the SOP Instance UID of another image and are taken for copies of it" in told
