"""Segment Anything over a whole source: masks for a labelled source, and how good they are where the truth is known."""

from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from ahm_env.errors import ImageError, about
from ahm_env.files import sha256, write_rows
from ahm_env.images.dataset.builder import Progress
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.pixels.fit import Image8, PixelSettings, to_uint8
from ahm_env.images.privacy import refuse_path
from ahm_env.images.source import SPLITS, DatasetIndex, Sample
from ahm_env.model.devices import find_device
from downstream.evaluation.evaluation import check_split
from downstream.evaluation.metrics import score_mask
from downstream.evaluation.tables import MEASURES
from downstream.evaluation.tested import check_ignore
from downstream.sam.labelled_source import LabelledSource, Line
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
    model, prompts, index, made_by = _prepare(sam, data, prompt, split, ignore, pixels, device)
    with LabelledSource(Path(out)) as labelled:
        labelled.write_or_check(made_by)
        labelled.begin()
        return _annotate(model, prompts, index, labelled, split, ignore, progress or (lambda done, total: None))


def check_annotation(sam: str | Path, data: str | Path, out: str | Path, **asked: Any) -> None:
    """Refuse, long before its turn, what `annotate` would refuse; nothing is drawn or written.

    Args:
        sam: As of `annotate`.
        data: As of `annotate`.
        out: As of `annotate`.
        **asked: What else decides what `annotate` draws, all of it but `progress`.

    Raises:
        AHMError: Anything that the user can mend.
    """
    *_, made_by = _prepare(sam, data, **asked)
    LabelledSource(Path(out)).check(made_by)


def _prepare(
    sam: str | Path,
    data: str | Path,
    prompt: str = "center",
    split: str = ALL,
    ignore: int | None = None,
    pixels: PixelSettings | None = None,
    device: str = "auto",
) -> tuple[SegmentAnything, Prompts, DatasetIndex, dict[str, Any]]:
    """Read all that is needed but the images, and what is said of it beside the masks that come of it."""
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
    made_by = {"data": data, "split": split, "prompt": prompt, "weights": sha256(weights_file(directory))}
    return model, prompts, index, made_by | {name: getattr(pixels, name) for name in ("window", "axis", "burned_in")}


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
    lines, scores, marked = dict[str, Line](), list[Line](), False
    done, failed = set[str](), set[str]()
    for place, entry in enumerate(index.samples):
        progress(place, index.count)
        name = labelled.image_name(entry)
        named = {"image": name, "split": SPLITS[entry.split]}
        label = index.classes[entry.label] if entry.label >= 0 else ""
        try:
            sample = entry()
            if sample is None or split not in (ALL, named["split"]):
                continue
            lines[name] = {**named, "label": label, "patient": entry.patient}
            mask = labelled.find_mask(sample)
            if mask is None:
                mask, iou = sam.segment(_as_rgb(sample), prompts(sample.name, *sample.image.shape[:2]))
                labelled.add(sample, mask)
                overlaps.append(iou)
        except ImageError as error:
            found.problems.append(str(error))
            failed.add(name)
            continue
        done.add(name)
        if sample.mask is not None:
            truth, counted = sample.mask != 0, None if ignore is None else sample.mask != ignore
            marked = marked or bool((truth if counted is None else truth & counted).any())
            score = score_mask(truth, mask, counted)
            dices.append(score.dice)
            scores.append(named | {measure: f"{value:.6g}" for measure, value in asdict(score).items()})
    progress(index.count, index.count)
    if not done:
        why = f"the last problem: {found.problems[-1]}" if failed else "see `ahm data check`"
        raise ImageError(f"{labelled.path}: no image could be annotated (--split {split}); {why}")
    if index.has_masks:
        write_rows(labelled.path / "scores.csv", scores, ("image", "split", *MEASURES))
    if scores and not marked and ignore is not None:
        cause = f"beside 0 the masks hold only {ignore}, which is to be ignored, so that the scores say nothing"
        found.problems.append(f"{cause}; leave out --ignore {ignore}")
    if gone := [name for name in labelled.update(lines, done) if name not in failed]:
        cause = f"lists images that are not among those of the source (--split {split}) now: {len(gone):,}"
        remedy = "mend the source, or delete their lines, images and masks"
        found.problems.append(f"{labelled.table}: {cause}, the first is {gone[0]}; {remedy}")
    found.done, found.made, found.scored = len(done), len(overlaps), len(dices)
    found.predicted_iou, found.dice = (sum(some) / len(some) if some else nan for some in (overlaps, dices))
    return found


def _as_rgb(sample: Sample) -> Image8:
    """Convert the image to `(H, W, 3)` uint8."""
    with about(sample.path):
        image = to_uint8(sample.image)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
