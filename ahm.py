"""Adaptive hard masking: pretrain a U-Net on medical images without labels, by hiding what is worth learning."""

import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

MARKER = "belongs to ahm-env"  # stands in `__init__.py` of packages with common names
# Where each command is, and what it is for, in the order of the help; only what is called is imported
COMMANDS = {
    "train-agent": (
        "agents.pretraining.console:train_agent",
        "Train an agent that hides patches, and the U-Net that reconstructs them.",
    ),
    "finetune": (
        "downstream.finetuning.console:finetune",
        "Fine-tune a U-Net, pretrained or not, on few labelled images, and test it once at the end.",
    ),
    "compare-agents": (
        "downstream.comparison.console:compare_agents",
        "Train agents with paired seeds, and judge them all on one U-Net: tables, results.csv and report.html.",
    ),
}


class Command(typer.core.TyperCommand):
    """A command that is imported when it is called."""

    def __init__(self, name: str, place: str, sentence: str) -> None:
        super().__init__(name, help=sentence)
        self.place = place

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the command, and let it read its arguments."""
        from importlib import import_module

        from ahm_env.runs.flags import command

        module, _, function = self.place.partition(":")
        app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
        app.command(self.name)(command(getattr(import_module(module), function)))
        return typer.main.get_command(app).make_context(info_name, args, parent, **extra)


class Commands(typer.core.TyperGroup):
    """All commands: those of `COMMANDS` come first."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        lazy = {name: Command(name, *about) for name, about in COMMANDS.items()}
        self.commands = {**lazy, **self.commands}


app = typer.Typer(
    cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__
)
data_app = typer.Typer(no_args_is_help=True, help="Look at images, split and import them.")
app.add_typer(data_app, name="data")


def flag(name: str, text: str, default: str | bool = False, panel: str = "Run") -> Any:
    """An option whose default is the run's own: `None` here means that the user did not name it."""
    return typer.Option(name, help=text, show_default=default, rich_help_panel=panel)


def tell_version(asked: bool) -> None:
    """Print the version, and end."""
    if asked:
        from importlib.metadata import version

        print(f"ahm {version('ahm-env')}")
        raise typer.Exit


@app.callback(help=__doc__)
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=tell_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Options of `ahm` itself."""


Window = Annotated[
    str | None,
    flag("--window", "Of CT: lung, bone, brain, soft, or CENTRE,WIDTH.", "the file's own", "Images and masks"),
]
Axis = Annotated[
    str | None, flag("--axis", "Slices of volumes: sagittal, coronal or axial.", "axial", "Images and masks")
]
BurnedIn = Annotated[
    bool | None,
    typer.Option(
        "--burned-in",
        help="Take DICOM images in that say that text, a name perhaps, is burned into them.",
        show_default=False,
        rich_help_panel="Images and masks",
    ),
]
Runs = Annotated[list[Path], typer.Argument(help="Directories that train-agent wrote.", show_default=False)]


@app.command("evaluate-agent")
def evaluate_agent(
    runs: Runs,
    unet: Annotated[
        Path | None, typer.Option(help="File of the U-Net that judges.", show_default="each run's own")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images: their test split, else val, else held out.", show_default="each run's held-out ones"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers.", show_default=False)] = None,
) -> None:
    """Judge the agents of runs: how hard their masks are, how varied, and how much of the lesion they hide."""
    from downstream.comparison.console import evaluate_agents

    raise typer.Exit(evaluate_agents(runs, unet, data, out))


@app.command("report")
def report(
    runs: Runs,
    out: Annotated[
        Path | None, typer.Option(help="The page.", show_default="RUN/report.html, of several runs report.html")
    ] = None,
) -> None:
    """Make one self-contained page of runs: table, curves, and how masks evolved."""
    from downstream.comparison.console import report_runs

    raise typer.Exit(report_runs(runs, out))


@app.command("annotate")
def annotate(
    sam: Annotated[
        Path, typer.Option(help="Directory with config.json and model.safetensors of a SAM.", show_default=False)
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Images: a folder, a file (.npz, .nii.gz, DICOM), or phantom[:COUNT[:SEED]].", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory of the labelled source that comes of it.", show_default=False)],
    prompt: Annotated[
        str, typer.Option(help="center, box, grid, or a CSV file of points: image,x,y[,label] in pixels.")
    ] = "center",
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
) -> None:
    """Let Segment Anything draw masks, for training; where the source has masks, measure its own against them.

    The same command goes on where it was. Ends with status 1 where images were skipped.
    """
    from downstream.console import annotate_images

    raise typer.Exit(annotate_images(sam, data, out, prompt, split, device))


@data_app.command("check")
def data_check(
    source: Annotated[str, typer.Argument(help="A folder, a file (.npz, .nii.gz, DICOM), or phantom[:COUNT[:SEED]].")],
    window: Window = None,
    axis: Axis = None,
    burned_in: BurnedIn = None,
    every: Annotated[bool, typer.Option("--all", help="Show all of many problems that are alike.")] = False,
) -> None:
    """Print counts, sizes, classes and splits, and problems with their files; if there is one, end with status 2."""
    from ahm_env.images.console import check_data

    raise typer.Exit(check_data(source, window, axis or "axial", bool(burned_in), every))


@data_app.command("show")
def data_show(
    source: Annotated[str, typer.Argument(help="As for check.")],
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("contact-sheet.png"),
    count: Annotated[int, typer.Option(help="Images on it.", min=1)] = 24,
    seed: Annotated[int, typer.Option(help="Which images.", min=0)] = 0,
    window: Window = None,
    axis: Axis = None,
    burned_in: BurnedIn = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without bad images.", show_default=False)] = False,
) -> None:
    """Make a contact sheet: some images, mixed as the whole, with the contours of their masks."""
    from ahm_env.images.console import show_data

    raise typer.Exit(show_data(source, out, count, seed, window, axis or "axial", bool(burned_in), skip_bad))


@data_app.command("import")
def data_import(
    name: Annotated[str, typer.Argument(help="isic2018, busi, lgg, medmnist or medsegbench.")],
    source: Annotated[Path, typer.Argument(help="The data set as it is distributed: a folder, or a .npz file.")],
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
) -> None:
    """Turn a public data set into a folder of images, masks and labels.csv."""
    from ahm_env.images.console import import_into

    raise typer.Exit(import_into(name, source, out))


@data_app.command("find")
def data_find(
    source: Annotated[str, typer.Argument(help="DICOM or NIfTI files.")],
    name: Annotated[str | None, typer.Argument(help="The name under which an image is shown; by default all.")] = None,
) -> None:
    """Print which file it is that is shown under a pseudonym."""
    from ahm_env.images.console import find_file

    raise typer.Exit(find_file(source, name))


@data_app.command("split")
def data_split(
    source: Annotated[str, typer.Argument(help="A folder.")],
    train: Annotated[float, typer.Option(help="Share of the images to train on.")] = 0.7,
    val: Annotated[float, typer.Option(help="Share for validation.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share for the test.")] = 0.2,
    stratify: Annotated[
        str | None, typer.Option(help="label: every split gets its share of each class.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    again: Annotated[
        bool, typer.Option("--again", help="Replace the splits that are there; the old table is kept.")
    ] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without bad images.", show_default=False)] = False,
) -> None:
    """Draw splits that keep each patient on one side, and write them into the folder's labels.csv."""
    from ahm_env.images.console import split_data

    raise typer.Exit(split_data(source, {"train": train, "val": val, "test": test}, stratify, seed, again, skip_bad))


Tuned = Annotated[Path, typer.Option("--from", help="Directory that finetune wrote.", show_default=False)]
Flips = Annotated[bool, typer.Option("--tta", help="Average over mirror images.", show_default=False)]
AnyDevice = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]
AnyPrecision = Annotated[
    str, typer.Option("--precision", help="fp32, bf16, or auto: bf16 where there are instructions for it.")
]


@app.command("predict")
def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Images, NIfTI volumes, DICOM files, and folders of these.", show_default=False),
    ],
    tuned: Tuned,
    out: Annotated[Path, typer.Option(help="Directory for predictions.csv, masks/ and overlays/.", show_default=False)],
    flips: Flips = False,
    overlays: Annotated[bool, typer.Option(help="Draw what was found on the images.")] = True,
    burned_in: Annotated[
        bool, typer.Option("--burned-in", help="Take in images with burned-in text.", show_default=False)
    ] = False,
    device: AnyDevice = "auto",
    precision: AnyPrecision = "auto",
) -> None:
    """Find masks, at the size of the images, or classes for images that nobody has labelled.

    The same command goes on where it was. Ends with status 1 where images could not be used, see problems.csv.
    """
    from downstream.console import predict_images

    options = {"tta": flips, "burned_in": burned_in, "device": device, "precision": precision}
    raise typer.Exit(predict_images(tuned, paths, out, overlays=overlays, **options))


@app.command("evaluate")
def evaluate(
    tuned: Tuned,
    data: Annotated[
        str, typer.Option(help="Labelled images: a folder, a .npz file, or phantom[:COUNT[:SEED]].", show_default=False)
    ],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers.", show_default=False)] = None,
    page: Annotated[Path | None, typer.Option(help="HTML file for all of it.", show_default=False)] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Directory for test.csv, and cases.png or confusion.png.", show_default=False),
    ] = None,
    flips: Flips = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without bad images.", show_default=False)] = False,
    burned_in: Annotated[
        bool, typer.Option("--burned-in", help="Take in images with burned-in text.", show_default=False)
    ] = False,
    device: AnyDevice = "auto",
    precision: AnyPrecision = "auto",
) -> None:
    """Measure a fine-tuned model on labelled images: means with 95 % intervals over patients, at their own size."""
    from downstream.console import evaluate_model

    options = {"tta": flips, "skip_bad": skip_bad, "burned_in": burned_in, "device": device, "precision": precision}
    raise typer.Exit(evaluate_model(tuned, data, split, out, page, pictures, **options))


@app.command("export")
def export(
    source: Annotated[
        Path, typer.Option("--from", help="Directory that finetune wrote; or train-agent, for pytorch-unet.")
    ],
    out: Annotated[Path, typer.Option(help="File to write.", show_default=False)],
    form: Annotated[
        str, typer.Option("--format", help="onnx, or pytorch-unet: a .pth for milesial/Pytorch-UNet.")
    ] = "onnx",
) -> None:
    """Write a trained network for other programs, after checking that it computes the same there."""
    from downstream.console import export_model

    raise typer.Exit(export_model(source, form, out))


def main() -> None:
    """Run `ahm`; what the user can mend is one line and exit status 2, and so is Ctrl-C with 130."""
    check_own_packages()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # before and after training, which saves
    try:
        app()
    except KeyboardInterrupt:
        print("error: stopped by Ctrl-C; nothing was under way that had to be saved", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        errors: Any = sys.modules.get("ahm_env.errors")
        if errors is None or not isinstance(error, errors.AHMError | OSError):
            raise
        print(f"error: {errors.explain(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        raise SystemExit(2) from None


def check_own_packages() -> None:
    """Stop where another distribution's package of the same name hides ours, or has written over its `__init__.py`."""
    for package in ("agents", "downstream"):  # both are common names
        found = find_spec(package)
        origin = Path(found.origin) if found is not None and found.origin else None
        if origin is None or MARKER not in origin.read_text(encoding="utf-8", errors="replace"):
            from importlib.metadata import packages_distributions

            others = sorted(set(packages_distributions().get(package, ())) - {"ahm-env"})
            culprit = f"the distribution {', '.join(others)} has" if others else "another installed package has"
            print(
                f"error: {origin or package} is not this project's `{package}` package: {culprit} that name, too; "
                f"install ahm-env in a virtual environment of its own",
                file=sys.stderr,
            )
            raise SystemExit(2)


if __name__ == "__main__":
    main()
