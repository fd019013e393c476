"""WAIC: penalty, losses and scores against independent calculations, its phases, and what it says
of its members."""

import math

import numpy as np
import pytest
import torch
from flat_weights import vector
from torch import nn

from amatune.detectors.waic import WAIC, WAICConfig, dominance, gradient_penalty, waic_scores
from amatune.errors import ConfigError, DivergedError
from amatune.testing import noise

SHAPE = (1, 8, 8)
TINY = {"epochs": 4, "batch_size": 8, "width": 0.1, "members": 3, "latent_dim": 4}


def make(seed=0, shape=SHAPE, **settings):
    return WAIC(WAICConfig(**{**TINY, **settings}), shape, seed=seed)


def images(count=16, seed=0, shape=SHAPE):
    return noise((count, *shape), seed)


def batch(count=8, seed=0, shape=SHAPE):
    return images(count, seed, shape).float() / 127.5 - 1


# --- published values -----------------------------------------------------------------------------


def test_the_defaults_are_published_and_a_preset():
    assert WAICConfig.from_dict(WAIC.presets["paper"]) == WAICConfig(score="waic")
    for optimizer in make(optimizer="rmsprop", lr=0.5).optimisation.optimizers.values():
        assert isinstance(optimizer, torch.optim.RMSprop)
        (group,) = optimizer.param_groups
        assert (group["lr"], group["alpha"], group["momentum"]) == (0.5, 0.9, 0)


@pytest.mark.parametrize(
    ("shape", "flat", "start"), [((1, 28, 28), 512, 7), ((3, 32, 32), 2048, 8)]
)
def test_the_networks_are_the_published_ones(shape, flat, start):
    detector = make(shape=shape, width=1.0, latent_dim=128, members=2)
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear

    def layers(network):
        return [m for m in network.modules() if isinstance(m, kinds)]

    *convolutions, last, dense, head = layers(detector.critics[0])
    assert [m.out_channels for m in convolutions] == [32, 32, 64, 64]
    assert [m.stride[0] for m in convolutions] == [1, 2, 1, 2]
    assert (last.out_channels, last.kernel_size) == (512, (7, 7))
    assert (dense.in_features, dense.out_features, head.out_features) == (flat, 128, 1)
    made = layers(detector.generators[0])
    assert [m.out_channels for m in made] == [64, 64, 64, 32, 32, 32, shape[0]]
    assert made[0].kernel_size == (start, start)
    if shape == (1, 28, 28):
        assert len(vector(detector.critics[0])) == pytest.approx(1.85e6, rel=0.005)


@pytest.mark.parametrize("shape", [(3, 12, 30), (1, 33, 16)])
def test_any_image_shape_trains(shape):
    detector = make(shape=shape, critic_steps=1)
    detector.train_epoch(images(8, shape=shape))
    assert detector.generators[0](torch.zeros(2, 4)).shape == (2, *shape)
    detector.calibrate(images(8, shape=shape))
    assert detector.score(images(3, shape=shape)).shape == (3,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": 1}, "members must be at least 2, got 1"),
        ({"critic_steps": 0}, "critic_steps must be at least 1, got 0"),
        ({"gp_weight": -1.0}, "gp_weight must be 0 or more, got -1.0"),
        ({"classifier_share": 1.0}, r"classifier_share must be in \[0, 1\), got 1.0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        WAICConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "phases"),
    [
        ({"epochs": 24}, (20, 21)),
        ({"epochs": 2}, (1, 2)),
        ({"epochs": 1}, (1, 1)),
        ({"epochs": 10, "classifier_share": 0.0}, (10, 10)),
    ],
)
def test_the_classifiers_have_the_last_share(settings, phases):
    config = WAICConfig(**settings)
    assert (config.warmup_epochs, config.grace_epochs()) == phases


# --- scores ---------------------------------------------------------------------------------------


def test_scores_of_made_up_logits_against_numpy():
    logits = np.random.default_rng(0).normal(size=(5, 7)) * 3
    found = waic_scores(torch.tensor(logits))
    expected = logits.var(0) - logits.mean(0), -logits.mean(0), logits.var(0), -logits[0]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    parts = ((logits - logits.mean(0)) ** 2).mean(1)
    assert float(dominance(torch.tensor(logits))) == pytest.approx(parts.max() / parts.sum())


def test_members_that_agree_have_no_variance_and_one_alone_makes_all_of_it():
    same = torch.tensor([[1.0, -2.0]]).expand(4, 2)
    waic, mean, variance, single = waic_scores(same)
    assert variance.tolist() == [0, 0]
    assert waic.tolist() == mean.tolist() == single.tolist() == [-1, 2]
    alone = torch.zeros(4, 5)
    alone[2] = 100.0
    assert float(dominance(alone)) == pytest.approx(3 / 4)


@pytest.mark.parametrize("standardise", [False, True])
def test_scores_are_those_of_the_critics(standardise):
    detector = make(standardise=standardise, critic_steps=1)
    for _ in range(4):
        detector.train_epoch(images())
    detector.calibrate(images())
    with torch.no_grad():
        known, new = (
            np.stack([c((x + 1) / 2).double().numpy() for c in detector.critics])
            for x in (batch(16), batch(5, seed=1))
        )
    if standardise:
        new = (new - known.mean(1, keepdims=True)) / known.std(1, keepdims=True)
    found = detector.scores(images(5, seed=1))
    np.testing.assert_allclose(found["waic"], new.var(0) - new.mean(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["single"], -new[0], rtol=1e-3, atol=1e-5)
    assert detector.primary_score == "waic"
    assert {name.partition(".")[0] for name in detector.inference_state()} == {
        *("critics", "logit_means", "logit_stds"),
    }


def test_critics_that_say_one_thing_are_a_collapse():
    detector = make()
    detector.train_epoch(images())
    for critic in detector.critics:
        nn.init.zeros_(critic[-2].weight)
    with pytest.raises(DivergedError, match=r"collapsed in epoch 1: .*'waic'"):
        detector.calibrate(images())


# --- objective ------------------------------------------------------------------------------------


def test_the_penalty_of_a_linear_critic():
    """Its gradient is w everywhere, and (|w| - 1)^2 has the gradient 2 (|w| - 1) w / |w|."""
    critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0))
    w = critic[1].weight.detach().double().numpy()
    penalty = gradient_penalty(critic, batch())
    assert float(penalty.detach()) == pytest.approx((np.linalg.norm(w) - 1) ** 2, rel=1e-5)
    penalty.backward()
    expected = 2 * (np.linalg.norm(w) - 1) * w / np.linalg.norm(w)
    np.testing.assert_allclose(critic[1].weight.grad, expected, rtol=1e-4)


def test_the_losses_of_the_game_against_numpy():
    detector = make(critic_steps=1, gp_weight=3.0)
    stream = torch.Generator().manual_seed(0)
    noises = [torch.randn(8, 4, generator=stream) for _ in range(3)]
    expected = {}
    x, logits = (batch() + 1) / 2, []
    pairs = list(zip(detector.critics, detector.generators, strict=True))
    for number, ((critic, generator), z) in enumerate(zip(pairs, noises, strict=True), 1):
        fake = generator(z).detach()
        share = torch.rand(8, 1, 1, 1, generator=stream)
        between = (share * x + (1 - share) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(between).sum(), between)
        norms = np.linalg.norm(gradient.flatten(1).double().numpy(), axis=1)
        true, false = (critic(part).detach().double().numpy() for part in (x, fake))
        expected[f"critic_{number}"] = false.mean() - true.mean() + 3.0 * ((norms - 1) ** 2).mean()
        expected[f"scale_{number}"] = np.abs(true).mean()
        logits.append(true)
    expected["logit_spread"] = np.stack(logits).std(0).mean()
    before = vector(detector.critics), vector(detector.generators)
    losses = detector.train_step(batch())
    assert {n: float(losses[n]) for n in expected} == pytest.approx(expected, rel=1e-3)
    assert not torch.equal(vector(detector.critics), before[0])
    assert not torch.equal(vector(detector.generators), before[1])
    assert {"generator_1", "generator_2", "generator_3"} <= losses.keys()


def test_a_generator_minimises_minus_what_its_critic_says():
    detector = make()
    noise = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    said = -detector.critics[0](detector.generators[0](noise)).mean()
    weights = list(detector.generators[0].parameters())
    gradients = torch.autograd.grad(said, weights)
    before = vector(detector.critics)
    losses = detector._generators_step(8)
    assert float(losses["generator_1"]) == pytest.approx(float(said.detach()), rel=1e-4)
    for weight, expected in zip(weights, gradients, strict=True):
        torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(vector(detector.critics), before)


def test_generators_step_at_every_fifth_step_of_the_critics():
    detector = make(epochs=20)
    stepped = [any("generator" in name for name in detector.train_step(batch())) for _ in range(11)]
    assert [number for number, did in enumerate(stepped, 1) if did] == [5, 10]


def test_the_second_phase_is_classification_and_leaves_the_generators_alone():
    detector = make(critic_steps=1)
    for _ in range(3):
        losses = detector.train_epoch(images())
        assert "generator_1" in losses
    before = vector(detector.generators)
    detector.begin_epoch(images())
    assert not detector.optimisation.optimizers["critics"].state_dict()["state"], "fresh"
    stream = torch.Generator()
    stream.set_state(detector.generator.get_state())
    fake = detector.generators[0](torch.randn(8, 4, generator=stream)).detach()
    critic, bce = detector.critics[0], nn.functional.binary_cross_entropy_with_logits
    expected = bce(critic((batch() + 1) / 2), torch.ones(8)) + bce(critic(fake), torch.zeros(8))
    losses = detector.train_step(batch())
    assert float(losses["classifier_1"]) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert not any("critic_" in name or "generator" in name for name in losses)
    assert torch.equal(vector(detector.generators), before)


# --- members --------------------------------------------------------------------------------------


def test_members_differ_and_learn_by_themselves():
    detector = make()
    firsts = [vector(critic) for critic in detector.critics]
    assert not torch.equal(firsts[0], firsts[1])
    assert not torch.equal(vector(make(seed=1).critics), vector(detector.critics))
    # One member's loss has no gradient in another's weights.
    gradients = torch.autograd.grad(
        detector.critics[0](batch()).sum(),
        list(detector.critics[1].parameters()),
        allow_unused=True,
    )
    assert all(gradient is None for gradient in gradients)


def test_a_member_that_diverges_is_named():
    detector = make()
    with torch.no_grad():
        detector.critics[1][-2].bias.fill_(math.nan)
    with pytest.raises(DivergedError, match="waic diverged in epoch 1: critic_2, scale_2"):
        detector.train_epoch(images())


def test_classifiers_tell_images_from_fakes():
    bars = torch.full((8, *SHAPE), -1.0)
    for i in range(8):
        bars[i, :, :, i : i + 2] = 1.0
    detector = make(epochs=4, steps_per_epoch=10, members=2, lr=3e-3, classifier_share=0.5)
    losses = [detector.train_epoch(bars) for _ in range(4)]
    assert losses[-1]["classifier_1"] < losses[2]["classifier_1"] < 1.386
    with torch.no_grad():
        fakes = detector.generators[0](torch.randn(32, 4))
        assert detector.critics[0](fakes).mean() < 0 < detector.critics[0]((bars + 1) / 2).mean()
