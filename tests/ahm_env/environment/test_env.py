"""The environments as Gymnasium, Stable-Baselines3 and a user see them."""

import copy
import inspect
import json
import pickle
import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3.common.env_checker
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st

import ahm_env
from ahm_env.environment.env import PatchMaskEnv, PatchMaskVectorEnv
from ahm_env.errors import ActionError, AHMError, CheckpointError, ImageError, SettingsError
from ahm_env.masks import PatchGrid
from ahm_env.model.reconstruction import Reconstructor
from ahm_env.rendering import GAP, HEADER, TILE, enlarge

pytestmark = pytest.mark.usefixtures("own_cache")
without_a_warning = pytest.mark.filterwarnings("error")

FROZEN, CO_TRAIN = "AHM/PatchMask-v0", "AHM/PatchMaskCoTrain-v0"
SMALL = {"data": "phantom:10:1", "unet": "new", "width": 4, "image_size": 32, "patch_size": 8}
PATCHES = 16
MODES = list(AutoresetMode)


def single(**settings):
    return PatchMaskEnv(**{**SMALL, **settings})


def vector(num_envs=3, **settings):
    return PatchMaskVectorEnv(num_envs, **{**SMALL, **settings})


def several(autoreset_mode, num_envs=3, max_episode_steps=None, **settings):
    """Gymnasium's own vector of single environments."""

    def build():
        env = single(**settings)
        return env if max_episode_steps is None else TimeLimit(env, max_episode_steps)

    return SyncVectorEnv([build] * num_envs, autoreset_mode=autoreset_mode)


def actions(steps, num_envs=3, seed=0):
    """Actions of all kinds: sparse, dense, none, all."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        density = rng.choice([0, 0.2, 0.5, 0.8, 1], (num_envs, 1))
        yield (rng.random((num_envs, PATCHES)) < density).astype(np.int8)


def assert_same(one, other, path=""):
    """Equal in type, shape and content; floats within 1e-4, as one batched pass rounds otherwise."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, tuple | list):
        assert len(one) == len(other), path
        for place, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_same(mine, theirs, f"{path}/{place}")
    elif one is None or other is None:
        assert one is other, path
    else:
        mine, theirs = np.asarray(one), np.asarray(other)
        assert mine.dtype == theirs.dtype, path
        assert mine.shape == theirs.shape, path
        if mine.dtype == object:
            assert_same(list(mine), list(theirs), path)
        elif mine.dtype.kind == "f":
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4, err_msg=path)
        else:
            np.testing.assert_array_equal(mine, theirs, err_msg=path)


def rollout(env, steps, seed=0):
    """Everything an environment says over some steps; a single one is reset when it ends."""
    return [env.reset(seed=seed), *rollout_on(env, steps, seed)]


def rollout_on(env, steps, seed=0):
    """A rollout from where the environment is."""
    for action in actions(steps, 1, seed):
        yield (step := env.step(action[0]))
        if step[2] or step[3]:
            yield env.reset()


def vector_rollout(env, steps, seed=0, first_seed=0):
    return [env.reset(seed=first_seed), *(env.step(action) for action in actions(steps, env.num_envs, seed))]


def weights(env):
    return {name: tensor.clone() for name, tensor in env.unwrapped.episodes.reconstructor.state().items()}


# Registration


@pytest.mark.parametrize("kind", [PatchMaskEnv, PatchMaskVectorEnv])
def test_every_keyword_is_named_typed_and_described(kind):
    own, common = inspect.signature(kind).parameters, inspect.signature(PatchMaskEnv).parameters
    for name, parameter in own.items():
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert parameter.annotation is not inspect.Parameter.empty
        described = PatchMaskEnv if name in common else kind
        assert f"\n    {name}: " in inspect.getdoc(described), name
    assert all(own[name].default == parameter.default for name, parameter in common.items())
    with pytest.raises(TypeError, match="mask_ration"):
        kind(**SMALL, mask_ration=0.5)


def test_both_environments_are_registered_on_import():
    frozen, co_train = gym.spec(FROZEN), gym.spec(CO_TRAIN)
    assert not frozen.nondeterministic
    assert co_train.nondeterministic
    for spec in (frozen, co_train):
        assert spec.entry_point == "ahm_env.environment.env:PatchMaskEnv"
        assert spec.vector_entry_point == "ahm_env.environment.env:PatchMaskVectorEnv"
        assert spec.max_episode_steps is None
        assert spec.additional_wrappers == ()


@pytest.mark.parametrize("name", [FROZEN, CO_TRAIN, f"ahm_env:{FROZEN}"])
def test_make_gives_the_environment_in_the_wrappers_of_gymnasium_only(name):
    env = gym.make(name, **SMALL)
    chain, inner = [], env
    while isinstance(inner, gym.Wrapper):
        chain.append(type(inner).__name__)
        inner = inner.env
    assert chain == ["OrderEnforcing", "PassiveEnvChecker"]
    assert type(inner) is PatchMaskEnv
    assert inner.episodes.co_train == (name == CO_TRAIN)


@pytest.mark.slow
@without_a_warning
def test_the_default_needs_no_argument_and_no_network():
    env = gym.make(FROZEN)
    observation, info = env.reset(seed=0)
    assert observation.shape == (3, 64, 64)
    assert info["choosable"] == 32
    _, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert reward > 0
    assert (terminated, truncated) == (True, False)
    assert info["mask"].shape == (8, 8)
    assert env.unwrapped.episodes.reconstructor.unet.n_channels == 3


@pytest.mark.slow
def test_the_default_unet_has_learnt_to_reconstruct():
    both = {"data": "phantom:10:1", "image_size": 64}
    learnt, new = PatchMaskEnv(**both), PatchMaskEnv(**both, unet="new")
    rewards = {"learnt": [], "new": []}
    for name, env in (("learnt", learnt), ("new", new)):
        for image in range(10):
            env.reset(seed=image, options={"image_index": image})
            rewards[name].append(env.step(np.zeros(64, np.int8))[1])
    # the mean colour has a loss of about 1 in standardised units
    assert np.mean(rewards["learnt"]) < 0.5 * np.mean(rewards["new"])
    assert np.mean(rewards["learnt"]) < 0.5


def test_making_leaves_the_registry_as_it_was():
    before = copy.deepcopy(gym.spec(FROZEN))
    gym.make(FROZEN, **SMALL, horizon=2)
    gym.make_vec(FROZEN, 2, **SMALL, horizon=2)
    assert gym.spec(FROZEN) == before


def test_two_environments_share_nothing_that_changes():
    one, other = gym.make(FROZEN, **SMALL), gym.make(FROZEN, **SMALL)
    untouched = gym.make(FROZEN, **SMALL)
    one.unwrapped.agent_share = 0.25
    other.reset(seed=1)
    untouched.reset(seed=1)
    one.reset(seed=2)
    for action in actions(3, 1):
        one.step(action[0])
        assert_same(other.step(action[0]), untouched.step(action[0]))
        for env in (one, other, untouched):
            env.reset()
    assert other.unwrapped.agent_share == 1


def test_objects_are_accepted_in_place_of_names(images):
    named = single()
    reconstructor = named.episodes.reconstructor
    env = PatchMaskEnv(data=images, unet=reconstructor, patch_size=99, image_size=1)  # the Reconstructor's grid is used
    assert env.action_space.n == PATCHES
    assert_same(rollout(env, 4), rollout(named, 4))


def test_a_file_of_weights_is_accepted(tmp_path):
    env = single(seed=4)
    env.episodes.reconstructor.save(tmp_path / "unet.safetensors")
    for unet in (str(tmp_path / "unet.safetensors"), tmp_path / "unet.safetensors"):
        assert_same(rollout(single(unet=unet), 3), rollout(env, 3))


def test_the_public_names_are_there():
    missing = [name for name in ahm_env.__all__ if not hasattr(ahm_env, name)]
    assert missing == []


# Gymnasium's own checks, as its tests make them


CHECKED = [{}, {"horizon": 3}, {"mask_ratio": "0.3:0.7"}, {"mask_ratio": "0.3:0.7", "horizon": 3, "agent_share": 0.5}]


@pytest.mark.parametrize("change", CHECKED)
@pytest.mark.parametrize("name", [FROZEN, CO_TRAIN])
def test_check_env_passes_without_a_warning(name, change):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = gym.make(name, disable_env_checker=True, **SMALL, **change).unwrapped
        check_env(env)
        env.close()
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.slow
@pytest.mark.parametrize("change", CHECKED)
def test_two_environments_of_the_same_seed_roll_out_alike(change):
    spec = gym.make(FROZEN, **SMALL, **change).spec
    one, other = spec.make(disable_env_checker=True), spec.make(disable_env_checker=True)
    first, second = one.reset(seed=0), other.reset(seed=0)
    assert data_equivalence(first, second, exact=True)
    one.action_space.seed(0)
    for _ in range(50):
        action = one.action_space.sample()
        mine, theirs = one.step(action), other.step(action)
        assert one.observation_space.contains(mine[0])
        assert data_equivalence(mine, theirs, exact=True)
        if mine[2] or mine[3]:
            assert data_equivalence(one.reset(seed=0), other.reset(seed=0), exact=True)
    one.close()
    other.close()


def test_rendering_gives_the_panel_of_four_columns():
    env = gym.make(FROZEN, **SMALL, render_mode="rgb_array")
    assert env.metadata["render_modes"] == ["rgb_array"]
    env.reset(seed=0)
    frames = [env.render()]
    env.step(env.action_space.sample())
    frames.append(env.render())
    for frame in frames:
        assert isinstance(frame, np.ndarray)
        assert frame.dtype == np.uint8
        assert frame.shape == (HEADER + TILE + GAP, 4 * (TILE + GAP) + GAP, 3)
    assert not np.array_equal(*frames)


def test_the_panel_shows_the_image_and_what_is_hidden():
    env = single(render_mode="rgb_array", horizon=2)
    env.reset(seed=0, options={"image_index": 3})
    *_, info = env.step(np.zeros(PATCHES, np.int8))
    frame = env.render()
    original, masked, made, _ = (
        frame[HEADER : HEADER + TILE, left : left + TILE] for left in range(GAP, frame.shape[1], TILE + GAP)
    )
    assert np.array_equal(original, enlarge(env.episodes.images.images([3])[0].transpose(1, 2, 0)))
    for column in (masked, made):
        changed = (column != original).any(2).reshape(4, TILE // 4, 4, TILE // 4).any((1, 3))
        assert np.array_equal(changed, info["mask"])


def test_without_a_render_mode_nothing_is_rendered():
    env, many = single(), vector()
    env.reset(seed=0)
    many.reset(seed=0)
    assert env.render() is None
    assert many.render() is None


def test_a_vector_renders_a_panel_each_that_equals_the_single_one():
    env, many = single(render_mode="rgb_array"), vector(render_mode="rgb_array", autoreset_mode="NextStep")
    env.reset(seed=1)
    many.reset(seed=0)
    for action in actions(1):
        env.step(action[1])
        many.step(action)
    frames = many.render()
    assert len(frames) == 3
    assert np.abs(frames[1].astype(int) - env.render()).mean() < 0.01


def test_rendering_changes_nothing():
    one, other = (single(co_train=True, render_mode="rgb_array", horizon=2) for _ in range(2))
    one.reset(seed=0)
    shown = []
    for part in rollout_on(one, 6):
        one.render()
        shown.append(part)
    assert_same(shown, rollout(other, 6)[1:])


@pytest.mark.slow
@pytest.mark.parametrize("duplicate", [lambda env: pickle.loads(pickle.dumps(env)), copy.deepcopy])
@pytest.mark.parametrize("change", [*CHECKED, {"co_train": True}])
def test_a_pickled_environment_goes_on_alike(change, duplicate):
    env = gym.make(FROZEN, **SMALL, **change)
    env.reset(seed=3)
    env.step(env.action_space.sample())
    twin = duplicate(env)
    mine, theirs = ([each.reset(), *rollout_on(each, 9), each.reset(seed=8)] for each in (env, twin))
    assert data_equivalence(mine, theirs, exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("change", [{"horizon": 3}, {"co_train": True}])
def test_a_pickled_vector_goes_on_alike(mode, change):
    env = gym.make_vec(FROZEN, 3, **SMALL, autoreset_mode=mode.value, **change)
    vector_rollout(env, 1)
    twin = pickle.loads(pickle.dumps(env))
    if mode is AutoresetMode.DISABLED:
        assert_same(env.reset(), twin.reset())
    for action in actions(6 if mode is not AutoresetMode.DISABLED else 1, seed=2):
        mine, theirs = env.step(action), twin.step(action)
        assert_same(mine, theirs)
        assert np.array_equal(mine[1], theirs[1])
    assert_same(env.reset(), twin.reset())
    assert_same(env.reset(seed=8), twin.reset(seed=8))


def test_closing_twice_is_fine():
    for env in (gym.make(FROZEN, **SMALL), gym.make_vec(FROZEN, 2, **SMALL)):
        env.close()
        assert env.close() is None


@without_a_warning
@pytest.mark.parametrize("change", [{}, {"horizon": 3}, {"mask_ratio": "0.3:0.7"}])
@pytest.mark.parametrize("name", [FROZEN, CO_TRAIN])
def test_the_checks_of_stable_baselines_pass_without_a_warning(name, change):
    env = gym.make(name, **{**SMALL, "image_size": 48}, **change, render_mode="rgb_array").unwrapped
    stable_baselines3.common.env_checker.check_env(env, warn=True, skip_render_check=False)


# Specs through JSON


@pytest.mark.parametrize("name", [FROZEN, CO_TRAIN])
def test_the_spec_of_an_environment_goes_through_json(name):
    env = gym.make(name, **SMALL, horizon=2, mask_ratio="0.3:0.7", max_episode_steps=7)
    spec = EnvSpec.from_json(env.spec.to_json())
    assert spec == env.spec
    again = gym.make(spec)
    assert again.unwrapped.episodes.horizon == 2
    assert again.unwrapped.quotas == (5, 11)
    assert again.unwrapped.episodes.co_train == (name == CO_TRAIN)
    assert_same(rollout(again, 6), rollout(env, 6))


@without_a_warning
@pytest.mark.parametrize("mode", MODES)
def test_the_spec_of_a_vector_goes_through_json(mode):
    env = gym.make_vec(FROZEN, 3, **SMALL, horizon=2, autoreset_mode=mode.value, max_episode_steps=9)
    text = env.spec.to_json()
    json.loads(text)
    again = gym.make_vec(EnvSpec.from_json(text))
    assert type(again) is PatchMaskVectorEnv
    assert (again.num_envs, again.autoreset_mode, again.max_episode_steps) == (3, mode, 9)
    assert_same(vector_rollout(again, 2), vector_rollout(env, 2))


# Spaces


def test_spaces():
    env, many = single(), vector()
    assert env.observation_space == gym.spaces.Box(0, 255, (3, 32, 32), np.uint8)
    assert env.action_space == gym.spaces.MultiBinary(PATCHES)
    assert (many.single_observation_space, many.single_action_space) == (env.observation_space, env.action_space)
    assert many.observation_space.shape == (3, 3, 32, 32)
    assert many.action_space.shape == (3, PATCHES)
    assert env.action_space.sample().shape == (PATCHES,)


def test_grey_images_have_one_channel(images):
    env = single()
    grey = Reconstructor.create(PatchGrid(32, 8), ahm_env.Standardisation((120.0,), (40.0,)), width=4)
    grey_env = PatchMaskEnv(data="phantom:10:1", unet=grey)
    assert grey_env.observation_space.shape == (1, 32, 32)
    assert env.observation_space.shape == (3, 32, 32)
    check_env(grey_env, skip_render_check=True)


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 3])
def test_observations_and_infos_are_copies_inside_the_space(horizon):
    env, many = single(horizon=horizon), vector(horizon=horizon)
    twin, many_twin = single(horizon=horizon), vector(horizon=horizon)
    for one in (env, twin, many, many_twin):
        one.reset(seed=0)
    for action in actions(6):
        observation, _, terminated, _, info = env.step(action[0])
        observations, *_, infos = many.step(action)
        assert observation in env.observation_space
        assert observations in many.observation_space
        assert_same(observation, twin.step(action[0])[0])
        assert_same(observations, many_twin.step(action)[0])
        for array in (observation, observations, *info.values(), *infos.values()):
            if isinstance(array, np.ndarray) and array.dtype != object:
                array.fill(1)
        if terminated:
            assert_same(env.reset(), twin.reset())


# Episodes


def test_a_bandit_ends_after_one_step_and_says_what_was_done():
    env = single()
    observation, info = env.reset(seed=0, options={"image_index": 4})
    assert info.keys() == {"mask", "chosen", "patch_loss", "image_index", "choosable"}
    assert (info["image_index"], info["choosable"]) == (4, 8)
    assert not info["mask"].any()
    assert not info["patch_loss"].any()
    action = np.zeros(PATCHES, np.int8)
    action[[0, 1, 2, 3, 12, 13, 14, 15]] = 1
    _, reward, terminated, truncated, info = env.step(action)
    assert isinstance(reward, float)
    assert (terminated, truncated) == (True, False)
    assert np.array_equal(info["mask"], action.reshape(4, 4))
    assert np.array_equal(info["chosen"], info["mask"])
    assert (info["image_index"], info["choosable"]) == (4, 0)
    assert {key: info[key].dtype for key in ("mask", "chosen", "patch_loss")} == {
        "mask": bool,
        "chosen": bool,
        "patch_loss": np.float32,
    }
    assert reward == pytest.approx(info["patch_loss"][info["mask"]].mean(), rel=1e-5)
    losses = env.episodes.reconstructor.patch_losses(observation[None], info["mask"].reshape(1, -1))
    np.testing.assert_allclose(info["patch_loss"].ravel(), losses[0], rtol=1e-5)


def test_in_a_longer_episode_hidden_patches_are_shown_filled_and_chosen_only_once():
    env = single(horizon=3)
    original, info = env.reset(seed=0)
    assert info["choosable"] == 3
    hidden = np.zeros((4, 4), bool)
    for step, (total, next_choosable) in enumerate([(3, 2), (5, 3), (8, 0)]):
        action = hidden.ravel().astype(np.int8)  # what is hidden already is asked for once more, and ignored
        free = np.flatnonzero(~hidden)[: total - hidden.sum()]
        action[free] = 1
        observation, reward, terminated, _, info = env.step(action)
        hidden.flat[free] = True
        assert np.array_equal(info["mask"], hidden)
        assert np.array_equal(info["chosen"], hidden)
        assert info["choosable"] == next_choosable
        pixels = hidden.repeat(8, 0).repeat(8, 1)
        assert (observation[:, pixels] == env.episodes.reconstructor.fill[:, None]).all()
        assert np.array_equal(observation[:, ~pixels], original[:, ~pixels])
        assert terminated == (step == 2)
        assert (reward > 0) == terminated
        assert info["patch_loss"].any() == terminated
    assert reward == pytest.approx(info["patch_loss"][hidden].mean(), rel=1e-5)


@pytest.fixture(scope="module")
def playgrounds(own_cache):
    """Environments of all kinds, of which any number of episodes may be played."""
    kinds = [(0.5, 1, 1.0), (0.5, 3, 0.5), ("0.3:0.7", 1, 1.0), ("0.3:0.7", 3, 0.7)]
    return {kind: single(mask_ratio=kind[0], horizon=kind[1], agent_share=kind[2]) for kind in kinds}


@pytest.mark.slow
@settings(derandomize=True, max_examples=40)
@given(
    kind=st.sampled_from([(0.5, 1, 1.0), (0.5, 3, 0.5), ("0.3:0.7", 1, 1.0), ("0.3:0.7", 3, 0.7)]),
    ones=st.lists(st.sampled_from([0, 1, 3, 8, 15, 16]), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_the_quota_is_exact_under_adversarial_actions(playgrounds, kind, ones, seed):
    env, rng = playgrounds[kind], np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    low, high = env.quotas
    quota = int(np.clip(ones[0], low, high))
    terminated, step = False, 0
    while not terminated:
        action = np.zeros(PATCHES, np.int8)
        action[rng.choice(PATCHES, ones[step], replace=False)] = 1
        choosable, before = info["choosable"], info["mask"]
        _, _, terminated, _, info = env.step(action)
        step += 1
        assert info["mask"].sum() == int(quota * step / kind[1] + 0.5)
        assert (info["mask"] >= before).all()
        assert (info["chosen"] & ~before).sum() <= min(choosable, ones[step - 1])
        assert not (info["chosen"] & ~before & ~action.reshape(4, 4).astype(bool)).any()
    assert step == kind[1]


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.int64, np.float16, np.float32, np.float64, list])
@pytest.mark.parametrize("make", [single, vector])
def test_zeros_and_ones_of_any_numeric_type_mean_the_same(make, kind):
    env, other = make(agent_share=0.5), make(agent_share=0.5)
    ones = next(actions(1, seed=1))[slice(None) if make is vector else 0]
    for each in (env, other):
        each.reset(seed=0)
    assert_same(env.step(ones.tolist() if kind is list else ones.astype(kind)), other.step(ones.astype(bool)))


@pytest.mark.parametrize("wrong", [0.5, -1, 2, 1e-9, 1 + 1e-6, float("nan"), float("inf"), "1", None])
@pytest.mark.parametrize("make", [single, vector])
def test_anything_but_zeros_and_ones_is_refused_with_the_way_out_and_nothing_is_hidden(make, wrong):
    env = make(horizon=2)
    env.reset(seed=0)
    action = np.full(env.action_space.shape, wrong)
    action.flat[0] = wrong if isinstance(wrong, str | None) else 1
    with pytest.raises(ActionError, match=rf"not {wrong!r}; for scores.*ScoreActions") as refusal:
        env.step(action)
    assert "\n" not in str(refusal.value)
    assert not env.episodes.hidden.any()
    env.step(np.ones(env.action_space.shape))


def test_an_action_that_is_refused_does_not_start_finished_environments_again():
    env = vector(autoreset_mode="NextStep")
    env.reset(seed=0)
    ones = np.ones((3, PATCHES))
    *_, infos = env.step(ones)
    with pytest.raises(ActionError):
        env.step(ones / 2)
    assert env.episodes.image.tolist() == infos["image_index"].tolist()
    assert env.episodes.hidden.any()


@pytest.mark.parametrize("action", [1, np.int64(5), np.ones(1, np.int8), np.ones(17, np.int8), [[1], [1, 0]], None])
def test_an_action_of_another_size_is_refused(action):
    env = single()
    env.reset(seed=0)
    with pytest.raises(ActionError, match=r"must have the shape \(16,\)"):
        env.step(action)


def test_a_step_after_the_end_is_refused():
    env = single()
    env.reset(seed=0)
    env.step(np.ones(PATCHES, np.int8))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.ones(PATCHES, np.int8))


def test_a_step_before_the_first_reset_is_refused():
    for env, action in ((single(), np.ones(PATCHES)), (vector(), np.ones((3, PATCHES)))):
        with pytest.raises(gym.error.ResetNeeded):
            env.step(action.astype(np.int8))


def test_every_image_of_the_split_is_shown_once_an_epoch():
    env = single()
    shown = [env.reset(seed=5)[1]["image_index"]] + [env.reset()[1]["image_index"] for _ in range(15)]
    assert sorted(shown[:8]) == sorted(shown[8:]) == list(range(8))
    assert shown[:8] != shown[8:]
    assert [single(split="val").reset()[1]["image_index"], single(split="test").reset()[1]["image_index"]] == [8, 9]
    few = single(indices=[7, 2])
    assert {few.reset()[1]["image_index"] for _ in range(2)} == {2, 7}


def test_the_image_that_is_asked_for_is_shown_and_the_walk_goes_on():
    env, other = single(), single()
    env.reset(seed=0)
    other.reset(seed=0)
    observation, info = env.reset(options={"image_index": np.int64(9)})
    assert info["image_index"] == 9
    assert np.array_equal(observation, env.episodes.images.images([9])[0])
    assert_same(env.reset()[1], other.reset()[1])
    for wrong in (-1, 10):
        with pytest.raises(SettingsError, match="image_index"):
            env.reset(options={"image_index": wrong})


# Seeds


def test_the_same_seed_gives_the_same_story_and_another_one_another():
    env = single(horizon=2, agent_share=0.5)
    first, again = rollout(env, 12, seed=1), rollout(env, 12, seed=1)
    assert_same(first, again)
    assert_same(first, rollout(single(horizon=2, agent_share=0.5), 12, seed=1))
    other = [env.reset(seed=2)]
    for action in actions(12, 1, seed=1):
        other.append(env.step(action[0]))
        if other[-1][2]:
            other.append(env.reset())
    images = [[step[-1]["image_index"] for step in story] for story in (first, other)]
    masks = [np.array([step[-1]["mask"] for step in story]) for story in (first, other)]
    assert images[0] != images[1]
    assert not np.array_equal(*masks)


def test_a_reset_without_a_seed_goes_on_with_the_same_randomness():
    env, other = single(), single()
    env.reset(seed=1)
    other.reset(seed=1)
    for _ in range(3):
        assert_same(env.reset(), other.reset())
    generator = env.np_random
    env.reset()
    assert env.np_random is generator
    assert env.np_random_seed == 1


def test_environments_without_a_seed_differ():
    walks = {tuple(env.reset()[1]["image_index"] for _ in range(8)) for env in (single() for _ in range(4))}
    assert len(walks) > 1


def test_the_generator_of_the_environment_is_the_only_source_of_randomness():
    env, other = single(agent_share=0.0), single(agent_share=0.0)
    env.reset(seed=0)
    other.reset(seed=0)
    for action in actions(3, 1):
        mine = env.step(action[0])
        np.random.seed(5)  # what a user's code may do
        torch.manual_seed(5)
        assert_same(mine, other.step(action[0]))
        assert_same(env.reset(), other.reset())
    np.random.seed(0)
    torch.manual_seed(0)
    state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    rollout(env, 3)
    assert np.array_equal(np.random.get_state()[1], state)
    assert torch.equal(torch.random.get_rng_state(), torch_state)


def test_np_random_that_a_user_sets_is_used():
    stories = []
    for seed in (3, 4):
        env = single(agent_share=0.0)
        env.reset(seed=seed)
        env.np_random = np.random.default_rng(11)
        story = []
        for action in actions(8, 1):
            story.append((env.reset(), env.step(action[0])))
        stories.append(story)
    assert_same(*stories)


# Purity and co-training


@pytest.mark.parametrize("make", [single, vector])
def test_frozen_steps_leave_the_unet_as_it_was(make):
    env = make()
    before = weights(env)
    (vector_rollout if make is vector else rollout)(env, 5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(env).items())


@pytest.mark.parametrize("make", [single, vector])
def test_co_training_steps_change_every_weight_at_the_end_of_an_episode_only(make):
    env = make(co_train=True, horizon=2)
    env.reset(seed=0)
    shape = (3, PATCHES) if make is vector else (PATCHES,)
    before = weights(env)
    env.step(np.ones(shape, np.int8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(env).items())
    env.step(np.ones(shape, np.int8))
    assert not any(torch.equal(tensor, before[name]) for name, tensor in weights(env).items())


def test_a_co_training_vector_learns_from_all_its_images_in_one_pass():
    env = gym.make_vec(CO_TRAIN, 3, **SMALL, autoreset_mode="NextStep")
    twin = vector().episodes.reconstructor
    observations, _ = env.reset(seed=0)
    for action in actions(1):
        _, rewards, *_, infos = env.step(action)
    masks = infos["mask"].reshape(3, -1)
    losses = twin.learn(observations, masks)
    np.testing.assert_array_equal(infos["patch_loss"].reshape(3, -1), losses)
    np.testing.assert_allclose(rewards, (losses * masks).sum(1) / 8, rtol=1e-5)
    learnt = env.episodes.reconstructor.state()
    assert all(torch.equal(tensor, learnt[name]) for name, tensor in twin.state().items())


@pytest.mark.slow
def test_co_training_lowers_the_reward_on_the_same_images():
    env = vector(8, co_train=True, learning_rate=0.01)
    env.reset(seed=0)
    rewards = [env.step(action)[1].mean() for action in actions(60, 8)]
    assert np.mean(rewards[-10:]) < 0.6 * np.mean(rewards[:5])


def test_rewards_differ_between_the_images_of_a_batch():
    env = vector(6)
    env.reset(seed=0, options={"image_index": list(range(6))})
    _, rewards, *_ = env.step(np.tile(next(actions(1, 1, seed=4)), (6, 1)))
    assert len(np.unique(rewards.round(6))) == 6


# The chosen share


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_chosen_share_may_be_set_while_training(share):
    env = gym.make(FROZEN, **SMALL)
    env.set_wrapper_attr("agent_share", share)
    _, info = env.reset(seed=0)
    assert env.get_wrapper_attr("agent_share") == share
    assert info["choosable"] == int(8 * share)
    *_, info = env.step(np.ones(PATCHES, np.int8))
    assert info["chosen"].sum() == int(8 * share)
    assert info["mask"].sum() == 8
    many = vector(autoreset_mode="NextStep")
    many.agent_share = share
    many.reset(seed=0)
    *_, infos = many.step(np.ones((3, PATCHES), np.int8))
    assert infos["chosen"].sum((1, 2)).tolist() == [int(8 * share)] * 3
    assert many.agent_share == share


@pytest.mark.parametrize("share", [-0.5, 1.5, float("nan")])
def test_a_chosen_share_out_of_range_is_refused_when_it_is_set(share):
    for env in (single(), vector()):
        with pytest.raises(SettingsError, match="agent_share"):
            env.agent_share = share


# The vector environment against Gymnasium's vector of single ones


@without_a_warning
def test_make_vec_gives_the_native_vector_without_a_warning():
    env = gym.make_vec(FROZEN, 4, **SMALL)
    assert type(env) is PatchMaskVectorEnv
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.num_envs == 4
    assert env.spec.id == FROZEN
    assert "PatchMaskVectorEnv" in repr(env)
    observations, infos = env.reset(seed=0)
    assert observations in env.observation_space
    assert infos["image_index"].shape == (4,)
    env.step(env.action_space.sample())
    env.close()
    assert type(gym.make_vec(f"ahm_env:{CO_TRAIN}", 2, **SMALL)) is PatchMaskVectorEnv
    sync = gym.make_vec(FROZEN, 2, vectorization_mode="sync", **SMALL)
    assert type(sync) is SyncVectorEnv
    sync.close()


@pytest.mark.parametrize("mode", [*MODES, *(mode.value for mode in MODES)])
def test_the_autoreset_mode_is_in_the_metadata_of_this_environment_alone(mode):
    env = vector(autoreset_mode=mode)
    assert env.metadata["autoreset_mode"] is AutoresetMode(mode)
    assert "autoreset_mode" not in PatchMaskEnv.metadata
    with pytest.raises(ValueError):
        vector(autoreset_mode="Sometimes")


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("ratio", [0.5, "0.3:0.7"])
@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_the_vector_agrees_with_single_environments_step_by_step(mode, horizon, ratio, share):
    change = {"horizon": horizon, "mask_ratio": ratio, "agent_share": share}
    ours, theirs = vector(autoreset_mode=mode, **change), several(mode, **change)
    assert_same(ours.reset(seed=7), theirs.reset(seed=7))
    for number, action in enumerate(actions(15, seed=horizon)):
        step = ours.step(action)
        assert_same(step, theirs.step(action), f"step {number}")
        done = step[2] | step[3]
        if mode is AutoresetMode.DISABLED and done.any():
            assert_same(ours.reset(options={"reset_mask": done}), theirs.reset(options={"reset_mask": done}))
    assert_same(ours.reset(), theirs.reset())


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
@pytest.mark.parametrize("mode", MODES)
def test_truncation_agrees_with_gymnasiums_time_limit(mode, limit):
    ours = vector(autoreset_mode=mode, horizon=3, max_episode_steps=limit)
    theirs = several(mode, horizon=3, max_episode_steps=limit)
    assert_same(ours.reset(seed=7), theirs.reset(seed=7))
    truncations = 0
    for number, action in enumerate(actions(12)):
        step = ours.step(action)
        assert_same(step, theirs.step(action), f"step {number}")
        truncations += step[3].sum()
        done = step[2] | step[3]
        if mode is AutoresetMode.DISABLED and done.any():
            assert_same(ours.reset(options={"reset_mask": done}), theirs.reset(options={"reset_mask": done}))
    assert (truncations > 0) == (limit <= 3)


@pytest.mark.parametrize("mode", MODES)
def test_a_partial_reset_in_the_middle_agrees(mode):
    ours, theirs = vector(autoreset_mode=mode, horizon=3), several(mode, horizon=3)
    assert_same(ours.reset(seed=1), theirs.reset(seed=1))
    masks = [[True, False, False], [False, True, True], [True, True, True], [False, False, True]]
    for number, action in enumerate(actions(8)):
        step = ours.step(action)
        assert_same(step, theirs.step(action), f"step {number}")
        mask = np.array(masks[number % 4]) | ((step[2] | step[3]) & (mode is AutoresetMode.DISABLED))
        seeds = [None, 50 + number, None] if number % 2 else None
        mine = ours.reset(seed=seeds, options={"reset_mask": mask.copy()})
        assert_same(mine, theirs.reset(seed=seeds, options={"reset_mask": mask.copy()}), f"reset {number}")
        assert np.array_equal(mine[1]["_mask"], mask)


@pytest.mark.slow
def test_environments_out_of_step_with_each_other_agree():
    # after a partial reset the episodes end at different times: some finish while others are in the middle
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        ours, theirs = vector(autoreset_mode=mode, horizon=3), several(mode, horizon=3)
        ours.reset(seed=1)
        theirs.reset(seed=1)
        seen = set()
        for number, action in enumerate(actions(16)):
            step = ours.step(action)
            assert_same(step, theirs.step(action), f"{mode} step {number}")
            seen.add(tuple(step[2].tolist()))
            if number in (0, 1):
                reset = np.arange(3) == number
                assert_same(
                    ours.reset(options={"reset_mask": reset.copy()}), theirs.reset(options={"reset_mask": reset.copy()})
                )
        assert {(True, False, False), (False, True, False), (False, False, True)} <= seen


def test_seeds_are_given_to_environments_as_gymnasium_gives_them():
    ours, theirs = vector(), several(AutoresetMode.SAME_STEP)
    for seed in (3, [5, 9, 5], [4, None, 4], None):
        mine = ours.reset(seed=seed)
        assert_same(mine, theirs.reset(seed=seed))
    first = vector().reset(seed=[5, 9, 5])[1]["image_index"]
    assert first[0] == first[2]
    for env_id in range(3):
        assert vector().reset(seed=20)[1]["image_index"][env_id] == single().reset(seed=20 + env_id)[1]["image_index"]


def test_wrong_seeds_and_masks_are_refused():
    env = vector()
    env.reset(seed=0)
    for mask in ([True, False], np.zeros(3, bool), np.ones(3), np.ones((3, 1), bool)):
        with pytest.raises(SettingsError, match="reset_mask"):
            env.reset(options={"reset_mask": np.asarray(mask)})
    with pytest.raises(ValueError, match="2 seeds were given for 3"):
        env.reset(seed=[1, 2])


def test_images_are_asked_for_in_a_vector():
    env = vector()
    observations, infos = env.reset(options={"image_index": [9, 0, 4]})
    assert infos["image_index"].tolist() == [9, 0, 4]
    assert np.array_equal(observations, env.episodes.images.images([9, 0, 4]))
    assert env.reset(options={"image_index": 6})[1]["image_index"].tolist() == [6, 6, 6]
    assert env.reset(options={"image_index": np.array([1, 2, 3])})[1]["image_index"].tolist() == [1, 2, 3]
    reset_mask = np.array([False, True, False])
    infos = env.reset(options={"image_index": [7, 8, 9], "reset_mask": reset_mask})[1]
    assert env.episodes.image.tolist() == [1, 8, 3]
    assert infos["image_index"].tolist() == [0, 8, 0]
    assert infos["_image_index"].tolist() == [False, True, False]
    with pytest.raises(SettingsError, match="image_index 10 is not the number of one of the 10 images"):
        env.reset(options={"image_index": [0, 10, 0]})


def test_the_first_reset_is_of_all_environments_whatever_its_mask():
    env, same = vector(indices=[5, 6]), vector(indices=[5, 6])
    observations, infos = env.reset(seed=3, options={"reset_mask": np.array([True, False, False])})
    expected, others = same.reset(seed=3)
    assert np.array_equal(observations, expected)
    assert infos["_image_index"].all()
    assert infos["image_index"].tolist() == others["image_index"].tolist()
    assert set(infos["image_index"]) <= {5, 6}
    after = env.reset(options={"reset_mask": np.array([False, True, False])})[1]
    assert after["_image_index"].tolist() == [False, True, False]


def test_options_are_left_alone():
    env, options = vector(), {"reset_mask": np.array([True, False, True]), "image_index": 3}
    env.reset(seed=0)
    env.reset(options=options)
    assert options.keys() == {"reset_mask", "image_index"}
    assert options["reset_mask"].tolist() == [True, False, True]


def test_without_autoreset_a_finished_environment_must_be_reset():
    env = vector(autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    ones = np.ones((3, PATCHES), np.int8)
    env.step(ones)
    with pytest.raises(gym.error.ResetNeeded, match="reset_mask"):
        env.step(ones)
    env.reset(options={"reset_mask": np.array([True, True, False])})
    with pytest.raises(gym.error.ResetNeeded):
        env.step(ones)
    env.reset(options={"reset_mask": np.array([False, False, True])})
    env.step(ones)


def test_what_finished_in_the_same_step_is_in_the_final_infos():
    env = vector(horizon=1)
    first, infos = env.reset(seed=0)
    shown = infos["image_index"].copy()
    observations, rewards, terminated, _, infos = env.step(np.ones((3, PATCHES), np.int8))
    assert terminated.all()
    final = infos["final_info"]
    assert final["image_index"].tolist() == shown.tolist()
    assert final["mask"].sum((1, 2)).tolist() == [8, 8, 8]
    expected = [loss[mask].mean() for loss, mask in zip(final["patch_loss"], final["mask"], strict=True)]
    np.testing.assert_allclose(rewards, expected, rtol=1e-5)
    assert not infos["mask"].any()
    assert infos["choosable"].tolist() == [8, 8, 8]
    assert np.array_equal(observations, env.episodes.images.images(infos["image_index"]))
    for env_id in range(3):
        hidden = final["mask"][env_id].repeat(8, 0).repeat(8, 1)
        assert np.array_equal(infos["final_obs"][env_id][:, ~hidden], first[env_id][:, ~hidden])


def test_gymnasiums_statistics_of_episodes_fit_the_vector():
    env = gym.wrappers.vector.RecordEpisodeStatistics(gym.make_vec(FROZEN, 3, **SMALL, horizon=3))
    env.reset(seed=0)
    for number, action in enumerate(actions(6)):
        _, rewards, terminated, _, infos = env.step(action)
        if terminated.any():
            assert number % 3 == 2
            np.testing.assert_allclose(infos["episode"]["r"], rewards, rtol=1e-5)
            assert infos["episode"]["l"].tolist() == [3, 3, 3]
    assert terminated.any()


@pytest.mark.parametrize("shape", [(2, PATCHES), (4, PATCHES), (3, 1), (PATCHES,), (3, PATCHES + 1), (3,)])
def test_actions_of_another_shape_are_refused(shape):
    env = vector()
    env.reset(seed=0)
    with pytest.raises(ActionError, match=r"must have the shape \(3, 16\)"):
        env.step(np.ones(shape, np.int8))


@pytest.mark.slow
def test_spawned_environments_agree_with_those_of_this_process():
    # In a new process nothing has imported ahm_env: the name of the environment does it.
    build = partial(gym.make, f"ahm_env:{FROZEN}", **SMALL, horizon=2, agent_share=0.5)
    mode = AutoresetMode.SAME_STEP
    apart = AsyncVectorEnv([build, build], context="spawn", autoreset_mode=mode)
    try:
        together = SyncVectorEnv([build, build], autoreset_mode=mode)
        native = vector(2, horizon=2, agent_share=0.5)
        first = apart.reset(seed=4)
        assert_same(first, together.reset(seed=4))
        assert_same(first, native.reset(seed=4))
        for action in actions(6, 2):
            step = apart.step(action)
            assert_same(step, together.step(action))
            assert_same(step, native.step(action))
    finally:
        apart.close()


# State


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 5, 12])
def test_a_restored_vector_replays_images_noise_and_learning(steps):
    change = {"co_train": True, "horizon": 2, "agent_share": 0.5, "learning_rate": 0.01}
    one, other = vector(**change), vector(**change, seed=3)
    one.reset(seed=0)
    for action in actions(2 * steps, seed=1):
        one.step(action)
    state = json.loads(json.dumps(one.episodes.state()))
    learnt = weights(one)
    shown = one.episodes.image.copy()
    other.episodes.restore(state)
    other.episodes.reconstructor.restore(learnt)
    _, infos = other.reset()
    assert infos["image_index"].tolist() == shown.tolist()
    for action in actions(10, seed=2):
        mine, theirs = one.step(action), other.step(action)
        assert_same(mine, theirs)
        assert np.array_equal(mine[1], theirs[1])
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def test_a_restored_single_environment_replays_even_after_it_was_seeded():
    one, other = single(agent_share=0.5), single(agent_share=0.5)
    rollout(one, 5, seed=2)
    shown = one.episodes.image.copy()
    other.reset(seed=99)
    other.episodes.restore(one.episodes.state())
    assert other.reset()[1]["image_index"] == shown[0]
    for action in actions(10, 1, seed=2):
        assert_same(one.step(action[0]), other.step(action[0]))
        assert_same(one.reset(), other.reset())


# Settings


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"mask_ratio": 1.0}, SettingsError, "mask ratio"),
        ({"mask_ratio": "much"}, SettingsError, "mask ratio"),
        ({"mask_ratio": "0.7:0.3"}, SettingsError, "mask ratio"),
        ({"mask_ratio": 0.01}, SettingsError, "hides 0"),
        ({"patch_size": 7}, SettingsError, "not divisible"),
        ({"patch_size": 32}, SettingsError, "2 x 2"),
        ({"patch_size": 0}, SettingsError, "1 or more"),
        ({"image_size": 8, "patch_size": 4}, SettingsError, "too small"),
        ({"horizon": 0}, SettingsError, "horizon"),
        ({"horizon": 9}, SettingsError, "horizon"),
        ({"agent_share": 2}, SettingsError, "agent_share"),
        ({"split": "training"}, SettingsError, "split"),
        ({"indices": []}, AHMError, "no image"),
        ({"indices": [0, 99]}, SettingsError, "99"),
        ({"indices": [0.5, 1.7]}, SettingsError, "indices must be whole numbers"),
        ({"indices": [True, False]}, SettingsError, "flatnonzero"),
        ({"indices": [[0, 1]]}, SettingsError, "in a row"),
        ({"agent_share": "0.5"}, SettingsError, "agent_share 0.5 must be a number"),
        ({"patch_size": 8.0}, SettingsError, "patch_size 8.0 must be a whole number"),
        ({"co_train": "no"}, SettingsError, "co_train no must be true or false"),
        ({"data": None}, SettingsError, "data None must be a text or Path or ImageSet"),
        ({"width": 3}, SettingsError, "width"),
        ({"norm": "layer"}, SettingsError, "norm"),
        ({"learning_rate": -1.0}, SettingsError, "learning"),
        ({"device": "abacus"}, SettingsError, "abacus"),
        ({"data": "phantom:many"}, SettingsError, "phantom"),
        ({"data": "phantom:5:1", "split": "test"}, AHMError, "no image"),
        ({"data": "/absent/folder"}, ImageError, "/absent/folder"),
        ({"unet": "/absent/unet.safetensors"}, CheckpointError, "/absent/unet.safetensors"),
        ({"unet": "/absent/unet.pth"}, CheckpointError, "/absent/unet.pth"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(change, error, says):
    for make in (single, vector):
        with pytest.raises(error, match=says) as refusal:
            make(**change)
        assert "\n" not in str(refusal.value)


def test_one_image_too_small_to_normalise_by_is_refused_before_it_is_learned_from():
    small = {"image_size": 16, "patch_size": 4, "co_train": True}
    with pytest.raises(SettingsError, match="nothing to normalise by") as refusal:
        single(**small)
    assert "\n" not in str(refusal.value)
    for env in (single(**{**small, "norm": "group"}), vector(2, **small)):
        env.reset(seed=0)
        env.step(np.ones(env.action_space.shape, np.int8))


@pytest.mark.parametrize("change", [{"num_envs": "3"}, {"num_envs": 2.0}, {"max_episode_steps": "4"}])
def test_keywords_of_a_vector_are_of_their_types(change):
    with pytest.raises(SettingsError, match=f"{next(iter(change))} .* must be a whole number"):
        vector(**change)


@pytest.mark.parametrize("count", [0, -1])
def test_a_vector_needs_an_environment(count):
    with pytest.raises(SettingsError, match="ask for 1 or more"):
        vector(count)


def test_images_of_another_size_or_with_other_channels_are_refused(images):
    with pytest.raises(SettingsError, match="do not fit a U-Net"):
        single(data=images, image_size=64)
    grey = Reconstructor.create(PatchGrid(32, 8), ahm_env.Standardisation((120.0,), (40.0,)), width=4)
    with pytest.raises(SettingsError, match="images of 3 channels"):
        single(data=images, unet=grey)
