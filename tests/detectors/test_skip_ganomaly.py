"""Skip-GANomaly: the U-Net, losses and scores against independent calculations, who learns from
what, and its traps."""

import math

import numpy as np
import pytest
import torch
from flat_weights import vector
from noise_pictures import SHAPE, batch, images, training
from torch import nn

from amatune.detectors import skip_ganomaly
from amatune.detectors.skip_ganomaly import SkipGANomaly, SkipGANomalyConfig, UNet
from amatune.errors import ConfigError, DivergedError
from amatune.nets.sizes import halve

TINY = {"epochs": 4, "batch_size": 8, "width": 0.1, "latent_dim": 8}


def make(seed=0, shape=SHAPE, **settings):
    return SkipGANomaly(SkipGANomalyConfig(**{**TINY, **settings}), shape, seed=seed)


def played(detector, x, shown=None):
    """What a step computes: x', f(x), f(x'), and what the discriminator says of both."""
    rebuilt = detector.unet(x if shown is None else shown)
    features, real = detector.discriminator(x)
    others, fake = detector.discriminator(rebuilt)
    return rebuilt, features, others, real, fake


# --- published values -----------------------------------------------------------------------------


def test_the_defaults_are_the_authors_and_a_preset():
    held = SkipGANomalyConfig.from_dict(SkipGANomaly.presets["authors-code"])
    assert held == SkipGANomalyConfig(score="combined")


def test_the_networks_are_the_published_ones():
    detector = make(shape=(3, 32, 32), width=1.0, latent_dim=100)

    def channels(network, kind):
        return [(m.in_channels, m.out_channels) for m in network.modules() if isinstance(m, kind)]

    def norms(network):
        return [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)]

    down, up = detector.unet.down, detector.unet.up
    assert channels(down, nn.Conv2d) == [
        *((3, 64), (64, 128), (128, 256), (256, 512), (512, 512)),
    ]
    assert channels(up, nn.ConvTranspose2d) == [
        *((512, 512), (1024, 256), (512, 128), (256, 64), (128, 3)),
    ]
    assert (norms(down), norms(up)) == ([128, 256, 512], [512, 256, 128, 64])
    assert [out for _, out in channels(detector.discriminator, nn.Conv2d)] == [64, 128, 256, 100]
    assert norms(detector.discriminator) == [128, 256]
    assert detector.discriminator.head.in_features == 100


@pytest.mark.parametrize(
    ("shape", "halvings"),
    [((1, 8, 8), 3), ((1, 16, 16), 4), ((3, 28, 20), 4), ((1, 32, 32), 5), ((3, 33, 65), 5)],
)
def test_any_image_shape_trains(shape, halvings):
    detector = make(shape=shape)
    assert len(detector.unet.down) == halvings
    detector.train_epoch(images(8, shape=shape))
    detector.calibrate(images(8, shape=shape))
    assert detector.reconstruct(images(3, shape=shape)).shape == (3, *shape)


def test_the_unet_joins_what_has_the_same_size():
    """Written out for three halvings."""
    torch.manual_seed(0)
    unet = UNet(1, halve((8, 8), 2), [3, 4, 5], skips=True).eval()
    f, x = nn.functional, batch(2, shape=(1, 8, 8))
    (a,), (_, b, bn_b), (_, c) = unet.down
    (_, u, bn_u, *_), (_, v, bn_v), (_, w, _) = unet.up
    first = a(x)
    second = bn_b(b(f.leaky_relu(first, 0.2)))
    third = c(f.leaky_relu(second, 0.2))
    assert third.shape == (2, 5, 1, 1)
    back = torch.cat([second, bn_u(u(third.relu()))], 1)
    back = torch.cat([first, bn_v(v(back.relu()))], 1)
    assert torch.allclose(unet(x), w(back.relu()).tanh(), atol=1e-6)


def test_without_skips_all_goes_through_the_innermost():
    for skips in (True, False):
        unet = make(skips=skips).unet
        unet.down[-1][-1].weight.data.zero_()
        first, second = unet(batch(2)).detach()
        assert torch.equal(first, second) != skips


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"w_lat": -1.0}, "w_lat must be 0 or more, got -1.0"),
        ({"input_noise": -0.1}, "input_noise must be 0 or more, got -0.1"),
        ({"score_weight": 1.1}, r"score_weight must be in \[0, 1\], got 1.1"),
        ({"width": 0.0}, "width must be positive, got 0.0"),
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1.0"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SkipGANomalyConfig(**settings)


def test_too_small_images_are_refused():
    with pytest.raises(ConfigError, match="28x7 pixels are too small"):
        make(shape=(1, 28, 7))


# --- objective ------------------------------------------------------------------------------------


def test_the_losses_against_numpy():
    settings = {"w_adv": 2.0, "w_con": 30.0, "w_lat": 0.7}
    parts = played(training(make(**settings)), batch())
    rebuilt, features, others, real, fake = (p.detach().double().numpy() for p in parts)
    expected = {
        "adversarial": np.log1p(np.exp(-fake)).mean(),
        "image": np.abs(batch().numpy() - rebuilt).mean(),
        "features": ((features - others) ** 2).mean(),
        "discriminator": np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean(),
    }
    expected["unet"] = (
        2.0 * expected["adversarial"] + 30.0 * expected["image"] + 0.7 * expected["features"]
    )
    losses = training(make(**settings)).train_step(batch())
    found = {name: float(losses[name]) for name in expected}
    assert found == pytest.approx(expected, rel=1e-4)
    assert losses["resets"] == 0


def test_each_player_descends_its_own_loss_and_the_features_are_the_unets_alone():
    other = training(make())
    rebuilt, features, others, real, fake = played(other, batch())
    entropies = nn.functional.binary_cross_entropy_with_logits
    total = 50 * (batch() - rebuilt).abs().mean() + (features - others).square().mean()
    total = total + entropies(fake, torch.ones(8))
    told = entropies(real, torch.ones(8)) + entropies(fake, torch.zeros(8))
    expected = {
        "unet": torch.autograd.grad(total, list(other.unet.parameters()), retain_graph=True),
        "discriminator": torch.autograd.grad(told, list(other.discriminator.parameters())),
    }
    detector = training(make())
    detector.train_step(batch())
    for name, gradients in expected.items():
        own = [p.grad for p in detector.networks[name].parameters()]
        for found, wanted in zip(own, gradients, strict=True):
            assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-7)


def test_a_discriminator_that_has_won_begins_anew(monkeypatch):
    ordinary = training(make())
    ordinary.train_step(batch())
    monkeypatch.setattr(skip_ganomaly, "RESET_BELOW", math.inf)
    detector = training(make())
    assert detector.train_step(batch())["resets"] == 1
    assert torch.equal(vector(detector.unet), vector(ordinary.unet))
    assert not torch.equal(vector(detector.discriminator), vector(ordinary.discriminator))


def test_noise_is_added_to_what_the_unet_is_shown():
    detector = training(make(input_noise=0.3))
    draws = torch.randn(batch().shape, generator=torch.Generator().manual_seed(0))
    rebuilt, *_ = played(training(make()), batch(), batch() + 0.3 * draws)
    losses = detector.train_step(batch())
    assert float(losses["image"]) == pytest.approx(
        float((batch() - rebuilt.detach()).abs().mean()), rel=1e-5
    )


def test_noise_that_is_rebuilt_shows_in_the_losses():
    detector = make()
    before = detector.train_epoch(images())["noise_error"]
    assert before == pytest.approx(0.5, abs=0.03)  # of uniform noise and what is near 0
    detector.unet.forward = lambda x: x  # a copy of whatever it is shown
    detector.begin_epoch(images())
    assert detector.noise_error == 0


# --- scores ---------------------------------------------------------------------------------------


def test_scores_follow_their_definitions():
    detector = make(score_weight=0.7)
    detector.train_epoch(images())
    detector.calibrate(images())
    found = detector.scores(images(5, seed=1))
    with torch.no_grad():
        for number, x in enumerate(batch(5, seed=1)):
            rebuilt, features, others, *_ = (
                p[0].double().numpy() for p in played(detector, x[None])
            )
            pixels = x.double().numpy()
            across, down = (np.abs(np.diff(pixels, axis=a)).mean() for a in (2, 1))
            image, feature = ((pixels - rebuilt) ** 2).mean(), ((features - others) ** 2).mean()
            expected = {
                "combined": 0.7 * image + 0.3 * feature,
                "image": image,
                "features": feature,
            }
            expected |= {f"{n}_c": v / (across + down + 0.02) for n, v in expected.items()}
            own = {name: float(values[number]) for name, values in found.items()}
            assert own == pytest.approx(expected, rel=1e-3)
    assert detector.primary_score == "combined"


def test_a_perfect_copy_is_a_collapse():
    detector = make()
    detector.train_epoch(images())
    detector.unet.forward = lambda x: x
    with pytest.raises(DivergedError, match=r"collapsed in epoch 1: .*'combined' is 0"):
        detector.calibrate(images())


def test_it_rebuilds_a_tiny_set_and_finds_what_is_not_of_it():
    bars = torch.full((8, *SHAPE), -1.0)
    for i in range(8):
        bars[i, :, :, 2 * i : 2 * i + 4] = 1.0
    detector = make(steps_per_epoch=15, lr=5e-3)
    losses = [detector.train_epoch(bars) for _ in range(3)]
    assert losses[0]["image"] > 0.3
    assert losses[-1]["image"] < 0.5 * losses[0]["image"]
    detector.calibrate(bars)
    usual = detector.score(bars).median()
    assert detector.score(bars.mT.contiguous()).median() > 1.5 * usual
