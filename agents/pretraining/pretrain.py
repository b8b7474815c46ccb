"""Pretraining as a function: images in, a run directory with a U-Net and an agent out."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.agent import Agent
from agents.pretraining.loop import Pretraining
from agents.pretraining.run_directory import RunDirectory
from agents.pretraining.settings import RunSettings
from agents.registry import load_agent, refuse_code
from ahm_env import ImageSet, SettingsError
from ahm_env.model import ranks
from ahm_env.runs.cluster import connected
from ahm_env.runs.directory import Row
from ahm_env.runs.following import following
from ahm_env.runs.observer import Observer, Silent
from ahm_env.runs.run import held_run


@dataclass(frozen=True)
class PretrainedRun:
    """A finished run of pretraining.

    Attributes:
        path: Its directory, from which a U-Net can be fine-tuned.
        settings: What it computed.
    """

    path: Path
    settings: RunSettings

    @property
    def unet(self) -> Path:
        """The file of the U-Net's weights."""
        return self.path / "unet.safetensors"

    @property
    def metrics(self) -> Row:
        """The last row of `metrics.csv`, such as `hardness_sampled` and `unet_loss`."""
        return RunDirectory(self.path).last_row()

    def load_agent(self, device: str = "cpu") -> Agent:
        """Load the agent.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        return load_agent(self.path / "agent", device, self.settings.algo)


def pretrain(
    data: str | Path | ImageSet | None = None,
    out: str | Path | None = None,
    *,
    preset: str | None = None,
    resume: bool = False,
    cluster: str | None = None,
    observer: Observer | None = None,
    **settings: Any,
) -> PretrainedRun:
    """Pretrain a U-Net by masks that an agent chooses, or go on with that.

    Args:
        data: A folder, archive, volume, or `phantom` for synthetic images; or images that are loaded, which decide
            size and channels; `images.mapped(function)` puts a function of your own in between.
        out: The run directory; by default a new one under `runs`.
        preset: `demo` or `paper`.
        resume: Go on with the run in `out`; no other setting is needed, but `algo` and `wrapper` where they are
            classes of your own, which no file may name; `workers` and `device` may be others. A run that is finished
            stays as it is.
        cluster: Address of a Ray cluster on whose nodes all workers but the first are; `auto` starts one on this
            machine. None: they are processes of this machine.
        observer: Told of every update, row and warning; None for none.
        **settings: Fields of `RunSettings`, such as `algo="a3c"` and `total_images=20_000`.

    Returns:
        The run.

    Raises:
        AHMError: Settings, images or directory do not go together, or training diverged.
        InterruptionError: A signal ended the run; all is saved.
    """
    images = data if isinstance(data, ImageSet) else None
    if images is not None:
        own = {**asdict(images.pixels), "channels": images.channels, "data": images.source}
        if odd := sorted(name for name in own if settings.get(name, own[name]) != own[name]):
            raise SettingsError(f"{odd[0]} {settings[odd[0]]}: the images have {own[odd[0]]}; load them otherwise")
        settings = own | settings
    elif data is not None:
        settings = {**settings, "data": str(data)}

    def load(settings: RunSettings) -> ImageSet:
        return settings.load_images() if images is None else images

    with open_run(settings, preset, None if out is None else Path(out), resume, load, cluster) as run:
        if not run.finished:
            run.run(observer or Silent())
        return PretrainedRun(run.directory.path, run.settings)


@contextmanager
def open_run(
    given: Mapping[str, Any],
    preset: str | None,
    out: Path | None,
    resume: bool,
    load: Callable[[RunSettings], ImageSet] = RunSettings.load_images,
    cluster: str | None = None,
) -> Iterator[Pretraining]:
    """Open a new run, or one to resume, in its directory, which no other process can use meanwhile.

    Args:
        given: Settings; None is not given.
        preset: Name of a preset.
        out: The run directory; by default a new one under `runs`.
        resume: Go on with the run in `out`.
        load: Loads the images.
        cluster: Address of the Ray cluster that has the other workers.

    Raises:
        AHMError: Anything that the user can mend.
    """
    with following() as copy:
        if copy is not None:
            preset, out, resume = None, copy, True
            given = {name: given.get(name) for name in ("algo", "wrapper", *RunSettings.free)}
        if resume:
            directory, settings = RunDirectory.resume(out, RunSettings.asked(preset, given))
            refuse_code(vars(settings), given, directory.path)
            settings.check_workers()
        else:
            settings = RunSettings.make(preset, **given).on_this_machine()
            source = Path(settings.data).stem if Path(settings.data).exists() else settings.data.partition(":")[0]
            directory = RunDirectory.claim(out, f"{settings.algo.replace(':', '-')}-{source}", settings)
        settings.check_ranks()
        if cluster is not None and ranks.count() > 1:
            raise SettingsError("--cluster: a cluster has workers, not ranks; leave torchrun out")
        images = load(settings)
        with (
            connected(cluster, settings.processes) as ray,
            held_run(directory, settings, images, lambda: Pretraining(settings, images, directory, ray)) as run,
        ):
            yield run
