"""The latent samplers against their stated distributions (Kolmogorov-Smirnov tests by SciPy)."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from amatune.detectors.ama.latent import (
    MIN_OUTWARD_FACTOR,
    cube_codes,
    interpolate_codes,
    parent_indices,
    ray_codes,
    shell_codes,
    simplex_weights,
)

COUNT = 4000


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


def assert_distributed(samples, distribution):
    assert stats.kstest(np.asarray(samples, dtype=np.float64), distribution).pvalue > 1e-3


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_simplex_weights_are_convex(generator, k):
    weights = simplex_weights(COUNT, k, generator)
    assert weights.shape == (k, COUNT)
    assert bool((weights >= 0).all())
    assert torch.allclose(weights.sum(dim=0), torch.ones(COUNT))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_remainder_weights_are_convex_and_uniform_but_the_first(generator, k):
    weights = simplex_weights(COUNT, k, generator, "remainder")
    assert torch.allclose(weights.sum(dim=0), torch.ones(COUNT))
    assert bool((weights >= -1e-6).all())
    for row in weights[1:]:
        assert_distributed(row, stats.uniform(0, 1 / (k - 1)).cdf)


def test_simplex_weights_of_two_follow_the_ratio_of_uniforms(generator):
    def cdf(t):  # P(a / (a + b) <= t) for independent uniforms a, b
        t = np.asarray(t)
        return np.where(t <= 0.5, t / (2 * (1 - t)), 1 - (1 - t) / (2 * t))

    assert_distributed(simplex_weights(COUNT, 2, generator)[0], cdf)


def test_parents_are_the_code_itself_and_shuffles(generator):
    parents = parent_indices(50, 4, generator)
    assert torch.equal(parents[0], torch.arange(50))
    for row in parents[1:]:
        assert not torch.equal(row, parents[0])
        assert torch.equal(row.sort().values, parents[0])


def test_interpolation_is_the_weighted_sum_over_parents(generator):
    codes = torch.randn(6, 5, generator=generator)
    parents = parent_indices(6, 3, generator)
    weights = simplex_weights(6, 3, generator)
    mixed = interpolate_codes(codes, parents, weights)
    for i in range(6):
        expected = sum(float(weights[j, i]) * codes[int(parents[j, i])] for j in range(3))
        assert torch.allclose(mixed[i], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("direction", "low", "high"), [("inward", 7.5, 8.0), ("outward", 8.0, 8.5)]
)
def test_shell_radius_is_uniform_by_radius(generator, direction, low, high):
    codes = shell_codes(COUNT, 64, 8.0, 0.5, direction, "radius", generator)
    assert_distributed(codes.norm(dim=1), stats.uniform(low, high - low).cdf)


@pytest.mark.parametrize(
    ("direction", "low", "high"), [("inward", 2.0, 4.0), ("outward", 4.0, 6.0)]
)
def test_shell_radius_is_uniform_by_volume(generator, direction, low, high):
    radii = shell_codes(COUNT, 16, 4.0, 2.0, direction, "volume", generator).norm(dim=1).double()
    shares = (radii**16 - low**16) / (high**16 - low**16)  # of the shell's volume
    assert_distributed(shares, stats.uniform(0, 1).cdf)


def test_shell_volume_crowds_at_the_outer_end_where_radius_does_not(generator):
    by_volume = shell_codes(COUNT, 128, math.sqrt(128), 2.0, "inward", "volume", generator)
    by_radius = shell_codes(COUNT, 128, math.sqrt(128), 2.0, "inward", "radius", generator)
    middle = math.sqrt(128) - 1.0
    assert float((by_volume.norm(dim=1) < middle).float().mean()) < 0.001
    assert float((by_radius.norm(dim=1) < middle).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_shell_directions_are_uniform_on_the_sphere(generator):
    codes = shell_codes(20_000, 8, math.sqrt(8), 0.5, "inward", "radius", generator)
    directions = codes / codes.norm(dim=1, keepdim=True)
    assert torch.allclose(directions.mean(dim=0), torch.zeros(8), atol=0.02)
    covariance = directions.T @ directions / len(directions)
    assert torch.allclose(covariance, torch.eye(8) / 8, atol=0.01)


def test_shell_is_scaled_with_the_typical_radius_it_is_given(generator):
    codes = shell_codes(COUNT, 64, 0.8, 0.5, "inward", "radius", generator)  # a tenth of sqrt(64)
    assert_distributed(codes.norm(dim=1), stats.uniform(0.75, 0.05).cdf)


def test_shell_inward_stops_at_the_origin(generator):
    codes = shell_codes(COUNT, 4, 2.0, 5.0, "inward", "radius", generator)
    assert_distributed(codes.norm(dim=1), stats.uniform(0.0, 2.0).cdf)


def test_ray_inward_shrinks_along_the_ray(generator):
    sources = torch.randn(COUNT, 8, generator=generator)
    factors = ray_codes(sources, 0.5, "inward", generator) / sources
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), rtol=1e-4)
    assert_distributed(factors[:, 0], stats.uniform(0, 0.5).cdf)


def test_ray_outward_grows_along_the_ray_up_to_a_bound(generator):
    sources = torch.randn(COUNT, 8, generator=generator)
    factors = ray_codes(sources, 0.5, "outward", generator) / sources
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), rtol=1e-4)
    assert float(factors.min()) >= 2.0 - 1e-4
    assert float(factors.max()) <= 1 / MIN_OUTWARD_FACTOR + 1e-3
    inverse = 1 / factors[:, 0]
    unclamped = inverse[inverse > MIN_OUTWARD_FACTOR + 1e-5]
    assert_distributed(unclamped, stats.uniform(MIN_OUTWARD_FACTOR, 0.45).cdf)
    assert 1 - len(unclamped) / COUNT == pytest.approx(0.1, abs=0.02)


def test_cube_is_uniform_with_the_smallest_entry_as_side(generator):
    codes = torch.tensor([[0.6, -2.0, 3.0], [1.0, -0.5, 4.0]])
    draws = cube_codes(codes, COUNT, generator)
    assert draws.shape == (COUNT, 3)
    for axis in range(3):
        assert_distributed(draws[:, axis], stats.uniform(-0.25, 0.5).cdf)
