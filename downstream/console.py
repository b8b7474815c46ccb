"""What a person sees of predicting, evaluating, annotating and exporting."""

import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from ahm_env.console import ProgressBar, make_console, warn_bad_masks, warn_left_out
from ahm_env.files import check_name, write_text
from ahm_env.runs.directory import Interruption
from ahm_env.runs.owned_directory import check_json
from downstream.evaluation.evaluation import evaluate
from downstream.evaluation.tables import OF_IMAGES, OF_PATIENTS, check_directory
from downstream.exporters.export import export
from downstream.prediction.mask_export import MASKS
from downstream.prediction.prediction import OVERLAYS, PROBLEMS, RETURNED, predict
from downstream.prediction.prediction_table import TABLE
from downstream.sam.annotation import annotate

FineTuned = Annotated[Path, typer.Option("--from", help="Directory that finetune wrote.")]
TestTimeAugmentation = Annotated[bool, typer.Option("--tta", help="Average over mirror images.")]
BurnedIn = Annotated[bool, typer.Option("--burned-in", help="Take in DICOM images with burned-in text.")]
AnyDevice = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]
Precision = Annotated[str, typer.Option(help="fp32, bf16, or auto: bf16 where there are instructions for it.")]

TOLD = 20  # problems on the console; all of them are in the file


def evaluate_model(
    model: FineTuned,
    data: Annotated[str, typer.Option(help="Labelled images: a folder, a .npz file, or phantom[:COUNT[:SEED]].")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers.")] = None,
    page: Annotated[Path | None, typer.Option(help="HTML file for all of it.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Directory for test.csv, and cases.png or confusion.png.")
    ] = None,
    tta: TestTimeAugmentation = False,
    ignore: Annotated[
        str | None,
        typer.Option(help="Number in masks that is no class and not scored, or none.", show_default="the model's"),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without images that cannot be read.")] = False,
    burned_in: BurnedIn = False,
    device: AnyDevice = "auto",
    precision: Precision = "auto",
) -> int:
    """Measure a fine-tuned model on labelled images: means with 95 % intervals over patients, at their own size."""
    options = {
        "tta": tta,
        "ignore": ignore,
        "skip_bad": skip_bad,
        "burned_in": burned_in,
        "device": device,
        "precision": precision,
    }
    if out is not None:
        check_json(out)
    if page is not None:
        check_name(page, ".html", "--page")
    if pictures is not None:
        check_directory(pictures, "--pictures")
    console = make_console()
    with ProgressBar(console, "reading images") as progress:
        found = evaluate(model, data, split, progress=progress, **options)  # type: ignore[arg-type]
    warn_left_out(console, found.images)
    warn_bad_masks(console, found.bad_masks, found.unknown_masks)
    for line in (found.table(), *found.remarks):
        console.print(line)
    if out is not None:
        write_text(out, json.dumps(found.as_dict(), indent=2) + "\n")
        console.print(f"numbers      {out}")
    if page is not None:
        found.write_page(page)
        console.print(f"page         {page}")
    if pictures is not None:
        found.assessed.write(pictures)
        segments = found.as_dict()["task"] == "segmentation"
        console.print(f"picture      {pictures / ('cases.png' if segments else 'confusion.png')}")
        console.print(f"each image   {pictures / OF_IMAGES}")
        if segments and found.several:
            console.print(f"each patient {pictures / OF_PATIENTS}")
    return 0


def predict_images(
    model: FineTuned,
    paths: Annotated[list[Path], typer.Argument(help="Images, NIfTI volumes, DICOM files, and folders of these.")],
    out: Annotated[Path, typer.Option(help="Directory for predictions.csv, masks/ and overlays/.")],
    tta: TestTimeAugmentation = False,
    overlays: Annotated[bool, typer.Option(help="Draw what was found on the images.")] = True,
    burned_in: BurnedIn = False,
    device: AnyDevice = "auto",
    precision: Precision = "auto",
) -> int:
    """Find masks, at the size of the images, or classes for images without labels.

    The same command goes on where it was. Ends with status 1 where images could not be used, see problems.csv.
    """
    console, interruption = make_console(), Interruption()
    found = predict(
        model,
        paths,
        out,
        overlays=overlays,
        tta=tta,
        burned_in=burned_in,
        device=device,
        precision=precision,
        stopped=lambda: interruption.signal is not None,
    )
    before = len(found.notes)
    for note in found.notes:
        console.print(f"note         {note}")
    task, where = found.spec.task, found.device
    console.print(
        f"{task} with {model}: {found.total - found.before:,} images to predict, {found.before:,} done before; {where}"
    )
    with ProgressBar(console, "predicting", found.total, found.before) as show, interruption.watch():
        for _ in found:
            show(found.done, found.total)
    if interruption.signal is not None:
        name = signal.Signals(interruption.signal).name
        console.print(f"Stopped by {name}; all that was predicted is saved. The same command goes on where it was.")
        return 128 + interruption.signal
    for note in (*found.notes[before:], *found.not_returned):
        console.print(f"note         {note}")
    for _, problem in found.problems[:TOLD]:
        console.print(f"problem      {problem}")
    if len(found.problems) > TOLD:
        console.print(f"problem      … and {len(found.problems) - TOLD:,} more")
    good = found.total - found.refused - found.empty
    empty = f"; {found.empty:,} show nothing or are left out" if found.empty else ""
    console.print(f"table        {out / TABLE}: {good:,} of {found.total:,} images{empty}")
    if task == "segmentation":
        console.print(f"masks        {out / MASKS}")
        if overlays:
            console.print(f"overlays     {out / OVERLAYS}")
    if found.problems:
        what, count = ("image", found.refused) if found.refused else ("result", len(found.problems))
        bad = f"{count:,} {what}" + "s" * (count > 1)
        console.print(f"problems     {out / PROBLEMS}: {bad}; mend, and the same command adds them")
    if found.returned:
        what = "which file of masks/ has the mask of which image"
        console.print(f"returned     {out / RETURNED}: {what}")
    return 1 if found.problems else 0


def annotate_images(
    sam: Annotated[Path, typer.Option(help="Directory with config.json and model.safetensors of a SAM.")],
    data: Annotated[
        str, typer.Option(help="Images: a folder, a file (.npz, .nii.gz, DICOM), or phantom[:COUNT[:SEED]].")
    ],
    out: Annotated[Path, typer.Option(help="Directory of the labelled source that comes of it.")],
    prompt: Annotated[
        str, typer.Option(help="center, box, grid, or a CSV file of points: image,x,y[,label] in pixels.")
    ] = "center",
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    ignore: Annotated[
        int | None, typer.Option(help="Number in masks that is no class: such pixels are not scored.")
    ] = None,
    device: AnyDevice = "auto",
) -> int:
    """Let Segment Anything draw masks, for training; where the source has masks, measure its own against them.

    The same command goes on where it was. Ends with status 1 where images were skipped.
    """
    console = make_console()
    console.print("Ctrl-C stops; the same command goes on where it was.")
    with ProgressBar(console, "segmenting") as progress:
        found = annotate(sam, data, out, prompt=prompt, split=split, ignore=ignore, device=device, progress=progress)
    for problem in found.problems:
        console.print(f"skipped      {problem}")
    confidence = f", mean predicted IoU {found.predicted_iou:.3f}" if found.made else ""
    console.print(f"masks        {out / 'masks'}: {found.done:,}, of them {found.made:,} made now{confidence}")
    if found.scored:
        console.print(f"scores       {out / 'scores.csv'}: mean Dice {found.dice:.3f} against the masks of the source")
    count = len(found.problems)
    if count:
        console.print(f"{count:,} problem{'s' * (count > 1)}; mend, and the same command adds what is missing.")
    return 1 if count else 0


def export_model(
    source: Annotated[
        Path, typer.Option("--from", help="Directory that finetune wrote; or train-agent, for pytorch-unet.")
    ],
    out: Annotated[Path, typer.Option(help="File to write.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx, or pytorch-unet: a .pth for milesial/Pytorch-UNet; of a U-Net that was pretrained without skip "
            "connections, which that has, the encoder is what to take.",
        ),
    ] = "onnx",
) -> int:
    """Write a trained network for other programs, after checking that it computes the same there."""
    found = export(source, out, form)
    console = make_console()
    size = f"{found.path}: {found.path.stat().st_size / 1e6:,.1f} MB"
    for line in (size, found.accuracy, *found.usage):
        console.print(line, soft_wrap=True)
    return 0
