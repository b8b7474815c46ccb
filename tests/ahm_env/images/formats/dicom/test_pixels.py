import logging
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ahm_env.errors import ImageError
from ahm_env.images.pixels.fit import to_uint8
from ahm_env.images.pixels.window import Window

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels import apply_color_lut  # noqa: E402

from ahm_env.images.formats.dicom import dicom_file, pixels  # noqa: E402
from ahm_env.images.formats.dicom.dicom_file import quiet  # noqa: E402
from ahm_env.images.formats.dicom.header import read_header  # noqa: E402
from ahm_env.images.formats.dicom.pixels import read_frame  # noqa: E402

FILES = Path(pydicom.__file__).parent / "data"
SAMPLES = FILES / "test_files"
EXPLICIT, DEFLATED, MPEG2, RLE = (f"1.2.840.10008.1.2.{ending}" for ending in ("1", "1.99", "4.100", "5"))


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        quiet()
        yield


def stored(name: str, index: int | None = None) -> np.ndarray:
    with warnings.catch_warnings(action="ignore"):
        return pydicom.pixels.pixel_array(SAMPLES / name, index=index)


def row(*values: float, kind: type = np.int16) -> np.ndarray:
    return np.array([values], kind)


def sequence(**elements: object) -> list[Dataset]:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return [item]


def table(values: np.ndarray, first: int, bits: int) -> list[Dataset]:
    (item,) = sequence(LUTDescriptor=[len(values), first, bits], LUTData=values.astype("<u2").tobytes())
    item["LUTData"].VR = "OW"
    return [item]


@pytest.mark.slow
def test_every_file_of_pydicom_decodes_or_is_refused_in_one_line(capfd: pytest.CaptureFixture) -> None:
    decoded, errors, heard = 0, list[str](), Heard()
    logging.getLogger().addHandler(heard)
    with warnings.catch_warnings(record=True, action="always") as seen:
        quiet()
        for path in sorted(path for path in FILES.rglob("*") if path.is_file() and path.suffix != ".pyc"):
            start = time.process_time()
            try:
                for index in range(min(3, read_header(path).frames)):
                    image = to_uint8(read_frame(path, index))
                    assert image.ndim == 2 or image.shape[2:] == (3,)
                    decoded += 1
            except ImageError as error:
                errors.append(str(error))
            assert time.process_time() - start < 5, path
    logging.getLogger().removeHandler(heard)
    assert decoded > 90
    assert all(";" in error and "\n" not in error and str(FILES) not in error for error in errors)
    assert not seen
    assert not heard.records
    assert capfd.readouterr() == ("", "")


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_values_are_rescaled() -> None:
    image = read_frame(SAMPLES / "CT_small.dcm")
    assert image.dtype == np.float32
    assert np.array_equal(image, stored("CT_small.dcm") - 1024.0)


@pytest.mark.parametrize(
    "ending", ["_RLE", "_bigendian", "_expb", "_implicit", "_jp2klossless", "_jpeg_ls_lossless", "_padded"]
)
def test_the_same_image_is_the_same_however_it_is_encoded(ending: str) -> None:
    image = read_frame(SAMPLES / "MR_small.dcm")
    values = stored("MR_small.dcm").astype(float)
    # PS3.3 C.11.2.1.2.1 with centre 600 and width 1600
    shown = ((values - 599.5) / 1599 + 0.5) * 255
    shown[values <= 599.5 - 799.5], shown[values > 599.5 + 799.5] = 0, 255
    assert np.array_equal(image, shown.round())
    assert np.array_equal(read_frame(SAMPLES / f"MR_small{ending}.dcm"), image)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("examples_rgb_color.dcm", 0),
        ("SC_rgb_rle_2frame.dcm", 0),
        ("SC_rgb_small_odd_big_endian.dcm", 0),
        ("SC_rgb_jpeg_gdcm.dcm", 0),
        ("SC_ybr_full_422_uncompressed.dcm", 0),
        ("GDCMJ2K_TextGBR.dcm", 0),
        ("examples_jpeg2k.dcm", 0),
        ("SC_rgb_jls_lossy_line.dcm", 0),
        ("SC_rgb_jls_lossy_sample.dcm", 0),
        ("SC_rgb_jpeg_dcmtk.dcm", 2),
        ("examples_ybr_color.dcm", 3),
    ],
)
def test_colours_are_those_of_pydicom(name: str, most: int) -> None:
    image = read_frame(SAMPLES / name)
    expected = stored(name, 0)
    assert image.dtype == np.uint8
    # Decoders of lossy JPEG round differently.
    assert np.abs(image.astype(int) - expected).max() <= most


def test_grey_jpeg_of_twelve_bits_and_near_lossless_jpeg_ls() -> None:
    for name in ("JPGExtended.dcm", "JPEGLSNearLossless_16.dcm", "JPEGLSNearLossless_08.dcm", "JPEG2000.dcm"):
        assert np.array_equal(read_frame(SAMPLES / name), stored(name))


def test_each_frame_is_its_own() -> None:
    frames = [read_frame(SAMPLES / "examples_ybr_color.dcm", index) for index in (0, 14, 29)]
    for index, frame in zip((0, 14, 29), frames, strict=True):
        assert np.abs(frame.astype(int) - stored("examples_ybr_color.dcm", index)).max() <= 3
    assert len({frame.tobytes() for frame in frames}) == 3


def test_a_palette_gives_colours() -> None:
    dataset = pydicom.dcmread(SAMPLES / "examples_palette.dcm")
    expected = (apply_color_lut(dataset.pixel_array, dataset) / 257).round()
    assert np.array_equal(read_frame(SAMPLES / "examples_palette.dcm"), expected)


def test_a_palette_may_begin_anywhere_and_have_more_colours_than_a_byte_counts(tmp_path: Path, make_dicom) -> None:
    colours = {
        f"{name}PaletteColorLookupTable{part}": value
        for scale, name in enumerate(("Red", "Green", "Blue"))
        for part, value in (
            ("Descriptor", [300, 100, 16]),
            ("Data", (np.arange(300) * 257 // 2 * scale // 2).clip(0, 65535).astype("<u2").tobytes()),
        )
    }
    pixels = row(0, 100, 110, 399, 5000, kind=np.uint16)
    path = make_dicom(tmp_path / "a", pixels, PhotometricInterpretation="PALETTE COLOR", **colours)
    expected = [[0, 0, 0], [0, 0, 0], [0, 2, 5], [0, 75, 150], [0, 75, 150]]
    assert np.abs(read_frame(path)[0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        # PS3.3 C.11.2.1.2.1: black up to 40 - 0.5 - 399/2 = -160, white above 239
        ({}, [0, 0, 128, 191, 255, 255]),
        ({"VOILUTFunction": "LINEAR"}, [0, 0, 128, 191, 255, 255]),
        # C.11.2.1.3.2: (x + 160) / 400
        ({"VOILUTFunction": "LINEAR_EXACT"}, [0, 0, 128, 191, 254, 255]),
        # C.11.2.1.3.1: 1 / (1 + exp(-4 (x - 40) / 400))
        ({"VOILUTFunction": "SIGMOID"}, [0, 30, 128, 186, 224, 255]),
        ({"WindowCenter": [40, -600], "WindowWidth": [400, 1500]}, [0, 0, 128, 191, 255, 255]),
        ({"WindowWidth": 1}, [0, 0, 255, 255, 255, 255]),
        ({"PhotometricInterpretation": "MONOCHROME1"}, [255, 255, 127, 64, 0, 0]),
    ],
)
def test_windows_are_those_of_the_standard(tmp_path: Path, make_dicom, elements: dict, expected: list[int]) -> None:
    pixels = row(-2000, -160, 40, 139, 239, 2000)
    path = make_dicom(tmp_path / "a.dcm", pixels, **{"WindowCenter": 40, "WindowWidth": 400} | elements)
    image = read_frame(path)
    assert image.dtype == np.uint8
    assert image.tolist() == [expected]


def test_a_window_comes_after_rescaling(tmp_path: Path, make_dicom) -> None:
    elements = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 40.5, "WindowWidth": 401}
    path = make_dicom(tmp_path / "a.dcm", row(420, 520, 620, kind=np.uint16), **elements)
    assert read_frame(path).tolist() == [[0, 128, 255]]


def test_a_window_that_is_given_comes_before_that_of_the_file(tmp_path: Path, make_dicom) -> None:
    path = make_dicom(tmp_path / "a.dcm", row(0, 100, 200), WindowCenter=5000, WindowWidth=10)
    assert read_frame(path, window=Window(100, 200)).tolist() == [[0, 128, 255]]
    path = make_dicom(tmp_path / "b.dcm", row(0, 100, 200), PhotometricInterpretation="MONOCHROME1")
    assert read_frame(path, window=Window(100, 200)).tolist() == [[255, 127, 0]]


def test_a_window_does_not_touch_colours(tmp_path: Path, make_dicom) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    path = make_dicom(tmp_path / "a.dcm", pixels, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    assert np.array_equal(read_frame(path, window=Window(5, 1)), pixels)


@pytest.mark.parametrize("width", [0, -5, None])
def test_a_window_without_width_is_none(tmp_path: Path, make_dicom, width: int | None) -> None:
    path = make_dicom(tmp_path / "a.dcm", row(-30000, 7, 30000), WindowCenter=40, WindowWidth=width)
    image = read_frame(path)
    assert image.dtype == np.int16
    assert image.tolist() == [[-30000, 7, 30000]]


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"PixelPaddingValue": -2000}, [10, 10, 1999, 500]),
        ({"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": 10}, [500, 500, 1999, 500]),
        ({"PixelPaddingValue": -2000, "PhotometricInterpretation": "MONOCHROME1"}, [-2000, -11, -2000, -501]),
        ({"PixelPaddingValue": -2000, "RescaleSlope": 2}, [20, 20, 3998, 1000]),
        ({"PixelPaddingValue": -2000, "WindowCenter": 10.5, "WindowWidth": 3981}, [0, 128, 255, 159]),
    ],
)
def test_padding_does_not_squeeze_what_is_shown(
    tmp_path: Path, make_dicom, elements: dict, expected: list[int]
) -> None:
    path = make_dicom(tmp_path / "a.dcm", row(-2000, 10, 1999, 500), **elements)
    assert read_frame(path).tolist() == [expected]


@pytest.mark.parametrize(
    ("kind", "low", "high"), [(np.int16, -32768, 32767), (np.uint16, 0, 65535), (np.uint8, 0, 255)]
)
def test_where_low_is_white_the_order_is_turned(tmp_path: Path, make_dicom, kind: type, low: int, high: int) -> None:
    pixels = row(low, 5, high, kind=kind)
    path = make_dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1")
    image = read_frame(path)
    assert image.dtype == kind
    assert image.tolist() == [[high, high + low - 5, low]]
    rescaled = make_dicom(tmp_path / "b.dcm", pixels, PhotometricInterpretation="MONOCHROME1", RescaleSlope=3)
    assert read_frame(rescaled).tolist() == [[-3 * low, -15, -3 * high]]


def test_few_bits_are_stretched_to_eight(tmp_path: Path, make_dicom) -> None:
    path = make_dicom(tmp_path / "a.dcm", row(0, 21, 63, kind=np.uint8), BitsStored=6, HighBit=5)
    assert read_frame(path).tolist() == [[0, 85, 255]]
    bits = make_dicom(tmp_path / "b.dcm", np.zeros((1, 8), np.uint8), BitsAllocated=1, BitsStored=1, HighBit=0)
    content = bits.read_bytes()
    bits.write_bytes(content[:-8] + bytes([0b00000101]) + content[-7:])
    assert read_frame(bits).tolist() == [[255, 0, 255, 0, 0, 0, 0, 0]]


def test_sixteen_bits_a_colour_become_eight(tmp_path: Path, make_dicom) -> None:
    pixels = np.array([[[0, 32896, 65535]]], np.uint16)
    path = make_dicom(tmp_path / "a.dcm", pixels, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    assert read_frame(path).tolist() == [[[0, 128, 255]]]


def test_tables_take_the_place_of_rescaling_and_windows(tmp_path: Path, make_dicom) -> None:
    squares = table(np.arange(10) ** 2, 5, 16)
    path = make_dicom(tmp_path / "a.dcm", row(-3, 5, 7, 14, 99), ModalityLUTSequence=squares)
    assert read_frame(path).tolist() == [[0, 0, 4, 81, 81]]
    look = table(np.array([0, 100, 1023]), -1, 10)
    path = make_dicom(tmp_path / "b.dcm", row(-3, -1, 0, 1, 9), VOILUTSequence=look, WindowCenter=1, WindowWidth=1)
    assert read_frame(path).tolist() == [[0, 0, 25, 255, 255]]


@pytest.mark.parametrize(("entries", "first"), [(2048, -1024), (2048, -1), (0, -(2**15)), (1024, 2**16 - 1024)])
def test_a_table_may_begin_below_zero_whatever_type_its_beginning_has(
    tmp_path: Path, make_dicom, entries: int, first: int
) -> None:
    rows = np.arange(entries or 2**16, dtype=np.uint16)
    (look,) = table(rows, 0, 16)
    look["LUTDescriptor"].VR = "US"
    look.LUTDescriptor = [entries, first % 2**16, 16]
    rescale = {"RescaleSlope": 1, "RescaleIntercept": first}
    pixels = rows.reshape(-1, 256)
    path = make_dicom(tmp_path / "a.dcm", pixels, VOILUTSequence=[look], **rescale)
    assert np.array_equal(read_frame(path), (pixels / 257).round())


def test_frames_have_their_own_rescaling_or_share_one(tmp_path: Path, make_dicom) -> None:
    def transformed(slope: float, intercept: float) -> list[Dataset]:
        return sequence(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")

    window = sequence(WindowCenter=50, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
    first = sequence(PixelValueTransformationSequence=transformed(2, 0))
    second = sequence(FrameVOILUTSequence=window)
    shared = sequence(PixelValueTransformationSequence=transformed(10, 1))
    path = make_dicom(
        tmp_path / "a.dcm",
        np.stack([row(0, 5)] * 3),
        PerFrameFunctionalGroupsSequence=first + second,
        SharedFunctionalGroupsSequence=shared,
        RescaleSlope=1000,
    )
    # The third has no group of its own.
    assert [read_frame(path, index).tolist() for index in range(3)] == [[[0, 10]], [[3, 130]], [[1, 51]]]


def test_floats_are_read(tmp_path: Path, make_dicom) -> None:
    pixels = row(-1.5, np.nan, 1e30, kind=np.float32)
    path = make_dicom(
        tmp_path / "a.dcm", pixels, PixelData=None, FloatPixelData=pixels.tobytes(), BitsStored=None, HighBit=None
    )
    assert np.array_equal(read_frame(path), pixels, equal_nan=True)


def test_a_deflated_file_is_read_and_a_bomb_is_not(tmp_path: Path, make_dicom, monkeypatch) -> None:
    monkeypatch.setattr(dicom_file, "MOST_INFLATED", 2**20)
    pixels = np.arange(4096, dtype=np.int16).reshape(64, 64)
    path = make_dicom(tmp_path / "a.dcm", pixels, DEFLATED)
    assert path.stat().st_size < 8192
    assert np.array_equal(read_frame(path), pixels)
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    bomb = zlib.compressobj(9, wbits=-15)
    zeros = bytes(2**20)
    path.write_bytes(content[:start] + b"".join(bomb.compress(zeros) for _ in range(3)) + bomb.flush())
    assert refused(path) == "inflates to more than 1,048,576 bytes; export it without compression"


def refused(path: Path) -> str:
    """Why a file is refused, within a second and without allocating much."""
    import resource

    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ImageError) as caught:
        read_frame(path)
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("elements", "complaint"),
    [
        ({"Rows": 65535, "Columns": 65535}, "65535x65535 pixels are more than 100,000,000"),
        ({"Rows": 9000, "Columns": 9000}, "1 images of 9000x9000 pixels need 162,000,000 bytes or more, it has 6"),
        ({"Rows": 0}, "Rows, Columns, Samples per Pixel or Bits Allocated is missing or 0"),
        ({"Columns": None}, "Rows, Columns, Samples per Pixel or Bits Allocated is missing or 0"),
        ({"NumberOfFrames": 2**31 - 1}, "Number of Frames is not in 1..100,000"),
        ({"NumberOfFrames": -1}, "Number of Frames is not in 1..100,000"),
        ({"NumberOfFrames": 99_999}, "99999 images of 3x1 pixels need"),
        ({"BitsStored": 99}, "its pixels cannot be decoded: damaged"),
        ({"PhotometricInterpretation": "RGB"}, "Samples per Pixel and Photometric Interpretation contradict"),
        ({"PhotometricInterpretation": "Mueller"}, "its pixels cannot be decoded: damaged"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "its header cannot be read: damaged"),
        ({"RescaleSlope": 0}, "its rescale slope is 0 or no number"),
        ({"PixelData": None}, "its pixels are missing"),
        ({"PixelData": None, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}, "it holds no image; take it out"),
        ({"syntax": "1.2.840.113619.5.2"}, "encoded in a private or unknown way"),
        ({"syntax": MPEG2, "PixelData": encapsulate([b"a" * 50])}, "compressed as MPEG2 Main Profile / Main Level, "),
        ({"syntax": RLE, "PixelData": encapsulate([b"a" * 100])}, "its pixels cannot be decoded: damaged"),
    ],
)
def test_headers_that_cannot_be_true_are_refused(tmp_path: Path, make_dicom, elements: dict, complaint: str) -> None:
    assert refused(make_dicom(tmp_path / "a.dcm", row(1, 2, 3), **elements)).startswith(complaint)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.95])
@pytest.mark.parametrize(
    "name", ["CT_small", "JPEG2000", "MR_small_RLE", "MR_small_jpeg_ls_lossless", "SC_rgb_jpeg_gdcm"]
)
def test_truncated_files_are_refused(tmp_path: Path, name: str, share: float) -> None:
    content = (SAMPLES / f"{name}.dcm").read_bytes()
    path = tmp_path / "a.dcm"
    path.write_bytes(content[: int(len(content) * share)])
    refused(path)


def test_what_is_compressed_to_another_size_is_not_given_to_a_decoder(tmp_path: Path, monkeypatch) -> None:
    content = (SAMPLES / "JPEG2000.dcm").read_bytes()
    size = bytes.fromhex("ff4f ff51 0029 0000 00000100 00000400")
    assert content.count(size) == 1
    path = tmp_path / "a.dcm"
    path.write_bytes(content.replace(size, size[:8] + bytes.fromhex("00ffffff 00ffffff")))
    monkeypatch.setattr(pixels, "_plugins", None)
    assert refused(path).startswith("16777215x16777215x1 pixels are compressed but the header says 256x1024x1")


def test_a_missing_decoder_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "OTHERWISE", ())
    text = refused(SAMPLES / "SC_rgb_jpeg_gdcm.dcm")
    assert text.startswith("compressed as JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 ")
    assert text.endswith("for which no decoder is installed; pip install 'ahm-env[medical]'")


@pytest.mark.parametrize(
    "name",
    [
        "MR_small",
        "MR_small_RLE",
        "MR_small_jp2klossless",
        "MR_small_jpeg_ls_lossless",
        "SC_rgb_jpeg_dcmtk",
        "SC_rgb_jpeg_gdcm",
        "SC_rgb_small_odd_big_endian",
    ],
)
# The same examples each time: the decoders of compressed images are other people's C.
@settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_give_an_image_or_an_image_error(tmp_path: Path, name: str, data: st.DataObject) -> None:
    content = bytearray((SAMPLES / f"{name}.dcm").read_bytes())
    places = st.integers(0, len(content) - 1) | st.integers(0, min(len(content), 3000) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        content[place] = value
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with suppress(ImageError):
        image = to_uint8(read_frame(path))
        assert image.ndim == 2 or image.shape[2:] == (3,)


@pytest.mark.slow
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200))
def test_random_bytes_after_the_mark_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(bytes(128) + b"DICM" + content)
    with pytest.raises(ImageError):
        read_frame(path)


IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
JPEG_LOSSLESS, JPEG_LS, JPEG_2000 = (f"1.2.840.10008.1.2.4.{number}" for number in (70, 80, 90))
PLAIN = np.random.default_rng(5).integers(0, 4096, (17, 22), np.uint16)


def of_pydicom(path: Path) -> np.ndarray:
    with warnings.catch_warnings(action="ignore"):
        return pydicom.dcmread(path, force=True).pixel_array


@pytest.mark.parametrize("pixels", [PLAIN, np.stack([PLAIN, PLAIN // 2]), PLAIN.astype(np.uint8)])
def test_pixels_begin_where_they_do_in_the_encoding_found(tmp_path: Path, make_dicom, pixels: np.ndarray) -> None:
    explicit = make_dicom(tmp_path / "a.dcm", pixels)
    declared = explicit.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0")
    explicit.write_bytes(declared)
    implicit = tmp_path / "b.dcm"
    with warnings.catch_warnings(action="ignore"):
        dataset = pydicom.dcmread(explicit)
        dataset.file_meta.TransferSyntaxUID = IMPLICIT
        plain = Dataset()
        plain.update(dataset)
        plain.file_meta = dataset.file_meta
        plain.save_as(implicit, implicit_vr=True, little_endian=True, enforce_file_format=True)
    content = implicit.read_bytes()
    assert b"1.2.840.10008.1.2\0" in content
    wrong = tmp_path / "c.dcm"
    dataset.file_meta.TransferSyntaxUID = EXPLICIT
    head = explicit_head(dataset)
    wrong.write_bytes(head + content[content.index(b"\x08\x00\x16\x00") :])
    for path in (explicit, implicit, wrong):
        for index, frame in enumerate(pixels if pixels.ndim == 3 else pixels[None]):
            assert np.array_equal(read_frame(path, index), frame), path
        assert np.array_equal(of_pydicom(path), pixels), path


def explicit_head(dataset: Dataset) -> bytes:
    stream = pydicom.filebase.DicomBytesIO()
    stream.write(bytes(128) + b"DICM")
    pydicom.filewriter.write_file_meta_info(stream, dataset.file_meta)
    return bytes(stream.getvalue())


@pytest.mark.parametrize("vr", ["OB", "OW"])
@pytest.mark.parametrize("shape", [(16, 22), (17, 23), (3, 17, 23)])
def test_bytes_of_big_endian_words_are_in_their_order(
    tmp_path: Path, make_dicom, shape: tuple[int, ...], vr: str
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    content = pixels.tobytes() + b"\0" * (pixels.size % 2)
    if vr == "OW":
        path = make_dicom(tmp_path / "a.dcm", pixels, BIG_ENDIAN, little=False)
        swapped = np.frombuffer(content, "<u2").byteswap().tobytes()
        path.write_bytes(path.read_bytes().replace(content, swapped))
    else:
        path = make_dicom(tmp_path / "a.dcm", pixels, BIG_ENDIAN, little=False, PixelData=content)
    assert np.array_equal(of_pydicom(path), pixels)
    for index, frame in enumerate(pixels if pixels.ndim == 3 else pixels[None]):
        assert np.array_equal(read_frame(path, index), frame)


@pytest.mark.parametrize("high", [11, 13, 15])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_bits_are_taken_from_below_the_highest(tmp_path: Path, make_dicom, kind: type, high: int) -> None:
    values = PLAIN.astype(kind) - (2048 if kind == np.int16 else 0)
    shifted = (values.astype(np.int32) << (high - 11)).astype(kind)
    path = make_dicom(tmp_path / "a.dcm", shifted, BitsStored=12, HighBit=high)
    assert np.array_equal(read_frame(path), values)
    if high == 11:
        assert np.array_equal(of_pydicom(path), values)


def in_rle(cells: np.ndarray) -> bytes:
    from pydicom.pixels.encoders import RLELosslessEncoder

    names = ("rows", "columns", "samples_per_pixel", "bits_allocated", "bits_stored", "pixel_representation")
    about = dict(zip(names, (*cells.shape, 1, 16, 16, 0), strict=True))
    return RLELosslessEncoder.encode(cells, photometric_interpretation="MONOCHROME2", number_of_frames=1, **about)


def in_jpeg_ls(cells: np.ndarray, bits: int = 16) -> bytes:
    return bytes(pytest.importorskip("jpeg_ls").encode_buffer(cells.tobytes(), *cells.shape, 1, bits, 0, 0))


def in_jpeg_2000(cells: np.ndarray, bits: int = 16) -> bytes:
    return imagecodecs.jpeg2k_encode(cells, level=0, codecformat="j2k", bitspersample=bits)


@pytest.mark.parametrize("high", [11, 14, 15])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (RLE, in_rle),
        (JPEG_LOSSLESS, lambda cells: imagecodecs.ljpeg_encode(cells, bitspersample=16)),
        (JPEG_LS, in_jpeg_ls),
        (JPEG_2000, in_jpeg_2000),
    ],
)
def test_bits_beside_those_that_are_used_show_nothing_however_they_are_compressed(
    tmp_path: Path, make_dicom, syntax: str, encode, kind: type, high: int
) -> None:
    values = PLAIN.astype(kind) - (2048 if kind == np.int16 else 0)
    used = (values.view(np.uint16) & 0xFFF) << (high - 11)
    overlay = 0 if high == 15 or kind == np.int16 else 1 << 15
    frame = encapsulate([encode(used | np.uint16(overlay))])
    path = make_dicom(tmp_path / "a.dcm", values, syntax, PixelData=frame, BitsStored=12, HighBit=high)
    assert np.array_equal(read_frame(path), values)


@pytest.mark.parametrize(("syntax", "encode"), [(JPEG_LS, in_jpeg_ls), (JPEG_2000, in_jpeg_2000)])
def test_where_only_what_is_used_is_compressed_it_is_not_moved(tmp_path: Path, make_dicom, syntax: str, encode) -> None:
    frame = encapsulate([encode(PLAIN, bits=12)])
    path = make_dicom(tmp_path / "a.dcm", PLAIN, syntax, PixelData=frame, BitsStored=12, HighBit=15)
    assert np.array_equal(read_frame(path), PLAIN)


@pytest.mark.parametrize("tail", [b"\0", b" ", b"  ", b"\0\0\xa2\x8a", b"abc\xff\xd9", bytes(1000)])
@pytest.mark.parametrize("name", ["SC_rgb_jpeg_gdcm.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_what_follows_the_end_of_a_frame_is_no_part_of_it(tmp_path: Path, name: str, tail: bytes) -> None:
    with warnings.catch_warnings(action="ignore"):
        dataset = pydicom.dcmread(SAMPLES / name)
        (frame,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
        end = frame.rindex(b"\xff\xd9") + 2
        dataset.PixelData = encapsulate([frame[:end] + tail])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(tmp_path / "a.dcm")
    assert np.array_equal(read_frame(tmp_path / "a.dcm"), read_frame(SAMPLES / name))


def jpeg_ls(tmp_path: Path, change: object) -> Path:
    with warnings.catch_warnings(action="ignore"):
        dataset = pydicom.dcmread(SAMPLES / "MR_small_jpeg_ls_lossless.dcm")
        (frame,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
        dataset.PixelData = encapsulate([change(frame[: frame.rindex(b"\xff\xd9") + 2])])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(tmp_path / "a.dcm")
    return tmp_path / "a.dcm"


@pytest.mark.parametrize("stuffed", [b"\0", bytes(4)])
def test_jpeg_ls_that_one_decoder_fails_on_is_read_by_another(tmp_path: Path, stuffed: bytes) -> None:
    path = jpeg_ls(tmp_path, lambda frame: frame[:-2] + stuffed + frame[-2:])
    assert np.array_equal(read_frame(path), read_frame(SAMPLES / "MR_small_jpeg_ls_lossless.dcm"))


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_what_the_other_decoder_of_jpeg_ls_invents_is_refused(tmp_path: Path, place: float) -> None:
    def flip(frame: bytes) -> bytes:
        at = int(len(frame) * place)
        return frame[:at] + bytes([frame[at] ^ 16]) + frame[at + 1 :]

    assert refused(jpeg_ls(tmp_path, flip)).startswith("its pixels cannot be decoded")


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("elements", [{}, {"LUTDescriptor": None, "LUTData": None}])
def test_an_empty_item_is_an_absent_one(tmp_path: Path, make_dicom, keyword: str, elements: dict[str, None]) -> None:
    item = Dataset()
    for name in elements:
        item.add_new(name, "SS" if name == "LUTDescriptor" else "OW", None)
    window = {"WindowCenter": 2000, "WindowWidth": 3000, "RescaleSlope": 2, "RescaleIntercept": 1}
    path = make_dicom(tmp_path / "a.dcm", PLAIN, **window)
    odd = make_dicom(tmp_path / "b.dcm", PLAIN, **window, **{keyword: [item]})
    assert np.array_equal(read_frame(odd), read_frame(path))
    groups = {"SharedFunctionalGroupsSequence": sequence(FrameVOILUTSequence=[item])}
    assert np.array_equal(read_frame(make_dicom(tmp_path / "c.dcm", PLAIN, **window, **groups)), read_frame(path))
