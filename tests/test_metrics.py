"""Metrics against independent calculations: scikit-learn, brute force, formulas, simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from amatune import metrics

# Whole numbers from a short range tie often, the rest rarely.
SCORES = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6)), min_size=2, max_size=40
)


def labelled(normal, anomaly):
    return np.r_[np.zeros(len(normal)), np.ones(len(anomaly))], np.r_[normal, anomaly]


def placements(normal, anomaly):
    """DeLong's components by comparing every pair, O(n m)."""
    difference = np.subtract.outer(np.asarray(anomaly), np.asarray(normal))
    wins = (difference > 0) + 0.5 * (difference == 0)
    return wins.mean(axis=1), wins.mean(axis=0)


@settings(max_examples=150)
@given(SCORES, SCORES)
def test_point_estimates_agree_with_scikit_learn(normal, anomaly):
    labels, scores = labelled(normal, anomaly)
    assert metrics.auroc(normal, anomaly) == pytest.approx(roc_auc_score(labels, scores))
    assert metrics.average_precision(normal, anomaly) == pytest.approx(
        average_precision_score(labels, scores)
    )
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    for tpr in (0.5, 0.95, 1.0):
        expected = false[true >= tpr - 1e-9].min()
        assert metrics.fpr_at_tpr(normal, anomaly, tpr) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("normal", "anomaly", "auroc", "precision", "fpr"),
    [
        ([0, 1], [2, 3], 1.0, 1.0, 0.0),
        ([2, 3], [0, 1], 0.0, (1 / 3 + 2 / 4) / 2, 1.0),
        ([1, 1, 1], [1, 1], 0.5, 0.4, 1.0),
        ([0, 2], [1, 2], 0.625, 0.5 * 1 / 2 + 0.5 * 2 / 3, 0.5),
    ],
)
def test_values_worked_out_by_hand(normal, anomaly, auroc, precision, fpr):
    assert metrics.auroc(normal, anomaly) == auroc
    assert metrics.average_precision(normal, anomaly) == pytest.approx(precision)
    assert metrics.fpr_at_tpr(normal, anomaly) == fpr


def test_fpr_threshold_is_exact_where_the_product_is_not():
    assert 0.55 * 100 > 55
    # 55 of 100 anomalies suffice: a normal image just below the 55th must not be flagged.
    assert metrics.fpr_at_tpr([44.5], range(100), 0.55) == 0.0
    assert metrics.fpr_at_tpr([45.5], range(100), 0.55) == 1.0


@settings(max_examples=100)
@given(SCORES, SCORES)
def test_delong_variance_is_that_of_all_pairs(normal, anomaly):
    at_anomaly, at_normal = placements(normal, anomaly)
    variance = at_anomaly.var(ddof=1) / len(anomaly) + at_normal.var(ddof=1) / len(normal)
    found = metrics.auroc_standard_error(normal, anomaly)
    assert found == pytest.approx(math.sqrt(variance), abs=1e-9)


def test_paired_comparison_is_that_of_all_pairs():
    rng = np.random.default_rng(3)
    normal_a, anomaly_a = rng.normal(size=60).round(1), rng.normal(1, 1, 25).round(1)
    normal_b = normal_a + rng.normal(size=60).round(1)
    anomaly_b = anomaly_a + rng.normal(size=25).round(1)
    (v10_a, v01_a), (v10_b, v01_b) = (
        placements(normal_a, anomaly_a),
        placements(normal_b, anomaly_b),
    )
    covariance = np.cov(v10_a, v10_b) / 25 + np.cov(v01_a, v01_b) / 60
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference = v10_a.mean() - v10_b.mean()

    found = metrics.delong_paired(normal_a, anomaly_a, normal_b, anomaly_b)

    assert found.difference == pytest.approx(difference)
    assert found.standard_error == pytest.approx(error)
    from scipy.stats import norm

    assert found.p_value == pytest.approx(2 * norm.sf(abs(difference) / error))
    swapped = metrics.delong_paired(normal_b, anomaly_b, normal_a, anomaly_a)
    assert swapped == pytest.approx((-difference, error, found.p_value))


def test_paired_comparison_without_variance():
    same = metrics.delong_paired([0, 1, 2], [1, 3], [0, 10, 20], [10, 30])
    assert same == (0.0, 0.0, 1.0)
    opposite = metrics.delong_paired([0, 1], [2, 3], [2, 3], [0, 1])
    assert opposite == (1.0, 0.0, 0.0)


def test_paired_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(8)
    p_values = []
    for _ in range(400):
        truth_n, truth_a = rng.normal(size=100), rng.normal(1.5, 1, 50)
        a, b = ([x + rng.normal(0, 0.7, len(x)) for x in (truth_n, truth_a)] for _ in range(2))
        p_values.append(metrics.delong_paired(*a, *b).p_value)
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.05)


@settings(max_examples=60)
@given(SCORES, SCORES, st.randoms(use_true_random=False))
def test_order_and_monotone_changes_of_scale_do_not_matter(normal, anomaly, random):
    _, ranks = np.unique(np.r_[normal, anomaly], return_inverse=True)
    normal_ranks, anomaly_ranks = ranks[: len(normal)], ranks[len(normal) :]
    shuffled = random.sample(normal, len(normal)), random.sample(anomaly, len(anomaly))
    for function in (
        metrics.auroc,
        metrics.average_precision,
        metrics.fpr_at_tpr,
        metrics.auroc_standard_error,
        metrics.delong_interval,
    ):
        expected = pytest.approx(function(normal, anomaly), abs=1e-9)
        assert function(*shuffled) == expected
        assert function(normal_ranks**3, anomaly_ranks**3) == expected
    assert metrics.auroc(anomaly, normal) == pytest.approx(1 - metrics.auroc(normal, anomaly))


@pytest.mark.parametrize("area", [0.0, 0.3, 0.5, 0.8, 0.95, 1.0])
def test_hanley_mcneil_formula(area):
    anomalies, normals = 50, 500
    q1, q2 = area / (2 - area), 2 * area * area / (1 + area)
    variance = area * (1 - area) + 49 * (q1 - area * area) + 499 * (q2 - area * area)
    expected = math.sqrt(max(variance, 0) / (anomalies * normals))
    assert metrics.hanley_mcneil(area, anomalies, normals) == pytest.approx(expected, abs=1e-9)


def test_hanley_mcneil_published_values():
    # Fifty anomalies and many normal images: the figures the project plans with.
    for area, error in ((0.80, 0.038), (0.90, 0.030), (0.95, 0.022)):
        assert metrics.hanley_mcneil(area, 50, 500) == pytest.approx(error, abs=0.001)


def test_hanley_mcneil_is_the_spread_of_exponential_scores():
    rng = np.random.default_rng(1)
    areas = [metrics.auroc(rng.exponential(1, 80), rng.exponential(9, 30)) for _ in range(3000)]
    assert np.std(areas) == pytest.approx(metrics.hanley_mcneil(0.9, 30, 80), rel=0.06)


@pytest.mark.parametrize("spread", ["normal", "exponential"])
@pytest.mark.parametrize("area", [0.7, 0.9, 0.99])
def test_interval_covers_the_true_area(spread, area):
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        if spread == "normal":
            from statistics import NormalDist

            shift = math.sqrt(2) * NormalDist().inv_cdf(area)
            normal, anomaly = rng.normal(size=300), rng.normal(shift, 1, 50)
        else:
            normal, anomaly = rng.exponential(1, 300), rng.exponential(area / (1 - area), 50)
        low, high = metrics.delong_interval(normal, anomaly)
        hits += low <= area <= high
    # Three standard errors of 400 trials are .033; too wide near 1 is known and allowed.
    assert hits / 400 > 0.95 - 0.033


def test_interval_at_the_ends_is_honest_about_the_sample():
    few = metrics.delong_interval(np.zeros(500), np.ones(10))
    many = metrics.delong_interval(np.zeros(500), np.ones(200))
    assert few[1] == many[1] == 1.0
    assert 0.7 < few[0] < many[0] < 1.0
    low, high = metrics.delong_interval(np.ones(500), np.zeros(10))
    assert (low, high) == pytest.approx((0.0, 1 - few[0]))
    # Newcombe's limit solves 1 - A = z SE(A).
    z = 1.959964
    assert 1 - few[0] == pytest.approx(z * metrics.hanley_mcneil(few[0], 10, 500), rel=1e-5)


def test_one_misranked_image_does_not_make_the_interval_narrower_than_none():
    perfect = metrics.delong_interval(np.arange(500), np.arange(500, 550))
    nearly = metrics.delong_interval([*range(499), 500.5], np.arange(500, 550))
    assert nearly[0] <= perfect[0]


def test_interval_of_nothing_but_ties_and_other_levels():
    low, high = metrics.delong_interval(np.zeros(50), np.zeros(50))
    assert low < 0.5 < high
    rng = np.random.default_rng(0)
    scores = rng.normal(size=100), rng.normal(1, 1, 50)
    wide, narrow = metrics.delong_interval(*scores, 0.99), metrics.delong_interval(*scores, 0.5)
    assert wide[0] < narrow[0] < metrics.auroc(*scores) < narrow[1] < wide[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.auroc([], [1]),
        lambda: metrics.auroc([1], []),
        lambda: metrics.average_precision([1, math.nan], [1]),
        lambda: metrics.fpr_at_tpr([1], [math.inf]),
        lambda: metrics.fpr_at_tpr([1], [2], tpr=0),
        lambda: metrics.fpr_at_tpr([1], [2], tpr=1.1),
        lambda: metrics.auroc([[1, 2]], [1]),
        lambda: metrics.auroc_standard_error([1], [1, 2]),
        lambda: metrics.delong_interval([1, 2], [1]),
        lambda: metrics.delong_interval([1, 2], [1, 2], level=1),
        lambda: metrics.delong_paired([1, 2], [1, 2], [1, 2, 3], [1, 2]),
        lambda: metrics.hanley_mcneil(1.1, 5, 5),
        lambda: metrics.hanley_mcneil(0.9, 0, 5),
    ],
)
def test_impossible_arguments_are_refused(call):
    with pytest.raises(ValueError, match=r"must be|needs|need"):
        call()


@settings(max_examples=100)
@given(SCORES, SCORES, st.integers(1, 99))
def test_conformal_p_values_and_thresholds_say_the_same(calibration, scores, percent):
    p_values = metrics.conformal_p_values(calibration, scores)
    n = len(calibration)
    counts = [sum(c >= s for c in calibration) for s in scores]
    assert p_values.tolist() == [(1 + count) / (n + 1) for count in counts]
    if percent * (n + 1) < 100:
        with pytest.raises(ValueError, match=f"support rates from 1/{n + 1}"):
            metrics.conformal_threshold(calibration, percent / 100)
        return
    threshold = metrics.conformal_threshold(calibration, percent / 100)
    flagged = [100 * (1 + count) <= percent * (n + 1) for count in counts]  # p <= rate, exactly
    assert [score > threshold for score in scores] == flagged


def test_conformal_rates_hold_and_are_as_large_as_they_may_be():
    """Over many draws of 39 + 1 scores, 5% of the new ones are flagged: 2/40 exactly."""
    draws = np.random.default_rng(0).normal(size=(4000, 40))
    flagged = [new > metrics.conformal_threshold(rest, 0.05) for new, *rest in draws]
    assert np.mean(flagged) == pytest.approx(0.05, abs=3.5 * math.sqrt(0.05 * 0.95 / 4000))


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan, math.inf, 0.24])
def test_a_rate_that_three_scores_do_not_support(rate):
    with pytest.raises(ValueError, match="3 normal scores support rates from 1/4"):
        metrics.conformal_threshold([1.0, 2.0, 3.0], rate)


@pytest.mark.parametrize("anomalies", [3, 49, 2000, 2001])
def test_what_is_told_apart_without_error_has_an_average_precision_of_1(anomalies):
    """And not a hair more, by rounding."""
    generator = np.random.default_rng(0)
    found = metrics.average_precision(generator.random(500), 2 + generator.random(anomalies))
    assert found <= 1
    assert found == pytest.approx(1)
