"""A leaky ReLU for critics with a gradient penalty: the same values, without a pass of zeros."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call, grad, vmap
from torch.profiler import ProfilerActivity, profile

from amatune.detectors.waic import gradient_penalty
from amatune.nets.adversarial import PenalisedLeakyReLU


def critic(activation):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 6, 4, 2, 1), activation(0.2), nn.Conv2d(6, 8, 4, 2, 1), activation(0.2)),
            *(nn.Flatten(), nn.Linear(32, 1)),
        )


def images():
    return torch.rand((5, 1, 8, 8), generator=torch.Generator().manual_seed(1)) * 2 - 1


def gradients(activation, loss):
    network = critic(activation)
    loss(network).backward()
    return [p.grad for p in network.parameters()]


@pytest.mark.parametrize(
    "loss",
    [
        lambda network: network(images()).square().mean(),
        lambda network: gradient_penalty(network, images()),
        lambda network: network(images()).mean() + 10 * gradient_penalty(network, images()),
    ],
)
def test_values_and_gradients_are_those_of_torch(loss):
    assert torch.equal(loss(critic(nn.LeakyReLU)), loss(critic(PenalisedLeakyReLU)))
    for ours, expected in zip(
        gradients(PenalisedLeakyReLU, loss), gradients(nn.LeakyReLU, loss), strict=True
    ):
        assert (ours is None) == (expected is None) or not expected.any()
        assert ours is None or torch.equal(ours, expected)


def test_the_gradient_against_differences():
    x = torch.tensor([-2.0, -0.5, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(PenalisedLeakyReLU(0.2), x)


def test_no_zeros_go_through_the_first_pass():
    """A penalty needs of each convolution the gradient of its input, once, and the derivative of
    that."""
    counts = {}
    for activation in (nn.LeakyReLU, PenalisedLeakyReLU):
        network = critic(activation)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            gradient_penalty(network, images()).backward()
        counts[activation] = {event.key: event.count for event in seen.key_averages()}
    passes = [counts[one]["aten::convolution_backward"] for one in counts]
    assert passes == [4, 2]


def test_it_may_be_batched_over_networks():
    network = critic(PenalisedLeakyReLU)
    stacked = {name: torch.stack([p, 2 * p]) for name, p in network.named_parameters()}

    def loss(weights, own):
        return functional_call(network, weights, (own,)).square().mean()

    found = vmap(grad(loss), in_dims=(0, None))(stacked, images())
    alone = grad(loss)(dict(network.named_parameters()), images())
    for name, expected in alone.items():
        torch.testing.assert_close(found[name][0], expected)
