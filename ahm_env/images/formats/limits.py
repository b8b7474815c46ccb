"""What is refused before anything is allocated: sizes that no image has, and files that unpack to too much."""

from ahm_env.errors import ImageError

# Deflate packs a thousandfold at most, noise of a scanner hardly twofold; small files do no harm whatever they hold.
HARMLESS_BYTES, MOST_SWELLING = 2**28, 200
MOST_DEFLATED = 1032  # bytes of content to a byte of its compressed form, by the format of deflate
MOST_PACKED = 8 * MOST_DEFLATED  # pixels to a byte of PNG; of GIF or BMP fewer
MOST_FRAMES, MOST_INFLATED = 100_000, 2**27  # of a DICOM file
MOST_VOXELS, MOST_SIDE, MOST_VOLUME_BYTES = 2**31, 2**16, 8 * 2**30
MOST_ROW_BYTES = 2**28  # of an array in an .npz file


def refuse_bomb(where: str, unpacked: int, packed: int) -> None:
    """Refuse what unpacks to too large a size, much larger than it is packed: images do not compress so well.

    Args:
        where: What it is, for the error.
        unpacked: Its bytes, as it states them.
        packed: Bytes that it takes up.

    Raises:
        ImageError: It is a bomb, or as good as one.
    """
    if unpacked > HARMLESS_BYTES and unpacked > MOST_SWELLING * packed:
        cause = f"{packed:,} bytes that unpack to {unpacked:,} are no images but blank, damaged or forged"
        raise ImageError(f"{where}: {cause}; take it out, or save it without compression")
