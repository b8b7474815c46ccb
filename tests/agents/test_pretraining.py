"""The run: repeatable, resumable, interruptible; and what its parts do and leave alone."""

import csv
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from agents import pretraining
from agents.measuring import Measurement
from agents.pretraining import Pretraining
from agents.runs import RunDirectory
from agents.schedule import Stage, play_stage, set_curriculum, split_held_out, stages
from agents.settings import RunSettings
from ahm_env import ImageSet, SettingsError, TrainingError, load_images
from ahm_env.files import load_tensors

TINY = {"data": "phantom:80:3", "image_size": 32, "width": 4, "batch_size": 4, "images": 96, "workers": 1}


class Silent:
    """An observer that counts, and interrupts where asked."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at, self.updates, self.warnings = fail_at, 0, []

    def on_update(self, images: int, seconds: float, loss: float) -> None:
        self.updates += 1
        if self.updates == self.fail_at:
            raise KeyboardInterrupt

    def on_row(self, row: dict[str, float]) -> None:
        pass

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return load_images("phantom:80:3", 32, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(pretraining, "PICTURED", 1)


def train(path: Path, source: ImageSet, observer: Silent | None = None, **settings: object) -> Pretraining:
    with RunDirectory(path) as directory:
        run = Pretraining(RunSettings(**{**TINY, **settings}), source, directory)
        run.run(observer or Silent())
    return run


def checkpoint(path: Path) -> dict[str, torch.Tensor]:
    return load_tensors(max((path / "checkpoints").glob("*.safetensors")))[0]


def rows(path: Path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def timeless(path: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows(path)]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("settings", [{}, {"horizon": 2, "mask_ratio": "0.3:0.6"}, {"algo": "random"}])
def test_one_worker_with_the_same_seed_gives_identical_weights(tmp_path, images, settings):
    train(tmp_path / "a", images, **settings)
    train(tmp_path / "b", images, **settings)
    assert_same(checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b"))
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")


def test_another_seed_gives_other_weights(tmp_path, images):
    train(tmp_path / "a", images)
    train(tmp_path / "b", images, seed=1)
    a, b = checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b")
    name = "reconstructor/unet.outc.conv.weight"
    assert not torch.equal(a[name], b[name])


@pytest.mark.parametrize("fail_at", [1, 7, 9, 13, 23])
@pytest.mark.parametrize("settings", [{}, {"schedule": "staged", "horizon": 2}])
def test_a_run_that_was_cut_off_and_resumed_equals_one_that_was_not(tmp_path, images, monkeypatch, settings, fail_at):
    monkeypatch.setattr(pretraining, "CHECKPOINT_SECONDS", 0.0)
    train(tmp_path / "whole", images, **settings)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", images, Silent(fail_at), **settings)
    train(tmp_path / "cut", images, **settings)
    assert_same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "cut"))
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "cut")


def test_hardness_is_measured_ten_times_and_in_the_last_row(tmp_path, images):
    train(tmp_path / "run", images)
    table = rows(tmp_path / "run")
    seen = [int(row["images"]) for row in table]
    assert len(table) >= 10
    assert seen == sorted(set(seen))
    assert seen[-1] == 96
    assert all(np.isfinite(float(row["hardness"])) for row in table)


def test_the_run_directory_holds_what_is_promised(tmp_path, images):
    train(tmp_path / "run", images)
    names = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*")}
    assert {"metrics.csv", "masks.png", "unet.safetensors", "agent/agent.json", "agent/agent.safetensors"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if name.endswith(".tmp")]


@pytest.mark.parametrize("batch_size", [4, 5])
def test_images_are_counted_in_whole_batches(tmp_path, images, batch_size):
    observer = Silent()
    run = train(tmp_path / "run", images, observer, images=26, batch_size=batch_size)
    assert observer.updates == -(-26 // batch_size)
    assert run.seen == observer.updates * batch_size


def test_a_signal_saves_and_ends_the_run_and_it_goes_on_to_the_same_end(tmp_path, images):
    class Interrupt(Silent):
        def on_update(self, images: int, seconds: float, loss: float) -> None:
            super().on_update(images, seconds, loss)
            if self.updates == 5:
                signal.raise_signal(signal.SIGTERM)

    train(tmp_path / "whole", images)
    before = signal.getsignal(signal.SIGTERM)
    run = train(tmp_path / "cut", images, Interrupt())
    assert run.stopped_by == signal.SIGTERM
    assert run.seen == 5 * 4
    assert signal.getsignal(signal.SIGTERM) is before
    train(tmp_path / "cut", images)
    assert_same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "cut"))


def test_a_run_cut_off_before_its_last_row_is_not_finished(tmp_path, images, monkeypatch):
    monkeypatch.setattr(pretraining, "CHECKPOINT_SECONDS", 0.0)
    train(tmp_path / "whole", images)
    with monkeypatch.context() as broken:
        broken.setattr(Pretraining, "measure", interrupt_at_the_end(Pretraining.measure))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "cut", images)
    assert load_tensors(max((tmp_path / "cut" / "checkpoints").glob("*.safetensors")))[1]["images"] == 96
    train(tmp_path / "cut", images)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "cut")


def interrupt_at_the_end(measure: Callable[..., Measurement]) -> Callable[..., Measurement]:
    def interrupted(run: Pretraining, pairs: int) -> Measurement:
        if run.seen >= run.settings.images:
            raise KeyboardInterrupt
        return measure(run, pairs)

    return interrupted


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path, images):
    class Poison(Silent):
        run: Pretraining

        def on_update(self, images: int, seconds: float, loss: float) -> None:
            super().on_update(images, seconds, loss)
            if self.updates == 9:
                self.good = checkpoint(tmp_path / "run")
                with torch.no_grad():
                    next(self.run.reconstructor.unet.parameters()).fill_(float("nan"))

    observer = Poison()
    with RunDirectory(tmp_path / "run") as directory:
        observer.run = run = Pretraining(RunSettings(**TINY), images, directory)
        with pytest.raises(TrainingError, match="--learning-rate"):
            run.run(observer)
    assert_same(checkpoint(tmp_path / "run"), observer.good)
    assert all(tensor.isfinite().all() for tensor in observer.good.values())


def test_stages_train_only_what_they_should(tmp_path, images):
    first, second, third = stages(RunSettings(**TINY, schedule="staged"))
    assert (first.until, second.until, third.until) == (32, 64, 96)
    assert first == Stage(32, random=True, agent_learns=False)
    with RunDirectory(tmp_path / "run") as directory:
        run = Pretraining(RunSettings(**TINY, schedule="staged"), images, directory)

        def changes(stage: Stage) -> tuple[bool, bool]:
            agent, unet = run.agent.network.policy.weight, run.reconstructor.unet.outc.conv.weight
            before = agent.clone(), unet.clone()
            play_stage(stage, run.agent, run.env, 8, lambda update: True)
            return not torch.equal(before[0], agent), not torch.equal(before[1], unet)

        assert changes(first) == (False, True)
        assert changes(second) == (True, False)
        assert changes(third) == (False, True)
        assert changes(stages(RunSettings(**TINY))[0]) == (True, True)


def test_the_curriculum_raises_the_share_and_lowers_the_step_size(tmp_path, images):
    with RunDirectory(tmp_path / "run") as directory:
        settings = RunSettings(**TINY, share="0:0.5", learning_rate=0.01)
        run = Pretraining(settings, images, directory)
        group = run.reconstructor.optimiser.param_groups[0]
        for seen, share, rate in ((0, 0.0, 0.01), (48, 0.25, 0.005), (96, 0.5, 0.0002)):
            set_curriculum(run.env, settings, seen)
            assert run.env.chosen_share == pytest.approx(share)
            assert group["lr"] == pytest.approx(rate)


def test_held_out_images_are_of_the_train_split_and_never_shown(images):
    shown, held_out = split_held_out(images)
    assert not set(shown) & set(held_out)
    assert set(shown) | set(held_out) == set(images.split("train"))
    assert len(held_out) == 32
    assert np.array_equal(held_out, split_held_out(images)[1])


def test_too_few_images_are_refused(tmp_path):
    few = load_images("phantom:1", 32, cache_dir=tmp_path)
    with pytest.raises(SettingsError, match="at least 2"):
        split_held_out(few)


def test_a_destabilised_agent_raises_the_warning_once_and_a_random_one_does_not(tmp_path, images, monkeypatch):
    monkeypatch.setattr(pretraining, "PAIRS", (128, 128))
    loose, random = Silent(), Silent()
    agent = {"bound": None, "entropy_weight": 0.0}
    train(tmp_path / "loose", images, loose, agent_learning_rate=0.3, agent=agent, share="1")
    assert len(loose.warnings) == 1
    assert "collapsing" in loose.warnings[0]
    train(tmp_path / "random", images, random, algo="random")
    assert random.warnings == []


def test_measuring_and_drawing_leave_no_trace(tmp_path, images):
    with RunDirectory(tmp_path / "run") as directory:
        run = Pretraining(RunSettings(**TINY), images, directory)
        run.agent.learn(run.env, 8)

        def everything() -> dict[str, torch.Tensor]:
            return {name: tensor.clone() for name, tensor in {**run.agent.state(), **run.reconstructor.state()}.items()}

        before, env = everything(), str(run.env.episodes.state())
        run.measure(64)
        run.picture()
        assert_same(before, everything())
        assert env == str(run.env.episodes.state())
