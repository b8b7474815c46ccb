import multiprocessing
import pickle

import pytest
import torch
from torch import nn

from ahm_env.model.optimiser import SharedAdam


def layers(seed=0):
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return network.to(memory_format=torch.channels_last)


def set_gradients(network, step, skip=()):
    generator = torch.Generator().manual_seed(100 + step)
    for number, weight in enumerate(network.parameters()):
        gradient = torch.randn(weight.shape, generator=generator) * 10 ** (number - 2)
        weight.grad = None if number in skip else gradient.to(memory_format=torch.preserve_format)


def test_steps_are_those_of_adam():
    ours, theirs = layers(), layers()
    shared = SharedAdam(ours.parameters(), 0.01)
    plain = torch.optim.Adam(theirs.parameters(), 0.01, foreach=False, fused=False)
    for step in range(10):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        shared.step()
        plain.step()
        for weight, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)


def test_weights_are_foreseen_as_if_the_next_steps_were_like_the_last():
    """With one gradient all the time every step is the learning rate; with several, a step repeats Adam's last one."""
    weight = nn.Parameter(torch.tensor([1.0, -1.0]))
    optimiser = SharedAdam([weight], 0.1)
    assert optimiser.foresee(2.5)[0].tolist() == [1.0, -1.0]  # no step yet
    for _ in range(3):
        weight.grad = torch.tensor([4.0, -0.01])
        optimiser.step()
    torch.testing.assert_close(optimiser.foresee(2.5)[0], torch.tensor([1 - 0.55, -1 + 0.55]))
    for gradient in (-1.0, 3.0):
        before = weight.detach().clone()
        weight.grad = torch.tensor([gradient, gradient])
        optimiser.step()
        torch.testing.assert_close(optimiser.foresee(2)[0], weight.detach() + 2 * (weight.detach() - before))
    assert optimiser.foresee(0)[0] is weight


def test_the_first_steps_of_one_weight_by_hand():
    # Kingma, Ba, ICLR 2015, algorithm 1: step size 0.1, decays 0.9 and 0.999, epsilon 1e-8
    weight = nn.Parameter(torch.tensor([1.0]))
    optimiser = SharedAdam([weight], 0.1)
    first, second, expected = 0.0, 0.0, 1.0
    for number, gradient in enumerate([2.0, -1.0, 0.5], start=1):
        weight.grad = torch.tensor([gradient])
        optimiser.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        expected -= 0.1 * (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)) ** 0.5 + 1e-8)
        assert weight.item() == pytest.approx(expected, rel=1e-5)


def test_weight_decay_by_hand():
    # Loshchilov, Hutter, ICLR 2019: the weight shrinks by step size x decay, whatever its gradient
    weight = nn.Parameter(torch.tensor([2.0]))
    optimiser = SharedAdam([weight], 0.1, weight_decay=0.5)
    weight.grad = torch.tensor([4.0])
    optimiser.step()
    assert weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - 0.1, rel=1e-5)  # Adam's first step is the step size
    still = nn.Parameter(torch.tensor([2.0]))
    optimiser = SharedAdam([still], 0.1, weight_decay=0.5)
    still.grad = torch.zeros(1)
    optimiser.step()
    assert still.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5), rel=1e-6)


def test_steps_with_weight_decay_are_those_of_adamw():
    ours, theirs = layers(), layers()
    shared = SharedAdam(ours.parameters(), 0.01, weight_decay=0.1)
    plain = torch.optim.AdamW(theirs.parameters(), 0.01, weight_decay=0.1, foreach=False, fused=False)
    for step in range(5):
        for network, optimiser in ((ours, shared), (theirs, plain)):
            set_gradients(network, step)
            optimiser.step()
    for weight, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)


def test_the_step_size_may_be_changed_on_the_way():
    ours, theirs = layers(), layers()
    shared, plain = SharedAdam(ours.parameters(), 0.01), torch.optim.Adam(theirs.parameters(), 0.01)
    for step, learning_rate in enumerate([0.01, 0.1, 0.0, 0.02]):
        shared.set_learning_rate(learning_rate)
        plain.param_groups[0]["lr"] = learning_rate
        for network, optimiser in ((ours, shared), (theirs, plain)):
            set_gradients(network, step)
            optimiser.step()
    for weight, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)


def test_a_weight_without_a_gradient_stays_and_keeps_its_own_step():
    network = layers()
    optimiser = SharedAdam(network.parameters(), 0.01)
    before = [weight.clone() for weight in network.parameters()]
    set_gradients(network, 0, skip=(1,))
    optimiser.step()
    moved = [not torch.equal(weight, old) for weight, old in zip(network.parameters(), before, strict=True)]
    assert moved == [True, False, True, True, True]
    assert [optimiser.tensors()[f"{number}.step"].item() for number in range(5)] == [1, 0, 1, 1, 1]


def test_the_whole_state_is_there_before_the_first_step():
    network = layers()
    state = SharedAdam(network.parameters(), 0.01).tensors()
    expected = {}
    for number, weight in enumerate(network.parameters()):
        expected |= {f"{number}.step": (), f"{number}.exp_avg": weight.shape, f"{number}.exp_avg_sq": weight.shape}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        name: tuple(shape) for name, shape in expected.items()
    }
    assert not any(tensor.any() for tensor in state.values())


def test_restored_moments_continue_bit_exactly():
    ours = layers()
    optimiser = SharedAdam(ours.parameters(), 0.01)
    for step in range(3):
        set_gradients(ours, step)
        optimiser.step()
    moments = {name: tensor.clone() for name, tensor in optimiser.tensors().items()}
    weights = [weight.detach().clone() for weight in ours.parameters()]
    other = layers(seed=9)
    restored = SharedAdam(other.parameters(), 0.01)
    set_gradients(other, 50)
    restored.step()
    with torch.no_grad():
        for weight, saved in zip(other.parameters(), weights, strict=True):
            weight.copy_(saved)
    restored.restore(moments)
    for step in range(3, 6):
        for network, adam in ((ours, optimiser), (other, restored)):
            set_gradients(network, step)
            adam.step()
    for weight, expected in zip(other.parameters(), ours.parameters(), strict=True):
        assert torch.equal(weight, expected)
    assert all(torch.equal(tensor, optimiser.tensors()[name]) for name, tensor in restored.tensors().items())
    assert not torch.equal(moments["0.exp_avg"], optimiser.tensors()["0.exp_avg"])  # restore copied


def test_share_memory_moves_every_moment():
    network = layers()
    optimiser = SharedAdam(network.parameters(), 0.01)
    assert not any(tensor.is_shared() for tensor in optimiser.tensors().values())
    optimiser.share_memory()
    assert all(tensor.is_shared() for tensor in optimiser.tensors().values())
    set_gradients(network, 0)
    optimiser.step()
    assert all(tensor.is_shared() for tensor in optimiser.tensors().values())  # stepped in place


def step_once(weight, optimiser):
    weight.grad = torch.full_like(weight, 2.0)
    optimiser.step()


@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs processes that fork")
def test_two_processes_step_with_the_same_moments():
    alone = nn.Parameter(torch.zeros(4))
    twice = SharedAdam([alone], 0.1)
    step_once(alone, twice)
    step_once(alone, twice)
    weight = nn.Parameter(torch.zeros(4))
    optimiser = SharedAdam([weight], 0.1)
    weight.share_memory_()
    optimiser.share_memory()
    other = multiprocessing.get_context("fork").Process(target=step_once, args=(weight, optimiser))
    other.start()
    other.join()
    assert other.exitcode == 0
    assert optimiser.tensors()["0.step"] == 1
    step_once(weight, optimiser)
    assert torch.equal(weight, alone)


def test_a_pickled_optimiser_goes_on_where_it_was():
    network = layers()
    optimiser = SharedAdam(network.parameters(), 0.01)
    set_gradients(network, 0)
    optimiser.step()
    copied, copied_optimiser = pickle.loads(pickle.dumps((network, optimiser)))
    for one, adam in ((network, optimiser), (copied, copied_optimiser)):
        set_gradients(one, 1)
        adam.step()
    for weight, expected in zip(copied.parameters(), network.parameters(), strict=True):
        assert torch.equal(weight, expected)
    assert copied_optimiser.tensors().keys() == optimiser.tensors().keys()
