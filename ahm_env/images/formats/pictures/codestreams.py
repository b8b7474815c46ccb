"""What a compressed frame says of its own size, and whether its end is there.

A decoder believes the frame and not the DICOM header: a few bytes can make it allocate gigabytes, or never return.
Where the end is missing, some fill in what they like, and some search for it for many seconds.
"""

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError
from ahm_env.images.pixels.opencv import MOST_PIXELS

JPEG_START, JPEG_2000_START, JPEG_2000_SIZE = b"\xff\xd8", b"\xff\x4f", b"\xff\x51"
JP2_START, JP2_CODESTREAM = b"\x00\x00\x00\x0cjP  ", b"jp2c"
LOSSY = (b"\xc0", b"\xc1", b"\xc2")  # baseline, extended, progressive
END, PADDING = b"\xff\xd9", b"\0\xff "
JPEG_2000_DATA, SCANS, PROFILES = b"\xff\x93", {0xDA}, {0xE2}
APP1, EXIF = 0xE1, b"Exif\0\0"
# Start of frame: JPEG 0..15, without the three markers between them that mean something else, and JPEG-LS.
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def without_tail(frame: bytes) -> bytes:
    """Cut a frame off after its end marker: what follows, such as padding, is not part of it.

    Compressed values hold no end marker; headers and thumbnails before them may.

    Raises:
        ImageError: It has no end marker.
    """
    if (stripped := frame.rstrip(PADDING)).endswith(END):
        return stripped
    start = _codestream(frame) if frame.startswith(JP2_START) else 0
    bare = frame.startswith(JPEG_2000_START, start)
    end = frame.find(END, frame.find(JPEG_2000_DATA, start) if bare else _segment(frame, SCANS))
    if end < 0:
        raise ImageError("the end of its compressed pixels is missing; it is truncated: copy or export it again")
    return frame[: end + len(END)]


def decode_jpeg(frame: bytes, colour: bool = True) -> npt.NDArray[np.uint8] | None:
    """Decode a JPEG, and refuse it where the decoder warns: others fill in what they cannot read, and say nothing.

    Args:
        frame: The file, or the frame of another file. Only of 8 bits, grey or colour, and not lossless are decoded.
        colour: Whether a colour image is wanted in colour; else its brightness.

    Returns:
        (H, W), or (H, W, 3) in RGB order, not turned; None for other kinds, of which no decoder warns.

    Raises:
        ImageError: It is damaged; the message does not name the file.
    """
    from kornia_rs.io import decode_image_jpegturbo

    position = _segment(frame, FRAMES)
    if frame[position + 1 : position + 2] not in LOSSY or frame[position + 4 : position + 5] != b"\x08":
        return None
    rows, columns, components = frame_shape(frame)
    if components not in (1, 3) or rows * columns > MOST_PIXELS:
        return None
    colour = colour and components == 3
    try:
        pixels = np.asarray(decode_image_jpegturbo(_without_profiles(frame), "rgb" if colour else "mono"))
    except Exception:  # it has but one kind of error
        raise ImageError("damaged inside: its compressed pixels cannot all be read; copy or export it again") from None
    return pixels if colour else pixels[..., 0]


def frame_shape(frame: bytes) -> tuple[int, int, int]:
    """Rows, columns and components of a JPEG (ITU-T T.81), JPEG-LS (T.87) or JPEG 2000 (T.800) image.

    Raises:
        ImageError: It is none of these, or truncated.
    """
    frame = without_tail(frame)
    shape = _jpeg(frame) if frame.startswith(JPEG_START) else _jpeg_2000(frame)
    if shape is None:
        raise ImageError("its compressed pixels are damaged or of another kind than it says; export it again")
    return shape


def sample_bits(frame: bytes) -> int:
    """Bits of a sample in such an image as `frame_shape` takes, by which that was found to be one."""
    if frame.startswith(JPEG_START):
        return frame[_segment(frame, FRAMES) + 4]
    start = _codestream(frame) if frame.startswith(JP2_START) else 0
    return (frame[start + 42] & 0x7F) + 1  # the highest bit says whether there is a sign


def exif_of(frame: bytes) -> bytes:
    """Return what the Exif segment of a JPEG holds, a TIFF structure; empty if it has none.

    Other segments may hold a thumbnail with an Exif of its own.
    """
    at = _segment(frame, {APP1, *SCANS})
    while frame[at + 1 : at + 2] == bytes([APP1]):
        end = at + 2 + int.from_bytes(frame[at + 2 : at + 4])
        if frame.startswith(EXIF, at + 4):
            return frame[at + 4 + len(EXIF) : end]
        at = _segment(frame, {APP1, *SCANS}, end)
    return b""


def _jpeg(frame: bytes) -> tuple[int, int, int] | None:
    position = _segment(frame, FRAMES)
    head = frame[position + 5 : position + 10]
    return (int.from_bytes(head[:2]), int.from_bytes(head[2:4]), head[4]) if position < len(frame) else None


def _without_profiles(frame: bytes) -> bytes:
    """Leave out the colour profile of a JPEG: damage to it is none to the pixels."""
    kept, start = list[bytes](), 0
    while (at := _segment(frame, PROFILES, start or 2)) < len(frame):
        kept.append(frame[start:at])
        start = at + 2 + int.from_bytes(frame[at + 2 : at + 4])
    return b"".join([*kept, frame[start:]])


def _segment(frame: bytes, markers: set[int], position: int = 2) -> int:
    """Where the first segment of a JPEG with one of these markers begins; at its end where there is none."""
    while position + 10 <= len(frame) and frame[position] == 0xFF:
        if frame[position + 1] in markers:
            return position
        # Fill bytes may precede a marker; anything else has a length.
        skipped = 1 if frame[position + 1] == 0xFF else 2 + int.from_bytes(frame[position + 2 : position + 4])
        position += skipped
    return len(frame)


def _jpeg_2000(frame: bytes) -> tuple[int, int, int] | None:
    start = _codestream(frame) if frame.startswith(JP2_START) else 0
    if frame[start : start + 4] != JPEG_2000_START + JPEG_2000_SIZE or len(frame) < start + 42:
        return None
    right, bottom, left, top = (int.from_bytes(frame[at : at + 4]) for at in range(start + 8, start + 24, 4))
    return bottom - top, right - left, int.from_bytes(frame[start + 40 : start + 42])


def _codestream(frame: bytes) -> int:
    """Where the codestream begins in the boxes of a JP2 file; at its end where there is none."""
    position = 0
    while position + 8 <= len(frame):
        if frame[position + 4 : position + 8] == JP2_CODESTREAM:
            return position + 8
        position += max(8, int.from_bytes(frame[position : position + 4]))
    return len(frame)
