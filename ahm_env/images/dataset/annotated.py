"""Sets of which only some images have a mask and a label: those of all others are neither known nor read."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError
from ahm_env.images.dataset.builder import in_order, with_remedy
from ahm_env.images.dataset.cache import (
    ArrayWriter,
    content_digest,
    entry_key,
    locked,
    new_entry,
    read_meta,
    write_meta,
)
from ahm_env.images.dataset.image_set import Annotations, ImageSet
from ahm_env.images.dataset.loader import decoded, wanted
from ahm_env.images.dataset.values import BITS, are_binary, mask_values, to_bits
from ahm_env.images.pixels.fit import Image8, fit_mask
from ahm_env.images.source import UNLABELLED, Entry, class_order


def annotated(
    images: ImageSet,
    indices: npt.ArrayLike,
    classes: tuple[str, ...] | None = None,
    masks: bool = True,
    skip_bad: bool = False,
    ignore: int | None = None,
    as_stored: bool = False,
) -> ImageSet:
    """Return the same images with the masks and labels of only some: all others are neither known nor read.

    Args:
        images: The set; where its masks have not been read, those of these images are, and no others.
        indices: Which images keep theirs, ascending.
        classes: Names of the classes, in order; by default those that occur.
        masks: Whether masks are known; if not, none is read.
        skip_bad: Take an image whose mask cannot be used as one without a mask.
        ignore: Number in masks that is no class; None for none. A mask that holds nothing else is none.
        as_stored: Leave 255 what it is, even if every mask has two values.

    Raises:
        ImageError: A mask cannot be used, the masks hold only 0 and the number that is no class, or a label is not
            among the classes.
        SettingsError: The cache cannot be written.
    """
    chosen = np.asarray(indices, np.int64)
    numbers = images.labels(chosen)
    names = np.array([*images.classes, ""], dtype=object)[numbers]
    classes = class_order(set(names.tolist()) - {""}) if classes is None else classes
    known = {name: number for number, name in enumerate(classes)} | {"": UNLABELLED}
    if odd := [(index, name) for index, name in zip(chosen.tolist(), names, strict=True) if name not in known]:
        index, name = odd[0]
        raise ImageError(
            f"{images.source}: {images.names[index]} is labelled {name}, which is none of the classes that are learned "
            f"({', '.join(classes)}); ask for more --labels, or take that label out"
        )
    labels = np.full(len(images), UNLABELLED, np.int64)
    labels[chosen] = [known[name] for name in names]
    masked = chosen[images.masked(chosen)] if masks else chosen[:0]
    if (images.masks_read and ignore is None) or not masked.size:
        some = Annotations(classes, labels, masked, None, as_stored=as_stored)
        return ImageSet(images.entry, images.source, some, images.functions)
    root = images.entry.parent
    key = entry_key(f"masks {images.entry.name} {masked.tolist()} {skip_bad} {ignore}", {})
    with locked(root, key):
        if read_meta(root / key) is None:
            with new_entry(root, key) as directory:
                _read_masks(directory, images, masked, skip_bad, ignore)
    read = np.load(root / key / "masked.npy")
    some = Annotations(classes, labels, read, root / key, ignore, as_stored)
    return ImageSet(images.entry, images.source, some, images.functions)


def _read_masks(
    directory: Path, images: ImageSet, masked: npt.NDArray[np.int64], skip_bad: bool, ignore: int | None
) -> None:
    """Write the masks of some images into an empty directory."""
    size, binary, read, found = images.image_size, True, list[int](), set[int]()
    skipped = unknown = 0
    masks = ArrayWriter(directory / "masks.npy", (size, size), np.uint8)
    bits = ArrayWriter(directory / "values.npy", BITS, np.uint8)
    decoded = in_order(partial(_mask_of, entry, images.source) for entry in wanted(images, masked))
    for index, mask in zip(masked.tolist(), decoded, strict=True):
        if isinstance(mask, ImageError):
            if not skip_bad:
                raise ImageError(with_remedy(str(mask), images.source)) from mask
            skipped += 1
            continue
        values = mask_values(mask)
        found |= values
        if values == {ignore}:
            unknown += 1
            continue
        square = fit_mask(mask, images.pixels)
        masks.append(square)
        bits.append(to_bits(values, square))
        binary &= ignore != 1 and are_binary(values - {ignore})  # 255 becomes 1, which must not be what is ignored
        read.append(index)
    masks.close()
    bits.close()
    if ignore in found and found <= {0, ignore}:
        raise ImageError(
            f"{images.source}: its masks hold only 0 and {ignore}, which is to be ignored, so that nothing is marked; "
            f"if {ignore} is what is marked, leave out --ignore {ignore}, or evaluate with --ignore none"
        )
    np.save(directory / "masked.npy", np.array(read, np.int64))
    meta = read_meta(images.entry)
    assert meta is not None
    content = content_digest(directory, ())
    meta = replace(meta, binary_masks=binary, masks_read=True, content=content)
    write_meta(directory, replace(meta, skipped=skipped, unknown=unknown))


def _mask_of(entry: Entry, source: str) -> Image8 | ImageError:
    sample = decoded(entry, source)
    try:
        mask = sample.with_mask().mask
    except ImageError as error:
        return error
    assert mask is not None
    return mask
