import gzip
import time
import traceback
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.formats.nifti import intensities as nifti_intensities
from ahm_env.images.formats.nifti import volume as nifti_volume
from ahm_env.images.formats.nifti.intensities import class_numbers, shown
from ahm_env.images.formats.nifti.volume import read_header, read_volume
from ahm_env.images.pixels.window import Window

nibabel = pytest.importorskip("nibabel")

IDENTITY = Window(127.5, 255)
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
PLANTED = "Doe^Jane"


def save(path: Path, values: np.ndarray, affine: Any = None, kind: Any = None, **fields: Any) -> Path:
    """Writes a volume; `fields` go into the header of the file as they are."""
    kind = kind or nibabel.Nifti1Image
    header = kind.header_class()
    header.set_data_dtype(values.dtype)
    image = kind(values, np.eye(4) if affine is None else affine, header)
    nibabel.save(image, path)
    if fields:
        packed = path.suffix.lower() == ".gz"
        content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
        header = type(image.header)(bytes(content[: image.header.sizeof_hdr]), check=False)
        for name, value in fields.items():
            header.structarr[name] = value
        content[: header.sizeof_hdr] = header.binaryblock
        path.write_bytes(gzip.compress(content) if packed else content)
    return path


def decoded(path: Path, window: Window | None = None) -> np.ndarray:
    header = read_header(path)
    return shown(header, read_volume(header), window)


def error_of(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        decoded(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


# voxel (x, y, z) of this volume, in steps to the right, front and top, is 100x + 10y + z
RAS = np.fromfunction(lambda x, y, z: 100 * x + 10 * y + z, (2, 3, 4)).astype(np.int16)
TURN = np.array([[0.9, -0.3, 0.1, 5], [0.3, 0.9, -0.2, 6], [-0.05, 0.2, 1.1, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("stored", "affine"),
    [
        (RAS, np.diag([2, 3, 4, 1])),
        (RAS[::-1, ::-1], np.diag([-1, -1, 1, 1])),  # LPS, as DICOM has it
        (RAS[::-1], np.diag([-1, 2, 3, 1])),
        (RAS.transpose(2, 0, 1), [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]),  # top, right, front
        (RAS[:, ::-1, ::-1].transpose(1, 2, 0), [[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]),
        (RAS, TURN),
        (RAS[::-1].transpose(1, 0, 2), TURN @ [[0, -1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
)
def test_volumes_are_turned_to_right_front_and_top(tmp_path: Path, stored: np.ndarray, affine: Any) -> None:
    path = save(tmp_path / "a.nii.gz", stored, np.array(affine, float))
    header = read_header(path)
    turned = header.to_ras(read_volume(header))
    assert np.array_equal(turned, RAS)
    assert np.array_equal(header.from_ras(turned), stored)
    canonical = nibabel.as_closest_canonical(nibabel.load(path))
    assert header.ras_shape == canonical.shape == (2, 3, 4)
    assert header.ras_affine == pytest.approx(canonical.affine, abs=1e-6)


@settings(max_examples=48)
@given(st.permutations(range(3)), st.tuples(*[st.sampled_from([-1, 1])] * 3), st.booleans())
def test_the_way_back_is_exact(tmp_path_factory: Any, axes: list[int], signs: tuple[int, ...], colour: bool) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, axes] * signs
    values = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 3), np.uint8)
    stored = np.squeeze(values.view(RGB), 3) if colour else values[..., 0]
    header = read_header(save(tmp_path_factory.mktemp("back") / "a.nii", stored, affine))
    found = read_volume(header)
    assert np.array_equal(found, values if colour else values[..., 0])
    assert np.array_equal(header.from_ras(header.to_ras(found)), found)


@pytest.mark.parametrize("kind", ["u1", "i1", "<i2", ">u2", "<i4", ">i8", "u8", "<f4", ">f8"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII.GZ"])
def test_values_are_those_that_nibabel_reads(tmp_path: Path, kind: str, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    save(path, RAS.clip(0, 120).astype(kind), scl_slope=2, scl_inter=-30)
    expected = np.asarray(nibabel.load(path).dataobj)
    assert expected.min() == -30
    assert np.array_equal(decoded(path, IDENTITY), expected.clip(0, 255))


def test_nifti_2_and_big_endian_headers_are_read(tmp_path: Path) -> None:
    second = save(tmp_path / "a.nii.gz", RAS, kind=nibabel.Nifti2Image)
    assert np.array_equal(read_volume(read_header(second)), RAS)
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(nibabel.Nifti1Image(RAS, np.eye(4), header), tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes()[:4] == b"\0\0\x01\x5c"
    assert np.array_equal(read_volume(read_header(tmp_path / "b.nii")), RAS)


def test_a_window_shows_its_range(tmp_path: Path) -> None:
    values = np.array([-1024, -160, 40, 240, 3000], np.int16).reshape(5, 1, 1)
    assert decoded(save(tmp_path / "a.nii", values), Window(40, 400)).ravel().tolist() == [0, 0, 128, 255, 255]


def test_without_a_window_percentiles_of_what_is_no_background_decide(tmp_path: Path) -> None:
    values = np.zeros((10, 10, 21), np.float32)
    values[0, 0, 10:] = -7  # the darkest, as the rest of the background
    values[..., :10] = 1 + np.arange(1000).reshape(10, 10, 10)
    low, high = np.percentile(values[values > -7], (0.5, 99.5))
    expected = ((values - low) / (high - low)).clip(0, 1) * 255
    assert np.array_equal(decoded(save(tmp_path / "a.nii", values)), expected.round())


def test_two_values_are_black_and_white(tmp_path: Path) -> None:
    values = np.where(RAS == 123, 9.5, 3.25).astype(np.float32)
    assert np.array_equal(decoded(save(tmp_path / "a.nii", values)), np.where(RAS == 123, 255, 0))


def test_of_large_volumes_a_sample_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(500, 100, (40, 50, 60)).astype(np.float32)
    path = save(tmp_path / "a.nii", values)
    exact = decoded(path).astype(int)
    monkeypatch.setattr(nifti_intensities, "SAMPLED", 20_000)
    assert np.abs(decoded(path) - exact).max() < 10
    assert np.array_equal(decoded(path), decoded(path))
    rare = np.zeros((40, 50, 60), np.uint8)
    rare[1, 2, 3] = 1
    assert decoded(save(tmp_path / "b.nii", rare)).sum() == 255


def test_what_is_not_finite_is_black_or_white(tmp_path: Path) -> None:
    values = RAS.astype(np.float32)
    values[0, 0, :3] = np.nan, -np.inf, np.inf
    found = decoded(save(tmp_path / "a.nii", values))
    assert found[0, 0, :3].tolist() == [0, 0, 255]
    low, high = np.percentile(np.sort(RAS.ravel())[4:], (0.5, 99.5))  # without the three, and the darkest
    expected = ((RAS - low) / (high - low)).clip(0, 1) * 255
    assert np.array_equal(found.ravel()[3:], expected.round().ravel()[3:])
    save(tmp_path / "b.nii", np.full((2, 3, 4), np.nan))
    assert "holds no finite value" in error_of(tmp_path / "b.nii")


@pytest.mark.parametrize("value", [0, 7, -3e30, 1e-30])
def test_a_constant_volume_is_black(tmp_path: Path, value: float) -> None:
    assert not decoded(save(tmp_path / "a.nii", np.full((2, 3, 4), value, np.float32))).any()


@pytest.mark.filterwarnings("error")
def test_extreme_values_do_no_harm(tmp_path: Path) -> None:
    values = np.linspace(-1.7, 1.7, 24).reshape(2, 3, 4) * 1e308
    found = decoded(save(tmp_path / "a.nii", values)).ravel()
    assert (found[0], found[-1]) == (0, 255)
    assert (np.diff(found.astype(int)) >= 0).all()


def test_colours_stay_as_they_are(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (3, 4, 5, 4), np.uint8)
    three = save(tmp_path / "a.nii.gz", np.squeeze(values[..., :3].copy().view(RGB), 3))
    assert np.array_equal(decoded(three), values[..., :3])
    four = np.squeeze(values.view(np.dtype([*RGB.descr, ("A", "u1")])), 3)
    assert np.array_equal(decoded(save(tmp_path / "b.nii", four)), values[..., :3])


def test_of_a_series_the_first_volume_is_read(tmp_path: Path) -> None:
    values = np.stack([RAS, RAS + 1, RAS + 2], axis=3)
    header = read_header(save(tmp_path / "a.nii.gz", values))
    assert (header.volumes, header.shape) == (3, (2, 3, 4))
    assert np.array_equal(read_volume(header), RAS)
    assert read_header(save(tmp_path / "b.nii", values[..., :1, None])).volumes == 1


def test_a_2d_image_is_one_slice(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", RAS[..., 0])
    assert read_header(path).shape == (2, 3, 1)
    flat = np.diag([1.0, 1, 0, 1])
    header = read_header(save(path, RAS[..., 0], srow_x=flat[0], srow_y=flat[1], srow_z=flat[2], sform_code=1))
    assert header.ras_shape == (2, 3, 1)
    assert np.array_equal(read_volume(header)[..., 0], RAS[..., 0])


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (RAS.astype(np.complex64), "holds complex64, neither real numbers nor RGB"),
        (RAS.reshape(2, 3, 1, 1, 4), r"has shape (2, 3, 1, 1, 4); 2-D, 3-D and 4-D"),
        (RAS.ravel(), "has shape (24,)"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, values: np.ndarray, complaint: str) -> None:
    assert complaint in error_of(save(tmp_path / "a.nii", values))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"dim": [3, 0, 3, 4, 1, 1, 1, 1]}, "has shape"),
        ({"dim": [3, -2, 3, 4, 1, 1, 1, 1]}, "has shape"),
        ({"dim": [3, -1, 1, 1, 1, 1, 1, 1], "glmin": 2**30}, "claims 1073741824x1x1 voxels"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "claims 32767x32767x32767 voxels"),
        ({"dim": [3, 2, 3, 5, 1, 1, 1, 1]}, "more than 400 bytes of file can hold"),
        ({"dim": [4, 2, 3, 4, 2, 1, 1, 1]}, "more than 400 bytes of file can hold"),
        ({"vox_offset": 1e30}, "more than 400 bytes of file can hold"),
        ({"vox_offset": np.nan}, "damaged"),
        ({"vox_offset": np.inf}, "damaged"),
        ({"datatype": 999}, "damaged"),
        ({"datatype": 0}, "damaged"),
        ({"datatype": 2304, "bitpix": 32}, "more than 400 bytes of file can hold"),
        ({"magic": b"ni1"}, "in one piece"),
        ({"scl_inter": np.inf, "scl_slope": 2}, "damaged"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "affine is not finite"),
        ({"srow_x": [0, 0, 0, 0]}, "affine does not say"),
    ],
)
def test_forged_headers_are_refused(tmp_path: Path, fields: dict, complaint: str) -> None:
    path = save(tmp_path / "a.nii", RAS, **fields)
    assert path.stat().st_size == 400
    assert complaint in error_of(path)


def test_a_start_of_zero_is_that_of_the_format(tmp_path: Path) -> None:
    assert np.array_equal(read_volume(read_header(save(tmp_path / "a.nii", RAS, vox_offset=0))), RAS)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, ending: str, share: float) -> None:
    values = np.random.default_rng(0).integers(0, 9999, (20, 20, 20, 2), np.int16)
    path = save(tmp_path / f"a.{ending}", values)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    error_of(path)


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", RAS)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    assert "damaged" in error_of(path)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"P6 1 1 255\n" * 99, gzip.compress(b"no volume" * 99, mtime=0)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("a.nii", "a.nii.gz"):
        (tmp_path / name).write_bytes(content)
        error_of(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in error_of(tmp_path / "a.nii")


@pytest.mark.parametrize("shape", [(100_000, 100_000), (46_000, 46_000), (30_000, 30_000)])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_a_header_that_promises_too_much_is_refused_at_once(
    tmp_path: Path, shape: tuple[int, ...], ending: str
) -> None:
    dim = [2, *shape, 1, 1, 1, 1, 1]
    path = save(tmp_path / f"a.{ending}", RAS.astype(np.uint8), kind=nibabel.Nifti2Image, dim=dim)
    tracemalloc.start()
    start = time.monotonic()
    assert f"{shape[0]}x{shape[1]}" in error_of(path)
    assert time.monotonic() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_no_more_is_unpacked_than_the_header_promises(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", RAS)
    content = path.read_bytes()
    with gzip.open(tmp_path / "b.nii.gz", "wb", compresslevel=1) as file:
        file.write(content)
        for _ in range(100):
            file.write(bytes(2**20))
    tracemalloc.start()
    header = read_header(tmp_path / "b.nii.gz")
    assert np.array_equal(read_volume(header), RAS)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_lack_of_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(nifti_volume, "_skip", fail)
    assert "too large for the memory" in error_of(save(tmp_path / "a.nii", RAS))


def test_without_nibabel_it_is_told_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii", RAS)
    monkeypatch.setitem(__import__("sys").modules, "nibabel.nifti1", None)
    with pytest.raises(SettingsError, match=r"needs nibabel: pip install 'ahm-env\[medical\]'"):
        read_header(path)


def test_class_numbers_are_whole_and_small(tmp_path: Path) -> None:
    values = (RAS % 4).astype(np.float32)
    header = read_header(save(tmp_path / "a.nii", values[::-1], np.diag([-1, 1, 1, 1])))
    found = class_numbers(header, read_volume(header))
    assert (found.dtype, np.array_equal(found, values)) == (np.uint8, True)
    for bad in (values + 0.5, values * 100, values - 1, np.where(values, np.nan, 0)):
        header = read_header(save(tmp_path / "b.nii", bad))
        with pytest.raises(ImageError, match=r"b\.nii: mask holds values that are not class numbers"):
            class_numbers(header, read_volume(header))
    header = read_header(save(tmp_path / "c.nii", np.zeros((2, 3, 4), RGB)))
    with pytest.raises(ImageError, match="mask is in colour"):
        class_numbers(header, read_volume(header))


@pytest.mark.slow
def test_texts_of_the_header_are_told_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture, caplog: Any) -> None:
    image = nibabel.Nifti1Image(RAS, np.eye(4))
    for name in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        image.header[name] = PLANTED
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", PLANTED.encode() * 9))
    nibabel.save(image, tmp_path / "a.nii")
    good = (tmp_path / "a.nii").read_bytes()
    assert good.count(PLANTED.encode()) == 14
    planted = PLANTED[:4].encode()
    told = ""
    for start in range(0, 540, 6):
        (tmp_path / "b.nii").write_bytes(good[:start] + planted + good[start + 4 :])
        for content in ((tmp_path / "b.nii").read_bytes(), good[:start]):
            (tmp_path / "b.nii").write_bytes(content)
            try:
                told += repr(decoded(tmp_path / "b.nii"))
            except ImageError as error:
                told += "".join(traceback.format_exception(error))
    assert "ImageError" in told
    caught = capfd.readouterr()
    for text in (told, caught.out, caught.err, caplog.text):
        assert PLANTED[:4] not in text
    assert caught.err == ""


def test_what_nibabel_mends_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "a.nii", RAS, pixdim=[5, -1, -1, -1, 0, 0, 0, 0], qform_code=77, vox_offset=352.0)
    with path.open("rb") as file:
        nibabel.Nifti1Header.from_fileobj(file)
    assert "pixdim[1,2,3] should be positive" in caplog.text
    caplog.clear()
    assert np.array_equal(read_volume(read_header(path)), RAS)
    assert not caplog.records


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder, values = tmp_path_factory.mktemp("mutated"), np.random.default_rng(0).integers(0, 99, (5, 6, 7), np.int16)
    files = [
        save(folder / "a.nii", values, TURN),
        save(folder / "b.nii", values, kind=nibabel.Nifti2Image),
        save(folder / "c.nii", np.stack([values, values], 3).astype(np.float32)),
    ]
    return [file.read_bytes() for file in files]


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@settings(max_examples=100)
@given(data=st.data(), packed=st.sampled_from(["no", "before", "after"]), which=st.integers(0, 2))
def test_mutated_bytes_give_an_error_or_a_volume(
    tmp_path_factory: Any, originals: list[bytes], data: st.DataObject, packed: str, which: int
) -> None:
    content = bytearray(gzip.compress(originals[which], mtime=0) if packed == "before" else originals[which])
    places = st.one_of(st.integers(0, min(539, len(content) - 1)), st.integers(0, len(content) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6)):
        content[place] = value
    path = tmp_path_factory.mktemp("mutated") / ("a.nii" if packed == "no" else "a.nii.gz")
    path.write_bytes(gzip.compress(content, mtime=0) if packed == "after" else content)
    complaint = ""
    try:
        found = decoded(path)
    except ImageError as error:
        complaint = str(error)
    assert "\n" not in complaint
    assert complaint or (found.dtype == np.uint8 and found.shape[:3] == read_header(path).ras_shape)
