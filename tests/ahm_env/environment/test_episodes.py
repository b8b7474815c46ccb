import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ahm_env.environment.episodes import Episodes, EpochSampler
from ahm_env.errors import SettingsError
from ahm_env.masks import MaskRatio, PatchGrid, rounded
from ahm_env.model.reconstruction import Reconstructor
from ahm_env.model.weights import Standardisation

STEADY = settings(derandomize=True, max_examples=40)

PATCHES = 16
TRAIN = np.arange(8)


def standardisation(images):
    mean, std = images.standardisation(TRAIN)
    return Standardisation(tuple(mean.tolist()), tuple(std.tolist()))


@pytest.fixture(scope="module")
def frozen(images):
    """A U-Net that no test trains."""
    return Reconstructor.create(PatchGrid(32, 8), standardisation(images), width=4)


@pytest.fixture(scope="module")
def make(images, frozen):
    def build(ratio=0.5, count=3, seed=0, reconstructor=frozen, indices=TRAIN, **rest):
        episodes = Episodes(images, indices, reconstructor, MaskRatio.parse(ratio), count=count, **rest)
        for env_id in range(count):
            episodes.seed(env_id, np.random.default_rng(seed + env_id))
        return episodes

    return build


@pytest.fixture
def trainable(images):
    return Reconstructor.create(PatchGrid(32, 8), standardisation(images), width=4, learning_rate=0.01)


def masks_of_steps(episodes, seeds):
    """Masks of all episodes after each of some steps."""
    masks = []
    for seed in seeds:
        episodes.step(everyone(episodes), actions(seed=seed))
        masks.append(episodes.hidden.copy())
    return masks


def everyone(episodes):
    return np.arange(len(episodes.image))


def actions(count=3, share=0.5, seed=0):
    return np.random.default_rng(seed).random((count, PATCHES)) < share


def play(episodes, steps, seed=0):
    """Images, masks and rewards of some steps with random actions; finished episodes begin again."""
    rng, env_ids, story = np.random.default_rng(seed), everyone(episodes), []
    for _ in range(steps):
        rewards, terminated = episodes.step(env_ids, rng.random((len(env_ids), PATCHES)) < 0.5)
        story.append((episodes.image.copy(), episodes.hidden.copy(), episodes.chosen.copy(), rewards))
        if terminated.any():
            episodes.begin(env_ids[terminated])
    return story


def assert_same_story(one, other):
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        for part, expected in zip(mine, theirs, strict=True):
            assert np.array_equal(part, expected)


# The walk over the images


@STEADY
@given(count=st.integers(1, 30), seed=st.integers(0, 2**62), epochs=st.integers(1, 4))
def test_every_image_is_shown_once_an_epoch(count, seed, epochs):
    order = EpochSampler(count, seed)
    for _ in range(epochs):
        assert sorted(order.next() for _ in range(count)) == list(range(count))


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    order, other = EpochSampler(20, 1), EpochSampler(20, 2)
    first, second = ([order.next() for _ in range(20)] for _ in range(2))
    assert first != second
    assert first != [other.next() for _ in range(20)]
    again = EpochSampler(20, 1)
    assert [again.next() for _ in range(40)] == first + second


def test_of_a_long_order_a_part_is_known_at_a_time(monkeypatch):
    monkeypatch.setattr("ahm_env.environment.episodes.AHEAD", 7)
    whole = [image for epoch in range(2) for image in np.random.default_rng((1, epoch)).permutation(20)]
    order = EpochSampler(20, 1)
    assert [order.next() for _ in range(40)] == whole
    assert [EpochSampler(20, 1, place // 20, place % 20 - 1).next() for place in range(40)] == whole


@STEADY
@given(count=st.integers(1, 10), seed=st.integers(0, 1000), walked=st.integers(0, 35))
def test_a_walk_goes_on_from_its_three_numbers(count, seed, walked):
    order = EpochSampler(count, seed)
    for _ in range(walked):
        order.next()
    resumed = EpochSampler(count, order.seed, order.epoch, order.position)
    assert [resumed.next() for _ in range(25)] == [order.next() for _ in range(25)]


def test_episodes_side_by_side_walk_in_orders_of_their_own(make):
    episodes = make(count=3)
    walks = []
    for _ in range(8):
        episodes.begin(everyone(episodes))
        walks.append(episodes.image.tolist())
    first, second, third = zip(*walks, strict=True)
    assert sorted(first) == sorted(second) == sorted(third) == list(range(8))
    assert len({first, second, third}) == 3


def test_only_the_images_of_the_indices_are_shown(make):
    episodes = make(count=2, indices=np.array([9, 3, 4]))
    shown = []
    for _ in range(3):
        episodes.begin(everyone(episodes))
        shown.append(episodes.image.copy())
    assert sorted(row[0] for row in shown) == sorted(row[1] for row in shown) == [3, 4, 9]


def test_an_image_that_is_asked_for_is_shown_and_the_walk_goes_on_after_it(make):
    one, other = make(count=1), make(count=1)
    walk = []
    for episodes in (one, other):
        episodes.begin(everyone(episodes))
    other.begin(everyone(other), [9])
    assert other.image.tolist() == [9]
    for episodes in (one, other):
        episodes.begin(everyone(episodes))
        walk.append(episodes.image.tolist())
    assert walk[0] == walk[1]


# A step


def quota_of(episodes, wanted):
    return wanted.sum(1).clip(episodes.low, episodes.high)


@pytest.mark.slow
@STEADY
@given(
    ratio=st.sampled_from(["0.5", "0.25", "0.9", "0.3:0.7", "0.2:0.9"]),
    horizon=st.integers(1, 3),
    share=st.floats(0, 1),
    kinds=st.lists(st.sampled_from(["none", "all", "random", "hidden"]), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_the_quota_is_exact_whatever_the_agent_does(make, ratio, horizon, share, kinds, seed):
    episodes = make(ratio, horizon=horizon, agent_share=share, seed=seed)
    env_ids, rng = everyone(episodes), np.random.default_rng(seed)
    episodes.begin(env_ids)
    before = np.zeros((3, PATCHES), bool)
    for step in range(horizon):
        wanted = {
            "none": np.zeros_like(before),
            "all": np.ones_like(before),
            "random": rng.random(before.shape) < rng.random((3, 1)),
            "hidden": before,
        }[kinds[step]]
        if step == 0:
            quota = quota_of(episodes, wanted)
        _, terminated = episodes.step(env_ids, wanted)
        mask, chosen = episodes.hidden.copy(), episodes.chosen
        assert mask.sum(1).tolist() == [rounded(k * (step + 1) / horizon) for k in quota]
        assert (mask >= before).all()
        assert not (chosen & ~mask).any()
        assert not ((chosen & ~before) & ~wanted).any()
        assert (chosen.sum(1) <= [rounded(share * rounded(k * (step + 1) / horizon)) for k in quota]).all()
        assert terminated.all() == (step == horizon - 1)
        before = mask
    assert before.sum(1).tolist() == quota.tolist()


@pytest.mark.parametrize("horizon", [1, 2, 3, 8])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.3, 0.0])
def test_an_agent_that_emits_as_many_ones_as_are_choosable_gets_exactly_these(make, horizon, share):
    episodes = make(horizon=horizon, agent_share=share)
    env_ids, rng = everyone(episodes), np.random.default_rng(1)
    episodes.begin(env_ids)
    emitted = np.zeros((3, PATCHES), bool)
    for _ in range(horizon):
        for env_id, count in enumerate(episodes.choosable(env_ids)):
            emitted[env_id, rng.choice(np.flatnonzero(~episodes.hidden[env_id]), count, replace=False)] = True
        episodes.step(env_ids, emitted)  # ones on hidden patches, those of earlier steps, are ignored
        assert np.array_equal(episodes.chosen, emitted)
    assert episodes.chosen.sum(1).tolist() == [rounded(share * 8)] * 3
    assert episodes.choosable(env_ids).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("ratio", "horizon", "share", "expected"),
    [
        (0.5, 1, 1.0, [8]),
        (0.5, 1, 0.5, [4]),
        (0.5, 3, 1.0, [3, 2, 3]),
        (0.5, 3, 0.5, [2, 1, 1]),
        ("0.3:0.7", 1, 1.0, [11]),
        ("0.3:0.7", 2, 1.0, [11, 4]),  # all 8 that the first action asked for, 4 of them in the first step
    ],
)
def test_choosable_by_hand(make, ratio, horizon, share, expected):
    episodes = make(ratio, horizon=horizon, agent_share=share)
    env_ids, seen = everyone(episodes), []
    episodes.begin(env_ids)
    wanted = np.zeros((3, PATCHES), bool)
    wanted[:, :8] = True
    for _ in range(horizon):
        choosable = episodes.choosable(env_ids)
        assert choosable.tolist() == [int(episodes.choosable(env_id)) for env_id in env_ids]
        assert len(set(choosable.tolist())) == 1
        seen.append(int(choosable[0]))
        episodes.step(env_ids, wanted)
    assert seen == expected


def test_the_number_of_ones_decides_how_much_is_hidden(make):
    episodes = make("0.3:0.7", count=6)
    episodes.begin(everyone(episodes))
    wanted = np.zeros((6, PATCHES), bool)
    for env_id, ones in enumerate([0, 4, 5, 8, 11, 16]):
        wanted[env_id, :ones] = True
    episodes.step(everyone(episodes), wanted)
    assert episodes.hidden.sum(1).tolist() == [5, 5, 5, 8, 11, 11]
    assert np.array_equal(episodes.hidden[3], wanted[3])
    assert np.array_equal(episodes.hidden[4], wanted[4])


@pytest.mark.parametrize("ratio", [0.5, "0.3:0.7"])
@pytest.mark.parametrize("horizon", [1, 3])
def test_the_reward_is_the_mean_loss_of_the_hidden_patches_at_the_end_and_nothing_before(make, ratio, horizon):
    episodes = make(ratio, horizon=horizon)
    env_ids = everyone(episodes)
    episodes.begin(env_ids)
    for step in range(horizon):
        assert not episodes.patch_loss.any()
        rewards, terminated = episodes.step(env_ids, actions(seed=step))
        if step < horizon - 1:
            assert rewards.tolist() == [0, 0, 0]
            assert not terminated.any()
    assert terminated.all()
    masks = episodes.hidden
    losses = episodes.reconstructor.patch_losses(episodes.images.images(episodes.image), masks)
    np.testing.assert_allclose(episodes.patch_loss, losses, rtol=1e-5, atol=1e-6)
    for env_id in env_ids:
        expected = np.mean([loss for loss, hidden in zip(losses[env_id], masks[env_id], strict=True) if hidden])
        assert rewards[env_id] == pytest.approx(expected, rel=1e-4)
    assert rewards.dtype == np.float64
    assert len(np.unique(rewards.round(6))) == 3  # every image its own


def test_a_step_of_some_episodes_leaves_the_others_alone(make):
    episodes, alone = make(horizon=3), make(horizon=3)
    for both in (episodes, alone):
        both.begin(everyone(both))
        both.step(everyone(both), actions())
    few = np.array([0, 2])
    before = {name: getattr(episodes, name)[1].copy() for name in ("image", "steps", "hidden", "chosen", "patch_loss")}
    rewards, _ = episodes.step(few, actions(2, seed=5))
    assert rewards.shape == (2,)
    for name, expected in before.items():
        assert np.array_equal(getattr(episodes, name)[1], expected)
    # and they do not even lose a random number
    for both in (episodes, alone):
        both.step(np.array([1]), actions(1, 0.1, seed=6))
    assert np.array_equal(episodes.hidden[1], alone.hidden[1])


def test_hidden_patches_are_shown_filled_with_the_mean_colour(make):
    episodes = make(horizon=3)
    env_ids = everyone(episodes)
    episodes.begin(env_ids)
    originals = episodes.images.images(episodes.image)
    assert np.array_equal(episodes.observations(env_ids), originals)
    episodes.step(env_ids, actions())
    shown = episodes.observations(env_ids)
    fill = episodes.reconstructor.fill
    for env_id in env_ids:
        for place in range(PATCHES):
            row, column = divmod(place, 4)
            here = (env_id, slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            if episodes.hidden[env_id, place]:
                assert (shown[here] == fill[:, None, None]).all()
            else:
                assert np.array_equal(shown[here], originals[here])
    assert shown.dtype == np.uint8


def test_observations_are_copies(make):
    episodes = make(horizon=3)
    env_ids = everyone(episodes)
    episodes.begin(env_ids)
    first = episodes.observations(env_ids)
    expected = first.copy()
    first[:] = 0
    assert np.array_equal(episodes.observations(env_ids), expected)


def test_a_chosen_share_that_is_set_counts_for_episodes_that_begin_after(make):
    episodes = make(horizon=2, agent_share=1.0)
    env_ids, everything = everyone(episodes), np.ones((3, PATCHES), bool)
    episodes.begin(env_ids)
    episodes.step(env_ids, everything)
    episodes.agent_share = 0.5
    episodes.begin(env_ids[:1])
    assert episodes.choosable(env_ids).tolist() == [2, 4, 4]
    episodes.step(env_ids, everything)
    assert episodes.hidden.sum(1).tolist() == [4, 8, 8]
    assert episodes.chosen.sum(1).tolist() == [2, 8, 8]
    episodes.step(env_ids[:1], everything[:1])
    assert (episodes.hidden[0].sum(), episodes.chosen[0].sum()) == (8, 4)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_chosen_share_out_of_range_is_refused_whenever_it_is_set(make, share):
    with pytest.raises(SettingsError, match="agent_share"):
        make(agent_share=share)
    episodes = make()
    with pytest.raises(SettingsError, match="agent_share"):
        episodes.agent_share = share


# Training by the way


def test_a_frozen_unet_is_not_changed_by_steps(make, frozen):
    before = {name: tensor.clone() for name, tensor in frozen.state().items()}
    episodes = make()
    episodes.begin(everyone(episodes))
    play(episodes, 3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.state().items())


@pytest.mark.slow
def test_in_co_training_the_pass_that_scores_the_masks_also_trains(make, trainable, images):
    episodes = make(reconstructor=trainable, co_train=True, horizon=2)
    twin = Reconstructor.create(trainable.grid, trainable.standardisation, width=4, learning_rate=0.01)
    env_ids = everyone(episodes)
    for number in range(3):
        episodes.begin(env_ids)
        before = {name: tensor.clone() for name, tensor in trainable.state().items()}
        episodes.step(env_ids, actions(seed=number))
        assert all(torch.equal(tensor, before[name]) for name, tensor in trainable.state().items())
        episodes.step(env_ids, actions(seed=10 + number))
        assert not any(torch.equal(tensor, before[name]) for name, tensor in trainable.state().items())
        expected = twin.learn(images.images(episodes.image), episodes.hidden)
        assert np.array_equal(episodes.patch_loss, expected)
    assert all(torch.equal(tensor, twin.state()[name]) for name, tensor in trainable.state().items())


# State


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "horizon", "share"), [(0.5, 1, 0.5), ("0.3:0.7", 3, 1.0)])
@pytest.mark.parametrize("played", [0, 1, 4, 7, 8, 9, 20])
def test_restored_episodes_replay_the_same_images_and_noise(make, ratio, horizon, share, played):
    one = make(ratio, horizon=horizon, agent_share=share)
    one.begin(everyone(one))
    play(one, played * horizon, seed=1)
    state = json.loads(json.dumps(one.state()))
    one.begin(everyone(one))  # ends the current episodes; what follows must not matter
    other = make(ratio, horizon=horizon, agent_share=share, seed=77)
    for episodes in (one, other):
        episodes.restore(state)
        episodes.begin(everyone(episodes))
    steps = 12 * horizon
    assert_same_story(play(one, steps, seed=2), play(other, steps, seed=2))


@pytest.mark.parametrize("middle", [0, 1, 2, 3])
def test_the_current_episodes_start_once_more_even_from_their_middle(make, middle):
    episodes = make(horizon=3, agent_share=0.5)
    env_ids = everyone(episodes)
    for number in range(5):
        episodes.begin(env_ids)
        episodes.step(env_ids, actions(seed=number))
    shown = episodes.image.copy()
    masks = masks_of_steps(episodes, range(1, middle))
    episodes.restore(episodes.state())
    episodes.begin(env_ids)
    assert np.array_equal(episodes.image, shown)
    episodes.step(env_ids, actions(seed=4))
    assert np.array_equal(masks_of_steps(episodes, range(1, middle)), masks)


@pytest.mark.slow
def test_the_state_of_episodes_that_have_not_begun_is_their_start(make):
    one, other = make(), make(seed=9)
    other.restore(one.state())
    for episodes in (one, other):
        episodes.begin(everyone(episodes))
    assert_same_story(play(one, 20), play(other, 20))


def test_the_state_of_restored_episodes_is_what_they_were_restored_from(make):
    episodes = make(agent_share=0.75)
    episodes.begin(everyone(episodes))
    play(episodes, 3)
    state = json.dumps(episodes.state())
    for again in (episodes, make(seed=5)):
        again.restore(json.loads(state))
        again.begin(everyone(again))
        assert json.dumps(again.state()) == state


def test_restored_episodes_start_once_more_with_the_share_they_had(make):
    one, other = make(agent_share=0.25), make(agent_share=1.0, seed=5)
    env_ids = everyone(one)
    one.begin(env_ids)
    one.agent_share = 1.0
    one.begin(env_ids[:1])
    other.restore(json.loads(json.dumps(one.state())))
    other.begin(env_ids)
    for expected in ([8, 2, 2], [8, 8, 8]):
        assert one.choosable(env_ids).tolist() == other.choosable(env_ids).tolist() == expected
        for episodes in (one, other):
            episodes.step(env_ids, np.ones((3, PATCHES), bool))
        assert np.array_equal(one.chosen, other.chosen)
        assert np.array_equal(one.hidden, other.hidden)
        for episodes in (one, other):
            episodes.begin(env_ids)


def test_an_image_that_was_asked_for_does_not_set_the_walk_back(make):
    episodes = make(count=1)
    env_ids = everyone(episodes)
    walk = []
    for _ in range(4):
        episodes.begin(env_ids)
        walk.append(int(episodes.image[0]))
    episodes.begin(env_ids, [9, 9, 9])
    episodes.restore(episodes.state())
    for _ in range(4):
        episodes.begin(env_ids)
        walk.append(int(episodes.image[0]))
    assert sorted(walk) == list(range(8))


# Settings


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": 0}, "0 environments were asked for"),
        ({"horizon": 0}, "horizon 0 must be a whole number of 1 or more"),
        ({"horizon": 1.5}, r"horizon 1\.5 must be a whole number"),
        ({"horizon": 9}, "at most the 8 hidden patches"),
        ({"horizon": 6, "ratio": "0.3:0.7"}, "at most the 5 hidden patches"),
        ({"ratio": 0.01}, "hides 0 of them"),
        ({"ratio": 0.99}, "hides 16 of them"),
        ({"indices": []}, "there is no image in this split"),
        ({"indices": [0, 10]}, "10"),
        ({"indices": [-1]}, "-1"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(make, change, says):
    with pytest.raises(SettingsError, match=says) as refusal:
        make(**change)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("grid", "channels"), [(PatchGrid(64, 8), 3), (PatchGrid(16, 8), 3), (PatchGrid(32, 8), 1)])
def test_images_that_do_not_fit_the_unet_are_refused(make, grid, channels):
    other = Reconstructor.create(grid, Standardisation((120.0,) * channels, (40.0,) * channels), width=2)
    with pytest.raises(SettingsError, match="do not fit a U-Net"):
        make(reconstructor=other)


def test_the_longest_horizon_hides_a_patch_a_step(make):
    episodes = make(horizon=8)
    episodes.begin(everyone(episodes))
    counts = [mask.sum(1).tolist() for mask in masks_of_steps(episodes, range(8))]
    assert counts == [[step] * 3 for step in range(1, 9)]
