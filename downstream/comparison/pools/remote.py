"""Training a trial on a machine that has neither its images nor its files: what goes there, and what comes back.

There the agent or the U-Net is trained; to evaluate masks, and to test at the images' own sizes, is left to the machine
that has the images.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch

from agents.pretraining.pretrain import open_run as open_pretraining
from agents.pretraining.settings import RunSettings
from ahm_env import ImageSet
from ahm_env.files import atomic
from ahm_env.images.dataset.cache import IDENTITIES, PATIENT_DIGESTS
from ahm_env.images.dataset.image_set import Annotations
from ahm_env.runs.directory import Row
from ahm_env.runs.observer import Silent
from downstream.comparison.places import starting_from
from downstream.comparison.trials import PretrainTrial, Trial
from downstream.finetuning.finetune import open_run as open_finetuning
from downstream.finetuning.labelled import only_labelled
from downstream.finetuning.settings import FinetuneSettings
from downstream.models.pretrained import PretrainedWeights

Files = Mapping[str, npt.NDArray[np.uint8]]  # what files hold, by their names in a directory
_RUN = ("config.json", "unet.safetensors")  # of a run that another one starts from


@dataclass(frozen=True)
class Needs:
    """What a machine has to be given to train a trial, as it lies here.

    Attributes:
        trial: The trial.
        source: Of its images.
        images: Directory of the decoded images.
        annotations: The masks and labels that fine-tuning may know; None for pretraining.
        start: Directory of the run that it starts from, or on whose U-Net it is evaluated; None for none.
    """

    trial: Trial
    source: str
    images: Path
    annotations: Annotations | None
    start: Path | None

    @classmethod
    def of(cls, trial: Trial) -> "Needs":
        """Find out what a trial needs.

        Raises:
            AHMError: Its images cannot be read, or what it starts from.
        """
        if isinstance(trial, PretrainTrial):
            images = RunSettings.make(**trial.given).load_images()
            start = trial.references[0].parent if trial.references else None
        else:
            settings = FinetuneSettings.make(PretrainedWeights.find(trial.start), **trial.given)
            images = only_labelled(settings, settings.load_images())
            start = None if trial.run is None else Path(trial.start)
        return cls(trial, images.source, images.entry, images.annotations, start)

    @property
    def masks(self) -> Path | None:
        """Directory of the masks, where they lie apart."""
        return None if self.annotations is None else self.annotations.entry


@dataclass(frozen=True)
class Lent:
    """The files of those directories."""

    images: Files
    masks: Files
    start: Files


def pack(directory: Path | None, names: Iterable[str] | None = None) -> Files:
    """Read files of a directory: those of these names, or all; of a run's checkpoints, the newest alone."""
    if directory is None:
        return {}
    paths = [directory / name for name in names] if names else sorted(directory.rglob("[!.]*"))
    old = sorted(directory.glob("checkpoints/[0-9]*"))[:-1]
    files = [path for path in paths if path.is_file() and path not in old]
    return {str(path.relative_to(directory)): np.fromfile(path, np.uint8) for path in files}


def pack_images(directory: Path) -> Files:
    """Read decoded images, but not who is on them."""
    files = pack(directory)
    return {**files, **{name: np.zeros_like(files[name]) for name in (IDENTITIES, PATIENT_DIGESTS)}}


def pack_start(directory: Path | None) -> Files:
    """Read what of a run is needed to start from it."""
    return pack(directory, _RUN)


def unpack(files: Files, directory: Path) -> None:
    """Write files into a directory, which has no others afterwards but hidden ones."""
    for name, content in sorted(files.items(), key=lambda one: one[0] != _RUN[0]):  # what is cut short can be resumed
        with atomic(directory / name) as temporary:
            content.tofile(temporary)
    for path in sorted(directory.rglob("[!.]*")):
        if path.is_file() and str(path.relative_to(directory)) not in files:
            path.unlink()


def keep(trial: Trial, files: Files) -> None:
    """Write into a trial's directory what another machine has made of it."""
    unpack(_starting_from(trial.start, trial, files), trial.path)


def train(needs: Needs, lent: Lent, own: Files, send: Callable[[Files], object] = lambda files: None) -> Files:
    """Train a trial, or go on with that, in a temporary directory.

    Args:
        needs: What it needs; nothing of what lies elsewhere is looked at.
        lent: The files of that.
        own: Files of the trial's directory; none where it begins.
        send: Called with the files of the trial's directory after each row, to go on from.

    Returns:
        The files of the trial's directory, all being learned.

    Raises:
        AHMError: Anything that the user can mend.
    """
    torch.set_num_threads(1)
    trial = needs.trial
    with TemporaryDirectory(prefix="ahm-trial-") as folder:
        root = Path(folder)
        run_path, start = root / "run", root / "start"
        for name, files in (("images", lent.images), ("masks", lent.masks), ("start", lent.start)):
            unpack(files, root / name)
        known = needs.annotations
        if known is not None and known.entry is not None:
            known = replace(known, entry=root / "masks")
        images, sender = ImageSet(root / "images", needs.source, known), _Sender(run_path, send)
        begun = _RUN[0] in own
        if isinstance(trial, PretrainTrial):
            given = {**trial.given, "reference_unet": str(start / _RUN[1])} if lent.start else trial.given
            unpack(_starting_from(given.get("reference_unet"), trial, own), run_path)
            if begun:
                given = {name: given.get(name) for name in ("algo", "wrapper")}
            with open_pretraining(given, None, run_path, begun, lambda settings: images) as run:
                if not run.finished:
                    run.run(sender)
        else:
            begins = str(start) if lent.start else trial.start
            unpack(_starting_from(begins, trial, own), run_path)
            given, asked = ({}, None) if begun else (trial.given, begins)
            with open_finetuning(given, asked, None, run_path, begun, lambda settings, source: images) as tuning:
                tuning.learn(sender)
        return pack(run_path)


class _Sender(Silent):
    """Sends the files of a run after each of its rows, when there is a new checkpoint."""

    def __init__(self, path: Path, send: Callable[[Files], object]) -> None:
        self._path, self._send = path, send

    def on_row(self, row: Row) -> None:
        self._send(pack(self._path))


def _starting_from(start: str | None, trial: Trial, files: Files) -> Files:
    """Name, in the settings of a run that has begun, the place on this machine of what it starts from."""
    if _RUN[0] not in files:
        return files
    config = starting_from(start, trial.start_setting, json.loads(files[_RUN[0]].tobytes()))
    text = json.dumps(config, indent=2) + "\n"
    return {**files, _RUN[0]: np.frombuffer(text.encode(), np.uint8)}
