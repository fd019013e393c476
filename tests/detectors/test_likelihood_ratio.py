"""The likelihood ratio: mutation, phases and score against independent calculations, its traps, and
that it learns."""

import math

import pytest
import torch

from amatune.detectors.likelihood_ratio import LikelihoodRatio, LikelihoodRatioConfig, mutate
from amatune.errors import ConfigError, RequestError
from amatune.testing import noise

SHAPE = (1, 8, 8)
TINY = {"epochs": 4, "batch_size": 8, "width": 0.25, "resolutions": 1, "mixtures": 2}


def make(seed=0, shape=SHAPE, **settings):
    return LikelihoodRatio(LikelihoodRatioConfig(**{**TINY, **settings}), shape, seed=seed)


def images(count=16, seed=0, shape=SHAPE):
    return noise((count, *shape), seed)


def train(detector, pictures, epochs=None):
    losses = [detector.train_epoch(pictures) for _ in range(epochs or detector.config.epochs)]
    detector.calibrate(pictures)
    return losses


# --- settings -------------------------------------------------------------------------------------


def test_the_presets_are_the_defaults_and_what_is_published():
    assert (
        LikelihoodRatioConfig.from_dict(LikelihoodRatio.presets["small"]) == LikelihoodRatioConfig()
    )
    config = LikelihoodRatioConfig.from_dict(LikelihoodRatio.presets["paper"])
    assert (config.filters, config.blocks, config.resolutions, config.mixtures) == (32, 5, 1, 1)
    assert (config.lr, config.batch_size, config.dropout) == (1e-4, 32, 0.0)
    assert config.lr_decay == pytest.approx(0.999995**50_000, abs=2e-3)
    detector = make(**LikelihoodRatio.presets["paper"])
    train(detector, images())
    assert set(detector.scores(images(3))) == {"llr", "nll"}


@pytest.mark.parametrize(
    ("epochs", "foreground", "grace"), [(1, 1, 2), (2, 1, 2), (5, 3, 4), (25, 13, 17)]
)
def test_the_background_has_half_of_the_epochs(epochs, foreground, grace):
    config = LikelihoodRatioConfig(epochs=epochs)
    assert (config.warmup_epochs, config.grace_epochs()) == (foreground, grace)
    assert config.score_every() == epochs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mutation_rate": 1.5}, r"mutation_rate must be in \[0, 1\], got 1.5"),
        ({"background_weight_decay": -1.0}, "background_weight_decay must be 0 or more, got -1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LikelihoodRatioConfig(**settings)


# --- mutation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_the_mutated_share_is_the_rate_less_draws_of_the_same_value(rate):
    batch = images(64, shape=(3, 16, 16)).float() / 127.5 - 1
    found = mutate(batch, rate, torch.Generator().manual_seed(1))
    share, count = float((found != batch).double().mean()), batch.numel()
    expected = rate * 255 / 256
    assert abs(share - expected) < 3 * math.sqrt(expected * (1 - expected) / count)
    bytes_ = ((found + 1) * 127.5).round()
    assert torch.equal(bytes_ / 127.5 - 1, found)  # still bytes
    assert (bytes_.min(), bytes_.max()) == (0, 255)


def test_a_mutated_value_is_uniform_whatever_it_was():
    batch = torch.full((100, 1, 16, 16), 1.0)
    found = mutate(batch, 1.0, torch.Generator().manual_seed(1))
    counts = torch.bincount(((found + 1) * 127.5).round().long().flatten(), minlength=256)
    expected = batch.numel() / 256
    assert float(((counts - expected) ** 2 / expected).sum()) < 255 + 4 * math.sqrt(2 * 255)


def test_nothing_is_mutated_at_rate_0():
    batch = images().float() / 127.5 - 1
    assert torch.equal(mutate(batch, 0.0, torch.Generator()), batch)


# --- training and score ---------------------------------------------------------------------------


def test_each_density_trains_in_its_half():
    detector = make()
    parts = {"foreground": detector.foreground, "background": detector.background}
    moved = []
    for _ in range(4):
        before = {name: part.head.weight.clone() for name, part in parts.items()}
        losses = detector.train_epoch(images())
        moved.append([n for n, part in parts.items() if (part.head.weight != before[n]).any()])
        assert list(losses) == moved[-1]
    assert moved == [["foreground"]] * 2 + [["background"]] * 2


def test_the_background_learns_mutated_images_and_the_foreground_clean_ones():
    detector = make(mutation_rate=0.5)
    pictures = images()
    batch = pictures[:8].float() / 127.5 - 1
    for phase in ("foreground", "background"):
        network = getattr(detector, phase)
        drawn = torch.Generator()
        drawn.set_state(detector.generator.get_state())
        mutated = mutate(batch, 0.5, drawn)
        with torch.no_grad():
            clean, other = (
                float(-network.log_prob(x).mean() / (64 * math.log(2))) for x in (batch, mutated)
            )
        found = float(detector.train_step(batch)[phase])
        assert abs(clean - other) > 0.01
        assert found == pytest.approx(other if phase == "background" else clean, abs=1e-4)
        train(detector, pictures, 2)


def test_adam_forgets_as_published():
    (first, _) = make().optimisation.optimizers["adam"].param_groups
    assert first["betas"] == (0.95, 0.9995)


def test_the_ratio_is_that_of_both_densities_in_bits():
    detector = make(shape=(3, 9, 8))
    pictures = images(16, shape=(3, 9, 8))
    train(detector, pictures)
    batch = pictures.float() / 127.5 - 1
    with torch.no_grad():
        log_p, log_background = (
            net.double()(batch.double()).flatten(1).sum(1) / (216 * math.log(2))
            for net in (detector.foreground, detector.background)
        )
    detector.foreground.float(), detector.background.float()
    found = detector.scores(pictures)
    assert found["nll"].tolist() == pytest.approx((-log_p).tolist(), rel=1e-4)
    assert found["llr"].tolist() == pytest.approx((log_background - log_p).tolist(), abs=1e-4)
    assert detector.primary_score == "llr"
    pixels = detector.pixel_map(pictures)
    assert pixels.shape == (16, 9, 8)
    assert torch.allclose(pixels.mean(dim=(1, 2)) / 3, found["llr"], atol=1e-5)
    assert detector.pixel_map(pictures[:0]).shape == (0, 9, 8)


def test_before_the_background_has_trained_the_ratio_is_the_likelihood():
    detector = make()
    train(detector, images(), 2)
    found = detector.scores(images(5))
    assert torch.equal(found["llr"], found["nll"])
    train(detector, images(), 1)
    found = detector.scores(images(5))
    assert not torch.equal(found["llr"], found["nll"])


def test_equal_densities_cancel():
    detector = make()
    train(detector, images())
    detector.background.load_state_dict(detector.foreground.state_dict())
    assert detector.score(images(5)).abs().max() < 1e-6


def test_a_map_needs_a_calibration():
    with pytest.raises(RequestError, match="calibrate"):
        make().pixel_map(images(2))


def test_weight_decay_is_real_and_the_backgrounds_alone():
    """In the authors' code it is collected and never added to the loss."""

    def trained(decay):
        detector = make(background_weight_decay=decay, lr=1e-3, lr_decay=1.0)
        train(detector, images())
        return detector

    plain, decayed = trained(0.0), trained(100.0)
    for first, second in zip(
        plain.foreground.parameters(), decayed.foreground.parameters(), strict=True
    ):
        assert torch.equal(first, second)

    def size(detector):
        return sum(
            float(p.detach().square().sum()) for p in detector.background.parameters() if p.ndim > 1
        )

    # Each of 4 steps takes away lr x decay = a tenth of the weights, and adds what it learns.
    assert size(decayed) / size(plain) == pytest.approx(0.9**8, abs=0.05)


def test_the_learning_rate_falls_in_each_phase_anew():
    detector = make(lr=1e-3, lr_decay=0.01)
    rates = []
    for _ in range(4):
        detector.train_epoch(images())
        rates.append(detector.optimisation.optimizers["adam"].param_groups[0]["lr"])
    assert rates == pytest.approx([1e-4, 1e-5, 1e-4, 1e-5])


def test_both_densities_learn_and_the_normal_images_are_likelier_under_the_foreground():
    """Stripes of two values: in 100 steps a density knows some of it."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 2, (32, 1, 8, 1), generator=generator) * 100 + 60
    pictures = rows.expand(32, 1, 8, 8).to(torch.uint8).contiguous()
    detector = make(epochs=20, steps_per_epoch=10, width=0.5, lr=1e-2)
    losses = train(detector, pictures)
    assert losses[9]["foreground"] < losses[0]["foreground"] - 0.5
    assert losses[19]["background"] < losses[10]["background"]
    assert float(detector.score(pictures).mean()) < 0
    # Noise is no likelier under the foreground.
    assert detector.score(images(16)).min() > detector.score(pictures).max()
