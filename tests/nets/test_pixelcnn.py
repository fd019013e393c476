"""PixelCNN++: the mixture against an independent calculation, probabilities that add up to one, and
that nothing at a pixel depends on what comes after it."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from amatune.errors import ConfigError
from amatune.nets.bits import to_bits
from amatune.nets.pixelcnn import (
    PixelCNN,
    PixelCNNConfig,
    _Block,
    build_pixelcnn,
    log_probabilities,
    parameters_per_mixture,
)


def values(levels):
    """All values of a channel, from -1 to 1."""
    return torch.linspace(-1, 1, levels, dtype=torch.float64)


def random_parameters(count, channels, mixtures, scale=2.0, seed=0):
    """Of `count` pixels, as a batch of pictures of one pixel."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, mixtures * parameters_per_mixture(channels), 1, 1)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale


def network(channels=1, resolutions=2, levels=256, **more):
    """Small, in float64, and with blocks that matter from the beginning."""
    torch.manual_seed(0)
    made = PixelCNN(channels, 4, 1, resolutions, 2, levels=levels, **more).double().eval()
    for module in made.modules():
        if isinstance(module, _Block):
            with torch.no_grad():
                module.second.conv.weight.mul_(10)
    return made


# --- the distribution of a pixel ------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 2.0, 10.0])
@pytest.mark.parametrize("levels", [2, 5, 256])
def test_the_probabilities_of_a_grey_value_add_up_to_one(levels, scale):
    parameters = random_parameters(7, 1, 3, scale)
    every = values(levels).view(-1, 1, 1, 1)
    total = sum(
        log_probabilities(parameters, one.expand(7, 1, 1, 1), levels).exp() for one in every
    )
    assert total.flatten().tolist() == pytest.approx([1.0] * 7, abs=1e-8)


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_the_probabilities_of_a_colour_add_up_to_one(scale):
    parameters = random_parameters(5, 3, 2, scale)
    total = torch.zeros(5, 1, 1, dtype=torch.float64)
    for colour in itertools.product(values(4), repeat=3):
        pixel = torch.stack(colour).view(1, 3, 1, 1).expand(5, 3, 1, 1)
        total += log_probabilities(parameters, pixel, 4).exp()
    assert total.flatten().tolist() == pytest.approx([1.0] * 5, abs=1e-8)


def test_float32_is_enough():
    parameters = random_parameters(50, 1, 3, 4.0)
    pixels = values(256)[torch.arange(50) * 5].view(50, 1, 1, 1)
    double = log_probabilities(parameters, pixels)
    single = log_probabilities(parameters.float(), pixels.float())
    assert torch.allclose(single.double(), double, rtol=1e-4, atol=1e-3)


def test_a_mixture_of_a_grey_value_against_scipy():
    parameters = random_parameters(9, 1, 2, 1.5)
    pixels = torch.tensor([0, 1, 3, 80, 127, 128, 200, 254, 255]).double() / 127.5 - 1
    found = log_probabilities(parameters, pixels.view(9, 1, 1, 1)).flatten()
    for own, pixel, ours in zip(parameters[:, :, 0, 0].numpy(), pixels.numpy(), found, strict=True):
        logits, means, log_scales = own.reshape(3, 2)
        low = -np.inf if pixel == -1 else pixel - 1 / 255
        high = np.inf if pixel == 1 else pixel + 1 / 255
        scales = np.exp(np.maximum(log_scales, -7))
        shares = np.diff(stats.logistic.cdf([[low], [high]], means, scales), axis=0)[0]
        expected = np.log((special.softmax(logits) * shares).sum())
        assert float(ours) == pytest.approx(expected, rel=1e-6)


def test_a_colour_is_a_chain_of_grey_values():
    """One logistic: p(r) p(g | r) p(b | r, g), where the known channels move the mean."""
    parameters = random_parameters(4, 3, 1)
    pixels = values(256)[torch.randint(0, 256, (4, 3, 1, 1))]
    own = parameters[:, :, 0, 0]
    means, log_scales, coefficients = own[:, 1:4], own[:, 4:7], torch.tanh(own[:, 7:10])
    red, green = pixels[:, 0, 0, 0], pixels[:, 1, 0, 0]
    shifted = [
        means[:, 0],
        means[:, 1] + coefficients[:, 0] * red,
        means[:, 2] + coefficients[:, 1] * red + coefficients[:, 2] * green,
    ]
    expected = torch.zeros(4, 1, 1, dtype=torch.float64)
    for channel, mean in enumerate(shifted):
        grey = torch.stack([torch.zeros(4).double(), mean, log_scales[:, channel]], dim=1)
        expected += log_probabilities(grey.view(4, 3, 1, 1), pixels[:, channel : channel + 1])
    assert torch.allclose(log_probabilities(parameters, pixels), expected)


@pytest.mark.parametrize("log_scale", [-30.0, 20.0, 90.0, 1000.0])
def test_far_from_every_mean_nothing_is_infinite(log_scale):
    parameters = torch.tensor([0.0, 50.0, log_scale]).view(1, 3, 1, 1).requires_grad_()
    pixels = torch.tensor([-1.0, -0.2, 1.0]).view(3, 1, 1, 1)
    found = log_probabilities(parameters.expand(3, -1, 1, 1), pixels)
    found.sum().backward()
    assert bool(torch.isfinite(found).all())
    assert bool(torch.isfinite(parameters.grad).all())


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
@pytest.mark.parametrize("resolutions", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_pixel_depends_on_all_before_it_and_none_after(channels, resolutions, size):
    net = network(channels, resolutions)
    images = (torch.rand(1, channels, *size, dtype=torch.float64) * 2 - 1).requires_grad_()
    parameters = net.parameters_of(images)
    count = math.prod(size)
    depends = torch.zeros(count, count, dtype=torch.bool)  # of a pixel on another
    for place in range(0, count, 5):
        row, column = divmod(place, size[1])
        (gradient,) = torch.autograd.grad(
            parameters[0, :, row, column].sum(), images, retain_graph=True
        )
        depends[place] = (gradient[0] != 0).any(dim=0).flatten()
        assert not depends[place, place:].any(), "itself, or what comes after"
    # All before it, except for what small kernels do not reach at the full resolution.
    last = 5 * ((count - 1) // 5)
    assert depends[last, :last].double().mean() > 0.8
    assert depends[last, last - 1]


def test_a_channel_depends_on_those_before_it():
    parameters = random_parameters(1, 3, 2)
    pixel = torch.tensor([0.2, -0.4, 0.6], dtype=torch.float64).view(1, 3, 1, 1).requires_grad_()
    mixtures = 2

    def density_of(channel):
        """Of the first channels up to this one: what the others add is constant."""
        opened = parameters.clone()
        for later in range(channel + 1, 3):
            start = mixtures * (4 + later)
            opened[:, start : start + mixtures] = 40.0
        return log_probabilities(opened, pixel, levels=2).sum()

    for channel in range(3):
        (gradient,) = torch.autograd.grad(density_of(channel), pixel)
        assert (gradient.flatten()[channel + 1 :].abs() < 1e-9).all()


def test_the_probabilities_of_all_images_add_up_to_one():
    """Every 3 x 3 picture of two values, by the whole network."""
    net = network(resolutions=2, levels=2)
    every = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=9))).double()
    with torch.no_grad():
        total = net.log_prob(every.view(-1, 1, 3, 3)).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-8)


def test_an_untrained_density_is_finite_and_an_image_is_the_sum_of_its_pixels():
    net = network(3)
    images = torch.randint(0, 256, (5, 3, 8, 8)).double() / 127.5 - 1
    with torch.no_grad():
        pixels, whole = net(images), net.log_prob(images)
    assert pixels.shape == (5, 8, 8)
    assert torch.allclose(pixels.flatten(1).sum(1), whole)
    assert bool(torch.isfinite(whole).all())


def test_bits_per_dimension():
    """A uniform byte has 8 bits, whatever the number of values."""
    assert float(to_bits(torch.tensor(48 * math.log(1 / 256)), 48)) == pytest.approx(8)


def test_what_is_published_has_the_published_size():
    """One resolution, 5 logistics: sizes counted in another implementation."""
    for filters, blocks, count in ((16, 1, 34e3), (16, 2, 67e3), (32, 2, 264e3), (32, 5, 659e3)):
        net = PixelCNN(1, filters, blocks, 1, 5)
        assert sum(p.numel() for p in net.parameters()) == pytest.approx(count, rel=0.02)


def test_a_new_network_is_of_its_seed_and_width():
    def build(seed, **settings):
        config = PixelCNNConfig(**settings)
        return build_pixelcnn(config, (1, 8, 8), seed, torch.Generator())

    state = torch.get_rng_state()
    first, again, other = build(1), build(1), build(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert build(1, width=0.5).head.in_channels == first.head.in_channels // 2
    assert build(1, width=0.01).head.in_channels == 4


def test_dropout_is_the_generators_and_off_when_scoring():
    net = network(dropout=0.5, generator=torch.Generator().manual_seed(1))
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(net(images), net(images))
    net.train()
    assert not torch.equal(net(images), net(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filters": 0}, "filters must be at least 1, got 0"),
        ({"resolutions": 0}, "resolutions must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"lr_decay": 0.0}, r"lr_decay must be in \(0, 1\], got 0.0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PixelCNNConfig(**settings)
    with pytest.raises(ConfigError, match="7x28 pixels are too small"):
        PixelCNNConfig().resolve((1, 7, 28))
