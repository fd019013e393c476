"""Groups of images against the distributions that normally distributed scores have."""

import numpy as np
import pytest
from scipy import stats

from amatune import metrics
from amatune.results.groups import RATES, group_figures


def scores(count, mean=0.0, deviation=1.0, seed=0):
    return np.random.default_rng(seed).normal(mean, deviation, count)


@pytest.mark.parametrize("size", [1, 2, 5, 10])
def test_rejections_are_those_of_normal_distributions(size):
    """The mean of M scores has deviation 1 / sqrt(M): thresholds and shares are known."""
    held_out, normal = scores(20_000), scores(20_000, seed=1)
    found = group_figures(held_out, normal, scores(20_000, 0.5, seed=2), size)
    deviation = size**-0.5
    for rate in RATES:
        threshold = stats.norm.isf(rate / 2) * deviation
        beyond = stats.norm(0.5, deviation)
        expected = beyond.sf(threshold) + beyond.cdf(-threshold)
        assert found.false_alarms[rate] == pytest.approx(rate, abs=0.006)
        assert found.rejected[rate] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("size", [1, 5])
def test_the_auroc_is_that_of_folded_distributions(size):
    found = group_figures(
        scores(20_000), scores(20_000, seed=1), scores(20_000, 0.4, 0.8, seed=2), size
    )
    inside = np.abs(stats.norm(0, size**-0.5).rvs(200_000, random_state=3))
    beyond = np.abs(stats.norm(0.4, 0.8 * size**-0.5).rvs(200_000, random_state=4))
    assert found.auroc == pytest.approx(metrics.auroc(inside, beyond), abs=0.01)


def test_of_single_images_it_is_the_distance_from_the_mean():
    held_out, normal, anomaly = scores(50), scores(80, seed=1), scores(60, -1.0, seed=2)
    found = group_figures(held_out, normal, anomaly, 1)
    distances = (np.abs(one - held_out.mean()) for one in (normal, anomaly))
    assert found.auroc == pytest.approx(metrics.auroc(*distances))


def test_the_seed_decides_and_groups_on_either_side_are_found():
    sides = scores(40), scores(40, seed=1), scores(40, -2.0, seed=2)
    assert group_figures(*sides, 5) == group_figures(*sides, 5)
    assert group_figures(*sides, 5) != group_figures(*sides, 5, seed=1)
    assert group_figures(*sides, 10).auroc == 1
    assert group_figures(*sides, 10).rejected == dict.fromkeys(RATES, 1.0)


@pytest.mark.parametrize(("size", "anomalies"), [(0, 30), (10, 9)])
def test_groups_that_cannot_be_made_are_refused(size, anomalies):
    with pytest.raises(ValueError, match=rf"groups of {size} images .* 20, 30, {anomalies}"):
        group_figures(scores(20), scores(30), scores(anomalies), size)
