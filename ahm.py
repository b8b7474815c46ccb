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
        "Train agents with paired seeds, and evaluate their masks on the same U-Nets: tables, results.csv, a page.",
    ),
    "predict": (
        "downstream.console:predict_images",
        "Find masks, at the size of the images, or classes for images without labels.",
    ),
    "evaluate": (
        "downstream.console:evaluate_model",
        "Measure a fine-tuned model on labelled images: means with 95 % intervals over patients, at their own size.",
    ),
    "export": (
        "downstream.console:export_model",
        "Write a trained network for other programs, after checking that it computes the same there.",
    ),
    "annotate": (
        "downstream.console:annotate_images",
        "Let Segment Anything draw masks, for training; where the source has masks, measure its own against them.",
    ),
    "evaluate-agent": (
        "downstream.comparison.console:evaluate_agents",
        "Evaluate the agents of runs: how hard their masks are, how varied, and how much of the lesion they hide.",
    ),
    "report": (
        "downstream.comparison.console:report_runs",
        "Make one self-contained page of runs or experiments: tables, curves, and how masks evolved.",
    ),
}
DATA = {
    "check": (
        "ahm_env.images.console:check_data",
        "Print what is there, what is likely wrong, and what is wrong with its files: then end with status 2.",
    ),
    "show": (
        "ahm_env.images.console:show_data",
        "Make a contact sheet: a fair sample of the images, with the contours of their masks.",
    ),
    "split": (
        "ahm_env.images.console:split_data",
        "Draw splits that keep each patient on one side, and write them into the folder's labels.csv.",
    ),
    "import": (
        "ahm_env.images.console:import_into",
        "Turn a data set as it is downloaded into a folder of images, masks and labels.csv.",
    ),
    "find": (
        "ahm_env.images.console:find_data",
        "Print which file it is that is shown under a pseudonym; or, as CSV, all pseudonyms and their files.",
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
    """All commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        data = typer.core.TyperGroup(name="data", help="Look at images, split and import them.", no_args_is_help=True)
        data.commands = {name: Command(name, *about) for name, about in DATA.items()}
        self.commands = {**{name: Command(name, *about) for name, about in COMMANDS.items()}, "data": data}


app = typer.Typer(
    cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__
)


def print_version(asked: bool) -> None:
    """Print the version, and end."""
    if asked:
        from importlib.metadata import version

        print(f"ahm {version('ahm-env')}")
        raise typer.Exit


@app.callback(help=__doc__)
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Options of `ahm` itself."""


def main() -> None:
    """Run `ahm`; what the user can mend is one line and exit status 2."""
    check_own_packages()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # before and after training, which saves
    try:
        app()
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
