"""What is in a source, and everything that is wrong with it."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.dataset.builder import Prepared, Progress, prepare_all
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.dataset.patients import digest, refuse_leaks
from ahm_env.images.pixels.fit import PixelSettings
from ahm_env.images.privacy import refuse_path
from ahm_env.images.source import SPLITS, DatasetIndex

UNSURE = 255  # what other programs leave out where masks have several classes
UNLABELLED_NAME = "(no label)"


@dataclass
class SourceReport:
    """What is in a source.

    Attributes:
        source: As the user gave it.
        kind: "folder", "npz" or "phantom".
        images: Number of images that can be used.
        patients: Number of patients whom these are known to show.
        empty: Number of slices without content, which are left out.
        sizes: Images by (width, height) in pixels.
        channels: Images by number of channels, 1 or 3; three equal channels count as 1.
        pixel_types: Images by the type of their pixels, such as "uint8", "uint16", "float32".
        masks: Number of images with a mask.
        empty_masks: Number of masks that are 0 everywhere.
        mask_values: Sorted class numbers that occur in masks.
        classes: For each class, images by split; images without a label under "(no label)".
        splits: Images by split.
        problems: Everything wrong, one line each, naming the file.
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
    mask_values: tuple[int, ...] = ()
    classes: dict[str, Counter[str]] = field(default_factory=dict)
    splits: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_source(
    source: str | Path, progress: Progress | None = None, settings: PixelSettings | None = None
) -> SourceReport:
    """Decode every image of a source, without the cache, and report what is there.

    Bad images, masks and labels are listed, not raised.

    Args:
        source: As for `load_images`.
        progress: Called with (done, total).
        settings: How images are read; by default as `load_images` does.

    Returns:
        The report.

    Raises:
        ImageError: There is no such source.
        SettingsError: The phantom is misspelt.
    """
    settings = settings or PixelSettings()
    found = find_source(source, settings)
    report = SourceReport(str(source), found.kind)
    patients, splits, remarks = array("Q"), bytearray(), Counter[str]()
    try:
        index = found.index()
        report.classes = {name: Counter() for name in index.classes}
        report.problems += index.problems
        report.notes += index.notes
        try:
            refuse_path(str(source), index.identities)
        except SettingsError as error:
            report.problems.append(str(error))
        for done, prepared in enumerate(prepare_all(index, settings), 1):
            if isinstance(prepared, Prepared):
                _count(report, prepared, index)
                patients.append(digest(prepared.patient))
                splits.append(prepared.split)
                remarks.update(prepared.remarks)
            elif prepared is None:
                report.empty += 1
            else:
                # All slices of a damaged volume have the same.
                if report.problems[-1:] != [str(prepared)]:
                    report.problems.append(str(prepared))
            if progress:
                progress(done, index.count)
        if {0, UNSURE} < set(report.mask_values):
            told = f"{UNSURE} in masks is a class like the others, unless it is ignored: --ignore {UNSURE}"
            report.notes.append(f"{source}: {told}")
        found_patients = np.frombuffer(patients, np.uint64)
        report.patients = len(np.unique(found_patients[found_patients != 0]))
        report.notes += [f"{source}: {remark}: {count:,}" for remark, count in sorted(remarks.items())]
        refuse_leaks(str(source), index, found_patients, np.frombuffer(splits, np.uint8))
    except ImageError as error:
        report.problems.append(str(error))
    return report


def _count(report: SourceReport, prepared: Prepared, index: DatasetIndex) -> None:
    split = SPLITS[prepared.split]
    report.images += 1
    report.sizes[prepared.original_size] += 1
    report.channels[len(prepared.image)] += 1
    report.pixel_types[prepared.original_type] += 1
    report.splits[split] += 1
    if index.classes:
        name = index.classes[prepared.label] if prepared.label >= 0 else UNLABELLED_NAME
        report.classes.setdefault(name, Counter())[split] += 1
    if prepared.mask is not None:
        report.masks += 1
        report.empty_masks += prepared.mask_values == {0}
        report.mask_values = tuple(sorted(prepared.mask_values.union(report.mask_values)))
