"""Adaptive hard masking: pretrain a U-Net on medical images without labels, by hiding what is worth learning."""

import ast
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

MARKER = "belongs to ahm-env"  # stands in `__init__.py` of packages with common names
# Where each command is, in the order of the help; only what is called is imported
COMMANDS = {
    "train-agent": "agents.pretraining.console:train_agent",
    "finetune": "downstream.finetuning.console:finetune",
    "compare-agents": "downstream.comparison.console:compare_agents",
    "predict": "downstream.console:predict_images",
    "evaluate": "downstream.console:evaluate_model",
    "export": "downstream.console:export_model",
    "annotate": "downstream.console:annotate_images",
    "evaluate-agent": "downstream.comparison.console:evaluate_agents",
    "report": "downstream.comparison.console:report_runs",
}
DATA = {
    "check": "ahm_env.images.console:check_data",
    "show": "ahm_env.images.console:show_data",
    "split": "ahm_env.images.console:split_data",
    "import": "ahm_env.images.console:import_into",
    "find": "ahm_env.images.console:find_data",
}


def docstring(module: str, function: str) -> str:
    """Read the docstring of a function without importing its module, which may take seconds."""
    path = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
    functions = (one for one in ast.parse(path.read_bytes()).body if isinstance(one, ast.FunctionDef))
    return next(ast.get_docstring(one) or "" for one in functions if one.name == function)


class Command(typer.core.TyperCommand):
    """A command that is imported when it is called."""

    def __init__(self, name: str, place: str) -> None:
        self.module, _, self.function = place.partition(":")
        super().__init__(name, help=docstring(self.module, self.function).partition("\n\n")[0])

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the command, and let it read its arguments."""
        from importlib import import_module

        from ahm_env.runs.flags import command

        app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
        app.command(self.name)(command(getattr(import_module(self.module), self.function)))
        return typer.main.get_command(app).make_context(info_name, args, parent, **extra)


class Commands(typer.core.TyperGroup):
    """All commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        data = typer.core.TyperGroup(name="data", help="Look at images, split and import them.", no_args_is_help=True)
        data.commands = {name: Command(name, place) for name, place in DATA.items()}
        self.commands = {**{name: Command(name, place) for name, place in COMMANDS.items()}, "data": data}


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
        line = None if errors is None else errors.in_one_line(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
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
