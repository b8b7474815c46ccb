"""A trial that is trained elsewhere, from bytes alone, comes to what it comes to at home, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ahm_env.files import load_tensors
from ahm_env.images.dataset import annotated, loader
from ahm_env.images.dataset.cache import IDENTITIES, PATIENT_DIGESTS
from downstream.comparison.experiment import Experiment
from downstream.comparison.options import Downstream
from downstream.comparison.pools.remote import Files, Lent, Needs, keep, pack, pack_images, pack_start, train, unpack
from downstream.comparison.trials import Trial

COMMON = {"image_size": 16, "patch_size": 4, "width": 2, "total_images": 64, "batch_size": 8, "device": "cpu"}


def make(out: Path) -> Experiment:
    asked = Downstream("segmentation", "8", "auto", settings="steps=12,batch_size=2,unlabelled_batch=2,join=0.3")
    return Experiment(out, ("scratch", "a3c"), 1, {**COMMON, "data": "phantom:48:0", "precision": "fp32"}, asked)


def all_of(experiment: Experiment) -> list[Trial]:
    return [*experiment.references, *experiment.pretraining, *experiment.finetuning]


def elsewhere(trial: Trial, monkeypatch: pytest.MonkeyPatch, dies: bool = False) -> None:
    """Train a trial from bytes alone; where it dies, go on from what was sent before."""
    needs = Needs.of(trial)
    lent = Lent(pack_images(needs.images), pack(needs.masks), pack_start(needs.start))
    sent = list[Files]()

    class DeadError(Exception):
        pass

    def send(files: Files) -> None:
        sent.append(files)
        if dies and len(sent) == 3:
            raise DeadError

    def unreachable(*_: Any, **__: Any) -> None:
        raise AssertionError("the source of the images was looked at")

    with monkeypatch.context() as away:
        for module in (loader, annotated):
            away.setattr(module, "find_source" if module is loader else "wanted", unreachable)
        if dies:
            with pytest.raises(DeadError):
                train(needs, lent, pack(trial.path), send)
            keep(trial, sent[-1])
            assert not trial.done
        files = train(needs, lent, pack(trial.path), send)
    keep(trial, files)
    trial.work()


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("dies", [False, True])
def test_what_is_trained_elsewhere_is_what_is_trained_here(
    dies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make(tmp_path / "here"), make(tmp_path / "there")
    for trial, other in zip(all_of(here), all_of(there), strict=True):
        trial.work()
        elsewhere(other, monkeypatch, dies)
        assert other.done
        for path in trial.path.rglob("*.safetensors"):
            if "checkpoints" not in path.parts:
                one, two = (load_tensors(run.path / path.relative_to(trial.path))[0] for run in (trial, other))
                assert all(torch.equal(one[name], two[name]) for name in one), path
    timed = {"seconds", "images_per_second"}
    for one, two in zip(rows(here), rows(there), strict=True):
        assert one[:-1] == two[:-1]
        assert one.metric in timed or one.value == two.value, (one, two)


def rows(experiment: Experiment) -> list[Any]:
    return [row for trial in all_of(experiment) for row in trial.rows()]


def test_a_parcel_holds_what_is_needed_and_nothing_that_was_there_before_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("config.json", "checkpoints/000.safetensors", "checkpoints/001.safetensors", ".lock"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    files = pack(run)
    assert sorted(files) == ["checkpoints/001.safetensors", "config.json"]
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / "checkpoints" / "002.safetensors").write_text("of another attempt")
    unpack(files, other)
    left = sorted(str(path.relative_to(other)) for path in other.rglob("*") if path.is_file())
    assert left == [".lock", "checkpoints/001.safetensors", "config.json"]
    assert (other / "config.json").read_text() == "config.json"
    assert pack(None) == {}


def test_who_is_on_images_stays_here(tmp_path: Path) -> None:
    for name in (IDENTITIES, PATIENT_DIGESTS):
        np.save(tmp_path / name, np.array([7, 8], np.uint64))
    (tmp_path / "images.npy").write_bytes(b"pixels")
    files = pack_images(tmp_path)
    for name in (IDENTITIES, PATIENT_DIGESTS):
        assert not files[name].any()
        assert files[name].size == (tmp_path / name).stat().st_size
    assert files["images.npy"].tobytes() == b"pixels"
