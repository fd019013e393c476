"""What each setting of AMA changes, against what it says, written out."""

import pytest
import torch

from amatune.detectors.ama import AMA, AMAConfig
from amatune.detectors.ama.config import PAPER
from amatune.detectors.ama.latent import parent_indices, shell_codes, simplex_weights
from amatune.detectors.ama.losses import gradient_penalty

SHAPE = (1, 16, 16)
LATENT = 64


def make(**settings):
    tiny = {"epochs": 4, "batch_size": 8, "width": 0.1, "warmup": 0.0}
    detector = AMA(AMAConfig.from_dict({**PAPER, **tiny, **settings}), SHAPE, seed=0)
    for network in detector.networks.values():
        network.train()
    return detector


def batch(count=8, seed=0):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def again(detector):
    """A generator that will draw what the detector's draws next."""
    generator = torch.Generator()
    generator.set_state(detector.generator.get_state())
    return generator


@pytest.mark.parametrize(
    ("epochs", "warmup", "expected"),
    [(100, 0.1, 10), (100, 0.07, 7), (25, 0.28, 7), (10, 0.25, 3), (10, 0.95, 9), (4, 0.9, 3)],
)
def test_the_warmup_is_its_share_of_the_epochs_and_leaves_one(epochs, warmup, expected):
    config = AMAConfig(epochs=epochs, warmup=warmup, negative_share=0.1)
    assert config.warmup_epochs == config.grace_epochs() == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 1, "negative_share": 0.1},
        {"warmup": 0.0, "negative_share": 0.1},
        {"warmup": 0.5, "negative_share": 0.0},
        {"warmup": 0.5, "negative_share": 0.1, "lambda_neg": 0.0},
    ],
)
def test_an_epoch_says_something_where_nothing_is_waited_for(settings):
    assert AMAConfig(**settings).grace_epochs() == 1


@pytest.mark.parametrize("simplex", ["normalised", "remainder"])
@pytest.mark.parametrize("paired", ["one", "all"])
def test_interpolates_are_decoded_mixtures_beside_their_parents(simplex, paired):
    detector = make(negative_share=0.0, simplex=simplex, parents_paired=paired)
    draws, images = again(detector), batch()
    pairs = detector._make_pairs(images)
    parents = parent_indices(8, 3, draws)
    weights = simplex_weights(8, 3, draws, simplex)
    with torch.no_grad():
        codes = detector.encoder(images)
        mixed = torch.stack(
            [sum(weights[j, i] * codes[parents[j, i]] for j in range(3)) for i in range(8)]
        )
        expected = detector.decoder(torch.cat([codes, mixed]))[8:]
    count = 1 if paired == "one" else 3
    assert pairs.mixed.shape == pairs.parents.shape == (count, 8, *SHAPE)
    for one in pairs.mixed:
        assert torch.allclose(one, expected, atol=1e-5)
    assert torch.equal(pairs.parents, images[parents[:count]])


@pytest.mark.parametrize("paired", ["one", "all"])
def test_the_penalty_covers_its_share_of_each_kind_and_of_each_parent(paired):
    detector = make(negative_share=0.5, penalty_share=0.34, parents_paired=paired)
    pairs = detector._make_pairs(batch()).detached()
    parents = len(pairs.parents)
    some = [0, 1, 4, 5]  # of four normals, two, and of four negatives
    left = torch.cat([pairs.images[some], *(pairs.parents[p, :2] for p in range(parents))])
    right = torch.cat([pairs.rebuilt[some], *(pairs.mixed[p, :2] for p in range(parents))])
    share = torch.rand(4 + 2 * parents, 1, 1, 1, generator=again(detector))
    points = torch.cat([left, left + share * (right - left)], dim=1)
    each = gradient_penalty(detector.critic, points).detach()
    expected = each[:4].mean() + 0.5 * each[4:].mean()
    found = detector._penalty(pairs)
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("radius", ["typical", "codes"])
@pytest.mark.parametrize("radial", ["radius", "volume"])
def test_a_shell_lies_where_its_settings_say(radius, radial):
    detector = make(geometry="shell", radius=radius, radial=radial, negative_share=0.5, delta=2.0)
    detector.code_norm.fill_(3.0)
    typical = 3.0 if radius == "codes" else LATENT**0.5
    codes = shell_codes(4, LATENT, typical, 2.0, "outward", radial, again(detector))
    found = detector._negatives(batch())
    detector.decoder.eval()
    with torch.no_grad():
        assert torch.allclose(found, detector.decoder(codes), atol=1e-6)


def test_the_norm_of_codes_is_a_running_mean_that_begins_with_the_first_batch():
    detector = make(negative_share=0.0)
    norms = []
    for seed in range(3):
        with torch.no_grad():
            norms.append(float(detector.encoder(batch(seed=seed)).norm(dim=1).mean()))
        detector._make_pairs(batch(seed=seed))
        if seed == 0:
            assert float(detector.code_norm) == pytest.approx(norms[0])
            detector.code_norm.mul_(2)  # else the three are too much alike to tell
    expected = 0.99 * (0.99 * 2 * norms[0] + 0.01 * norms[1]) + 0.01 * norms[2]
    assert float(detector.code_norm) == pytest.approx(expected, rel=1e-5)


def test_the_learning_rate_falls_by_its_factor():
    detector = make(epochs=4, lr=1e-3, milestones=(0.5,), lr_decay=0.3)
    rates = []
    for _ in range(4):
        groups = [g for o in detector.optimisation.optimizers.values() for g in o.param_groups]
        rates.append({group["lr"] for group in groups})
        detector.train_epoch(batch())
    assert rates == [{1e-3}, {1e-3}, {3e-4}, {3e-4}]


def test_ac_and_rc_are_of_the_error_per_complexity():
    detector, train, images = make(), batch(16), batch(5, seed=1) * torch.linspace(0.1, 1, 16)
    detector.calibrate(train)

    def per_variation(one):
        across = (one[:, :, :, 1:] - one[:, :, :, :-1]).abs().mean((1, 2, 3))
        down = (one[:, :, 1:] - one[:, :, :-1]).abs().mean((1, 2, 3))
        return detector.scores(one)["R"] / (across + down + 0.02)

    found = detector.scores(images)
    assert torch.allclose(found["RC"], per_variation(images), rtol=1e-4)
    fitted = per_variation(train).double()
    expected = (per_variation(images) - fitted.mean()).abs() / fitted.std(correction=0)
    assert torch.allclose(found["AC"].double(), expected.double(), rtol=1e-3, atol=1e-4)
