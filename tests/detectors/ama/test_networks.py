"""The published architectures, and the rules for other image sizes."""

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from amatune.detectors.ama.networks import PooledConv2d, UpsampledConv2d, build_networks


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_small_networks_have_the_published_size():
    encoder, generator, critic = build_networks("small", (1, 28, 28), 64, spectral=False, seed=0)
    conv = (1 * 16 * 64 + 64) + (64 * 16 * 128 + 128)
    assert count(encoder) == conv + (7 * 7 * 128 * 1024 + 1024) + (1024 * 64 + 64)
    dense = (64 * 1024 + 1024) + (1024 * 7 * 7 * 128 + 7 * 7 * 128)
    assert count(generator) == dense + (128 * 16 * 64 + 64) + (64 * 16 * 1 + 1)
    conv = (2 * 16 * 64 + 64) + (64 * 16 * 128 + 128)
    assert count(critic) == conv + (7 * 7 * 128 * 1024 + 1024) + (1024 + 1)


def test_residual_networks_have_the_published_size():
    encoder, generator, critic = build_networks("residual", (3, 32, 32), 128, spectral=True, seed=0)
    conv = 3 * 16 * 64 + 64 * 16 * 128 + 128 * 16 * 256 + 256 * 16 * 128
    assert count(encoder) == conv + 2 * (64 + 128 + 256)  # batch norm has a scale and a shift
    block = 2 * (256 * 9 * 256 + 256) + (256 * 256 + 256) + 2 * 2 * 256
    last = 2 * 256 + (256 * 9 * 3 + 3)
    assert count(generator) == (128 * 4096 + 4096) + 3 * block + last
    first = (6 * 9 * 128 + 128) + (128 * 9 * 128 + 128) + (6 * 128 + 128)
    pair = 2 * (128 * 9 * 128 + 128)
    assert count(critic) == first + pair + (128 * 128 + 128) + 2 * pair + 128


@pytest.mark.parametrize("family", ["small", "residual"])
@pytest.mark.parametrize(
    "shape",
    [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 9, 31), (2, 48, 21), (3, 64, 64), (1, 65, 130)],
)
def test_any_image_size_and_channel_count_fits(family, shape):
    nets = build_networks(family, shape, 16, width=0.05, spectral=True, seed=0)
    images = torch.rand(3, *shape) * 2 - 1
    codes = nets.encoder(images)
    rebuilt = nets.generator(codes)
    assert codes.shape == (3, 16)
    assert rebuilt.shape == images.shape
    assert float(rebuilt.detach().abs().max()) <= 1
    assert nets.critic(torch.cat([images, rebuilt], dim=1)).shape == (3,)


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (7, 5)])
def test_pooled_convolution_is_a_convolution_and_a_mean(size):
    conv = PooledConv2d(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    plain = avg_pool2d(conv2d(x, conv.weight, conv.bias, padding=1), 2)
    assert torch.allclose(conv(x), plain)
    for target in (x, conv.weight, conv.bias):
        ours = torch.autograd.grad(conv(x).square().sum(), target)[0]
        theirs = torch.autograd.grad(plain.square().sum(), target, retain_graph=True)[0]
        assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("size", [(4, 4), (3, 6)])
def test_upsampled_convolution_is_nearest_upsampling_and_a_convolution(size):
    conv = UpsampledConv2d(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    plain = conv2d(interpolate(x, scale_factor=2), conv.weight, conv.bias, padding=1)
    ours = conv(x)
    assert torch.allclose(ours, plain)
    for target in (x, conv.weight, conv.bias):
        a = torch.autograd.grad(ours.square().sum(), target, retain_graph=True)[0]
        b = torch.autograd.grad(plain.square().sum(), target, retain_graph=True)[0]
        assert torch.allclose(a, b)


def test_upsampled_convolution_to_an_odd_size_continues_with_zeros():
    conv = UpsampledConv2d(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    larger = torch.nn.functional.pad(interpolate(x, scale_factor=2), (0, 1, 0, 1))
    plain = conv2d(larger, conv.weight, conv.bias, padding=1)
    conv.odd = (1, 1)
    assert torch.allclose(conv(x), plain)


def test_a_plain_critic_sees_single_images():
    nets = build_networks(
        "small", (1, 28, 28), 8, width=0.1, spectral=False, mirrored=False, seed=0
    )
    assert nets.critic(torch.zeros(2, 1, 28, 28)).shape == (2,)


def test_the_seed_decides_the_weights_and_leaves_the_global_stream_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_networks("residual", (3, 16, 16), 8, width=0.1, spectral=True, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = build_networks("residual", (3, 16, 16), 8, width=0.1, spectral=True, seed=3)
    other = build_networks("residual", (3, 16, 16), 8, width=0.1, spectral=True, seed=4)
    for a, b in zip(first, again, strict=True):
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
            assert torch.equal(x, y)
    assert not torch.equal(first.encoder[0].weight, other.encoder[0].weight)


def test_spectral_norm_brings_every_layer_of_the_critic_to_one():
    critic = build_networks("residual", (3, 32, 32), 8, width=0.1, spectral=True, seed=0).critic
    pairs = torch.randn(2, 6, 32, 32)
    for _ in range(50):  # the power iteration needs a while
        critic(pairs)
    critic.eval()
    layers = [m for m in critic.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 4 * 2 + 2 + 1  # two per block, two shortcuts, the head
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
        assert float(largest) == pytest.approx(1.0, abs=0.02)
