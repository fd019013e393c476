"""Each term of the game against an independent calculation, image by image."""

import numpy as np
import pytest
import torch
from torch import nn

from amatune.detectors.ama.losses import (
    autoencoder_loss,
    critic_loss,
    gradient_penalty,
    pair_weights,
)
from amatune.detectors.ama.networks import Critic, build_networks

NORMALS, NEGATIVES, PARENTS = 6, 2, 3
LAMBDA_INTER, LAMBDA_NEG, LAMBDA_REG = 0.5, 5.0, 1.5


@pytest.fixture
def values():
    rng = np.random.default_rng(3)
    batch = NORMALS + NEGATIVES
    return {
        "same": rng.normal(size=batch),
        "rebuilt": rng.normal(size=batch),
        "mixed": rng.normal(size=(PARENTS, NORMALS)),
        "norms": rng.uniform(size=NORMALS),
    }


def tensor(array):
    return torch.tensor(array, dtype=torch.float32)


def weights():
    return pair_weights(NORMALS, NEGATIVES, LAMBDA_NEG, torch.device("cpu"))


def test_critic_minimises_minus_the_value_of_the_game(values):
    total = 0.0
    for i in range(NORMALS + NEGATIVES):
        gap = values["same"][i] - values["rebuilt"][i]
        total += gap if i < NORMALS else -LAMBDA_NEG * gap
    value = total / (NORMALS + NEGATIVES)
    inter = 0.0
    for p in range(PARENTS):
        for i in range(NORMALS):
            inter += values["same"][i] - values["mixed"][p, i]
    value += LAMBDA_INTER * inter / (PARENTS * NORMALS)

    loss = critic_loss(
        tensor(values["same"]),
        tensor(values["rebuilt"]),
        tensor(values["mixed"]),
        weights(),
        LAMBDA_INTER,
    )
    assert float(loss) == pytest.approx(-value, rel=1e-5)


def test_autoencoder_minimises_its_part_of_the_value(values):
    total = 0.0
    for i in range(NORMALS + NEGATIVES):
        total += -values["rebuilt"][i] if i < NORMALS else LAMBDA_NEG * values["rebuilt"][i]
    value = total / (NORMALS + NEGATIVES)
    value -= LAMBDA_INTER * values["mixed"].mean()
    value += LAMBDA_REG * values["norms"].mean()

    loss = autoencoder_loss(
        tensor(values["rebuilt"]),
        tensor(values["mixed"]),
        tensor(values["norms"]),
        weights(),
        LAMBDA_INTER,
        LAMBDA_REG,
    )
    assert float(loss) == pytest.approx(value, rel=1e-5)


def test_without_interpolates_the_terms_are_gone(values):
    same, rebuilt = tensor(values["same"]), tensor(values["rebuilt"])
    loss = critic_loss(same, rebuilt, None, weights(), LAMBDA_INTER)
    assert float(loss) == pytest.approx(float(-(weights() * (same - rebuilt)).sum()))


def test_negatives_weigh_lambda_times_their_share():
    w = pair_weights(90, 10, 5.0, torch.device("cpu"))
    assert float(w[:90].sum()) == pytest.approx(0.9)
    assert float(w[90:].sum()) == pytest.approx(-0.5)


class _Affine(Critic):
    """D(p) = w . p, whose gradient is w everywhere."""

    def __init__(self, weight):
        super().__init__()
        self.head = nn.Linear(weight.numel(), 1, bias=False)
        self.head.weight.data = weight.flatten()[None]

    def features(self, pairs):
        return pairs.flatten(1)


class _Quadratic(Critic):
    """D(p) = s |p|^2 / 2, whose gradient is s p."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.head = nn.Identity()

    def features(self, pairs):
        return self.scale * pairs.square().flatten(1).sum(dim=1, keepdim=True) / 2


def test_penalty_of_a_linear_critic_is_known():
    weight = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))
    penalties = gradient_penalty(_Affine(weight), torch.randn(4, 2, 3, 3))
    expected = (float(np.linalg.norm(weight.numpy())) - 1) ** 2
    assert penalties.tolist() == pytest.approx([expected] * 4, rel=1e-5)


def test_penalty_takes_the_norm_over_the_whole_pair_and_per_sample():
    points = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    penalties = gradient_penalty(_Quadratic(2.0), points)
    expected = [(2 * np.linalg.norm(p.numpy()) - 1) ** 2 for p in points]
    assert penalties.tolist() == pytest.approx(expected, rel=1e-5)


def test_penalty_per_pixel_takes_the_norm_over_channels():
    points = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    penalties = gradient_penalty(_Quadratic(2.0), points, norm="pixel")
    for value, p in zip(penalties.tolist(), points.numpy(), strict=True):
        per_pixel = [
            (2 * np.hypot(p[0, i, j], p[1, i, j]) - 1) ** 2 for i in range(3) for j in range(3)
        ]
        assert value == pytest.approx(np.mean(per_pixel), rel=1e-5)


def test_penalty_has_the_right_slope_in_the_critics_weights():
    critic = _Quadratic(2.0).double()
    points = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(1)).double()
    gradient_penalty(critic, points).sum().backward()
    norms = points.flatten(1).norm(dim=1)
    expected = float((2 * (2 * norms - 1) * norms).sum())  # d/ds (s n - 1)^2 at s = 2
    assert float(critic.scale.grad) == pytest.approx(expected, rel=1e-6)


def test_penalty_of_a_flat_critic_is_one_and_has_no_nan():
    critic = _Quadratic(0.0)
    penalties = gradient_penalty(critic, torch.randn(3, 2, 4, 4))
    penalties.sum().backward()
    assert penalties.tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert bool(torch.isfinite(critic.scale.grad))


@pytest.mark.parametrize("family", ["small", "residual"])
def test_penalty_of_the_real_critics_agrees_with_finite_differences(family):
    critic = build_networks(
        family, (1, 16, 16), 8, width=0.1, spectral=family == "residual", seed=0
    ).critic
    critic = critic.double().eval()
    points = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(2)).double()
    step = 1e-6
    gradient = torch.zeros_like(points)
    with torch.no_grad():
        flat, flat_gradient = points.view(2, -1), gradient.view(2, -1)
        for i in range(flat.shape[1]):
            bump = torch.zeros_like(flat)
            bump[:, i] = step
            up, down = critic((flat + bump).view_as(points)), critic((flat - bump).view_as(points))
            flat_gradient[:, i] = (up - down) / (2 * step)
    expected = (gradient.flatten(1).norm(dim=1) - 1) ** 2
    assert torch.allclose(gradient_penalty(critic, points), expected, rtol=1e-4)
