"""AnoGAN: the inversion, losses and scores against independent calculations, the averaged weights,
and what it says when it fails."""

import math

import numpy as np
import pytest
import torch
from noise_pictures import SHAPE, batch, images, training
from torch import nn

from amatune.detectors.anogan import AnoGAN, AnoGANConfig, Inversion, diversity, draw
from amatune.errors import ConfigError, DivergedError, TrainingWarning
from amatune.nets.dcgan import Discriminator

TINY = {"epochs": 4, "batch_size": 8, "width": 0.05, "latent_dim": 4, "inversion_steps": 4}


def make(seed=0, shape=SHAPE, **settings):
    return AnoGAN(AnoGANConfig(**{**TINY, **settings}), shape, seed=seed)


def flat_body():
    return Discriminator(nn.Flatten(), 16)


class Linear(nn.Module):
    """G(z) = A z as images of 4 x 4."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def forward(self, z):
        return (z @ self.matrix.T).view(-1, 1, 4, 4)


# --- published values -----------------------------------------------------------------------------


def test_the_published_preset_has_500_steps():
    held = AnoGANConfig.from_dict(AnoGAN.presets["published"])
    assert held == AnoGANConfig(lr=2e-4, inversion_steps=500, score="inversion")
    assert (held.lr, held.beta1, held.ema, held.feature_weight) == (2e-4, 0.5, 0.999, 0.1)
    assert held.score_every() == held.epochs


def outputs(network):
    kinds = nn.Conv2d | nn.ConvTranspose2d
    return [m.out_channels for m in network.modules() if isinstance(m, kinds)]


def test_the_networks_are_the_published_ones():
    detector = make(shape=(3, 32, 32), width=1.0, latent_dim=100)
    assert outputs(detector.maker) == [512, 256, 128, 3]
    assert outputs(detector.discriminator) == [128, 256, 512]
    assert detector.discriminator.head.in_features == 8192
    norms = [m for m in detector.discriminator.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 2
    dense = make(shape=(1, 28, 28), width=1.0, latent_dim=200)
    assert outputs(dense.maker) == [64, 1]
    assert [type(layer).__name__ for layer in dense.maker][:3] == ["Linear", "BatchNorm1d", "ReLU"]
    assert dense.discriminator.head.in_features == 1024


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 30), (1, 16, 32)])
def test_any_image_shape_trains(shape):
    detector = make(shape=shape)
    detector.train_epoch(images(8, shape=shape))
    detector.calibrate(images(8, shape=shape))
    assert detector.reconstruct(images(3, shape=shape)).shape == (3, *shape)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
        ({"inversion_steps": 0}, "inversion_steps must be at least 1, got 0"),
        ({"inversion_lr": 0.0}, "inversion_lr must be positive, got 0.0"),
        ({"feature_weight": 1.1}, r"feature_weight must be in \[0, 1\], got 1.1"),
        ({"prior": "other"}, "prior must be"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        AnoGANConfig(**settings)


def test_what_it_costs_is_said_beforehand():
    onnx, cost = AnoGAN.limits()
    assert "ONNX: each score is an optimisation of its own" in onnx
    assert "50 steps by default" in cost
    assert AnoGANConfig().inversion_steps == 50


# --- inversion ------------------------------------------------------------------------------------


def test_what_a_linear_generator_can_make_is_found():
    """By least squares, that is."""
    stream = torch.Generator().manual_seed(0)
    matrix = torch.randn(16, 3, generator=stream)
    true = torch.randn(5, 3, generator=stream)
    inversion = Inversion(Linear(matrix), flat_body(), torch.zeros(1, 3), 0.3, 300, 0.1)
    images = Linear(matrix)(true)
    _, z = inversion.invert(images)
    solved = torch.linalg.lstsq(matrix, images.flatten(1).T).solution.T
    assert torch.allclose(z, solved, atol=2e-3)
    assert max(map(float, inversion(images)[0].detach())) < 0.02


def test_the_inversion_is_adam_along_a_cosine_on_the_written_out_loss():
    stream = torch.Generator().manual_seed(0)
    matrix, start = torch.randn(16, 3, generator=stream), torch.randn(1, 3, generator=stream)
    images = torch.randn(2, 1, 4, 4, generator=stream)
    inversion = Inversion(Linear(matrix), flat_body(), start, 0.1, 3, 0.25)
    a, x = matrix.double().numpy(), images.flatten(1).double().numpy()
    z = np.repeat(start.double().numpy(), 2, axis=0)
    first = second = np.zeros_like(z)
    for step in range(3):
        gradient = -np.sign(x - z @ a.T) @ a  # both sums have this one: f is the image
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        rate = 0.1 * 0.5 * (1 + math.cos(math.pi * step / 3))
        z = z - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    np.testing.assert_allclose(inversion.invert(images)[1], z, rtol=1e-4)
    error = np.abs(x - z @ a.T).sum(1)
    for found in inversion(images)[:3]:
        np.testing.assert_allclose(found.detach(), error, rtol=1e-4)


def test_the_loss_falls_with_steps_and_has_the_gradient_of_finite_differences():
    detector = make(feature_weight=0.3)
    detector.train_epoch(images())
    x = batch(6)
    losses = [float(detector._inversion(n)(x)[0].sum().detach()) for n in (1, 5, 30)]
    assert losses[0] > losses[1] > losses[2]
    inversion = detector._inversion(1).double()
    x, z = x[:1].double(), torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    features, _ = inversion.discriminator(x)

    def loss(at):
        return inversion.loss(*inversion.parts(x, features, at)).sum()

    (gradient,) = torch.autograd.grad(loss(z), z)
    for number, step in enumerate(1e-7 * torch.eye(4, dtype=torch.float64)):
        with torch.no_grad():
            slope = float((loss(z + step) - loss(z - step)) / 2e-7)
        assert float(gradient[0, number]) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_all_images_start_from_one_drawn_code():
    detector = make(seed=3)
    assert torch.equal(detector.start, make(seed=3).start)
    assert not torch.equal(detector.start, make(seed=4).start)
    assert "start" in dict.fromkeys(detector.fitted)
    own = torch.Generator().manual_seed(0)
    uniform = draw("uniform", 4000, 2, own)
    assert float(uniform.abs().max()) <= 1
    assert float(uniform.var()) == pytest.approx(1 / 3, rel=0.05)
    assert float(draw("normal", 4000, 2, own).var()) == pytest.approx(1, rel=0.05)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["normal", "uniform"])
def test_the_losses_against_numpy_and_who_moves(prior):
    detector, again = training(make(prior=prior)), training(make(prior=prior))
    stream = torch.Generator().manual_seed(0)
    first, second = (draw(prior, 8, 4, stream) for _ in range(2))
    fake = again.maker(first).detach()
    logits = (again.discriminator(part)[1].detach() for part in (batch(), fake))
    real, false = (values.double().numpy() for values in logits)
    players = {"maker": detector.maker, "discriminator": detector.discriminator}
    before = {name: [p.detach().clone() for p in own.parameters()] for name, own in players.items()}
    losses = detector.train_step(batch())
    expected = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(false)).mean()
    assert float(losses["discriminator"]) == pytest.approx(expected, rel=1e-4)

    bce = nn.functional.binary_cross_entropy_with_logits
    adam = again.optimisation.optimizers["discriminator"]
    told = bce(again.discriminator(batch())[1], torch.ones(8))
    told = told + bce(again.discriminator(fake)[1], torch.zeros(8))
    told.backward()
    first = list(again.discriminator.parameters())
    for own, other in zip(detector.discriminator.parameters(), first, strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-6)
    adam.step()
    made = again.maker(second)
    fooled = bce(again.discriminator(made)[1], torch.ones(8))
    assert float(losses["generator"]) == pytest.approx(float(fooled.detach()), rel=1e-3)
    made, x = (part.detach().double().flatten(1).numpy() for part in (made, batch()))
    spread = [np.linalg.norm(part - part.mean(0), axis=1).mean() for part in (made, x)]
    assert float(losses["diversity"]) == pytest.approx(spread[0] / spread[1], rel=1e-3)
    fooled.backward()
    for own, other in zip(detector.maker.parameters(), again.maker.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-6)
    for name, network in players.items():
        parameters = zip(before[name], network.parameters(), strict=True)
        assert all(not torch.equal(was, now) for was, now in parameters), name


def test_scores_may_be_asked_for_in_inference_mode():
    detector = make()
    training(detector)
    with torch.inference_mode():
        detector.calibrate(images())
        found = detector.scores(images())
        rebuilt = detector.reconstruct(images())
    for name, expected in detector.scores(images()).items():
        assert torch.equal(found[name], expected), name
    assert torch.equal(rebuilt, detector.reconstruct(images()))


def test_scores_come_from_averages_of_both_networks():
    detector = make(ema=0.15)
    expected = {name: network.state_dict() for name, network in detector.scoring_networks().items()}
    expected = {n: {k: v.double() for k, v in own.items()} for n, own in expected.items()}
    training(detector)
    for step in range(3):
        detector.train_step(batch(seed=step))
        memory = min(0.15, (1 + step) / (10 + step))
        for name, own in expected.items():
            for key, value in detector.networks[name].state_dict().items():
                own[key] = memory * own[key] + (1 - memory) * value.double()
    for name, network in detector.scoring_networks().items():
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                assert torch.allclose(value.double(), expected[name][key], rtol=1e-4, atol=1e-6)
    detector = training(make(ema=0.0))
    detector.train_step(batch())
    assert torch.equal(detector.averaged_maker[-2].weight, detector.maker[-2].weight)


def test_convergence_is_in_the_losses_of_the_middle_and_the_end():
    detector = make(epochs=4)
    told = [detector.train_epoch(images()) for _ in range(4)]
    assert ["inversion_gap" in losses for losses in told] == [False, True, False, True]
    gap, movement = detector._measure(images())
    probes = batch(16)
    _, z = detector._inversion(4).invert(probes)
    reached, further = (float(detector._inversion(n)(probes)[0].mean().detach()) for n in (4, 8))
    assert float(gap) == pytest.approx(1 - further / reached, abs=1e-4)
    assert float(movement) == pytest.approx(float((z - detector.start).abs().mean()), rel=1e-4)


# --- scores ---------------------------------------------------------------------------------------


def test_scores_follow_their_definitions():
    detector = make(feature_weight=0.3)
    detector.train_epoch(images())
    detector.calibrate(images())
    found = detector.scores(images(5, seed=1))
    rebuilt = detector.reconstruct(images(5, seed=1))
    for number, x in enumerate(batch(5, seed=1)):
        with torch.no_grad():
            seen = [detector.averaged_discriminator(y[None])[0] for y in (x, rebuilt[number])]
        image, features = (x - rebuilt[number]).abs().sum(), (seen[0] - seen[1]).abs().sum()
        pixels = x.double().numpy()
        across, down = (np.abs(np.diff(pixels, axis=a)).mean() for a in (2, 1))
        expected = {
            "inversion": 0.7 * float(image) + 0.3 * float(features),
            "image": float(image),
            "features": float(features),
        }
        expected |= {f"{n}_c": v / (across + down + 0.02) for n, v in expected.items()}
        own = {name: float(values[number]) for name, values in found.items()}
        assert own == pytest.approx(expected, rel=1e-3)
    assert detector.primary_score == "inversion"


def test_inversions_that_do_not_converge_are_warned_of():
    detector = make(inversion_steps=1, inversion_lr=1e-3)
    detector.train_epoch(images())
    with torch.no_grad():
        detector.averaged_maker[1].weight.mul_(30)  # codes matter
    detector._measure = lambda _images: (torch.tensor(0.37), torch.tensor(0.0))
    with pytest.warns(TrainingWarning, match="inversion_steps=1 would lower .* by 37%"):
        detector.calibrate(images())


def test_a_generator_of_one_picture_is_a_collapse():
    detector = make()
    detector.train_epoch(images())
    with torch.no_grad():
        detector.averaged_maker[-2].weight.zero_()
    detector.calibrate(images())  # it has hardly begun
    detector.steps = 200
    with pytest.raises(DivergedError, match=r"its generator makes one picture.* by 0\.0%"):
        detector.calibrate(images())
    assert float(diversity(batch(8), batch(8))) == pytest.approx(1)


def test_the_generators_images_come_to_differ():
    bars = torch.full((8, *SHAPE), -1.0)
    for i in range(8):
        bars[i, :, :, 2 * i : 2 * i + 4] = 1.0
    detector = make(epochs=3, steps_per_epoch=15, lr=2e-3, width=0.1)
    losses = [detector.train_epoch(bars) for _ in range(3)]
    assert losses[-1]["diversity"] > 1.3 * losses[0]["diversity"]
