"""Prediction: masks or classes for new images, in flat memory, whatever is wrong with some of them."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ahm_env import ImageError
from ahm_env.console import make_console
from ahm_env.files import sha256
from ahm_env.images.building import in_order
from ahm_env.images.encoding import save_picture
from ahm_env.images.source import Sample
from ahm_env.runs.directory import Interruption
from downstream.evaluation.cropping import SEGMENTER_FILE, crop, load_tuned
from downstream.evaluation.pictures import Case, draw_overlay
from downstream.evaluation.segmentation import BATCH, Mask, in_batches, segment
from downstream.evaluation.tables import write_rows
from downstream.models.model import MODEL_FILE, Card, Model
from downstream.models.resizing import to_square
from downstream.prediction.inputs import Problem, find_images, stem
from downstream.prediction.mask_export import MASKS, Returning
from downstream.prediction.prediction_table import TABLE, growing_table

PROBLEMS, RETURNED = "problems.csv", "returned.csv"
TOLD = 20  # problems on the console; all of them are in the file
LINE_SECONDS = 30.0  # between two lines about progress, outside a terminal


@dataclass(frozen=True)
class Prediction:
    """What a model makes of one image.

    Attributes:
        sample: The image.
        probabilities: `(K,)`; of segmentation their mean over the image.
        mask: Of segmentation, `(H, W)` uint8 numbers of the card's classes; else None.
    """

    sample: Sample
    probabilities: npt.NDArray[np.float32]
    mask: Mask | None

    def row(self, card: Card) -> list[str]:
        """Its row of `predictions.csv`, see `columns`."""
        row = [self.sample.name]
        if self.mask is None:
            row.append(card.classes[int(self.probabilities.argmax())])
        else:
            for number in range(1, len(card.classes)):
                area = np.count_nonzero(self.mask == number)
                row += [str(area), f"{area / self.mask.size:.6g}"]
        return row + [f"{share:.6g}" for share in self.probabilities]

    def save(self, out: Path, card: Card, overlays: bool) -> list[str]:
        """Write its mask and overlay, if it has a mask; gives its row."""
        if self.mask is not None:
            name = f"{stem(self.sample.name)}.png"
            numbers = np.array((0, 255) if card.values == (0, 1) else card.values, np.uint8)
            save_picture(out / MASKS / name, numbers[self.mask])
            if overlays:
                save_picture(out / "overlays" / name, draw_overlay(Case("", self.sample.image, None, self.mask)))
        return self.row(card)


def columns(card: Card) -> list[str]:
    """Columns of `predictions.csv`: the image; its class, or the pixels of each class and their share; probabilities.

    `p CLASS` is a probability, of segmentation its mean over the image. Where there is one class beside the background,
    its pixels are `area`, else `area CLASS`.
    """
    found = [f" {name}" for name in card.classes[1:]] if len(card.classes) > 2 else [""]
    areas = [f"{what}{name}" for name in found for what in ("area", "area_share")]
    middle = areas if card.task == "segmentation" else ["prediction"]
    return ["image", *middle, *(f"p {name}" for name in card.classes)]


def predict_samples(
    model: Model,
    segmenter: Model | None,
    samples: Iterable[Sample],
    refuse: Callable[[Sample, ImageError], object],
    flips: bool = False,
) -> Iterator[Prediction]:
    """Predict images one after the other, in flat memory.

    Args:
        model: Of either task.
        segmenter: A classifier's images are cut to what this one finds; None leaves them as they are.
        samples: Images at their own size, each with a finite value.
        refuse: Is told of an image whose cut-out part cannot be used.
        flips: Test-time augmentation.
    """
    card = model.card
    if card.task == "segmentation":
        for found in segment(model, samples, flips):
            yield Prediction(found.sample, found.probabilities, found.mask)
        return

    def squares() -> Iterator[Sample]:
        for sample in samples:
            try:
                seen = sample if segmenter is None else crop(sample, segmenter)
                yield replace(sample, image=to_square(seen.image, card))
            except ImageError as error:
                refuse(sample, error)

    for some in in_batches(squares(), BATCH):
        shares = model.probabilities(np.stack([sample.image for sample in some]), flips)
        for sample, row in zip(some, shares, strict=True):
            yield Prediction(sample, row, None)


@dataclass
class Tally:
    """What became of images that have no row.

    Attributes:
        problems: What is wrong, each with the image or file that it was found at.
        refused: Images that could not be used.
        empty: Images that show nothing.
    """

    problems: list[Problem]
    refused: int = 0
    empty: int = 0

    def refuse(self, name: str, error: ImageError) -> None:
        """Count an image that cannot be used."""
        self.refused += 1
        self.tell(name, str(error))

    def tell(self, name: str, problem: str) -> None:
        """Note a problem; the slices of a damaged volume all have the same, which is told once."""
        if not self.problems or self.problems[-1][1] != problem:
            self.problems.append((name.encode("utf-8", "backslashreplace").decode(), problem))

    def tell_all(self, found: Iterable[Problem | None]) -> None:
        """Note the problems among what is found."""
        for problem in found:
            if problem is not None:
                self.tell(*problem)


def predict(
    tuned: Path,
    paths: Sequence[Path],
    out: Path,
    flips: bool = False,
    overlays: bool = True,
    device: str = "auto",
    burned_in: bool = False,
    precision: str = "auto",
) -> int:
    """Predict images into a directory; the same command goes on where an earlier one was stopped.

    Args:
        tuned: Directory that `ahm finetune` wrote.
        paths: Images and folders of images: of the usual formats, NIfTI volumes, DICOM files and trees.
        out: Directory for `predictions.csv` and, of segmentation, `masks/` and `overlays/`.
        flips: Test-time augmentation.
        overlays: Draw what was found on the images; of segmentation.
        device: Where to compute.
        burned_in: Take DICOM images in that say that text is burned into them.
        precision: Of the networks' layers: `fp32`, `bf16`, or `auto`.

    Returns:
        The exit status: 0, 1 where an image could not be used, or 128 + the signal that ended it.

    Raises:
        AHMError: Anything else that the user can mend.
        OSError: The disk is full; what was written is whole.
    """
    console = make_console()
    model, segmenter = load_tuned(tuned, device, precision)
    card = model.card
    images = find_images(paths, replace(card.pixels, burned_in=burned_in))
    weights = tuned / MODEL_FILE if tuned.is_dir() else tuned
    about = {
        "model": sha256(weights),
        "segmenter": sha256(weights.with_name(SEGMENTER_FILE)) if segmenter is not None else None,
        "tta": flips,
        "overlays": overlays and card.task == "segmentation",
        "folders": images.folders,
    }
    tally, interruption = Tally(images.problems), Interruption()
    with growing_table(out, about, columns(card), images.names) as (table, done):
        returning = Returning(out, card, str(about["model"]), images.groups)
        for note in images.notes:
            console.print(f"note         {note}", markup=False)
        left = len(images.names) - len(done)
        console.print(
            f"{card.task} with {tuned}: {left:,} images to predict, {len(done):,} done before; {model.device}",
            markup=False,
        )

        def samples() -> Iterator[Sample]:
            for place, name, loaded in in_order(images.loads(done), BATCH):
                if interruption.signal is not None:
                    return
                returning.loaded(place, name, loaded)
                if isinstance(loaded, Sample):
                    yield loaded
                elif loaded is None:
                    tally.empty += 1
                else:
                    tally.refuse(name, loaded)

        found = predict_samples(
            model, segmenter, samples(), lambda sample, error: tally.refuse(sample.name, error), flips
        )
        rows = in_order((partial(one.save, out, card, overlays) for one in found), BATCH)
        with _shown(console, len(images.names), len(done)) as show, interruption.watch(), closing(rows):
            for written, row in enumerate(rows, len(done) + 1):
                table.append(row)
                tally.tell_all(returning.written(row[0]))
                show(written + tally.refused + tally.empty)
            if interruption.signal is None:
                tally.tell_all(takewhile(lambda _: interruption.signal is None, returning.rest()))
        if returning.files and interruption.signal is None:
            write_rows(out / RETURNED, returning.files)
        else:
            (out / RETURNED).unlink(missing_ok=True)
        if tally.problems:
            write_rows(out / PROBLEMS, [{"image": name, "problem": problem} for name, problem in tally.problems])
        else:
            (out / PROBLEMS).unlink(missing_ok=True)
    if interruption.signal is not None:
        name = signal.Signals(interruption.signal).name
        console.print(f"Stopped by {name}; all that was predicted is saved. The same command goes on where it was.")
        return 128 + interruption.signal
    for note in returning.notes:
        console.print(f"note         {note}", markup=False)
    _conclude(console, out, len(images.names), about["overlays"] is True, card, tally)
    if returning.files:
        what = "which file of masks/ has the mask of which image"
        console.print(f"returned     {out / RETURNED}: {what}", markup=False)
    return 1 if tally.problems else 0


@contextmanager
def _shown(console: Console, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar, or lines outside a terminal, for images that are being predicted."""
    bar_columns = TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*bar_columns, console=console, disable=not console.is_terminal) as bar:
        task, told = bar.add_task("", total=total, completed=done), time.monotonic()

        def show(completed: int) -> None:
            nonlocal told
            bar.update(task, completed=completed)
            if not console.is_terminal and time.monotonic() - told > LINE_SECONDS:
                told = time.monotonic()
                console.print(f"{completed:>9,} of {total:,} images predicted")

        yield show


def _conclude(console: Console, out: Path, total: int, overlays: bool, card: Card, tally: Tally) -> None:
    """What could not be predicted, and where the rest is."""
    problems, good = tally.problems, total - tally.refused - tally.empty
    for _, problem in problems[:TOLD]:
        console.print(f"problem      {problem}", markup=False)
    if len(problems) > TOLD:
        console.print(f"problem      … and {len(problems) - TOLD:,} more")
    empty = f"; {tally.empty:,} show nothing or are left out" if tally.empty else ""
    console.print(f"table        {out / TABLE}: {good:,} of {total:,} images{empty}", markup=False)
    if card.task == "segmentation":
        console.print(f"masks        {out / MASKS}", markup=False)
    if overlays:
        console.print(f"overlays     {out / 'overlays'}", markup=False)
    if problems:
        what, count = ("image", tally.refused) if tally.refused else ("result", len(problems))
        bad = f"{count:,} {what}" + "s" * (count > 1)
        console.print(f"problems     {out / PROBLEMS}: {bad}; mend, and the same command adds them", markup=False)
