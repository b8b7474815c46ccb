"""What a person sees of predicting, evaluating, annotating and exporting."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ahm_env import SettingsError
from ahm_env.console import ProgressBar, make_console, tell_bad_masks, tell_left_out
from ahm_env.files import check_name, write_text
from ahm_env.runs.directory import Interruption
from downstream.evaluation.evaluation import evaluate
from downstream.exporters.export import export
from downstream.prediction.mask_export import MASKS
from downstream.prediction.prediction import OVERLAYS, PROBLEMS, RETURNED, predict
from downstream.prediction.prediction_table import TABLE
from downstream.sam.annotation import annotate

TOLD = 20  # problems on the console; all of them are in the file


def evaluate_model(
    model: Path,
    data: str,
    split: str,
    out: Path | None,
    page: Path | None,
    pictures: Path | None,
    **options: Any,
) -> int:
    """Evaluate a model, show how good it is, and write that where it is asked for; the exit status.

    Args:
        model: Directory of the model.
        data: The source.
        split: Of which images.
        out: JSON file for the numbers.
        page: HTML file for all of it.
        pictures: Directory for a table of all images, and for a picture of the cases or of the confusion.
        **options: Those of `evaluate`.
    """
    if out is not None:
        check_name(out, ".json")
    if page is not None:
        check_name(page, ".html", "--page")
    if pictures is not None and (pictures / "config.json").exists():
        raise SettingsError(f"--pictures {pictures} is a run, whose own test.csv would be lost; give another directory")
    console = make_console()
    with ProgressBar(console, "reading images") as progress:
        found = evaluate(model, data, split, progress=progress, **options)
    tell_left_out(console, found.images)
    tell_bad_masks(console, found.bad_masks)
    for line in (found.table(), *found.remarks):
        console.print(line, markup=False)
    if out is not None:
        write_text(out, json.dumps(found.as_dict(), indent=2) + "\n")
        console.print(f"numbers      {out}", markup=False)
    if page is not None:
        found.write_page(page)
        console.print(f"page         {page}", markup=False)
    if pictures is not None:
        found.assessed.write(pictures)
        segments = found.as_dict()["task"] == "segmentation"
        console.print(f"picture      {pictures / ('cases.png' if segments else 'confusion.png')}", markup=False)
        console.print(f"each image   {pictures / 'test.csv'}", markup=False)
        if segments and found.several:
            console.print(f"each patient {pictures / 'patients.csv'}", markup=False)
    return 0


def predict_images(model: Path, paths: Sequence[Path], out: Path, *, overlays: bool, **options: Any) -> int:
    """Predict images into a directory, or go on with that.

    Args:
        model: Directory of the model.
        paths: The images.
        out: The directory.
        overlays: Draw what was found on the images; of segmentation.
        **options: Those of `predict`.

    Returns:
        The exit status: 0, 1 where an image could not be used, or 128 + the signal that ended it.
    """
    console, interruption = make_console(), Interruption()
    found = predict(model, paths, out, overlays=overlays, stopped=lambda: interruption.signal is not None, **options)
    for note in found.notes:
        console.print(f"note         {note}", markup=False)
    task, where = found.card.task, found.device
    console.print(
        f"{task} with {model}: {found.total - found.before:,} images to predict, {found.before:,} done before; {where}",
        markup=False,
    )
    with ProgressBar(console, "predicting", found.total, found.before) as show, interruption.watch():
        for _ in found:
            show(found.done, found.total)
    if interruption.signal is not None:
        name = signal.Signals(interruption.signal).name
        console.print(f"Stopped by {name}; all that was predicted is saved. The same command goes on where it was.")
        return 128 + interruption.signal
    for note in found.not_returned:
        console.print(f"note         {note}", markup=False)
    for _, problem in found.problems[:TOLD]:
        console.print(f"problem      {problem}", markup=False)
    if len(found.problems) > TOLD:
        console.print(f"problem      … and {len(found.problems) - TOLD:,} more")
    good = found.total - found.refused - found.empty
    empty = f"; {found.empty:,} show nothing or are left out" if found.empty else ""
    console.print(f"table        {out / TABLE}: {good:,} of {found.total:,} images{empty}", markup=False)
    if task == "segmentation":
        console.print(f"masks        {out / MASKS}", markup=False)
        if overlays:
            console.print(f"overlays     {out / OVERLAYS}", markup=False)
    if found.problems:
        what, count = ("image", found.refused) if found.refused else ("result", len(found.problems))
        bad = f"{count:,} {what}" + "s" * (count > 1)
        console.print(f"problems     {out / PROBLEMS}: {bad}; mend, and the same command adds them", markup=False)
    if found.returned:
        what = "which file of masks/ has the mask of which image"
        console.print(f"returned     {out / RETURNED}: {what}", markup=False)
    return 1 if found.problems else 0


def annotate_images(sam: Path, data: str, out: Path, prompt: str, split: str, device: str) -> int:
    """Let Segment Anything draw masks, or go on with that; the exit status: 0, or 1 where something was skipped."""
    console = make_console()
    console.print("Ctrl-C stops; the same command goes on where it was.")
    with ProgressBar(console, "segmenting") as progress:
        found = annotate(sam, data, out, prompt=prompt, split=split, device=device, progress=progress)
    for problem in found.problems:
        console.print(f"skipped      {problem}", markup=False)
    confidence = f", mean predicted IoU {found.predicted_iou:.3f}" if found.made else ""
    console.print(
        f"masks        {out / 'masks'}: {found.done:,}, of them {found.made:,} made now{confidence}", markup=False
    )
    if found.scored:
        console.print(
            f"scores       {out / 'scores.csv'}: mean Dice {found.dice:.3f} against the masks of the source",
            markup=False,
        )
    count = len(found.problems)
    if count:
        console.print(f"{count:,} problem{'s' * (count > 1)}; mend, and the same command adds what is missing.")
    return 1 if count else 0


def export_model(source: Path, form: str, out: Path) -> int:
    """Export a network, and say how exact the file is and how to use it; the exit status, 0."""
    found = export(source, out, form)
    console = make_console()
    size = f"{found.path}: {found.path.stat().st_size / 1e6:,.1f} MB"
    for line in (size, found.accuracy, *found.usage):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0
