"""Prediction: masks or classes for new images, in flat memory, whatever is wrong with some of them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ahm_env import ImageError
from ahm_env.files import Saved, as_utf8, path_of, sha256, write_rows
from ahm_env.images.dataset.builder import THREADS, in_order
from ahm_env.images.formats.files import image_stem
from ahm_env.images.pixels.png import save_picture
from ahm_env.images.source import Sample
from downstream.evaluation.cropping import SEGMENTER_FILE, crop, load_tuned
from downstream.evaluation.pictures import Case, draw_overlay
from downstream.evaluation.segmentation import BATCH, Mask, in_batches, segment
from downstream.models.model import MODEL_FILE, Model, ModelSpec
from downstream.models.resizing import to_square
from downstream.prediction.inputs import Incoming, Problem, find_images
from downstream.prediction.mask_export import MASKS, Returning
from downstream.prediction.prediction_table import GrowingTable, PredictionDirectory

PROBLEMS, RETURNED, OVERLAYS = "problems.csv", "returned.csv", "overlays"


@dataclass(frozen=True)
class Prediction:
    """What a model makes of one image.

    Attributes:
        sample: The image.
        probabilities: `(K,)`; of segmentation their mean over the image.
        mask: Of segmentation, `(H, W)` uint8 numbers of the spec's classes; else None.
    """

    sample: Sample
    probabilities: npt.NDArray[np.float32]
    mask: Mask | None

    @property
    def name(self) -> str:
        """Name of the image."""
        return self.sample.name

    def row(self, spec: ModelSpec) -> list[str]:
        """Its row of `predictions.csv`, see `columns`."""
        row = [self.sample.name]
        if self.mask is None:
            row.append(spec.classes[int(self.probabilities.argmax())])
        else:
            for number in range(1, len(spec.classes)):
                area = np.count_nonzero(self.mask == number)
                row += [str(area), f"{area / self.mask.size:.6g}"]
        return row + [f"{share:.6g}" for share in self.probabilities]

    def save(self, out: Path, spec: ModelSpec, overlays: bool) -> list[str]:
        """Write its mask and overlay, if it has a mask; gives its row."""
        if self.mask is not None:
            name = f"{image_stem(self.sample.name)}.png"
            numbers = np.array((0, 255) if spec.values == (0, 1) else spec.values, np.uint8)
            save_picture(out / MASKS / name, numbers[self.mask])
            if overlays:
                save_picture(out / OVERLAYS / name, draw_overlay(Case("", self.sample.image, None, self.mask)))
        return self.row(spec)


def columns(spec: ModelSpec) -> list[str]:
    """Columns of `predictions.csv`: the image; its class, or the pixels of each class and their share; probabilities.

    `p CLASS` is a probability, of segmentation its mean over the image. Where there is one class beside the background,
    its pixels are `area`, else `area CLASS`.
    """
    found = [f" {name}" for name in spec.classes[1:]] if len(spec.classes) > 2 else [""]
    areas = [f"{what}{name}" for name in found for what in ("area", "area_share")]
    middle = areas if spec.task == "segmentation" else ["prediction"]
    return ["image", *middle, *(f"p {name}" for name in spec.classes)]


def predict_samples(
    model: Model,
    segmenter: Model | None,
    samples: Iterable[Sample],
    refuse: Callable[[str, ImageError], object],
    tta: bool = False,
) -> Iterator[Prediction]:
    """Predict images one after the other, in flat memory.

    Args:
        model: Of either task.
        segmenter: A classifier's images are cut to what this one finds; None leaves them as they are.
        samples: Images at their own size, each with a finite value.
        refuse: Called with the name of an image whose cut-out part cannot be used.
        tta: Test-time augmentation.
    """
    spec = model.spec
    if spec.task == "segmentation":
        for found in segment(model, samples, tta):
            yield Prediction(found.sample, found.probabilities, found.mask)
        return

    def squares() -> Iterator[Sample]:
        for sample in samples:
            try:
                seen = sample if segmenter is None else crop(sample, segmenter)
                yield replace(sample, image=to_square(seen.image, spec))
            except ImageError as error:
                refuse(sample.name, error)

    for some in in_batches(squares(), BATCH):
        shares = model.probabilities(np.stack([sample.image for sample in some]), tta)
        for sample, row in zip(some, shares, strict=True):
            yield Prediction(sample, row, None)


class Predictions:
    """What a model makes of images, found while a program goes through them; with a directory, it is written there.

    Attributes:
        spec: What the model is.
        device: Where it computes.
        total: Number of all images.
        before: Number of those that were predicted by earlier calls; they do not come again.
        done: Number of images that were gone through, those included.
        refused: Number of images that could not be used.
        empty: Number of images that show nothing.
        problems: What is wrong, each with the image or file that it was found at.
        returned: Of each image the volume or series in which its mask was given back; complete at the end.
        not_returned: What could not be given back, but for no fault.
    """

    def __init__(
        self,
        model: Model,
        segmenter: Model | None,
        images: Incoming,
        tta: bool,
        out: PredictionDirectory | None,
        stopped: Callable[[], bool],
    ) -> None:
        self.spec, self.device, self.total = model.spec, model.device, len(images.names)
        self._model, self._segmenter, self._images, self._tta, self._out = model, segmenter, images, tta, out
        self._stopped = stopped
        self.before = len(out.rows()) - 1 if out is not None else 0
        self._start()

    def _start(self) -> None:
        self.done, self.refused, self.empty = self.before, 0, 0
        self.problems: list[Problem] = list(self._images.problems)
        self._remarks = Counter[str]()
        self.returned: list[dict[str, str]] = []
        self.not_returned: list[str] = []

    @property
    def notes(self) -> list[str]:
        """What is worth knowing but is no fault; of the images' files it is what those gone through so far have."""
        return [*self._images.notes, *(f"{count:,} {remark}" for remark, count in self._remarks.items())]

    def __iter__(self) -> Iterator[Prediction]:
        """Go through the images.

        Raises:
            RunError: Another process is predicting into the directory.
            OSError: The disk is full; what was written is whole.
        """
        out = self._out
        tables = out.growing_tables() if out is not None else nullcontext((None, None, set[str]()))
        with tables as (table, files, done):
            self.before = len(done)
            self._start()
            returning = None if out is None else Returning(out.path, self.spec, out.about["model"], self._images)
            samples = self._samples(done, files, returning)
            found = predict_samples(self._model, self._segmenter, samples, self._refuse, self._tta)
            saved = in_order((partial(self._save, one) for one in found), BATCH, behind=True)
            with closing(saved):
                for prediction, row in saved:
                    self.done += 1
                    if table is not None and returning is not None:
                        table.append(row)
                        self._note_all(returning.written(prediction.name))
                    yield prediction
            if out is not None and returning is not None:
                self._note_all(takewhile(lambda _: not self._stopped(), returning.rest()))
                self.not_returned = returning.notes
                self.returned = [] if self._stopped() else returning.files
                problems = [{"image": name, "problem": problem} for name, problem in self.problems]
                for file, rows in ((RETURNED, self.returned), (PROBLEMS, problems)):
                    if rows:
                        write_rows(out.path / file, rows)
                    else:
                        (out.path / file).unlink(missing_ok=True)

    def _samples(self, done: set[str], files: GrowingTable | None, returning: Returning | None) -> Iterator[Sample]:
        # more than a batch ahead, so that the network never waits for the last of the next one
        for entry, loaded, stamp in in_order(self._images.loads(done), BATCH + THREADS, behind=True):
            if self._stopped():
                return
            if returning is not None:
                returning.loaded(entry, loaded)
            if isinstance(loaded, Sample):
                if files is not None:
                    files.append([entry.name, stamp])
                self._remarks.update(loaded.remarks)
                yield loaded
            elif loaded is None:
                self.empty += 1
                self.done += 1
            else:
                self._refuse(entry.name, loaded)

    def _save(self, prediction: Prediction) -> tuple[Prediction, list[str]]:
        out = self._out
        return prediction, [] if out is None else prediction.save(out.path, self.spec, out.about["overlays"])

    def _refuse(self, name: str, error: ImageError) -> None:
        """Count an image that cannot be used."""
        self.refused += 1
        self.done += 1
        self._note(name, str(error))

    def _note(self, name: str, problem: str) -> None:
        """Note a problem; the slices of a damaged volume all have the same, which is noted once."""
        name, problem = as_utf8(name), as_utf8(problem)
        if not self.problems or self.problems[-1][1] != problem:
            self.problems.append((name, problem))

    def _note_all(self, found: Iterable[Problem | None]) -> None:
        for problem in found:
            if problem is not None:
                self._note(*problem)


def predict(
    model: str | Path | Saved,
    paths: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    tta: bool = False,
    overlays: bool = True,
    burned_in: bool = False,
    device: str = "auto",
    precision: str = "auto",
    stopped: Callable[[], bool] = lambda: False,
) -> Predictions:
    """Predict masks or classes of images, one after the other, in flat memory.

    Args:
        model: A fine-tuned model, or its directory.
        paths: Images and folders of images: of the usual formats, NIfTI volumes, DICOM files and trees.
        out: Directory for `predictions.csv` and, of segmentation, `masks/` and `overlays/`, written while a program
            goes through the predictions; the same call goes on where an earlier one was stopped. None for none.
        tta: Test-time augmentation by mirror images.
        overlays: Draw what was found on the images; of segmentation.
        burned_in: Take DICOM images in that say that text is burned into them.
        device: Where to compute.
        precision: Of the networks' layers: `fp32`, `bf16`, or `auto`.
        stopped: Asked before each image; where it is true, the predictions end, and all that was found is kept.

    Returns:
        The predictions, to be gone through.

    Raises:
        AHMError: Anything that the user can mend.
    """
    path = path_of(model)
    tuned, segmenter = load_tuned(path, device, precision)
    spec = tuned.spec
    images = find_images([Path(one) for one in paths], replace(spec.pixels, burned_in=burned_in))
    output = None
    if out is not None:
        weights = path / MODEL_FILE if path.is_dir() else path
        about = {
            "model": sha256(weights),
            "segmenter": sha256(weights.with_name(SEGMENTER_FILE)) if segmenter is not None else None,
            "tta": tta,
            "overlays": overlays and spec.task == "segmentation",
            "folder": images.folders,
        }
        output = PredictionDirectory(Path(out), about, columns(spec), images)
    return Predictions(tuned, segmenter, images, tta, output, stopped)
