"""Whole runs by two ranks: the same as by one, interrupted or killed in the middle or not; only the first writes."""

import csv
import runpy
import time
from pathlib import Path

import pytest
import torch

from ahm_env.files import load_tensors
from tests.killed import kill_once
from tests.launched import LAUNCHER, torchrun

# Runs of 20 steps in double precision; as ranks, the second is stopped by a signal in the middle, and goes on.
DOUBLE = """
import signal
import sys

import torch

from agents import pretrain
from ahm_env.errors import InterruptionError
from ahm_env.model import ranks
from ahm_env.runs.observer import Silent
from downstream import finetune

torch.set_default_dtype(torch.float64)
out = sys.argv[1]
shape = dict(image_size=32, width=4, norm="group", precision="fp32", batch_size=12)


class Stopping(Silent):
    def on_update(self, images, loss):
        if images == 120 and ranks.number() == 1:
            signal.raise_signal(signal.SIGTERM)


def both(start, **settings):
    try:
        start(observer=Stopping(), **settings)
        assert ranks.count() == 1
    except InterruptionError:
        start(out=settings["out"], resume=True)


workers = {} if ranks.count() > 1 else {"workers": 1}
both(pretrain, data="phantom:64:1", out=f"{out}/pretrained", total_images=240, **workers, **shape)
unlabelled = dict(unlabelled="auto", unlabelled_batch=6, join=0.4, confidence=0.5)
both(finetune, data="phantom:64:1", out=f"{out}/tuned", steps=20, labels=12, **unlabelled, **shape)
"""
# A run by the command line, as a rank that is killed after its 100th image, by the last word, or not.
KILLED = """
import os
import signal
import sys

import ahm
from agents.pretraining.console import TrainingDisplay
from ahm_env.model import ranks


class Dying(TrainingDisplay):
    def on_update(self, images, loss):
        super().on_update(images, loss)
        if images > 100 and ranks.number() == 1 and sys.argv[-1] != "--resume":
            os.kill(os.getpid(), signal.SIGKILL)


import agents.pretraining.console

agents.pretraining.console.TrainingDisplay = Dying
ahm.main()
"""


def last(path: Path) -> dict[str, torch.Tensor]:
    return load_tensors(max((path / "checkpoints").glob("[0-9]*")))[0]


@pytest.mark.slow
def test_two_ranks_of_six_images_learn_what_one_of_twelve_does(tmp_path: Path, monkeypatch) -> None:
    done = torchrun(tmp_path, DOUBLE, str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr("sys.argv", ["", str(tmp_path / "one")])
    try:
        runpy.run_path(str(tmp_path / "ranks.py"))
    finally:
        torch.set_default_dtype(torch.float32)
    for run in ("pretrained", "tuned"):
        one, two = (last(tmp_path / count / run) for count in ("one", "two"))
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, two[name], rtol=0, atol=1e-8, msg=lambda text, name=name: name + text)
    assert (tmp_path / "two" / "tuned" / "test.json").exists()


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_all_and_the_run_goes_on(call, tmp_path: Path) -> None:
    words = "train-agent --data phantom:64:1 --total-images 192 --batch-size 12 --image-size 32 --width 4 --norm group"
    asked = [*words.split(), "--precision", "fp32"]
    killed = torchrun(tmp_path, KILLED, *asked, "--out", str(tmp_path / "two"))
    assert killed.returncode != 0
    resumed = torchrun(tmp_path, KILLED, "train-agent", "--out", str(tmp_path / "two"), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("Going on after 96 images") == 1, resumed.stdout  # one rank speaks
    status, _, errors = call(*asked, "--workers", "1", "--out", str(tmp_path / "one"))
    assert status == 0, errors
    one, two = (
        [float(row["unet_loss"]) for row in csv.DictReader((tmp_path / run / "metrics.csv").open())]
        for run in ("one", "two")
    )
    assert two == pytest.approx(one, abs=1e-3)


@pytest.mark.slow
def test_ranks_save_and_end_where_torchrun_is_killed(tmp_path: Path) -> None:
    words = "train-agent --algo random --data phantom:64:1 --total-images 80000 --batch-size 8 --image-size 16"
    asked = [*words.split(), "--patch-size", "4", "--width", "2", "--norm", "group", "--device", "cpu"]
    checkpoints = tmp_path / "run" / "checkpoints"

    def after_a_row() -> bool:
        return any(time.time() - one.stat().st_mtime > 1 for one in checkpoints.glob("[0-9]*"))

    kill_once(after_a_row, *asked, "--out", str(tmp_path / "run"), launcher=[*LAUNCHER, "--nproc-per-node=2"])
    *_, row = csv.DictReader((tmp_path / "run" / "metrics.csv").open())
    assert int(max(checkpoints.glob("[0-9]*")).stem) > int(row["images"])  # saved since, as by SIGTERM
