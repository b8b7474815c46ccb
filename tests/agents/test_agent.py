"""What all agents have in common: the problem they see, playing, reports, files."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agents import AGENTS, A3CSettings, Agent, Problem, load_agent, make_agent, save_agent
from agents.agent import Update, play, summary
from ahm_env import CheckpointError, ImageSet, PatchMaskEnv, PatchMaskVectorEnv, Reconstructor, SettingsError
from ahm_env.files import load_tensors, save_tensors
from tests.agents.toys import position_costs

Toy = Any  # the class ToyEnv of conftest.py
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(params=sorted(AGENTS))
def env(
    request: pytest.FixtureRequest, toy_env: Toy, textures: Pixels, phantoms: ImageSet, reconstructor: Reconstructor
) -> Any:
    """An environment for each agent there is, of sizes between 4 and 12; with a U-Net for those that look at it."""
    if request.param in ("oracle", "learning-progress", "autoencoder"):
        made: Any = PatchMaskVectorEnv(8, data=phantoms, unet=reconstructor, mask_ratio="0.25:0.75")
    else:
        made = toy_env(textures, position_costs, quota=(4, 12))
    made.agent = request.param
    return made


@pytest.fixture
def pictures(env: Any, textures: Pixels) -> Pixels:
    """Images with as many channels as the environment's."""
    return np.repeat(textures, env.single_observation_space.shape[0], 1)


@pytest.fixture
def agent(env: Any) -> Agent:
    """Each agent, after it has learned a little."""
    made = make_agent(env.agent, env, seed=3)
    made.learn(env, 24)
    return made


# ---------------------------------------------------------------- the problem


@pytest.mark.parametrize(("ratio", "quotas"), [(0.5, (8, 8)), ("0.25:0.75", (4, 12))])
def test_the_problem_is_read_off_native_and_gymnasium_s_own_environments(
    phantoms: ImageSet, reconstructor: Reconstructor, ratio: Any, quotas: tuple[int, int]
) -> None:
    settings: dict[str, Any] = {"data": phantoms, "unet": reconstructor, "mask_ratio": ratio}
    sync = SyncVectorEnv([lambda: PatchMaskEnv(**settings)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    made = gymnasium.make_vec("ahm_env:AHM/PatchMask-v0", num_envs=2, **settings)
    wrapped = gymnasium.wrappers.vector.RecordEpisodeStatistics(PatchMaskVectorEnv(2, **settings))
    for env in (PatchMaskVectorEnv(2, **settings), sync, made, wrapped):
        problem = Problem.of(env)
        assert problem == Problem(channels=3, image_size=32, side=4, quotas=quotas)
        assert problem.patches == 16
        json.dumps(asdict(problem))


def test_a_problem_is_its_own_problem() -> None:
    problem = Problem(1, 32, 4, (8, 8))
    assert Problem.of(problem) is problem


# ---------------------------------------------------------------- playing


def test_summary_of_a_case_small_enough_for_paper() -> None:
    """Hidden: 1 and 3 of the first image, 5 of the second. Rewards 2 and 5; the U-Net sees three patches."""
    mask = np.array([[[1, 1], [0, 0]], [[0, 0], [0, 1]]], bool)
    patch_loss = np.array([[[1, 3], [100, 100]], [[100, 100], [100, 5]]], np.float32)
    found = summary({"mask": mask, "patch_loss": patch_loss}, entropy=0.5)
    assert (found.images, found.reward, found.unet_loss, found.entropy) == (2, 3.5, 3.0, 0.5)
    assert np.isnan([found.policy_loss, found.value_loss]).all()


@pytest.mark.parametrize("horizon", [1, 3])
def test_play_plays_whole_batches_and_reports_each(toy_env: Toy, textures: Pixels, horizon: int) -> None:
    env = toy_env(textures, position_costs, quota=6, horizon=horizon, num_envs=4)
    found: list[Update] = []
    play(make_agent("random", env), env, 9, lambda update: found.append(update) is None)
    assert [update.images for update in found] == [4, 4, 4]
    assert [update.reward for update in found] == pytest.approx([rewards.mean() for rewards in env.rewards], rel=1e-5)
    assert len(env.actions) == 3 * horizon


def test_play_stops_when_told(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, position_costs)
    answers = iter([True, False, True])
    play(make_agent("random", env), env, 800, lambda _: next(answers))
    assert len(env.rewards) == 2


def test_play_refuses_environments_that_do_not_start_again_in_the_same_step(
    phantoms: ImageSet, reconstructor: Reconstructor
) -> None:
    env = PatchMaskVectorEnv(2, data=phantoms, unet=reconstructor, autoreset_mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(SettingsError, match="SAME_STEP"):
        play(make_agent("random", env), env, 2)


def test_play_counts_episodes_that_are_cut_short(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, position_costs, horizon=2, truncate_after=1)

    def not_for_ever(_: Any) -> None:
        assert len(env.actions) < 20

    env.on_step = not_for_ever
    play(make_agent("random", env), env, 8)
    assert len(env.actions) == 1


# ---------------------------------------------------------------- making


def test_an_unknown_agent_is_refused_by_name(toy_env: Toy, textures: Pixels) -> None:
    with pytest.raises(SettingsError, match=r"'dqn' is unknown; choose one of .*a3c"):
        make_agent("dqn", toy_env(textures, position_costs))


@pytest.mark.parametrize("name", ["a3c", "random"])
def test_an_unknown_setting_is_refused_by_name(toy_env: Toy, textures: Pixels, name: str) -> None:
    with pytest.raises(SettingsError, match=r"no setting 'gama'"):
        make_agent(name, toy_env(textures, position_costs), gama=0.9)


def test_settings_reach_the_agent(toy_env: Toy, textures: Pixels) -> None:
    made = make_agent("a3c", toy_env(textures, position_costs), vf_coef=0.7, bound=None)
    assert made.settings == A3CSettings(vf_coef=0.7, bound=None)


# ---------------------------------------------------------------- every agent


def test_every_agent_has_its_own_name(agent: Agent) -> None:
    assert AGENTS[agent.name] is type(agent)


@pytest.mark.slow
def test_every_agent_makes_masks_within_the_quotas(agent: Agent, pictures: Pixels) -> None:
    for deterministic in (False, True):
        masks = agent.predict(np.repeat(pictures, 20, 0), deterministic)
        assert masks.shape == (40, 16)
        assert masks.dtype == np.int8
        assert set(np.unique(masks)) == {0, 1}
        assert masks.sum(1).min() >= 4
        assert masks.sum(1).max() <= 12


@pytest.mark.slow
def test_every_agent_hides_what_is_choosable_and_never_what_is_hidden(agent: Agent, pictures: Pixels) -> None:
    hidden = np.zeros((40, 4, 4), bool)
    hidden[:, 1:3] = True
    masks = agent.predict(np.repeat(pictures, 20, 0), infos={"mask": hidden, "choosable": np.arange(40) % 8})
    assert masks.sum(1).tolist() == (np.arange(40) % 8).tolist()
    assert not (masks.astype(bool) & hidden.reshape(40, -1)).any()


def test_every_agent_has_a_policy_map(agent: Agent, pictures: Pixels) -> None:
    policy, values = agent.maps(pictures)
    assert policy.shape == (2, 16)
    assert policy.dtype == np.float32
    assert values is None or values.shape == (2, 16)


@pytest.mark.slow
def test_every_agent_acts_with_the_generator_it_is_given(agent: Agent, pictures: Pixels) -> None:
    before = agent.generator.get_state()
    images = np.repeat(pictures, 20, 0)
    first, again, other = (agent.predict(images, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(agent.generator.get_state(), before)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.slow
def test_every_agent_restored_acts_as_it_did(agent: Agent, pictures: Pixels) -> None:
    state = {name: tensor.clone() for name, tensor in agent.state().items()}
    first = agent.predict(np.repeat(pictures, 20, 0))
    assert not np.array_equal(agent.predict(np.repeat(pictures, 20, 0)), first)
    agent.restore(state)
    assert np.array_equal(agent.predict(np.repeat(pictures, 20, 0)), first)


def test_every_agent_that_several_processes_train_can_share_its_memory(agent: Agent, env: Any) -> None:
    if not agent.parallel:
        pytest.skip(f"{agent.name} trains in one process")
    agent.share_memory()
    assert all(tensor.is_shared() for name, tensor in agent.state().items() if name != "generator")
    agent.learn(env, 8)


# ---------------------------------------------------------------- files


@pytest.mark.slow
def test_a_saved_agent_comes_back_as_it_was(agent: Agent, env: Any, pictures: Pixels, tmp_path: Path) -> None:
    save_agent(agent, tmp_path / "agent")
    loaded = load_agent(tmp_path / "agent")
    loaded.attach(env)
    assert type(loaded) is type(agent)
    assert (loaded.problem, loaded.settings) == (agent.problem, agent.settings)
    policy, values = agent.maps(pictures)
    loaded_policy, loaded_values = loaded.maps(pictures)
    assert np.array_equal(loaded_policy, policy)
    assert (values is None) == (loaded_values is None)
    if values is not None and loaded_values is not None:
        assert np.array_equal(loaded_values, values)
    assert np.array_equal(
        loaded.predict(pictures, True, generator=_seeded()), agent.predict(pictures, True, generator=_seeded())
    )
    images = np.repeat(pictures, 20, 0)
    assert np.array_equal(loaded.predict(images), agent.predict(images))  # its generator as well


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_settings_of_an_agent_are_saved_with_it(toy_env: Toy, textures: Pixels, tmp_path: Path) -> None:
    made = make_agent("a3c", toy_env(textures, position_costs), bound=None, ent_coef="0.02:0.002", image_weight=3.0)
    made.progress = 0.75
    save_agent(made, tmp_path)
    loaded = load_agent(tmp_path)
    assert (loaded.settings, loaded.progress) == (made.settings, 0.75)
    about = json.loads((tmp_path / "agent.json").read_text())
    assert about["agent"] == "a3c"
    assert about["settings"]["ent_coef"] == "0.02:0.002"


def test_an_agent_with_published_weights_loads_without_their_file(tmp_path: Path) -> None:
    problem = Problem(3, 32, 2, (2, 2))
    made = make_agent("a3c", problem, backbone="vgg16", seed=1)
    published = {name: torch.rand_like(tensor) for name, tensor in made.network.phi.state_dict().items()}  # type: ignore[attr-defined]
    torch.save(published, tmp_path / "vgg16.pth")
    made = make_agent("a3c", problem, backbone="vgg16", backbone_weights=str(tmp_path / "vgg16.pth"))
    save_agent(made, tmp_path)
    (tmp_path / "vgg16.pth").unlink()
    loaded = load_agent(tmp_path)
    assert torch.equal(loaded.state()["network.phi.features.0.weight"], published["features.0.weight"])


def test_the_optimiser_stays_behind(toy_env: Toy, textures: Pixels, tmp_path: Path) -> None:
    save_agent(make_agent("a3c", toy_env(textures, position_costs)), tmp_path)
    tensors, _ = load_tensors(tmp_path / "agent.safetensors")
    assert tensors
    assert not [name for name in tensors if name.startswith("optimiser.")]


@pytest.fixture
def saved(toy_env: Toy, textures: Pixels, tmp_path: Path) -> Path:
    """The directory of a saved A3C agent."""
    save_agent(make_agent("a3c", toy_env(textures, position_costs)), tmp_path / "agent")
    return tmp_path / "agent"


@pytest.mark.parametrize("damage", ["cut short", "a byte is another", "empty", "text"])
def test_a_damaged_file_is_refused_by_name(saved: Path, damage: str) -> None:
    path = saved / "agent.safetensors"
    whole = path.read_bytes()
    middle = len(whole) - 100
    path.write_bytes(
        {
            "cut short": whole[:middle],
            "a byte is another": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
            "empty": b"",
            "text": b"not an agent",
        }[damage]
    )
    with pytest.raises(CheckpointError, match=r"agent\.safetensors: damaged"):
        load_agent(saved)


def test_a_missing_agent_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"agent\.safetensors: no such file"):
        load_agent(tmp_path)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        *(("problem", "side", value) for value in (0, 1, -4, 5, "4", 4.0)),
        *(("problem", "image_size", value) for value in (0, 2, 33, None)),
        *(("problem", "channels", value) for value in (0, 3.0)),
        *(("problem", "quotas", value) for value in ([4], [4, 4, 4], None, "44", [-3, -3], [0, 4], [5, 4], [800, 800])),
        ("problem", None, []),
        *(("settings", None, value) for value in (None, [], "bound")),
        *(("progress", None, value) for value in ("x", None, -0.1, 1.5, float("nan"))),
        *((None, None, value) for value in ([], "a3c", None)),
    ],
)
def test_an_odd_description_is_refused_by_name(saved: Path, part: str | None, name: str | None, value: Any) -> None:
    path = saved / "agent.safetensors"
    tensors, about = load_tensors(path)
    if name is not None:
        about[part][name] = value
    elif part is not None:
        about[part] = value
    else:
        about = value
    save_tensors(path, tensors, about)
    with pytest.raises(CheckpointError, match=r"agent\.safetensors: ") as caught:
        load_agent(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fault",
    ["another agent", "another setting", "no description", "a weight is missing", "a weight of another shape"],
)
def test_a_file_of_something_else_is_refused_by_name(saved: Path, fault: str) -> None:
    """Nothing that is missing may be made up: an agent with weights drawn afresh would pass for a trained one."""
    path = saved / "agent.safetensors"
    tensors, about = load_tensors(path)
    if fault == "another agent":
        about["agent"] = "of a later version"
    elif fault == "another setting":
        about["settings"]["of_a_later_version"] = 1
    elif fault == "no description":
        about = {}
    elif fault == "a weight is missing":
        del tensors["network.policy.weight"]
    else:
        tensors["network.policy.weight"] = torch.zeros(3, 1, 1, 1)
    save_tensors(path, tensors, about)
    with pytest.raises(CheckpointError, match=r"agent\.safetensors"):
        load_agent(saved)
