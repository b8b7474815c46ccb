"""The adapter says, step by step, what the native vector environment says, in Stable-Baselines3's words."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.spaces import Box, MultiBinary
from gymnasium.vector import AutoresetMode, VectorWrapper
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from agents.sb3.vec_env import SB3VecEnv
from ahm_env import ActionError, ImageSet, PatchMaskVectorEnv, Reconstructor, SettingsError
from tests.agents.toys import position_costs

Toy = Any  # the class ToyEnv of conftest.py
Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def make(phantoms: ImageSet, reconstructor: Reconstructor) -> Any:
    """Makes environments of three images on one U-Net that does not learn."""
    return lambda **settings: PatchMaskVectorEnv(
        **{"num_envs": 3, "data": phantoms, "unet": reconstructor, "mask_ratio": 0.5, **settings}
    )


def seeded(env: PatchMaskVectorEnv, seed: int = 4) -> SB3VecEnv:
    adapter = SB3VecEnv(env)
    adapter.seed(seed)
    return adapter


def actions(rng: np.random.Generator, count: int = 3) -> npt.NDArray[np.float32]:
    """As SB3 has them: floats, any number of ones."""
    return rng.integers(0, 2, (count, 16)).astype(np.float32)


# ---------------------------------------------------------------- agreement with the native environment


@pytest.mark.slow
@settings(max_examples=12)
@given(
    horizon=st.integers(1, 4),
    limit=st.none() | st.integers(1, 4),
    ratio=st.sampled_from(["0.5", "0.25:0.75"]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_every_step_says_what_the_native_environment_says(
    phantoms: ImageSet, horizon: int, limit: int | None, ratio: str, share: float, seed: int
) -> None:
    same: dict[str, Any] = {"data": phantoms, "unet": "new", "image_size": 32, "patch_size": 8, "width": 2}
    same |= {"mask_ratio": ratio, "horizon": horizon, "agent_share": share, "max_episode_steps": limit}
    native, adapter = PatchMaskVectorEnv(3, **same), seeded(PatchMaskVectorEnv(3, **same), seed)
    expected, infos = native.reset(seed=seed)
    found = adapter.reset()
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    for env_id, info in enumerate(adapter.reset_infos):
        assert info.keys() == {"mask", "chosen", "patch_loss", "image_index", "choosable"}
        assert all(np.array_equal(info[key], infos[key][env_id]) for key in info)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        action = actions(rng)
        expected, rewards, terminated, truncated, infos = native.step(action.astype(np.int8))
        observations, found_rewards, dones, found_infos = adapter.step(action)
        assert np.array_equal(observations, expected)
        assert found_rewards.dtype == np.float32
        assert np.array_equal(found_rewards, rewards.astype(np.float32))
        assert dones.dtype == bool
        assert np.array_equal(dones, terminated | truncated)
        for env_id in range(3):
            source = infos["final_info"] if dones[env_id] else infos
            for key in ("mask", "chosen", "patch_loss", "image_index", "choosable"):
                assert np.array_equal(found_infos[env_id][key], source[key][env_id])
            assert ("terminal_observation" in found_infos[env_id]) == dones[env_id]
            assert not [key for key in found_infos[env_id] if key.startswith(("_", "final_"))]


def test_what_is_returned_is_not_overwritten_by_the_next_step(make: Any) -> None:
    adapter = seeded(make(horizon=2))
    first = adapter.reset()
    kept = first.copy()
    rng = np.random.default_rng(0)
    outcome = adapter.step(actions(rng))
    copies = [np.copy(part) for part in outcome[:3]]
    masks = [info["mask"].copy() for info in outcome[3]]
    adapter.step(actions(rng))
    adapter.step(actions(rng))
    assert np.array_equal(first, kept)
    for part, copy in zip(outcome[:3], copies, strict=True):
        assert np.array_equal(part, copy)
    for info, mask in zip(outcome[3], masks, strict=True):
        assert np.array_equal(info["mask"], mask)


def test_an_environment_that_does_not_start_again_in_the_same_step_is_refused(make: Any) -> None:
    for seed in (None, 0):
        adapter = SB3VecEnv(make(autoreset_mode=AutoresetMode.NEXT_STEP))
        if seed is not None:
            adapter.seed(seed)
        with pytest.raises(SettingsError, match="SAME_STEP"):
            adapter.reset()


# ---------------------------------------------------------------- ends of episodes


def test_what_a_wrapper_pays_on_the_way_is_paid_at_the_end_alone(make: Any) -> None:
    class Bonus(VectorWrapper):
        def step(self, actions: Any) -> Any:
            observations, rewards, terminated, *rest = self.env.step(actions)
            return observations, rewards + 0.5 * ~terminated, terminated, *rest

    adapter = seeded(Bonus(make(horizon=2)))
    adapter.pay = lambda returns: returns
    adapter.reset()
    rng = np.random.default_rng(1)
    assert not adapter.step(actions(rng))[1].any()
    _, rewards, _, infos = adapter.step(actions(rng))
    earned = [0.5 + info["patch_loss"][info["mask"]].mean() for info in infos]
    assert rewards == pytest.approx(earned, rel=1e-5)
    assert [info["episode"]["r"] for info in infos] == pytest.approx(earned, rel=1e-5)


def test_an_episode_of_two_steps_is_paid_once_and_counts_two(make: Any) -> None:
    adapter = seeded(make(horizon=2))
    before = adapter.reset()
    rng = np.random.default_rng(1)
    for _ in range(3):
        middle, rewards, dones, infos = adapter.step(actions(rng))
        assert not dones.any()
        assert not rewards.any()
        assert not [info for info in infos if "episode" in info or "TimeLimit.truncated" in info]
        shown = [info["image_index"] for info in infos]
        after, rewards, dones, infos = adapter.step(actions(rng))
        assert dones.all()
        assert (rewards > 0).all()
        for env_id, info in enumerate(infos):
            assert info["episode"]["r"] == pytest.approx(rewards[env_id], rel=1e-6)
            assert info["episode"]["l"] == 2
            assert info["TimeLimit.truncated"] is False
            assert info["image_index"] == shown[env_id]  # of the episode that has ended
            assert info["mask"].sum() == 8
            assert info["choosable"] == 0
            mask, loss = info["mask"], info["patch_loss"]
            assert rewards[env_id] == pytest.approx(loss[mask].mean(), rel=1e-5)
            # the last observation is of the same image, with all that was hidden in both steps filled
            pixels = mask.repeat(8, 0).repeat(8, 1)
            last = info["terminal_observation"]
            assert last.shape == (3, 32, 32)
            assert np.array_equal(last[:, ~pixels], before[env_id][:, ~pixels])
            assert not np.array_equal(last, middle[env_id])
            assert not np.array_equal(last, after[env_id])
        before = after


def test_returns_and_lengths_start_again_after_a_reset(toy_env: Toy, textures: Pixels) -> None:
    adapter = SB3VecEnv(toy_env(textures, position_costs, horizon=3, num_envs=2))
    ones = np.ones((2, 16))
    adapter.reset()
    adapter.step(ones)
    adapter.step(ones)
    adapter.reset()
    for expected in ([], [], [3, 3]):
        infos = adapter.step(ones)[3]
        assert [info["episode"]["l"] for info in infos if "episode" in info] == expected


def test_episodes_that_end_at_different_times_are_told_apart() -> None:
    """A made-up environment: the first slot ends in every step, the second in every other one, paid 1 a step."""
    adapter = SB3VecEnv(Staggered())
    adapter.reset()
    found = [adapter.step(np.zeros((2, 4))) for _ in range(4)]
    assert [outcome[2].tolist() for outcome in found] == [[True, False], [True, True]] * 2
    for _, _, dones, infos in found:
        assert infos[0]["episode"]["r"] == 1
        assert infos[0]["episode"]["l"] == 1
        assert infos[0]["about"] == "last 0"
        if dones[1]:
            assert infos[1]["episode"]["r"] == 2
            assert infos[1]["episode"]["l"] == 2
            assert infos[1]["about"] == "last 1"
            assert infos[1]["TimeLimit.truncated"] is True
            assert infos[1]["terminal_observation"].max() == 9
        else:
            assert infos[1] == {"about": "now 1"}


class Staggered(PatchMaskVectorEnv):
    """Slots that end at different times, which the masking problem's do only where somebody resets a few."""

    def __init__(self) -> None:
        self.num_envs, self.metadata, self.count = 2, {"autoreset_mode": AutoresetMode.SAME_STEP}, 0
        self.single_observation_space, self.single_action_space = Box(0, 255, (1, 2, 2), np.uint8), MultiBinary(4)
        self.render_mode = None

    def reset(self, **_: Any) -> Any:
        return np.zeros((2, 1, 2, 2), np.uint8), {"about": np.array(["now 0", "now 1"])}

    def step(self, _: Any) -> Any:
        self.count += 1
        both = self.count % 2 == 0
        final = np.full(2, None, object)
        for env_id in range(1 + both):
            final[env_id] = np.full((1, 2, 2), 9, np.uint8)
        infos = {
            "final_obs": final,
            "_final_obs": np.array([True, both]),
            "final_info": {"about": np.array(["last 0", "last 1"]), "_about": np.array([True, both])},
            "_final_info": np.array([True, both]),
            **self.reset()[1],
        }
        return self.reset()[0], np.ones(2), np.array([True, False]), np.array([False, both]), infos


@pytest.mark.parametrize(("horizon", "limit", "cut"), [(3, 1, True), (3, 2, True), (2, 2, False), (1, 5, False)])
def test_only_an_episode_that_was_cut_off_is_called_truncated(make: Any, horizon: int, limit: int, cut: bool) -> None:
    adapter = seeded(make(horizon=horizon, max_episode_steps=limit))
    adapter.reset()
    rng = np.random.default_rng(0)
    for step in range(1, 2 * min(horizon, limit) + 1):
        _, rewards, dones, infos = adapter.step(actions(rng))
        ended = step % min(horizon, limit) == 0
        assert dones.tolist() == [ended] * 3
        for env_id, info in enumerate(infos):
            assert info.get("TimeLimit.truncated") is (cut if ended else None)
            if ended:
                assert info["episode"]["l"] == min(horizon, limit)
                assert (info["episode"]["r"] == 0) == cut
                assert (rewards[env_id] == 0) == cut
                assert info["mask"].sum() == (8 if not cut else round(8 * limit / horizon))


# ---------------------------------------------------------------- attributes, methods, seeds


def test_an_attribute_is_said_once_for_each_environment(make: Any) -> None:
    adapter = SB3VecEnv(make(agent_share=0.25))
    assert adapter.get_attr("agent_share") == [0.25] * 3
    assert adapter.get_attr("quotas", indices=[0, 2]) == [(8, 8)] * 2
    assert adapter.get_attr("num_envs", indices=1) == [3]
    assert adapter.render_mode is None
    with pytest.raises(AttributeError):
        adapter.get_attr("nothing_of_the_kind")


def test_the_chosen_share_can_be_set_and_changes_what_is_done(make: Any) -> None:
    env = make()
    adapter = seeded(env)
    adapter.set_attr("agent_share", 0.0)
    assert env.agent_share == env.episodes.agent_share == 0.0
    adapter.reset()
    first = np.zeros((3, 16))
    first[:, :8] = 1
    infos = adapter.step(first)[3]
    assert [info["chosen"].sum() for info in infos] == [0, 0, 0]
    adapter.set_attr("agent_share", 1.0)
    adapter.reset()
    infos = adapter.step(first)[3]
    assert all(np.array_equal(info["mask"].ravel(), first[0]) for info in infos)
    with pytest.raises(SettingsError, match="agent_share"):
        adapter.set_attr("agent_share", 1.5)
    with pytest.raises(SettingsError, match="without indices"):
        adapter.set_attr("agent_share", 0.5, indices=[0, 2])
    adapter.set_attr("agent_share", 0.5, indices=[2, 1, 0])
    assert env.agent_share == 0.5


def test_an_attribute_behind_a_gymnasium_wrapper_is_reached(make: Any) -> None:
    env = make()
    adapter = SB3VecEnv(RecordEpisodeStatistics(env))
    adapter.set_attr("agent_share", 0.5)
    assert env.agent_share == 0.5
    assert adapter.get_attr("agent_share") == [0.5] * 3


def test_an_action_is_passed_on_as_it_is_and_half_a_one_is_refused(make: Any) -> None:
    adapter = seeded(make())
    adapter.reset()
    with pytest.raises(ActionError, match=r"not 0\.5"):
        adapter.step(np.full((3, 16), 0.5))


def test_a_method_is_called_once_and_answered_for_each(make: Any) -> None:
    env = make()
    calls: list[Any] = []
    env.asked = lambda *args, **kwargs: calls.append((args, kwargs)) or "done"
    adapter = SB3VecEnv(env)
    assert adapter.env_method("asked", 1, more=2, indices=[1, 2]) == ["done", "done"]
    assert calls == [((1,), {"more": 2})]


def test_a_seed_is_that_of_the_first_and_counts_up_and_holds_for_one_reset(make: Any) -> None:
    adapter = SB3VecEnv(make())
    assert adapter.seed(7) == [7, 8, 9]
    first = adapter.reset()
    assert np.array_equal(first, make().reset(seed=[7, 8, 9])[0])
    assert np.array_equal(first, make().reset(seed=7)[0])
    walk = make()
    walk.reset(seed=7)
    assert np.array_equal(adapter.reset(), walk.reset()[0])  # goes on, and does not start afresh


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"image_index": 5}, [5, 5, 5]),
        ([{"image_index": 5}, {"image_index": 2}, {"image_index": 7}], [5, 2, 7]),
        ([{}, {"image_index": 2}, {}], [None, 2, None]),
        (None, [None] * 3),
    ],
)
def test_options_reach_the_environment_and_hold_for_one_reset(make: Any, options: Any, shown: list[int | None]) -> None:
    adapter, walk = seeded(make()), make()
    adapter.set_options(options)
    adapter.reset()
    expected = walk.reset(seed=4, options={"image_index": shown})[1]["image_index"].tolist()
    assert [info["image_index"] for info in adapter.reset_infos] == expected
    adapter.reset()
    assert [info["image_index"] for info in adapter.reset_infos] == walk.reset()[1]["image_index"].tolist()


def test_options_that_the_environment_does_not_have_are_refused(make: Any) -> None:
    adapter = SB3VecEnv(make())
    adapter.set_options([{"image_index": 1}, {"colour": 1}, {}])
    with pytest.raises(SettingsError, match="colour"):
        adapter.reset()


def test_the_same_seed_repeats_and_another_does_not(make: Any) -> None:
    def played(seed: int) -> Any:
        adapter, rng = seeded(make(), seed), np.random.default_rng(0)
        adapter.reset()
        return [adapter.step(actions(rng)) for _ in range(3)]

    one, again, other = played(3), played(3), played(4)
    for a, b in zip(one, again, strict=True):
        assert np.array_equal(a[0], b[0])
        assert np.array_equal(a[1], b[1])
    assert not np.array_equal(one[0][1], other[0][1])


# ---------------------------------------------------------------- Stable-Baselines3's own tools


def test_sb3_evaluates_in_it_without_another_monitor(make: Any) -> None:
    class Always:
        def predict(self, observations: Any, **_: Any) -> Any:
            return np.eye(16)[: len(observations)], None

    adapter = seeded(make(horizon=2))
    assert adapter.env_is_wrapped(Monitor) == [True] * 3
    assert adapter.env_is_wrapped(PatchMaskVectorEnv) == [False] * 3
    rewards, lengths = evaluate_policy(Always(), adapter, n_eval_episodes=6, return_episode_rewards=True)  # type: ignore[arg-type]
    assert lengths == [2] * 6
    assert all(reward > 0 for reward in rewards)  # type: ignore[union-attr]


def test_pictures_are_one_an_environment_or_none(make: Any) -> None:
    adapter = seeded(make(render_mode="rgb_array"))
    adapter.reset()
    pictures = adapter.get_images()
    assert len(pictures) == 3
    assert all(picture is not None and picture.shape[2] == 3 for picture in pictures)
    assert list(SB3VecEnv(make()).get_images()) == [None] * 3


def test_closing_closes_the_environment(make: Any) -> None:
    env = make()
    SB3VecEnv(env).close()
    assert env.closed
