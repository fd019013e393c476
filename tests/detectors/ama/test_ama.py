"""AMA itself: which network learns from which term, its schedule, and that it learns."""

import io
import math

import pytest
import torch

from amatune.detectors.ama import AMA, AMAConfig
from amatune.detectors.ama.config import PAPER
from amatune.detectors.ama.losses import gradient_penalty
from amatune.errors import ConfigError, DivergedError
from amatune.registry import find_method

SHAPE = (1, 16, 16)
TINY = {"epochs": 4, "batch_size": 8, "width": 0.1, "warmup": 0.0}


def make(seed=0, shape=SHAPE, **settings):
    return AMA(AMAConfig.from_dict({**PAPER, **TINY, **settings}), shape, seed=seed)


def batch(count=8, seed=0, shape=SHAPE):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def as_bytes(images):
    return ((images + 1) * 127.5).round().to(torch.uint8)


def training(detector):
    for module in (detector.encoder, detector.decoder, detector.critic):
        module.train()
    return detector


def snapshot(module):
    return [p.detach().clone() for p in module.parameters()]


def changed(module, before):
    pairs = zip(module.parameters(), before, strict=True)
    return any(not torch.equal(p, old) for p, old in pairs)


# --- published values -----------------------------------------------------------------------------


def test_the_paper_is_a_preset():
    config = AMAConfig.from_dict(AMA.presets["paper"])
    published = {
        "epochs": 100,
        "batch_size": 256,
        "lr": 3e-4,
        "k": 3,
        "lambda_inter": 0.5,
        "lambda_neg": 5.0,
        "lambda_reg": 1.0,
        "lambda_gp": 10.0,
        "delta": 0.5,
        "negative_share": 0.1,
        "critic_steps": 5,
        "milestones": [0.3, 0.6, 0.9],
        "warmup": 0.1,
    }
    assert {k: v for k, v in config.to_dict().items() if k in published} == published
    assert (config.penalty_share, config.score) == (1.0, "A")
    assert config.warmup_epochs == config.grace_epochs() == 10


def test_the_images_decide_what_the_config_leaves_open():
    grey = AMAConfig().resolve((1, 28, 28))
    assert (grey.network, grey.latent_dim, grey.spectral_norm) == ("small", 64, False)
    colour = AMAConfig().resolve((3, 32, 32))
    assert (colour.network, colour.latent_dim, colour.spectral_norm) == ("residual", 128, True)
    explicit = AMAConfig(network="residual", latent_dim=16, spectral_norm=False)
    kept = explicit.resolve((1, 28, 28))
    assert (kept.network, kept.latent_dim, kept.spectral_norm) == ("residual", 16, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"geometry": "ball"}, "geometry must be 'shell' or 'ray' or 'cube', got 'ball'"),
        ({"direction": "up"}, "direction must be"),
        ({"delta": 0.0}, "delta must be positive, got 0.0"),
        ({"delta": 1.5, "direction": "inward"}, "at most 1, got 1.5"),
        ({"delta": 1.5, "direction": "outward"}, "at most 1, got 1.5"),
        ({"delta": 1.5}, "at most 1, got 1.5"),
        ({"penalty_every": 101}, "penalty_every must be at most 100, got 101"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"lr": float("nan")}, "lr must be a finite number, got nan"),
        ({"lambda_neg": -1.0}, "lambda_neg must be 0 or more, got -1.0"),
        ({"milestones": (0.5, 30)}, "milestones are shares"),
        ({"width": True}, "width must be a finite number, got True"),
        ({"negative_share": 1.0}, r"negative_share must be in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        AMAConfig(**settings)


def test_too_small_images_are_refused():
    with pytest.raises(ConfigError, match="4x28 pixels are too small"):
        make(shape=(1, 4, 28))


# --- the step -------------------------------------------------------------------------------------


def test_the_critic_step_minimises_the_written_out_game():
    detector = training(make(parents_paired="all", lambda_gp=0.0, negative_share=0.25))
    pairs = detector._make_pairs(batch()).detached()
    critic = detector.critic
    with torch.no_grad():

        def d(a, b):
            return float(critic(torch.cat([a, b])[None]))

        value = 0.0
        for i in range(8):
            gap = d(pairs.images[i], pairs.images[i]) - d(pairs.images[i], pairs.rebuilt[i])
            value += (gap if i < 6 else -5.0 * gap) / 8
        for parent in range(3):
            for i in range(6):
                same = d(pairs.images[i], pairs.images[i])
                gap = same - d(pairs.parents[parent, i], pairs.mixed[parent, i])
                value += 0.5 * gap / 18
    losses = detector._critic_step(pairs)
    assert float(losses["critic"]) == pytest.approx(-value, rel=1e-4)


def test_the_penalty_covers_every_kind_of_pair():
    detector = training(make(negative_share=0.25))
    pairs = detector._make_pairs(batch()).detached()
    state = detector.generator.get_state()
    losses = detector._critic_step(pairs)

    detector = training(make(negative_share=0.25))  # the critic before its step
    detector._make_pairs(batch())
    detector.generator.set_state(state)
    share = torch.rand(14, 1, 1, 1, generator=detector.generator)
    left = torch.cat([pairs.images, pairs.parents[0]])
    right = torch.cat([pairs.rebuilt, pairs.mixed[0]])
    points = torch.cat([left, left + share * (right - left)], dim=1)
    penalties = gradient_penalty(detector.critic, points)
    expected = penalties[:8].mean() + 0.5 * penalties[8:].mean()
    assert float(losses["penalty"]) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_a_lazy_penalty_comes_every_so_often_and_weighs_for_the_others():
    detector = make(penalty_every=3, critic_steps=2)
    assert [detector._next_penalties() for _ in range(3)] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    detector.begin_epoch(batch(24))  # in no epoch yet: from the beginning
    assert detector._next_penalties() == (True, False)
    detector.epoch = 1  # of three steps, six of the critic
    detector.begin_epoch(batch(24))
    assert detector._next_penalties() == (True, False)
    detector.begin_epoch(batch(16))  # four of the critic before
    assert detector._next_penalties() == (False, False)

    every, lazy = training(make()), training(make(penalty_every=3))
    pairs = every._make_pairs(batch()).detached()
    state = every.generator.get_state()
    usual = every._critic_step(pairs)
    lazy.generator.set_state(state)
    heavy = lazy._critic_step(pairs)
    assert torch.equal(heavy["penalty"], usual["penalty"])
    more = 2 * detector.config.lambda_gp * usual["penalty"]
    assert torch.allclose(heavy["critic"], usual["critic"] + more)

    lazy = training(make(penalty_every=3))
    without = lazy._critic_step(pairs, penalised=False)
    assert "penalty" not in without
    less = detector.config.lambda_gp * usual["penalty"]
    assert torch.allclose(without["critic"], usual["critic"] - less, atol=1e-5)


def test_a_lazy_penalty_resumes_exactly():
    straight, halved = (make(penalty_every=3, critic_steps=2, epochs=4) for _ in range(2))
    images = as_bytes(batch(24))
    for _ in range(4):
        straight.train_epoch(images)
    for _ in range(2):
        halved.train_epoch(images)
    resumed = make(penalty_every=3, critic_steps=2, epochs=4)
    resumed.load_state_dict(halved.state_dict())
    for _ in range(2):
        resumed.train_epoch(images)
    for mine, theirs in zip(resumed.critic.parameters(), straight.critic.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_critic_step_moves_the_critic_alone():
    detector = training(make())
    pairs = detector._make_pairs(batch())
    before = [snapshot(m) for m in (detector.encoder, detector.decoder, detector.critic)]
    detector._critic_step(pairs.detached())
    assert not changed(detector.encoder, before[0])
    assert not changed(detector.decoder, before[1])
    assert changed(detector.critic, before[2])


def test_the_autoencoder_step_moves_encoder_and_generator_alone():
    detector = training(make())
    pairs = detector._make_pairs(batch())
    before = [snapshot(m) for m in (detector.encoder, detector.decoder, detector.critic)]
    detector._autoencoder_step(pairs)
    assert changed(detector.encoder, before[0])
    assert changed(detector.decoder, before[1])
    assert not changed(detector.critic, before[2])
    assert all(p.grad is None for p in detector.critic.parameters())
    assert all(p.requires_grad for p in detector.critic.parameters())


def gradients(detector, loss):
    detector.encoder.zero_grad()
    detector.decoder.zero_grad()
    loss.backward()
    return tuple(
        any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
        for module in (detector.encoder, detector.decoder)
    )


def test_which_network_learns_from_which_term():
    detector = training(make())
    pairs = detector._make_pairs(batch())
    assert gradients(detector, pairs.code_norms.mean()) == (True, False)
    pairs = detector._make_pairs(batch())
    assert gradients(detector, pairs.rebuilt.mean()) == (True, True)
    pairs = detector._make_pairs(batch())
    assert gradients(detector, pairs.mixed.mean()) == (True, True)
    assert not pairs.images.requires_grad  # negatives are images, nobody learns from making them
    detector = training(make(interpolation_gradient=False))
    assert not detector._make_pairs(batch()).mixed.requires_grad


def test_negatives_take_their_share_of_the_batch_and_the_mean():
    detector = training(make(negative_share=0.25, lambda_neg=4.0))
    images = batch()
    pairs = detector._make_pairs(images)
    assert torch.equal(pairs.images[:6], images[:6])
    assert not torch.equal(pairs.images[6:], images[6:])
    assert len(pairs.code_norms) == 6
    assert pairs.weights.tolist() == pytest.approx([1 / 8] * 6 + [-0.5] * 2)


def test_negatives_are_made_in_eval_mode_and_leave_batch_norm_alone():
    detector = training(make(network="residual", shape=(3, 16, 16)))
    statistics = [b.clone() for b in (*detector.encoder.buffers(), *detector.decoder.buffers())]
    negatives = detector._negatives(batch(shape=(3, 16, 16)))
    after = [*detector.encoder.buffers(), *detector.decoder.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(statistics, after, strict=True))
    assert detector.encoder.training
    assert detector.decoder.training
    assert not negatives.requires_grad


@pytest.mark.parametrize("geometry", ["shell", "ray", "cube"])
@pytest.mark.parametrize("direction", ["inward", "outward"])
@pytest.mark.parametrize("radius", ["typical", "codes"])
def test_every_kind_of_negative_trains(geometry, direction, radius):
    detector = make(geometry=geometry, direction=direction, radius=radius)
    losses = detector.train_epoch(as_bytes(batch(16)))
    assert losses["negatives"] != 0


def test_settings_of_the_negatives_reach_the_images():
    def negatives(**settings):
        return training(make(**settings))._negatives(batch())

    base = negatives(geometry="ray", direction="inward")
    assert torch.equal(base, negatives(geometry="ray", direction="inward"))
    for settings in (
        {"geometry": "ray", "direction": "outward"},
        {"geometry": "ray", "direction": "inward", "delta": 0.1},
        {"geometry": "shell", "direction": "inward"},
        {"geometry": "cube"},
    ):
        assert not torch.equal(base, negatives(**settings))


@pytest.mark.parametrize(
    "off", [{"negative_share": 0.0}, {"lambda_neg": 0.0}, {"warmup": 0.5, "epochs": 4}]
)
def test_negatives_can_be_off(off):
    losses = make(**off).train_epoch(as_bytes(batch(16)))
    assert "negatives" not in losses


def test_a_share_of_less_than_one_image_is_one():
    detector = training(make(negative_share=0.015))
    known = batch(3, seed=9)
    assert len(detector._negatives(batch())) == len(detector._negatives(batch(), known)) == 1
    assert not len(detector._negatives(batch(1)))


@pytest.mark.parametrize("off", [{"k": 1}, {"lambda_inter": 0.0}])
def test_interpolation_can_be_off(off):
    losses = make(**off).train_epoch(as_bytes(batch(16)))
    assert "interpolation" not in losses


def test_negatives_start_after_the_warmup():
    detector = make(epochs=10, warmup=0.25)
    started = ["negatives" in detector.train_epoch(as_bytes(batch(16))) for _ in range(5)]
    assert started == [False, False, False, True, True]
    assert detector.config.grace_epochs() == 3


def test_the_plain_critic_compares_single_images():
    detector = make(mirrored=False)
    detector.train_epoch(as_bytes(batch(16)))
    detector.calibrate(as_bytes(batch(16)))
    image = batch(1)
    same = detector.critic.features(image)
    rebuilt = detector.critic.features(detector.decoder(detector.encoder(image)))
    expected = float((same - rebuilt).abs().sum().detach())
    assert float(detector.scores(image)["R"]) == pytest.approx(expected, rel=1e-4)


def test_the_learning_rate_falls_at_its_shares_of_the_epochs():
    detector = make(epochs=10, lr=1e-3)
    rates = []
    for _ in range(10):
        rates.append({g["lr"] for o in _optimizers(detector) for g in o.param_groups})
        detector.train_epoch(as_bytes(batch(8)))
    assert [min(r) for r in rates] == pytest.approx([1e-3] * 3 + [1e-4] * 3 + [1e-5] * 3 + [1e-6])
    assert all(len(r) == 1 for r in rates)


def _optimizers(detector):
    return tuple(detector.optimisation.optimizers.values())


def test_each_network_has_its_momentum():
    detector = make()
    assert detector.optimisation.optimizers["critic"].param_groups[0]["betas"] == (0.0, 0.9)
    decoder, encoder = detector.optimisation.optimizers["autoencoder"].param_groups
    assert decoder["betas"] == (0.0, 0.9)
    assert encoder["betas"] == (0.5, 0.9)
    assert encoder["params"] == list(detector.encoder.parameters())


def test_real_anomalies_stand_in_for_atypical_images_from_the_start():
    detector = training(make(warmup=0.5, negative_share=0.25))
    known = batch(3, seed=9)
    pairs = detector._make_pairs(batch(), known)
    for negative in pairs.images[6:]:
        assert any(torch.equal(negative, one) for one in known)
    assert pairs.weights.tolist() == pytest.approx([1 / 8] * 6 + [-5 / 8] * 2)
    losses = make(warmup=0.5).train_epoch(as_bytes(batch(16)), as_bytes(known))
    assert losses["negatives"] != 0
    for off in ("negative_share", "lambda_neg"):
        with pytest.raises(ConfigError, match=f"negatives: {off} must be more than 0, got 0"):
            make(**{off: 0.0}).train_epoch(as_bytes(batch(16)), as_bytes(known))


def test_the_penalty_of_the_authors_covers_reconstructions_alone():
    detector = training(make(penalised="reconstructions", penalty_norm="pixel"))
    pairs = detector._make_pairs(batch()).detached()
    state = detector.generator.get_state()
    losses = detector._critic_step(pairs)

    detector = training(make(penalised="reconstructions", penalty_norm="pixel"))
    detector._make_pairs(batch())
    detector.generator.set_state(state)
    share = torch.rand(8, 1, 1, 1, generator=detector.generator)
    right = pairs.images + share * (pairs.rebuilt - pairs.images)
    points = torch.cat([pairs.images, right], dim=1)
    expected = gradient_penalty(detector.critic, points, "pixel").mean()
    assert float(losses["penalty"]) == pytest.approx(float(expected.detach()), rel=1e-4)


@pytest.mark.parametrize("preset", AMA.presets)
def test_every_preset_trains_and_scores(preset):
    detector = make(**AMA.presets[preset])
    losses = detector.train_epoch(as_bytes(batch(16)))
    detector.calibrate(as_bytes(batch(16)))
    assert detector.score(as_bytes(batch(3))).shape == (3,)
    assert ("interpolation" in losses) == (preset != "without-simplex")
    assert ("negatives" in losses) == (preset != "without-atypical")
    assert detector.primary_score == ("R" if preset == "r-score" else "A")


def test_resuming_the_residual_networks_is_exact():
    def fresh(seed):
        return make(seed, shape=(3, 16, 16), network="residual", spectral_norm=True)

    images = as_bytes(batch(16, shape=(3, 16, 16)))
    straight = fresh(0)
    losses = [straight.train_epoch(images) for _ in range(4)]
    first = fresh(0)
    for _ in range(2):
        first.train_epoch(images)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = fresh(9)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert [second.train_epoch(images) for _ in range(2)] == losses[2:]
    straight.calibrate(images)
    exported = fresh(5)
    exported.load_inference_state(straight.inference_state())
    assert torch.equal(exported.score(images), straight.score(images))


# --- scores ---------------------------------------------------------------------------------------


def test_scores_follow_their_definitions():
    detector = make()
    train = batch(16)
    detector.train_epoch(train)
    detector.calibrate(train)

    def r(images):
        rebuilt = detector.decoder(detector.encoder(images))
        same = detector.critic.features(torch.cat([images, images], dim=1))
        return (same - detector.critic.features(torch.cat([images, rebuilt], dim=1))).abs().sum(1)

    with torch.no_grad():
        fitted, tested = r(train).double(), r(batch(5, seed=1)).double()
    scores = detector.scores(batch(5, seed=1))
    assert torch.allclose(scores["R"].double(), tested, rtol=1e-4)
    expected = (tested - fitted.mean()).abs() / fitted.std(correction=0)
    assert torch.allclose(scores["A"].double(), expected, rtol=1e-3, atol=1e-4)


def test_the_ranking_score_is_a_setting():
    train = batch(16)
    for name in ("A", "R"):
        detector = make(score=name)
        detector.calibrate(train)
        assert torch.equal(detector.score(train), detector.scores(train)[name])


def test_a_constant_score_is_a_collapse():
    with pytest.raises(DivergedError, match="collapsed"):
        make().calibrate(batch(1).expand(8, *SHAPE))


def test_divergence_is_raised_and_never_reported():
    detector = make()
    with torch.no_grad():
        next(detector.encoder.parameters()).fill_(math.nan)
    with pytest.raises(DivergedError, match="not finite"):
        detector.train_epoch(as_bytes(batch(16)))
    assert detector.epoch == 0


# --- learning -------------------------------------------------------------------------------------


def test_overfitting_32_images_drives_the_reconstruction_error_down():
    torch.manual_seed(0)
    shapes = torch.zeros(32, 1, 16, 16)
    for i in range(32):  # 32 different bright rectangles
        shapes[i, 0, i // 4 : i // 4 + 6, i % 4 * 3 : i % 4 * 3 + 6] = 1.0
    images = as_bytes(shapes * 2 - 1)
    detector = make(
        epochs=120, batch_size=32, width=0.25, lr=2e-3, critic_steps=2, milestones=(), warmup=0.9
    )
    errors = [detector.train_epoch(images)["reconstruction"] for _ in range(100)]
    assert errors[0] > 0.5
    assert min(errors[-10:]) < 0.2 * errors[0]


def test_ama_is_registered():
    assert find_method("ama").detector is AMA
