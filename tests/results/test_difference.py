"""Whether two configurations differ: against independent calculations, and how often in vain."""

import itertools
import math

import numpy as np
import pytest
from fake_run import ANOMALIES, NORMALS, scores
from scipy import stats

from amatune.results.difference import holm, lead_error, paired_difference
from amatune.results.leaderboard import choose
from amatune.results.objective import validation_auroc


def naive_delong(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> tuple[float, float]:
    """Difference and variance by DeLong's formulas, pair by pair."""
    psi = [
        (s["anomaly"][:, None] > s["normal"]) + 0.5 * (s["anomaly"][:, None] == s["normal"])
        for s in (a, b)
    ]
    at_anomaly = np.array([p.mean(axis=1) for p in psi])
    at_normal = np.array([p.mean(axis=0) for p in psi])
    covariance = np.cov(at_anomaly) / ANOMALIES + np.cov(at_normal) / NORMALS
    difference = psi[0].mean() - psi[1].mean()
    return difference, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]


@pytest.mark.parametrize(("ours", "theirs"), [([1, 2, 3], [4, 5]), ([1], [2, 3]), ([1], [2])])
def test_the_difference_against_an_independent_calculation(
    ours: list[int], theirs: list[int]
) -> None:
    a, b = [scores(1.5, seed) for seed in ours], [scores(1.0, seed) for seed in theirs]
    found = paired_difference(a, b)
    pairs = [naive_delong(x, y) for x, y in itertools.product(a, b)]
    assert found.difference == pytest.approx(np.mean([d for d, _ in pairs]))
    images = np.mean([math.sqrt(v) for _, v in pairs]) ** 2
    aurocs = [[stats.mannwhitneyu(s["anomaly"], s["normal"])[0] for s in side] for side in (a, b)]
    seeds = [
        np.var(side, ddof=1) / (NORMALS * ANOMALIES) ** 2 / len(side) if len(side) > 1 else 0.0
        for side in aurocs
    ]
    assert found.standard_error**2 == pytest.approx(images + sum(seeds))
    uncertain = sum(v**2 / (len(side) - 1) for v, side in zip(seeds, aurocs, strict=True) if v)
    degrees = (images + sum(seeds)) ** 2 / uncertain if uncertain else math.inf
    assert found.degrees == pytest.approx(degrees)
    t = found.difference / found.standard_error
    expected = 2 * (stats.t(degrees).sf(abs(t)) if uncertain else stats.norm.sf(abs(t)))
    assert found.p == pytest.approx(expected)


def test_the_difference_has_a_direction_and_no_preference() -> None:
    a, b = [scores(1.5, 1), scores(1.5, 2)], [scores(1.0, 3)]
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.difference == -back.difference > 0
    assert there.p == pytest.approx(back.p)


def test_equal_detectors_do_not_differ() -> None:
    one = scores(1.0, 1)
    assert paired_difference([one], [one]).p == 1
    perfect = {"normal": np.zeros(5), "anomaly": np.ones(5)}
    reversed_ = {"normal": np.ones(5), "anomaly": np.zeros(5)}
    assert paired_difference([perfect], [reversed_]).p == 0


def test_training_variance_is_taken_into_account() -> None:
    """Without any true difference, p below .05 comes up in about 5% of comparisons."""
    generator = np.random.default_rng(0)

    def seeds() -> list[dict[str, np.ndarray]]:
        # The training shifts the anomalies; the images hardly matter.
        return [
            {"normal": np.linspace(-2, 2, 60), "anomaly": np.linspace(-1, 1, 30) + shift}
            for shift in generator.normal(0.8, 0.5, size=3)
        ]

    rejected = np.mean([paired_difference(seeds(), seeds()).p < 0.05 for _ in range(150)])
    assert rejected < 0.08


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.001, 0.6, 0.02]) == pytest.approx([1.0, 0.004, 1.0, 0.06])
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


SETS = np.repeat([0, 1, 2], [15, 8, ANOMALIES - 23])


def test_the_mean_over_sets_against_an_independent_calculation() -> None:
    """By the comparisons of each anomaly with each normal image, weighted by set: the variance of
    their sum, by DeLong's components within each set."""
    a, b = scores(1.5, 1), scores(1.0, 2)
    psi = [
        (s["anomaly"][:, None] > s["normal"]) + 0.5 * (s["anomaly"][:, None] == s["normal"])
        for s in (a, b)
    ]
    gaps = psi[0] - psi[1]
    by_set = [gaps[one == SETS] for one in range(3)]
    at_normal = np.mean([own.mean(axis=0) for own in by_set], axis=0)
    variance = at_normal.var(ddof=1) / NORMALS
    variance += sum(own.mean(axis=1).var(ddof=1) / len(own) / 9 for own in by_set)
    found = paired_difference([a], [b], sets=SETS)
    assert found.difference == pytest.approx(np.mean([own.mean() for own in by_set]))
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=0.01)
    plain = paired_difference([a], [b])
    one_set = paired_difference([a], [b], sets=np.zeros(ANOMALIES, np.int64))
    assert one_set.standard_error == pytest.approx(plain.standard_error)
    alone = np.arange(NORMALS), np.arange(NORMALS, NORMALS + ANOMALIES)
    grouped = paired_difference([a], [b], alone, SETS)
    assert grouped.standard_error == pytest.approx(found.standard_error, rel=0.05)


def test_the_error_of_the_worst_set_is_that_of_the_deciding_one() -> None:
    a, b = [scores(1.5, 1)], [scores(1.0, 2)]
    for side in (a, b):
        side[0]["anomaly"][SETS == 1] -= 1
    only = [{**s, "anomaly": s["anomaly"][SETS == 1]} for s in (*a, *b)]
    expected = paired_difference(only[:1], only[1:]).standard_error
    assert lead_error(a, b, sets=SETS, worst=True) == pytest.approx(expected)
    assert lead_error(a, b, sets=SETS) == paired_difference(a, b, sets=SETS).standard_error
    lonely = SETS.copy()
    lonely[np.flatnonzero(SETS == 1)[1:]] = 0
    a[0]["anomaly"][lonely == 1] -= 9
    assert lead_error(a, b, sets=lonely, worst=True) == math.inf


@pytest.mark.parametrize("kind", ["pooled", "mean", "worst"])
def test_equals_are_seldom_preferred_to_the_default_whatever_the_objective(kind: str) -> None:
    """Ahead by more than a standard error, which is what a sixth of them are by chance."""
    generator = np.random.default_rng(1)
    bounds, preferred = np.array([0, 40, 50]), 0
    sets = None if kind == "pooled" else np.repeat([0, 1], [40, 10])
    for _ in range(300):
        own = {
            name: [{"normal": generator.normal(size=300), "anomaly": generator.normal(1, 1, 50)}]
            for name in ("trial-1", "default")
        }
        means = {n: validation_auroc(**s[0], bounds=bounds, kind=kind) for n, s in own.items()}
        preferred += choose(own, means, sets=sets, worst=kind == "worst")[0] != "default"
    assert 0.08 < preferred / 300 < 0.22
