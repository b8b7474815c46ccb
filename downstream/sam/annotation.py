"""Segment Anything over a whole source: masks for a labelled source, and how good they are where the truth is known."""

import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ahm_env.console import make_console
from ahm_env.errors import ImageError, RunError, SettingsError
from ahm_env.files import atomic, sha256, write_text
from ahm_env.images.decoding import read_mask
from ahm_env.images.encoding import save_picture
from ahm_env.images.files import is_image, readable
from ahm_env.images.loading import find_source
from ahm_env.images.pixels import Image8, PixelSettings, to_uint8
from ahm_env.images.source import SPLITS, Catalogue, Load, Sample
from ahm_env.images.telling import refuse_path
from ahm_env.masks import Bools
from ahm_env.model.devices import find_device
from downstream.evaluation.metrics import score_mask
from downstream.evaluation.segmentation import MEASURES
from downstream.sam.prompts import ALL, PointTable, Prompts, find_prompts, stem
from downstream.sam.sam import SegmentAnything, weights_file

SETTINGS, LABELS = "annotation.json", ("image", "label", "split", "patient")
LINE_SECONDS = 30.0  # between two lines about progress, outside a terminal


class LabelledSource:
    """The directory that an annotation writes: `images/`, `masks/`, and at the end `labels.csv` and `scores.csv`.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, settings: dict[str, Any]) -> None:
        """Starts it, or goes on with it.

        Raises:
            RunError: It holds something else, or masks that were made otherwise.
        """
        file = self.path / SETTINGS
        if file.is_file():
            if file.read_text(encoding="utf-8") != _as_json(settings):
                raise RunError(f"{self.path}: holds masks that were made with other settings; choose another --out")
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise RunError(f"{self.path}: is not an empty directory and holds no annotation; choose another --out")
        else:
            write_text(file, _as_json(settings))
        # Until all is done the table lists no image, so that nobody trains on an unfinished source unawares.
        write_text(self.path / "labels.csv", ",".join(LABELS) + "\n")

    def image_name(self, sample: Sample) -> str:
        """The image's name here.

        Raises:
            ImageError: A table cannot hold it.
        """
        try:
            sample.name.encode()
        except UnicodeEncodeError:
            raise ImageError(f"{sample.path!a}: its name is not UTF-8; rename the file") from None
        return sample.name if _has_file(sample) else f"{stem(sample.name)}.png"

    def mask_path(self, sample: Sample) -> Path:
        """The file of the image's mask."""
        return self.path / "masks" / f"{stem(sample.name)}.png"

    def find_mask(self, sample: Sample) -> Bools | None:
        """The mask that an earlier command made, `(H, W)` bool; None if there is none that fits."""
        try:
            mask = read_mask(self.mask_path(sample))
        except ImageError:
            return None
        return mask != 0 if mask.shape == sample.image.shape[:2] else None

    def add(self, sample: Sample, mask: Bools) -> None:
        """Writes an image as its source has it, and then its mask, which says that both are there."""
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


def annotate(sam_directory: Path, prompt: str, data: str, out: Path, split: str = ALL, device: str = "auto") -> int:
    """Lets Segment Anything draw a mask for every image of a source, and measures them where the source has its own.

    All that is not 0 in a mask of the source counts as the object. A bad image is told and skipped. What an interrupted
    command has done is kept.

    Args:
        sam_directory: Directory with `config.json` and `model.safetensors`.
        prompt: `center`, `box`, `grid`, or a CSV file with points.
        data: The source, as for `load_images`.
        out: Directory of the labelled source that comes of it.
        split: Of which images: `train`, `val`, `test` or `all`.
        device: Where SAM computes.

    Returns:
        The exit status: 0, or 1 where something was skipped.

    Raises:
        AHMError: Anything else that the user can mend.
    """
    console = make_console()
    if split not in (*SPLITS, ALL):
        raise SettingsError(f"--split {split} is unknown; choose one of: {', '.join((*SPLITS, ALL))}")
    source = find_source(data, PixelSettings())
    catalogue, prompts = source.catalogue(), find_prompts(prompt)
    refuse_path(data, catalogue.identities)
    sam = SegmentAnything.load(sam_directory, find_device(device))
    if isinstance(prompts, PointTable):
        with _shown(source.catalogue(), console, "checking points") as shown:
            prompts.check(shown, split)
        prompt = f"points {sha256(Path(prompt))}"
    labelled = LabelledSource(out)
    labelled.begin({"data": data, "split": split, "prompt": prompt, "weights": sha256(weights_file(sam_directory))})
    console.print("Ctrl-C stops; the same command goes on where it was.")
    with _shown(catalogue, console, "segmenting") as shown:
        return _annotate(sam, prompts, shown, labelled, split, partial(console.print, markup=False))


def _annotate(
    sam: SegmentAnything,
    prompts: Prompts,
    catalogue: Catalogue,
    labelled: LabelledSource,
    split: str,
    tell: Callable[[str], None],
) -> int:
    """Goes through the images, one at a time; gives the exit status."""
    done, made, scored, problems, total_dice, total_iou = 0, 0, 0, len(catalogue.problems), 0.0, 0.0
    for problem in catalogue.problems:
        tell(f"problem      {problem}")
    labels, scores = labelled.path / "labels.csv", labelled.path / "scores.csv" if catalogue.has_masks else None
    with _table(labels, LABELS) as add_label, _table(scores, ("image", "split", *MEASURES)) as add_score:
        for load in catalogue.samples:
            try:
                sample = load()
                if sample is None or split not in (ALL, SPLITS[sample.split]):
                    continue
                name, mask = labelled.image_name(sample), labelled.find_mask(sample)
                if mask is None:
                    mask, iou = sam.segment(_as_rgb(sample), prompts(sample.name, *sample.image.shape[:2]))
                    labelled.add(sample, mask)
                    made, total_iou = made + 1, total_iou + iou
            except ImageError as error:
                problems += 1
                tell(f"skipped      {error}")
                continue
            done += 1
            add_label(
                (
                    name,
                    catalogue.classes[sample.label] if sample.label >= 0 else "",
                    SPLITS[sample.split],
                    sample.patient,
                )
            )
            if sample.mask is not None:
                score = score_mask(sample.mask != 0, mask)
                scored, total_dice = scored + 1, total_dice + score.dice
                add_score((name, SPLITS[sample.split], *(f"{value:.6g}" for value in astuple(score))))
        if not done:
            raise ImageError(f"{labelled.path}: no image could be annotated (--split {split}); see `ahm data check`")
    confidence = f", mean predicted IoU {total_iou / made:.3f}" if made else ""
    tell(f"masks        {labelled.path / 'masks'}: {done:,}, of them {made:,} made now{confidence}")
    if scored:
        tell(f"scores       {scores}: mean Dice {total_dice / scored:.3f} against the masks of the source")
    if problems:
        tell(f"{problems:,} problem{'s' * (problems > 1)}; mend, and the same command adds what is missing.")
    return 1 if problems else 0


@contextmanager
def _shown(catalogue: Catalogue, console: Console, what: str) -> Iterator[Catalogue]:
    """The same catalogue, which shows how far its samples were taken: a bar, or lines outside a terminal."""
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=catalogue.count)

        def samples() -> Iterator[Load]:
            told = time.monotonic()
            for done, load in enumerate(catalogue.samples, 1):
                yield load
                bar.update(task, completed=done)
                if not console.is_terminal and time.monotonic() - told > LINE_SECONDS:
                    told = time.monotonic()
                    console.print(f"{what}: {done:,} of {catalogue.count:,} images")

        yield replace(catalogue, samples=samples())


@contextmanager
def _table(path: Path | None, header: Sequence[str]) -> Iterator[Callable[[Sequence[str]], object]]:
    """Gives what adds a line to a new CSV file; the file is there when all is done. None is no file."""
    if path is None:
        yield lambda _: None
        return
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        yield writer.writerow


def _as_rgb(sample: Sample) -> Image8:
    """The image as `(H, W, 3)` uint8."""
    try:
        image = to_uint8(sample.image)
    except ImageError as error:
        raise ImageError(f"{sample.path}: {error}") from None
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _has_file(sample: Sample) -> bool:
    """Whether the image is all that is in a file of its own."""
    return is_image(sample.name) and Path(sample.path).name == sample.name


def _as_json(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=2) + "\n"
