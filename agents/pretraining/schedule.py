"""What a run is made of: its images, its U-Net, its environment, and the stages and the curriculum it goes through."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorWrapper

from agents.agent import Agent, Callback, Env, Problem, play
from agents.pretraining.settings import RunSettings
from agents.registry import import_class, learns, make_agent
from ahm_env import ImageSet, PatchMaskVectorEnv, Reconstructor, SettingsError, Standardisation
from ahm_env.images.dataset.patients import Groups
from ahm_env.masks import Ints, PatchGrid


@dataclass(frozen=True)
class Stage:
    """A part of a run: who acts, and which of the two learns, until so many images have been shown."""

    until: int
    random: bool = False
    agent_learns: bool = True
    unet_learns: bool = True


def stages(settings: RunSettings) -> list[Stage]:
    """List the parts of a run: one, or the three of the published code, each a third of the images.

    Staged: the U-Net learns from random masks; the agent learns against that U-Net, which is frozen; the U-Net goes
    on with the masks of the agent, which is frozen.
    """
    if settings.schedule == "joint":
        return [Stage(settings.total_images)]
    first, second = settings.total_images // 3, settings.total_images * 2 // 3
    return [
        Stage(first, random=True, agent_learns=False),
        Stage(second, unet_learns=False),
        Stage(settings.total_images, agent_learns=False),
    ]


def split_held_out(images: ImageSet) -> tuple[Ints, Ints]:
    """Split the `train` images into those to learn from, and 5 % (at least 32) on which hardness is measured.

    The choice depends only on the number of images and on their patients, so that every run on the same images holds
    out the same ones. All images of a patient are on one side, unless there is only one patient.

    Raises:
        SettingsError: Fewer than two images.
    """
    train = images.split("train")
    if len(train) < 2:
        raise SettingsError(f"{images.source}: {len(train)} images in the train split; at least 2 are needed")
    count = min(max(32, len(train) // 20), len(train) // 2)
    numbers = images.patients(train)
    patients = Groups(numbers if np.ptp(numbers) else np.arange(len(train)))
    held, taken = np.zeros(len(train), bool), 0
    for patient in np.random.default_rng(0).permutation(len(patients)):
        if taken >= count:
            break
        if taken + len(patients[patient]) <= len(train) // 2:
            held[patients[patient]] = True
            taken += len(patients[patient])
    return train[~held], train[held]


def make_reconstructor(
    settings: RunSettings, mean: npt.NDArray[np.floating[Any]], std: npt.NDArray[np.floating[Any]]
) -> Reconstructor:
    """Build the untrained U-Net of a run, for images whose channels have these means and stds."""
    return Reconstructor.create(
        settings.grid,
        Standardisation(tuple(mean.tolist()), tuple(std.tolist())),
        settings.width,
        settings.norm,
        settings.seed,
        settings.skip_connections,
        precision=settings.precision,
        learning_rate=settings.learning_rate,
        loss_on=settings.loss_on,
        device=settings.torch_device,
    )


def load_reference(path: Path, grid: PatchGrid, channels: int, **settings: Any) -> Reconstructor:
    """Read the U-Net on which an agent's masks are evaluated.

    Raises:
        SettingsError: It is for images of other channels.
        CheckpointError: It is damaged, or no U-Net.
    """
    reconstructor = Reconstructor.load(path, grid, **settings)
    if len(reconstructor.fill) != channels:
        raise SettingsError(
            f"{path}: a U-Net for {len(reconstructor.fill)} channels cannot evaluate an agent for {channels}; choose "
            f"another --reference-unet"
        )
    return reconstructor


def make_env(settings: RunSettings, images: ImageSet, shown: Ints, reconstructor: Reconstructor) -> PatchMaskVectorEnv:
    """Make the environment of a run."""
    return PatchMaskVectorEnv(
        settings.batch_size,
        data=images,
        indices=shown,
        unet=reconstructor,
        mask_ratio=settings.mask_ratio,
        horizon=settings.horizon,
        co_train=True,
    )


def set_curriculum(env: PatchMaskVectorEnv, agent: Agent, settings: RunSettings, seen: int) -> None:
    """Set what changes over a run, when so many images have been shown."""
    progress, start = seen / settings.total_images, 0
    for stage in stages(settings):
        if stage.agent_learns:
            agent.progress = min(1.0, max(0, seen - start) / max(1, stage.until - start))
        start = stage.until
    env.agent_share = settings.agent_share.at(progress)
    env.reconstructor.optimiser.set_learning_rate(settings.unet_learning_rate(progress))


def make_learner(settings: RunSettings, env: Env | Problem) -> Agent:
    """Make the untrained agent of a run.

    Raises:
        SettingsError: It would never learn, or its settings do not suit the problem.
        CheckpointError: Weights that it starts from are missing or damaged.
    """
    extra = dict(settings.agent)
    if learns(settings.algo) and settings.agent_learning_rate is not None:
        extra["learning_rate"] = settings.agent_learning_rate
    agent = make_agent(settings.algo, env, settings.seed, settings.torch_device, **extra)
    check_rollout(settings, agent)
    return agent


def check_run(settings: RunSettings, channels: int) -> None:
    """Refuse settings that no run on images of so many channels can have, by making its U-Net and its agent once.

    Raises:
        SettingsError: Such settings.
        CheckpointError: Weights that the agent starts from are missing or damaged.
    """
    settings = replace(settings.on_this_machine(), device="cpu")  # no memory of a GPU is taken for it
    make_reconstructor(settings, np.zeros(channels), np.ones(channels))
    quotas = settings.mask_ratio.quotas(settings.grid.patches)
    make_learner(settings, Problem(channels, settings.image_size, settings.grid.side, quotas))


def check_rollout(settings: RunSettings, agent: Agent) -> None:
    """Refuse an agent that would never learn: it does so after a rollout, which has to end before its part of a run.

    Raises:
        SettingsError: It does not, or the agent cannot learn from such batches.
    """
    agent.check_batches(settings.batch_size, settings.horizon)
    steps, start = getattr(agent.settings, "n_steps", 0), 0
    rollout = steps * settings.batch_size // settings.horizon
    for stage in stages(settings):
        if stage.agent_learns and rollout > stage.until - start:
            raise SettingsError(
                f"{settings.algo} learns after each {rollout:,} images (--set n_steps={steps} of --batch-size "
                f"{settings.batch_size}), and plays {stage.until - start:,}; raise --total-images, or lower n_steps"
            )
        start = stage.until


def wrapped(env: PatchMaskVectorEnv, wrapper: str | None) -> Env:
    """Put the environment in which the agent learns into a wrapper, where one is set.

    Masks are measured and pictured without it, so that hardness means the same for all.

    Raises:
        SettingsError: It refuses the environment, or changes what an observation or an action is.
    """
    if wrapper is None:
        return env
    make = import_class(wrapper, VectorWrapper, "--wrapper")
    try:
        found: Any = make(env)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"--wrapper {wrapper}: cannot be put around the environment: {error}") from error
    for space in ("single_observation_space", "single_action_space"):
        if getattr(found, space) != getattr(env, space):
            raise SettingsError(f"--wrapper {wrapper}: changes the {space}; masks are measured without it")
    return found  # type: ignore[no-any-return]


def play_stage(
    stage: Stage, agent: Agent, env: PatchMaskVectorEnv, learning: Env, images: int, callback: Callback
) -> None:
    """Play a part of a run with this environment; while the agent learns, `learning`, which may be a wrapper of it."""
    env.episodes.co_train = stage.unet_learns
    if stage.random:
        stand_in = make_agent("random", env)
        stand_in.generator = agent.generator  # saved with the agent, so that a resumed run draws the same masks
        play(stand_in, env, images, callback)
    elif stage.agent_learns:
        agent.learn(learning, images, callback)
    else:
        play(agent, env, images, callback)
