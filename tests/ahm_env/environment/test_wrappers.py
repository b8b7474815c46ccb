"""Scores as actions: the highest are hidden, as many as may be chosen; and bits as choices between two."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3.common.env_checker
from gymnasium.spaces import MultiDiscrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ahm_env import MultiDiscreteActions, ScoreActions, VectorScoreActions
from ahm_env.environment.env import PatchMaskEnv, PatchMaskVectorEnv
from ahm_env.environment.wrappers import hide_highest
from ahm_env.errors import ActionError, SettingsError

pytestmark = pytest.mark.usefixtures("own_cache")

FROZEN = "AHM/PatchMask-v0"
SMALL = {"data": "phantom:10:1", "unet": "new", "width": 4, "image_size": 32, "patch_size": 8}
PATCHES = 16
MODES = list(AutoresetMode)


def single(**change):
    return ScoreActions(PatchMaskEnv(**{**SMALL, **change}))


def vector(num_envs=3, **change):
    return VectorScoreActions(PatchMaskVectorEnv(num_envs, **{**SMALL, **change}))


def scores(steps, num_envs=3, seed=0):
    """Scores with many ties, also at infinity."""
    rng = np.random.default_rng(seed)
    values = np.array([-np.inf, -2, -1, 0, 0.5, 1, 2, np.inf], np.float32)
    for _ in range(steps):
        yield rng.choice(values, (num_envs, PATCHES))


def assert_same_step(mine, theirs):
    for one, other in zip(mine[:4], theirs[:4], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)
    final, other_final = mine[4].get("final_info", mine[4]), theirs[4].get("final_info", theirs[4])
    for key in ("mask", "chosen"):
        assert np.array_equal(final[key], other_final[key])
        assert np.array_equal(mine[4][key], theirs[4][key])


# Which patches are hidden


@pytest.mark.parametrize(("ratio", "quota"), [(0.1, 2), (0.5, 8), (0.9, 14)])
def test_exactly_the_highest_scores_are_hidden(ratio, quota):
    env = single(mask_ratio=ratio)
    rng = np.random.default_rng(0)
    for _ in range(5):
        env.reset(seed=0)
        drawn = rng.normal(size=PATCHES)
        *_, info = env.step(drawn)
        assert set(np.flatnonzero(info["mask"])) == set(np.argsort(drawn)[-quota:])
        assert np.array_equal(info["mask"], info["chosen"])


def test_only_the_order_of_the_scores_counts():
    env = single()
    env.reset(seed=0)
    drawn = np.random.default_rng(0).normal(size=PATCHES)
    action = env.action(drawn)
    for other in (100 * drawn - 7, np.tanh(drawn), drawn.astype(np.float32), list(drawn), drawn.argsort().argsort()):
        assert np.array_equal(env.action(other), action)


def test_of_equal_scores_the_lower_number_goes_first():
    env = single()
    env.reset(seed=0)
    for constant in (0, -np.inf, np.inf):
        assert np.flatnonzero(env.action(np.full(PATCHES, constant))).tolist() == list(range(8))
    some = np.zeros(PATCHES)
    some[[3, 12, 15]] = 1
    assert np.flatnonzero(env.action(some)).tolist() == [0, 1, 2, 3, 4, 5, 12, 15]


@pytest.mark.parametrize("horizon", [2, 3, 8])
def test_patches_already_hidden_are_skipped(horizon):
    # With the same scores at each step the best patches go first, the next best next.
    env = single(horizon=horizon)
    drawn = np.random.default_rng(1).normal(size=PATCHES)
    _, info = env.reset(seed=0)
    hidden = 0
    for step in range(horizon):
        may = info["choosable"]
        *_, terminated, _, info = env.step(drawn)
        hidden += may
        assert set(np.flatnonzero(info["mask"])) == set(np.argsort(drawn)[-hidden:])
        assert terminated == (step == horizon - 1)
    assert hidden == 8
    assert np.array_equal(info["mask"], info["chosen"])


@pytest.mark.parametrize("worst", [-np.inf, -1e30])
def test_a_hidden_patch_is_skipped_even_if_all_others_score_worst(worst):
    env = single(horizon=2, mask_ratio=0.9)
    first = np.where(np.arange(PATCHES) < 7, 1.0, worst)
    env.reset(seed=0)
    env.step(first)
    assert np.flatnonzero(env.action(first)).tolist() == list(range(7, 14))


def test_what_the_agent_may_not_choose_is_random():
    env = single(agent_share=0.5)
    env.reset(seed=0)
    *_, info = env.step(np.arange(PATCHES))
    assert np.flatnonzero(info["chosen"]).tolist() == [12, 13, 14, 15]
    assert info["mask"].sum() == 8


@pytest.mark.parametrize(("positive", "quota"), [(0, 5), (5, 5), (9, 9), (11, 11), (16, 11)])
def test_with_a_range_the_positive_scores_say_how_much_is_hidden(positive, quota):
    env = single(mask_ratio="0.3:0.7")
    assert env.unwrapped.quotas == (5, 11)
    drawn = np.random.default_rng(positive).permutation(PATCHES) - (PATCHES - positive - 0.5)
    assert (drawn > 0).sum() == positive
    env.reset(seed=0)
    *_, info = env.step(drawn)
    assert set(np.flatnonzero(info["mask"])) == set(np.argsort(drawn)[-quota:])


def test_with_a_range_and_several_steps_the_first_decides_how_much_is_hidden():
    env = single(mask_ratio="0.3:0.7", horizon=3)
    env.reset(seed=0)
    drawn = np.arange(PATCHES) - 8.5
    for _ in range(3):
        *_, info = env.step(drawn)
        drawn = drawn + 100
    assert info["mask"].sum() == 7
    assert info["mask"].ravel()[9:].all()


@pytest.mark.slow
@settings(max_examples=60)
@given(
    drawn=arrays(np.float32, (2, PATCHES), elements=st.floats(-3, 3, width=16) | st.sampled_from([-np.inf, np.inf])),
    horizon=st.integers(1, 4),
    ratio=st.sampled_from([0.3, 0.5, 0.9, "0.3:0.7"]),
    share=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_no_visible_patch_left_scores_higher_than_one_that_is_taken(drawn, horizon, ratio, share):
    env = PatchMaskVectorEnv(2, **SMALL, mask_ratio=ratio, horizon=horizon, agent_share=share)
    env.reset(seed=0)
    low, high = env.quotas
    for step in range(horizon):
        hidden, most = env.episodes.hidden.copy(), env.episodes.choosable(np.arange(2))
        actions = hide_highest(env.episodes, np.arange(2), drawn)
        assert actions in env.action_space
        wanted = actions.astype(bool)
        assert not (wanted & hidden).any()
        if low < high and step == 0:
            assert np.array_equal(wanted.sum(1), (drawn > 0).sum(1).clip(low, high))
        else:
            assert np.array_equal(wanted.sum(1), most)
        for row in range(2):
            left = drawn[row, ~(wanted | hidden)[row]]
            assert not wanted[row].any() or drawn[row, wanted[row]].min() >= left.max()
        env.step(actions)


# The vector


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.5, "0.3:0.7"])
@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_the_vector_agrees_with_single_environments(mode, horizon, ratio):
    change = {"horizon": horizon, "mask_ratio": ratio, "agent_share": 0.8}
    ours = vector(autoreset_mode=mode, **change)
    theirs = SyncVectorEnv([lambda: single(**change)] * 3, autoreset_mode=mode)
    assert ours.action_space == theirs.action_space
    assert ours.single_action_space == theirs.single_action_space
    ours.reset(seed=7)
    theirs.reset(seed=7)
    for drawn in scores(10, seed=horizon):
        step = ours.step(drawn)
        assert_same_step(step, theirs.step(drawn))
        done = step[2] | step[3]
        if mode is AutoresetMode.DISABLED and done.any():
            ours.reset(options={"reset_mask": done})
            theirs.reset(options={"reset_mask": done})


def test_the_vector_goes_into_the_wrappers_of_gymnasium_and_they_into_it():
    for env in (
        RecordEpisodeStatistics(vector(horizon=2)),
        VectorScoreActions(RecordEpisodeStatistics(PatchMaskVectorEnv(3, **SMALL, horizon=2))),
    ):
        env.reset(seed=0)
        for drawn in scores(2):
            *_, infos = env.step(drawn)
        assert infos["episode"]["l"].tolist() == [2, 2, 2]


def test_the_vector_says_when_it_resets():
    for mode in MODES:
        env = vector(autoreset_mode=mode)
        assert env.autoreset_mode is env.metadata["autoreset_mode"] is mode


# Choices between two


def test_choices_between_two_hide_what_the_bits_would():
    bits, choices = PatchMaskEnv(**SMALL), MultiDiscreteActions(PatchMaskEnv(**SMALL))
    assert choices.action_space == MultiDiscrete([2] * PATCHES)
    choices.action_space.seed(0)
    for seed in range(5):
        drawn = choices.action_space.sample()
        for env in (bits, choices):
            env.reset(seed=seed)
        mine, theirs = choices.step(drawn), bits.step(drawn)
        assert mine[1] == theirs[1]
        assert np.array_equal(mine[4]["mask"], theirs[4]["mask"])
    choices.reset(seed=0)
    with pytest.raises(ActionError, match="0 or 1"):
        choices.step(np.full(PATCHES, 2))


def test_choices_between_two_pass_the_checks_and_are_made_again_from_their_specification():
    env = MultiDiscreteActions(gym.make(f"ahm_env:{FROZEN}", **{**SMALL, "image_size": 64}))
    with warnings.catch_warnings():
        warnings.filterwarnings("error")
        warnings.filterwarnings("ignore", ".*different from the unwrapped.*")
        check_env(env, skip_render_check=True)
    again = env.spec.make()
    assert isinstance(again, MultiDiscreteActions)
    assert again.action_space == env.action_space


def test_choices_between_two_are_for_bits_only():
    with pytest.raises(SettingsError, match="leave the wrapper out"):
        MultiDiscreteActions(single())


# As Gymnasium sees it


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"horizon": 3}, {"mask_ratio": "0.3:0.7"}])
def test_the_checks_of_gymnasium_and_stable_baselines_pass(change):
    env = ScoreActions(gym.make(FROZEN, disable_env_checker=True, **{**SMALL, "image_size": 64}, **change).unwrapped)
    with warnings.catch_warnings():
        # Both recommend scores from -1 to 1, and Gymnasium an environment without wrappers.
        warnings.filterwarnings("error")
        warnings.filterwarnings("ignore", ".*(symmetric and normalized|different from the unwrapped).*")
        check_env(env)
        stable_baselines3.common.env_checker.check_env(env)


def test_the_spaces_are_scores_a_patch():
    env, many = single(), vector(5)
    assert env.action_space == many.single_action_space
    assert env.action_space.shape == (PATCHES,)
    assert env.action_space.dtype == np.float32
    assert env.action_space.is_bounded()
    assert many.action_space.shape == (5, PATCHES)
    assert env.observation_space == env.unwrapped.observation_space


def test_a_gaussian_policy_is_not_clipped_into_ties():
    space = single().action_space
    drawn = np.random.default_rng(0).normal(size=(1000, PATCHES)).astype(np.float32)
    assert np.array_equal(drawn, drawn.clip(space.low, space.high))


def test_the_specification_makes_it_again():
    env = ScoreActions(gym.make(f"ahm_env:{FROZEN}", **SMALL))
    again = env.spec.make()
    assert isinstance(again, ScoreActions)
    drawn = np.arange(PATCHES)
    for made in (env, again):
        made.reset(seed=3)
    assert env.step(drawn)[1] == again.step(drawn)[1]


# Mistakes


@pytest.mark.parametrize("position", [0, 7])
def test_scores_that_are_not_numbers_are_refused(position):
    env, many = single(), vector()
    env.reset(seed=0)
    many.reset(seed=0)
    drawn = np.zeros((3, PATCHES), np.float32)
    drawn[1, position] = np.nan
    with pytest.raises(ActionError, match=r"NaN.*learning rate"):
        env.step(drawn[1])
    with pytest.raises(ActionError, match="NaN"):
        many.step(drawn)
    assert not env.unwrapped.episodes.hidden.any()
    env.step(drawn[0])


@pytest.mark.parametrize("shape", [(), (1,), (PATCHES + 1,), (1, PATCHES), (4, 4)])
def test_scores_of_another_shape_are_refused(shape):
    env = single()
    env.reset(seed=0)
    with pytest.raises(ActionError, match="scores must have the shape"):
        env.step(np.zeros(shape))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(PATCHES,), (1, PATCHES), (2, PATCHES), (3, 1), (3, 4, 4)])
def test_vectors_of_scores_of_another_shape_are_refused(shape):
    env = vector(3)
    env.reset(seed=0)
    with pytest.raises(ActionError, match="scores must have the shape"):
        env.step(np.zeros(shape))


def test_a_step_before_reset_and_after_the_end_is_refused():
    for env in (single(), ScoreActions(gym.make(FROZEN, **SMALL))):
        with pytest.raises(gym.error.ResetNeeded):
            env.step(np.zeros(PATCHES))
        env.reset(seed=0)
        env.step(np.zeros(PATCHES))
        with pytest.raises(gym.error.ResetNeeded):
            env.step(np.zeros(PATCHES))


def test_other_environments_are_refused():
    for wrap, env in (
        (ScoreActions, gym.make("CartPole-v1")),
        (ScoreActions, PatchMaskVectorEnv(2, **SMALL)),
        (VectorScoreActions, SyncVectorEnv([lambda: PatchMaskEnv(**SMALL)] * 2)),
        (VectorScoreActions, PatchMaskEnv(**SMALL)),
    ):
        with pytest.raises(SettingsError, match=r"use ScoreActions on what gym\.make gives") as refusal:
            wrap(env)
        assert "\n" not in str(refusal.value)
