"""Typicality: its scores against an independent calculation, its schedule, and that it learns."""

import math

import numpy as np
import pytest
import torch

from amatune.detectors.typicality import Typicality, TypicalityConfig
from amatune.errors import ConfigError, DivergedError
from amatune.nets.glow import MAX_NORM
from amatune.testing import noise

SHAPE = (1, 8, 8)
TINY = {"epochs": 2, "batch_size": 8, "hidden": 4, "steps": 2}


def images(count=16, seed=0, shape=SHAPE):
    return noise((count, *shape), seed)


def trained(shape=SHAPE, **settings):
    detector = Typicality(TypicalityConfig(**{**TINY, **settings}), shape)
    for _ in range(detector.config.epochs):
        detector.train_epoch(images(shape=shape))
    detector.calibrate(images(shape=shape))
    return detector


@pytest.mark.parametrize("shape", [SHAPE, (3, 8, 12)])
def test_the_scores_are_bits_and_their_distance_from_the_mean(shape):
    detector = trained(shape)
    found = detector.scores(images(6, seed=1, shape=shape))

    def bits(pictures):
        net = detector.density
        with torch.no_grad():
            latents, log_det = net.encode((pictures.float() + 0.5) / 256 - 0.5)
        z = torch.cat([latent.flatten(1) for latent in latents], dim=1).double()
        normal = torch.distributions.Normal(torch.zeros(()).double(), 1.0)
        nats = normal.log_prob(z).sum(dim=1) + log_det
        return (8 - nats / (math.prod(shape) * math.log(2))).numpy()

    mean = bits(images(shape=shape)).mean()
    expected = bits(images(6, seed=1, shape=shape))
    assert found["nll"].numpy() == pytest.approx(expected, rel=1e-5)
    assert found["typicality"].numpy() == pytest.approx(np.abs(expected - mean), abs=1e-5)
    assert float(detector.mean_nll) == pytest.approx(mean, rel=1e-5)
    assert detector.primary_score == "typicality"


def test_it_learns_and_what_it_learnt_is_typical():
    """Pictures of few values near black; white ones are as unlikely, as they are untypical."""
    dark = images(64) // 8
    config = TypicalityConfig(**{**TINY, "epochs": 8, "lr": 5e-3})
    detector = Typicality(config, SHAPE)
    losses = [detector.train_epoch(dark)["nll"] for _ in range(8)]
    detector.calibrate(dark)
    assert losses[-1] < losses[0]
    assert losses[-1] < 6  # 5 bits are all there is in them
    normal, other = detector.score(images(20, seed=2) // 8), detector.score(images(20, seed=3))
    assert float(normal.max()) < float(other.min())


def test_equal_images_are_a_collapse():
    detector = Typicality(TypicalityConfig(**TINY), SHAPE)
    same = images(1).expand(16, *SHAPE)
    detector.train_epoch(images())
    with pytest.raises(DivergedError, match=r"typicality collapsed in epoch 1.*'nll'"):
        detector.calibrate(same)


def test_a_rate_that_is_too_high_is_a_divergence():
    detector = Typicality(TypicalityConfig(**{**TINY, "lr": 1e4}), SHAPE)
    with pytest.raises(DivergedError, match="diverged in epoch 1"):
        detector.train_epoch(images(64))


def test_the_rate_rises_and_falls():
    detector = Typicality(
        TypicalityConfig(**{**TINY, "epochs": 10, "lr": 0.1, "lr_warmup": 0.2, "lr_decay": 0.01}),
        SHAPE,
    )
    optimizer = detector.optimisation.optimizers["adamax"]
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for schedule in detector.optimisation.schedules:
            schedule.step()
    risen = [1 / 3, 2 / 3, *[1.0] * 8]
    expected = [0.1 * up * 0.01 ** (epoch / 10) for epoch, up in enumerate(risen)]
    assert rates == pytest.approx(expected)
    assert detector.config.grace_epochs() == 3


@pytest.mark.parametrize(("epochs", "rising", "grace"), [(1, 0, 1), (2, 1, 1), (3, 1, 2)])
def test_short_trainings_have_a_rate_and_a_grace_too(epochs, rising, grace):
    config = TypicalityConfig(epochs=epochs)
    assert (config.rising_epochs, config.grace_epochs()) == (rising, grace)
    assert config.score_every() == epochs


def test_the_penalty_reaches_the_optimiser():
    """An L2 penalty: part of what the loss's gradient is."""
    detector = Typicality(TypicalityConfig(**TINY, weight_decay=0.25), SHAPE)
    (group,) = detector.optimisation.optimizers["adamax"].param_groups
    assert group["weight_decay"] == 0.25
    assert len(group["params"]) == len(list(detector.density.parameters()))


def test_gradients_are_cut():
    detector = Typicality(TypicalityConfig(**TINY), SHAPE)
    parameters = list(detector.density.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 9.0)
    detector.optimisation.optimizers["adamax"].step()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters))
    assert norm == pytest.approx(MAX_NORM, rel=1e-4)


def test_the_presets_are_the_defaults_and_what_is_published():
    assert TypicalityConfig.from_dict(Typicality.presets["small"]) == TypicalityConfig()
    grey = TypicalityConfig.from_dict(Typicality.presets["paper"])
    colour = TypicalityConfig.from_dict(Typicality.presets["paper-colour"])
    assert (grey.levels, grey.steps, grey.hidden) == (2, 16, 200)
    assert (colour.levels, colour.steps, colour.hidden) == (3, 8, 400)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"lr_warmup": 1.0}, r"lr_warmup must be in \[0, 1\), got 1.0"),
        ({"lr_decay": 0.0}, r"lr_decay must be in \(0, 1\], got 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more, got -1.0"),
        ({"coupling": "none"}, "coupling must be .*'affine'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TypicalityConfig(**settings)
    with pytest.raises(ConfigError, match="33x28 pixels cannot be squeezed"):
        TypicalityConfig().resolve((1, 33, 28))
