"""Evaluate the masks of agents: all on the same frozen U-Net, on images that it did not learn from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

from agents import load_agent
from agents.agent import Agent
from agents.pretraining.hardness import KINDS, Hardness, measure
from agents.pretraining.run_directory import RunDirectory
from agents.pretraining.schedule import load_reference, split_held_out
from agents.pretraining.settings import RunSettings
from ahm_env import ImageSet, MaskRatio, Reconstructor, RunError, SettingsError
from ahm_env.files import Saved, path_of
from ahm_env.images.dataset.annotated import annotated
from ahm_env.masks import Ints
from ahm_env.model.devices import find_device
from downstream.evaluation.tested import check_ignore

PAIRS = 1024  # image and mask pairs by which an agent is evaluated
RANDOM_DRAWS = 32  # random masks an image, at least
SEED = 1  # of masks: all agents meet the same random ones


@dataclass(frozen=True)
class MaskScores:
    """How an agent's masks did on a U-Net.

    Attributes:
        hardness: Of sampled and of likeliest masks, with all of these masks.
        lesion: Share of the lesion that sampled masks hide, NaN where nothing is marked or images have no masks.
        background: Share of the rest that they hide, NaN where there is none; what is to be ignored is neither.
    """

    hardness: Hardness
    lesion: float
    background: float


def score_masks(
    agent: Agent,
    reconstructor: Reconstructor,
    images: ImageSet,
    indices: Ints,
    ratio: MaskRatio,
    horizon: int = 1,
    pairs: int = PAIRS,
) -> MaskScores:
    """Score the masks of an agent, the agent choosing the whole quota.

    Args:
        agent: The agent.
        reconstructor: The reference U-Net; it does not learn.
        images: The images.
        indices: Which of them.
        ratio: Share of the patches to hide.
        horizon: Steps an image.
        pairs: Image and mask pairs, about.
    """
    draws = max(2, pairs // len(indices))
    found = measure(agent, reconstructor, images, indices, ratio, horizon, draws, SEED, max(draws, RANDOM_DRAWS))
    lesion = background = nan
    masked = images.masked(indices)
    if masked.any():
        hidden = found.sampled.masks.mean(0)[masked]
        masks = images.masks(indices[masked])
        parts = (reconstructor.grid.patch_means(part) for part in ((masks > 0) & (masks != images.ignore), masks == 0))
        lesion, background = (float((hidden * part).sum() / part.sum()) if part.any() else nan for part in parts)
    return MaskScores(found, lesion, background)


@dataclass(frozen=True)
class MaskEvaluation:
    """A run, and how its agent did.

    Attributes:
        path: The run.
        settings: Its settings.
        scores: Of its agent's masks.
        names: Of the images by which it was evaluated.
        patients: `(images,)` numbers of their patients.
        temperature: At which masks were sampled; None where the agent draws from no logits.
    """

    path: Path
    settings: RunSettings
    scores: MaskScores
    names: tuple[str, ...]
    patients: Ints
    temperature: float | None

    def as_dict(self) -> dict[str, Any]:
        """Its numbers, as JSON can hold them; None for what is not known."""
        one, sampled = self.scores, self.scores.hardness.sampled
        kinds = [(kind, getattr(one.hardness, kind)) for kind in KINDS]
        numbers = {
            "run": self.path.name,
            "agent": self.settings.algo,
            "temperature": self.temperature,
            **one.hardness.as_dict(),
            **{f"loss_{kind}": float(masks.losses.mean()) for kind, masks in kinds},
            **{f"random_loss_{kind}": float(masks.random_losses.mean()) for kind, masks in kinds},
            "least_hidden": float(sampled.frequencies.min()),
            "most_hidden": float(sampled.frequencies.max()),
            "between_images": sampled.between_images,
            "within_images": sampled.within_images,
            "lesion_hidden": one.lesion,
            "background_hidden": one.background,
        }
        return known(numbers)


def known(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Replace NaN, for what is not known, by None: JSON has no NaN."""
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in numbers.items()}


def evaluate_masks(
    run: str | Path | Saved,
    unet: str | Path | None = None,
    data: str | Path | None = None,
    algo: str | None = None,
    temperature: float | None = None,
    ignore: int | None = None,
    device: str = "auto",
) -> MaskEvaluation:
    """Evaluate the masks of a run's agent, in the run's precision.

    Args:
        run: The run, or its directory.
        unet: File of the reference U-Net; by default the run's own.
        data: Source of images, of which the `test` split is used, else `val`, else what a run would hold out; by
            default the images that the run held out.
        algo: `package.module:Class` of an agent of your own, which may be imported if the run's agent is that.
        temperature: What the logits of sampled masks are divided by: below 1, masks come closer to the likeliest. By
            default the agent's own, with which it was trained.
        ignore: Number in masks that is no class: such pixels are neither lesion nor rest; None for none.
        device: Where to compute, wherever the run did; `auto`: the best there is.

    Raises:
        AHMError: No run, damaged files, a U-Net or images that do not fit the agent, images that have changed since the
            run held some out, or a temperature for an agent that draws from no logits.
    """
    check_ignore(ignore)
    path, data = path_of(run), None if data is None else str(data)
    unet = path / "unet.safetensors" if unet is None else Path(unet)
    if path.is_file():
        load_agent(path)  # says what is wrong with it
        raise RunError(f"{path}: is a file, not a run; give the directory that `ahm train-agent` wrote")
    directory, settings = RunDirectory.open(path)
    where = find_device(device)
    agent = load_agent(path / "agent", where, algo)
    if temperature is not None:
        if agent.temperature is None:
            raise SettingsError(f"{path}: its agent, {agent.name}, draws from no logits; leave out --temperature")
        if not 0 < temperature < inf:
            raise SettingsError(f"--temperature {temperature:g} must be a positive number")
        agent.temperature = temperature
    how = {"device": where, "precision": settings.precision}
    reconstructor = load_reference(unet, settings.grid, agent.problem.channels, **how)
    images = replace(settings, data=data or settings.data, channels=agent.problem.channels).load_images()
    if data is None and images.content_key != directory.content_key():  # what it held out cannot be found again
        cause = f"the images of {images.source} have changed since, or were loaded otherwise from Python"
        raise RunError(f"{path}: {cause}; name images that it has not learned from by --data")
    indices = evaluation_images(images, data)
    images = annotated(images, indices, skip_bad=settings.skip_bad, ignore=ignore)
    scores = score_masks(agent, reconstructor, images, indices, settings.mask_ratio, settings.horizon)
    names = tuple(images.names[index] for index in indices)
    return MaskEvaluation(path, settings, scores, names, images.patients(indices), agent.temperature)


def evaluation_images(images: ImageSet, data: str | None) -> Ints:
    """Which images to evaluate on: unseen ones."""
    if data is not None:
        for split in ("test", "val"):
            if len(images.split(split)):
                return images.split(split)
    return split_held_out(images)[1]
