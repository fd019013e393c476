"""Deep SVDD: objective, centre and score against independent calculations, its phases, its traps,
and that it learns."""

import numpy as np
import pytest
import torch
from torch import nn

from amatune import metrics
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.detectors.deep_svdd import (
    ContrastNormalization,
    DeepSVDD,
    DeepSVDDConfig,
    find_center,
    find_radius,
    soft_boundary_loss,
    squared_distances,
)
from amatune.errors import ConfigError, DivergedError

SHAPE = (1, 16, 16)
TINY = {"epochs": 4, "batch_size": 8, "lr": 1e-3, "pretrain_lr": 1e-3}


def make(seed=0, shape=SHAPE, **settings):
    return DeepSVDD(DeepSVDDConfig(**{**TINY, **settings}), shape, seed=seed)


def images(count=16, seed=0, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def train(detector, pictures, epochs=None):
    return [detector.train_epoch(pictures) for _ in range(epochs or detector.config.epochs)]


# --- published values -----------------------------------------------------------------------------


def test_defaults_are_the_published_values():
    config = DeepSVDDConfig()
    published = {
        "epochs": 300,
        "batch_size": 200,
        "pretrain": 0.5,
        "pretrain_lr": 1e-4,
        "objective": "one-class",
        "nu": 0.1,
        "lr": 1e-4,
        "weight_decay": 5e-7,
    }
    assert {k: v for k, v in config.to_dict().items() if k in published} == published
    assert config.warmup_epochs == config.svdd_epochs == config.grace_epochs() == 150
    assert round(config.milestones[0] * config.svdd_epochs) == 50
    soft = DeepSVDDConfig(objective="soft-boundary")
    assert (config.radius_epochs, soft.radius_epochs, soft.grace_epochs()) == (0, 10, 160)


@pytest.mark.parametrize("objective", ["one-class", "soft-boundary"])
@pytest.mark.parametrize("pretrain", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("epochs", [1, 2, 25])
def test_the_settings_can_show_an_effect_before_the_end(epochs, pretrain, objective):
    config = DeepSVDDConfig(epochs=epochs, pretrain=pretrain, objective=objective)
    assert 1 <= config.grace_epochs() <= epochs
    assert config.grace_epochs() >= config.warmup_epochs + config.radius_epochs


@pytest.mark.parametrize(
    ("shape", "channels", "flat", "code"),
    [((1, 28, 28), [8, 4], 4 * 7 * 7, 32), ((3, 32, 32), [32, 64, 128], 128 * 4 * 4, 128)],
)
def test_the_networks_are_the_published_ones(shape, channels, flat, code):
    encoder = make(shape=shape).encoder
    convolutions = [m for m in encoder if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == channels
    assert {c.kernel_size for c in convolutions} == {(5, 5)}
    assert (encoder[-1].in_features, encoder[-1].out_features) == (flat, code)


def test_nothing_lets_the_encoder_be_constant():
    for module in make().encoder.modules():
        assert getattr(module, "bias", None) is None
        assert not getattr(module, "affine", False)


@pytest.mark.parametrize("network", ["mnist", "cifar10"])
@pytest.mark.parametrize("size", [(8, 8), (12, 12), (16, 20), (28, 28), (33, 65)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_shape_trains(network, size, channels):
    shape = (channels, *size)
    detector = make(shape=shape, network=network, width=0.2, epochs=2)
    assert [sorted(losses) for losses in train(detector, images(8, shape=shape))] == [
        ["pretraining", "reconstruction"],
        ["distance", "objective", "pretraining"],
    ]
    rebuilt = detector.decoder(detector.encoder(torch.zeros(2, *shape)))
    assert rebuilt.shape == (2, *shape)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nu": 0.0}, r"nu must be in \(0, 1\), got 0.0"),
        ({"pretrain": 1.0}, r"pretrain must be in \[0, 1\), got 1.0"),
        ({"lr": -1.0}, "lr must be positive, got -1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more, got -1.0"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"milestones": (50.0,)}, "milestones are shares of a phase"),
        ({"objective": "two-class"}, "objective must be"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DeepSVDDConfig(**settings)


def test_too_small_images_are_refused():
    with pytest.raises(ConfigError, match="7x28 pixels are too small"):
        make(shape=(1, 7, 28))


# --- objective, centre and score ------------------------------------------------------------------


def test_the_centre_is_the_mean_code_kept_away_from_zero():
    codes = torch.tensor([[0.5, 0.0, 0.30, -0.02, 2.0, 0.1], [0.7, 0.0, -0.2, -0.02, -6.0, 0.1]])
    assert find_center(codes).tolist() == pytest.approx([0.6, 0.1, 0.1, -0.1, -2.0, 0.1])


def test_the_soft_boundary_against_numpy():
    rng = np.random.default_rng(0)
    codes, center, nu = rng.normal(size=(50, 7)), rng.normal(size=7), 0.13
    distances = np.array(
        [sum((c - o) ** 2 for c, o in zip(code, center, strict=True)) for code in codes]
    )
    ours = squared_distances(torch.tensor(codes), torch.tensor(center))
    assert ours.tolist() == pytest.approx(distances.tolist())

    radius = find_radius(ours, nu)
    assert float(radius) == pytest.approx(np.quantile(np.sqrt(distances), 1 - nu))
    outside = sum(max(0.0, d - float(radius) ** 2) for d in distances) / len(distances)
    expected = float(radius) ** 2 + outside / nu
    assert float(soft_boundary_loss(ours, radius, nu)) == pytest.approx(expected)


def test_an_epoch_minimises_the_mean_distance_to_the_centre():
    detector = make(pretrain=0.0, batch_size=16)
    pictures = images()
    before = make(pretrain=0.0, batch_size=16)
    batch = pictures.float() / 127.5 - 1
    with torch.no_grad():
        center = find_center(before.encoder(batch))
        codes = before.encoder.train()(batch)  # the step's batch norm sees this batch
    (losses,) = train(detector, pictures, 1)
    expected = np.mean([float(((code - center) ** 2).sum()) for code in codes])
    assert losses["objective"] == losses["distance"] == pytest.approx(expected, rel=1e-4)


def test_the_radius_is_the_quantile_of_the_batch_after_its_warm_up():
    settings = {"pretrain": 0.0, "batch_size": 16, "objective": "soft-boundary", "nu": 0.2}
    detector = make(**settings, radius_warmup=0.5)
    losses = train(detector, images())
    assert [loss["radius"] > 0 for loss in losses] == [False, False, True, True]
    # R of 0 leaves the mean distance by 1 / nu.
    assert losses[0]["objective"] == pytest.approx(losses[0]["distance"] / 0.2, rel=1e-5)
    batch = images().float() / 127.5 - 1
    with torch.no_grad():
        codes = detector.encoder.train()(batch)
    distances = ((codes - detector.center) ** 2).sum(dim=1).numpy()
    detector.radius = torch.tensor(7.0)
    detector.epoch = 3
    detector.train_epoch(images())
    assert float(detector.radius) == pytest.approx(np.quantile(np.sqrt(distances), 0.8), rel=1e-4)


def test_the_score_is_the_squared_distance_to_the_centre():
    detector = make()
    train(detector, images())
    detector.calibrate(images())
    test = images(5, seed=1).float() / 127.5 - 1
    with torch.no_grad():
        gaps = detector.encoder(test).double() - detector.center.double()
    assert detector.score(test).double().tolist() == pytest.approx(
        [float(gap @ gap) for gap in gaps], rel=1e-4
    )


def test_contrast_normalisation_against_numpy():
    batch = np.random.default_rng(0).normal(2, 3, size=(4, 3, 5, 5))
    normalized = ContrastNormalization()(torch.tensor(batch)).numpy()
    for image, ours in zip(batch, normalized, strict=True):
        centered = image - image.mean()
        np.testing.assert_allclose(ours, centered / np.abs(centered).mean())
    assert not ContrastNormalization()(torch.ones(1, 1, 4, 4)).any()


def test_contrast_normalisation_takes_brightness_out_of_the_score():
    pictures = images().float() / 255 - 0.5
    for on in (False, True):
        detector = make(contrast_normalization=on)
        train(detector, pictures)
        detector.calibrate(pictures)
        brighter = detector.score(pictures * 0.5 + 0.3)
        assert torch.allclose(brighter, detector.score(pictures), rtol=1e-3) == on


# --- phases ---------------------------------------------------------------------------------------


def test_the_pretraining_takes_its_share_and_the_centre_is_fixed_after_it():
    detector = make(epochs=5, pretrain=0.5)
    assert (detector.config.warmup_epochs, detector.config.grace_epochs()) == (3, 3)
    losses = train(detector, images(), 3)
    assert [loss["pretraining"] for loss in losses] == [1, 1, 1]
    batch = images().float() / 127.5 - 1
    with torch.no_grad():
        center = find_center(detector.encoder.eval()(batch))
    detector.calibrate(images(9, seed=5))  # a provisional one, of other images
    assert not torch.allclose(detector.center, center)
    losses = train(detector, images(), 1)
    assert losses[0]["pretraining"] == 0
    assert torch.allclose(detector.center, center, atol=1e-6)
    train(detector, images(), 1)
    detector.calibrate(images(9, seed=5))
    assert torch.allclose(detector.center, center, atol=1e-6)


def test_there_is_always_an_epoch_after_the_pretraining():
    assert DeepSVDDConfig(epochs=1, pretrain=0.9).warmup_epochs == 0
    assert DeepSVDDConfig(epochs=4, pretrain=0.9).warmup_epochs == 3
    assert DeepSVDDConfig(epochs=4, pretrain=0.0).warmup_epochs == 0


def test_each_phase_has_its_learning_rate_and_weight_decay():
    detector = make(
        epochs=8,
        milestones=(0.5,),
        pretrain_lr=1e-2,
        lr=1e-4,
        weight_decay=1e-3,
        pretrain_weight_decay=1e-5,
    )
    seen = []
    for _ in range(8):
        detector.train_epoch(images())
        (group,) = detector.optimisation.optimizers["adam"].param_groups
        seen.append((group["lr"], group["weight_decay"], len(group["params"])))
    networks = detector.encoder, detector.decoder
    encoder, decoder = (len(list(network.parameters())) for network in networks)
    rates = [rate for rate, _, _ in seen]  # after the epoch, for the next
    assert rates == pytest.approx([1e-2, 1e-3, 1e-3, 1e-3, 1e-4, 1e-5, 1e-5, 1e-5])
    assert [rest for _, *rest in seen] == [[1e-5, encoder + decoder]] * 4 + [[1e-3, encoder]] * 4


def test_only_the_encoder_learns_after_the_pretraining():
    detector = make()
    train(detector, images(), 2)
    decoder = [p.clone() for p in detector.decoder.parameters()]
    encoder = [p.clone() for p in detector.encoder.parameters()]
    train(detector, images(), 1)
    pairs = zip(detector.decoder.parameters(), decoder, strict=True)
    assert all(torch.equal(now, before) for now, before in pairs)
    pairs = zip(detector.encoder.parameters(), encoder, strict=True)
    assert not any(torch.equal(now, before) for now, before in pairs)


# --- state and traps ------------------------------------------------------------------------------


def test_the_centre_is_in_the_checkpoint_and_in_the_export_with_the_encoder_alone():
    detector = make(objective="soft-boundary", radius_warmup=0.0)
    train(detector, images())
    detector.calibrate(images())
    restored = make(seed=9, objective="soft-boundary", radius_warmup=0.0)
    restored.load_state_dict(detector.state_dict())
    assert torch.equal(restored.center, detector.center)
    assert torch.equal(restored.radius, detector.radius)
    assert float(restored.radius) > 0

    names = {f"encoder.{name}" for name in detector.encoder.state_dict()} | {"center"}
    assert set(detector.inference_state()) == names
    assert set(detector.scorer().state_dict()) == names
    exported = make(seed=9)
    exported.load_inference_state(detector.inference_state())
    exported.calibrate(images(9, seed=5))  # the centre stays
    assert torch.equal(exported.score(images(5)), detector.score(images(5)))


def test_a_constant_output_is_a_collapse():
    detector = make()
    train(detector, images())
    with torch.no_grad():
        detector.encoder[-1].weight.zero_()
    with pytest.raises(DivergedError, match="collapsed in epoch 4"):
        detector.calibrate(images())


def test_divergence_is_raised_and_never_reported():
    detector = make()
    with torch.no_grad():
        detector.encoder[-1].weight.fill_(torch.nan)
    with pytest.raises(DivergedError, match="not finite"):
        detector.train_epoch(images())
    assert detector.epoch == 0


def test_a_score_does_not_depend_on_the_batch():
    detector = make()
    train(detector, images())
    detector.calibrate(images())
    alone = torch.cat([detector.score(image[None]) for image in images(6, seed=1)])
    black = torch.zeros(30, *SHAPE, dtype=torch.uint8)
    among = detector.score(torch.cat([images(6, seed=1), black]))[:6]
    assert torch.allclose(alone, among, rtol=1e-4)


# --- learning -------------------------------------------------------------------------------------


def test_a_tiny_set_is_drawn_to_the_centre():
    detector = make(epochs=60, pretrain=0.3, batch_size=16, milestones=())
    losses = train(detector, images())
    assert losses[17]["reconstruction"] < 0.9 * losses[0]["reconstruction"]
    assert 0 < losses[-1]["distance"] < 0.1 * losses[18]["distance"]


def test_it_learns_digits():
    request = ProblemRequest(normal_classes=("0", "1", "2", "3", "4"), image_size=16)
    problem = make_problem(request)
    detector = make(shape=problem.image_shape, epochs=6, batch_size=32)
    pictures = torch.from_numpy(problem.train_images())
    train(detector, pictures)
    detector.calibrate(pictures)
    scores = [
        detector.score(torch.from_numpy(part)).numpy() for part in problem.validation_images()
    ]
    assert metrics.auroc(*scores) > 0.75
