import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ahm_env.errors import ImageError
from ahm_env.images.formats.pictures.picture import SEVERAL, TURNED, read_mask, read_picture
from ahm_env.images.formats.pictures.tiff import read_tiff

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 48), np.uint8)
COLOURS = RNG.integers(0, 256, (40, 48, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (40, 48, 3), np.uint16)
# Of values: the type, the bits, the colour interpretation.
BLACK, WHITE, RGB = "minisblack", "miniswhite", "rgb"


def written(path: Path, pixels: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


def refused(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_picture(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("layout", ["strips", "tiles", "planes", "tiled planes"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float16, np.float32])
def test_colours_are_read_in_every_layout(
    tmp_path: Path, kind: type, layout: str, bigtiff: bool, byteorder: str
) -> None:
    colours = (DEEP // 256).astype(kind)
    separate = "planes" in layout
    options = {"tile": (16, 16)} if "tile" in layout else {"rowsperstrip": 7}
    path = written(
        tmp_path / "a.tif",
        colours.transpose(2, 0, 1) if separate else colours,
        photometric=RGB,
        planarconfig="separate" if separate else "contig",
        bigtiff=bigtiff,
        byteorder=byteorder,
        **options,
    )
    found = read_picture(path).pixels
    assert found.dtype == kind
    assert np.array_equal(found, colours)


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("compression", ["lzw", "deflate", "adobe_deflate", "packbits", "lzma", "zstd"])
def test_what_is_compressed_without_loss_is_read(tmp_path: Path, compression: str, predictor: bool) -> None:
    path = written(tmp_path / "a.tif", DEEP, compression=compression, predictor=predictor, photometric=RGB)
    assert np.array_equal(read_picture(path).pixels, DEEP)


def test_jpeg_2000_and_jpeg_in_tiff_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", GREY, compression="jpeg2000", compressionargs={"reversible": True, "level": 0})
    assert np.array_equal(read_picture(path).pixels, GREY)
    smooth = np.asarray(Image.fromarray(COLOURS[:4, :6]).resize((48, 40), Image.Resampling.BICUBIC))
    path = written(tmp_path / "b.tif", smooth, compression="jpeg", photometric=RGB, compressionargs={"level": 98})
    assert np.abs(read_picture(path).pixels.astype(int) - smooth).mean() < 4


@pytest.mark.parametrize("compression", ["webp", "jpegxl", "lerc", "png"])
def test_other_compressions_are_named(tmp_path: Path, compression: str) -> None:
    text = refused(written(tmp_path / "a.tif", COLOURS, compression=compression, photometric=RGB))
    assert f"compressed as {compression.upper()}, which is not read; export it again as PNG" in text


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_bits_between_8_and_16_keep_their_values(tmp_path: Path, bits: int) -> None:
    values = (DEEP[..., 0] >> (16 - bits)).astype(np.uint16)
    path = tmp_path / "a.tif"
    path.write_bytes(packed(values, bits))
    assert np.array_equal(read_picture(path).pixels, values)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_shown_over_the_whole_range(tmp_path: Path, bits: int) -> None:
    values = GREY >> (8 - bits)
    path = tmp_path / "a.tif"
    path.write_bytes(packed(values, bits))
    assert np.array_equal(read_picture(path).pixels, values * (255 // (2**bits - 1)))


def packed(values: np.ndarray, bits: int, photometric: int = 1, table: np.ndarray | None = None) -> bytes:
    """A TIFF of one strip whose rows are bits without gaps, filled up to bytes; maybe with a table of colours."""
    ones = (values[..., None].astype(int) >> np.arange(bits)[::-1]) & 1
    strip = np.packbits(ones.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()
    height, width = values.shape
    colours = b"" if table is None else table.astype("<u2").tobytes()
    end = 8 + 2 + (9 + bool(colours)) * 12 + 4
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 4, 1, bits), (259, 4, 1, 1), (262, 4, 1, photometric)]
    entries += [(273, 4, 1, end + len(colours)), (277, 4, 1, 1), (278, 4, 1, height), (279, 4, 1, len(strip))]
    entries += [(320, 3, len(colours) // 2, end)] * bool(colours)
    tags = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + bytes(4) + colours + strip


@pytest.mark.parametrize(("values", "shown"), [
    (GREY, 255 - GREY),
    (DEEP[..., 0], 65535 - DEEP[..., 0]),
    (GREY.astype(np.float32), -1 - GREY.astype(np.float32)),
])  # fmt: skip
def test_where_white_is_zero_values_are_turned_round(tmp_path: Path, values: np.ndarray, shown: np.ndarray) -> None:
    assert np.array_equal(read_picture(written(tmp_path / "a.tif", values, photometric=WHITE)).pixels, shown)


@pytest.mark.parametrize("bits", [1, 12])
def test_packed_values_of_which_zero_is_white_are_turned_round(tmp_path: Path, bits: int) -> None:
    values = (DEEP[..., 0] >> (16 - bits)).astype(np.uint16)
    (tmp_path / "a.tif").write_bytes(packed(values, bits, 0))
    assert np.array_equal(read_picture(tmp_path / "a.tif").pixels, (2**bits - 1 - values) * (255 if bits == 1 else 1))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("colours", [1, 3])
def test_alpha_is_left_out_as_in_png(tmp_path: Path, kind: type, colours: int) -> None:
    stored = (DEEP[..., :colours] >> (0 if kind == np.uint16 else 8)).astype(kind)
    alpha = RNG.integers(0, np.iinfo(kind).max, (40, 48, 1), kind)
    path = written(
        tmp_path / "a.tif",
        np.concatenate([stored, alpha], -1),
        photometric=RGB if colours == 3 else BLACK,
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    assert np.array_equal(read_picture(path).pixels, stored if colours == 3 else stored[..., 0])


def test_colours_that_alpha_was_multiplied_into_are_divided_by_it(tmp_path: Path) -> None:
    alpha = RNG.integers(100, 256, (40, 48, 1))
    multiplied = (COLOURS * alpha / 255).round()
    stored = np.concatenate([multiplied, alpha], -1).astype(np.uint8)
    path = written(tmp_path / "a.tif", stored, photometric=RGB, extrasamples=["assocalpha"])
    assert np.abs(read_picture(path).pixels.astype(int) - COLOURS).max() <= 2


def test_samples_that_are_not_said_what_they_are_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", DEEP[..., :2], photometric=BLACK, planarconfig="contig")
    assert "has 2 samples a pixel, and does not say what they are; export one of them in grey" in refused(path)


def test_cmyk_is_shown_in_rgb(tmp_path: Path) -> None:
    inks = np.zeros((2, 3, 4), np.uint8)
    inks[..., 0], inks[1, :, 3] = 255, 255
    Image.frombytes("CMYK", (3, 2), inks.tobytes()).save(tmp_path / "a.tif")
    assert read_picture(tmp_path / "a.tif").pixels[:, 0].tolist() == [[0, 255, 255], [0, 0, 0]]


def test_a_palette_gives_its_colours_to_images_and_its_numbers_to_masks(tmp_path: Path) -> None:
    numbers = (np.arange(60).reshape(6, 10) % 8).astype(np.uint8)
    table = RNG.integers(0, 65536, (3, 256), np.uint16)
    path = written(tmp_path / "a.tif", numbers, photometric="palette", colormap=table)
    assert np.array_equal(read_picture(path).pixels, (table >> 8).T[numbers])
    assert np.array_equal(read_mask(path), numbers)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_palette_of_few_colours_is_read_like_a_large_one(tmp_path: Path, bits: int) -> None:
    numbers = (np.arange(60).reshape(6, 10) % 2**bits).astype(np.uint8)
    table = RNG.integers(256, 65536, (3, 2**bits), np.uint16)
    path = tmp_path / "a.tif"
    path.write_bytes(packed(numbers, bits, 3, table))
    assert np.array_equal(read_picture(path).pixels, (table >> 8).T[numbers])
    assert np.array_equal(read_mask(path), numbers)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32])
def test_masks_keep_their_numbers(tmp_path: Path, kind: type) -> None:
    numbers = np.arange(60).reshape(6, 10) % 7
    assert np.array_equal(read_mask(written(tmp_path / "a.tif", numbers.astype(kind))), numbers)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("number", [1, 255])
def test_a_mask_of_which_zero_is_shown_as_white_is_refused_or_keeps_its_numbers(
    tmp_path: Path, number: int, kind: type
) -> None:
    numbers = (np.eye(6) * number).astype(kind)
    path = written(tmp_path / "a.tif", numbers, photometric=WHITE)
    cause = f"its PhotometricInterpretation shows 0 as white and {number} as black; save it as grey, 0 where nothing is"
    with pytest.raises(ImageError, match=rf"a\.tif: {cause}"):
        read_mask(path)
    numbers[0, 1] = 7
    for some in (numbers, numbers * 0):
        assert np.array_equal(read_mask(written(path, some, photometric=WHITE)), some)


def test_a_mask_of_one_bit_of_which_zero_is_white_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(packed(GREY >> 7, 1, 0))
    with pytest.raises(ImageError, match="shows 0 as white and 1 as black"):
        read_mask(tmp_path / "a.tif")


def test_of_several_pages_the_first_that_is_no_thumbnail_is_read_and_masks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(GREY[:4, :4], subfiletype=1)
        file.write(GREY)
    assert np.array_equal(read_picture(path).pixels, GREY)
    assert read_picture(path).remarks == ()
    path = written(tmp_path / "b.tif", np.stack([GREY, 255 - GREY]), photometric=BLACK)
    assert np.array_equal(read_picture(path).pixels, GREY)
    assert read_picture(path).remarks == (SEVERAL,)
    with pytest.raises(ImageError, match=r"b\.tif: mask has several pages; save the one that belongs to the image"):
        read_mask(path)


@pytest.mark.parametrize("truncate", [False, True])
def test_a_stack_of_imagej_has_several_pages_even_if_one_is_listed(tmp_path: Path, truncate: bool) -> None:
    stack = np.stack([GREY, 255 - GREY, GREY // 2])
    path = written(tmp_path / "a.tif", stack, imagej=True, truncate=truncate)
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == (1 if truncate else 3)
    assert np.array_equal(read_picture(path).pixels, GREY)
    assert read_picture(path).remarks == (SEVERAL,)
    with pytest.raises(ImageError, match="mask has several pages"):
        read_mask(path)
    # of one image there is one, and what is said of others that are not there counts for nothing
    assert read_picture(written(path, GREY, imagej=True)).remarks == ()
    written(path, GREY, description="ImageJ=1.53\nimages=3\nslices=3\n", metadata=None)
    assert read_picture(path).remarks == ()


def test_what_is_turned_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", GREY, extratags=[(274, 3, 1, 6, True)])
    assert np.array_equal(read_picture(path).pixels, np.rot90(GREY, -1))
    assert read_picture(path).remarks == (TURNED,)


@pytest.mark.parametrize("compression", ["deflate", "lzw", "packbits", "zstd", "lzma", "jpeg2000"])
def test_damage_inside_is_found_quietly(tmp_path: Path, compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "a.tif", GREY // 4 * 4, compression=compression, rowsperstrip=8)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 150] = bytes(150)
    path.write_bytes(content)
    assert "damaged" in refused(path)
    assert capfd.readouterr() == ("", "")


def test_damage_inside_a_jpeg_is_found(tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(COLOURS).resize((240, 160), Image.Resampling.BICUBIC))
    for options in ({}, {"tile": (64, 64)}):
        path = written(tmp_path / "a.tif", smooth, compression="jpeg", photometric=RGB, **options)
        assert read_picture(path).pixels.shape == smooth.shape
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 150] = bytes(150)
        path.write_bytes(content)
        assert "damaged inside" in refused(path)


def test_missing_parts_are_found(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", GREY, rowsperstrip=8)
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags[279]
        place, kind = tag.valueoffset, {3: "<5H", 4: "<5I"}[tag.dtype]
    content = bytearray(path.read_bytes())
    struct.pack_into(kind, content, place, 384, 384, 0, 384, 384)
    path.write_bytes(content)
    assert "some of its pixels are missing" in refused(path)


def test_a_tile_that_is_larger_than_it_says_is_not_decoded(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", GREY, compression="jpeg")
    content = path.read_bytes()
    size = struct.pack(">HH", 40, 48)
    assert content.count(size) == 1
    path.write_bytes(content.replace(size, struct.pack(">HH", 65_000, 65_000)))
    assert "larger than they say" in refused(path)


SAMPLES = [
    {"data": GREY, "compression": compression, "tile": tile, "photometric": BLACK}
    for compression in (None, "deflate", "lzw", "jpeg", "jpeg2000", "packbits")
    for tile in (None, (16, 16))
]


@pytest.mark.slow
@settings(max_examples=300)
@given(
    st.sampled_from(range(len(SAMPLES))),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    st.booleans(),
)
def test_nothing_but_our_errors_comes_of_damage(number: int, changes: list[tuple[float, int]], head: bool) -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, **SAMPLES[number])
    content = bytearray(stream.getvalue())
    reach = min(len(content), 400) if head else len(content)
    for place, value in changes:
        content[4 + int(place * (reach - 5))] = value
    try:
        pixels = read_tiff(bytes(content)).pixels
    except ImageError:
        return
    assert pixels.ndim in (2, 3)
