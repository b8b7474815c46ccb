"""Agents that follow a rule: quotas, blocks, foreground, edges, the oracle; and what nothing hidden teaches."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from agents import AGENTS, Problem, load_agent, make_agent, save_agent
from agents.agent import Update, hide_highest
from agents.baselines import (
    AutoencoderAgent,
    BlocksAgent,
    EdgesAgent,
    ForegroundAgent,
    OracleAgent,
    RandomAgent,
    ScoringAgent,
    UntrainedAgent,
    foreground,
    grey,
)
from agents.pretraining.hardness import measure
from ahm_env import ImageSet, MaskRatio, PatchGrid, PatchMaskVectorEnv, Reconstructor, SettingsError
from tests.agents.toys import position_costs

Toy = Any  # the class ToyEnv of conftest.py
Pixels = npt.NDArray[np.uint8]


RULES = sorted(name for name, kind in AGENTS.items() if issubclass(kind, ScoringAgent))  # those that learn, among them


@pytest.fixture(params=[RandomAgent, UntrainedAgent])
def kind(request: pytest.FixtureRequest) -> Any:
    """Each agent that does not learn, and looks neither at the image nor at the U-Net."""
    return request.param


@pytest.fixture
def problem() -> Problem:
    return Problem(3, 32, 4, (8, 8))


def native(images: ImageSet, unet: Reconstructor, count: int = 4, **settings: Any) -> PatchMaskVectorEnv:
    return PatchMaskVectorEnv(count, data=images, unet=unet, **{"mask_ratio": 0.5, **settings})


def wide(side: int, ratio: float, images: int) -> tuple[Problem, Pixels]:
    """A larger grid of one-pixel patches, and blank images."""
    quota = round(ratio * side**2)
    return Problem(1, side, side, (quota, quota)), np.zeros((images, 1, side, side), np.uint8)


# ---------------------------------------------------------------- hide_highest


def test_the_highest_of_a_case_small_enough_for_paper() -> None:
    """2 x 2 patches; of the first image, patch 2 is hidden already."""
    problem = Problem(1, 4, 2, (1, 3))
    scores = np.array([[0.1, 0.4, 0.9, 0.2], [5.0, 7.0, 6.0, 8.0]])
    assert hide_highest(scores, problem, None).tolist() == [[0, 1, 1, 1], [0, 1, 1, 1]]  # the largest quota
    assert hide_highest(scores, problem, None, np.array([1, 2])).tolist() == [[0, 0, 1, 0], [0, 1, 0, 1]]
    mask = np.array([[[0, 0], [1, 0]], [[0, 0], [0, 0]]], bool)
    infos = {"mask": mask, "choosable": np.array([2, 1])}
    assert hide_highest(scores, problem, infos).tolist() == [[0, 1, 0, 1], [0, 0, 0, 1]]
    assert hide_highest(scores, problem, infos, np.array([1, 3])).tolist() == [[0, 1, 0, 1], [0, 0, 0, 1]]
    infos = {"mask": mask, "choosable": np.array([0, 3])}
    assert hide_highest(scores, problem, infos, np.array([3, 2])).tolist() == [[0, 0, 0, 0], [0, 1, 0, 1]]


def test_of_equal_scores_the_first_patches_are_the_highest() -> None:
    found = hide_highest(np.array([[2.0, 1.0, 2.0, 2.0]]), Problem(1, 4, 2, (2, 2)), None)
    assert found.tolist() == [[1, 0, 1, 0]]
    assert found.dtype == np.int8


@settings(max_examples=60)
@given(
    scores=st.lists(st.floats(-10, 10, width=32), min_size=9, max_size=9),
    hidden=st.lists(st.booleans(), min_size=9, max_size=9),
    choosable=st.integers(0, 9),
    count=st.integers(2, 6),
)
def test_highest_hides_as_many_as_may_be_and_none_that_scores_less_than_one_left(
    scores: list[float], hidden: list[bool], choosable: int, count: int
) -> None:
    before = np.array([hidden])
    choosable = min(choosable, 9 - sum(hidden))
    infos = {"mask": before.reshape(1, 3, 3), "choosable": np.array([choosable])}
    mask = hide_highest(np.array([scores]), Problem(1, 9, 3, (2, 6)), infos, np.array([count])).astype(bool)
    assert mask.sum() == (choosable if any(hidden) else min(count, choosable))
    assert not (mask & before).any()
    values, left = np.array([scores]), ~mask & ~before
    assert not mask.any() or not left.any() or values[mask].min() >= values[left].max()


# ---------------------------------------------------------------- quotas and generators, of every rule


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("horizon", "share"), [(1, 1.0), (1, 0.5), (3, 1.0), (3, 0.5), (2, 0.0)])
def test_every_rule_has_as_many_ones_as_may_be_chosen_and_all_are_hidden(
    phantoms: ImageSet, reconstructor: Reconstructor, name: str, horizon: int, share: float
) -> None:
    env = native(phantoms, reconstructor, horizon=horizon, agent_share=share)
    agent = make_agent(name, env)
    observations, infos = env.reset(seed=3)
    wanted = np.zeros((4, 16), bool)
    for _ in range(horizon):
        action = agent.predict(observations, infos=infos)
        assert action.dtype == np.int8
        assert action.sum(1).tolist() == infos["choosable"].tolist()
        assert not (action.astype(bool) & infos["mask"].reshape(4, 16)).any()
        wanted |= action.astype(bool)
        observations, _, _, _, infos = env.step(action)
    final = infos["final_info"]
    assert np.array_equal(final["chosen"].reshape(4, 16), wanted)
    assert final["mask"].sum((1, 2)).tolist() == [8] * 4
    assert wanted.sum(1).tolist() == [round(8 * share)] * 4


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("horizon", [1, 2])
def test_every_rule_hides_any_number_of_a_range(
    phantoms: ImageSet, reconstructor: Reconstructor, name: str, horizon: int
) -> None:
    env = native(phantoms, reconstructor, 40, horizon=horizon, mask_ratio="0.25:0.5")
    agent = make_agent(name, env)
    observations, infos = env.reset(seed=3)
    for _ in range(horizon):
        observations, _, _, _, infos = env.step(agent.predict(observations, infos=infos))
    assert set(infos["final_info"]["mask"].sum((1, 2)).tolist()) == {4, 5, 6, 7, 8}


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_every_rule_repeats_with_a_generator_and_leaves_its_own_and_the_world_s_alone(
    phantoms: ImageSet, reconstructor: Reconstructor, name: str
) -> None:
    env = native(phantoms, reconstructor, mask_ratio="0.25:0.75")
    agent, images = make_agent(name, env), phantoms.images(np.arange(12))
    own, world = agent.generator.get_state(), torch.get_rng_state()
    first, again, other = (agent.predict(images, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    agent.maps(images)
    assert torch.equal(agent.generator.get_state(), own)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    sampled = agent.predict(images)
    assert not torch.equal(agent.generator.get_state(), own)
    agent.generator.set_state(own)
    assert np.array_equal(agent.predict(images), sampled)
    assert torch.equal(torch.get_rng_state(), world)


@pytest.mark.parametrize("name", ["random", "blocks", "foreground", "edges", "oracle"])
def test_a_rule_is_saved_and_its_maps_repeat(
    phantoms: ImageSet, reconstructor: Reconstructor, tmp_path: Any, name: str
) -> None:
    env, images = native(phantoms, reconstructor), phantoms.images(np.arange(3))
    agent = make_agent(name, env, seed=4)
    save_agent(agent, tmp_path)
    loaded = load_agent(tmp_path)
    loaded.attach(env)
    assert type(loaded) is type(agent)
    policy, values = agent.maps(images)
    assert policy.shape == (3, 16)
    assert policy.dtype == np.float32
    assert values is None
    assert np.array_equal(loaded.maps(images)[0], policy)
    assert np.array_equal(loaded.predict(images), agent.predict(images))


# ---------------------------------------------------------------- random and frozen


@pytest.mark.parametrize(("quota", "share"), [(1, 1.0), (6, 1.0), (15, 1.0), (8, 0.5), (8, 0.0)])
@pytest.mark.parametrize("horizon", [1, 4])
def test_every_step_has_exactly_the_ones_that_may_be_chosen(
    toy_env: Toy, textures: Pixels, kind: Any, quota: int, share: float, horizon: int
) -> None:
    env = toy_env(textures, position_costs, quota=quota, horizon=min(horizon, quota), agent_share=share)
    kind(env).learn(env, 24)
    assert all(masks.sum(1).tolist() == [quota] * 8 for masks in env.masks)
    per_episode = np.sum(env.actions, axis=(0, 2)) / len(env.masks)
    assert per_episode.tolist() == [round(share * quota)] * 8


def test_random_masks_hide_every_patch_equally_often(toy_env: Toy, textures: Pixels) -> None:
    agent = RandomAgent(toy_env(textures, position_costs, quota=6))
    masks = agent.predict(np.repeat(textures[:1], 8000, 0)).astype(float)
    assert np.abs(masks.mean(0) - 6 / 16).max() < 4.5 * np.sqrt(6 / 16 * 10 / 16 / 8000)
    together = masks.T @ masks / len(masks)
    expected = 6 / 16 * 5 / 15
    assert np.abs(together[~np.eye(16, dtype=bool)] - expected).max() < 5 * np.sqrt(expected / 8000)


def test_random_sizes_are_uniform_between_the_smallest_and_the_largest(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, position_costs, quota=(4, 8), num_envs=500)
    agent = RandomAgent(env)
    agent.learn(env, 4000)
    for masks in (np.concatenate(env.masks), agent.predict(np.repeat(textures[:1], 4000, 0))):
        seen = np.bincount(masks.sum(1), minlength=17)
        assert seen[4:9].sum() == 4000
        assert np.abs(seen[4:9] - 800).max() < 4.5 * np.sqrt(4000 * 0.2 * 0.8)


def test_random_sizes_hold_over_several_steps(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, position_costs, quota=(4, 8), horizon=3, num_envs=100)
    RandomAgent(env).learn(env, 400)
    sizes = np.concatenate(env.masks).sum(1)
    assert set(sizes.tolist()) == {4, 5, 6, 7, 8}
    assert np.mean(sizes) == pytest.approx(6, abs=0.35)


@pytest.mark.slow
def test_the_frozen_policy_is_an_a3c_that_is_nearly_uniform(toy_env: Toy, textures: Pixels) -> None:
    agent = UntrainedAgent(toy_env(textures, position_costs, quota=6))
    masks = agent.predict(np.repeat(textures[:1], 4000, 0))
    assert np.abs(masks.mean(0) - 6 / 16).max() < 0.03
    assert np.ptp(agent.maps(textures)[0]) > 0  # nearly: it is a policy all the same


def test_frozen_weights_never_move(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, position_costs, quota=(4, 8))
    agent = UntrainedAgent(env)
    before = {name: tensor.clone() for name, tensor in agent.state().items()}
    agent.learn(env, 80)
    changed = [name for name, tensor in agent.state().items() if not torch.equal(tensor, before[name])]
    assert changed == ["generator"]


def test_a_flat_policy_map_and_no_value_map_is_what_random_masks_have(textures: Pixels) -> None:
    policy, values = RandomAgent(Problem(1, 32, 4, (8, 8))).maps(textures)
    assert policy.shape == (2, 16)
    assert np.ptp(policy) == 0
    assert values is None


def test_they_play_the_images_asked_for_and_report_each_batch(
    phantoms: ImageSet, reconstructor: Reconstructor, kind: Any
) -> None:
    env = native(phantoms, reconstructor, horizon=2, agent_share=0.5)
    found: list[Update] = []
    kind(env).learn(env, 10, lambda update: found.append(update) is None)
    assert [update.images for update in found] == [4, 4, 4]
    assert all(update.reward > 0 for update in found)
    kind(env).learn(env, 100, lambda update: found.append(update) is not None)
    assert len(found) == 4


def test_the_same_seed_gives_the_same_masks(kind: Any, textures: Pixels) -> None:
    problem, images = Problem(1, 32, 4, (4, 12)), np.repeat(textures, 20, 0)
    masks = [kind(problem, seed=seed).predict(images) for seed in (1, 1, 2)]
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


def test_the_global_generator_of_torch_is_left_alone(kind: Any, toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, position_costs, quota=(4, 12))
    agent = kind(env)
    before = torch.get_rng_state()
    agent.learn(env, 24)
    agent.predict(textures)
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- blocks


def hidden_neighbours(masks: npt.NDArray[np.bool_]) -> float:
    """Share of hidden ones among the four neighbours of hidden cells, of masks `(B, side, side)`."""
    pairs = [(masks[:, 1:], masks[:, :-1]), (masks[:, :, 1:], masks[:, :, :-1])]
    both = sum(2 * int((one & other).sum()) for one, other in pairs)
    return both / sum(int(one.sum() + other.sum()) for one, other in pairs)


@pytest.mark.parametrize(("ratio", "least"), [(0.25, 0.65), (0.5, 0.7), (0.75, 0.82)])
def test_neighbours_of_what_a_block_hides_are_hidden_far_more_often_than_at_random(ratio: float, least: float) -> None:
    problem, images = wide(10, ratio, 400)
    shares = []
    for agent in (RandomAgent(problem), BlocksAgent(problem)):
        masks = agent.predict(images).reshape(-1, 10, 10).astype(bool)
        assert (masks.sum((1, 2)) == ratio * 100).all()
        shares.append(hidden_neighbours(masks))
    assert shares[0] == pytest.approx((ratio * 100 - 1) / 99, abs=0.02)
    assert shares[1] > least


def rectangle(mask: npt.NDArray[np.bool_]) -> tuple[int, int] | None:
    """Height and width, if the ones of a mask `(side, side)` are a full rectangle."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return box.shape if box.all() else None  # type: ignore[return-value]


def test_a_mask_is_full_rectangles_one_after_the_other_the_last_in_part() -> None:
    """Read off the scores: they fall by a whole number from one rectangle to the next, and row by row within each."""
    problem, images = wide(12, 0.5, 400)
    agent = BlocksAgent(problem, seed=1)
    scores = agent.scores(images, torch.Generator().manual_seed(5))
    order = np.ceil(scores).reshape(-1, 12, 12)  # 0 for the first rectangle, −1 for the second, …
    shapes = []
    for image in range(400):
        shape = rectangle(order[image] == 0)
        assert shape is not None
        if not (order[image][[0, -1]] == 0).any() and not (order[image][:, [0, -1]] == 0).any():
            shapes.append(shape)  # whole: it does not end where the image does
        for number in range(-1, -5, -1):  # the next ones, less what was covered before
            new = order[image] == number
            if new.any():
                rows, columns = np.flatnonzero(new.any(1)), np.flatnonzero(new.any(0))
                box = order[image][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                assert (box >= number).all()
        inside = scores[image].reshape(12, 12)[order[image] == 0]
        assert (np.diff(inside) < 0).all()
    assert len(shapes) > 30
    heights, widths = np.array(shapes).T
    # 8 to 25 % of 144 cells, between 1:2 and 2:1, each side rounded
    assert 8 <= (heights * widths).min() <= 16
    assert 25 <= (heights * widths).max() <= 42
    assert 0.38 <= (heights / widths).min() < 0.75
    assert 1.34 < (heights / widths).max() <= 2.6
    masks = agent.predict(images, generator=torch.Generator().manual_seed(5))
    expected = hide_highest(BlocksAgent(problem).scores(images, _after_sizes(5, 400)), problem, None)
    assert np.array_equal(masks, expected)


def _after_sizes(seed: int, images: int) -> torch.Generator:
    """A generator that has drawn the sizes of masks already."""
    generator = torch.Generator().manual_seed(seed)
    torch.randint(1, 2, (images,), generator=generator)
    return generator


def test_a_quota_as_large_as_the_first_rectangle_hides_just_that() -> None:
    side, images = 12, 40
    blank = np.zeros((images, 1, side, side), np.uint8)
    scores = BlocksAgent(Problem(1, side, side, (9, 9))).scores(blank, torch.Generator().manual_seed(2))
    areas = (np.ceil(scores) == 0).sum(1)
    assert len(set(areas.tolist())) > 3
    for image, area in enumerate(areas.tolist()):
        mask = hide_highest(scores[image : image + 1], Problem(1, side, side, (area, area)), None)
        assert rectangle(mask.reshape(side, side).astype(bool)) is not None


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_blocks_leave_no_cell_out_and_prefer_none_by_much(ratio: float) -> None:
    """Or blocks would be a guess at where something is."""
    problem, images = wide(8, ratio, 4000)
    often = BlocksAgent(problem).predict(images).mean(0).reshape(8, 8)
    assert often.mean() == pytest.approx(ratio)
    assert often.min() > 0.8 * ratio
    assert often.max() < 1.25 * ratio


def test_blocks_suffice_for_the_largest_quota() -> None:
    problem, images = wide(8, 63 / 64, 500)
    assert (BlocksAgent(problem).predict(images).sum(1) == 63).all()


# ---------------------------------------------------------------- foreground


def disc(size: int, centre: tuple[float, float], radius: float, inside: int, outside: int) -> Pixels:
    rows, columns = np.mgrid[:size, :size] + 0.5
    within = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    return np.where(within, inside, outside).astype(np.uint8)


@pytest.mark.parametrize(("inside", "outside"), [(40, 200), (200, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_foreground_is_the_disc_whether_dark_or_bright(inside: int, outside: int, channels: int) -> None:
    """A disc of radius 13 in the middle of 64 px: the four patches of 8 px around the centre lie wholly within it."""
    image = disc(64, (32, 32), 13, inside, outside)
    assert np.array_equal(foreground(image), image == inside)
    images = np.repeat(np.repeat(image[None, None], channels, 1), 50, 0)
    share = PatchGrid(64, 8).patch_means((image == inside)[None].astype(float))[0]
    front = share > 0.5
    assert 4 <= front.sum() < 20
    few = int(front.sum()) - 2
    masks = ForegroundAgent(Problem(channels, 64, 8, (few, few))).predict(images).astype(bool)
    assert (masks.sum(1) == few).all()
    assert not masks[:, ~front].any()
    assert (masks[:, front].mean(0) > 0.4).all()  # any of them, at random
    assert len(np.unique(masks, axis=0)) > 20
    many = int(front.sum()) + 10
    masks = ForegroundAgent(Problem(channels, 64, 8, (many, many))).predict(images).astype(bool)
    assert masks[:, front].all()
    assert (masks[:, ~front].sum(1) == 10).all()
    assert masks[:, ~front].any(0).mean() > 0.9


def test_a_patch_is_foreground_where_more_than_half_of_it_is() -> None:
    """Foreground: columns 12 to 22 of 32, in patches of 8 px half of the second and three quarters of the third."""
    image = np.full((32, 32), 200, np.uint8)
    image[1:31, 12:22] = 20
    masks = ForegroundAgent(Problem(1, 32, 4, (4, 4))).predict(np.repeat(image[None, None], 20, 0)).reshape(-1, 4, 4)
    assert masks[:, :, 2].all()
    assert masks.sum() == 20 * 4


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_image_of_one_colour_has_no_foreground_and_is_hidden_at_random(level: int) -> None:
    image = np.full((32, 32), level, np.uint8)
    assert len(np.unique(foreground(image))) == 1
    masks = ForegroundAgent(Problem(1, 32, 4, (8, 8))).predict(np.repeat(image[None, None], 500, 0))
    assert np.abs(masks.mean(0) - 0.5).max() < 4.5 * np.sqrt(0.25 / 500)


# ---------------------------------------------------------------- edges


def test_edges_are_where_the_gradient_is_by_hand() -> None:
    """A step of 10 between columns 15 and 16 of 32: Sobel says 40 in both columns, and 0 elsewhere."""
    image = np.zeros((32, 32), np.uint8)
    image[:, 16:] = 10
    agent = EdgesAgent(Problem(1, 32, 4, (8, 8)))
    found = agent.scores(image[None, None], agent.generator).reshape(4, 4)
    assert found == pytest.approx(np.array([[0, 40 / 8, 40 / 8, 0]] * 4))
    turned = agent.scores(image.T[None, None], agent.generator).reshape(4, 4)
    assert np.array_equal(turned, found.T)
    masks = agent.predict(image[None, None]).reshape(4, 4)
    assert masks.tolist() == [[0, 1, 1, 0]] * 4
    assert np.array_equal(agent.maps(image[None, None])[0].reshape(4, 4), found)


def test_a_slope_in_both_directions_is_as_steep_as_pythagoras_says() -> None:
    rows, columns = np.mgrid[:32, :32]
    agent = EdgesAgent(Problem(1, 32, 4, (8, 8)))
    found = agent.scores((3 * rows + 4 * columns)[None, None].astype(np.uint8), agent.generator).reshape(4, 4)
    assert found[1:3, 1:3] == pytest.approx(8 * np.hypot(3, 4))  # Sobel weighs a slope of 1 with 8


def test_the_border_of_a_disc_is_its_edge() -> None:
    image = disc(64, (20, 40), 10, 200, 30)
    agent = EdgesAgent(Problem(3, 64, 8, (6, 6)))
    mask = agent.predict(np.repeat(image[None, None], 3, 1)).reshape(8, 8).astype(bool)
    touched = PatchGrid(64, 8).patch_means((image == 200)[None].astype(float)).reshape(8, 8)
    assert ((touched > 0) & (touched < 1))[mask].all()


def test_grey_by_hand() -> None:
    colour = np.array([[[[0, 10]], [[1, 20]], [[1, 255]]]], np.uint8)  # (1, 3, 1, 2)
    assert grey(colour).tolist() == [[[1, 95]]]  # 2 / 3 and 285 / 3


# ---------------------------------------------------------------- oracle


@pytest.fixture(scope="module")
def default() -> Any:
    """Phantoms and the U-Net that comes with the package."""
    return PatchMaskVectorEnv(data="phantom:32:9").episodes


@pytest.mark.slow
def test_the_oracle_s_masks_are_harder_than_random_ones_for_the_default_unet(default: Any) -> None:
    problem, indices = Problem(default.images.channels, 64, 8, (32, 32)), np.arange(32)
    found = {}
    for agent in (RandomAgent(problem), OracleAgent(problem)):
        half = MaskRatio.parse(0.5)
        measured = measure(agent, default.reconstructor, default.images, indices, half, 1, 1, random_draws=1)
        found[agent.name] = measured.sampled
    assert found["oracle"].hardness > 1.4
    assert found["oracle"].losses.mean() > 1.4 * found["random"].losses.mean()
    assert (found["oracle"].losses > found["oracle"].random_losses).mean() > 0.9  # of nearly every image
    assert 0.25 < (found["random"].losses > found["random"].random_losses).mean() < 0.75


def test_the_oracle_scores_by_the_mean_loss_over_pairs_of_complementary_masks(
    phantoms: ImageSet, reconstructor: Reconstructor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every patch is hidden exactly once a pair; nothing is learned."""
    env = native(phantoms, reconstructor)
    asked: list[Any] = []
    true = reconstructor.patch_losses

    def recorded(images: Any, masks: Any) -> Any:
        asked.append((masks.copy(), true(images, masks)))
        return asked[-1][1]

    monkeypatch.setattr(reconstructor, "patch_losses", recorded)
    before = {name: tensor.clone() for name, tensor in reconstructor.state().items()}
    images = phantoms.images(np.arange(5))
    scores = OracleAgent(env).scores(images, torch.Generator().manual_seed(0))
    assert len(asked) == 4
    times = sum(masks.astype(int) for masks, _ in asked)
    assert (times == 2).all()
    assert all((masks.sum(1) == 8).all() for masks, _ in asked)
    assert not np.array_equal(asked[0][0], asked[2][0])
    assert scores == pytest.approx(sum(masks * losses for masks, losses in asked) / 2, rel=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in reconstructor.state().items())


def test_an_odd_number_of_patches_is_no_obstacle(phantoms: ImageSet) -> None:
    env = PatchMaskVectorEnv(2, data="phantom:8", unet="new", width=2, image_size=48, patch_size=16, mask_ratio=0.5)
    agent = make_agent("oracle", env)
    masks = agent.predict(env.reset(seed=0)[0])
    assert masks.sum(1).tolist() == [5, 5]


def test_the_oracle_needs_to_see_a_unet(problem: Problem, phantoms: ImageSet, reconstructor: Reconstructor) -> None:
    agent, images = OracleAgent(problem), phantoms.images(np.arange(2))
    with pytest.raises(SettingsError, match=r"attach\(env\)"):
        agent.predict(images)
    agent.attach(native(phantoms, reconstructor))
    first = agent.maps(images)[0]
    other = Reconstructor.create(reconstructor.grid, reconstructor.standardisation, width=2, seed=5)
    agent.attach(native(phantoms, other))
    assert not np.allclose(agent.maps(images)[0], first)  # it is the U-Net of the last environment that counts


def test_learning_attaches_the_oracle(problem: Problem, phantoms: ImageSet, reconstructor: Reconstructor) -> None:
    agent = OracleAgent(problem)
    agent.learn(native(phantoms, reconstructor), 4)
    assert agent.maps(phantoms.images(np.arange(2)))[0].shape == (2, 16)


@pytest.mark.parametrize("name", ["oracle", "learning-progress", "autoencoder"])
def test_those_that_look_at_the_unet_refuse_an_environment_without_one(
    toy_env: Toy, textures: Pixels, name: str
) -> None:
    env = toy_env(textures, position_costs)
    with pytest.raises(SettingsError, match=r"native PatchMaskVectorEnv"):
        make_agent(name, env).learn(env, 8)


# ---------------------------------------------------------------- autoencoder


def forbid_steps(env: Any) -> None:
    def step(_: Any) -> None:
        raise AssertionError("the environment was stepped")

    env.step = step


def test_an_autoencoder_trains_the_unet_with_nothing_hidden_and_never_steps(
    phantoms: ImageSet, reconstructor: Reconstructor, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = native(phantoms, reconstructor, co_train=True)
    env.reset(seed=2)
    forbid_steps(env)
    asked: list[Any] = []
    learn = reconstructor.learn

    def recorded(images: Any, masks: Any) -> Any:
        asked.append((images.copy(), masks.copy()))
        return learn(images, masks)

    monkeypatch.setattr(reconstructor, "learn", recorded)
    found: list[Update] = []
    before = reconstructor.unet.outc.conv.weight.detach().clone()
    AutoencoderAgent(env).learn(env, 10, lambda update: found.append(update) is None)
    assert not torch.equal(reconstructor.unet.outc.conv.weight, before)
    assert reconstructor.updates == 3
    assert [update.images for update in found] == [4, 4, 4]
    assert all(np.isnan(update.reward) and update.unet_loss > 0 and update.resumable for update in found)
    assert not any(masks.any() for _, masks in asked)
    shown = np.concatenate([images for images, _ in asked])
    every = phantoms.images(np.arange(len(phantoms)))
    assert all((every == image).all((1, 2, 3)).any() for image in shown)  # as they are
    assert not np.array_equal(asked[0][0], asked[1][0])  # and every time others


def test_its_loss_is_the_mean_square_of_what_the_unet_misses(phantoms: ImageSet, reconstructor: Reconstructor) -> None:
    """Computed with PyTorch alone: standardise, U-Net in training mode, mean squared error, Adam."""
    env = native(phantoms, reconstructor, co_train=True)
    images = env.reset(seed=2)[0]
    mean, std = (
        torch.tensor(numbers).reshape(1, 3, 1, 1)
        for numbers in (reconstructor.standardisation.mean, reconstructor.standardisation.std)
    )
    twin = Reconstructor.create(reconstructor.grid, reconstructor.standardisation, width=4).unet
    twin.load_state_dict(reconstructor.unet.state_dict())
    inputs = (torch.from_numpy(images).float() - mean) / std
    optimiser = torch.optim.Adam(twin.parameters(), 1e-3)
    loss = functional.mse_loss(twin.train()(inputs), inputs)
    loss.backward()
    optimiser.step()

    state = env.episodes.state()
    env.episodes.restore(state)  # the same images once more
    found: list[Update] = []
    AutoencoderAgent(env).learn(env, 4, lambda update: found.append(update) is None)
    assert found[0].unet_loss == pytest.approx(loss.item(), rel=1e-4)
    for (name, expected), (_, weight) in zip(
        twin.named_parameters(), reconstructor.unet.named_parameters(), strict=True
    ):
        assert torch.allclose(weight, expected, atol=2e-5), name


def test_an_autoencoder_of_a_frozen_unet_only_measures(phantoms: ImageSet, reconstructor: Reconstructor) -> None:
    env = native(phantoms, reconstructor)
    before = {name: tensor.clone() for name, tensor in reconstructor.state().items()}
    found: list[Update] = []
    AutoencoderAgent(env).learn(env, 8, lambda update: found.append(update) is None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in reconstructor.state().items())
    assert len(found) == 2
    assert found[0].unet_loss != found[1].unet_loss


def test_an_autoencoder_stops_when_told_and_goes_on_where_it_was(
    phantoms: ImageSet, reconstructor: Reconstructor
) -> None:
    env = native(phantoms, reconstructor)
    env.reset(seed=1)
    agent, found = AutoencoderAgent(env), list[Update]()
    agent.learn(env, 12, lambda update: found.append(update) is None)
    env.reset(seed=1)
    states: list[Any] = []
    stopped: list[Update] = []

    def stop(update: Update) -> bool:
        stopped.append(update)
        states.append(env.episodes.state())
        return False

    agent.learn(env, 12, stop)
    assert len(stopped) == 1
    env.episodes.restore(states[0])
    agent.learn(env, 8, lambda update: stopped.append(update) is None)
    assert [update.unet_loss for update in stopped] == [update.unet_loss for update in found]


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["random", "blocks", "foreground", "edges"]), seed=st.integers(0, 99), data=st.data())
def test_rules_only_ever_hide_visible_patches(problem: Problem, name: str, seed: int, data: st.DataObject) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    hidden = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=16, max_size=16), min_size=3, max_size=3)))
    choosable = np.array([data.draw(st.integers(0, int((~row).sum()))) for row in hidden])
    masks = make_agent(name, problem).predict(images, infos={"mask": hidden.reshape(3, 4, 4), "choosable": choosable})
    assert not (masks.astype(bool) & hidden).any()
    assert masks.sum(1).tolist() == np.where(hidden.any(1), choosable, np.minimum(8, choosable)).tolist()
