"""Agents that regress losses: what they learn and hide, progress by hand, states, and several processes."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from agents import AGENTS, Problem, load_agent, make_agent, save_agent
from agents.loss_predictor import (
    SLOWNESS,
    EasyPatchesAgent,
    HardPatchesAgent,
    HardPatchesSettings,
    LearningProgressAgent,
)
from agents.pretraining.settings import RunSettings
from ahm_env import ImageSet, PatchMaskVectorEnv, Reconstructor, SettingsError, TrainingError
from tests.agents.toys import assert_same, snapshot, updates

Toy = Any  # the class ToyEnv of conftest.py
Pixels = npt.NDArray[np.uint8]

# of two kinds of images, what each patch costs: a permutation of 0.5, 0.7, …, 3.5
COSTS = np.stack([np.random.default_rng(seed).permutation(np.arange(0.5, 3.6, 0.2)) for seed in (1, 2)])


def by_kind(kinds: Any, masks: Any) -> Any:
    return COSTS[kinds]


def nothing(kinds: Any, masks: Any) -> Any:
    return np.full(masks.shape, np.nan)


def without_unet(kind: type[HardPatchesAgent]) -> type[HardPatchesAgent]:
    """The agent for an environment that has no U-Net to look at."""

    class Alone(kind):  # type: ignore[misc, valid-type]
        name = kind.name

        def attach(self, env: Any) -> None:
            pass

    return Alone


@pytest.fixture(params=[HardPatchesAgent, EasyPatchesAgent])
def learned(request: pytest.FixtureRequest, toy_env: Toy, textures: Pixels) -> HardPatchesAgent:
    """Each, after it has learned from random masks (the share that it may choose is 0)."""
    env = toy_env(textures, by_kind, quota=8, num_envs=16, agent_share=0.0)
    agent: HardPatchesAgent = without_unet(request.param)(env, HardPatchesSettings(learning_rate=3e-3))
    agent.learn(env, 16 * 120)
    return agent


# ---------------------------------------------------------------- the loss


@pytest.mark.slow
def test_what_is_regressed_is_the_loss_standardised_within_the_image(
    learned: HardPatchesAgent, textures: Pixels
) -> None:
    scores, values = learned.maps(textures)
    expected = (COSTS - COSTS.mean()) / COSTS.std()
    assert values.dtype == scores.dtype == np.float32
    assert np.abs(values - expected).mean() < 0.2
    for value, cost in zip(values, COSTS, strict=True):
        assert np.corrcoef(value, cost)[0, 1] > 0.95
    assert np.array_equal(scores, learned.sign * values)


@pytest.mark.slow
def test_the_hardest_are_hidden_and_inverted_the_easiest(learned: HardPatchesAgent, textures: Pixels) -> None:
    masks = learned.predict(textures).astype(bool)
    assert masks.sum(1).tolist() == [8, 8]
    order = np.sort(COSTS, 1)
    worst = {1: order[:, 8:], -1: order[:, :8]}[learned.sign].mean()
    other = order.mean()
    found = COSTS[masks].mean()
    assert abs(found - other) > 0.9 * abs(worst - other)
    assert np.sign(found - other) == learned.sign
    assert (learned.name, learned.sign) in {("hard-patches", 1), ("easy-patches", -1)}


def test_only_hidden_patches_are_learned_from(toy_env: Toy, textures: Pixels) -> None:
    """What a visible patch costs is not looked at, however large."""

    def lies(kinds: Any, masks: Any) -> Any:
        return np.where(masks, COSTS[kinds], 1e6)

    states = []
    for losses in (by_kind, lies):
        env = toy_env(textures, losses, quota=6)
        agent = without_unet(HardPatchesAgent)(env)
        agent.learn(env, 8 * 3)
        states.append(snapshot(agent))
    assert_same(states[0], states[1])


def test_the_first_step_by_hand(toy_env: Toy, textures: Pixels) -> None:
    """Losses standardised over the hidden patches of each image; mean over these; then over images; then Adam."""
    env = toy_env(textures, by_kind, quota=6, num_envs=3)
    agent = without_unet(HardPatchesAgent)(env, HardPatchesSettings(learning_rate=1e-3))
    weights = {name: weight.detach().clone() for name, weight in agent.network.named_parameters()}
    [update] = updates(agent, env, 3)

    twin = without_unet(HardPatchesAgent)(Problem(1, 32, 4, (6, 6))).network
    twin.load_state_dict({**agent.network.state_dict(), **weights})
    values = twin(torch.from_numpy(env.shown[0]).float()).values
    per_image = []
    for value, kind, mask in zip(values, env.kinds[0], env.masks[0], strict=True):
        costs = COSTS[kind][mask]
        wanted = torch.from_numpy((costs - costs.mean()) / costs.std()).float()
        per_image.append((value[torch.from_numpy(mask)] - wanted).square().mean())
    loss = torch.stack(per_image).mean()
    assert update.value_loss == pytest.approx(loss.item(), rel=1e-4)
    assert update.reward == pytest.approx(env.rewards[0].mean(), rel=1e-5)
    loss.backward()
    moving = [(name, weight) for name, weight in twin.named_parameters() if not name.startswith("policy")]
    torch.nn.utils.clip_grad_norm_([weight for _, weight in moving], 1.0)
    torch.optim.Adam([weight for _, weight in moving], 1e-3).step()
    after = dict(agent.network.named_parameters())
    for name, weight in moving:
        assert torch.allclose(after[name], weight, atol=1e-6), name
        assert not torch.equal(after[name], weights[name]), name
    for name in ("policy.weight", "policy.bias"):  # of the two maps, only one is used
        assert torch.equal(after[name], weights[name])


def test_the_unit_of_the_loss_does_not_matter(toy_env: Toy, textures: Pixels) -> None:
    found = []
    for unit in (1.0, 1000.0):
        env = toy_env(textures, lambda kinds, masks, unit=unit: unit * COSTS[kinds])
        agent = without_unet(HardPatchesAgent)(env)
        agent.learn(env, 8 * 5)
        found.append(agent.maps(textures)[1])
    assert np.allclose(found[0], found[1], atol=1e-3)


@pytest.mark.slow
def test_equal_losses_ask_for_nothing(toy_env: Toy, textures: Pixels) -> None:
    """No patch is harder than another: the map becomes flat, and nothing is divided by nothing."""
    env = toy_env(textures, lambda kinds, masks: np.full(masks.shape, 2.0))
    agent = without_unet(HardPatchesAgent)(env, HardPatchesSettings(learning_rate=3e-3))
    reports = updates(agent, env, 8 * 40)
    assert reports[-1].value_loss < 0.3 * reports[0].value_loss
    assert np.abs(agent.maps(textures)[1]).max() < 0.6


def test_with_several_steps_the_image_without_anything_hidden_is_learned_from(
    toy_env: Toy, textures: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = toy_env(textures, by_kind, quota=6, horizon=3)
    agent = without_unet(HardPatchesAgent)(env)
    asked: list[Any] = []
    regress = agent._regress

    def recorded(images: Pixels, hidden: Any, targets: Any) -> float:
        asked.append((images.copy(), hidden.copy(), targets.copy()))
        return regress(images, hidden, targets)

    monkeypatch.setattr(agent, "_regress", recorded)
    assert len(updates(agent, env, 8 * 2)) == len(asked) == 2
    for (images, hidden, targets), kinds, mask in zip(asked, env.kinds, env.masks, strict=True):
        assert np.array_equal(images, textures[kinds])
        assert np.array_equal(hidden, mask)
        assert hidden.sum(1).tolist() == [6] * 8
        assert targets == pytest.approx(COSTS[kinds])


def test_episodes_that_were_cut_short_teach_nothing(toy_env: Toy, textures: Pixels) -> None:
    """Nothing was reconstructed: a patch loss of 0 is not a patch that is easy."""
    env = toy_env(textures, by_kind, horizon=2, truncate_after=1)
    agent = without_unet(HardPatchesAgent)(env)
    before = snapshot(agent)
    agent.learn(env, 8 * 3)
    assert len(env.actions) == 3
    after = agent.state()
    assert not [name for name in before if name != "generator" and not torch.equal(before[name], after[name])]


def test_learning_stops_when_told_and_reports_each_batch(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, by_kind)
    agent = without_unet(HardPatchesAgent)(env)
    found = updates(agent, env, 20)
    assert [update.images for update in found] == [8, 8, 8]
    assert all(np.isfinite(update.value_loss) and update.resumable for update in found)
    agent.learn(env, 800, lambda update: found.append(update) is not None)
    assert len(found) == 4


def test_settings_reach_it(toy_env: Toy, textures: Pixels) -> None:
    agent = make_agent("hard-patches", toy_env(textures, by_kind), learning_rate=0.25)
    assert isinstance(agent, HardPatchesAgent)
    assert [group["lr"] for group in agent.optimiser.param_groups] == [0.25]
    with pytest.raises(SettingsError, match="resnet"):
        make_agent("hard-patches", toy_env(textures, by_kind), backbone="resnet")


# ---------------------------------------------------------------- progress


@pytest.fixture
def native(phantoms: ImageSet, reconstructor: Reconstructor) -> PatchMaskVectorEnv:
    env = PatchMaskVectorEnv(4, data=phantoms, unet=reconstructor, mask_ratio=0.5, co_train=True)
    env.reset(seed=3)
    return env


def twin_of(reconstructor: Reconstructor) -> Reconstructor:
    """A copy that shares nothing."""
    made = Reconstructor.create(reconstructor.grid, reconstructor.standardisation, width=4)
    made.unet.load_state_dict(reconstructor.unet.state_dict())
    return made


@pytest.mark.slow
def test_progress_is_the_slow_copy_s_loss_minus_the_unet_s_and_then_the_copy_moves(
    native: PatchMaskVectorEnv, reconstructor: Reconstructor, phantoms: ImageSet
) -> None:
    agent = LearningProgressAgent(native)
    slow = twin_of(reconstructor)
    images, rng = phantoms.images(np.arange(5)), np.random.default_rng(0)
    for _ in range(3):
        reconstructor.learn(images, rng.random((5, 16)) < 0.5)  # the U-Net goes ahead
        hidden = rng.random((5, 16)) < 0.5
        losses = reconstructor.patch_losses(images, hidden)
        found = agent.targets(images, hidden, losses)
        assert found.dtype == np.float32
        assert found == pytest.approx(slow.patch_losses(images, hidden) - losses, abs=1e-5)
        assert np.abs(found).max() > 1e-3
        fast = reconstructor.unet.state_dict()
        moved = {
            name: tensor + 0.01 * (fast[name] - tensor) if tensor.is_floating_point() else tensor
            for name, tensor in slow.unet.state_dict().items()
        }
        slow.unet.load_state_dict(moved)
        state = agent.state()
        for name, tensor in moved.items():
            assert torch.allclose(state[f"optimiser.slow.{name}"].float(), tensor.float(), atol=1e-6), name
    assert SLOWNESS == 0.01


def test_without_any_progress_there_is_nothing_to_expect(
    native: PatchMaskVectorEnv, reconstructor: Reconstructor, phantoms: ImageSet
) -> None:
    agent, images = LearningProgressAgent(native), phantoms.images(np.arange(5))
    hidden = np.random.default_rng(0).random((5, 16)) < 0.5
    found = agent.targets(images, hidden, reconstructor.patch_losses(images, hidden))
    assert not found.any()


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("learns", [True, False])
def test_of_a_unet_that_stands_still_there_is_no_progress_to_expect(
    phantoms: ImageSet, monkeypatch: pytest.MonkeyPatch, norm: str, learns: bool
) -> None:
    """Its BatchNorm statistics move on where it learns, though its weights do not; a frozen one has learned before."""
    env = PatchMaskVectorEnv(4, data=phantoms, unet="new", width=4, image_size=32, norm=norm, co_train=True)
    unet, rng = env.episodes.reconstructor, np.random.default_rng(0)
    for _ in range(5):
        unet.learn(phantoms.images(np.arange(8)), rng.random((8, 16)) < 0.5)
    unet.optimiser.set_learning_rate(0.0)
    env.episodes.co_train = learns
    env.reset(seed=3)
    agent = LearningProgressAgent(env)
    found, targets = [], agent.targets
    monkeypatch.setattr(agent, "targets", lambda *what: found.append(targets(*what)) or found[-1])
    agent.learn(env, 4 * 10)
    assert len(found) == 10
    assert np.abs(found).max() < 1e-6


def test_the_slow_copy_computes_in_the_precision_of_the_unet(reconstructor: Reconstructor, phantoms: ImageSet) -> None:
    for precision in ("fp32", "bf16"):
        unet = Reconstructor(reconstructor.unet, reconstructor.grid, reconstructor.standardisation, precision=precision)
        agent = LearningProgressAgent(PatchMaskVectorEnv(2, data=phantoms, unet=unet))
        assert agent._slow is not None
        assert agent._slow.precision == precision


def test_following_progress_leaves_the_unet_alone(
    native: PatchMaskVectorEnv, reconstructor: Reconstructor, phantoms: ImageSet
) -> None:
    agent, images = LearningProgressAgent(native), phantoms.images(np.arange(5))
    before = {name: tensor.clone() for name, tensor in reconstructor.state().items()}
    agent.targets(images, np.ones((5, 16), bool), np.zeros((5, 16), np.float32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in reconstructor.state().items())


def test_the_slow_copy_moves_with_every_batch_and_survives_a_judge(
    native: PatchMaskVectorEnv, reconstructor: Reconstructor, phantoms: ImageSet
) -> None:
    agent = LearningProgressAgent(native)
    name = "optimiser.slow.outc.conv.weight"
    start = agent.state()[name].clone()
    seen = [start]
    agent.learn(native, 8, lambda _: seen.append(agent.state()[name].clone()) is None)
    assert len(seen) == 3
    assert not torch.equal(seen[1], seen[2])
    fast = reconstructor.unet.outc.conv.weight
    assert (seen[2] - start).norm() < 0.05 * (fast - start).norm()

    other = Reconstructor.create(reconstructor.grid, reconstructor.standardisation, width=2, seed=8)
    agent.attach(PatchMaskVectorEnv(2, data=phantoms, unet=other, mask_ratio=0.5))
    assert torch.equal(agent.state()[name], seen[2])
    agent.attach(native)
    agent.learn(native, 4)


def test_progress_needs_a_unet(toy_env: Toy, textures: Pixels) -> None:
    with pytest.raises(SettingsError, match="native PatchMaskVectorEnv"):
        make_agent("learning-progress", toy_env(textures, by_kind))


# ---------------------------------------------------------------- states and files


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hard-patches", "easy-patches", "learning-progress"])
def test_going_on_from_a_state_is_as_if_there_had_been_no_break(phantoms: ImageSet, name: str) -> None:
    """U-Net, environment and agent are put back; with a range of ratios, so that the agent draws as well."""

    def begin() -> tuple[PatchMaskVectorEnv, HardPatchesAgent]:
        env = PatchMaskVectorEnv(
            3, data=phantoms, unet="new", width=2, image_size=32, mask_ratio="0.25:0.75", co_train=True
        )
        env.reset(seed=2)
        agent = make_agent(name, env, seed=3)
        assert isinstance(agent, HardPatchesAgent)
        return env, agent

    env, agent = begin()
    agent.learn(env, 15)
    whole = snapshot(agent)

    env, agent = begin()
    agent.learn(env, 6)
    state, unet = snapshot(agent), {key: one.clone() for key, one in env.episodes.reconstructor.state().items()}
    where = env.episodes.state()

    env, agent = begin()
    kept = {key: tensor.clone() for key, tensor in state.items()}
    agent.restore(state)
    assert_same(agent.state(), state)
    env.episodes.reconstructor.restore(unet)
    env.episodes.restore(where)
    agent.learn(env, 9)
    assert_same(whole, agent.state())
    assert_same(state, kept)  # a copy was taken of what was handed in


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hard-patches", "easy-patches", "learning-progress"])
def test_a_saved_agent_comes_back_as_it_was_without_moments_or_slow_copy(
    native: PatchMaskVectorEnv, phantoms: ImageSet, tmp_path: Any, name: str
) -> None:
    agent = make_agent(name, native, seed=3, learning_rate=0.01)
    agent.learn(native, 12)
    save_agent(agent, tmp_path)
    loaded = load_agent(tmp_path)
    assert isinstance(loaded, HardPatchesAgent)
    assert (loaded.name, loaded.problem, loaded.settings) == (name, agent.problem, agent.settings)
    assert not [key for key in loaded.state() if "slow" in key]
    images = phantoms.images(np.arange(6))
    for one, other in zip(agent.maps(images), loaded.maps(images), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(agent.predict(images), loaded.predict(images))
    native.reset(seed=5)
    loaded.learn(native, 4)  # and goes on


def test_several_processes_may_train_those_that_keep_no_copy_of_their_own() -> None:
    assert {name: AGENTS[name].parallel for name in ("hard-patches", "easy-patches", "learning-progress")} == {
        "hard-patches": True,
        "easy-patches": True,
        "learning-progress": False,
    }
    assert RunSettings(algo="hard-patches", workers=2, device="cpu").processes == 2
    assert RunSettings(algo="learning-progress", workers=0, device="cpu").processes == 1
    with pytest.raises(SettingsError, match=r"progress trains in one process; use --workers 1"):
        RunSettings.make(algo="learning-progress", workers=2, device="cpu")


def test_memory_that_is_shared_is_what_learning_changes(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, by_kind)
    agent = without_unet(HardPatchesAgent)(env)
    agent.share_memory()
    weight = agent.state()["network.value.weight"]
    before = weight.clone()
    assert all(tensor.is_shared() for name, tensor in agent.state().items() if name != "generator")
    agent.learn(env, 8)
    assert weight.is_shared()
    assert not torch.equal(weight, before)


# ---------------------------------------------------------------- what is not finite


def test_a_loss_that_is_not_finite_is_refused_and_weights_stay_as_they_were(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, by_kind)
    agent = without_unet(HardPatchesAgent)(env)
    agent.learn(env, 8)
    before = snapshot(agent)
    env.losses = nothing
    with pytest.raises(TrainingError, match=r"loss of hard-patches is no longer finite.*--agent-learning-rate"):
        agent.learn(env, 8)
    after = agent.state()
    assert not [name for name in before if name != "generator" and not torch.equal(before[name], after[name])]


def test_a_step_size_far_too_large_ends_in_a_sentence(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, by_kind)
    agent = without_unet(EasyPatchesAgent)(env, HardPatchesSettings(learning_rate=1e25))
    with pytest.raises(TrainingError, match=r"easy-patches.*--agent-learning-rate") as caught:
        agent.learn(env, 8 * 20)
    assert "\n" not in str(caught.value)
    assert all(torch.isfinite(tensor).all() for name, tensor in agent.state().items() if name != "generator")
