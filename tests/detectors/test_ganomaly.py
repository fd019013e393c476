"""GANomaly: losses and scores against independent calculations, who learns from what, when the
discriminator begins anew, and that it learns."""

import math

import numpy as np
import pytest
import torch
from flat_weights import vector
from noise_pictures import SHAPE, batch, images, training
from torch import nn

from amatune.detectors import ganomaly
from amatune.detectors.ganomaly import GANomaly, GANomalyConfig
from amatune.errors import ConfigError, DivergedError
from amatune.nets.adversarial import descend_alone
from amatune.nets.dcgan import initialise

TINY = {"epochs": 4, "batch_size": 8, "width": 0.1, "latent_dim": 8}
NETWORKS = ("encoder", "decoder", "second_encoder", "discriminator")


def make(seed=0, shape=SHAPE, **settings):
    return GANomaly(GANomalyConfig(**{**TINY, **settings}), shape, seed=seed)


def weights(detector):
    return {name: vector(m) for name, m in named(detector)}


def named(detector):
    return detector.networks.items()


# --- published values -----------------------------------------------------------------------------


def test_the_defaults_are_the_authors_and_a_preset():
    held = GANomalyConfig.from_dict(GANomaly.presets["authors-code"])
    assert held == GANomalyConfig(score="code")


def test_the_networks_are_the_published_ones():
    detector = make(shape=(3, 32, 32), width=1.0, latent_dim=100)

    def outputs(network):
        kinds = nn.Conv2d | nn.ConvTranspose2d
        return [m.out_channels for m in network.modules() if isinstance(m, kinds)]

    def norms(network):
        return [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)]

    for encoder in (detector.encoder, detector.second_encoder):
        assert outputs(encoder) == [64, 128, 256, 100]
        assert norms(encoder) == [128, 256]
    assert outputs(detector.decoder) == [256, 128, 64, 3]
    assert outputs(detector.discriminator) == [64, 128, 256]
    assert detector.discriminator.head.in_features == 256 * 4 * 4
    assert not torch.equal(detector.encoder[0].weight, detector.second_encoder[0].weight)


def test_weights_begin_as_dcgans_do():
    network = nn.Sequential(nn.Conv2d(64, 64, 4), nn.BatchNorm2d(2000))
    network[1].running_mean.fill_(5)
    network.requires_grad_(False)
    initialise(network, 0.02, torch.Generator().manual_seed(0))
    assert float(network[0].weight.std()) == pytest.approx(0.02, rel=0.02)
    assert float(network[1].weight.mean()) == pytest.approx(1, abs=0.005)
    assert float(network[1].weight.std()) == pytest.approx(0.02, rel=0.1)
    assert not network[0].bias.any()
    assert network[1].running_mean.eq(5).all()
    before = network[0].weight.clone()
    initialise(network, 0.02, torch.Generator().manual_seed(1), when=torch.tensor(False))
    assert torch.equal(network[0].weight, before)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 20), (1, 28, 28), (3, 33, 65)])
def test_any_image_shape_trains(shape):
    detector = make(shape=shape)
    detector.train_epoch(images(8, shape=shape))
    detector.calibrate(images(8, shape=shape))
    assert detector.reconstruct(images(3, shape=shape)).shape == (3, *shape)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"w_con": -1.0}, "w_con must be 0 or more, got -1.0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"beta1": 1.0}, r"beta1 must be in \[0, 1\), got 1.0"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        GANomalyConfig(**settings)


def test_too_small_images_are_refused():
    with pytest.raises(ConfigError, match="28x7 pixels are too small"):
        make(shape=(1, 28, 7))


# --- objective ------------------------------------------------------------------------------------


def played(detector, x):
    """What a step computes, networks in train mode."""
    codes = detector.encoder(x)
    rebuilt = detector.decoder(codes)
    features, real = detector.discriminator(x)
    others, fake = detector.discriminator(rebuilt)
    return codes, rebuilt, detector.second_encoder(rebuilt), features, real, others, fake


def test_the_losses_against_numpy():
    settings = {"w_adv": 2.0, "w_con": 30.0, "w_enc": 0.7}
    parts = played(training(make(**settings)), batch())
    codes, rebuilt, again, features, real, others, fake = (
        part.detach().double().numpy() for part in parts
    )
    expected = {
        "features": ((features - others) ** 2).mean(),
        "image": np.abs(batch().numpy() - rebuilt).mean(),
        "code": ((codes - again) ** 2).mean(),
        "discriminator": (np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean()) / 2,
    }
    expected["autoencoder"] = (
        2.0 * expected["features"] + 30.0 * expected["image"] + 0.7 * expected["code"]
    )
    losses = training(make(**settings)).train_step(batch())
    assert losses.pop("resets") == 0
    assert {n: float(v) for n, v in losses.items()} == pytest.approx(expected, rel=1e-4)


def test_each_player_descends_its_own_loss():
    """One pass serves both, the second of which steps after the first has moved."""
    other = training(make())
    codes, rebuilt, again, features, real, others, fake = played(other, batch())
    total = (features - others).square().mean() + 50 * (batch() - rebuilt).abs().mean()
    total = total + (codes - again).square().mean()
    entropies = nn.functional.binary_cross_entropy_with_logits
    told = entropies(real, torch.ones(8)) / 2 + entropies(fake, torch.zeros(8)) / 2
    expected = {
        "autoencoder": torch.autograd.grad(
            total, list(other.autoencoder.parameters()), retain_graph=True
        ),
        "discriminator": torch.autograd.grad(told, list(other.discriminator.parameters())),
    }
    detector = training(make())
    detector.train_step(batch())
    for name, gradients in expected.items():
        own = [p.grad for p in getattr(detector, name).parameters()]
        for found, wanted in zip(own, gradients, strict=True):
            assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-7)


def test_a_step_alone_gives_others_no_gradient():
    mine, others = (torch.ones(3, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.SGD([mine], lr=0.1)
    descend_alone((mine * others).sum(), optimizer)
    assert others.grad is None
    assert torch.allclose(mine, torch.full((3,), 0.9))


def test_a_discriminator_that_has_won_begins_anew(monkeypatch):
    ordinary = training(make())
    ordinary.train_step(batch())
    monkeypatch.setattr(ganomaly, "RESET_BELOW", math.inf)
    detector = training(make())
    losses = detector.train_step(batch())
    assert losses["resets"] == 1
    assert not detector.discriminator.head.bias.any()
    assert not torch.equal(detector.discriminator.head.weight, ordinary.discriminator.head.weight)
    # Nothing else is touched, nor batch norm's statistics.
    for name, values in weights(detector).items():
        assert torch.equal(values, weights(ordinary)[name]) == (name != "discriminator")
    statistics = [dict(m.discriminator.named_buffers()) for m in (detector, ordinary)]
    assert all(torch.equal(statistics[0][n], statistics[1][n]) for n in statistics[0])
    assert detector.train_epoch(images())["resets"] == 1


# --- scores ---------------------------------------------------------------------------------------


def test_scores_follow_their_definitions():
    detector = make()
    detector.train_epoch(images())
    detector.calibrate(images())
    found = detector.scores(images(5, seed=1))
    with torch.no_grad():
        for number, x in enumerate(batch(5, seed=1)):
            codes, rebuilt, again, features, _, others, _ = (
                part[0].double().numpy() for part in played(detector, x[None])
            )
            pixels = x.double().numpy()
            across, down = (np.abs(np.diff(pixels, axis=a)).mean() for a in (2, 1))
            expected = {
                "code": ((codes - again) ** 2).mean(),
                "image": ((pixels - rebuilt) ** 2).mean(),
                "features": ((features - others) ** 2).mean(),
            }
            expected |= {f"{n}_c": v / (across + down + 0.02) for n, v in expected.items()}
            own = {name: float(values[number]) for name, values in found.items()}
            assert own == pytest.approx(expected, rel=1e-3)
    assert torch.equal(detector.reconstruct(images(5, seed=1))[-1], torch.tensor(rebuilt).float())
    assert detector.primary_score == "code"


def test_a_constant_code_is_a_collapse():
    detector = make()
    detector.train_epoch(images())
    with torch.no_grad():
        for encoder in (detector.encoder, detector.second_encoder):
            encoder[-2].weight.zero_()
    with pytest.raises(DivergedError, match=r"collapsed in epoch 1: .*'code'"):
        detector.calibrate(images())


def test_it_rebuilds_a_tiny_set_and_finds_what_is_not_of_it():
    bars = torch.full((8, *SHAPE), -1.0)
    for i in range(8):
        bars[i, :, :, 2 * i : 2 * i + 4] = 1.0
    detector = make(steps_per_epoch=20, lr=5e-3)
    # After half as many the code's score depends on the seed, and on the processor.
    losses = [detector.train_epoch(bars) for _ in range(6)]
    assert losses[0]["image"] > 0.3
    assert losses[-1]["image"] < 0.25 * losses[0]["image"]
    detector.calibrate(bars)
    for scores in (detector.scores(bars.mT.contiguous()), detector.scores(batch(8))):
        for name in ("code", "image"):
            assert scores[name].median() > 2 * detector.scores(bars)[name].median(), name
