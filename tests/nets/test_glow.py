"""Glow: that it is invertible, its determinant against autograd's Jacobian, bits per dimension
against an independent calculation, and how it begins."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from amatune.errors import ConfigError
from amatune.nets.glow import (
    ActNorm,
    Glow,
    Mixing,
    _FromZero,
    possible_levels,
    require_even_sides,
)


def pictures(shape, count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 256, (count, *shape), generator=generator)
    return drawn.double() / 127.5 - 1


def network(shape=(1, 8, 8), *, steps=2, hidden=4, levels=3, coupling="affine", moved=True):
    """Small, in float64; `moved`, nothing in it is as it began."""
    torch.manual_seed(0)
    made = Glow(shape, steps, hidden, levels, coupling, torch.Generator().manual_seed(1))
    made = made.double().eval()
    if moved:
        made.initialise(pictures(shape))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return made


SHAPES = [(1, 28, 28), (3, 32, 32), (1, 32, 28), (3, 8, 8), (1, 10, 12)]


@pytest.mark.parametrize("coupling", ["affine", "additive"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_invertible(shape, coupling):
    net = network(shape, coupling=coupling)
    images = net.dequantised(pictures(shape, seed=1), noisy=True)
    with torch.no_grad():
        latents, _ = net.encode(images)
        again = net.decode(latents)
    assert sum(latent[0].numel() for latent in latents) == math.prod(shape)
    assert float((again - images).abs().max()) < 1e-10


@pytest.mark.parametrize("coupling", ["affine", "additive"])
@pytest.mark.parametrize("shape", [(1, 12, 8), (3, 8, 8), (1, 12, 12)])
def test_the_determinant_is_that_of_the_jacobian(shape, coupling):
    net = network(shape, coupling=coupling)
    image = net.dequantised(pictures(shape, 1, seed=1), noisy=True)

    def flat(x):
        return torch.cat([latent.flatten() for latent in net.encode(x)[0]])

    jacobian = torch.autograd.functional.jacobian(flat, image).reshape(math.prod(shape), -1)
    _, expected = torch.linalg.slogdet(jacobian)
    with torch.no_grad():
        found = net.encode(image)[1]
    assert found.tolist() == pytest.approx([float(expected)], abs=1e-10, rel=1e-10)


def test_bits_are_those_of_a_normal_distribution_moved_and_scaled():
    """A map that is linear, by zero couplings: of one level the density is a Gaussian, which scipy
    has too."""
    net = network((1, 8, 8), levels=1, coupling="additive", moved=False)
    net.initialise(pictures((1, 8, 8), 50))
    images = pictures((1, 8, 8), 3, seed=2)
    centres = ((images.numpy() + 1) * 127.5 + 0.5) / 256 - 0.5
    zero = torch.zeros(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    linear = torch.autograd.functional.jacobian(lambda x: net.encode(x)[0][0].flatten(), zero)
    linear = linear.reshape(64, 64).numpy()
    with torch.no_grad():
        offset = net.encode(zero)[0][0].flatten().numpy()
        found = net.log_prob(images)
    inverse = np.linalg.inv(linear)
    gaussian = stats.multivariate_normal(-inverse @ offset, inverse @ inverse.T)
    expected = gaussian.logpdf(centres.reshape(3, 64)) - 64 * math.log(256)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_before_it_learns_the_couplings_change_nothing_but_the_scale():
    """A step's determinant is then known by hand: a sigmoid of 2 for each value that is changed."""
    net = network((1, 8, 8), steps=1, levels=1, moved=False)
    with torch.no_grad():
        _, log_det = net.encode(torch.randn(2, 1, 8, 8, dtype=torch.float64))
    assert log_det.tolist() == pytest.approx([-32 * math.log1p(math.exp(-2))] * 2)


@pytest.mark.parametrize("channels", [4, 12])
def test_mixing_begins_as_a_rotation_and_its_determinant_is_that_of_its_weight(channels):
    torch.manual_seed(3)
    mixing = Mixing(channels).double()
    with torch.no_grad():
        weight = mixing.weight()
        assert torch.allclose(weight @ weight.T, torch.eye(channels).double(), atol=1e-5)
        mixing.log_diagonal.add_(torch.randn(channels))
        mixing.lower.add_(1.0)
        mixing.upper.add_(0.5)
        _, expected = torch.linalg.slogdet(mixing.weight())
    assert float(mixing.log_diagonal.detach().sum()) == pytest.approx(float(expected))


# --- how it begins --------------------------------------------------------------------------------


def test_a_first_batch_gives_every_actnorm_mean_0_and_deviation_1():
    net = network((3, 8, 8), moved=False)
    seen = []
    for module in net.modules():
        if isinstance(module, ActNorm):
            module.register_forward_hook(lambda _module, _given, out: seen.append(out))
    net.initialise(pictures((3, 8, 8), 20))
    assert len(seen) == 2 * 3  # steps of one level, each with two in its coupling
    for out in seen:
        assert out.mean(dim=(0, 2, 3)).abs().max() < 1e-9
        assert (out.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-3


def test_it_begins_once_and_not_again_when_loaded():
    net, other = network(moved=False), network(moved=False)
    net.initialise(pictures((1, 8, 8)))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.initialise(pictures((1, 8, 8), seed=5))
    other.load_state_dict(net.state_dict())
    other.initialise(pictures((1, 8, 8), seed=5))
    for state in (net.state_dict(), other.state_dict()):
        assert all(torch.equal(value, before[name]) for name, value in state.items())
    assert bool(other.initialised)


def test_a_batch_of_one_colour_does_not_make_it_infinite():
    net = network(moved=False)
    net.initialise(torch.zeros(4, 1, 8, 8, dtype=torch.float64))
    assert bool(torch.isfinite(net.log_prob(pictures((1, 8, 8)))).all())


# --- dequantisation -------------------------------------------------------------------------------


def test_values_become_their_bins_and_at_evaluation_the_centres():
    net = network()
    every = torch.arange(256).double().view(4, 1, 8, 8)
    centres = net.dequantised(every / 127.5 - 1, noisy=False)
    assert torch.allclose(centres, (every + 0.5) / 256 - 0.5)
    noisy = (net.dequantised(every / 127.5 - 1, noisy=True) + 0.5) * 256
    assert torch.equal(noisy.floor(), every)
    assert not torch.allclose(noisy, every + 0.5)


def test_noise_is_the_generators_and_of_the_training_alone():
    net = network()
    images = pictures((1, 8, 8))
    assert torch.equal(net.log_prob(images), net.log_prob(images))
    net.train()
    state = torch.get_rng_state()
    assert not torch.equal(net.log_prob(images), net.log_prob(images))
    assert torch.equal(torch.get_rng_state(), state)


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "wanted", "levels"),
    [((28, 28), 3, 2), ((32, 32), 3, 3), ((32, 32), 1, 1), ((64, 64), 9, 4), ((10, 12), 3, 1)],
)
def test_there_are_as_many_levels_as_the_sides_are_even(size, wanted, levels):
    assert possible_levels(*size, wanted) == levels
    assert len(network((1, *size), steps=1, levels=wanted, moved=False).levels) == levels


@pytest.mark.parametrize("shape", [(1, 27, 28), (3, 32, 33)])
def test_odd_sides_are_refused(shape):
    with pytest.raises(ConfigError, match=rf"{shape[1]}x{shape[2]} pixels .* such as 28 or 32"):
        require_even_sides(shape)


def test_small_sides_are_refused():
    with pytest.raises(ConfigError, match="6x8 pixels are too small"):
        require_even_sides((1, 6, 8))


def test_what_begins_at_zero_grows_by_its_gain():
    layer = _FromZero(2, 3)
    assert not layer(torch.randn(1, 2, 4, 4)).any()
    with torch.no_grad():
        layer.conv.bias.fill_(1.0)
        layer.gain.fill_(0.5)
    assert torch.allclose(layer(torch.zeros(1, 2, 4, 4)), torch.tensor(math.exp(1.5)))
