"""What users of Gymnasium hand to the environments is read as it is meant, or refused."""

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.env_util import make_vec_env

from ahm_env import ActionError, PatchGrid, PatchMaskEnv, PatchMaskVectorEnv, Reconstructor, SettingsError
from ahm_env.environment.checks import read_actions
from ahm_env.model.weights import Standardisation

pytestmark = pytest.mark.usefixtures("own_cache")

FROZEN, CO_TRAIN = "AHM/PatchMask-v0", "AHM/PatchMaskCoTrain-v0"
SMALL = {"data": "phantom:10:1", "unet": "new", "width": 4, "image_size": 32, "patch_size": 8}
ONES = np.ones((3, 16), np.int8)


# Actions


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint64, np.float16, np.float32, np.longdouble, complex])
def test_zeros_and_ones_of_any_numeric_type_are_read_as_bools(kind):
    given = np.array([0, 1, 1, 0]).astype(kind)
    read = read_actions(given, (4,))
    assert read.dtype == bool
    assert read.tolist() == [False, True, True, False]
    read[0] = True
    assert given[0] == 0  # a copy


@pytest.mark.parametrize("wrong", [0.5, -1, 2, 1e-300, 1 + 1e-9, float("nan"), float("-inf"), 1j, "1", None, b"1"])
def test_anything_else_is_refused_with_the_value_and_the_way_out(wrong):
    actions = np.array([1, wrong], object if wrong is None else None)
    with pytest.raises(ActionError, match=r"a 0 or 1 for each patch.*ScoreActions.*VectorScoreActions") as refusal:
        read_actions(actions, (2,))
    assert "\n" not in str(refusal.value)
    assert isinstance(wrong, str | bytes | None) or repr(actions[1].item()) in str(refusal.value)


# Options of a reset


@pytest.mark.parametrize("wrong", [1.0, 1.5, np.float64(3), "3", True, np.True_, [1], {}, -1, 10, 10**30])
def test_what_is_not_the_number_of_an_image_is_refused_and_nothing_is_reset(wrong):
    for env in (PatchMaskEnv(**SMALL, horizon=2), PatchMaskVectorEnv(3, **SMALL, horizon=2)):
        env.reset(seed=0)
        env.step(np.ones(env.action_space.shape))
        asked = wrong if isinstance(env, PatchMaskEnv) and wrong != [1] else [0, wrong, 0]
        before = env.episodes.state(), env.episodes.hidden.copy()
        with pytest.raises(SettingsError, match="image_index"):
            env.reset(seed=5, options={"image_index": asked})
        assert env.episodes.state() == before[0]
        assert np.array_equal(env.episodes.hidden, before[1])


@pytest.mark.parametrize("asked", [[1, 2], [1, 2, 3, 4], [[1, 2, 3]], np.arange(3.0)])
def test_another_number_of_images_than_of_environments_is_refused(asked):
    with pytest.raises(SettingsError, match="image_index"):
        PatchMaskVectorEnv(3, **SMALL).reset(options={"image_index": asked})


def test_none_is_the_next_image():
    env, other = PatchMaskVectorEnv(3, **SMALL), PatchMaskVectorEnv(3, **SMALL)
    _, infos = env.reset(seed=0, options={"image_index": [None, 9, None]})
    _, expected = other.reset(seed=0)
    assert infos["image_index"].tolist() == [expected["image_index"][0], 9, expected["image_index"][2]]


def test_an_option_of_another_name_is_refused():
    with pytest.raises(SettingsError, match=r"no option 'image'; it takes image_index$"):
        PatchMaskEnv(**SMALL).reset(options={"image": 3})
    with pytest.raises(SettingsError, match=r"no option 'reset_mask'"):
        PatchMaskEnv(**SMALL).reset(options={"reset_mask": np.ones(1, bool)})
    with pytest.raises(SettingsError, match=r"no option 1; it takes image_index and reset_mask$"):
        PatchMaskVectorEnv(3, **SMALL).reset(options={"image_index": 3, 1: 2})


# The agent's share, from outside


@pytest.mark.slow
def test_the_agents_share_is_set_through_every_vector_and_wrapper():
    def build():
        return gym.wrappers.TimeLimit(gym.make(f"ahm_env:{FROZEN}", **SMALL), 5)

    native = PatchMaskVectorEnv(3, **SMALL)
    vectors = [SyncVectorEnv([build] * 3), AsyncVectorEnv([build] * 3), native]
    for envs in vectors:
        envs.set_attr("agent_share", 0.5)
        _, infos = envs.reset(seed=0)
        assert infos["choosable"].tolist() == [4, 4, 4]
        assert envs.get_attr("agent_share") == (0.5, 0.5, 0.5)
        envs.close()
    env = build()
    env.set_wrapper_attr("agent_share", 0.25)
    assert env.reset()[1]["choosable"] == 2


def test_environments_that_share_their_attributes_take_one_value():
    env = PatchMaskVectorEnv(3, **SMALL)
    env.set_attr("agent_share", [0.5, 0.5, 0.5])
    assert env.agent_share == 0.5
    for values in ([0.5, 0.5, 0.25], [0.5], []):
        with pytest.raises(SettingsError, match="one value"):
            env.set_attr("agent_share", values)
    with pytest.raises(SettingsError, match="agent_share"):
        env.set_attr("agent_share", 1.5)
    assert env.agent_share == 0.5


def test_the_agents_share_is_set_in_the_vectors_of_stable_baselines():
    envs = make_vec_env(f"ahm_env:{FROZEN}", 2, env_kwargs=SMALL)
    assert envs.env_method("set_wrapper_attr", "agent_share", 0.5) == [True, True]
    envs.reset()
    assert [info["choosable"] for info in envs.reset_infos] == [4, 4]
    envs.close()


# Specifications


@pytest.mark.parametrize("make", [gym.make, lambda *args, **kwargs: gym.make_vec(*args, 2, **kwargs)])
def test_paths_go_through_the_json_of_a_specification(make, tmp_path):
    path = tmp_path / "unet.safetensors"
    Reconstructor.create(PatchGrid(32, 8), Standardisation((120.0,) * 3, (50.0,) * 3), width=4).save(path)
    env = make(FROZEN, data="phantom:10:1", unet=path, image_size=32)
    spec = EnvSpec.from_json(env.spec.to_json())
    assert spec == env.spec
    assert Path(spec.kwargs["unet"]) == path
    again = (gym.make if make is gym.make else gym.make_vec)(spec)
    mine, theirs = (each.unwrapped.reconstructor.state() for each in (env, again))
    assert all((mine[name] == theirs[name]).all() for name in mine)


# Co-training


def co_training(unet="new"):
    return gym.make(f"ahm_env:{CO_TRAIN}", **{**SMALL, "unet": unet})


def steps(env, count):
    for _ in range(count):
        env.reset()
        env.step(ONES[0])


def test_single_co_training_environments_side_by_side_are_refused():
    envs = SyncVectorEnv([co_training] * 3, autoreset_mode="SameStep")
    envs.reset()
    envs.step(ONES)
    with pytest.raises(SettingsError, match=r"a U-Net each.*gym\.make_vec") as refusal:
        envs.step(ONES)
    assert "\n" not in str(refusal.value)


def test_they_may_train_the_same_unet_and_do():
    shared = Reconstructor.create(PatchGrid(32, 8), Standardisation((120.0,) * 3, (50.0,) * 3), width=4)
    envs = SyncVectorEnv([lambda: co_training(shared)] * 3, autoreset_mode="SameStep")
    envs.reset()
    for _ in range(4):
        envs.step(ONES)
    assert shared.updates == 12


def test_one_experiment_after_the_other_is_fine_and_one_in_turn_with_another_is_not():
    one, other = co_training(), co_training()
    steps(one, 2)
    steps(other, 2)
    frozen = gym.make(FROZEN, **{**SMALL, "unet": one.unwrapped.reconstructor})
    steps(frozen, 2)
    steps(other, 1)
    with pytest.raises(SettingsError, match="AHM/PatchMask-v0"):
        steps(one, 1)
    other.close()
    steps(one, 1)
    assert one.unwrapped.reconstructor.updates == 3


def test_vectors_train_a_unet_each_because_they_say_so():
    one, other = (gym.make_vec(CO_TRAIN, count, **SMALL) for count in (1, 2))
    for _ in range(2):
        for envs in (one, other):
            envs.reset()
            envs.step(ONES[: envs.num_envs])
    assert one.unwrapped.reconstructor.updates == other.unwrapped.reconstructor.updates == 2


def test_the_unet_that_was_trained_is_kept_and_evaluated_frozen(tmp_path):
    env = gym.make_vec(CO_TRAIN, 3, **SMALL)
    env.reset(seed=0)
    env.step(ONES)
    env.unwrapped.reconstructor.save(str(tmp_path / "unet.safetensors"))
    frozen = gym.make(FROZEN, **{**SMALL, "unet": tmp_path / "unet.safetensors"}).unwrapped
    learned, kept = env.unwrapped.reconstructor.unet.state_dict(), frozen.reconstructor.unet.state_dict()
    assert all((kept[name] == learned[name]).all() for name in learned)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*ERROR")
def test_processes_that_would_train_a_unet_each_are_refused():
    envs = AsyncVectorEnv([co_training] * 2)
    try:
        envs.reset()
        with pytest.raises(SettingsError, match=r"gym\.make_vec"):
            envs.step(ONES[:2])
    finally:
        envs.close(terminate=True)


# Processes

FORKED = """
import multiprocessing, gymnasium as gym, numpy as np, torch
multiprocessing.set_start_method("fork")
torch.set_num_threads(2)
envs = gym.vector.AsyncVectorEnv([lambda: gym.make("ahm_env:AHM/PatchMask-v0", data="phantom:10:1")] * 2)
envs.reset(seed=0)
print(envs.step(np.ones((2, 64), np.int8))[1].min() > 0, torch.get_num_threads())
envs.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="nothing is forked there")
def test_forked_processes_do_not_wait_for_threads_that_are_not_there():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split() == ["True", "2"], done.stderr
