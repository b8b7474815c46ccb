"""Running mean and std: of the first batches exactly, then of the latest, and of use with one number a batch."""

import pytest
import torch

from agents.moments import SLOWEST, RunningMoments


def test_the_first_batch_is_standardised_by_itself() -> None:
    numbers = torch.tensor([1.0, 2.0, 6.0])
    standardised = RunningMoments().standardise(numbers)
    assert torch.allclose(standardised, (numbers - 3) / numbers.std(correction=0), atol=1e-4)


def test_single_numbers_are_told_apart_from_those_before() -> None:
    moments = RunningMoments()
    assert moments.standardise(torch.tensor([5.0])).item() == 0  # there is nothing to compare it with
    assert moments.standardise(torch.tensor([7.0])).item() > 0.5
    assert moments.standardise(torch.tensor([1.0])).item() < -0.5


def test_in_the_long_run_mean_and_std_are_those_of_the_numbers_and_follow_them() -> None:
    moments, generator = RunningMoments(), torch.Generator().manual_seed(0)
    for mean, std in ((3.0, 2.0), (-1.0, 0.5)):
        for _ in range(round(8 / SLOWEST)):
            moments.standardise(mean + std * torch.randn(16, generator=generator))
        assert moments.mean.item() == pytest.approx(mean, abs=0.15 * std)
        assert moments.variance.sqrt().item() == pytest.approx(std, rel=0.1)


def test_only_what_counts_is_counted() -> None:
    moments, other = RunningMoments(), RunningMoments()
    standardised = moments.standardise(torch.tensor([1.0, 100.0, 5.0]), torch.tensor([True, False, True]))
    assert torch.equal(standardised[[0, 2]], other.standardise(torch.tensor([1.0, 5.0])))
    before = moments.state_dict()["mean"].clone()
    moments.standardise(torch.ones(3), torch.zeros(3, dtype=torch.bool))
    assert moments.mean == before
    assert moments.count == 1


def test_what_is_no_number_leaves_the_means_as_they_were() -> None:
    moments = RunningMoments()
    moments.standardise(torch.tensor([1.0, 3.0]))
    for wrong in (float("nan"), float("inf")):
        assert not torch.isfinite(moments.standardise(torch.tensor([1.0, wrong]))).all()
    assert (moments.mean.item(), moments.count.item()) == (2.0, 1.0)


def test_the_state_is_all_there_is() -> None:
    one, other = RunningMoments(), RunningMoments()
    one.standardise(torch.tensor([1.0, 4.0]))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.standardise(torch.ones(1)), other.standardise(torch.ones(1)))
