import pickle
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.dataset.loader import load_images
from ahm_env.images.formats.files import ASTRAY
from ahm_env.images.formats.nifti import source as nifti_source
from ahm_env.images.formats.nifti.names import is_nifti, nifti_stem
from ahm_env.images.formats.nifti.slices import from_slices, to_slice
from ahm_env.images.formats.nifti.source import Nifti
from ahm_env.images.formats.nifti.volume import read_header, read_volume
from ahm_env.images.layouts.hints import import_hint
from ahm_env.images.pixels.fit import AXES
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.pixels.window import Window
from ahm_env.images.privacy import pseudonym
from ahm_env.images.source import Sample
from tests.ahm_env.images.samples import outcomes

nibabel = pytest.importorskip("nibabel")

named = partial(Nifti, named=True)

IDENTITY = Window(127.5, 255)
# voxel (x, y, z) of this volume, in steps to the right, front and top, is 100x + 10y + z
RAS = np.fromfunction(lambda x, y, z: 100 * x + 10 * y + z, (2, 3, 4)).astype(np.int16)
PLANTED = "Doe^Jane"

MakeVolumes = Callable[..., Path]


def save(path: Path, values: np.ndarray, affine: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else np.array(affine, float))
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[name] = PLANTED
    nibabel.save(image, path)
    return path


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 250, shape or (5, 6, 4)).astype(np.int16)


@pytest.fixture
def make_volumes(tmp_path: Path) -> MakeVolumes:
    """Makes a folder of volumes v0.nii.gz, v1.nii.gz, ... of 5 x 6 x 4 voxels, with masks and a table if wanted."""

    def make(count: int = 2, masks: bool = False, table: str | None = None) -> Path:
        root = tmp_path / "scans"
        for index in range(count):
            save(root / "images" / f"v{index}.nii.gz", noise(index))
            if masks:
                save(root / "masks" / f"v{index}.nii.gz", (noise(index) > 100 + index).astype(np.uint8))
        if table is not None:
            (root / "labels.csv").write_text(table, encoding="utf-8")
        return root

    return make


def only_error(source: Nifti) -> str:
    (error,) = {each for each in outcomes(source) if isinstance(each, str)}
    return error


def test_names_of_nifti_files_are_known() -> None:
    assert [nifti_stem(name) for name in ("a.nii", "b.1.nii.gz", "C.NII.GZ", "d.Nii")] == ["a", "b.1", "C", "d"]
    assert all(map(is_nifti, ("a.nii", "b.1.nii.gz", "C.NII.GZ", "d.Nii")))
    assert not any(map(is_nifti, ("a.png", "a.gz", "a.hdr", "a.img", "a.mgz", "nii", "a.nii.bz2")))


def test_slices_are_shown_as_radiologists_look_at_them() -> None:
    # The patient's right (x = 1) on the left, front (y = 2) or head (z = 3) up; sagittal: front on the left.
    assert to_slice(RAS, "axial", 3).tolist() == [[123, 23], [113, 13], [103, 3]]
    assert to_slice(RAS, "coronal", 1).tolist() == [[113, 13], [112, 12], [111, 11], [110, 10]]
    assert to_slice(RAS, "sagittal", 0).tolist() == [[23, 13, 3], [22, 12, 2], [21, 11, 1], [20, 10, 0]]


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 3), (1, 5, 1)])
def test_the_way_back_from_slices_is_exact(axis: str, shape: tuple[int, ...]) -> None:
    volume = noise(0, *shape)
    slices = [to_slice(volume, axis, index) for index in range(shape[AXES.index(axis)])]
    assert np.array_equal(from_slices(slices, axis), volume)
    assert np.array_equal(from_slices(np.stack(slices), axis), volume)


@pytest.mark.parametrize(
    ("stored", "affine"),
    [
        (RAS, np.eye(4)),
        (RAS[::-1, ::-1], np.diag([-1, -1, 1, 1])),
        (RAS.transpose(2, 0, 1), [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]),
        (RAS, [[0.9, -0.3, 0, 5], [0.3, 0.9, 0, 6], [0, 0.2, 3, 7], [0, 0, 0, 1]]),
    ],
)
def test_samples_are_slices_however_the_volume_is_stored(tmp_path: Path, stored: np.ndarray, affine: Any) -> None:
    path = save(tmp_path / "brain.nii.gz", stored, affine)
    expected = {axis: [to_slice(RAS, axis, index) for index in range(RAS.shape[i])] for i, axis in enumerate(AXES)}
    for axis in AXES:
        samples = outcomes(named(path, IDENTITY, axis))
        assert [sample.name for sample in samples] == [f"brain_{i:04d}" for i in range(len(expected[axis]))]
        assert [sample.path for sample in samples] == [f"{path}[{axis} slice {i}]" for i in range(len(expected[axis]))]
        assert all(np.array_equal(s.image, e) for s, e in zip(samples, expected[axis], strict=True))
        assert {sample.image.dtype for sample in samples} == {np.dtype(np.uint8)}
        # what is predicted for slices goes back into the voxels of the file
        back = read_header(path).from_ras(from_slices([sample.image for sample in samples], axis))
        assert np.array_equal(back, stored)


def test_an_unknown_axis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--axis up is unknown; give one of: sagittal, coronal, axial"):
        Nifti(tmp_path, axis="up")


def test_volumes_come_by_stem_and_all_slices_of_one_are_scaled_alike(make_volumes) -> None:
    root = make_volumes(3)
    (root / "images" / "v1.nii.gz").unlink()
    half = noise(1)
    half[..., 0] //= 8
    save(root / "images" / "v1.nii", half)
    samples = outcomes(named(root))
    assert [sample.name for sample in samples] == [f"v{i}_{k:04d}" for i in range(3) for k in range(4)]
    assert samples[4].image.max() < 50 < samples[5].image.max()
    (root / "images").rename(root.parent / "flat")
    assert len(outcomes(named(root.parent / "flat"))) == 12


def test_a_folder_without_volumes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.img").touch()
    with pytest.raises(ImageError, match=rf"^{tmp_path}: no NIfTI volume directly in it"):
        Nifti(tmp_path).index()


def test_slices_that_show_nothing_are_left_out_unless_something_is_marked(tmp_path: Path) -> None:
    values, marked = noise(0, 5, 6, 8), np.zeros((5, 6, 8), np.uint8)
    values[..., 0], values[..., 1], values[..., 2] = 0, 99, 4 * (noise(1, 5, 6) > 100)
    values[..., 3:5] = 0
    marked[2, 2, 4] = 1
    root = tmp_path / "scans"
    save(root / "images" / "a.nii", values)
    assert [i for i, each in enumerate(outcomes(Nifti(root, IDENTITY))) if each] == [5, 6, 7]
    save(root / "masks" / "a.nii", marked)
    samples = outcomes(Nifti(root, IDENTITY))
    assert [i for i, each in enumerate(samples) if each] == [4, 5, 6, 7]
    assert (samples[4].mask.sum(), samples[5].mask.sum()) == (1, 0)


def test_a_constant_volume_shows_nothing(tmp_path: Path) -> None:
    assert outcomes(Nifti(save(tmp_path / "a.nii", np.full((3, 4, 5), 700, np.int16)))) == [None] * 5


def test_series_colours_and_2d_images(tmp_path: Path) -> None:
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours = np.random.default_rng(0).integers(0, 255, (4, 5, 3, 3), np.uint8)
    save(tmp_path / "a_colour.nii.gz", np.squeeze(colours.view(rgb), 3))
    series = np.stack([RAS, RAS * 2], axis=3)
    save(tmp_path / "b_series.nii.gz", series)
    save(tmp_path / "c_series.nii.gz", series)
    save(tmp_path / "d_flat.nii", RAS[..., 0], np.diag([-1, 1, 1, 1]))
    index = named(tmp_path, IDENTITY, "coronal").index()
    samples = {sample.name: sample for load in index.samples if (sample := load())}
    (warning,) = index.warnings
    assert (warning.kind, warning.count) == ("pages", 2)
    assert f"{tmp_path}/b_series.nii.gz: the first of its 2 volumes is read (and 1 more such files)" in warning.text
    assert Counter(name[0] for name in samples) == {"a": 5, "b": 3, "c": 3, "d": 1}
    assert np.array_equal(samples["a_colour_0002"].image, colours[::-1, 2, ::-1].swapaxes(0, 1))
    assert np.array_equal(samples["b_series_0001"].image, to_slice(RAS, "coronal", 1))
    # Seen from its flat side: y = 2 up, and the file's first column is the patient's right.
    assert samples["d_flat_0000"].image.tolist() == [[20, 120], [10, 110], [0, 100]]
    assert samples["d_flat_0000"].path.endswith("d_flat.nii[axial slice 0]")


def test_masks_may_lie_otherwise_in_their_file(tmp_path: Path) -> None:
    root, classes = tmp_path / "scans", RAS % 4
    save(root / "images" / "a.nii", RAS)
    save(
        root / "masks" / "a.nii.gz",
        classes[::-1, ::-1].astype(np.float32),
        [[-1, 0, 0, 1], [0, -1, 0, 2], [0, 0, 1, 0], [0, 0, 0, 1]],
    )
    source = Nifti(root, IDENTITY, "sagittal")
    assert source.index().has_masks
    for index, sample in enumerate(outcomes(source)):
        assert (sample.mask.dtype, sample.mask.flags.c_contiguous) == (np.uint8, True)
        assert np.array_equal(sample.mask, to_slice(classes, "sagittal", index))


def test_masks_may_be_drawn_on_slices(make_volumes) -> None:
    root = make_volumes(1)
    (root / "masks").mkdir()
    drawn = np.zeros((6, 5), np.uint8)
    drawn[0, 1] = 255
    for index in range(4):
        cv2.imwrite(str(root / "masks" / f"v0_{index:04d}.png"), drawn * (index == 2))
    samples = outcomes(named(root))
    assert np.array_equal(samples[2].mask, drawn)
    assert [sample.mask.any() for sample in samples] == [False, False, True, False]
    (root / "masks" / "v0_0001.png").unlink()
    name = f"{root}/images/v0.nii.gz[axial slice 1]"
    assert [sample.mask is None for sample in outcomes(named(root))] == [False, True, False, False]
    cv2.imwrite(str(root / "masks" / "v0_0001.png"), drawn.T)
    assert only_error(named(root)) == f"{name}: mask is 6x5 but slice is 5x6; re-export one of them"
    (root / "masks" / "v0_0001.png").write_bytes(b"none")
    assert only_error(named(root)).startswith(f"{root}/masks/v0_0001.png: not an image")


def test_slices_that_show_nothing_need_no_drawn_mask(tmp_path: Path) -> None:
    values = noise(0)
    values[..., 1:3] = 0
    save(tmp_path / "a.nii", values)
    (tmp_path / "masks").mkdir()
    for index in (0, 2, 3):
        cv2.imwrite(str(tmp_path / "masks" / f"a_{index:04d}.png"), np.full((6, 5), index, np.uint8))
    assert [each and each.mask.max() for each in outcomes(Nifti(tmp_path))] == [0, None, 2, 3]


@pytest.mark.parametrize(
    ("mask", "affine", "complaint"),
    [
        (np.zeros((5, 4, 6), np.uint8), np.eye(4), "v0.nii.gz: mask and image are 5x4x6 and 5x6x4 voxels"),
        (np.zeros((5, 6, 4), np.uint8), np.diag([1, 1, 1.01, 1]), "5x6x4 and 5x6x4 voxels, but their affines differ"),
        (np.zeros((5, 6, 4), np.uint8), np.diag([-1, 1, 1, 1]), "affines differ by up to 4"),
        (np.full((5, 6, 4), 0.5), np.eye(4), "masks/v0.nii.gz: mask holds values that are not class numbers"),
        (np.zeros((5, 6, 4, 3), np.uint8), np.eye(4), "masks/v0.nii.gz: holds 3 volumes"),
    ],
)
def test_masks_that_do_not_fit_are_refused(make_volumes, mask: np.ndarray, affine: Any, complaint: str) -> None:
    root = make_volumes(2, masks=True)
    save(root / "masks" / "v0.nii.gz", mask, affine)
    assert complaint in only_error(named(root))
    assert sum(isinstance(each, Sample) for each in outcomes(named(root))) == 4


def test_affines_may_differ_by_rounding(make_volumes) -> None:
    root = make_volumes(1, masks=True)
    save(root / "masks" / "v0.nii.gz", np.ones((5, 6, 4), np.uint8), np.eye(4) + 5e-4 * np.eye(4, k=3))
    assert all(isinstance(each, Sample) for each in outcomes(Nifti(root)))


def test_a_volume_without_its_mask_and_a_mask_without_its_volume(make_volumes) -> None:
    root = make_volumes(2, masks=True)
    (root / "masks" / "v1.nii.gz").rename(root / "masks" / "w.nii.gz")
    for name in ("v9_0001.png", "v1_0004.png", "sketch.png"):
        cv2.imwrite(str(root / "masks" / name), np.zeros((6, 5), np.uint8))
    problems = named(root).index().problems
    names = ["sketch.png", "v1_0004.png", "v9_0001.png", "w.nii.gz"]
    assert [problem.partition(": mask without a volume")[0] for problem in problems] == [
        f"{root}/masks/{n}" for n in names
    ]
    (root / "masks" / "v1_0004.png").unlink()
    assert [sample.mask is None for sample in outcomes(named(root))] == [False] * 4 + [True] * 4


def test_more_than_one_mask_is_refused(make_volumes) -> None:
    root = make_volumes(1, masks=True)
    cv2.imwrite(str(root / "masks" / "v0_0000.png"), np.zeros((6, 5), np.uint8))
    assert "more than one mask" in only_error(Nifti(root))


def test_two_volumes_of_one_stem_are_both_refused(make_volumes) -> None:
    root = make_volumes(2)
    save(root / "images" / "v1.nii", noise(1))
    found = outcomes(named(root))
    assert [each.partition(";")[0] for each in found[4:]] == [
        f"{root}/images/{name}: there is another file of its stem" for name in ("v1.nii", "v1.nii.gz")
    ]
    assert all(isinstance(each, Sample) for each in found[:4])


def test_a_line_of_the_table_is_for_all_slices(make_volumes) -> None:
    table = "image,label,split,patient\nv0,A,train,p1\nv1.nii.gz,B,val,p2\nv2,,test,\n"
    root = make_volumes(3, table=table)
    index = Nifti(root).index()
    assert (index.classes, index.problems, index.notes) == (("A", "B"), [], [])
    samples = outcomes(Nifti(root))
    assert [sample.label for sample in samples] == [0] * 4 + [1] * 4 + [-1] * 4
    assert [sample.split for sample in samples] == [0] * 4 + [1] * 4 + [2] * 4
    known = [pseudonym("p1"), pseudonym("p2"), pseudonym("NIfTI v2")]
    assert [sample.patient for sample in samples] == np.repeat(known, 4).tolist()


def test_lines_and_volumes_that_do_not_meet_are_told(make_volumes) -> None:
    root = make_volumes(3, table="image,split\nv0,train\nv0.nii.gz,val\nv1,dev\nv7,val\nv0_0001,val\n")
    problems = named(root).index().problems
    assert ["names 'v0.nii.gz' again" in problems[0], "names 'v7', which is not there" in problems[1]] == [True, True]
    assert "names 'v0_0001', which is not there" in problems[2]
    found = outcomes(named(root))
    assert "v1.nii.gz: split is 'dev'" in found[4]
    assert "v2.nii.gz: not in" in found[5]


def test_a_single_file_has_its_mask_and_its_line(make_volumes) -> None:
    root = make_volumes(2, masks=True, table="image,label\nv0,A\nother,B\n")
    for volume in (root / "images").iterdir():
        volume.rename(root / volume.name)
    source = Nifti(root / "v0.nii.gz")
    assert source.table == root / "labels.csv"
    index = source.index()
    assert (index.count, index.classes, index.has_masks) == (4, ("A",), True)
    assert index.problems == index.notes == []
    other = Nifti(root / "v1.nii.gz")
    (root / "masks" / "v1.nii.gz").unlink()
    assert (other.index().classes, other.index().has_masks) == ((), False)
    assert {sample.label for sample in outcomes(other)} == {-1}
    (root / "labels.csv").write_text("image,label\nv0,A\nv0.nii.gz,B\n")
    with pytest.raises(ImageError, match=r"names v0\.nii\.gz 2 times"):
        source.index()
    (root / "labels.csv").write_text("file;class\nv0;A\n")
    assert [note.partition(";")[0] for note in source.index().notes] == [
        f"{root}/labels.csv: no column `image` in its first line"
    ]
    assert source.index().count == 4


def test_patients_of_the_table_group_volumes_and_must_not_leak(make_volumes, cache: Path) -> None:
    table = "image,split,patient\nv0,train,Jane\nv1,{},Jane\nv2,test,Joan\n"
    root = make_volumes(3, table=table.format("train"))
    images = load_images(Nifti(root), 16, cache_dir=cache)
    assert images.patients(range(12)).tolist() == [0] * 8 + [8] * 4
    (root / "labels.csv").write_text(table.format("val"))
    with pytest.raises(ImageError, match=rf"more than one split: {pseudonym('Jane')} \(train and val\)"):
        load_images(Nifti(root), 16, cache_dir=cache)


def test_volumes_become_a_set_of_images(make_volumes, cache: Path) -> None:
    root = make_volumes(2, masks=True)
    images = load_images(named(root), 16, cache_dir=cache)
    assert (len(images), images.channels, images.has_masks) == (8, 1, True)
    assert images.names[:] == [f"v{i}_{k:04d}" for i in range(2) for k in range(4)]
    assert images.patients(range(8)).tolist() == [0] * 4 + [4] * 4
    assert images.mask_values(range(8)) == (0, 1)


@pytest.mark.parametrize(("threads", "volumes", "most"), [(1, 3, 1), (4, 1, 1), (4, 3, 4)])
def test_a_volume_is_not_decoded_again_for_each_slice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, volumes: int, most: int
) -> None:
    decoded: Counter[str] = Counter()

    def counted(header: Any) -> Any:
        decoded[str(header.path)] += 1
        return read_volume(header)

    for index in range(volumes):
        save(tmp_path / "images" / f"v{index}.nii.gz", noise(index, 5, 6, 40))
        save(tmp_path / "masks" / f"v{index}.nii.gz", noise(index, 5, 6, 40) % 2)
    monkeypatch.setattr(nifti_source, "read_volume", counted)
    index = Nifti(tmp_path).index()
    assert not decoded
    with ThreadPoolExecutor(threads) as pool:
        assert len(list(pool.map(lambda load: load(), index.samples))) == 40 * volumes
    assert len(decoded) == 2 * volumes
    # A thread that was held up may come back for a volume that others have done with.
    assert max(decoded.values()) <= most


def test_a_damaged_volume_is_decoded_once_and_all_its_slices_are_refused(
    make_volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_volumes(2)
    path = root / "images" / "v0.nii.gz"
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    decoded: list[Path] = []
    monkeypatch.setattr(nifti_source, "read_volume", lambda header: decoded.append(header.path) or read_volume(header))
    found = outcomes(named(root))
    assert [isinstance(each, str) for each in found] == [True] * 4 + [False] * 4
    assert found[0].startswith(f"{path}: truncated, damaged or no NIfTI file")
    assert decoded == [path, root / "images" / "v1.nii.gz"]


def test_a_volume_with_a_damaged_header_counts_as_one(make_volumes) -> None:
    root = make_volumes(2)
    (root / "images" / "v0.nii.gz").write_bytes(b"damaged")
    found = outcomes(Nifti(root))
    assert [isinstance(each, str) for each in found] == [True] + [False] * 4


def test_a_volume_that_changes_meanwhile_is_refused(make_volumes) -> None:
    root = make_volumes(1)
    loads = list(named(root).index().samples)
    save(root / "images" / "v0.nii.gz", noise(0, 5, 6, 3))
    with pytest.raises(ImageError, match=r"v0\.nii\.gz: has changed while it was read"):
        loads[3]()


def test_loads_can_be_pickled_without_what_was_decoded(make_volumes) -> None:
    root = make_volumes(2, masks=True, table="image\nv0\nv1\n")
    (root / "images" / "w.nii").write_bytes(b"damaged")
    loads = list(Nifti(root, IDENTITY).index().samples)
    sample = loads[5]()
    pickled = pickle.dumps(loads[5])
    assert len(pickled) < 4000
    again = pickle.loads(pickled)()
    assert np.array_equal(again.image, sample.image)
    assert (again.name, again.patient) == (sample.name, sample.patient)
    with pytest.raises(ImageError):
        pickle.loads(pickle.dumps(loads[-1]))()


def test_the_fingerprint_follows_all_that_counts(make_volumes) -> None:
    root = make_volumes(2, masks=True, table="image\nv0\nv1\n")
    seen = [Nifti(root).fingerprint(), Nifti(root, axis="coronal").fingerprint(), Nifti(root, IDENTITY).fingerprint()]
    assert Nifti(root).fingerprint() == seen[0]
    (root / "labels.csv").write_text("image\nv1\n")
    seen.append(Nifti(root).fingerprint())
    (root / "masks" / "v0.nii.gz").write_bytes(b"")
    seen.append(Nifti(root).fingerprint())
    (root / "images" / "v0.nii.gz").rename(root / "images" / "w.nii.gz")
    seen.append(Nifti(root).fingerprint())
    seen.append(Nifti(root / "images" / "w.nii.gz").fingerprint())
    (root / "images" / "w.nii.gz").write_bytes(b"")
    seen.append(Nifti(root / "images" / "w.nii.gz").fingerprint())
    assert len(set(seen)) == len(seen)
    with pytest.raises(ImageError, match="cannot be read"):
        Nifti(root / "gone.nii").fingerprint()


def test_other_files_are_noted(make_volumes) -> None:
    root = make_volumes(1)
    for name in ("a.hdr", "a.img", ".hidden", "b.mgz"):
        (root / "images" / name).touch()
    (root / "images" / "folder.nii").mkdir()
    index = Nifti(root).index()
    assert index.count == 4
    assert index.notes == [
        f"{root}/images: files that are not NIfTI, and are not read: 3",
        f"{root}/images: folders in it, whose files are not read: 1",
    ]


def test_names_of_files_are_told_nowhere_unless_asked_for(make_volumes) -> None:
    root = make_volumes(5, masks=True, table="image\nv0\nv1\nv2\nv3\nGerda\n")
    (root / "images" / "v0.nii.gz").rename(root / "images" / "Gerda.nii.gz")
    (root / "images" / "Gerda.nii.gz").write_bytes(b"damaged")
    save(root / "masks" / "Gertrud.nii.gz", np.zeros((5, 6, 4), np.uint8))  # no volume of that stem
    save(root / "images" / "v1.nii.gz", noise(1, 5, 6, 4, 2))  # a series
    (root / "masks" / "v2.nii.gz").write_bytes(b"damaged")
    (root / "images" / "Gerhard.hdr").touch()
    for path in root.rglob("v*.nii.gz"):
        path.rename(path.with_name(f"Ger{path.name}"))
    (root / "labels.csv").write_text("image,split\nGerv1,Gerold\nGerv2,test\nGerv3,test\nGerda,test\nGernot,test\n")
    source = Nifti(root)
    index, found = source.index(), outcomes(source)
    told = [*index.problems, *index.notes]
    told += [each for each in found if isinstance(each, str)]
    told += [text for each in found if isinstance(each, Sample) for text in (each.name, each.path)]
    assert sum(isinstance(each, str) for each in found) == 4
    assert any(isinstance(each, Sample) for each in found)
    assert len(index.problems) == 3
    assert not [text for text in told if "Ger" in text]
    files = dict(source.names())
    pointed = {files[text.split("NIfTI file ")[1][:16]].name for text in told if "NIfTI file" in text}
    assert pointed >= {"Gerda.nii.gz", "Gertrud.nii.gz", "Gerv1.nii.gz", "Gerv2.nii.gz", "Gerv3.nii.gz", "Gerv4.nii.gz"}
    assert [text for text in map(str, outcomes(named(root))) if "Gerda" in text]


@pytest.mark.parametrize("hidden", [True, False])
def test_an_error_of_the_disk_tells_the_name_only_where_it_may(make_volumes, monkeypatch, hidden: bool) -> None:
    root = make_volumes(1)

    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("ahm_env.images.formats.nifti.pairs.read_header", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        Nifti(root, named=not hidden).index()
    assert ("v0.nii.gz" in str(caught.value)) is not hidden


def test_texts_of_headers_are_told_nowhere(make_volumes, capfd: pytest.CaptureFixture) -> None:
    root = make_volumes(3, masks=True, table="image\nv0\nv0\nv9\n")
    save(root / "images" / "v1.nii.gz", noise(1, 5, 6, 4, 2))
    save(root / "masks" / "v2.nii.gz", noise(1, 5, 4, 4))
    assert PLANTED.encode() in nibabel.load(root / "images" / "v1.nii.gz").header.binaryblock
    index = Nifti(root).index()
    told = [*index.problems, *index.notes, *map(repr, outcomes(Nifti(root)))]
    assert len(told) > 6
    caught = capfd.readouterr()
    assert caught.err == ""
    assert not any(PLANTED[:3] in text for text in (*told, caught.out))


def test_files_of_nibabels_own_tests_load_or_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    data = Path(nibabel.__path__[0]) / "tests" / "data"
    if not data.is_dir():
        pytest.skip("nibabel is installed without its tests")
    found: dict[str, Any] = {}
    for path in sorted(data.iterdir()):
        if path.is_file():
            source = Nifti(path)
            try:
                found[path.name] = sum(isinstance(each, Sample) for each in outcomes(source))
            except ImageError as error:
                found[path.name] = str(error)
    loaded = {name: count for name, count in found.items() if isinstance(count, int) and count}
    assert {name: loaded[name] for name in ("anatomical.nii", "example4d.nii.gz", "example_nifti2.nii.gz")} == {
        "anatomical.nii": 25,
        "example4d.nii.gz": 24,
        "example_nifti2.nii.gz": 12,
    }
    assert all(map(is_nifti, loaded))
    # The same bytes under another name do not become a NIfTI file.
    for other in sorted(data.glob("*.hdr")) + sorted(data.glob("*.mgz")):
        renamed = tmp_path / (other.name + ".nii")
        renamed.write_bytes(other.read_bytes())
        assert "in one piece" in only_error(Nifti(renamed))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("names", "count"), [
    (["a.nii.gz", "a_seg.nii.gz"], 1),
    (["B-GLI-0-t1c.nii.gz", "B-GLI-0-t2w.nii.gz", "B-GLI-0-seg.nii.gz"], 1),
    (["b_flair.nii.gz", "b_t1.nii.gz", "b_seg.nii.gz", "c_t1.nii", "c_seg.nii"], 2),
])  # fmt: skip
def test_masks_among_volumes_are_refused_with_the_remedy(tmp_path: Path, names: list[str], count: int) -> None:
    for name in names:
        save(tmp_path / "scans" / name, noise(1))
    with pytest.raises(ImageError) as caught:
        Nifti(tmp_path / "scans", hint=import_hint).index()
    scans = tmp_path / "scans"
    told = f"{count} image{'s' * (count > 1)} and {count} mask{'s' * (count > 1)} among them"
    assert str(caught.value).startswith(f"{scans}: {told}; `ahm data import auto {scans} --out ")


def test_volumes_that_only_look_like_masks_are_read(tmp_path: Path) -> None:
    save(tmp_path / "scans" / "a_label_1.nii.gz", noise(1))
    save(tmp_path / "scans" / "b.nii.gz", noise(2))
    assert Nifti(tmp_path / "scans").index().problems == []


def test_a_mask_of_another_name_is_to_be_renamed(make_volumes: MakeVolumes) -> None:
    root = make_volumes(2, masks=True)
    (root / "masks" / "v1.nii.gz").rename(root / "masks" / "v1_seg.nii.gz")
    (problem,) = Nifti(root).index().problems
    assert "its name is not that of its volume; take _seg out of it" in problem


@pytest.mark.parametrize("value", [0.99999994, 1.0000153])
def test_labels_within_rounding_are_rounded_and_others_refused(tmp_path: Path, value: float) -> None:
    mask = (noise(3) > 100).astype(np.float32)
    save(tmp_path / "images" / "v.nii.gz", noise(1))
    save(tmp_path / "masks" / "v.nii.gz", mask * np.float32(value))
    found = np.stack([sample.mask for sample in outcomes(Nifti(tmp_path))])
    assert int(found.sum()) == int(mask.sum())
    save(tmp_path / "masks" / "v.nii.gz", mask * np.float32(0.7))
    assert "mask holds values that are not class numbers 0..255 (0.7)" in str(outcomes(Nifti(tmp_path))[0])


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_a_file_that_may_not_be_looked_at_is_bad_and_not_named(make_volumes: MakeVolumes, unlook, folder: str) -> None:
    root = make_volumes(masks=True)
    unlook(root / folder)
    sources = Nifti(root), named(root)
    problems = [outcomes(source) for source in sources]
    assert all("cannot be read (Permission denied)" in problem for some in problems for problem in some)
    prefix = "NIfTI masks/" if folder == "masks" else "NIfTI "
    assert all(pseudonym(f"{prefix}v{index}.nii.gz") in problem for index, problem in enumerate(problems[0]))
    assert not any("v0" in problem or "v1" in problem for problem in problems[0])
    with pytest.raises(ImageError, match="NIfTI file") as caught:
        load_images(root, 16)
    assert "v0" not in str(caught.value)


def test_a_link_to_itself_is_a_bad_file(make_volumes: MakeVolumes) -> None:
    root = make_volumes()
    (root / "images" / "SMITH.nii").symlink_to("SMITH.nii")
    problem = next(each for each in outcomes(Nifti(root)) if isinstance(each, str))
    assert pseudonym("NIfTI SMITH.nii") in problem
    assert ASTRAY in problem
    assert "SMITH" not in problem
