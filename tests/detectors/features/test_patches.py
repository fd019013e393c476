"""Patches, what is normal among them and distances, against independent calculations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.covariance import EmpiricalCovariance, ledoit_wolf
from sklearn.neighbors import NearestNeighbors

from amatune.detectors.features import patches as module
from amatune.detectors.features.patches import (
    COMPARED,
    REGULARISATION,
    Moments,
    Resize,
    greedy_coreset,
    join,
    nearest,
    rarity,
    regularised,
    semi_orthogonal,
    shrunk_covariance,
    top_mean,
    whitening,
)
from amatune.detectors.features.scorers import Coreset


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(32, 64), (11, 7), (20, 48)])
def test_resizing_is_bilinear_with_antialiasing(size):
    images = random(2, 3, 20, 31)
    expected = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    assert torch.allclose(Resize((20, 31), size)(images), expected, atol=1e-5)


def test_a_patch_is_the_mean_of_its_neighbourhood():
    fine, coarse = random(1, 2, 4, 4), random(1, 3, 2, 2, seed=1)
    joined = join([fine, coarse], 3)
    assert joined.shape == (1, 5, 4, 4)
    assert torch.allclose(joined[0, :2, 1, 2], fine[0, :, 0:3, 1:4].mean(dim=(1, 2)), atol=1e-6)
    assert torch.allclose(joined[0, :2, 0, 0], fine[0, :, 0:2, 0:2].mean(dim=(1, 2)), atol=1e-6)
    # The whole coarse map lies in any neighbourhood of it.
    assert torch.allclose(joined[0, 2:, 3, 0], coarse[0].mean(dim=(1, 2)), atol=1e-6)
    assert torch.equal(join([fine], 1), fine)
    # Between two places of a coarse map the fine ones have three quarters of the nearer.
    left, right = coarse[0, :, 0, 0], coarse[0, :, 0, 1]
    rows = join([fine, coarse], 1)[0, 2:, 0]
    assert torch.allclose(rows[:, 1], 0.75 * left + 0.25 * right, atol=1e-6)
    assert torch.allclose(rows[:, 0], left, atol=1e-6)


def test_a_projection_keeps_lengths_within_its_span():
    columns = semi_orthogonal(20, 6, generator())
    assert torch.allclose(columns.T @ columns, torch.eye(6), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_coreset_is_the_greedy_one(seed):
    points = random(40, 5, seed=seed)
    chosen, radius = greedy_coreset(points, 7, generator(seed))
    values = points.double().numpy()
    between = np.linalg.norm(values[:, None] - values[None], axis=2)
    expected = [int(chosen[0])]  # the first is drawn
    while len(expected) < 7:
        expected.append(int(between[:, expected].min(axis=1).argmax()))
    assert chosen.tolist() == expected
    assert float(radius) == pytest.approx(between[:, expected].min(axis=1).max(), rel=1e-4)


def test_a_coreset_takes_no_patch_twice_and_can_be_all():
    points = torch.cat([random(6, 3), random(6, 3)])  # every one has a copy
    chosen, radius = greedy_coreset(points, 12, generator())
    assert sorted(chosen.tolist()) == list(range(12))
    assert float(radius) == 0


def test_many_dimensions_are_compared_in_fewer():
    points = random(30, 4 * COMPARED)
    chosen, radius = greedy_coreset(points, 9, generator(1))
    same = generator(1)
    seen = points @ (torch.randn(4 * COMPARED, COMPARED, generator=same) / COMPARED**0.5)
    expected, expected_radius = greedy_coreset(seen, 9, same)
    assert chosen.tolist() == expected.tolist()
    assert torch.allclose(radius, expected_radius)
    whole = [int(chosen[0])]
    between = torch.cdist(points, points)
    while len(whole) < 9:
        whole.append(int(between[:, whole].amin(dim=1).argmax()))
    assert chosen.tolist() != whole, "by all dimensions others are chosen"


def test_whitened_lengths_are_mahalanobis_distances():
    values = random(60, 6) @ random(6, 6, seed=1)
    fitted = EmpiricalCovariance().fit(values.numpy())
    covariance = torch.from_numpy(fitted.covariance_)
    centred = values.double() - torch.from_numpy(fitted.location_)
    lengths = (centred @ whitening(covariance)).square().sum(dim=1)
    assert np.allclose(lengths.numpy(), fitted.mahalanobis(values.numpy()), rtol=1e-4)


def test_moments_are_those_of_numpy_whatever_the_batches():
    values = random(30, 4, 3) * 0.1 + 100  # (N, P, D), far from 0
    moments = Moments()
    for start in range(0, 30, 7):
        moments.add(values[start : start + 7])
    mean, covariance = moments.read()
    for place in range(4):
        own = values[:, place].double().numpy()
        assert np.allclose(mean[place], own.mean(axis=0), atol=1e-9)
        assert np.allclose(covariance[place], np.cov(own.T), rtol=1e-6, atol=1e-9)


def test_regularisation_is_a_share_of_the_mean_variance():
    covariance = torch.stack([torch.diag(torch.tensor(d)) for d in ([1.0, 3.0], [0.0, 4.0])])
    added = regularised(covariance) - covariance
    assert torch.allclose(added, 2 * REGULARISATION * torch.eye(2).expand(2, 2, 2))


@pytest.mark.parametrize("count", [5, 40, 400])
def test_shrinkage_is_that_of_ledoit_and_wolf(count):
    values = random(count, 8) * torch.arange(1, 9)
    centred = (values - values.mean(dim=0)).double()
    expected, _ = ledoit_wolf(centred.numpy(), assume_centered=True)
    assert np.allclose(shrunk_covariance(centred).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("block", [5, 128, 1024])
@pytest.mark.parametrize("size", [23, 64, 300])  # less than a group, whole groups, and more
def test_nearest_patches_are_those_of_scikit_learn(size, count, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    queries, memory = random(3, 11, 6), random(size, 6, seed=1)
    distances, places = nearest(queries, memory, count)
    known = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(memory.numpy())
    expected, indices = known.kneighbors(queries.reshape(33, 6).numpy())
    assert np.allclose(distances.reshape(33, count), expected, atol=1e-5)
    assert np.array_equal(places.reshape(33, count), indices)


def test_close_neighbours_have_exact_distances():
    memory = random(9, 50) + 100
    near = memory[3:4] + 1e-3
    distances, places = nearest(near, memory, 1)
    assert int(places) == 3
    assert float(distances) == pytest.approx(1e-3 * 50**0.5, rel=0.02)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_not_finite_is_near_to_nothing(value, count):
    queries, memory = random(2, 6), random(5, 6, seed=1)
    queries[1, 2] = value
    distances, places = nearest(queries, memory, count)
    assert bool(((places >= 0) & (places < 5)).all())
    assert torch.isfinite(distances[0]).all()
    assert not torch.isfinite(distances[1]).any()


def test_reweighting_is_equation_7():
    memory, patch = random(12, 4), random(2, 4, seed=1) * 2
    distances, places = nearest(patch, memory, 1)
    found = rarity(patch, distances[:, 0], places[:, 0], memory, 3)
    for row in range(2):
        own = memory[places[row, 0]]
        around = (memory - own).norm(dim=1).argsort()[:3]  # itself among them
        lengths = (memory[around] - patch[row]).norm(dim=1)
        factor = 1 - torch.exp(distances[row, 0]) / torch.exp(lengths).sum()
        assert float(found[row]) == pytest.approx(float(factor), rel=1e-4)


@pytest.mark.parametrize("neighbours", [1, 2])
def test_the_score_of_a_coreset_is_equation_7(neighbours):
    """The distance once, of the farthest patch, and the factor; the top score has none."""
    memory, patches = random(12, 4), random(3, 5, 4, seed=1) * 2
    model = Coreset(torch.eye(4), torch.zeros(4), memory, neighbours, reweighting=3)
    highest, top = model(patches)
    plain, same_top = Coreset(torch.eye(4), torch.zeros(4), memory, neighbours, 0)(patches)
    assert torch.equal(top, same_top)
    for image, found, without in zip(patches, highest, plain, strict=True):
        distances = torch.cdist(image, memory)
        means = distances.sort(dim=1).values[:, :neighbours].mean(dim=1)
        far = int(means.argmax())
        own = memory[distances[far].argmin()]
        around = (memory - own).norm(dim=1).argsort()[:3]
        lengths = (memory[around] - image[far]).norm(dim=1)
        factor = 1 - torch.exp(distances[far].min()) / torch.exp(lengths).sum()
        assert float(without) == pytest.approx(float(means[far]), rel=1e-4)
        assert float(found) == pytest.approx(float(factor * means[far]), rel=1e-4)


def test_reweighting_stays_finite_far_away():
    memory, patch = random(12, 4), torch.full((1, 4), 1e4)
    distances, places = nearest(patch, memory, 1)
    found = rarity(patch, distances[:, 0], places[:, 0], memory, 3)
    assert 0 < float(found) < 1


def test_the_top_score_is_the_mean_of_the_highest():
    distances = torch.arange(100.0).flip(0)[None]
    assert float(top_mean(distances)) == 97  # of 95 to 99
    assert float(top_mean(torch.tensor([[1.0, 5.0]]))) == 5
