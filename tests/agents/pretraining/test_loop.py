"""The run: repeatable, resumable, interruptible; and what its parts do and leave alone."""

import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents import AGENTS, load_agent
from agents.baselines import OracleAgent
from agents.pretraining import loop as pretraining
from agents.pretraining.hardness import Hardness
from agents.pretraining.loop import Pretraining
from agents.pretraining.run_directory import COLUMNS, RunDirectory
from agents.pretraining.schedule import Stage, play_stage, set_curriculum, split_held_out, stages
from agents.pretraining.settings import RunSettings
from agents.pretraining.snapshots import Frame
from ahm_env import ImageSet, Reconstructor, SettingsError, TrainingError, load_images
from ahm_env.errors import InterruptionError
from ahm_env.files import load_tensors, read_rows
from ahm_env.runs import run as runs
from ahm_env.runs.observer import Silent
from tests.agents.toys import assert_same

TINY = {"data": "phantom:80:3", "image_size": 32, "width": 4, "batch_size": 4, "total_images": 96, "workers": 1}


class Counting(Silent):
    """An observer that counts, and interrupts where asked."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at, self.updates, self.warnings = fail_at, 0, []

    def on_update(self, images: int, loss: float) -> None:
        self.updates += 1
        if self.updates == self.fail_at:
            raise KeyboardInterrupt

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return load_images("phantom:80:3", 32, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "PICTURED", 1)


def train(path: Path, source: ImageSet, observer: Counting | None = None, **settings: object) -> Pretraining:
    made = RunSettings(**{**TINY, **settings})
    with RunDirectory(path) as directory:
        directory.write_or_check_config(made, source)
        run = Pretraining(made, source, directory)
        with suppress(InterruptionError):
            run.run(observer or Counting())
    return run


def checkpoint(path: Path) -> dict[str, torch.Tensor]:
    return load_tensors(max((path / "checkpoints").glob("*.safetensors")))[0]


def rows(path: Path) -> list[dict[str, str]]:
    return read_rows(path / "metrics.csv")


def timeless(path: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows(path)]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"horizon": 2, "mask_ratio": "0.3:0.6"}, {"algo": "random"}])
def test_one_worker_with_the_same_seed_gives_identical_weights(tmp_path, images, settings):
    train(tmp_path / "a", images, **settings)
    train(tmp_path / "b", images, **settings)
    assert_same(checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b"))
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little is measured, and a checkpoint written wherever it may be: these tests ask for other things."""
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
    for name, value in {"ROWS": 4, "PAIRS": (4, 4), "FINAL_PAIRS": (8, 8)}.items():
        monkeypatch.setattr(pretraining, name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
def test_another_seed_gives_other_weights(tmp_path, images):
    train(tmp_path / "a", images)
    train(tmp_path / "b", images, seed=1)
    a, b = checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b")
    name = "reconstructor/unet.outc.conv.weight"
    assert not torch.equal(a[name], b[name])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that came to their end undisturbed, by their settings; each is trained once."""
    return {}


ANNEALED = {"ent_coef": "0.1:0", "bound": "2:5", "temperature": "1:0.5"}
KINDS = {
    "a3c": {"agent": ANNEALED},
    "a3c-staged": {"schedule": "staged", "horizon": 2, "agent": ANNEALED},
    "ppo": {"algo": "ppo", "agent": {"n_steps": 4, "minibatches": 2, "own_weight": 1.0, **ANNEALED}},
    "ppo-2": {"algo": "ppo", "agent": {"n_steps": 4, "minibatches": 2}, "horizon": 2, "mask_ratio": "0.3:0.6"},
    "a2c-staged": {"algo": "a2c", "agent": {"n_steps": 3, **ANNEALED}, "schedule": "staged"},
    "learning-progress": {"algo": "learning-progress"},
    "autoencoder": {"algo": "autoencoder"},
}


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize(
    ("kind", "fail_at"),
    [(kind, at) for kind in ("a3c", "a3c-staged") for at in (1, 7, 9, 13, 23)]
    + [(kind, at) for kind in ("ppo", "ppo-2", "a2c-staged") for at in (6, 14, 23)]
    + [(kind, 15) for kind in ("learning-progress", "autoencoder")],
)
def test_a_run_that_was_cut_off_and_resumed_equals_one_that_was_not(
    tmp_path, tmp_path_factory, images, finished, kind, fail_at
):
    """Bit for bit; a run of SB3's agents goes on from the end of the last rollout."""
    settings = KINDS[kind]
    if kind not in finished:
        finished[kind] = tmp_path_factory.mktemp("finished") / "whole"
        train(finished[kind], images, **settings)
    whole, cut = finished[kind], tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train(cut, images, Counting(fail_at), **settings)
    saved = sorted((cut / "checkpoints").glob("*.safetensors"))
    last = load_tensors(saved[-1])[1]["images"] if saved else 0
    assert last < 4 * fail_at
    assert saved or fail_at == 1
    observer = Counting()
    train(cut, images, observer, **settings)
    assert observer.updates == 24 - last // 4
    assert_same(checkpoint(whole), checkpoint(cut))
    for name in ("unet.safetensors", "agent/agent.safetensors"):
        assert_same(load_tensors(whole / name)[0], load_tensors(cut / name)[0])
    assert timeless(whole) == timeless(cut)
    for one, other in zip(frames(whole), frames(cut), strict=True):
        assert one.images == other.images
        assert np.array_equal(one.masks, other.masks)
        assert np.array_equal(one.reconstructions, other.reconstructions)


def frames(path: Path) -> list[Frame]:
    with RunDirectory(path) as directory:
        return directory.frames()


@pytest.mark.slow
def test_hardness_is_measured_ten_times_and_in_the_last_row(tmp_path, images):
    train(tmp_path / "run", images)
    table = rows(tmp_path / "run")
    seen = [int(row["images"]) for row in table]
    assert len(table) >= 10
    assert seen == sorted(set(seen))
    assert seen[-1] == 96
    assert all(np.isfinite(float(row[f"hardness_{kind}"])) for row in table for kind in ("sampled", "likeliest"))


@pytest.mark.slow
def test_the_run_directory_holds_what_is_promised(tmp_path, images):
    train(tmp_path / "run", images)
    names = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*")}
    assert {"metrics.csv", "masks.png", "unet.safetensors", "agent/agent.json", "agent/agent.safetensors"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if name.endswith(".tmp")]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [4, 5])
def test_images_are_counted_in_whole_batches(tmp_path, images, batch_size):
    observer = Counting()
    run = train(tmp_path / "run", images, observer, total_images=26, batch_size=batch_size)
    assert observer.updates == -(-26 // batch_size)
    assert run.seen == observer.updates * batch_size


@pytest.mark.slow
def test_a_signal_saves_and_ends_the_run_and_it_goes_on_to_the_same_end(tmp_path, images):
    class Interrupt(Counting):
        def on_update(self, images: int, loss: float) -> None:
            super().on_update(images, loss)
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


@pytest.mark.slow
def test_a_run_cut_off_before_its_last_row_is_not_finished(tmp_path, images, monkeypatch):
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
    train(tmp_path / "whole", images)
    with monkeypatch.context() as broken:
        broken.setattr(Pretraining, "measure", interrupt_at_the_end(Pretraining.measure))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "cut", images)
    assert load_tensors(max((tmp_path / "cut" / "checkpoints").glob("*.safetensors")))[1]["images"] == 96
    train(tmp_path / "cut", images)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "cut")


def interrupt_at_the_end(measure: Callable[..., Hardness]) -> Callable[..., Hardness]:
    def interrupted(run: Pretraining, pairs: int) -> Hardness:
        if run.seen >= run.settings.total_images:
            raise KeyboardInterrupt
        return measure(run, pairs)

    return interrupted


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path, images):
    class Poison(Counting):
        run: Pretraining

        def on_update(self, images: int, loss: float) -> None:
            super().on_update(images, loss)
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


@pytest.mark.slow
def test_stages_train_only_what_they_should(tmp_path, images):
    first, second, third = stages(RunSettings(**TINY, schedule="staged"))
    assert (first.until, second.until, third.until) == (32, 64, 96)
    assert first == Stage(32, random=True, agent_learns=False)
    with RunDirectory(tmp_path / "run") as directory:
        run = Pretraining(RunSettings(**TINY, schedule="staged", agent_share="1"), images, directory)

        def changes(stage: Stage) -> tuple[bool, bool]:
            agent, unet = run.agent.network.policy.weight, run.reconstructor.unet.outc.conv.weight
            before = agent.clone(), unet.clone()
            play_stage(stage, run.agent, run.env, run.env, 8, lambda update: True)
            return not torch.equal(before[0], agent), not torch.equal(before[1], unet)

        assert changes(first) == (False, True)
        assert changes(second) == (True, False)
        assert changes(third) == (False, True)
        assert changes(stages(RunSettings(**TINY))[0]) == (True, True)


def test_the_curriculum_raises_the_share_and_lowers_the_step_size(tmp_path, images):
    with RunDirectory(tmp_path / "run") as directory:
        settings = RunSettings(**TINY, agent_share="0:0.5", learning_rate=0.01)
        run = Pretraining(settings, images, directory)
        group = run.reconstructor.optimiser.param_groups[0]
        for seen, share, rate in ((0, 0.0, 0.01), (48, 0.25, 0.005), (96, 0.5, 0.0002)):
            set_curriculum(run.env, run.agent, settings, seen)
            assert run.env.agent_share == pytest.approx(share)
            assert run.agent.progress == seen / 96
            assert group["lr"] == pytest.approx(rate)


def test_an_agent_is_told_how_much_of_its_own_learning_is_done(tmp_path, images):
    with RunDirectory(tmp_path / "run") as directory:
        settings = RunSettings(**TINY, schedule="staged")
        run = Pretraining(settings, images, directory)
        for seen, progress in ((0, 0), (32, 0), (48, 0.5), (64, 1), (96, 1), (100, 1)):
            set_curriculum(run.env, run.agent, settings, seen)
            assert run.agent.progress == progress


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


@pytest.mark.slow
def test_a_destabilised_agent_raises_the_warning_once_and_a_random_one_does_not(tmp_path, images, monkeypatch):
    monkeypatch.setattr(pretraining, "PAIRS", (128, 128))
    loose, random = Counting(), Counting()
    agent = {"bound": None, "ent_coef": 0.0}
    train(tmp_path / "loose", images, loose, agent_learning_rate=0.3, agent=agent, agent_share="1")
    assert len(loose.warnings) == 1
    assert "collapsing" in loose.warnings[0]
    train(tmp_path / "random", images, random, algo="random")
    assert random.warnings == []


@pytest.mark.parametrize(
    ("algo", "advice"),
    [
        ("a3c", "; raise its ent_coef (--set), or lower --agent-learning-rate"),
        ("hard-patches", "; lower --agent-learning-rate"),
        ("edges", ""),
    ],
)
def test_what_helps_against_a_collapse_is_said_of_settings_that_the_agent_has(tmp_path, images, algo, advice):
    with RunDirectory(tmp_path / "run") as directory:
        run = Pretraining(RunSettings(**TINY, algo=algo), images, directory)
    run.observer, run.seen = Counting(), 96
    run._warn_of_collapse(SimpleNamespace(collapse="all images get the same mask"))
    assert run.observer.warnings == [f"the agent's masks are collapsing: all images get the same mask{advice}"]


def test_measuring_and_drawing_leave_no_trace(tmp_path, images):
    with RunDirectory(tmp_path / "run") as directory:
        run = Pretraining(RunSettings(**TINY), images, directory)
        run.agent.learn(run.env, 8)

        def everything() -> dict[str, torch.Tensor]:
            return {name: tensor.clone() for name, tensor in {**run.agent.state(), **run.reconstructor.state()}.items()}

        before, env = everything(), str(run.env.episodes.state())
        run.hardness = run.measure(64)
        run.write_results()
        assert_same(before, everything())
        assert env == str(run.env.episodes.state())


# ---------------------------------------------------------------- other agents than A3C


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
def test_checkpoints_of_an_sb3_run_are_of_ends_of_rollouts(tmp_path, images, monkeypatch):
    saved: list[int] = []
    save = RunDirectory.save
    monkeypatch.setattr(RunDirectory, "save", lambda run, one: (saved.append(one.images), save(run, one)))
    train(tmp_path / "run", images, **KINDS["ppo"], total_images=52)
    assert saved == [16, 32, 48, 52, 52]  # and of the end of the run, before it is measured and after


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("algo", sorted(AGENTS))
def test_with_every_agent_the_unet_is_trained_equally_often(tmp_path, images, algo):
    run = train(tmp_path / "run", images, algo=algo, total_images=32)
    assert [int(row["unet_updates"]) for row in rows(tmp_path / "run")][-1] == 8
    assert run.reconstructor.updates == 8
    assert run.finished
    loaded = load_agent(tmp_path / "run" / "agent")
    assert loaded.name == algo
    loaded.attach(run.env)
    pixels = images.images(run.pictured)
    assert np.array_equal(loaded.maps(pixels)[0], run.agent.maps(pixels)[0])
    assert (tmp_path / "run" / "masks.png").exists()
    last = frames(tmp_path / "run")[-1]
    assert last.images == 32
    assert last.masks.shape == (1, 16)


@pytest.mark.parametrize(
    ("settings", "played"),
    [
        ({"total_images": 31}, 31),  # a rollout has 32
        ({"total_images": 32}, None),
        ({"total_images": 95, "schedule": "staged", "horizon": 2, "agent": {"n_steps": 16}}, 32),
        ({"total_images": 91, "schedule": "staged", "horizon": 2, "agent": {"n_steps": 16}}, 30),
    ],
)
def test_an_agent_that_would_never_learn_is_refused(tmp_path, images, settings, played):
    made = RunSettings(**{**TINY, "algo": "ppo", **settings})
    with RunDirectory(tmp_path / "run") as directory:
        if played in (None, 32):
            Pretraining(made, images, directory)
        else:
            with pytest.raises(SettingsError, match=f"learns after each 32 images .* and plays {played};"):
                Pretraining(made, images, directory)


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
def test_the_unet_is_not_trained_while_it_is_frozen(tmp_path, images):
    train(tmp_path / "run", images, algo="random", schedule="staged", total_images=48)
    found = {int(row["images"]): int(row["unet_updates"]) for row in rows(tmp_path / "run")}
    assert found == {12: 3, 24: 4, 36: 5, 48: 8}  # images 17 to 32 are the agent's alone


# ---------------------------------------------------------------- rows


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("algo", ["random", "oracle"])
def test_a_judge_judges_the_masks_and_is_not_trained(tmp_path, images, algo):
    with RunDirectory(tmp_path / "other") as directory:
        other = Pretraining(RunSettings(**TINY, seed=9), images, directory).reconstructor
    other.save(tmp_path / "judge.safetensors")
    before = (tmp_path / "judge.safetensors").read_bytes()
    run = train(
        tmp_path / "run", images, algo=algo, total_images=32, reference_unet=str(tmp_path / "judge.safetensors")
    )
    assert (tmp_path / "judge.safetensors").read_bytes() == before
    assert isinstance(run.reference_unet, Reconstructor)
    assert run.reference_unet.updates == 0
    table = rows(tmp_path / "run")
    assert len(table) == 4
    assert all(np.isfinite(float(row["reference_hardness_sampled"])) for row in table)
    last = table[-1]
    assert float(last["reference_hardness_sampled"]) == pytest.approx(run.measure(8, other).sampled.hardness, rel=1e-4)
    assert float(last["hardness_sampled"]) == pytest.approx(run.measure(8).sampled.hardness, rel=1e-4)
    assert last["reference_hardness_sampled"] != last["hardness_sampled"]
    if isinstance(run.agent, OracleAgent):  # it looked at the judge while it was judged, and then back
        assert float(last["reference_hardness_sampled"]) > 1.02
        pixels = images.images(run.pictured)
        seen = run.agent.maps(pixels)[0]
        run.agent.attach(run.env)
        assert np.array_equal(run.agent.maps(pixels)[0], seen)


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
def test_without_a_judge_there_is_no_judged_hardness(tmp_path, images):
    train(tmp_path / "run", images, algo="random", total_images=8)
    assert [row["reference_hardness_sampled"] for row in rows(tmp_path / "run")] == ["nan"] * len(
        rows(tmp_path / "run")
    )


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
def test_numbers_of_sb3_without_a_column_go_to_tensorboard_only(tmp_path, images):
    train(tmp_path / "run", images, **KINDS["ppo"], total_images=36)
    found = EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0}).Reload()
    assert {"train/approx_kl", "train/clip_fraction", "reward", "policy_loss"} <= set(found.Tags()["scalars"])
    assert all(np.isfinite(event.value) for event in found.Scalars("train/approx_kl"))
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert header == ",".join(COLUMNS)
    assert "train/" not in (tmp_path / "run" / "metrics.csv").read_text()
    assert np.isfinite(float(rows(tmp_path / "run")[0]["policy_loss"]))


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
def test_a_row_is_the_mean_over_the_batches_that_have_the_number(tmp_path, images):
    with RunDirectory(tmp_path / "run") as directory:
        run = Pretraining(RunSettings(**TINY), images, directory)
        nan = float("nan")
        run.tally({"reward": 1.0, "unet_loss": 2.0, "policy_loss": nan, "train/new": 8.0})
        run.tally({"reward": 4.0, "unet_loss": 3.0, "policy_loss": 5.0})
        run.tally({"reward": nan, "unet_loss": 7.0, "policy_loss": 7.0, "train/new": nan})
        assert run.sums["reward"] == (5.0, 2)
        assert run.sums["policy_loss"] == (12.0, 2)
        run.record()
        [row] = directory.rows
        assert (row["reward"], row["unet_loss"], row["policy_loss"], row["train/new"]) == (2.5, 4.0, 6.0, 8.0)
        assert np.isnan(row["value_loss"])
        assert run.sums == {}
        run.tally({"reward": 9.0, "unet_loss": 1.0})
        run.record()
        assert directory.rows[1]["reward"] == 9.0
        assert np.isnan(directory.rows[1]["policy_loss"])


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
def test_the_history_begins_with_the_untrained_agent_and_has_a_frame_for_each_row(tmp_path, images):
    train(tmp_path / "run", images, total_images=32)
    found = frames(tmp_path / "run")
    assert [frame.images for frame in found] == [0, *(int(row["images"]) for row in rows(tmp_path / "run"))]
    assert all(np.array_equal(frame.shown, found[0].shown) for frame in found)
    assert not np.array_equal(found[0].reconstructions, found[-1].reconstructions)
    assert set(found[0].shown.tolist()) <= set(split_held_out(images)[1].tolist())


def test_no_two_runs_walk_through_the_images_alike(tmp_path, images):
    walks = list[int]()
    for seed in range(3):
        made = RunSettings(**{**TINY, "seed": seed})
        with RunDirectory(tmp_path / str(seed)) as directory:
            walks += [order.seed for order in Pretraining(made, images, directory).env.episodes.orders]
    assert len(walks) == len(set(walks))
