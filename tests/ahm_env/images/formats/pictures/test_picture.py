import io
import re
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from ahm_env.errors import ImageError
from ahm_env.images.formats.pictures.picture import (
    SEVERAL,
    TURNED,
    as_class_numbers,
    mask_problem,
    read_mask,
    read_picture,
)
from ahm_env.images.pixels.opencv import cv2

ORIENTATION = 0x0112
SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(lambda s: st.sampled_from([s, (*s, 3)]))
PNG_TYPES, TIFF_TYPES = [np.uint8, np.uint16], [np.uint8, np.uint16, np.int16, np.float32, np.float64]


def noise(height: int = 40, width: int = 60, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, kind, **options)
    return buffer.getvalue()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.data())
def test_what_was_written_without_loss_is_read_back(tmp_path: Path, data: st.DataObject) -> None:
    ending, types = data.draw(st.sampled_from([(".png", PNG_TYPES), (".tif", TIFF_TYPES), (".bmp", [np.uint8])]))
    image = data.draw(hnp.arrays(data.draw(st.sampled_from(types)), data.draw(SHAPES)))
    assert cv2.imwrite(str(tmp_path / f"a{ending}"), image[..., ::-1] if image.ndim == 3 else image)
    read = read_picture(tmp_path / f"a{ending}").pixels
    assert read.dtype == image.dtype
    assert np.array_equal(read, image, equal_nan=image.dtype.kind == "f")


def test_colours_are_in_rgb_order(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (250, 10, 20)).save(tmp_path / "red.png")
    assert read_picture(tmp_path / "red.png").pixels[0, 0].tolist() == [250, 10, 20]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "L", "CMYK"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG"])
def test_every_common_kind_of_pixel_is_read_without_alpha(tmp_path: Path, kind: str, mode: str) -> None:
    image = Image.fromarray(noise()).convert(mode)
    try:
        image.save(tmp_path / "image", kind)
    except OSError:
        pytest.skip(f"no {kind} holds {mode}")
    assert read_picture(tmp_path / "image").pixels.shape in ((40, 60), (40, 60, 3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_as_viewers_show_it(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(cv2.resize(noise(4, 6), (48, 32), interpolation=cv2.INTER_NEAREST))
    stored.save(tmp_path / "turned", kind, exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "turned")).convert("RGB"))
    read = read_picture(tmp_path / "turned").pixels
    assert read.shape == shown.shape
    assert np.abs(read.astype(int) - shown).max() <= 3


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content


def with_orientation(orientation: int) -> bytes:
    content, exif = io.BytesIO(), Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(noise(16, 24)).save(content, "JPEG", exif=exif)
    return content.getvalue()


def test_the_orientation_is_that_of_the_exif_segment_wherever_it_stands(tmp_path: Path) -> None:
    stored, plain = with_orientation(6), with_orientation(1)
    profile = segment(0xE2, b"ICC_PROFILE\0\1\2" + bytes(65_000)) + segment(0xE2, b"ICC_PROFILE\0\2\2" + bytes(65_000))
    thumbnail = segment(0xED, b"Photoshop 3.0\0" + with_orientation(3))
    note = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
    for content, before, is_turned in (
        (stored, profile, True),
        (stored, note + thumbnail, True),
        (plain, thumbnail, False),
    ):
        (tmp_path / "a.jpg").write_bytes(content[:2] + before + content[2:])
        read = read_picture(tmp_path / "a.jpg")
        assert (read.turned, read.pixels.shape) == (is_turned, (24, 16, 3) if is_turned else (16, 24, 3))


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "number"), [(1, "B3x"), (3, "H2x"), (4, "I")])
def test_an_orientation_of_any_integer_type_is_followed(
    tmp_path: Path, mode: str, order: str, kind: int, number: str
) -> None:
    entry = struct.pack(f"{order}HHI{number}", ORIENTATION, kind, 1, 6)
    exif = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, 1) + entry + bytes(4)
    content = io.BytesIO()
    Image.fromarray(noise(16, 24)).convert(mode).save(content, "JPEG", exif=b"Exif\0\0" + exif)
    (tmp_path / "a.jpg").write_bytes(content.getvalue())
    read = read_picture(tmp_path / "a.jpg")
    assert (read.turned, read.pixels.shape) == (True, (24, 16, 3))


def test_a_mask_with_a_palette_is_turned_like_its_image(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(numbers)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_mask(tmp_path / "a.png"), np.rot90(numbers, -1))
    assert read_picture(tmp_path / "a.png").pixels.shape == (4, 3, 3)


def test_of_several_pages_the_first_is_read(tmp_path: Path) -> None:
    first, second = Image.new("L", (5, 5), 10), Image.new("L", (7, 7), 20)
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[second])
    assert read_picture(tmp_path / "pages.tif").pixels.tolist() == [[10] * 5] * 5


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
def test_a_truncated_image_is_refused_quietly(
    tmp_path: Path, kind: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    content = encoded(kind)
    path = written(tmp_path / f"cut.{kind.lower()}", content[: int(len(content) * share)])
    with pytest.raises(ImageError, match=f"{path}: .*(truncated|damaged).*;") as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_progressive_jpeg_with_a_thumbnail_is_refused(tmp_path: Path) -> None:
    thumbnail = encoded("JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    content = encoded("JPEG", progressive=True)
    with_thumbnail = content[:2] + segment + content[2:]
    assert read_picture(written(tmp_path / "whole.jpg", with_thumbnail)).pixels.shape == (40, 60, 3)
    path = written(tmp_path / "cut.jpg", with_thumbnail[: len(segment) + len(content) // 2])
    with pytest.raises(ImageError, match="truncated"):
        read_picture(path)


@pytest.mark.parametrize("chunks", [[(1, 1)], [(1, 2)], [(1, 1), (1, 1)], [(0, 0)], [(2, 3), (1, 2)]])
def test_damage_to_the_colour_profile_of_a_jpeg_is_none_to_its_pixels(
    tmp_path: Path, chunks: list[tuple[int, int]], capfd: pytest.CaptureFixture[str]
) -> None:
    content = encoded("JPEG")
    parts = (b"ICC_PROFILE\0" + bytes(chunk) + bytes(50) for chunk in chunks)
    profile = b"".join(b"\xff\xe2" + struct.pack(">H", len(part) + 2) + part for part in parts)
    found = read_picture(written(tmp_path / "a.jpg", content[:2] + profile + content[2:])).pixels
    assert np.array_equal(found, read_picture(written(tmp_path / "b.jpg", content)).pixels)
    assert capfd.readouterr() == ("", "")


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path: Path) -> None:
    assert read_picture(written(tmp_path / "a.jpg", encoded("JPEG") + b"camera's own data")).pixels.shape == (40, 60, 3)


def test_a_flipped_bit_in_a_png_is_found_quietly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(encoded("PNG"))
    content[len(content) // 2] ^= 1
    with pytest.raises(ImageError, match="damaged"):
        read_picture(written(tmp_path / "a.png", bytes(content)))
    assert capfd.readouterr() == ("", "")


def test_text_and_nothing_are_no_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImageError, match=r"a\.png: not an image"):
        read_picture(written(tmp_path / "a.png", b"hello"))
    with pytest.raises(ImageError, match=r"b\.png: the file is empty \(0 bytes\)"):
        read_picture(written(tmp_path / "b.png", b""))
    end = encoded("PNG")[-12:]
    for read in (read_picture, read_mask):
        with pytest.raises(ImageError, match=r"c\.png: not an image, or a damaged one"):
            read(written(tmp_path / "c.png", b"\x89PNG\r\n\x1a\n" + end))
    assert capfd.readouterr() == ("", "")


def test_an_image_of_absurd_size_is_refused(tmp_path: Path) -> None:
    content = bytearray(encoded("BMP"))
    content[18:26] = struct.pack("<ii", 2**20, 2**20)
    with pytest.raises(ImageError, match=r"huge\.bmp: .*damaged"):
        read_picture(written(tmp_path / "huge.bmp", bytes(content)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read"):
        read_picture(tmp_path / "gone.png")


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_a_mask_keeps_its_class_numbers(tmp_path: Path, ending: str) -> None:
    mask = np.arange(60, dtype=np.uint8).reshape(6, 10) % 7
    Image.fromarray(mask).save(tmp_path / f"mask.{ending}")
    assert np.array_equal(read_mask(tmp_path / f"mask.{ending}"), mask)


def test_a_mask_of_three_equal_channels_is_one_channel(tmp_path: Path) -> None:
    mask = np.arange(60, dtype=np.uint8).reshape(6, 10)
    Image.fromarray(mask).convert("RGB").save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), mask)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_mask_with_a_palette_of_colours_gives_the_numbers(tmp_path: Path, bits: int) -> None:
    mask = (np.arange(60).reshape(6, 10) % 2 ** min(bits, 3)).astype(np.uint8)
    image = Image.fromarray(mask, "P")
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200, 90, 90, 0, 1, 2, 3, 4, 5, 6, 250, 0, 250])
    image.save(tmp_path / "mask.png", bits=bits)
    found = read_mask(tmp_path / "mask.png")
    assert np.array_equal(found, mask)


@pytest.mark.parametrize("ending", ["png", "bmp", "gif", "tif"])
@pytest.mark.parametrize("number", [1, 255])
def test_a_mask_whose_palette_shows_black_and_white_the_wrong_way_round_is_refused(
    tmp_path: Path, ending: str, number: int
) -> None:
    image = Image.fromarray(np.eye(6, dtype=np.uint8) * number, "P")
    image.putpalette([255 - grey for grey in range(256) for _ in "rgb"] if number > 1 else [255] * 3 + [0] * 765)
    image.save(tmp_path / f"mask.{ending}", **{"optimize": False} if ending == "gif" else {})
    cause = f"its palette shows 0 as white and {number} as black; save it as grey"
    with pytest.raises(ImageError, match=rf"mask\.{ending}: {cause}"):
        read_mask(tmp_path / f"mask.{ending}")


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_mask_that_only_its_transparency_draws_is_refused(tmp_path: Path, mode: str, ending: str) -> None:
    drawn, path = np.eye(6, dtype=np.uint8) * 255, tmp_path / f"mask.{ending}"
    colours = {"LA": 1, "RGBA": 3}[mode]
    Image.fromarray(np.dstack([drawn * 0] * colours + [drawn]), mode).save(path)
    with pytest.raises(ImageError, match="mask is of one value but for its transparency"):
        read_mask(path)
    Image.fromarray(np.dstack([drawn] * colours + [drawn]), mode).save(path)
    assert np.array_equal(read_mask(path), drawn)
    Image.fromarray(np.dstack([drawn * 0] * colours + [drawn * 0 + 255]), mode).save(path)
    assert not read_mask(path).any()


def test_a_jpeg_mask_is_cut_at_half_intensity(tmp_path: Path) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 5:25] = 255
    Image.fromarray(mask).save(tmp_path / "mask.jpg", quality=60)
    assert np.array_equal(read_mask(tmp_path / "mask.jpg"), mask)


def test_a_mask_in_colour_is_refused(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match=r"mask\.png: mask is in colour; save it as one channel"):
        read_mask(tmp_path / "mask.png")


def test_masks_of_other_types_become_class_numbers() -> None:
    assert as_class_numbers(np.array([[0, 3]], np.int64), "m").tolist() == [[0, 3]]
    assert as_class_numbers(np.array([[0.0, 1.0]]), "m").tolist() == [[0, 1]]
    assert as_class_numbers(np.array([[False, True]]), "m").tolist() == [[0, 1]]
    assert as_class_numbers(np.array([[0, 65535]], np.uint16), "m").tolist() == [[0, 255]]


@pytest.mark.parametrize("value", [256, -1, 0.5, np.nan, np.inf])
def test_masks_with_other_values_are_refused(value: float) -> None:
    with pytest.raises(ImageError, match="m: mask holds values that are not class numbers"):
        as_class_numbers(np.array([[0, 7, value]]), "m")


def test_a_small_file_that_asks_for_gigabytes_is_refused_before_they_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), np.zeros((16, 16, 3), np.uint8))
    content = bytearray(path.read_bytes())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = (14_000).to_bytes(2) + (18_000).to_bytes(2)
    path.write_bytes(content)
    begin = time.perf_counter()
    with pytest.raises(ImageError, match="too large or damaged"):
        read_picture(path)
    assert time.perf_counter() - begin < 1


@pytest.mark.parametrize("ending", ["png", "bmp", "gif", "tif"])
@pytest.mark.parametrize("colours", ["grey where they occur", "one grey", "many"])
def test_masks_with_a_palette_hold_its_numbers_whatever_its_colours_are(
    tmp_path: Path, ending: str, colours: str
) -> None:
    number = {"grey where they occur": 7, "one grey": 1, "many": 3}[colours]
    mask = np.zeros((12, 16), np.uint8)
    mask[3:7, 4:9] = number
    image = Image.fromarray(mask, "P")
    grey = [0, 0, 0] + [value for index in range(1, 255) for value in (index, 3 * index % 256, 200)] + [255, 255, 255]
    grey[3 * number : 3 * number + 3] = [128, 128, 128] if colours != "many" else [1, 2, 3]
    image.putpalette(grey)
    image.save(tmp_path / f"mask.{ending}", **{"optimize": False} if ending == "gif" else {})
    assert np.array_equal(read_mask(tmp_path / f"mask.{ending}"), mask)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_gif_is_read_in_its_colours(tmp_path: Path, mode: str) -> None:
    shown = Image.fromarray(noise()).convert(mode)
    shown.save(tmp_path / "a.gif")
    found = read_picture(tmp_path / "a.gif").pixels
    expected = np.asarray(Image.open(tmp_path / "a.gif").convert("RGB"))
    assert np.array_equal(found if found.ndim == 3 else np.dstack([found] * 3), expected)


def test_a_gif_whose_canvas_is_larger_than_its_bytes_could_fill_is_refused(tmp_path: Path) -> None:
    blank = Image.new("L", (4000, 4000))
    blank.save(tmp_path / "blank.gif")
    assert read_mask(tmp_path / "blank.gif").shape == (4000, 4000)
    small = io.BytesIO()
    Image.new("L", (32, 32)).save(small, "GIF")
    claims = small.getvalue()[:6] + struct.pack("<HH", 4000, 4000) + small.getvalue()[10:]
    with pytest.raises(ImageError, match=r"too large or damaged \(4000x4000 pixels\)"):
        read_picture(written(tmp_path / "small.gif", claims))


def test_of_several_frames_the_first_is_read_and_that_is_said(tmp_path: Path) -> None:
    first, second = Image.new("L", (5, 5), 10), Image.new("L", (5, 5), 20)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert read_picture(tmp_path / "a.gif").remarks == (SEVERAL,)
    with pytest.raises(ImageError, match="mask has several pages"):
        read_mask(tmp_path / "a.gif")


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16"])
def test_of_an_animated_png_the_image_that_viewers_show_is_read_and_that_is_said(tmp_path: Path, mode: str) -> None:
    rng, path = np.random.default_rng(5), tmp_path / "a.png"
    kind = (np.uint16, 2**16) if mode == "I;16" else (np.uint8, 2**8)
    frames = [rng.integers(0, kind[1], (8, 9, 3) if mode == "RGB" else (8, 9), kind[0]) for _ in range(3)]
    images = [Image.fromarray(frame) for frame in frames]
    for image in images if mode == "P" else []:
        image.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
    images[0].save(path, save_all=True, append_images=images[1:], default_image=True)
    assert b"fdAT" in path.read_bytes()
    picture = read_picture(path)
    assert np.array_equal(picture.pixels, np.asarray(images[0].convert("RGB")) if mode == "P" else frames[0])
    assert picture.remarks == (SEVERAL,)
    with pytest.raises(ImageError, match="several pages"):
        read_mask(path)


BMP_HEADERS = {"core": struct.Struct("<IHHHH"), "info": struct.Struct("<IiiHHIIiiII3I")}


def test_a_bmp_with_the_palette_of_os_2_is_read_in_its_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    numbers, palette = rng.integers(0, 5, (6, 8), np.uint8), rng.integers(0, 256, (5, 3), np.uint8)
    header = BMP_HEADERS["core"].pack(12, 8, 6, 1, 8) + palette[:, ::-1].tobytes()
    start = struct.pack("<2sIII", b"BM", 14 + len(header) + numbers.size, 0, 14 + len(header))
    path = written(tmp_path / "a.bmp", start + header + numbers[::-1].tobytes())
    assert np.array_equal(read_picture(path).pixels, palette[numbers])
    assert np.array_equal(read_mask(path), numbers)


def test_a_bmp_of_16_bits_reaches_white(tmp_path: Path) -> None:
    parts = np.random.default_rng(7).integers(0, (32, 64, 32), (6, 8, 3))
    parts[0, 0] = 31, 63, 31
    values = (parts @ (2**11, 2**5, 1)).astype("<u2")
    header = BMP_HEADERS["info"].pack(40, 8, 6, 1, 16, 3, values.nbytes, 0, 0, 0, 0, 0xF800, 0x7E0, 0x1F)
    start = struct.pack("<2sIII", b"BM", 14 + len(header) + values.nbytes, 0, 14 + len(header))
    found = read_picture(written(tmp_path / "a.bmp", start + header + values[::-1].tobytes())).pixels
    assert np.abs(found - parts * 255 / (31, 63, 31)).max() <= 1
    assert found.max() == 255


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_gif_or_palette_is_refused(tmp_path: Path, share: float) -> None:
    for kind in ("GIF", "BMP"):
        stream = io.BytesIO()
        Image.fromarray(noise()).convert("P").save(stream, kind)
        path = written(tmp_path / f"a.{kind.lower()}", stream.getvalue()[: int(share * stream.tell())])
        with pytest.raises(ImageError, match="truncated or damaged"):
            read_mask(path)


@pytest.mark.parametrize(("levels", "named"), [
    ([0, 1], "0, 1"),
    ([0, 100, 200], "100"),
    ([0, 200], "200"),
    ([0, 128, 255], "128"),
    ([0, 200, 255], "200"),
    ([3, 3], "3"),
])  # fmt: skip
@pytest.mark.parametrize("quality", [80, 95])
def test_a_jpeg_mask_of_more_than_black_and_white_is_refused(
    tmp_path: Path, levels: list[int], named: str, quality: int
) -> None:
    mask = np.full((64, 96), levels[0], np.uint8)
    for place, level in enumerate(levels[1:]):
        mask[8:56, 8 + 32 * place : 32 + 32 * place] = level
    Image.fromarray(mask).save(tmp_path / "mask.jpg", quality=quality)
    with pytest.raises(ImageError, match=rf"mask\.jpg: mask is a JPEG and .*{named}.*; save masks as PNG"):
        read_mask(tmp_path / "mask.jpg")


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_a_jpeg_mask_of_black_and_white_is_cut_at_half(tmp_path: Path, quality: int) -> None:
    y, x = np.mgrid[:96, :128]
    for radius in (0, 3, 8, 20):
        mask = np.where((y - 50) ** 2 + (x - 60) ** 2 < radius**2, 255, 0).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "mask.jpg", quality=quality)
        assert (read_mask(tmp_path / "mask.jpg") != mask).mean() < 0.002


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_labels_within_rounding_of_integers_are_rounded(kind: type) -> None:
    values = np.array([[0, 0.99999994, 1.9999847, 3.0000002, 254.9995, -1e-7]], kind)
    assert as_class_numbers(values, "m").tolist() == [[0, 1, 2, 3, 255, 0]]


@pytest.mark.parametrize("value", [0.5, 1.2, 0.97, -0.1])
def test_labels_between_integers_are_refused_and_named(value: float) -> None:
    with pytest.raises(ImageError, match=rf"m: mask holds values that .* \({value:g}\); renumber .* or threshold"):
        as_class_numbers(np.array([[0, 1, value]]), "m")


def test_soft_edges_are_told_from_classes() -> None:
    y, x = np.mgrid[:60, :80]
    disc = np.where((y - 30) ** 2 + (x - 40) ** 2 < 200, 255, 0).astype(np.uint8)
    image = np.zeros((120, 160), np.uint8)
    for size in (cv2.INTER_LINEAR, cv2.INTER_CUBIC):
        soft = cv2.resize(disc, (160, 120), interpolation=size)
        assert re.fullmatch(
            r"mask has soft edges: \d+ shades of grey \(0, .*\), each of .*; threshold it \(mask >= 128\), .*",
            mask_problem(soft, image),
        )
    assert mask_problem(cv2.GaussianBlur(disc, (0, 0), 2), disc).startswith("mask has soft edges")
    classes = (x // 10 * 36).astype(np.uint8)
    assert mask_problem(classes, disc) == mask_problem(disc, disc) == ""
    rings = (np.hypot(y - 30, x - 40) // 6 * 28).clip(0, 252).astype(np.uint8)
    assert mask_problem(rings, disc) == ""


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_what_exif_turns_is_said(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(noise()).save(tmp_path / "a", kind, exif=exif)
    assert read_picture(tmp_path / "a").remarks == ((TURNED,) if orientation > 1 else ())


def smooth() -> Image.Image:
    return Image.fromarray(noise(20, 30)).resize((240, 160), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"keep_rgb": True}, {"subsampling": 0}, {"mode": "L"}])
def test_damage_inside_a_jpeg_is_found_quietly(
    tmp_path: Path, options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    stream = io.BytesIO()
    smooth().convert(options.pop("mode", "RGB")).save(stream, "JPEG", quality=90, **options)
    content = bytearray(stream.getvalue())
    path = written(tmp_path / "a.jpg", bytes(content))
    assert read_picture(path).pixels.shape[:2] == (160, 240)
    middle = len(content) // 3
    content[middle : middle + 150] = bytes(150)
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.jpg: damaged inside: .*; copy or export it again"):
        read_picture(path)
    assert capfd.readouterr() == ("", "")


def test_only_the_values_that_are_wrong_are_named() -> None:
    with pytest.raises(ImageError, match=r"class numbers 0\.\.255 \(0\.5, 300, nan\); renumber"):
        as_class_numbers(np.array([[0, 0.99999994, 2, 0.5, 300, np.nan]], np.float32), "m")
