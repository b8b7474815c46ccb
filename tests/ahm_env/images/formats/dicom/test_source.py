import errno
import multiprocessing
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.dataset.loader import load_images
from ahm_env.images.formats.dicom import index as dicom_index
from ahm_env.images.formats.dicom import source as dicom_source
from ahm_env.images.formats.dicom.index import holds_dicom, is_dicom
from ahm_env.images.formats.dicom.source import Dicom
from ahm_env.images.inspection.report import check_images
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.pixels.window import Window
from ahm_env.images.privacy import pseudonym
from ahm_env.images.source import Sample
from tests.ahm_env.images.samples import outcomes

pydicom = pytest.importorskip("pydicom")

SR, SEGMENTATION, STRUCTURES = (f"1.2.840.10008.5.1.4.1.1.{ending}" for ending in ("88.11", "66.4", "481.3"))
SECRETS = {
    "PatientName": "Geheim^Gerda",
    "PatientID": "SECRET-4711",
    "PatientBirthDate": "19470411",
    "PatientAddress": "Geheimgasse 7",
    "AccessionNumber": "ACC-0815",
    "InstitutionName": "Klinik Verborgen",
    "ReferringPhysicianName": "Doktor^Diskret",
    "StudyID": "STUDY-99",
    "StudyDescription": "Verdacht von Gerda",
    "OtherPatientIDs": "OTHER-1",
    "StationName": "SCANNER-V",
}
PARTS = ("Geheim", "Gerda", "SECRET", "4711", "1947", "0815", "Verborgen", "Diskret", "STUDY-99", "OTHER-1", "SCANNER")


def grey(value: int = 0, height: int = 4, width: int = 6) -> np.ndarray:
    return np.arange(value, value + height * width, dtype=np.int16).reshape(height, width)


def find(source: Dicom, name: str) -> Path:
    """The file that a pseudonym stands for."""
    return dict(source.names())[name[:16]]


def only_error(source: Dicom) -> str:
    (error,) = [sample for sample in outcomes(source) if isinstance(sample, str)]
    assert "\n" not in error
    return error


def test_a_tree_is_searched_whatever_its_files_are_called(tmp_path: Path, make_dicom) -> None:
    for value, name in enumerate(("b/IM0001", "a/1.2.840.5", "a/x/y/z.dcm", "c.IMA")):
        make_dicom(tmp_path / "tree" / name, grey(value))
    source = Dicom(tmp_path / "tree")
    index = source.index()
    assert (index.count, index.classes, index.has_masks) == (4, (), False)
    assert index.problems == index.notes == []
    loaded = outcomes(source)
    assert [sample.image[0, 0] for sample in loaded] == [1, 2, 0, 3]
    assert [sample.name for sample in loaded] == [
        pseudonym(f"path {name}") for name in ("a/1.2.840.5", "a/x/y/z.dcm", "b/IM0001", "c.IMA")
    ]
    assert loaded[3].path == f"{tmp_path}/tree: DICOM file {loaded[3].name}"
    assert {(sample.label, sample.split, sample.patient, sample.mask) for sample in loaded} == {(-1, 0, "", None)}


def test_one_file_is_a_source(tmp_path: Path, make_dicom) -> None:
    path = make_dicom(tmp_path / "a.dcm", np.stack([grey(), grey(7)]))
    make_dicom(tmp_path / "b.dcm", grey())
    source = Dicom(path)
    first, second = outcomes(source)
    assert np.array_equal(second.image, grey(7))
    assert (first.name, second.name) == (f"{pseudonym('path a.dcm')}_0001", f"{pseudonym('path a.dcm')}_0002")
    assert find(source, second.name) == path


def test_what_is_no_image_is_noted(tmp_path: Path, make_dicom) -> None:
    make_dicom(tmp_path / "a", grey())
    make_dicom(tmp_path / "sr1", grey(), SOPClassUID=SR, PixelData=None, Rows=None)
    make_dicom(tmp_path / "sr2", grey(), SOPClassUID=SR, PixelData=None, Rows=None)
    make_dicom(tmp_path / "rt", grey(), SOPClassUID=STRUCTURES, PixelData=None)
    make_dicom(tmp_path / "seg", grey(), SOPClassUID=SEGMENTATION)
    make_dicom(tmp_path / "own", grey(), SOPClassUID="1.3.12.2.1107.5.9.1", PixelData=None)
    for name in ("README", "Geheim.Gerda", ".hidden"):
        (tmp_path / name).write_text("no DICOM")
    index = Dicom(tmp_path).index()
    assert (index.count, index.problems) == (1, [])
    assert index.notes == [
        f"{tmp_path}: DICOM files without an image: 2, Basic Text SR Storage",
        f"{tmp_path}: DICOM files without an image: 1, RT Structure Set Storage",
        f"{tmp_path}: DICOM files without an image: 1, Segmentation Storage",
        f"{tmp_path}: DICOM files without an image: 1, a private kind",
        f"{tmp_path}: files that are not DICOM, and are not read: 2",
    ]


def test_a_dicomdir_is_no_image(tmp_path: Path, make_dicom) -> None:
    directory = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests" / "DICOMDIR"
    make_dicom(tmp_path / "a", grey())
    (tmp_path / "DICOMDIR").write_bytes(directory.read_bytes())
    assert Dicom(tmp_path).index().notes == [
        f"{tmp_path}: DICOM files without an image: 1, Media Storage Directory Storage"
    ]


def test_a_folder_without_an_image_is_refused(tmp_path: Path, make_dicom) -> None:
    with pytest.raises(ImageError, match=rf"^{tmp_path}: no DICOM image in it \(it is empty\); give the folder"):
        Dicom(tmp_path).index()
    (tmp_path / "README").write_text("")
    with pytest.raises(ImageError, match=r"no DICOM image in it \(files that are not DICOM, and are not read: 1\); "):
        Dicom(tmp_path).index()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the file is empty (0 bytes); copy it again"),
        (b"no DICOM", "not DICOM, or its beginning is damaged; copy or export it again, or take it out"),
        (bytes(128) + b"DICM" + bytes(range(256)), "its "),
        (bytes(128) + b"DICM", "its pixels are missing; it is truncated or damaged: copy or export it again"),
    ],
)
def test_a_bad_file_is_a_bad_sample(tmp_path: Path, make_dicom, content: bytes, complaint: str) -> None:
    make_dicom(tmp_path / "a.dcm", grey())
    (tmp_path / "bad.dcm").write_bytes(content)
    source = Dicom(tmp_path)
    assert source.index().count == 2
    name = pseudonym("path bad.dcm")
    assert only_error(source).startswith(f"{tmp_path}: DICOM file {name}: {complaint}")
    assert only_error(source).endswith(f"(`ahm data find {tmp_path} {name}` tells where it is)")
    assert find(source, name) == tmp_path / "bad.dcm"


def test_a_truncated_file_of_many_frames_is_one_bad_sample(tmp_path: Path, make_dicom) -> None:
    path = make_dicom(tmp_path / "a.dcm", np.stack([grey()] * 10))
    path.write_bytes(path.read_bytes()[:-20])
    assert Dicom(tmp_path).index().count == 1
    assert "10 images of 6x4 pixels need 480 bytes or more, it has 460; " in only_error(Dicom(tmp_path))


def test_masks_lie_beside_images_under_the_same_names(tmp_path: Path, make_dicom) -> None:
    make_dicom(tmp_path / "images" / "a" / "b.dcm", grey())
    make_dicom(tmp_path / "images" / "a" / "1.2.3", grey())
    make_dicom(tmp_path / "images" / "c.dcm", np.stack([grey(), grey()]))
    for value, name in enumerate(("a/1.2.3", "a/b", "c_0001", "c_0002"), 1):
        path = tmp_path / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((4, 6), value, np.uint8))
    source = Dicom(tmp_path)
    index = source.index()
    assert (index.has_masks, index.problems, index.notes) == (True, [], [])
    assert [int(sample.mask.max()) for sample in outcomes(source)] == [1, 2, 3, 4]
    (tmp_path / "masks" / "c_0002.png").rename(tmp_path / "masks" / "c_0003.png")
    name = pseudonym("path masks/c_0003.png")
    (problem,) = source.index().problems
    assert problem.startswith(f"{tmp_path}: mask {name}: there is no image of its name; ")
    assert find(source, name) == tmp_path / "masks" / "c_0003.png"
    assert [sample.mask is None for sample in outcomes(source)] == [False, False, False, True]


def test_a_mask_may_have_the_name_that_a_prediction_has(tmp_path: Path, make_dicom) -> None:
    make_dicom(tmp_path / "images" / "a" / "b.dcm", grey())
    make_dicom(tmp_path / "images" / "c.dcm", np.stack([grey(), grey()]))
    (tmp_path / "masks").mkdir()
    for value, name in enumerate((pseudonym("path a/b.dcm"), f"{pseudonym('path c.dcm')}_0002"), 1):
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.png"), np.full((4, 6), value, np.uint8))
    cv2.imwrite(str(tmp_path / "masks" / f"{pseudonym('path d')}.png"), np.zeros((4, 6), np.uint8))
    source = Dicom(tmp_path)
    (problem,) = source.index().problems
    assert "there is no image of its name; rename it" in problem
    first, second, third = outcomes(source)
    assert (first.mask.max(), second.mask, third.mask.max()) == (1, None, 2)


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        (np.zeros((4, 5), np.uint8), ": mask is 5x4 but image is 6x4; re-export one of them ("),
        (np.arange(72, dtype=np.uint8).reshape(4, 6, 3), ": its mask: mask is in colour; save it as one channel"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path, make_dicom, mask: np.ndarray, complaint: str) -> None:
    make_dicom(tmp_path / "images" / "Gerda.dcm", grey())
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "Gerda.png"), mask)
    error = only_error(Dicom(tmp_path))
    assert complaint in error
    assert "Gerda" not in error


def test_two_files_for_one_mask_are_refused(tmp_path: Path, make_dicom) -> None:
    for name in ("a.dcm", "a.ima"):
        make_dicom(tmp_path / "images" / name, grey())
    assert all(isinstance(sample, Sample) for sample in outcomes(Dicom(tmp_path)))
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), np.zeros((4, 6), np.uint8))
    assert all("another file has the same name but for the extension" in text for text in outcomes(Dicom(tmp_path)))
    (tmp_path / "masks" / "a.png").unlink()
    assert all(isinstance(sample, Sample) for sample in outcomes(Dicom(tmp_path)))


def test_the_table_is_for_all_frames_of_a_file(tmp_path: Path, make_dicom) -> None:
    tree = tmp_path / "tree"
    make_dicom(tree / "a" / "b.dcm", np.stack([grey()] * 2), PatientID="P1")
    make_dicom(tree / "c.dcm", grey(), PatientID="P2")
    (tree / "labels.csv").write_text("image,label,split,patient\na/b,NV,val,other\nc.dcm,MEL,test,\n")
    index = Dicom(tree).index()
    assert (index.classes, index.problems, index.notes) == (("MEL", "NV"), [], [])
    assert [(sample.label, sample.split, sample.patient) for sample in outcomes(Dicom(tree))] == [
        (1, 1, pseudonym("other")),
        (1, 1, pseudonym("other")),
        (0, 2, pseudonym("DICOM P2")),
    ]


def test_lines_of_the_table_are_not_quoted(tmp_path: Path, make_dicom) -> None:
    make_dicom(tmp_path / "Gerda.dcm", grey())
    make_dicom(tmp_path / "Gisela.dcm", grey())
    (tmp_path / "labels.csv").write_text("image,split\nGerda,Geheim\nGerda.dcm,val\nGreta,val\n")
    source = Dicom(tmp_path)
    assert source.index().problems == [
        f"{tmp_path}/labels.csv: line 3 names an image again; keep one line",
        f"{tmp_path}/labels.csv: line 4 names an image, which is not there; add the image or delete the line",
    ]
    first, second = outcomes(source)
    assert f": split is unknown in {tmp_path}/labels.csv; use one of: train, val, test (" in first
    assert f": not in {tmp_path}/labels.csv; add a line for it, or take the image out (" in second


def test_a_patient_is_a_pseudonym(tmp_path: Path, make_dicom) -> None:
    for name, patient in (("a", "X1"), ("b", " X1 "), ("c", "X2"), ("d", ""), ("e", " "), ("f", None)):
        make_dicom(tmp_path / "tree" / name, grey(), PatientID=patient)
    first, second = pseudonym("DICOM X1"), pseudonym("DICOM X2")
    assert [sample.patient for sample in outcomes(Dicom(tmp_path / "tree"))] == [first, first, second, "", "", ""]


def test_without_a_patient_a_study_stands_for_one(tmp_path: Path, make_dicom) -> None:
    tree = tmp_path / "tree"
    for name, elements in {
        "a": {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.1"},
        "b": {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.2", "PatientID": ""},
        "c": {"SeriesInstanceUID": "1.2"},
        "d": {"StudyInstanceUID": "1.3", "PatientID": "study 1.2"},
        "e": {},
        "f": {"StudyInstanceUID": "1.2", "SOPClassUID": SR, "PixelData": None},
    }.items():
        make_dicom(tree / name, grey(), **elements)
    first, second, third, other, unknown = (sample.patient for sample in outcomes(Dicom(tree)))
    assert unknown == ""
    assert first == second == third != other
    assert Dicom(tree).index().notes[1:] == [f"{tree}: files that name no patient: 3; a study counts as one"]
    (tree / "labels.csv").write_text("image,patient\na,P1\nb,\nc,\nd,\ne,\n")
    assert [sample.patient for sample in outcomes(Dicom(tree))] == [*[pseudonym("P1")] * 3, other, ""]


def test_who_is_named_in_one_line_of_the_table_is_meant_by_all(tmp_path: Path, make_dicom) -> None:
    for name, patient in (("a", "X1"), ("b", "X1"), ("c", "X2"), ("d", "X2"), ("e", "X3"), ("f", "")):
        make_dicom(tmp_path / name, grey(), PatientID=patient)
    table = tmp_path / "labels.csv"
    table.write_text("image,patient,split\na,,train\nb,P1,test\nc,P1,test\nd,,test\ne,,train\nf,,train\n")
    whose = [sample.patient for sample in outcomes(Dicom(tmp_path))]
    assert whose == [*[pseudonym("P1")] * 4, pseudonym("DICOM X3"), ""]
    with pytest.raises(ImageError, match="patients with images in more than one split"):
        load_images(tmp_path, 8)


def test_a_blank_patient_of_whom_the_table_has_several_names_is_refused(tmp_path: Path, make_dicom) -> None:
    for name in ("a", "b", "c", "d"):
        make_dicom(tmp_path / name, grey(), PatientID="X1")
    (tmp_path / "labels.csv").write_text("image,patient\na,P1\nb,P2\nc,P1\nd,\n")
    *others, _ = outcomes(Dicom(tmp_path))
    assert [sample.patient for sample in others] == [pseudonym(name) for name in ("P1", "P2", "P1")]
    cause = "labels.csv names no patient for it, and several for files of the same PatientID or study; name one for it"
    assert f": {tmp_path}/{cause} (`ahm data find" in only_error(Dicom(tmp_path))


def test_who_is_named_in_one_file_of_a_study_is_meant_by_all(tmp_path: Path, make_dicom) -> None:
    for name, study, patient in (
        ("a", "1.2", ""),
        ("b", "1.2", "X1"),
        ("c", "", "X2"),
        ("d", "", ""),
        ("e", "1.3", ""),
    ):
        make_dicom(tmp_path / "tree" / name, grey(), StudyInstanceUID=study, PatientID=patient)
    whose = [sample.patient for sample in outcomes(Dicom(tmp_path / "tree"))]
    assert whose == [*[pseudonym("DICOM X1")] * 2, pseudonym("DICOM X2"), "", pseudonym("DICOM study: 1.3")]


def test_what_has_text_burned_in_is_left_out_unless_wanted(tmp_path: Path, make_dicom) -> None:
    make_dicom(tmp_path / "a.dcm", np.stack([grey()] * 3), BurnedInAnnotation="YES")
    make_dicom(tmp_path / "b.dcm", grey(), BurnedInAnnotation="NO")
    start = f"{tmp_path}: images that say that text is burned in: 3; "
    without, with_them = Dicom(tmp_path), Dicom(tmp_path, burned_in=True)
    assert without.index().notes == [f"{start}they are left out; --burned-in takes them in"]
    assert with_them.index().notes == [f"{start}they are taken in"]
    assert [sample is None for sample in outcomes(without)] == [True, True, True, False]
    assert None not in outcomes(with_them)
    assert without.fingerprint() != with_them.fingerprint()


def test_a_window_is_applied_and_belongs_to_the_fingerprint(tmp_path: Path, make_dicom) -> None:
    make_dicom(tmp_path / "a.dcm", grey())
    (sample,) = outcomes(Dicom(tmp_path, Window(10, 20)))
    assert sample.image.dtype == np.uint8
    assert sample.image[0].tolist() == [0, 13, 26, 38, 51, 64]
    assert Dicom(tmp_path, Window(10, 20)).fingerprint() != Dicom(tmp_path).fingerprint()


def test_nothing_that_identifies_is_shown(tmp_path: Path, make_dicom) -> None:
    root = tmp_path / "study"
    tree = root / "images" / "Geheim^Gerda" / "SECRET-4711 1947"
    make_dicom(tree / "Gerda.dcm", grey(), **SECRETS)
    make_dicom(tree / "burned.dcm", grey(), **SECRETS, BurnedInAnnotation="YES")
    make_dicom(tree / "report.dcm", grey(), **SECRETS, SOPClassUID=SR, PixelData=None)
    (tree / "truncated-Gerda.dcm").write_bytes((tree / "Gerda.dcm").read_bytes()[:-30])
    for keyword in (
        "PhotometricInterpretation",
        "WindowCenter",
        "RescaleSlope",
        "VOILUTFunction",
        "NumberOfFrames",
        "BurnedInAnnotation",
        "SOPClassUID",
    ):
        path = make_dicom(tree / f"Gerda-{keyword}.dcm", grey(), **SECRETS)
        dataset = pydicom.dcmread(path)
        with warnings.catch_warnings(action="ignore"):
            dataset.add_new(keyword, "LO", "Gerda")
            dataset.save_as(path, implicit_vr=False, little_endian=True)
    syntax = b"1.2.840.10008.1.2.1\0"
    content = (tree / "Gerda.dcm").read_bytes()
    (tree / "Gerda-syntax.dcm").write_bytes(content.replace(syntax, b"Gerda".ljust(len(syntax), b".")))
    (tree / "link-Gerda").symlink_to("/nowhere/Gerda")
    mask = root / "masks" / "Geheim^Gerda" / "Gerda.png"
    mask.parent.mkdir(parents=True)
    cv2.imwrite(str(mask), np.zeros((4, 6), np.uint8))
    (root / "labels.csv").write_text("image,split,patient\nGeheim^Gerda/x,val,Gerda\nGerda,test,4711\n")
    source = Dicom(root)
    index = source.index()
    shown = [*index.problems, *index.notes, source.fingerprint()]
    for sample in outcomes(source):
        shown += [sample] if isinstance(sample, str) else [sample.name, sample.path, sample.patient] if sample else []
    (root / "labels.csv").unlink()
    mask.unlink()
    loaded = outcomes(source)
    assert any(isinstance(sample, Sample) for sample in loaded)
    for sample in loaded:
        shown += [sample] if isinstance(sample, str) else [sample.name, sample.path, sample.patient] if sample else []
    assert len(index.problems) == 4
    assert len(shown) > 20
    assert not [text for text in shown for part in PARTS if part.lower() in text.replace(str(root), "").lower()]


@pytest.mark.parametrize(
    "folder", ["Doe_Gerda", "gerda", "x-PID00712.old", "1930-01-17", "scans/acc 5544/ct", "St. Gerold Klinik"]
)
def test_a_path_that_tells_who_it_is_is_not_kept(tmp_path: Path, make_dicom, folder: str) -> None:
    private = {
        "PatientName": "Doe^Gerda^^Dr",
        "PatientID": "PID/00712",
        "PatientBirthDate": "19300117",
        "AccessionNumber": "ACC5544",
        "InstitutionName": "St.Gerold Klinik",
    }
    make_dicom(tmp_path / folder / "a.dcm", grey(), **private)
    path = tmp_path / folder
    with pytest.raises(SettingsError) as caught:
        load_images(path, 16, cache_dir=tmp_path / "cache")
    number = len(tmp_path.parts) + ("acc" in folder)
    assert str(caught.value).startswith(f"part {number} of the path of these images holds a name, number, birth date")
    report = check_images(path)
    assert (report.images, report.problems) == (1, [str(caught.value)])
    assert Dicom(path).index().count == 1  # which are given back to where they come from
    link = tmp_path / "archive"
    link.symlink_to(path)
    assert len(load_images(link, 16, cache_dir=tmp_path / "cache")) == 1
    with pytest.raises(SettingsError, match="part"):  # though it is in the cache now
        load_images(path, 16, cache_dir=tmp_path / "cache")


def test_links_that_lead_out_are_refused(tmp_path: Path, make_dicom) -> None:
    outside = make_dicom(tmp_path / "outside.dcm", grey())
    inside = make_dicom(tmp_path / "tree" / "images" / "a.dcm", grey(1))
    (inside.parent / "b.dcm").symlink_to(outside)
    (inside.parent / "c.dcm").symlink_to(inside)
    (inside.parent / "d").symlink_to("nowhere")
    source = Dicom(tmp_path / "tree")
    assert [problem.partition(": is a link")[0] for problem in sorted(source.index().problems)] == sorted(
        f"{tmp_path}/tree: DICOM file {pseudonym(f'path {name}')}" for name in ("b.dcm", "d")
    )
    assert [sample.image[0, 0] for sample in outcomes(source)] == [1, 1]


def test_a_file_that_goes_or_closes_meanwhile_is_a_bad_sample(tmp_path: Path, make_dicom) -> None:
    path = make_dicom(tmp_path / "Gerda.dcm", grey())
    (load,) = Dicom(tmp_path).index().samples
    path.unlink()
    with pytest.raises(ImageError, match=r"cannot be read \(No such file or directory\); check that it is") as caught:
        load()
    assert "Gerda" not in str(caught.value)


def test_a_fault_of_the_disk_is_no_fault_of_the_file(tmp_path: Path, make_dicom, monkeypatch) -> None:
    make_dicom(tmp_path / "Gerda.dcm", grey())
    (load,) = Dicom(tmp_path).index().samples

    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(dicom_source, "begins", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        load()
    assert "Gerda" not in str(caught.value)


@pytest.mark.slow
def test_samples_load_in_threads_and_other_processes(tmp_path: Path, make_dicom) -> None:
    for index in range(6):
        make_dicom(tmp_path / f"{index}.dcm", np.stack([grey(index), grey(10 + index)]))
    (tmp_path / "labels.csv").write_text("image,label\n" + "".join(f"{index},A\n" for index in range(6)))
    loads = list(Dicom(tmp_path).index().samples)
    expected = [value for index in range(6) for value in (index, 10 + index)]
    with ThreadPoolExecutor(4) as pool:
        assert [sample.image[0, 0] for sample in pool.map(lambda load: load(), loads * 5)] == expected * 5
    assert len(pickle.dumps(loads[0])) < 1000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(loads[3]).image[0, 0] == 11


def test_a_set_is_made_of_it(tmp_path: Path, make_dicom, cache: Path) -> None:
    for index in range(4):
        make_dicom(tmp_path / "tree" / f"{index}.dcm", grey(index, 8, 8), PatientID=f"P{index // 2}")
    make_dicom(tmp_path / "tree" / "burned.dcm", grey(), BurnedInAnnotation="YES")
    images = load_images(Dicom(tmp_path / "tree"), 16, cache_dir=cache)
    assert (len(images), images.channels) == (4, 1)
    assert len(set(images.patients(np.arange(4)).tolist())) == 2
    again = load_images(Dicom(tmp_path / "tree"), 16, cache_dir=cache)
    assert list(again.names) == list(images.names)


def test_the_fingerprint_follows_images_masks_and_table(tmp_path: Path, make_dicom) -> None:
    path = make_dicom(tmp_path / "tree" / "images" / "a" / "b.dcm", grey())
    source = Dicom(tmp_path / "tree")
    seen = [source.fingerprint()]
    assert Dicom(tmp_path / "tree").fingerprint() == seen[0]
    path.rename(path.parent / "c.dcm")
    seen.append(source.fingerprint())
    (tmp_path / "tree" / "masks").mkdir()
    (tmp_path / "tree" / "masks" / "c.png").write_bytes(b"")
    seen.append(source.fingerprint())
    (tmp_path / "tree" / "labels.csv").write_text("image\n")
    seen.append(source.fingerprint())
    make_dicom(path.parent / "c.dcm", grey(height=5))
    seen.append(source.fingerprint())
    assert len(set(seen)) == 5


def test_without_pydicom_it_says_what_to_install(tmp_path: Path, make_dicom, monkeypatch) -> None:
    make_dicom(tmp_path / "a.dcm", grey())
    monkeypatch.setattr(dicom_source, "find_spec", lambda _: None)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(SettingsError, match=r"needs pydicom: pip install 'ahm-env\[medical\]'"):
        Dicom(tmp_path).index()


def test_dicom_is_known_by_its_beginning(tmp_path: Path, make_dicom) -> None:
    path = make_dicom(tmp_path / "a", grey())
    assert is_dicom(path)
    files = Path(pydicom.__file__).parent / "data" / "test_files"
    for name in ("CT_small.dcm", "ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "rtstruct.dcm"):
        assert is_dicom(files / name), name
    for name in ("README.txt", "zipMR.gz", "test1.json", "../urls.json"):
        assert not is_dicom(files / name), name
    assert not is_dicom(tmp_path / "none")
    assert not is_dicom(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert not is_dicom(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"])
def test_a_dataset_without_the_head_of_a_file_is_read(tmp_path: Path, name: str) -> None:
    whole = Path(pydicom.__file__).parent / "data" / "test_files" / name
    content = whole.read_bytes()
    bare = tmp_path / "bare"
    bare.write_bytes(content[144 + int.from_bytes(content[140:144], "little") :])
    (expected,), (found,) = outcomes(Dicom(whole)), outcomes(Dicom(bare))
    assert np.array_equal(found.image, expected.image)
    assert found.patient == expected.patient != ""


def test_a_folder_of_many_files_is_known_by_its_first(tmp_path: Path, make_dicom, monkeypatch) -> None:
    tree = tmp_path / "tree"
    for number in range(30):
        make_dicom(tree / "a" / f"{number}", grey())
        (tree / f"{number}.png").touch()
    assert holds_dicom(tree)
    assert holds_dicom(tree, 29)
    assert not holds_dicom(tree, 30)
    monkeypatch.setattr(dicom_index, "SEARCHED", 20)
    assert holds_dicom(tree, 1000)
    for number in range(1000):
        (tree / f"{number}.txt").touch()
    assert not holds_dicom(tree, 29)
    assert not holds_dicom(tmp_path / "none")


@pytest.mark.parametrize("kind", ["66.4", "66.7", "66.8", "481.2"])
def test_labels_and_doses_are_told_from_images_by_their_uid(tmp_path: Path, make_dicom, kind: str) -> None:
    make_dicom(tmp_path / "a", grey())
    make_dicom(tmp_path / "labels", grey(), SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{kind}")
    index = Dicom(tmp_path).index()
    assert (index.count, index.problems) == (1, [])
    assert len(index.notes) == 1
    assert "DICOM files without an image: 1, " in index.notes[0]


def test_masks_beside_images_that_are_not_in_a_folder_of_their_own_are_a_problem(tmp_path: Path, make_dicom) -> None:
    root = tmp_path / "tree"
    make_dicom(root / "ct" / "1.dcm", grey())
    (root / "masks" / "ct").mkdir(parents=True)
    assert cv2.imwrite(str(root / "masks" / "ct" / "1.png"), np.eye(4, 6, dtype=np.uint8))
    with pytest.raises(ImageError, match=r"masks: masks are read only where .*; put the images into `images/`"):
        load_images(root, 16)
    assert not load_images(root, 16, skip_bad=True).has_masks
    assert Dicom(root, bare=True).index().problems == []
    (root / "images").mkdir()
    (root / "ct").rename(root / "images" / "ct")
    assert load_images(root, 16).has_masks


def test_a_file_that_may_not_be_looked_at_is_bad_and_not_named(tmp_path: Path, make_dicom, unlook) -> None:
    root = tmp_path / "tree"
    for value, name in enumerate(("SMITH_JOHN", "x")):
        make_dicom(root / name / "1.dcm", grey(value))
    unlook(root / "SMITH_JOHN")
    shown = pseudonym("path SMITH_JOHN/1.dcm")
    with pytest.raises(ImageError, match=rf"DICOM file {shown}: cannot be read \(Permission denied\)") as caught:
        load_images(root, 16)
    assert "SMITH" not in str(caught.value)
    assert load_images(root, 16, skip_bad=True).names[0] == pseudonym("path x/1.dcm")
    assert shown in check_images(root).problems[0]


def test_an_error_of_the_disk_does_not_name_a_folder_in_the_tree(tmp_path: Path, make_dicom, monkeypatch) -> None:
    make_dicom(tmp_path / "tree" / "SMITH_JOHN" / "1.dcm", grey())
    listed = os.scandir

    def broken(path: str | Path) -> object:
        if "SMITH" in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(OSError, match="tree") as caught:
        Dicom(tmp_path / "tree").fingerprint()
    assert "SMITH" not in str(caught.value)
