"""The images of an experiment: what they cannot give its trials, and whether they are those that it began with."""

from agents.pretraining.schedule import check_run
from agents.pretraining.settings import RunSettings
from ahm_env import ImageError, ImageSet, RunError, SettingsError, Standardisation
from ahm_env.images.dataset.annotated import annotated
from downstream.comparison.experiment import Experiment
from downstream.comparison.mask_evaluation import evaluation_images
from downstream.comparison.results.rows import SCRATCH
from downstream.comparison.trials import FinetuneTrial, Labelled, PretrainTrial, images_of
from downstream.finetuning.labelled import Split, only_labelled
from downstream.finetuning.run import make_spec
from downstream.finetuning.settings import FinetuneSettings
from downstream.models.pretrained import PretrainedWeights

_SCRATCH = PretrainedWeights(SCRATCH, None, Standardisation((0.0,), (1.0,)), {})  # whose numbers do not matter


def check_runs(experiment: Experiment, images: ImageSet) -> None:
    """Refuse, before the reference U-Nets are trained, what no run of the agents on these images can have or can read.

    Raises:
        SettingsError: Such settings.
        ImageError: A mask of an image that is held out, which tells what of lesions is hidden, cannot be read.
        CheckpointError: Weights that an agent starts from are missing or damaged.
    """
    left = {one.agent.label: one.agent for one in experiment.pretraining if one.evaluation is None}
    for agent in left.values():  # what is trained needs no file of weights any more
        settings = RunSettings.make(**agent.given(experiment.shared))
        if settings.channels not in (None, images.channels):
            raise SettingsError(
                f"{agent.label}: {settings.channels} channels, but the reference U-Nets, on which its masks are "
                f"evaluated, have {images.channels}; give --channels, for all agents"
            )
        check_run(settings, images.channels)
    if left:
        ignore = experiment.pretraining[0].ignore
        annotated(images, evaluation_images(images, None), skip_bad=experiment.settings.skip_bad, ignore=ignore)


def check_images(experiment: Experiment, images: ImageSet) -> dict[Labelled, str]:
    """Refuse, before hours of training, what these images cannot give.

    Returns:
        Of each choice of labelled images the key of the set that a trial on it sees.

    Raises:
        SettingsError: Fewer labelled images than asked for, or none of a class among them; or masks of several classes
            where Segment Anything is to be compared.
        ImageError: There are no masks or labels, those to learn from and to test on do not go together, or there is no
            image to test on.
    """
    keys = dict[Labelled, str]()
    sam = experiment.downstream is not None and experiment.downstream.sam is not None
    for trial in {(one.labelled, one.arm): one for one in experiment.finetuning}.values():
        settings = _settings(trial)
        known = only_labelled(settings, images)
        split = Split.make(settings, known)
        spec = make_spec(settings, known, split, _SCRATCH)
        if not split.test.size:
            what = "mask" if trial.task == "segmentation" else "label"
            raise ImageError(f"{images.source}: no image of a test or val split has a {what}; add such a split")
        if sam and len(spec.values) > 2:
            numbers = ", ".join(map(str, spec.values[1:]))
            raise SettingsError(
                f"--sam tells no classes apart, but masks of {images.source} hold {numbers}; leave it out, or have one "
                f"class beside the background"
            )
        keys[trial.labelled] = known.content_key
    return keys


def refuse_changed(experiment: Experiment, images: ImageSet, keys: dict[Labelled, str]) -> None:
    """Refuse to go on with other images or masks than the trials that have begun: no table may mix them.

    These are the trials of this and of all earlier commands, whatever agents and arms they asked for.

    Args:
        experiment: The experiment.
        images: Its images, as they are now.
        keys: What `check_images` returned.

    Raises:
        RunError: They have changed since.
        SettingsError: They have changed, and are fewer than an earlier command had labelled.
    """
    keys, parts = dict(keys), [experiment, *experiment.parts]
    trials = {one.path: one for part in parts for one in (*part.references, *part.trials) if not one.sees_others}
    for path, trial in trials.items():
        begun = images_of(path)
        if begun is None:
            continue
        if isinstance(trial, PretrainTrial):
            key = images.content_key
        else:
            if trial.labelled not in keys:
                keys[trial.labelled] = only_labelled(_settings(trial), images).content_key
            key = keys[trial.labelled]
        if begun != key:
            cause = f"the images or masks of {images.source} have changed since {path} began"
            raise RunError(f"{experiment.out}: {cause}; bring them back, or choose another --out")


def _settings(trial: FinetuneTrial) -> FinetuneSettings:
    """Make the settings of a trial, as far as images go: from whatever U-Net it starts."""
    return FinetuneSettings.make(_SCRATCH, **trial.given)
