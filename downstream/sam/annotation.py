"""Segment Anything over a whole source: masks for a labelled source, and how good they are where the truth is known."""

from dataclasses import asdict, dataclass, field
from itertools import chain
from math import nan
from pathlib import Path

import numpy as np

from ahm_env.errors import ImageError, about
from ahm_env.files import atomic, sha256, write_rows
from ahm_env.images.dataset.builder import Progress
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.formats.files import image_stem, is_image, readable
from ahm_env.images.formats.labels import COLUMNS, NO_IMAGE, table_lines
from ahm_env.images.formats.pictures.picture import read_mask
from ahm_env.images.pixels.fit import Image8, PixelSettings, to_uint8
from ahm_env.images.pixels.png import save_picture
from ahm_env.images.privacy import refuse_path
from ahm_env.images.source import SPLITS, DatasetIndex, Sample
from ahm_env.masks import Bools
from ahm_env.model.devices import find_device
from ahm_env.runs.owned_directory import OwnedDirectory
from downstream.evaluation.evaluation import check_split
from downstream.evaluation.metrics import score_mask
from downstream.evaluation.tables import MEASURES
from downstream.evaluation.tested import check_ignore
from downstream.sam.prompts import ALL, PointTable, Prompts, find_prompts
from downstream.sam.sam import SegmentAnything, weights_file


@dataclass
class Annotation:
    """Masks that Segment Anything drew.

    Attributes:
        path: The labelled source: `images/`, `masks/`, `labels.csv`, and `scores.csv` where the truth is known.
        done: Number of images that have a mask.
        made: How many of these were made now.
        predicted_iou: Mean overlap with the truth that the model expects, of those made now; NaN for none.
        scored: Number of images whose true mask is known.
        dice: Mean Dice of these; NaN for none.
        problems: What could not be used, one line each.
    """

    path: Path
    done: int = 0
    made: int = 0
    predicted_iou: float = nan
    scored: int = 0
    dice: float = nan
    problems: list[str] = field(default_factory=list)


class LabelledSource(OwnedDirectory):
    """The directory that an annotation writes: `images/`, `masks/`, and at the end `labels.csv` and `scores.csv`.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "annotation.json", "an annotation")

    @property
    def table(self) -> Path:
        """The file with the split, label and patient of each image."""
        return self.path / "labels.csv"

    def lines(self) -> dict[str, dict[str, str]]:
        """Image to its line of the table, which may have been changed since it was written.

        Raises:
            ImageError: It is no table of images any more.
        """
        return {line["image"]: line for _, line in table_lines(self.table, ("image",), NO_IMAGE)}

    def image_name(self, sample: Sample) -> str:
        """Return the name of the image in this directory."""
        return sample.name if _has_file(sample) else f"{image_stem(sample.name)}.png"

    def mask_path(self, sample: Sample) -> Path:
        """Return the path of the image's mask."""
        return self.path / "masks" / f"{image_stem(sample.name)}.png"

    def find_mask(self, sample: Sample) -> Bools | None:
        """Read the mask that an earlier command made, `(H, W)` bool; None if there is none that fits."""
        try:
            mask = read_mask(self.mask_path(sample))
        except ImageError:
            return None
        return mask != 0 if mask.shape == sample.image.shape[:2] else None

    def add(self, sample: Sample, mask: Bools) -> None:
        """Write an image as its source has it, and then its mask, which says that both are there."""
        path = self.path / "images" / self.image_name(sample)
        if _has_file(sample):
            with readable(Path(sample.path)):
                content = Path(sample.path).read_bytes()
            with atomic(path) as temporary:
                temporary.write_bytes(content)
        else:
            held = sample.image.dtype in (np.uint8, np.uint16)  # as it is where a PNG can hold it
            save_picture(path, sample.image if held else to_uint8(sample.image))
        save_picture(self.mask_path(sample), np.where(mask, 255, 0).astype(np.uint8))


def annotate(
    sam: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    prompt: str = "center",
    split: str = ALL,
    ignore: int | None = None,
    pixels: PixelSettings | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Annotation:
    """Let Segment Anything draw a mask for every image of a source, and measure them where the source has its own.

    All that is neither 0 nor to be ignored in a mask of the source counts as the object. A bad image is noted and
    skipped. What an interrupted call has done is kept.

    Args:
        sam: Directory with `config.json` and `model.safetensors`.
        data: The source, as for `load_images`.
        out: Directory of the labelled source that comes of it; the same call goes on with it.
        prompt: `center`, `box`, `grid`, or a CSV file with points.
        split: Of which images: `train`, `val`, `test` or `all`.
        ignore: Number in masks of the source that is no class: such pixels are not scored; None for none.
        pixels: Window and axis of volumes, and whether images with burned-in text are taken; no more of it counts.
        device: Where SAM computes.
        progress: Called with (done, total).

    Returns:
        What was drawn, and how good it is.

    Raises:
        AHMError: Anything that the user can mend.
    """
    check_split(split)
    check_ignore(ignore)
    data, directory = str(data), Path(sam)
    pixels = pixels or PixelSettings()
    source = find_source(data, pixels)
    index, prompts = source.index(), find_prompts(prompt)
    refuse_path(data, index.identities)
    model = SegmentAnything.load(directory, find_device(device))
    if isinstance(prompts, PointTable):
        prompts.check(source.index(), split)
        prompt = f"points {sha256(Path(prompt))}"
    with LabelledSource(Path(out)) as labelled:
        about = {"data": data, "split": split, "prompt": prompt, "weights": sha256(weights_file(directory))}
        labelled.write_or_check(about | {name: getattr(pixels, name) for name in ("window", "axis", "burned_in")})
        if not labelled.table.exists():
            # Until all is done it lists no image, so that nobody trains on an unfinished source unawares.
            write_rows(labelled.table, (), COLUMNS)
        return _annotate(model, prompts, index, labelled, split, ignore, progress or (lambda done, total: None))


def _annotate(
    sam: SegmentAnything,
    prompts: Prompts,
    index: DatasetIndex,
    labelled: LabelledSource,
    split: str,
    ignore: int | None,
    progress: Progress,
) -> Annotation:
    """Go through the images, one at a time."""
    found = Annotation(labelled.path, problems=list(index.problems))
    overlaps, dices = list[float](), list[float]()
    labels, scores, marked = dict[str, dict[str, str]](), list[dict[str, str]](), False
    for place, entry in enumerate(index.samples):
        progress(place, index.count)
        try:
            sample = entry()
            if sample is None or split not in (ALL, SPLITS[entry.split]):
                continue
            name, mask = labelled.image_name(sample), labelled.find_mask(sample)
            if mask is None:
                mask, iou = sam.segment(_as_rgb(sample), prompts(sample.name, *sample.image.shape[:2]))
                labelled.add(sample, mask)
                overlaps.append(iou)
        except ImageError as error:
            found.problems.append(str(error))
            continue
        named = {"image": name, "split": SPLITS[sample.split]}
        label = index.classes[sample.label] if sample.label >= 0 else ""
        labels[name] = {**named, "label": label, "patient": sample.patient}
        if sample.mask is not None:
            truth, counted = sample.mask != 0, None if ignore is None else sample.mask != ignore
            marked = marked or bool((truth if counted is None else truth & counted).any())
            score = score_mask(truth, mask, counted)
            dices.append(score.dice)
            scores.append(named | {measure: f"{value:.6g}" for measure, value in asdict(score).items()})
    progress(index.count, index.count)
    if not labels:
        raise ImageError(f"{labelled.path}: no image could be annotated (--split {split}); see `ahm data check`")
    if index.has_masks:
        write_rows(labelled.path / "scores.csv", scores, ("image", "split", *MEASURES))
    if scores and not marked and ignore is not None:
        cause = f"beside 0 the masks hold only {ignore}, which is to be ignored, so that the scores say nothing"
        found.problems.append(f"{cause}; leave out --ignore {ignore}")
    lines = labels | labelled.lines()  # what somebody has written there since stays
    write_rows(labelled.table, lines.values(), list(dict.fromkeys((*COLUMNS, *chain(*lines.values())))))
    found.done, found.made, found.scored = len(labels), len(overlaps), len(dices)
    found.predicted_iou, found.dice = (sum(some) / len(some) if some else nan for some in (overlaps, dices))
    return found


def _as_rgb(sample: Sample) -> Image8:
    """Convert the image to `(H, W, 3)` uint8."""
    with about(sample.path):
        image = to_uint8(sample.image)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _has_file(sample: Sample) -> bool:
    """Whether the image is all that is in a file of its own."""
    return is_image(sample.name) and Path(sample.path).name == sample.name
