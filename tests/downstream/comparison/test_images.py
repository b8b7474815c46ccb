"""The images of experiments: what they cannot give is refused, and so are others than the experiment began with."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from agents.pretraining.schedule import split_held_out
from ahm_env import AHMError, ImageError, ImageSet, RunError, SettingsError, load_images
from downstream.comparison.experiment import Experiment
from downstream.comparison.images import check_images, check_runs, refuse_changed
from downstream.comparison.options import Downstream
from downstream.finetuning.labelled import Split, only_labelled
from downstream.finetuning.settings import FinetuneSettings
from downstream.models.pretrained import PretrainedWeights
from tests.downstream.comparison.examples import COMMON, QUICK, make


def begin(path: Path, key: str) -> None:
    """Pretend that a trial has begun with the images of this key."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"settings": {}, "images": {"content_key": key}}))


def test_no_table_mixes_images_or_masks_with_those_that_they_have_become(tmp_path: Path, drawn: ImageSet) -> None:
    experiment = make(tmp_path, ("scratch", "random", "a3c+image_size=32"), 1, tasks="segmentation", labels="8")
    keys = check_images(experiment, drawn)
    refuse_changed(experiment, drawn, keys)  # nothing has begun
    random, larger = experiment.pretraining
    scratch = next(one for one in experiment.finetuning if one.agent == "scratch")
    fits = {random.path: drawn.content_key, larger.path: "of 32 pixels", scratch.path: keys[scratch.labelled]}
    for path, key in fits.items():
        begin(path, key)
    refuse_changed(experiment, drawn, keys)
    assert keys[scratch.labelled] != drawn.content_key  # masks count, of those that are known
    for path in (random.path, scratch.path):
        begin(path, "others")
        with pytest.raises(RunError, match=f"have changed since {path} began; bring them back"):
            refuse_changed(experiment, drawn, keys)
        begin(path, fits[path])


@pytest.mark.parametrize(
    ("agent", "text"),
    [
        ("a3c+backbone=resnet", "backbone 'resnet' is unknown"),
        ("a3c+backbone=vgg16+backbone_weights=nosuch.pth", "nosuch.pth"),
        ("a3c+width=5", "U-Net width 5 must be an even number"),
        ("a3c+norm=layer", "norm 'layer' is unknown"),
        ("a3c+loss_on=some", "loss_on 'some' is unknown"),
        ("a3c+precision=int8", "int8"),
        ("a3c+channels=1", r"a3c\+channels=1: 1 channels, but the reference U-Nets, .*, have 3; give --channels"),
        ("ppo+policy=cnn", "36 px or more; use --set policy=maps"),
        ("ppo+n_steps=16", "ppo learns after each 192 images .*, and plays 24"),
        ("a2c+own_weight=1+horizon=2", "n_steps 1 must be a multiple of the horizon"),
    ],
)
def test_agents_that_cannot_be_trained_on_these_images_are_refused_at_once(
    agent: str, text: str, tmp_path: Path, drawn: ImageSet
) -> None:
    experiment = Experiment(tmp_path, ("random", agent), 1, COMMON)
    experiment.check_agents()
    with pytest.raises(AHMError, match=text) as caught:
        check_runs(experiment, drawn)
    assert "\n" not in str(caught.value)
    path = experiment.pretraining[1].path
    path.mkdir(parents=True)
    (path / "mask_evaluation.json").write_text('{"references": []}')
    check_runs(experiment, drawn)  # where it is trained already, nothing is asked


def test_images_that_cannot_give_what_is_asked_for_are_refused_at_once(
    tmp_path: Path, drawn: ImageSet, write_source: Any
) -> None:
    check_images(make(tmp_path), drawn)
    check_runs(make(tmp_path), drawn)
    with pytest.raises(SettingsError, match="--labels 33: phantom:40:0 has 32 labelled images"):
        check_images(make(tmp_path, labels="8,33"), drawn)
    with pytest.raises(ImageError, match=r"is labelled .* which is none of the classes that are learned"):
        check_images(make(tmp_path, labels="1"), drawn)
    check_images(make(tmp_path, labels="1", tasks="segmentation"), drawn)
    for arms in ("none,none+val_fraction=0.5", "none+val_fraction=0.5,none"):
        with pytest.raises(SettingsError, match="of 1 images leaves none"):
            check_images(make(tmp_path, labels="1", tasks="segmentation", unlabelled=arms), drawn)
    check_images(make(tmp_path, ("random",), labels="1", tasks="segmentation"), drawn)
    with pytest.raises(SettingsError, match="--labels 33"):
        check_images(make(tmp_path, ("random",), labels="33", tasks="segmentation"), drawn)

    def images(name: str, **how: Any) -> ImageSet:
        return load_images(str(write_source(name, **how)), 16, cache_dir=tmp_path / "cache")

    rare = images("rare", splits=("train",) * 6 + ("test",) * 2, values=(0, 1))
    mask = str(tmp_path / "rare" / "masks" / "07.png")
    cv2.imwrite(mask, np.where(cv2.imread(mask, cv2.IMREAD_GRAYSCALE) > 0, 2, 0).astype(np.uint8))
    rare = load_images(str(tmp_path / "rare"), 16, cache_dir=tmp_path / "cache")
    with pytest.raises(ImageError, match=r"mask of .*07.*, to test on, holds 2, but those to learn from hold 0, 1"):
        check_images(make(tmp_path, labels="2", tasks="segmentation"), rare)
    check_images(make(tmp_path, labels="2", tasks="segmentation", settings=f"classes=0,1,2,{QUICK}"), rare)
    given = {"labels": "all", "runs": 1}
    plain = images("plain", masks=False)
    with pytest.raises(ImageError, match="no image of its train split has a mask"):
        check_images(make(tmp_path, **given), plain)
    with pytest.raises(ImageError, match="no image of its train split has a label"):
        check_images(make(tmp_path, tasks="classification", **given), plain)
    untested = images("untested", splits=("train",) * 6, classes=("one", "two"))
    for task, what in (("segmentation", "mask"), ("classification", "label")):
        with pytest.raises(ImageError, match=f"no image of a test or val split has a {what}"):
            check_images(make(tmp_path, tasks=task, **given), untested)


def test_a_mask_that_would_be_missed_after_hours_of_pretraining_is_missed_at_once(
    tmp_path: Path, write_source: Any
) -> None:
    root = write_source("held", splits=("train",) * 40 + ("test",))
    experiment = make(tmp_path, ("random",), labels="2", tasks="segmentation")
    load = partial(load_images, str(root), 16, cache_dir=tmp_path / "cache", masks=False)
    images = load()
    check_runs(experiment, images)
    held = [images.names[index] for index in split_held_out(images)[1]]
    settings = FinetuneSettings.make(PretrainedWeights("scratch", None, None, {}), **experiment.finetuning[0].given)
    learned = [images.names[index] for index in Split.make(settings, only_labelled(settings, images)).learn]
    bad = next(name for name in held if name not in learned)
    (root / "masks" / bad).write_bytes(b"not a picture")
    images = load()
    check_images(experiment, images)
    with pytest.raises(ImageError, match=bad) as caught:
        check_runs(experiment, images)
    assert "\n" not in str(caught.value)


def test_segment_anything_is_not_compared_where_masks_have_several_classes(tmp_path: Path, write_source: Any) -> None:
    for name, values in (("one", (0, 2)), ("several", (0, 1, 2))):
        images = load_images(str(write_source(name, values=values)), 16, cache_dir=tmp_path / "cache")
        given = {"algos": ("scratch",), "runs": 1, "labels": "all", "tasks": "segmentation"}
        check_images(make(tmp_path, **given), images)
        segmented = make(tmp_path, **given, sam=Path("sam"))
        if name == "one":
            check_images(segmented, images)
        else:
            with pytest.raises(SettingsError, match=r"--sam tells no classes apart, but masks of .*several hold 1, 2;"):
                check_images(segmented, images)


@pytest.mark.slow
def test_what_is_marked_in_images_that_show_nothing_counts_in_all_trials(tmp_path: Path, monkeypatch: Any) -> None:
    nibabel = pytest.importorskip("nibabel")
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for number in range(4):
        volume = generator.integers(1, 200, (16, 16, 6)).astype(np.uint8)
        volume[..., 4:] = 0
        for folder, pixels in (("images", volume), ("masks", (volume > 100) | (volume == 0))):
            (tmp_path / "scans" / folder).mkdir(parents=True, exist_ok=True)
            scan = nibabel.Nifti1Image(pixels.astype(np.uint8), np.eye(4))
            nibabel.save(scan, tmp_path / "scans" / folder / f"{number}.nii.gz")
    (tmp_path / "scans" / "labels.csv").write_text("image,split\n0,train\n1,train\n2,test\n3,test\n")
    common = {**COMMON, "data": str(tmp_path / "scans")}
    asked = Downstream(tasks="segmentation", labels="4", settings=QUICK)
    experiment = Experiment(tmp_path / "out", ("scratch",), 1, common, asked)
    images = experiment.settings.load_images()
    keys = check_images(experiment, images)
    (trial,) = experiment.finetuning
    trial.work()
    assert json.loads((trial.path / "test.json").read_text())["images"] == 12
    refuse_changed(experiment, images, keys)  # what was tested on is what was checked


@pytest.mark.parametrize("way", ["auto", "none,auto"])
def test_masks_of_other_arms_of_earlier_commands_count(way: str, tmp_path: Path, drawn: ImageSet) -> None:
    given = {"algos": ("scratch",), "runs": 1, "tasks": "segmentation"}
    earlier = make(tmp_path, labels="16", unlabelled="none", **given)
    earlier.begin()
    (trial,) = earlier.finetuning
    now = make(tmp_path, labels="8", unlabelled=way, **given)
    keys = check_images(now, drawn)
    now.begin()
    begin(trial.path, check_images(earlier, drawn)[trial.labelled])
    refuse_changed(now, drawn, keys)
    begin(trial.path, "of the masks as they were")
    with pytest.raises(RunError, match=f"have changed since {trial.path} began"):
        refuse_changed(now, drawn, keys)


def test_images_of_other_agents_of_earlier_commands_count_and_so_do_those_of_references(
    tmp_path: Path, drawn: ImageSet
) -> None:
    earlier, now = (Experiment(tmp_path, (algo,), 1, COMMON) for algo in ("a3c+precision=fp32", "random"))
    earlier.begin()
    now.begin()
    for trial in (earlier.pretraining[0], now.references[1]):
        begin(trial.path, drawn.content_key)
        refuse_changed(now, drawn, {})
        begin(trial.path, "others")
        with pytest.raises(RunError, match=f"have changed since {re.escape(str(trial.path))} began"):
            refuse_changed(now, drawn, {})
        begin(trial.path, drawn.content_key)
