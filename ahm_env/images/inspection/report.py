"""What is in a source, everything that is wrong with it, and what is likely wrong."""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.dataset.builder import Progress, for_each
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.dataset.patients import digest, refuse_leaks
from ahm_env.images.formats.pictures.picture import SEVERAL, TURNED
from ahm_env.images.inspection.copies import Copies
from ahm_env.images.inspection.inspected import FEW, Inspected, inspect_image
from ahm_env.images.pixels.fit import PixelSettings
from ahm_env.images.privacy import refuse_path
from ahm_env.images.source import SPLITS, DatasetIndex, DataWarning, Source

UNSURE = 255  # what other programs leave out where masks have several classes
UNLABELLED_NAME = "(no label)"
RARE = 1e-4  # share of the pixels of all masks below which a class is hardly there
NAMED = 5  # images that a warning names
PLAIN = "images of nearly one colour; look at them, and take out those that show nothing"
KINDS = {TURNED: "turned", SEVERAL: "pages", PLAIN: "plain", FEW: "few-shades"}


@dataclass
class SourceReport:
    """What is in a source.

    Attributes:
        source: As the user gave it.
        kind: "folder", "npz", "dicom", "nifti" or "phantom".
        images: Number of images that can be used.
        patients: Number of known patients.
        empty: Number of slices without content, which are left out.
        sizes: Images by (width, height) in pixels.
        channels: Images by number of channels, 1 or 3; three equal channels count as 1.
        pixel_types: Images by the type of their pixels, such as "uint8", "uint16", "float32".
        masks: Number of images with a mask.
        empty_masks: Number of masks that are 0 everywhere.
        mask_pixels: Pixels of all masks by class number.
        mask_images: Masks in which a class number occurs.
        classes: For each class, images by split; images without a label under "(no label)".
        splits: Images by split.
        problems: Everything wrong, one line each, naming the file.
        warnings: What is likely wrong though it can be read.
        notes: What is worth knowing but is no fault, one line each.
    """

    source: str
    kind: str
    images: int = 0
    patients: int = 0
    empty: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    pixel_types: Counter[str] = field(default_factory=Counter)
    masks: int = 0
    empty_masks: int = 0
    mask_pixels: Counter[int] = field(default_factory=Counter)
    mask_images: Counter[int] = field(default_factory=Counter)
    classes: dict[str, Counter[str]] = field(default_factory=dict)
    splits: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    warnings: list[DataWarning] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def mask_values(self) -> tuple[int, ...]:
        """Sorted class numbers that occur in masks."""
        return tuple(sorted(self.mask_pixels))

    def as_dict(self) -> dict[str, Any]:
        """Return the same as what JSON can hold: a list for what is counted by numbers, an object for names."""
        counted = {
            "sizes": [
                {"width": width, "height": height, "images": count}
                for (width, height), count in self.sizes.most_common()
            ],
            "channels": [{"channels": number, "images": count} for number, count in sorted(self.channels.items())],
            "mask_values": [
                {"value": value, "pixels": self.mask_pixels[value], "masks": self.mask_images[value]}
                for value in self.mask_values
            ],
            "warnings": list(map(asdict, self.warnings)),
        }
        own = {name: one for name, one in vars(self).items() if name not in ("mask_pixels", "mask_images")}
        return own | counted


def check_images(
    source: str | Path | Source,
    window: str | None = None,
    axis: str = "axial",
    burned_in: bool = False,
    progress: Progress | None = None,
) -> SourceReport:
    """Decode every image and mask of a source, without the cache, and report what is there.

    Bad images, masks and labels are listed, not raised.

    Args:
        source: As for `load_images`.
        window: As for `load_images`.
        axis: As for `load_images`.
        burned_in: As for `load_images`.
        progress: Called with (done, total).

    Returns:
        The report.

    Raises:
        ImageError: There is no such source.
        SettingsError: The phantom is misspelt, or a setting is out of range.
        OSError: There is no room for temporary files: about a kilobyte an image.
    """
    found = find_source(source, PixelSettings(window=window, axis=axis, burned_in=burned_in))
    report = SourceReport(str(source), found.kind)
    patients, remarks = array("Q"), dict[str, tuple[int, list[str]]]()
    with Copies(NAMED) as copies:
        try:
            index = found.index()
            _about_index(report, index)
            for done, image in enumerate(for_each(index, inspect_image), 1):
                if isinstance(image, Inspected):
                    _count(report, image, index)
                    copies.add(image)
                    patients.append(digest(image.patient))
                    for remark in (*image.remarks, *(PLAIN,) * image.plain):
                        count, names = remarks.get(remark, (0, []))
                        remarks[remark] = count + 1, names + [image.name] * (count < NAMED)
                elif image is None:
                    report.empty += 1
                # All slices of a damaged volume have the same.
                elif report.problems[-1:] != [str(image)]:
                    report.problems.append(str(image))
                if progress:
                    progress(done, index.count)
            found_patients = np.frombuffer(patients, np.uint64)
            report.patients = len(np.unique(found_patients[found_patients != 0]))
            refuse_leaks(str(source), index, found_patients, copies.splits)
        except ImageError as error:
            report.problems.append(str(error))
        for remark, (count, names) in sorted(remarks.items()):
            cause, _, remedy = remark.partition("; ")
            text = f"{source}: {cause}: {count:,} ({_some(names, count)})" + f"; {remedy}" * bool(remedy)
            report.warnings.append(DataWarning(KINDS.get(remark, "other"), text, count, tuple(names)))
        report.warnings += [*_about_masks(report), *_about_copies(str(source), copies)]
    if {0, UNSURE} < set(report.mask_values):
        text = f"{UNSURE} in masks is a class like the others, unless it is ignored: --ignore {UNSURE}"
        report.notes.append(f"{source}: {text}")
    return report


def _about_index(report: SourceReport, index: DatasetIndex) -> None:
    report.classes = {name: Counter() for name in index.classes}
    report.problems += index.problems
    report.warnings += index.warnings
    report.notes += index.notes
    try:
        refuse_path(report.source, index.identities)
    except SettingsError as error:
        report.problems.append(str(error))


def _count(report: SourceReport, image: Inspected, index: DatasetIndex) -> None:
    split = SPLITS[image.split]
    report.images += 1
    report.sizes[image.size] += 1
    report.channels[image.channels] += 1
    report.pixel_types[image.pixel_type] += 1
    report.splits[split] += 1
    if index.classes:
        name = index.classes[image.label] if image.label >= 0 else UNLABELLED_NAME
        report.classes.setdefault(name, Counter())[split] += 1
    if image.mask_pixels is not None:
        report.masks += 1
        report.empty_masks += image.mask_pixels.keys() == {0}
        report.mask_pixels.update(image.mask_pixels)
        report.mask_images.update(image.mask_pixels.keys())


def _about_masks(report: SourceReport) -> Iterator[DataWarning]:
    source, masks, pixels = report.source, report.masks, report.mask_pixels.total()
    if masks and len(report.mask_pixels) == 1:
        (value,) = report.mask_pixels
        what = "all masks are empty" if value == 0 else f"every pixel of every mask is of class {value}"
        yield DataWarning(
            "one-class", f"{source}: {what}: {masks:,}; look whether they were exported as they should", masks
        )
    counts = report.mask_pixels
    rare = [value for value in report.mask_values if value and counts[value] < RARE * pixels]
    if rare:
        examples = [f"{value}: {counts[value]:,} in {report.mask_images[value]:,} masks" for value in rare[:NAMED]]
        cause = f"classes in hardly any of the {pixels:,} pixels of {masks:,} masks"
        remedy = "take out stray values; there is little to learn from so few"
        text = f"{source}: {cause}: {len(rare):,} ({_some(examples, len(rare))}); {remedy}"
        yield DataWarning("rare-class", text, len(rare))


def _about_copies(source: str, copies: Copies) -> Iterator[DataWarning]:
    across, within = copies.same()
    leak = "what is tested on is trained on; keep each in one split"
    for kind, twins, cause, remedy in (
        ("names", copies.named_alike(), "names that differ from others only in case or Unicode form", "rename them"),
        ("same-in-splits", across, "images that are in another split, too", leak),
        ("near-in-splits", copies.near(), "images that are nearly the same as one of another split", leak),
        ("same", within, "images that are the same as another one", "take them out, but for one each"),
    ):
        if twins.count:
            pairs = [f"{image} and {twin}" for image, twin in twins.pairs]
            text = f"{source}: {cause}: {twins.count:,} ({_some(pairs, twins.count)}); {remedy}"
            yield DataWarning(kind, text, twins.count, tuple(image for image, _ in twins.pairs))


def _some(names: list[str], count: int) -> str:
    return ", ".join(names) + ", …" * (count > len(names))
