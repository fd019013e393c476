"""ALAD: losses, pairs, averaged weights and scores against independent calculations, who learns
from what, its traps, and that it learns."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from amatune import metrics
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.detectors.alad import (
    ALAD,
    ALADConfig,
    stack_pair,
)
from amatune.errors import ConfigError, DivergedError
from amatune.nets.adversarial import Dropout, average_into, cross_entropy, two_sided

SHAPE = (1, 16, 16)
TINY = {"epochs": 4, "batch_size": 8, "width": 0.05, "latent_dim": 8}


def make(seed=0, shape=SHAPE, **settings):
    return ALAD(ALADConfig(**{**TINY, **settings}), shape, seed=seed)


def images(count=16, seed=0, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def training(detector):
    for module in (detector.encoder, detector.decoder, *detector.discriminators.values()):
        module.train()
    return detector


def batch(count=8, seed=0, shape=SHAPE):
    return images(count, seed, shape).float() / 127.5 - 1


def trained(epochs=2, **settings):
    detector = make(**settings)
    for _ in range(epochs):
        detector.train_epoch(images())
    detector.calibrate(images())
    return detector


def snapshot(detector):
    names = ("encoder", "decoder", "d_xz", "d_xx", "d_zz")
    return {n: [p.clone() for p in getattr(detector, n).parameters()] for n in names}


def moved(detector, before):
    after = snapshot(detector)
    return {
        name
        for name, old in before.items()
        if any(not torch.equal(a, b) for a, b in zip(old, after[name], strict=True))
    }


# --- published values -----------------------------------------------------------------------------


def test_the_paper_is_a_preset():
    config = ALADConfig.from_dict(ALAD.presets["paper"]).to_dict()
    published = {
        "batch_size": 32,
        "latent_dim": 100,
        "spectral_norm": True,
        "d_zz": True,
        "stacked": "height",
        "dropout": 0.2,
        "lr": 2e-4,
        "beta1": 0.5,
        "ema": 0.999,
        "score": "features",
    }
    assert {k: v for k, v in config.items() if k in published} == published


def layers(module, kind):
    return [m for m in module.modules() if isinstance(m, kind)]


def test_the_networks_are_the_published_ones():
    detector = make(shape=(3, 32, 32), width=1.0, latent_dim=100)

    def outputs(module):
        kinds = nn.Conv2d | nn.ConvTranspose2d
        return [m.out_channels for m in layers(module, kinds)]

    def units(module):
        return [(m.in_features, m.out_features) for m in layers(module, nn.Linear)]

    assert outputs(detector.encoder) == [128, 256, 512, 100]
    assert outputs(detector.decoder) == [512, 256, 128, 3]
    assert outputs(detector.d_xz) == [128, 256, 512]
    assert outputs(detector.d_xx) == [64, 128]
    joint = 512 * 4 * 4 + 512
    assert units(detector.d_xz) == [(100, 512), (512, 512), (joint, 1024), (1024, 1)]
    assert units(detector.d_xx) == [(128 * 16 * 8, 1)]
    assert units(detector.d_zz) == [(200, 64), (64, 32), (32, 1)]
    assert len(layers(detector.encoder, nn.BatchNorm2d)) == 3
    assert len(layers(detector.d_xz, nn.BatchNorm2d)) == 2
    assert not layers(detector.d_xx, nn.BatchNorm2d)
    assert [len(layers(m, Dropout)) for m in detector.discriminators.values()] == [3, 2, 2]


def test_all_but_the_last_layers_and_the_generator_are_spectrally_normalised():
    for on in (True, False):
        detector = make(spectral_norm=on)
        for network, count in (("encoder", 2), ("d_xz", 5), ("d_xx", 2), ("d_zz", 2)):
            module = getattr(detector, network)
            normalised = [m for m in module.modules() if parametrize.is_parametrized(m)]
            assert len(normalised) == (count if on else 0), network
        assert not any(parametrize.is_parametrized(m) for m in detector.decoder.modules())


@pytest.mark.parametrize("stacked", ["height", "channels"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 12), (1, 16, 20), (1, 28, 28), (3, 33, 65)])
def test_any_image_shape_trains(shape, stacked):
    detector = make(shape=shape, stacked=stacked)
    detector.train_epoch(images(8, shape=shape))
    detector.calibrate(images(8, shape=shape))
    assert detector.score(images(3, shape=shape)).shape == (3,)
    assert detector.reconstruct(images(3, shape=shape)).shape == (3, *shape)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"score": "l2"}, "score must be"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ALADConfig(**settings)


def test_too_small_images_are_refused():
    with pytest.raises(ConfigError, match="28x7 pixels are too small"):
        make(shape=(1, 28, 7))


# --- objective ------------------------------------------------------------------------------------


def test_cross_entropies_against_numpy():
    logits = np.array([-3.0, -0.1, 0.0, 2.0, 40.0])
    probability = 1 / (1 + np.exp(-logits))
    ones = float(cross_entropy(torch.tensor(logits), 1))
    assert ones == pytest.approx(-np.log(probability).mean())
    zeros = float(cross_entropy(torch.tensor(logits[:4]), 0))
    assert zeros == pytest.approx(-np.log(1 - probability[:4]).mean())
    undecided = torch.zeros(3)
    assert float(two_sided(undecided, undecided)) == pytest.approx(2 * math.log(2))


def test_pairs_lie_one_above_the_other():
    left, right = batch(2, shape=(3, 5, 4)), batch(2, 1, (3, 5, 4))
    pairs = stack_pair(left, right, "height")
    assert pairs.shape == (2, 3, 10, 4)
    for row in range(5):
        assert torch.equal(pairs[:, :, row], left[:, :, row])
        assert torch.equal(pairs[:, :, 5 + row], right[:, :, row])
    assert torch.equal(stack_pair(left, right, "channels")[:, 3:], right)


@pytest.mark.parametrize("d_zz", [True, False])
def test_both_steps_play_the_written_out_game(d_zz):
    settings = {"spectral_norm": False, "dropout": 0.0, "d_zz": d_zz}
    detector = training(make(**settings))
    with torch.no_grad():  # discriminators that have an opinion
        for module in detector.discriminators.values():
            for layer in layers(module, nn.Linear | nn.Conv2d):
                layer.weight.mul_(30)
    sample = detector._make_sample(batch())
    x, codes, rebuilt, z, generated, recovered = sample
    assert torch.equal(sample.images, batch())

    def says(probability, label):
        return -np.log(probability if label else 1 - probability).mean()

    def probabilities(logits):
        return 1 / (1 + np.exp(-logits.detach().double().numpy()))

    def game():
        played = {
            "xz": (detector.d_xz(x, codes), detector.d_xz(generated, z)),
            "xx": (detector.d_xx(torch.cat([x, x], 2)), detector.d_xx(torch.cat([x, rebuilt], 2))),
        }
        if d_zz:
            same, other = torch.cat([z, z], 1), torch.cat([z, recovered], 1)
            played["zz"] = (detector.d_zz(same), detector.d_zz(other))
        return {n: [probabilities(logits) for logits in pair] for n, pair in played.items()}

    played = game()
    losses = detector._discriminators_step(sample.detached())
    parts = {n: says(true, 1) + says(other, 0) for n, (true, other) in played.items()}
    assert {n: float(losses[n]) for n in parts} == pytest.approx(parts, rel=1e-4)
    assert float(losses["discriminators"]) == pytest.approx(sum(parts.values()), rel=1e-4)

    played = game()  # the discriminators have learnt
    cycles = sum(says(played[n][1], 1) for n in played if n != "xz")
    losses = detector._autoencoder_step(sample)
    encoder, generator = says(played["xz"][0], 0) + cycles, says(played["xz"][1], 1) + cycles
    assert float(losses["encoder"]) == pytest.approx(encoder, rel=1e-4)
    assert float(losses["generator"]) == pytest.approx(generator, rel=1e-4)


def test_each_step_moves_its_own_players():
    detector = training(make())
    sample = detector._make_sample(batch())
    before = snapshot(detector)
    detector._discriminators_step(sample.detached())
    assert moved(detector, before) == {"d_xz", "d_xx", "d_zz"}
    before = snapshot(detector)
    detector._autoencoder_step(sample)
    assert moved(detector, before) == {"encoder", "decoder"}
    parameters = [p for module in detector.discriminators.values() for p in module.parameters()]
    assert all(p.requires_grad for p in parameters)


def test_encoder_and_generator_descend_their_own_losses():
    """One backward pass over the sum gives each its own gradient."""
    detector = training(make(spectral_norm=False, dropout=0.0))
    x, codes, rebuilt, z, generated, recovered = detector._make_sample(batch())
    cycles = cross_entropy(detector.d_xx(torch.cat([x, rebuilt], 2)), 1)
    cycles = cycles + cross_entropy(detector.d_zz(torch.cat([z, recovered], 1)), 1)
    losses = {
        "encoder": cross_entropy(detector.d_xz(x, codes), 0) + cycles,
        "decoder": cross_entropy(detector.d_xz(generated, z), 1) + cycles,
    }
    expected = {
        name: torch.autograd.grad(
            loss, list(getattr(detector, name).parameters()), retain_graph=True
        )
        for name, loss in losses.items()
    }
    again = training(make(spectral_norm=False, dropout=0.0))
    again._autoencoder_step(again._make_sample(batch()))
    for name, gradients in expected.items():
        own = [p.grad for p in getattr(again, name).parameters()]
        assert all(
            torch.allclose(a, b, rtol=1e-3, atol=1e-7) for a, b in zip(own, gradients, strict=True)
        )


def test_dropout_draws_from_its_generator_and_keeps_the_mean():
    ones = torch.ones(100, 100)
    first, second = (Dropout(0.2, torch.Generator().manual_seed(3))(ones) for _ in range(2))
    assert torch.equal(first, second)
    assert set(first.unique().tolist()) == {0.0, 1.25}
    assert float(first.mean()) == pytest.approx(1, abs=0.02)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(Dropout(0.2, generator).eval()(ones), ones)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(3).get_state())


def test_dropout_reaches_the_discriminators():
    losses = [training(make(dropout=share)).train_step(batch()) for share in (0.0, 0.5)]
    for name in ("xz", "xx", "zz"):
        assert not torch.equal(losses[0][name], losses[1][name])


# --- averaged weights -----------------------------------------------------------------------------


def test_the_average_against_numpy_with_its_growing_memory():
    detector = make(ema=0.15)
    weight = detector.averaged.decoder[1].weight.numpy().copy()
    statistics = detector.averaged.encoder[1].running_var.numpy().copy()
    training(detector)
    for step in range(4):
        detector.train_step(batch(seed=step))
        memory = min(0.15, (1 + step) / (10 + step))
        online = detector.decoder[1].weight.detach().numpy()
        weight = memory * weight + (1 - memory) * online
        statistics = memory * statistics + (1 - memory) * detector.encoder[1].running_var.numpy()
    np.testing.assert_allclose(detector.averaged.decoder[1].weight.numpy(), weight, rtol=1e-5)
    ours = detector.averaged.encoder[1].running_var.numpy()
    np.testing.assert_allclose(ours, statistics, rtol=1e-5)
    assert memory == 0.15


def test_normalised_weights_are_averaged_as_normalised():
    detector = make()
    layer = detector.encoder[0]
    average_into(detector.averaged.encoder, detector.encoder, memory=0.0)
    matrix = detector.averaged.encoder[0].weight.flatten(1)
    assert torch.equal(matrix, layer.weight.detach().flatten(1))
    assert float(torch.linalg.matrix_norm(matrix, 2)) == pytest.approx(1, abs=0.05)
    assert not torch.allclose(matrix, layer.parametrizations.weight.original.flatten(1))


def test_scores_come_from_the_averaged_weights():
    detector = trained()
    expected = detector.score(images(3))
    with torch.no_grad():
        for module in (detector.encoder, detector.decoder, *detector.discriminators.values()):
            for parameter in module.parameters():
                parameter.zero_()
    assert torch.equal(detector.score(images(3)), expected)
    prefixes = {name.partition(".")[0] for name in detector.inference_state()}
    assert prefixes == {"encoder", "decoder", "d_xx"}
    assert len(detector.scorer().state_dict()) == len(detector.inference_state())


# --- scores and traps -----------------------------------------------------------------------------


@pytest.mark.parametrize("stacked", ["height", "channels"])
def test_scores_follow_their_definitions(stacked):
    detector = trained(stacked=stacked)
    encoder, decoder, d_xx = detector.averaged
    scores = detector.scores(images(4, seed=1))
    axis = 1 if stacked == "height" else 0
    for number, x in enumerate(batch(4, seed=1)):
        with torch.no_grad():
            rebuilt = decoder(encoder(x[None]))[0]
            same, other = (torch.cat([x, y], axis)[None] for y in (x, rebuilt))
            features = float((d_xx.body(same) - d_xx.body(other)).abs().sum())
            fooled = float(torch.sigmoid(d_xx(other)))
            error = float((x - rebuilt).abs().sum())
        assert float(scores["features"][number]) == pytest.approx(features, rel=1e-3)
        assert float(scores["logits"][number]) == pytest.approx(-math.log(fooled), rel=1e-3)
        assert float(scores["l1"][number]) == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("name", ALAD.score_names)
def test_the_ranking_score_is_a_setting(name):
    detector = trained(score=name)
    assert torch.equal(detector.score(images(5)), detector.scores(images(5))[name])


@pytest.mark.parametrize("preset", ALAD.presets)
def test_every_preset_trains_and_scores(preset):
    detector = trained(epochs=1, **ALAD.presets[preset])
    assert detector.score(images(3)).shape == (3,)
    assert (detector.d_zz is None) == (preset == "without-d-zz")


def test_a_score_does_not_depend_on_the_batch():
    detector = trained()
    alone = torch.cat([detector.score(image[None]) for image in images(6, seed=1)])
    black = torch.zeros(30, *SHAPE, dtype=torch.uint8)
    among = detector.score(torch.cat([images(6, seed=1), black]))[:6]
    assert torch.allclose(alone, among, rtol=1e-4)


def test_a_constant_score_is_a_collapse():
    detector = make()
    detector.train_epoch(images())
    with torch.no_grad():
        for parameter in detector.averaged.d_xx.parameters():
            parameter.zero_()
    with pytest.raises(DivergedError, match="collapsed in epoch 1"):
        detector.calibrate(images())


def test_divergence_is_raised_and_never_reported():
    detector = make()
    with torch.no_grad():
        next(detector.decoder.parameters()).fill_(math.nan)
    with pytest.raises(DivergedError, match="not finite"):
        detector.train_epoch(images())
    assert detector.epoch == 0


# --- learning -------------------------------------------------------------------------------------


def test_overfitting_a_tiny_set_rebuilds_it():
    shapes = torch.full((8, 1, 16, 16), -1.0)
    for i in range(8):  # 8 different bright bars
        shapes[i, 0, :, 2 * i : 2 * i + 4] = 1.0
    detector = make(
        epochs=100, width=0.1, lr=2e-3, stacked="channels", spectral_norm=False, dropout=0.0
    )
    errors = [detector.train_epoch(shapes)["reconstruction"] for _ in range(100)]
    assert errors[0] > 0.5
    assert np.mean(errors[-10:]) < 0.5 * errors[0]


def test_it_learns_digits():
    request = ProblemRequest(normal_classes=("0", "1", "2", "3", "4"), image_size=12)
    problem = make_problem(request)
    detector = make(
        shape=problem.image_shape, batch_size=32, width=0.1, lr=2e-3, stacked="channels"
    )
    pictures = torch.from_numpy(problem.train_images())
    for _ in range(4):
        detector.train_epoch(pictures)
    detector.calibrate(pictures)
    scores = [
        detector.score(torch.from_numpy(part)).numpy() for part in problem.validation_images()
    ]
    assert metrics.auroc(*scores) > 0.75
