"""Fence GAN: fence, dispersion and score against independent calculations, its steps and phases,
and that the fence is built."""

import math

import numpy as np
import pytest
import torch
from noise_pictures import SHAPE, batch, images, training
from torch import nn

from amatune.detectors.fence_gan import FenceGAN, FenceGANConfig, dispersion, fence_entropy
from amatune.errors import ConfigError, DivergedError
from amatune.nets.adversarial import Dropout
from amatune.nets.dense_gan import DenseBody, DenseGenerator

TINY = {"epochs": 4, "batch_size": 8, "width": 0.1, "latent_dim": 8, "dropout": 0.0}


def make(seed=0, shape=SHAPE, **settings):
    return FenceGAN(FenceGANConfig(**{**TINY, **settings}), shape, seed=seed)


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(network, before):
    return {name for name, value in network.state_dict().items() if (value != before[name]).any()}


# --- published values -----------------------------------------------------------------------------


def test_the_presets_are_the_published_settings():
    assert FenceGANConfig.from_dict(FenceGAN.presets["cifar10"]) == FenceGANConfig()
    mnist = FenceGANConfig.from_dict(FenceGAN.presets["mnist"])
    assert (mnist.alpha, mnist.beta, mnist.gamma, mnist.d_lr, mnist.g_lr) == (
        *(0.1, 30.0, 0.1, 1e-5, 2e-5),
    )
    assert (mnist.batch_size, mnist.latent_dim, mnist.dropout) == (200, 200, 0.0)
    assert (mnist.d_lr_decay, FenceGANConfig().d_lr_decay) == (0.0, 1e-5)


def outputs(network):
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    return [
        m.weight.shape[isinstance(m, nn.ConvTranspose2d)]
        for m in network.modules()
        if isinstance(m, kinds)
    ]


def kinds(network):
    return [type(layer).__name__ for layer in network]


def test_the_convolutional_networks_are_the_published_ones():
    detector = make(shape=(3, 32, 32), width=1.0, latent_dim=256, dropout=0.2)
    assert outputs(detector.fence) == [256 * 2 * 2, 128, 64, 32, 3]
    assert kinds(detector.fence)[2:5] == ["BatchNorm2d", "LeakyReLU", "ConvTranspose2d"]
    body, dropout = detector.discriminator.body
    assert outputs(detector.discriminator) == [32, 64, 128, 256, 1]
    assert kinds(body).count("BatchNorm2d") == 3
    assert kinds(body)[-3:] == ["Conv2d", "LeakyReLU", "Flatten"]
    assert isinstance(dropout, Dropout)
    assert dropout.share == 0.2
    # Glorot's: variance 2 / (inputs + outputs).
    assert float(body[3].weight.detach().var()) == pytest.approx(2 / (25 * 96), rel=0.05)


def test_the_dense_networks_are_the_published_ones():
    detector = make(shape=(1, 28, 28), width=1.0, latent_dim=200)
    assert outputs(detector.fence) == [1024, 7 * 7 * 128, 64, 1]
    assert kinds(detector.fence)[:3] == ["Linear", "ReLU", "BatchNorm1d"]
    body = detector.discriminator.body[0]
    assert outputs(detector.discriminator) == [64, 64, 1024, 1]
    assert not any("Norm" in kind for kind in kinds(body))
    assert float(body[-2].weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    normed = DenseBody(1, (28, 28), 0.1, normed=True)
    assert [k for k in kinds(normed) if "Norm" in k] == ["BatchNorm2d", "BatchNorm1d"]
    other = DenseGenerator(1, (28, 28), 8, 0.1, relu_first=False)
    assert kinds(other)[:3] == ["Linear", "BatchNorm1d", "ReLU"]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 30), (1, 16, 32), (3, 33, 65)])
def test_any_image_shape_trains(shape):
    detector = make(shape=shape)
    for _ in range(2):
        detector.train_epoch(images(8, shape=shape))
    assert detector.fence(torch.zeros(3, 8)).shape == (3, *shape)
    detector.calibrate(images(8, shape=shape))
    assert detector.score(images(3, shape=shape)).shape == (3,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.0}, r"alpha must be in \(0, 1\), got 1.0"),
        ({"gamma": 0.0}, "gamma must be positive, got 0.0"),
        ({"beta": -1.0}, "beta must be 0 or more, got -1.0"),
        ({"warmup_share": 1.0}, r"warmup_share must be in \[0, 1\), got 1.0"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        FenceGANConfig(**settings)


# --- objective ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "entropy"), [(0.1, 0.3251), (0.5, 0.6931)])
def test_the_fence_is_where_the_discriminator_says_alpha(alpha, entropy):
    at = math.log(alpha / (1 - alpha))
    logits = torch.tensor([at, at], requires_grad=True)
    loss = fence_entropy(logits, alpha)
    assert float(loss.detach()) == pytest.approx(entropy, abs=1e-4)
    loss.backward()
    assert logits.grad.abs().max() < 1e-6
    said = 1 / (1 + np.exp(-np.array([-2.0, 3.0])))
    expected = -(alpha * np.log(said) + (1 - alpha) * np.log(1 - said)).mean()
    assert float(fence_entropy(torch.tensor([-2.0, 3.0]), alpha)) == pytest.approx(expected)


def test_dispersion_is_the_mean_distance_from_the_mean_and_grows_away_from_it():
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0]]).view(2, 1, 1, 2).requires_grad_()
    spread = dispersion(points)
    assert float(spread.detach()) == pytest.approx(1)
    spread.backward()
    assert torch.allclose(points.grad.flatten(), torch.tensor([-0.5, 0.0, 0.5, 0.0]), atol=1e-6)
    many = batch(5).double().numpy().reshape(5, -1)
    expected = np.linalg.norm(many - many.mean(0), axis=1).mean()
    assert float(dispersion(batch(5))) == pytest.approx(expected, rel=1e-5)
    same = torch.ones(3, 1, 2, 2, requires_grad=True)
    (1 / dispersion(same)).backward()
    assert torch.isfinite(same.grad).all()


def test_the_losses_of_a_step_against_numpy():
    """Written out beside it, each of its three passes with the networks as they are by then."""
    detector = training(make(warmup_share=0.0, alpha=0.3, beta=7.0, gamma=0.4))
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(8, 8, generator=generator) for _ in range(2))
    logits = detector.discriminator(batch())[1].detach().double().numpy()
    losses = detector.train_step(batch())
    assert float(losses["real"]) == pytest.approx(np.log1p(np.exp(-logits)).mean(), rel=1e-4)

    again = training(make(warmup_share=0.0, alpha=0.3, beta=7.0, gamma=0.4))
    adam = again.optimisation.optimizers["discriminator"]
    bce = nn.functional.binary_cross_entropy_with_logits
    bce(again.discriminator(batch())[1], torch.ones(8)).backward()
    adam.step()
    fakes = again.fence.eval()(first).detach()
    fake = bce(again.discriminator(fakes)[1], torch.zeros(8))
    assert float(losses["fake"]) == pytest.approx(float(fake.detach()), rel=1e-4)
    adam.zero_grad()
    (0.4 * fake).backward()
    adam.step()
    made = again.fence.train()(second)
    logits = again.discriminator.eval()(made)[1]
    away = (made - made.mean(0)).flatten(1).norm(dim=1).mean()
    total = bce(logits, torch.full((8,), 0.3)) + 7.0 / away
    assert float(losses["generator"]) == pytest.approx(float(total.detach()), rel=1e-4)
    assert float(losses["dispersion"]) == pytest.approx(float(away.detach()), rel=1e-4)
    gap = (logits.sigmoid() - 0.3).abs().mean()
    assert float(losses["fence"]) == pytest.approx(float(gap.detach()), rel=1e-3)
    # Adam hardly feels gamma in a step; the gradient that it got is what tells.
    pairs = zip(detector.discriminator.parameters(), again.discriminator.parameters(), strict=True)
    for own, other in pairs:
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_the_generators_step_leaves_the_discriminator_alone():
    detector = training(make())
    before = state(detector.discriminator), state(detector.fence)
    again = training(make())
    made = again.fence(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
    logits = again.discriminator.eval()(made)[1]
    total = nn.functional.binary_cross_entropy_with_logits(logits, torch.full((8,), 0.5))
    total = total + 10.0 / (made - made.mean(0)).flatten(1).norm(dim=1).mean()
    expected = torch.autograd.grad(total, list(again.fence.parameters()))
    detector._fence_step(8)
    for parameter, gradient in zip(detector.fence.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
    assert not changed(detector.discriminator, before[0])
    assert any("running_mean" in name for name in before[0])
    assert changed(detector.fence, before[1])
    assert detector.discriminator.training


def test_the_discriminator_learns_alone_at_first():
    detector = make(epochs=20)
    assert (detector.config.warmup_epochs, detector.config.grace_epochs()) == (2, 3)
    assert FenceGANConfig(epochs=1).warmup_epochs == 0
    before = state(detector.fence)
    for _ in range(2):
        assert set(detector.train_epoch(images())) == {"real", "fake"}
    assert not changed(detector.fence, before)
    assert set(detector.train_epoch(images())) == {
        *("real", "fake", "generator", "fence", "dispersion"),
    }
    assert changed(detector.fence, before)


def test_the_discriminators_rate_decays_with_its_steps():
    detector = make(d_lr=1e-3, d_lr_decay=0.1)
    rates = []
    for _ in range(3):
        detector.train_epoch(images())  # two batches, four steps
        rates.append(detector.optimisation.optimizers["discriminator"].param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3, 1e-3 / 1.4, 1e-3 / 1.8])


# --- score ----------------------------------------------------------------------------------------


def test_the_score_falls_with_what_the_discriminator_says():
    detector = make()
    for _ in range(2):
        detector.train_epoch(images())
    detector.calibrate(images())
    scores = detector.score(images(9, seed=1))
    with torch.no_grad():
        said = detector.discriminator(batch(9, seed=1))[1].double().sigmoid()
    assert (1 - said).tolist() == pytest.approx(scores.double().sigmoid().tolist(), rel=1e-5)
    assert torch.equal(scores.argsort(), (1 - said).argsort())
    assert {name.partition(".")[0] for name in detector.inference_state()} == {"discriminator"}
    assert detector.reconstruct(images(2)) is None


def test_a_discriminator_that_says_one_thing_is_a_collapse():
    detector = make()
    detector.train_epoch(images())
    nn.init.zeros_(detector.discriminator.head.weight)
    with pytest.raises(DivergedError, match=r"collapsed in epoch 1: .*'discriminator'"):
        detector.calibrate(images())


def test_the_fence_is_built_round_a_tiny_set():
    bars = torch.full((8, *SHAPE), -1.0)
    for i in range(8):
        bars[i, :, :, 2 * i : 2 * i + 4] = 1.0
    detector = make(epochs=3, steps_per_epoch=15, d_lr=1e-3, g_lr=5e-3, alpha=0.2, gamma=0.2)
    losses = [detector.train_epoch(bars) for _ in range(3)]
    assert losses[-1]["fence"] < 0.8 * losses[1]["fence"]
    assert losses[-1]["dispersion"] > losses[1]["dispersion"]
