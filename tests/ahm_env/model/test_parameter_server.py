"""The parameter server without a cluster: its steps are those of one process, and what is too stale is refused."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ahm_env import PatchGrid, Reconstructor, Standardisation, TrainingError
from ahm_env.model.optimiser import SharedAdam
from ahm_env.model.parameter_server import Link, ParameterServer


class DeadError(Exception):
    """What Ray raises of an actor that is gone."""


class Actor:
    """A server as Ray hands it out, but in this process."""

    def __init__(self, server: ParameterServer) -> None:
        self.server, self.dead = server, False

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *args: (self, method, args))


def get(asked: tuple[Actor, str, tuple[Any, ...]]) -> Any:
    actor, method, args = asked
    if actor.dead:
        raise DeadError("The actor died unexpectedly.\nIts node ran out of memory.")
    return getattr(actor.server, method)(*args)


RAY = SimpleNamespace(get=get, exceptions=SimpleNamespace(RayError=DeadError))


def one_weight(rate: float = 0.1) -> tuple[nn.Linear, SharedAdam]:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    return network, SharedAdam(network.parameters(), rate)


def worker(actor: Actor) -> tuple[Link, nn.Linear, SharedAdam]:
    network, optimiser = one_weight()
    return Link(RAY, actor, [(network, optimiser)]), network, optimiser


def step(network: nn.Linear, optimiser: SharedAdam, gradient: float) -> None:
    network.weight.grad = torch.full_like(network.weight, gradient)
    optimiser.step()


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_steps_of_the_server_are_those_of_one_process_bit_for_bit(norm: str) -> None:
    """Also where learning rates change, and in what memory the optimiser keeps."""

    def make() -> Reconstructor:
        return Reconstructor.create(PatchGrid(16, 4), Standardisation((100.0,), (50.0,)), 2, norm, precision="fp32")

    alone, served, theirs = make(), make(), make()
    actor = Actor(ParameterServer([(theirs.unet, theirs.optimiser)], 7, 0))
    link = Link(RAY, actor, [(served.unet, served.optimiser)])
    rng = np.random.default_rng(0)
    for number in range(4):
        images, masks = rng.integers(0, 256, (3, 1, 16, 16), np.uint8), rng.random((3, 16)) < 0.5
        for one in (alone, served):
            one.optimiser.set_learning_rate(0.01 / (number + 1))
        assert (alone.learn(images, masks) == served.learn(images, masks)).all()
        assert link.add(3) == 7 + 3 * (number + 1)
    assert served.updates == 0  # it took none of the steps
    link.fetch()
    state = alone.state()
    assert all(torch.equal(tensor, state[name]) for name, tensor in served.state().items())
    assert served.updates == 4
    link.close()
    for one in (alone, served):
        one.learn(images, masks)
    assert all(torch.equal(tensor, state[name]) for name, tensor in served.state().items())


def test_gradients_are_refused_once_they_are_too_stale() -> None:
    """Of two workers one takes steps while the other computes; with one gradient, each of Adam's is the learning rate.

    A worker is given the weights foreseen by the mean staleness, `fetch` has them as they are.
    """
    theirs = one_weight()
    actor = Actor(ParameterServer([theirs], 0, 2))
    (fast, *quick), (slow, *late) = worker(actor), worker(actor)
    step(*quick, 5.0)
    assert fast.add(10) == 10
    assert quick[0].weight.item() == pytest.approx(-0.1)
    assert late[0].weight.item() == 0
    assert fast.measure() == {"staleness": 0, "refused": 0}
    step(*quick, 5.0)
    fast.add(10)
    step(*late, 5.0)
    assert slow.add(10) == 30  # two steps behind is taken
    assert slow.measure() == {"staleness": 2 / 3, "refused": 0}  # of 0, 0 and 2
    assert theirs[0].weight.item() == pytest.approx(-0.3)
    assert late[0].weight.item() == pytest.approx(-0.3 - 0.1 * 2 / 3)
    for _ in range(3):
        step(*quick, 5.0)
        fast.add(10)
    step(*late, -1000.0)
    assert slow.add(10) == 60  # three are not: its images do not count
    assert slow.measure() == {"staleness": (1 + 0 + 0 + 3) / 4, "refused": 1 / 4}
    assert theirs[0].weight.item() == pytest.approx(-0.6)
    assert late[0].weight.item() == pytest.approx(-0.6 - 0.1 * (2 + 1 + 0 + 0 + 3) / 7)
    slow.fetch()
    assert late[0].weight.item() == theirs[0].weight.item()
    step(*late, 5.0)
    assert slow.add(10) == 70  # it goes on with the new weights
    step(*quick, 5.0)
    fast.add(10)
    slow.fetch()  # as it does before a row and after it
    slow.fetch()
    assert slow.measure() == {"staleness": 1 / 2, "refused": 0}  # its own 0 and the other's 1, each counted once
    assert slow.measure() == {}


def test_only_what_has_learned_is_moved() -> None:
    """Of an agent and a U-Net, one may be frozen for a while; its moments then stay as they are."""
    theirs = [one_weight(), one_weight()]
    actor = Actor(ParameterServer(theirs, 0, 0))
    own = [one_weight(), one_weight()]
    link = Link(RAY, actor, own)
    for learning in ((0, 1), (1,), ()):
        for number in learning:
            step(*own[number], 1.0)
        link.add(1)
    assert [optimiser.tensors()["0.step"].item() for _, optimiser in theirs] == [1, 2]
    assert [network.weight.item() for network, _ in own] == pytest.approx([-0.1, -0.2])


def test_only_what_learns_is_foreseen() -> None:
    actor = Actor(ParameterServer([one_weight(), one_weight()], 0, 2))
    (own, other) = ([one_weight(), one_weight()] for _ in range(2))
    link, late = Link(RAY, actor, own), Link(RAY, actor, other)
    for one, networks in ((link, own), (late, other)):
        for network in networks:
            step(*network, 1.0)
        one.add(1)
    assert [network.weight.item() for network, _ in other] == pytest.approx([-0.25, -0.25])  # half a step ahead
    step(*own[0], 1.0)
    link.add(1)  # one step behind, too: two of three gradients
    assert [network.weight.item() for network, _ in own] == pytest.approx([-0.3 - 0.1 * 2 / 3, -0.2])


def test_running_means_are_those_of_the_last_step() -> None:
    """A worker that takes another's place begins with them, and what is saved has them."""
    network = nn.BatchNorm1d(1)
    theirs = nn.BatchNorm1d(1)
    actor = Actor(ParameterServer([(theirs, SharedAdam(theirs.parameters(), 0.1))], 0, 0))
    optimiser = SharedAdam(network.parameters(), 0.1)
    link = Link(RAY, actor, [(network, optimiser)])
    network(torch.tensor([[1.0], [3.0]])).sum().backward()
    optimiser.step()
    link.add(2)
    other = nn.BatchNorm1d(1)
    Link(RAY, actor, [(other, SharedAdam(other.parameters(), 0.1))])
    assert other.running_mean.item() == pytest.approx(0.2)  # a tenth of the way to 2
    assert other.num_batches_tracked.item() == 1


def test_two_steps_for_one_batch_are_an_error() -> None:
    _, network, optimiser = worker(Actor(ParameterServer([one_weight()], 0, 0)))
    step(network, optimiser, 1.0)
    with pytest.raises(TrainingError, match="several steps a batch"):
        step(network, optimiser, 1.0)


def test_a_server_that_has_died_is_one_line_that_tells_how_to_go_on() -> None:
    actor = Actor(ParameterServer([one_weight()], 0, 0))
    link, *_ = worker(actor)
    actor.dead = True
    with pytest.raises(TrainingError, match=r"server.* has died \(The actor died unexpectedly\..*--resume") as found:
        link.add(1)
    assert "\n" not in str(found.value)
