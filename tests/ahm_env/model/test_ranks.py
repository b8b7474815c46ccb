"""Batches that two ranks share give the numbers and gradients that one gives alone."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed import DistBackendError

from ahm_env import SettingsError, TrainingError
from ahm_env.model import ranks
from ahm_env.model.ranks import BatchNorm1d, BatchNorm2d, gather, share, sum_gradients
from tests.launched import torchrun

# of two processes, each writes what it found; the batch of 5 cannot be cut evenly, and is computed whole by both
CODE = """
import sys

import torch

from ahm_env import TrainingError
from ahm_env.model import ranks
from tests.ahm_env.model.test_ranks import batches, learn

with ranks.joined(), ranks.sharing():
    shares = [len(ranks.share(batch)) for batch in batches()]
    found = [learn(batch) for batch in batches()]
    largest = ranks.largest(ranks.number() + 5), ranks.largest(-ranks.number() - 5)
    ranks.check_same([torch.ones(3)])
    try:
        ranks.check_same([torch.ones(3) + ranks.number()])
        same = True
    except TrainingError:
        same = False
torch.save((shares, found, largest, same), f"{sys.argv[1]}/{ranks.number()}.pt")
"""


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64) for count in (6, 5)]


def learn(batch: torch.Tensor) -> list[torch.Tensor]:
    """Return output, gradients and statistics of a network with both norms, under a loss that couples all images."""
    torch.manual_seed(1)
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)),
        BatchNorm1d(5, affine=False, momentum=None),
    ).double()
    for _ in range(2):
        found = gather(network(share(batch)), len(batch))
        loss = (found[0] * found[1:].exp()).sum() + found.sum(0).square().sum()
        network.zero_grad()
        loss.backward()
        sum_gradients(network.parameters())
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    return [found.detach(), *gradients, *network.buffers()]


@pytest.mark.slow
def test_two_ranks_compute_what_one_does(tmp_path: Path) -> None:
    done = torchrun(tmp_path, CODE, str(tmp_path))
    assert done.returncode == 0, done.stderr
    alone = [learn(batch) for batch in batches()]
    for number in range(2):
        shares, found, largest, same = torch.load(tmp_path / f"{number}.pt")
        assert shares == [3, 5]
        assert largest == (6, -5)
        assert not same
        for own, expected in zip(found, alone, strict=True):
            for one, other in zip(own, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_alone_everything_is_as_it_was() -> None:
    batch, weight = torch.ones(4, 2), nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    with ranks.joined(), ranks.sharing():
        assert share(batch) is batch
        assert gather(batch, 4) is batch
        sum_gradients([weight])
        ranks.leave_note("nobody reads it")
        ranks.check_same([torch.ones(1)])
        assert ranks.largest(-3) == -3
    assert (weight.grad == 1).all()
    ranks.check_divisible("--batch-size", 7)


def test_norms_are_pytorchs_own_in_one_process() -> None:
    batch = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    own, other = BatchNorm2d(3), nn.BatchNorm2d(3)
    assert torch.equal(own(batch), other(batch))
    assert own.state_dict().keys() == other.state_dict().keys()


@pytest.fixture
def third(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be the last of three ranks."""
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "3", "RANK": "2"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("name", "found", "text"),
    [
        ("auto", "mps", r"--device auto: the 3 ranks cannot share batches on mps; add --device cpu"),
        ("cuda:0", "cuda:0", r"--device cuda:0 would put all 3 ranks on one GPU; use --device cuda"),
        ("auto", "cuda", None),
        ("cuda", "cuda:0", None),
        ("cpu", "cpu", None),
    ],
)
def test_devices_that_ranks_cannot_share_are_refused(
    name: str, found: str, text: str | None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(ranks, "find_device", lambda _: torch.device(found))
    ranks.check_device(name)  # alone
    request.getfixturevalue("third")
    with nullcontext() if text is None else pytest.raises(SettingsError, match=text):
        ranks.check_device(name)


def test_why_another_rank_has_ended_is_said(third: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_store", object())
    reason = r"rank 2: another rank has ended \(Duplicate GPU detected\); go on"
    with pytest.raises(TrainingError, match=reason), ranks.sharing():
        raise DistBackendError("Duplicate GPU detected\nand more")


def test_a_batch_that_cannot_be_shared_is_refused(third: None) -> None:
    ranks.check_divisible("--batch-size", 12)
    with pytest.raises(SettingsError, match=r"--batch-size 8 .* 3 ranks"):
        ranks.check_divisible("--batch-size", 8)
    assert (ranks.number(), ranks.count()) == (2, 3)
    assert len(share(np.ones(6))) == 6  # not connected
