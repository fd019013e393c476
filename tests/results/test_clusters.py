"""Images in groups: Obuchowski's variance against her formula, a bootstrap and simulations."""

import math

import numpy as np
import pytest
from scipy import special, stats

from amatune import metrics
from amatune.results.certify import _one_each
from amatune.results.difference import paired_difference
from amatune.results.selection import correct_for_selection, draw_groups


def drawn(generator, groups, each, shift=0.0, share=0.7, common=None):
    """Scores of `groups` groups of `each` images, `share` of whose variance is the group's."""
    middle = generator.normal(size=groups) if common is None else common
    own = generator.normal(size=(groups, each))
    return (shift + math.sqrt(share) * middle[:, None] + math.sqrt(1 - share) * own).ravel()


def numbered(groups, each, start=0):
    return np.repeat(np.arange(start, start + groups), each)


def obuchowski(normal, anomaly, groups):
    """Her equations, cluster by cluster and pair by pair."""
    above = (anomaly[:, None] > normal) + 0.5 * (anomaly[:, None] == normal)
    area, names = above.mean(), np.unique(np.concatenate(groups))
    m, n = above.shape
    in_10, in_01 = (sum(name in set(side) for name in names) for side in (groups[1], groups[0]))
    s10 = s01 = s11 = 0.0
    for name in names:
        x = sum(above[i].mean() - area for i in np.flatnonzero(groups[1] == name))
        y = sum(above[:, j].mean() - area for j in np.flatnonzero(groups[0] == name))
        s10, s01, s11 = s10 + x * x, s01 + y * y, s11 + x * y
    s10 *= in_10 / ((in_10 - 1) * m)
    s01 *= in_01 / ((in_01 - 1) * n)
    s11 *= len(names) / (len(names) - 1)
    return math.sqrt(s10 / m + s01 / n + 2 * s11 / (m * n))


@pytest.mark.parametrize("mixed", [False, True])
def test_the_variance_is_obuchowskis(mixed):
    generator = np.random.default_rng(0)
    normal = generator.normal(size=60).round(1)
    anomaly = generator.normal(0.8, size=40).round(1)
    groups = generator.integers(0, 12, 60), generator.integers(0, 9, 40) + (0 if mixed else 20)
    found = metrics.auroc_standard_error(normal, anomaly, groups)
    assert found == pytest.approx(obuchowski(normal, anomaly, groups))
    alone = np.arange(60), np.arange(60, 100)
    by_image = metrics.auroc_standard_error(normal, anomaly)
    assert metrics.auroc_standard_error(normal, anomaly, alone) == pytest.approx(by_image)
    other = normal + generator.normal(size=60), anomaly + generator.normal(size=40)
    paired = metrics.delong_paired(normal, anomaly, *other, groups)
    plain = metrics.delong_paired(normal, anomaly, *other)
    assert paired.difference == plain.difference
    assert paired.standard_error != plain.standard_error


@pytest.mark.parametrize("mixed", [False, True])
def test_of_more_groups_of_anomalies_the_second_part_of_a_variance_falls(mixed):
    """As if every anomaly came once more, in a group of its own with those of its group."""
    generator = np.random.default_rng(4)
    common = generator.normal(size=40)
    normal, anomaly = (drawn(generator, 40, 3, own, common=common) for own in (0.0, 1.0))
    groups = numbered(40, 3), numbered(40, 3, 0 if mixed else 40)
    first, second = metrics.area_variances(normal, anomaly, groups)
    error = metrics.auroc_standard_error(normal, anomaly, groups)
    assert first + second == pytest.approx(error**2)
    twice = groups[0], np.concatenate([groups[1], groups[1] + 1000])
    error = metrics.auroc_standard_error(normal, np.tile(anomaly, 2), twice)
    assert first + second / 2 == pytest.approx(error**2, rel=0.03)
    plain = metrics.area_variances(normal, anomaly)
    assert sum(plain) == pytest.approx(metrics.auroc_standard_error(normal, anomaly) ** 2)
    above = (anomaly[:, None] > normal).mean(axis=0)
    assert plain[0] == pytest.approx(np.var(above, ddof=1) / 120)


def test_groups_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="at least two groups on each side"):
        metrics.auroc_standard_error([1, 2, 3], [2, 3], (np.array([0, 1, 1]), np.array([2, 2])))
    with pytest.raises(ValueError, match="at least two groups"):
        metrics.auroc_standard_error([1, 2, 3], [2, 3], (np.array([0, 1]), np.array([2, 3])))


def test_students_quantile():
    for degrees, rough in ((1, 1e-9), (2, 1e-9), (3, 0.012), (5, 0.002), (20, 1e-4)):
        exact = stats.t.ppf(0.975, degrees)
        assert metrics._students(stats.norm.ppf(0.975), degrees) == pytest.approx(exact, rel=rough)


def test_an_interval_of_groups_is_students():
    """On the logit scale; by images it is the normal distribution's."""
    area, error = 0.8, 0.05
    for grouped, quantile in ((True, stats.t(29).ppf(0.975)), (False, stats.norm.ppf(0.975))):
        reach = quantile * error / (area * (1 - area))
        expected = special.expit(special.logit(area) + np.array([-reach, reach]))
        found = metrics.area_interval(area, error, 40, 30, grouped=grouped)
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mixed", [False, True])
def test_intervals_cover_where_images_come_in_groups(mixed):
    """20 groups of anomalies, 30 of normal images, five each. By image the interval is far too
    narrow. Mixed: each group has both, as pictures of one day."""
    generator = np.random.default_rng(1)
    truth = float(stats.norm.cdf(1.2 / math.sqrt(2)))
    covered = np.zeros(2)
    differences = []
    for _ in range(300):
        if mixed:
            common = generator.normal(size=25)
            normal = drawn(generator, 25, 5, common=common)
            anomaly = drawn(generator, 25, 3, 1.2, common=common)
            groups = numbered(25, 5), numbered(25, 3)
        else:
            normal, anomaly = drawn(generator, 30, 5), drawn(generator, 20, 5, 1.2)
            groups = numbered(30, 5), numbered(20, 5, 30)
        for place, own in enumerate((None, groups)):
            low, high = metrics.delong_interval(normal, anomaly, groups=own)
            covered[place] += low <= truth <= high
        differences.append(metrics.auroc(normal, anomaly) - truth)
    by_image, by_group = covered / 300
    if mixed:  # there images of a group share its luck, so that the area varies less than between
        assert by_group > 0.91
    else:
        assert by_image < 0.8
        assert by_group > 0.91


def test_a_difference_counts_groups_and_not_images():
    """Two detectors of the same worth: false alarms of the paired test, at 5%."""
    generator = np.random.default_rng(2)
    wrong = np.zeros(2)
    groups = numbered(30, 5), numbered(12, 5, 30)
    for _ in range(200):
        a, b = (
            {"normal": drawn(generator, 30, 5), "anomaly": drawn(generator, 12, 5, 1.2)}
            for _ in range(2)
        )
        wrong += [paired_difference([a], [b], own).p < 0.05 for own in (None, groups)]
    by_image, by_group = wrong / 200
    assert by_image > 0.15
    assert by_group < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    assert paired_difference([a], [b], groups).degrees == pytest.approx(11)


def test_the_choice_is_repeated_with_whole_groups():
    generator = np.random.default_rng(3)
    groups = numbered(6, 4), np.concatenate([numbered(3, 5, 6), numbered(2, 2, 4)])
    normals, anomalies = draw_groups(generator, groups, 50)
    for sides, own in ((normals, groups[0]), (anomalies, groups[1])):
        for name in np.unique(own):
            assert (sides[own == name] == sides[own == name][0]).all()
    assert (normals[groups[0] == 4][0] == anomalies[groups[1] == 4][0]).all()  # a mixed group
    trials = [
        [{"normal": drawn(generator, 6, 4), "anomaly": drawn(generator, 5, 4, 1.0)}]
        for _ in range(20)
    ]
    own = numbered(6, 4), numbered(5, 4, 6)
    by_image, by_group = (
        correct_for_selection(trials, np.array([0, 20]), "pooled", groups=g) for g in (None, own)
    )
    assert by_group.apparent == by_image.apparent
    assert by_group.corrected < by_image.corrected  # picked for whole groups, which are few


def test_one_image_of_each_group_is_independent():
    groups = np.array([3, 3, 1, 7, 1, 1])
    places = _one_each(groups)
    assert sorted(groups[places]) == [1, 3, 7]
