"""Which images do what: which count as labelled, which take part without labels, and which are tested on."""

import hashlib
from dataclasses import dataclass

import numpy as np

from ahm_env import ImageError, ImageSet, SettingsError
from ahm_env.images.dataset.annotated import annotated
from ahm_env.images.dataset.loader import with_marked
from ahm_env.images.dataset.patients import fair_order, first_patients, round_robin
from ahm_env.images.source import class_order
from ahm_env.masks import Ints
from downstream.evaluation.tested import find_tested, usable
from downstream.finetuning.mean_teacher import Unlabelled
from downstream.finetuning.settings import FinetuneSettings


@dataclass(frozen=True)
class Split:
    """Which images do what.

    Attributes:
        learn: Learned from.
        select: The best state is selected by these; empty where the last one is kept.
        test: Tested on, once, at the end; empty where neither split has a mask or label.
        test_name: `test`, or `val` where no image of the test split has a mask or label.
    """

    learn: Ints
    select: Ints
    test: Ints
    test_name: str

    @classmethod
    def make(cls, settings: FinetuneSettings, images: ImageSet) -> "Split":
        """Split the images of a set.

        Raises:
            SettingsError: Fewer labelled images than asked for.
            ImageError: There are no masks or labels.
        """
        labelled = draw_labelled(settings, images)
        select = labelled[:0]
        if settings.val_fraction:
            patients = images.patients(labelled)
            order = fair_order(images.labels(labelled), patients, settings.seed)
            select = labelled[first_patients(patients, order, round(settings.val_fraction * len(labelled)))]
            if not 0 < len(select) < len(labelled):
                raise SettingsError(
                    f"--val-fraction {settings.val_fraction} of {len(labelled)} images leaves none; ask for more labels"
                )
        name, test = find_tested(settings.task, images)
        return cls(np.setdiff1d(labelled, select), np.sort(select), test, name)


def choose_labelled(images: ImageSet, indices: Ints, count: int | None, seed: int, stratified: bool = False) -> Ints:
    """Choose the images that count as labelled: `count` of `indices`, or all; a smaller choice lies within a larger.

    No mask and no class is looked at: people choose the images to label before they know what is on them.

    Args:
        images: The set.
        indices: Images that have a mask or label.
        count: How many; None is all.
        seed: Decides which.
        stratified: Look at the classes after all, so that each has its share: for comparisons of methods only.

    Raises:
        SettingsError: There are fewer images than asked for.
    """
    if count is None:
        return indices
    if count > len(indices):
        raise SettingsError(
            f"--labels {count}: {images.source} has {len(indices)} labelled images to train on; ask for fewer, or all"
        )
    classes = images.labels(indices) if stratified else None
    return np.sort(indices[round_robin(images.patients(indices), seed, classes)[:count]])


def choose_unlabelled(
    settings: FinetuneSettings, images: ImageSet, split: Split, others: ImageSet | None
) -> Unlabelled | None:
    """Choose the images that take part without labels; None where there are none, or too few to be worth it.

    Of another set these are its train split. An image to test or to select by is never among them, whatever its name:
    images are compared by their pixels; and of another set no image of a patient whose images these are, nor one that
    is labelled here.

    Raises:
        SettingsError: A source was named that has no such image, or is not given.
    """
    if settings.unlabelled == "none":
        return None
    labelled = np.concatenate([split.learn, split.select])
    source = images if settings.unlabelled == "auto" else others
    if source is None:
        raise SettingsError(f"--unlabelled {settings.unlabelled}: the images of that source are not given")
    train, apart = source.split("train"), np.concatenate([split.test, split.select])
    if source is images:
        selects = images.patients(split.select)  # by whose images the best state is selected
        candidates = np.setdiff1d(train[~np.isin(images.patients(train), selects)], labelled)
    else:
        patients = images.patient_digests(apart)
        candidates = train[~np.isin(source.patient_digests(train), patients[patients != 0])]
        apart = np.concatenate([apart, split.learn])  # of the same files, maybe
    known = {_digest(images, index) for index in apart.tolist()}
    rest = np.array([index for index in candidates.tolist() if _digest(source, index) not in known], np.int64)
    if source is images:
        return Unlabelled(images, rest) if len(rest) >= len(labelled) else None
    if not rest.size:
        raise SettingsError(
            f"--unlabelled {settings.unlabelled}: none of its images is for training and of no patient who is tested "
            f"on; give another"
        )
    return Unlabelled(source, rest, len(train) - len(rest))


def _digest(images: ImageSet, index: int) -> bytes:
    return hashlib.blake2b(images.images(index).tobytes(), digest_size=16).digest()


def draw_labelled(settings: FinetuneSettings, images: ImageSet) -> Ints:
    """Choose the labelled images of the train split; where the set knows no other labels any more, return them all.

    Raises:
        SettingsError: Fewer than asked for.
        ImageError: None has a mask or label.
    """
    train = usable(settings.task, images, images.split("train"))
    if not train.size:
        what = "mask" if settings.task == "segmentation" else "label"
        raise ImageError(f"{images.source}: no image of its train split has a {what}; check with `ahm data check`")
    if images.annotations is not None:
        return train
    return choose_labelled(images, train, settings.labels, settings.seed, settings.stratified)


def only_labelled(settings: FinetuneSettings, images: ImageSet) -> ImageSet:
    """Limit a set to what a run of fine-tuning may know: the masks and labels of the labelled and the tested images.

    Args:
        settings: Of the run.
        images: The set; if its masks have not been read, those of no other image are opened. Images to test on that
            show nothing, but are marked, are taken in.

    Raises:
        SettingsError: Fewer labelled images than asked for.
        ImageError: A mask cannot be used, or an image to test on is of a class of which none is labelled.
    """
    if images.annotations is not None:
        return images
    segments, tested_split = settings.task == "segmentation", find_tested(settings.task, images)[0]
    if segments:
        images = with_marked(images, (tested_split,), settings.skip_bad)
    labelled = draw_labelled(settings, images)
    tested = find_tested(settings.task, images)[1]
    classes = None
    if settings.task == "classification":
        classes = settings.class_names or class_names(images, labelled)
    known, ignore = np.union1d(labelled, tested), settings.ignore if segments else None
    # 255 stands for 1 only where there is no more than one class beside the background
    several = segments and settings.classes is not None and _named(settings) not in ({0, 1}, {0, 255})
    return annotated(images, known, classes, segments, settings.skip_bad, ignore, as_stored=several)


def _named(settings: FinetuneSettings) -> set[int]:
    """Numbers in masks that were named as classes."""
    return set(map(int, settings.class_names or ()))


def class_names(images: ImageSet, indices: Ints) -> tuple[str, ...]:
    """Names of the classes of these images, in order."""
    return class_order({images.classes[number] for number in images.labels(indices).tolist() if number >= 0})


def find_values(settings: FinetuneSettings, images: ImageSet, split: Split) -> tuple[int, ...]:
    """Numbers in masks that stand for the classes of a run, ascending, 0 among them.

    They are those in the masks to learn from, or those that were named. Masks are looked at as they are before
    resizing, for so they are when the model is tested.

    Raises:
        ImageError: A mask, maybe one to test on, holds another number, nothing of a class is left after resizing, or
            there is none but the background.
    """
    learned = np.union1d(split.learn, split.select)
    found = set(images.mask_values(learned)) - {images.ignore}
    numbers = found if settings.classes is None else _named(settings)
    if found <= {0, 1} and numbers == {0, 255}:  # as most programs store masks of two values
        numbers = {0, 1}
    values = tuple(sorted({0, *numbers}))
    if len(values) < 2:
        raise ImageError(f"{images.source}: its masks are all background; nothing can be learned from that")
    hint = "; name it there, renumber the classes of the mask, or leave it out with --ignore"
    _refuse_others(images, learned, values, "to learn from, holds {}, which --classes does not name" + hint)
    hint = "; label more images, or renumber its classes"
    known = ", ".join(map(str, values))
    _refuse_others(images, split.test, values, f"to test on, holds {{}}, but those to learn from hold {known}{hint}")
    lost = sorted(found - {0, *images.mask_values(learned, resized=True)})
    if settings.classes is None and lost:
        raise ImageError(
            f"{images.source}: {lost[0]} is a class in masks to learn from, but no pixel of it is left at --image-size "
            f"{images.image_size}; choose a larger one, or take the class out of the masks"
        )
    return values


def _refuse_others(images: ImageSet, indices: Ints, values: tuple[int, ...], what: str) -> None:
    """Refuse masks that hold another number than these, or the one to be ignored."""
    known = {*values, images.ignore}
    if known.issuperset(images.mask_values(indices)):
        return
    for index in indices:
        if odd := sorted(set(images.mask_values(index)) - known):
            raise ImageError(f"{images.source}: the mask of {images.names[index]}, {what.format(odd[0])}")


def check_classes(images: ImageSet, labelled: Ints, classes: tuple[str, ...]) -> None:
    """Every class must have a labelled image.

    Raises:
        SettingsError: One has none.
    """
    present = set(images.labels(labelled).tolist())
    missing = [name for number, name in enumerate(classes) if number not in present]
    if missing:
        raise SettingsError(
            f"{images.source}: no image of class {', '.join(missing)} among the {len(labelled)} to learn from; ask for "
            f"more --labels, or take the class out of labels.csv"
        )
