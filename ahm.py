"""Adaptive hard masking: pretrain a U-Net on medical images without labels, by hiding what is worth learning."""

import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="Look at images before training on them.")
app.add_typer(data_app, name="data")


def flag(name: str, text: str, default: str | bool = False, panel: str = "Run") -> Any:
    """An option whose default is the run's own: `None` here means that the user did not name it."""
    return typer.Option(name, help=text, show_default=default, rich_help_panel=panel)


@app.command("train-agent")
def train_agent(
    algo: Annotated[str | None, flag("--algo", "Agent: a3c, random or frozen.", "a3c")] = None,
    data: Annotated[
        str | None, flag("--data", "Images: a folder, a .npz file, or phantom[:COUNT[:SEED]].", "phantom")
    ] = None,
    out: Annotated[Path | None, flag("--out", "Directory of the run.", "runs/ALGO-DATA-NUMBER")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --out, with its own settings.", rich_help_panel="Run"),
    ] = False,
    preset: Annotated[
        str | None, flag("--preset", "demo (shorter) or paper (320 px, width 64); flags win over it.")
    ] = None,
    images: Annotated[int | None, flag("--images", "Presentations of images in all.", "12000")] = None,
    batch_size: Annotated[int | None, flag("--batch-size", "Images side by side.", "12")] = None,
    workers: Annotated[int | None, flag("--workers", "Processes that train at once; 0: one a core.", "0")] = None,
    seed: Annotated[int | None, flag("--seed", "Of all weights, draws and orders.", "0")] = None,
    device: Annotated[str | None, flag("--device", "cpu, cuda, mps or auto.", "auto")] = None,
    schedule: Annotated[
        str | None, flag("--schedule", "joint, or staged: U-Net, then agent, then U-Net.", "joint")
    ] = None,
    image_size: Annotated[
        int | None, flag("--image-size", "Images become squares of so many pixels a side.", "64", "Images and masks")
    ] = None,
    patch_size: Annotated[
        int | None, flag("--patch-size", "Side of a patch in pixels.", "8", "Images and masks")
    ] = None,
    mask_ratio: Annotated[
        str | None,
        flag("--mask-ratio", "Share of patches hidden; LOW:HIGH lets the agent decide.", "0.5", "Images and masks"),
    ] = None,
    horizon: Annotated[int | None, flag("--horizon", "Steps an image.", "1", "Images and masks")] = None,
    share: Annotated[
        str | None,
        flag("--share", "Share of the quota that the agent chooses, START:END.", "0.5:1", "Images and masks"),
    ] = None,
    channels: Annotated[int | None, flag("--channels", "1 or 3.", "what the images are", "Images and masks")] = None,
    fit: Annotated[
        str | None, flag("--fit", "stretch, or pad to keep the aspect ratio.", "stretch", "Images and masks")
    ] = None,
    skip_bad: Annotated[
        bool | None,
        typer.Option(
            "--skip-bad",
            help="Go on without images that cannot be read.",
            show_default=False,
            rich_help_panel="Images and masks",
        ),
    ] = None,
    width: Annotated[int | None, flag("--width", "Channels of the U-Net's first level.", "16", "U-Net")] = None,
    norm: Annotated[str | None, flag("--norm", "batch or group.", "batch", "U-Net")] = None,
    learning_rate: Annotated[
        float | None, flag("--learning-rate", "Step size of the U-Net; falls evenly over the run.", "0.001", "U-Net")
    ] = None,
    loss_on: Annotated[
        str | None, flag("--loss-on", "Patches that the U-Net learns from: hidden or all.", "hidden", "U-Net")
    ] = None,
    agent_learning_rate: Annotated[
        float | None, flag("--agent-learning-rate", "Step size of the agent.", "0.001", "Agent")
    ] = None,
    gamma: Annotated[float | None, flag("--gamma", "Discount between the steps of an image.", "0.95", "Agent")] = None,
    image_weight: Annotated[
        float | None, flag("--image-weight", "Weight of the image's reward against a patch's own loss.", "0.5", "Agent")
    ] = None,
    entropy_weight: Annotated[
        float | None, flag("--entropy-weight", "Reward for varied masks.", "0.02", "Agent")
    ] = None,
    backbone: Annotated[
        str | None, flag("--backbone", "conv, or vgg16 (its first three blocks).", "conv", "Agent")
    ] = None,
    backbone_weights: Annotated[
        str | None, flag("--backbone-weights", "A file such as vgg16-397923af.pth.", False, "Agent")
    ] = None,
) -> None:
    """Train an agent that hides patches, and the U-Net that reconstructs them.

    Ends with status 0, with 2 where something that you gave cannot be used, and with 130 or 143 where Ctrl-C or SIGTERM
    ended it, all being saved.
    """
    given = dict(locals())
    for name in ("out", "resume", "preset"):
        del given[name]
    names = ("gamma", "image_weight", "entropy_weight", "backbone", "backbone_weights")
    agent = {name: given.pop(name) for name in names}
    given["agent"] = {name: value for name, value in agent.items() if value is not None} or None
    from agents.console import train_agent as train

    raise typer.Exit(train(given, preset, out, resume))


@data_app.command("check")
def data_check(
    source: Annotated[str, typer.Argument(help="A folder, a .npz file, or phantom[:COUNT[:SEED]].")],
) -> None:
    """Print counts, sizes, classes and splits, and every problem with its file; if there is one, end with status 2."""
    from agents.console import check_data

    raise typer.Exit(check_data(source))


def main() -> None:
    """Run `ahm`; what the user can mend is one line and exit status 2, and so is Ctrl-C with 130."""
    check_own_agents()
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


def check_own_agents() -> None:
    """Stop where another distribution's `agents` (a common name) would be imported instead of ours."""
    ours, found = Path(__file__).resolve().parent, find_spec("agents")
    origin = Path(found.origin).resolve() if found is not None and found.origin else None
    if origin is None or not (origin.parent / "a3c.py").is_file():
        print(
            f"error: {origin or ours / 'agents'} is not this project's `agents` package; another installed package of "
            f"that name hides it: install ahm-env in a virtual environment of its own",
            file=sys.stderr,
        )
        raise SystemExit(2)


if __name__ == "__main__":
    main()
