"""Adaptive hard masking: pretrain a U-Net on medical images without labels, by hiding what is worth learning."""

import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

MARKER = "belongs to ahm-env"  # stands in `__init__.py` of packages with common names
ALGOS = (
    "a3c, a2c, ppo, random, blocks, foreground, edges, loss, progress, oracle, inverted, frozen, or autoencoder "
    "(nothing is hidden)"
)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
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


Algo = Annotated[str | None, flag("--algo", f"Agent: {ALGOS}.", "a3c")]
Data = Annotated[
    str | None, flag("--data", "Images: a folder, a file (.npz, .nii.gz, DICOM), or phantom[:COUNT[:SEED]].", "phantom")
]
Out = Annotated[Path | None, flag("--out", "Directory of the run.", "runs/ALGO-DATA-NUMBER")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the run in --out, with its own settings.", rich_help_panel="Run"),
]
Preset = Annotated[str | None, flag("--preset", "demo (shorter) or paper (320 px, width 64); flags win over it.")]
Images = Annotated[int | None, flag("--images", "Presentations of images in all.", "12000")]
BatchSize = Annotated[int | None, flag("--batch-size", "Images side by side.", "12")]
Workers = Annotated[int | None, flag("--workers", "Processes that train at once; 0: one a core.", "0")]
Seed = Annotated[int | None, flag("--seed", "Of all weights, draws and orders.", "0")]
Device = Annotated[str | None, flag("--device", "cpu, cuda, mps or auto.", "auto")]
Schedule = Annotated[str | None, flag("--schedule", "joint, or staged: U-Net, then agent, then U-Net.", "joint")]
ImageSize = Annotated[
    int | None, flag("--image-size", "Images become squares of so many pixels a side.", "64", "Images and masks")
]
PatchSize = Annotated[int | None, flag("--patch-size", "Side of a patch in pixels.", "8", "Images and masks")]
MaskRatio = Annotated[
    str | None,
    flag("--mask-ratio", "Share of patches hidden; LOW:HIGH lets the agent decide.", "0.5", "Images and masks"),
]
Horizon = Annotated[int | None, flag("--horizon", "Steps an image.", "1", "Images and masks")]
Share = Annotated[
    str | None,
    flag("--share", "Share of the quota that the agent chooses, START:END.", "0:0.5", "Images and masks"),
]
Judge = Annotated[
    str | None, flag("--judge", "File of a U-Net that judges the masks too: judged_hardness in metrics.csv.")
]
Channels = Annotated[int | None, flag("--channels", "1 or 3.", "what the images are", "Images and masks")]
Fit = Annotated[str | None, flag("--fit", "stretch, or pad to keep the aspect ratio.", "stretch", "Images and masks")]
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
SkipBad = Annotated[
    bool | None,
    typer.Option(
        "--skip-bad",
        help="Go on without images that cannot be read.",
        show_default=False,
        rich_help_panel="Images and masks",
    ),
]
Width = Annotated[int | None, flag("--width", "Channels of the U-Net's first level.", "16", "U-Net")]
Norm = Annotated[str | None, flag("--norm", "batch or group.", "batch", "U-Net")]
Skips = Annotated[
    bool | None,
    typer.Option(
        "--skips/--no-skips",
        help="Whether skip connections are there while it reconstructs; cut, its deepest layers learn more.",
        show_default="no-skips",
        rich_help_panel="U-Net",
    ),
]
Precision = Annotated[
    str | None,
    flag("--precision", "fp32, bf16, or auto: bf16 where there are instructions for it.", "auto", "U-Net"),
]
LearningRate = Annotated[
    float | None, flag("--learning-rate", "Step size of the U-Net; falls evenly over the run.", "0.001", "U-Net")
]
LossOn = Annotated[
    str | None, flag("--loss-on", "Patches that the U-Net learns from: hidden or all.", "hidden", "U-Net")
]
AgentLearningRate = Annotated[
    float | None, flag("--agent-learning-rate", "Step size of the agent.", "the agent's own", "Agent")
]
Gamma = Annotated[float | None, flag("--gamma", "Discount between the steps of an image.", "0.95", "Agent")]
ImageWeight = Annotated[
    float | None, flag("--image-weight", "Weight of the image's reward against a patch's own loss.", "2.0", "Agent")
]
EntropyWeight = Annotated[
    float | None, flag("--entropy-weight", "Reward for varied masks.", "the agent's own", "Agent")
]
Policy = Annotated[
    str | None, flag("--policy", "Of a2c and ppo: maps (as a3c's), or cnn (their own CnnPolicy).", "maps", "Agent")
]
Backbone = Annotated[str | None, flag("--backbone", "conv, or vgg16 (its first three blocks).", "conv", "Agent")]
BackboneWeights = Annotated[
    str | None, flag("--backbone-weights", "A file such as vgg16-397923af.pth.", False, "Agent")
]


@app.command("train-agent")
def train_agent(
    algo: Algo = None,
    data: Data = None,
    out: Out = None,
    resume: Resume = False,
    preset: Preset = None,
    images: Images = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    seed: Seed = None,
    device: Device = None,
    schedule: Schedule = None,
    image_size: ImageSize = None,
    patch_size: PatchSize = None,
    mask_ratio: MaskRatio = None,
    horizon: Horizon = None,
    share: Share = None,
    judge: Judge = None,
    channels: Channels = None,
    fit: Fit = None,
    window: Window = None,
    axis: Axis = None,
    burned_in: BurnedIn = None,
    skip_bad: SkipBad = None,
    width: Width = None,
    norm: Norm = None,
    skips: Skips = None,
    precision: Precision = None,
    learning_rate: LearningRate = None,
    loss_on: LossOn = None,
    agent_learning_rate: AgentLearningRate = None,
    gamma: Gamma = None,
    image_weight: ImageWeight = None,
    entropy_weight: EntropyWeight = None,
    policy: Policy = None,
    backbone: Backbone = None,
    backbone_weights: BackboneWeights = None,
) -> None:
    """Train an agent that hides patches, and the U-Net that reconstructs them.

    Ends with status 0, with 2 where something that you gave cannot be used, and with 130 or 143 where Ctrl-C or SIGTERM
    ended it, all being saved.
    """
    given = dict(locals())
    for name in ("out", "resume", "preset"):
        del given[name]
    names = ("gamma", "image_weight", "entropy_weight", "policy", "backbone", "backbone_weights")
    agent = {name: given.pop(name) for name in names}
    given["agent"] = {name: value for name, value in agent.items() if value is not None} or None
    from agents.pretraining.console import train_agent as train

    raise typer.Exit(train(given, preset, out, resume))


FEW = "Few labels"


@app.command("compare-agents")
def compare_agents(
    out: Annotated[Path, typer.Option(help="Directory of the experiment; the same command goes on with it.")],
    algos: Annotated[
        str,
        typer.Option(
            help=f"Agents, separated by commas: {ALGOS}; or scratch, which is not pretrained, only fine-tuned. "
            "a3c+image_weight=2 is a3c with a setting of its own."
        ),
    ] = "scratch,a3c,ppo,a2c,random,loss,frozen",
    data: Data = None,
    seeds: Annotated[int, typer.Option(help="Runs of each agent, with the seeds 0, 1, …", min=1)] = 5,
    images: Images = None,
    jobs: Annotated[int, typer.Option(help="Runs at once; 0: one a core, or one on a GPU.", min=0)] = 0,
    batch_size: BatchSize = None,
    device: Device = None,
    schedule: Schedule = None,
    image_size: ImageSize = None,
    patch_size: PatchSize = None,
    mask_ratio: MaskRatio = None,
    horizon: Horizon = None,
    share: Share = None,
    channels: Channels = None,
    fit: Fit = None,
    window: Window = None,
    axis: Axis = None,
    burned_in: BurnedIn = None,
    skip_bad: SkipBad = None,
    width: Width = None,
    norm: Norm = None,
    skips: Skips = None,
    precision: Precision = None,
    learning_rate: LearningRate = None,
    loss_on: LossOn = None,
    downstream: Annotated[
        str | None,
        flag("--downstream", "Fine-tune their U-Nets, too: for segmentation, classification, or both.", False, FEW),
    ] = None,
    labels: Annotated[str | None, flag("--labels", "Numbers of labelled images, or all.", "25,100,all", FEW)] = None,
    draws: Annotated[
        int | None,
        typer.Option(
            "--draws",
            help="Draws of the labelled images, each for every run.",
            show_default="one for each seed, its own",
            rich_help_panel=FEW,
            min=1,
        ),
    ] = None,
    unlabelled: Annotated[
        str | None,
        flag("--unlabelled", "Arms: none, auto; auto+mix=none has a setting of its own.", "none", FEW),
    ] = None,
    mix: Annotated[
        str | None, flag("--mix", "How unlabelled images are mixed: box, patches, none.", "box", FEW)
    ] = None,
    finetune: Annotated[
        str | None, flag("--finetune", "Settings of fine-tuning, such as steps=400,augment=flips.", False, FEW)
    ] = None,
    sam: Annotated[
        Path | None, flag("--sam", "Directory of a Segment Anything model, for a row without training.", False, FEW)
    ] = None,
    prompt: Annotated[
        str | None, flag("--prompt", "How it is prompted: center, box, grid or a CSV file.", "box", FEW)
    ] = None,
) -> None:
    """Train agents with paired seeds, and judge them all on one U-Net: tables, results.csv and report.html.

    With --downstream their U-Nets are fine-tuned too, all alike, on the same few labelled images. Ends with status 1
    where a run failed; the others are compared all the same.
    """
    given = dict(locals())
    own = ("downstream", "labels", "draws", "unlabelled", "mix", "finetune", "sam", "prompt")
    for name in ("out", "algos", "seeds", "jobs", *own):
        del given[name]
    from downstream.comparison.console import compare_agents as compare
    from downstream.comparison.options import Downstream

    settings = ",".join(text for text in (finetune, mix and f"mix={mix}") if text) or None
    asked = Downstream.asked(
        downstream, labels=labels, draws=draws, unlabelled=unlabelled, settings=settings, sam=sam, prompt=prompt
    )
    raise typer.Exit(compare(given, algos, seeds, out, jobs, asked))


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


LabelledData = Annotated[
    str | None, flag("--data", "Labelled images: a folder, a .npz file, or phantom[:COUNT[:SEED]].", "phantom")
]


def count_or_all(text: str | None) -> int | None:
    """The number of labels; None is all."""
    if text is None or text == "all":
        return None
    if not text.isdecimal():
        from ahm_env.errors import SettingsError

        raise SettingsError(f"--labels {text} is neither a number nor all; for example --labels 25")
    return int(text)


@app.command("finetune")
def finetune(
    task: Annotated[str | None, flag("--task", "segmentation or classification.", "segmentation")] = None,
    start: Annotated[
        str | None, flag("--from", "A run of train-agent, a file of U-Net weights, or scratch.", "scratch")
    ] = None,
    data: LabelledData = None,
    labels: Annotated[
        str | None, flag("--labels", "How many images of the train split count as labelled, or all.", "all")
    ] = None,
    classes: Annotated[
        str | None, flag("--classes", "Names of the classes, or their numbers in masks: a,b,….", "those labelled")
    ] = None,
    out: Annotated[Path | None, flag("--out", "Directory of the run.", "runs/TASK-NUMBER")] = None,
    resume: Resume = False,
    preset: Annotated[str | None, flag("--preset", "paper: the published recipe; flags win over it.")] = None,
    seed: Seed = None,
    device: Device = None,
    precision: Annotated[
        str | None, flag("--precision", "fp32, bf16, or auto: bf16 where there are instructions for it.", "auto")
    ] = None,
    flips: Annotated[
        bool | None, typer.Option("--tta", help="Test on mirror images too.", show_default=False, rich_help_panel="Run")
    ] = None,
    steps: Annotated[int | None, flag("--steps", "Optimiser steps.", "800", "Learning")] = None,
    batch_size: Annotated[int | None, flag("--batch-size", "Images a step.", "8", "Learning")] = None,
    learning_rate: Annotated[
        float | None, flag("--learning-rate", "Highest step size of Adam.", "0.001", "Learning")
    ] = None,
    schedule: Annotated[str | None, flag("--schedule", "cosine or steps.", "cosine", "Learning")] = None,
    weight_decay: Annotated[float | None, flag("--weight-decay", "Of AdamW.", "0", "Learning")] = None,
    average: Annotated[
        float | None, flag("--average", "Decay of the running mean of the weights; 0: none.", "0.99", "Learning")
    ] = None,
    augment: Annotated[
        str | None, flag("--augment", "none, flips, affine, full (bends too), or strong.", "affine", "Learning")
    ] = None,
    balance: Annotated[
        bool | None,
        typer.Option(
            "--balance/--no-balance",
            help="To classify: rare classes count as much as frequent ones.",
            show_default="balance",
            rich_help_panel="Learning",
        ),
    ] = None,
    freeze: Annotated[
        bool | None,
        typer.Option(
            "--freeze/--no-freeze",
            help="To classify: leave the encoder as it is; only the layer to the classes learns.",
            show_default="no-freeze",
            rich_help_panel="Learning",
        ),
    ] = None,
    select: Annotated[
        float | None, flag("--select", "Share of the labelled images by which the best state is kept.", "0", "Learning")
    ] = None,
    unlabelled: Annotated[
        str | None,
        flag("--unlabelled", "Images that take part without labels: auto, none, or a source.", "none", "Unlabelled"),
    ] = None,
    join: Annotated[
        float | None, flag("--join", "Share of the steps after which they take part.", "0.4", "Unlabelled")
    ] = None,
    mix: Annotated[
        str | None, flag("--mix", "Parts of two that make one: box, patches, or none.", "box", "Unlabelled")
    ] = None,
    strong: Annotated[
        str | None,
        flag("--strong", "Strong changes of colour: colour (photographs), grey, or auto.", "auto", "Unlabelled"),
    ] = None,
    confidence: Annotated[
        float | None, flag("--confidence", "Probability from which a label of the teacher counts.", "0.9", "Unlabelled")
    ] = None,
    unlabelled_batch: Annotated[
        int | None, flag("--unlabelled-batch", "Mixed images a step.", "8", "Unlabelled")
    ] = None,
    unlabelled_weight: Annotated[
        float | None, flag("--unlabelled-weight", "Weight of their loss.", "1", "Unlabelled")
    ] = None,
    ramp: Annotated[
        int | None, flag("--ramp", "Steps over which that weight rises from 0.", "300", "Unlabelled")
    ] = None,
    teacher_tta: Annotated[
        bool | None,
        typer.Option(
            "--teacher-tta",
            help="The teacher averages over mirror images.",
            show_default="False",
            rich_help_panel="Unlabelled",
        ),
    ] = None,
    transfer: Annotated[
        str | None, flag("--transfer", "What is taken from the pretrained U-Net: encoder, or all.", "encoder", "Model")
    ] = None,
    model: Annotated[str | None, flag("--model", "unet, or vgg16 to classify.", "unet", "Model")] = None,
    weights: Annotated[
        str | None, flag("--weights", "A file such as vgg16-397923af.pth, for vgg16.", False, "Model")
    ] = None,
    crop_with: Annotated[
        str | None, flag("--crop-with", "Classify the lesion that this fine-tuned segmenter finds.", False, "Model")
    ] = None,
    width: Annotated[
        int | None, flag("--width", "Channels of the U-Net's first level.", "the run's, else 16", "Model")
    ] = None,
    norm: Annotated[str | None, flag("--norm", "batch or group.", "the run's, else batch", "Model")] = None,
    image_size: Annotated[int | None, flag("--image-size", "Pixels a side.", "the run's, else 64", "Images")] = None,
    channels: Annotated[
        int | None, flag("--channels", "1 or 3.", "the run's, else what the images are", "Images")
    ] = None,
    fit: Annotated[str | None, flag("--fit", "stretch or pad.", "the run's, else stretch", "Images")] = None,
    window: Annotated[
        str | None,
        flag("--window", "lung, bone, brain, soft, or CENTRE,WIDTH.", "the run's, else the file's own", "Images"),
    ] = None,
    axis: Annotated[
        str | None, flag("--axis", "sagittal, coronal or axial.", "the run's, else axial", "Images")
    ] = None,
    burned_in: Annotated[
        bool | None,
        typer.Option(
            "--burned-in", help="Take in images with burned-in text.", show_default=False, rich_help_panel="Images"
        ),
    ] = None,
    skip_bad: Annotated[
        bool | None,
        typer.Option("--skip-bad", help="Go on without bad images.", show_default=False, rich_help_panel="Images"),
    ] = None,
) -> None:
    """Fine-tune a U-Net, pretrained or not, on few labelled images, and test it once at the end."""
    given = dict(locals())
    for name in ("start", "out", "resume", "preset"):
        del given[name]
    given["labels"] = count_or_all(labels)
    from downstream.finetuning.console import finetune as tune

    raise typer.Exit(tune(given, start, preset, out, resume))


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
