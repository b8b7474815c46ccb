"""Hardness: arithmetic by hand, every image alike, and nothing of the run touched."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from agents import A3C, Problem
from agents.baselines import RandomAgent, UntrainedAgent
from agents.pretraining import hardness as measuring
from agents.pretraining.hardness import Measurement, measure
from ahm_env import ImageSet, MaskRatio, Reconstructor

HALF = MaskRatio.parse(0.5)
PROBLEM = Problem(3, 32, 4, (8, 8))


class _Scripted(RandomAgent):
    """Hides the patches with the largest scores; a function says what those are."""

    def __init__(self, scores: Any, problem: Problem = PROBLEM) -> None:
        super().__init__(problem)
        self.scores = scores
        self.seen: list[Any] = []

    def predict(
        self, observations: Any, deterministic: bool = False, infos: Any = None, generator: Any = None
    ) -> npt.NDArray[np.int8]:
        self.seen.append((observations.copy(), {name: np.copy(rows) for name, rows in infos.items()}))
        hidden = infos["mask"].reshape(len(observations), -1)
        scores = np.where(hidden, -np.inf, self.scores(observations))
        rank = (-scores).argsort(1, kind="stable").argsort(1)
        return (rank < infos["choosable"][:, None]).astype(np.int8)


def first_patches(observations: Any) -> Any:
    return np.broadcast_to(-np.arange(16.0), (len(observations), 16))


def test_numbers_of_a_case_small_enough_for_paper() -> None:
    """Two draws of two images, four patches."""
    masks = np.array([[[1, 1, 0, 0], [0, 0, 1, 1]], [[1, 0, 1, 0], [0, 0, 1, 1]]], bool)
    found = Measurement(masks, np.array([[3.0, 5.0], [4.0, 8.0]]), np.array([[2.0, 4.0], [1.0, 3.0]]))
    assert found.hardness == pytest.approx(20 / 10)
    assert found.frequencies.tolist() == [0.5, 0.25, 0.75, 0.5]
    assert found.patch_use == pytest.approx((2 * 0.25 * 2 + 0.125 * 3 + 0.375 * np.log2(8 / 3)) / 2)  # in bits, of 2
    assert found.between_images == pytest.approx((4 / 4 + 2 / 4) / 2)
    assert found.within_images == pytest.approx((2 / 4 + 0 / 4) / 2)


def test_differences_are_those_of_all_pairs() -> None:
    masks = np.random.default_rng(0).random((3, 5, 12)) < 0.4
    found = Measurement(masks, np.ones((3, 5)), np.ones((3, 5)))
    between = [np.mean(draw[i] != draw[j]) for draw in masks for i in range(5) for j in range(i)]
    within = [np.mean(masks[a, i] != masks[b, i]) for i in range(5) for a in range(3) for b in range(a)]
    assert found.between_images == pytest.approx(np.mean(between))
    assert found.within_images == pytest.approx(np.mean(within))


def test_one_draw_says_nothing_of_differences_within_images() -> None:
    found = Measurement(np.ones((1, 3, 4), bool), np.ones((1, 3)), np.ones((1, 3)))
    assert np.isnan(found.within_images)
    assert found.between_images == 0


@pytest.mark.slow
def test_an_agent_that_knows_what_is_hard_has_hardness_above_1_and_its_opposite_below(
    phantoms: ImageSet, reconstructor: Reconstructor
) -> None:
    def losses(images: Any) -> Any:
        return reconstructor.patch_losses(images, np.ones((len(images), 16), bool))

    indices = np.arange(10)
    hard = measure(_Scripted(losses), reconstructor, phantoms, indices, HALF).sampled
    easy = measure(_Scripted(lambda images: -losses(images)), reconstructor, phantoms, indices, HALF).sampled
    assert hard.hardness > 1.2
    assert easy.hardness < 0.8
    assert hard.between_images > 0.1
    assert hard.within_images == 0  # it does not draw


@pytest.mark.slow
@pytest.mark.parametrize("kind", [RandomAgent, UntrainedAgent])
def test_masks_that_are_random_have_hardness_1(kind: Any, phantoms: ImageSet, reconstructor: Reconstructor) -> None:
    found = measure(kind(PROBLEM), reconstructor, phantoms, np.arange(40), HALF, draws=10).sampled
    spread = (found.losses / found.random_losses.mean(0)).std() / np.sqrt(found.losses.size)
    assert found.hardness == pytest.approx(1, abs=6 * spread)
    assert found.hardness == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("count", [1, 3, 7, 9])
def test_every_image_is_measured_once_a_draw_whatever_the_batch(
    phantoms: ImageSet, reconstructor: Reconstructor, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(measuring, "BATCH", 3)
    indices = np.random.default_rng(1).permutation(40)[:count]
    found = measure(_Scripted(first_patches), reconstructor, phantoms, indices, HALF, draws=2).sampled
    mask = np.zeros((count, 16), bool)
    mask[:, :8] = True
    expected = reconstructor.patch_losses(phantoms.images(indices), mask)[:, :8].mean(1)
    assert found.masks.shape == (2, count, 16)
    assert found.masks.tolist() == [mask.tolist()] * 2
    for draw in range(2):
        np.testing.assert_allclose(found.losses[draw], expected, rtol=1e-3)
    assert found.random_losses.shape == (16, count)


def test_random_masks_are_as_large_as_the_agent_s(
    phantoms: ImageSet, reconstructor: Reconstructor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a loss that is the number of hidden patches, both sides of the ratio are that number."""
    monkeypatch.setattr(
        reconstructor, "patch_losses", lambda images, masks: np.ones(masks.shape, np.float32) * masks.sum(1)[:, None]
    )
    agent = RandomAgent(Problem(3, 32, 4, (4, 12)))
    found = measure(agent, reconstructor, phantoms, np.arange(20), MaskRatio.parse("0.25:0.75"), draws=3).sampled
    sizes = found.masks.sum(2)
    assert len(np.unique(sizes)) > 4
    assert found.losses.tolist() == sizes.tolist()
    assert found.random_losses.tolist() == [sizes[draw % 3].tolist() for draw in range(16)]


@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_the_agent_chooses_the_whole_quota_and_sees_what_is_hidden(
    phantoms: ImageSet, reconstructor: Reconstructor, horizon: int
) -> None:
    agent = _Scripted(first_patches)
    found = measure(agent, reconstructor, phantoms, np.arange(4), HALF, horizon=horizon, draws=1).sampled
    assert found.masks[0].sum(1).tolist() == [8] * 4
    assert found.masks[0, :, :8].all()
    assert np.isfinite(found.hardness)
    assert len(agent.seen) == 2 * horizon  # sampled, and its likeliest
    images = phantoms.images(np.arange(4))
    for step, (observations, infos) in enumerate(agent.seen[:horizon]):
        assert infos["mask"].reshape(4, -1).sum(1).tolist() == [8 * step // horizon] * 4
        assert (observations != images).any() == (step > 0)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_measuring_changes_nothing_that_the_run_depends_on(
    phantoms: ImageSet, reconstructor: Reconstructor, norm: str
) -> None:
    reference = Reconstructor.create(reconstructor.grid, reconstructor.standardisation, width=4, norm=norm)
    reference.learn(phantoms.images(np.arange(4)), np.eye(16, dtype=bool)[:4])  # statistics and moments that are not 0
    agent = A3C(Problem(3, 32, 4, (4, 12)))

    def state() -> list[torch.Tensor]:
        return [tensor.clone() for one in (reference, agent) for tensor in one.state().values()]

    before, torch_before, numpy_before = state(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    measure(agent, reference, phantoms, np.arange(10), MaskRatio.parse("0.25:0.75"), horizon=2)
    assert all(torch.equal(one, other) for one, other in zip(before, state(), strict=True))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.random.get_state()[1].tolist() == numpy_before


def test_training_goes_on_bit_for_bit_after_a_measurement(phantoms: ImageSet, reconstructor: Reconstructor) -> None:
    images, masks = phantoms.images(np.arange(4)), np.tile(np.arange(16) % 2 == 0, (4, 1))
    found = []
    for measured in (False, True):
        reference = Reconstructor.create(reconstructor.grid, reconstructor.standardisation, width=4)
        reference.learn(images, masks)
        if measured:
            measure(RandomAgent(PROBLEM), reference, phantoms, np.arange(5), HALF)
        reference.learn(images, masks)
        found.append(reference.state())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_the_same_seed_gives_the_same_measurement(phantoms: ImageSet, reconstructor: Reconstructor) -> None:
    agent = UntrainedAgent(PROBLEM)
    one, same, other = (
        measure(agent, reconstructor, phantoms, np.arange(10), HALF, seed=seed).sampled for seed in (1, 1, 2)
    )
    assert np.array_equal(one.masks, same.masks)
    assert one.losses.tolist() == same.losses.tolist()
    assert one.random_losses.tolist() == same.random_losses.tolist()
    assert not np.array_equal(one.masks, other.masks)
    assert one.random_losses.tolist() != other.random_losses.tolist()


def test_draws_differ_from_each_other(phantoms: ImageSet, reconstructor: Reconstructor) -> None:
    found = measure(UntrainedAgent(PROBLEM), reconstructor, phantoms, np.arange(5), HALF, draws=3).sampled
    assert not np.array_equal(found.masks[0], found.masks[1])
    assert found.random_losses[0].tolist() != found.random_losses[1].tolist()


def test_random_masks_are_the_same_for_all_agents_and_many(phantoms: ImageSet, reconstructor: Reconstructor) -> None:
    indices = np.arange(10)
    one = measure(_Scripted(first_patches), reconstructor, phantoms, indices, HALF, draws=1)
    other = measure(UntrainedAgent(PROBLEM, seed=5), reconstructor, phantoms, indices, HALF, draws=3)
    for kind in (one.likeliest, other.sampled, other.likeliest):
        assert kind.random_losses.tolist() == one.sampled.random_losses.tolist()
    assert len({tuple(losses) for losses in one.sampled.random_losses.tolist()}) == 16


def test_likeliest_masks_are_those_of_the_policy_map_and_measured_for_themselves(
    phantoms: ImageSet, reconstructor: Reconstructor
) -> None:
    agent = UntrainedAgent(PROBLEM)
    found = measure(agent, reconstructor, phantoms, np.arange(10), HALF, draws=4)
    likeliest = agent.maps(phantoms.images(np.arange(10)))[0].argsort(1).argsort(1) >= 8
    assert found.likeliest.masks.tolist() == [likeliest.tolist()] * 2  # two tell as much as four
    expected = (reconstructor.patch_losses(phantoms.images(np.arange(10)), likeliest) * likeliest).sum(1) / 8
    np.testing.assert_allclose(found.likeliest.losses[0], expected, rtol=1e-3)
    assert found.sampled.masks.shape == (4, 10, 16)
    assert found.as_dict("own") == {
        "own_sampled": found.sampled.hardness,
        "own_likeliest": found.likeliest.hardness,
    }
    assert found.sampled.hardness != found.likeliest.hardness


def test_likeliest_masks_of_an_agent_that_draws_all_the_same_are_as_many(
    phantoms: ImageSet, reconstructor: Reconstructor
) -> None:
    found = measure(RandomAgent(PROBLEM), reconstructor, phantoms, np.arange(5), HALF, draws=4)
    assert found.likeliest.masks.shape == (4, 5, 16)


def masks_of(policy: np.ndarray, images: int = 80) -> Measurement:
    """Masks of 16 patches, 8 hidden, drawn from odds `(images or 1, 16)` by the Gumbel trick, two an image."""
    generator = np.random.default_rng(0)
    noise = generator.gumbel(size=(2, images, 16)) + np.broadcast_to(policy, (images, 16))
    masks = noise.argsort(2).argsort(2) >= 8
    return Measurement(masks, np.ones((2, images)), np.ones((2, images)))


def test_collapse_is_seen_in_masks_and_nowhere_else():
    generator = np.random.default_rng(1)
    assert masks_of(np.zeros((1, 16))).collapse is None
    assert masks_of(generator.normal(size=(80, 16)) * 1.5).collapse is None
    assert masks_of(np.linspace(-1, 1, 16)[None]).collapse == "all images get the same mask"
    stuck = np.zeros((1, 16))
    stuck[0, 3] = 50
    assert "always" in str(masks_of(stuck).collapse)
    assert masks_of(stuck, images=4).collapse is None
