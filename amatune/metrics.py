"""Figures of merit of anomaly scores, and how uncertain they are. NumPy only.

Everywhere a higher score means more anomalous, anomalies are the positive class, and the first two
arguments are the scores of the normal images `(n,)` and of the anomalies `(m,)`. Tied scores count
one half, as in the Mann-Whitney statistic. Empty or non-finite scores raise `ValueError`.

Sources:
    Hanley and McNeil, Radiology 143:29-36, 1982           (standard error from sizes alone)
    DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988  (variance and paired comparison)
    Sun and Xu, IEEE Signal Processing Letters 21, 2014     (DeLong by midranks, O(N log N))
    Obuchowski, Biometrics 53:567-578, 1997                (DeLong where images come in groups)
    Newcombe, Statistics in Medicine 25:559-573, 2006       (an interval that works at AUROC 1)
    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005    (conformal p-values)
"""

import math
from collections.abc import Callable
from fractions import Fraction
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]
# Of the normal images (n,) and of the anomalies (m,): which belong together, such as those of one
# part; the same number on both sides is the same group. Groups are independent, images of one not.
Groups = tuple[NDArray[np.int64], NDArray[np.int64]]

_FEW = 5  # misranked images below which DeLong's variance is not trusted alone


def auroc(normal: ArrayLike, anomaly: ArrayLike) -> float:
    """The probability that an anomaly scores above a normal image, ties counting one half."""
    at_anomaly, _ = _placements(_checked("normal", normal), _checked("anomaly", anomaly))
    return float(at_anomaly.mean())


def average_precision(normal: ArrayLike, anomaly: ArrayLike) -> float:
    """Area under the precision-recall curve as a step function, in (0, 1].

    The sum over distinct thresholds of precision times the recall gained, without interpolation
    (scikit-learn's definition). Depends on the share of anomalies, unlike AUROC.
    """
    true_positives, false_positives = _counts_by_threshold(normal, anomaly)
    precision = true_positives / (true_positives + false_positives)
    gained = np.diff(true_positives, prepend=0) / true_positives[-1]
    return min(float(precision @ gained), 1.0)  # a sum of many shares may round to a hair above


def fpr_at_tpr(normal: ArrayLike, anomaly: ArrayLike, tpr: float = 0.95) -> float:
    """The smallest share of normal images flagged by a threshold that flags `tpr` of the anomalies.

    `tpr` lies in (0, 1]; anything else raises `ValueError`.
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must be in (0, 1], got {tpr}")
    true_positives, false_positives = _counts_by_threshold(normal, anomaly)
    wanted = tpr * true_positives[-1] * (1 - 1e-12)  # 0.95 * 20 is 19, not a hair above
    first = int(np.argmax(true_positives >= wanted))
    return float(false_positives[first] / false_positives[-1])


def conformal_p_values(calibration: ArrayLike, scores: ArrayLike) -> Scores:
    """How ordinary scores (k,) are among those of n normal images: (k,) in [1 / (n + 1), 1].

    p = (1 + #{calibration >= score}) / (n + 1). For a normal image exchangeable with those of the
    calibration, P(p <= a) <= a for every a.
    """
    ordered, values = np.sort(_checked("calibration", calibration)), np.asarray(scores, np.float64)
    at_least = len(ordered) - np.searchsorted(ordered, values, side="left")
    return np.asarray((1 + at_least) / (len(ordered) + 1), np.float64)


def conformal_threshold(calibration: ArrayLike, fpr: float) -> float:
    """The score above which, strictly, `conformal_p_values` are at most `fpr`.

    Raises `ValueError` unless 1 / (n + 1) <= `fpr` < 1: n normal images support no smaller rate.
    """
    ordered = np.sort(_checked("calibration", calibration))
    # The decimal fraction that was written: 0.29 of 100 is 29, not a hair below.
    beyond = math.floor(Fraction(str(fpr)) * (len(ordered) + 1)) if 0 < fpr < 1 else 0
    if beyond < 1:
        raise ValueError(
            f"{len(ordered)} normal scores support rates from 1/{len(ordered) + 1} to below 1, "
            f"got {fpr}"
        )
    return float(ordered[len(ordered) - beyond])


def auroc_standard_error(
    normal: ArrayLike, anomaly: ArrayLike, groups: Groups | None = None
) -> float:
    """DeLong's standard error of `auroc`, of images in groups Obuchowski's; 0 when the two sides do
    not overlap.

    Needs at least two scores on each side, in two groups, else `ValueError`.
    """
    at_anomaly, at_normal = _placements(*_checked_pair(normal, anomaly))
    return math.sqrt(_variance(at_normal, at_anomaly, groups))


def hanley_mcneil(auroc: float, n_anomalies: int, n_normals: int) -> float:
    """The standard error to expect of an AUROC, from its value and the two sizes alone.

    Exact for exponentially distributed scores; good enough to say what a number of anomalies is
    worth before any is scored. Raises `ValueError` outside [0, 1] and for empty sides.
    """
    if not 0 <= auroc <= 1:
        raise ValueError(f"auroc must be in [0, 1], got {auroc}")
    if n_anomalies < 1 or n_normals < 1:
        raise ValueError(f"both sides need images, got {n_anomalies} anomalies, {n_normals} normal")
    two_anomalies = auroc / (2 - auroc)  # Q1: both of two anomalies above one normal image
    two_normals = 2 * auroc**2 / (1 + auroc)  # Q2: one anomaly above both of two normal images
    variance = (
        auroc * (1 - auroc)
        + (n_anomalies - 1) * (two_anomalies - auroc**2)
        + (n_normals - 1) * (two_normals - auroc**2)
    ) / (n_anomalies * n_normals)
    return math.sqrt(max(variance, 0.0))  # at exactly 0 and 1 rounding can fall below zero


def delong_interval(
    normal: ArrayLike, anomaly: ArrayLike, level: float = 0.95, groups: Groups | None = None
) -> tuple[float, float]:
    """A confidence interval `(low, high)` for the AUROC, inside [0, 1].

    DeLong's variance on the logit scale, which keeps the interval inside (0, 1) and lopsided as it
    should be. Close to 0 or 1 that variance rests on a handful of misranked images and is too
    small: in simulations with 50 anomalies and 500 normal images, exponential scores and a true
    AUROC of .99 the 95% interval covered 75%; at exactly 1 it is undefined. So where fewer than
    `_FEW` images of the smaller side are misranked, the interval is widened to contain Newcombe's
    (the values whose Hanley-McNeil standard error does not exclude what was observed), which
    covered at least 93% there. At AUROC 1 with 50 anomalies it is about (.96, 1).

    Of images in groups the variance is Obuchowski's, Student's t takes the place of the normal
    distribution, and where few are misranked, groups count and not images.

    `level` lies in (0, 1). Needs at least two scores on each side, in two groups, else
    `ValueError`.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    normal, anomaly = _checked_pair(normal, anomaly)
    area = auroc(normal, anomaly)
    error = auroc_standard_error(normal, anomaly, groups)
    sizes = independent(len(normal), len(anomaly), groups)
    return area_interval(area, error, *sizes, level, grouped=groups is not None)


def independent(normals: int, anomalies: int, groups: Groups | None) -> tuple[int, int]:
    """How many of so many normal images and anomalies are independent: all, or as many as there
    are groups of each."""
    if groups is None:
        return normals, anomalies
    return len(np.unique(groups[0])), len(np.unique(groups[1]))


def area_variance(
    at_normal: ArrayLike, at_anomaly: ArrayLike, groups: Groups | None = None
) -> float:
    """DeLong's variance of an area, or of a difference, by its placements: of every normal image
    (n,) the share of anomalies above it, of every anomaly (m,) that of normal images below it,
    whatever detector judged them. Of images in groups Obuchowski's.

    Raises `ValueError` for fewer than two of a kind, or groups of it.
    """
    sides = np.asarray(at_normal, np.float64), np.asarray(at_anomaly, np.float64)
    if min(map(len, sides)) < 2:
        raise ValueError("a variance needs at least 2 images on each side")
    return _variance(*sides, groups)


def area_interval(
    area: float,
    error: float,
    normals: int,
    anomalies: int,
    level: float = 0.95,
    *,
    grouped: bool = False,
) -> tuple[float, float]:
    """As `delong_interval`, of an AUROC and its standard error, by so many independent images; when
    `grouped`, by so many groups of them, two or more on each side."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    if grouped:
        z = _students(z, min(normals, anomalies) - 1)
    newcombe = _newcombe_interval(area, anomalies, normals, z)
    if error == 0 or area in (0, 1):  # no overlap (or nothing but ties): DeLong says nothing
        return newcombe
    low, high = _logit_interval(area, error, z)
    if min(normals, anomalies) * min(area, 1 - area) < _FEW:
        return min(low, newcombe[0]), max(high, newcombe[1])
    return low, high


class PairedDifference(NamedTuple):
    """The AUROC of scores a minus that of scores b, on the same images."""

    difference: float
    standard_error: float
    p_value: float  # two-sided, against a difference of 0


def delong_paired(
    normal_a: ArrayLike,
    anomaly_a: ArrayLike,
    normal_b: ArrayLike,
    anomaly_b: ArrayLike,
    groups: Groups | None = None,
    sets: NDArray[np.int64] | None = None,
) -> PairedDifference:
    """Compare two detectors that scored the same images, in the same order.

    Uses the covariance of the two areas, so it is far sharper than two separate intervals. When
    the difference has no variance at all (equal rankings, or both perfect), p is 1 for equal areas
    and 0 otherwise. Of images in groups the covariances are Obuchowski's. Where the anomalies are
    of several `sets` (m,), the areas are means over these, whose sizes count as given. Raises
    `ValueError` when the sizes differ or a side has fewer than two scores, or groups.
    """
    normal_a, anomaly_a = _checked_pair(normal_a, anomaly_a)
    normal_b, anomaly_b = _checked_pair(normal_b, anomaly_b)
    if len(normal_a) != len(normal_b) or len(anomaly_a) != len(anomaly_b):
        raise ValueError(
            "paired scores must be of the same images: got "
            f"{len(normal_a)} and {len(normal_b)} normal, "
            f"{len(anomaly_a)} and {len(anomaly_b)} anomalous"
        )
    at_anomaly_a, at_normal_a = _placements(normal_a, anomaly_a, sets)
    at_anomaly_b, at_normal_b = _placements(normal_b, anomaly_b, sets)
    difference = float(at_normal_a.mean() - at_normal_b.mean())
    # Var(a) + Var(b) - 2 Cov(a, b) is the variance of the paired differences: nothing cancels.
    gaps = at_anomaly_a - at_anomaly_b
    if sets is not None:
        gaps = _weighted(gaps, sets)
    error = math.sqrt(_variance(at_normal_a - at_normal_b, gaps, groups))
    if error == 0:
        return PairedDifference(difference, 0.0, 1.0 if difference == 0 else 0.0)
    p_value = math.erfc(abs(difference) / error / math.sqrt(2))
    return PairedDifference(difference, error, p_value)


def area_variances(
    normal: ArrayLike, anomaly: ArrayLike, groups: Groups | None = None
) -> tuple[float, float]:
    """The variance of `auroc` in two parts: with t times as many anomalies, or groups of such, it
    is the first plus the second divided by t, never below 0 for t >= 1.

    What both kinds have in common, in groups with both, is in the second part, which may then be
    below 0: new groups of anomalies share it with no normal image. Raises as
    `auroc_standard_error` does.
    """
    at_anomaly, at_normal = _placements(*_checked_pair(normal, anomaly))
    return _parts(at_normal, at_anomaly, groups)


def paired_variances(
    normal_a: ArrayLike,
    anomaly_a: ArrayLike,
    normal_b: ArrayLike,
    anomaly_b: ArrayLike,
    groups: Groups | None = None,
) -> tuple[float, float]:
    """As `area_variances`, of the difference of `delong_paired`. Raises as that does."""
    first = _placements(*_checked_pair(normal_a, anomaly_a))
    second = _placements(*_checked_pair(normal_b, anomaly_b))
    at_anomaly, at_normal = (a - b for a, b in zip(first, second, strict=True))
    return _parts(at_normal, at_anomaly, groups)


def _logit_interval(area: float, error: float, z: float) -> tuple[float, float]:
    centre = math.log(area / (1 - area))
    reach = z * error / (area * (1 - area))  # delta method: d logit(A) / dA = 1 / (A (1 - A))
    return _sigmoid(centre - reach), _sigmoid(centre + reach)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _newcombe_interval(
    area: float, n_anomalies: int, n_normals: int, z: float
) -> tuple[float, float]:
    """All A with |A - area| <= z SE(A), SE by Hanley and McNeil (Newcombe's score-type method).

    Newcombe averages the two sizes in SE (his method 5). With few anomalies among many normal
    images that is too narrow (simulated coverage .90 where the plain formula has .95). The plain
    formula lets one side count for more, by a model of the scores; we take the larger of both ways.
    """

    def excluded(candidate: float) -> bool:
        error = max(
            hanley_mcneil(candidate, n_anomalies, n_normals),
            hanley_mcneil(candidate, n_normals, n_anomalies),
        )
        return abs(candidate - area) > z * error

    return _boundary(excluded, 0.0, area), _boundary(excluded, 1.0, area)


def _boundary(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Bisect between an excluded value and one that is not, to about 1e-12."""
    for _ in range(40):
        middle = (outside + inside) / 2
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _placements(
    normal: Scores, anomaly: Scores, sets: NDArray[np.int64] | None = None
) -> tuple[Scores, Scores]:
    """DeLong's structural components, each with the AUROC as its mean, in O(N log N).

    For every anomaly (m,) the share of normal images below it; for every normal image (n,) the
    share of anomalies above it, the mean of these shares over `sets` (m,) of anomalies; ties count
    one half. By midranks: the rank among all scores minus the rank among its own kind counts the
    other kind below.
    """
    if sets is not None:
        at_anomaly, by_set = np.empty(len(anomaly)), []
        for one in np.unique(sets):
            at_anomaly[sets == one], at_normal = _placements(normal, anomaly[sets == one])
            by_set.append(at_normal)
        return at_anomaly, np.mean(by_set, axis=0)
    n, m = len(normal), len(anomaly)
    ranks = _midranks(np.concatenate([normal, anomaly]))
    at_normal = 1 - (ranks[:n] - _midranks(normal)) / m
    at_anomaly = (ranks[n:] - _midranks(anomaly)) / n
    return at_anomaly, at_normal


def _weighted(at_anomaly: Scores, sets: NDArray[np.int64]) -> Scores:
    """Placements, or differences of them, (m,) whose plain mean has the variance that the mean over
    `sets` (m,) has: deviations from each set's own mean, by the set's weight. A set of one anomaly
    tells nothing of its spread."""
    m, (_, of, sizes) = len(sets), np.unique(sets, return_inverse=True, return_counts=True)
    deviations = at_anomaly - (np.bincount(of, at_anomaly) / sizes)[of]
    weights = m / (len(sizes) * sizes) * np.sqrt((m - 1) / m * sizes / np.maximum(sizes - 1, 1))
    return np.asarray(deviations * weights[of], np.float64)


def _midranks(values: Scores) -> Scores:
    """Ranks from 1; tied values share the mean of their ranks."""
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    return (last - (size - 1) / 2)[group]


def _variance(at_normal: Scores, at_anomaly: Scores, groups: Groups | None) -> float:
    """Of an area, or of a difference, by its placements (n,) and (m,).

    With groups Obuchowski's (1997) eqs. 4-6: within each the deviations are added up before they
    are squared, and where it has images of both kinds, the two sums go together.
    """
    if groups is None:
        return _variance_of_mean(at_anomaly) + _variance_of_mean(at_normal)
    sides, sums, variance = (at_normal, at_anomaly), [], 0.0
    names, numbers = np.unique(np.concatenate(groups), return_inverse=True)
    own = numbers[: len(at_normal)], numbers[len(at_normal) :]
    for values, of in zip(sides, own, strict=True):
        if len(of) != len(values) or len(count := np.unique(of)) < 2:
            raise ValueError(
                f"a standard error needs images of at least two groups on each side, each image in "
                f"one; got {len(values)} images and {len(of)} groups, {len(np.unique(of))} of them "
                "different"
            )
        added = np.bincount(of, values - values.mean(), len(names)) / len(values)
        variance += len(count) / (len(count) - 1) * float(added @ added)
        sums.append(added)
    variance += 2 * len(names) / (len(names) - 1) * float(sums[0] @ sums[1])
    return max(variance, 0.0)


def _parts(at_normal: Scores, at_anomaly: Scores, groups: Groups | None) -> tuple[float, float]:
    """`_variance` as the parts of `area_variances`."""
    alone = _variance(at_normal, np.zeros_like(at_anomaly), groups)
    return alone, _variance(at_normal, at_anomaly, groups) - alone


def _students(z: float, degrees: int) -> float:
    """The quantile of Student's t at the place of the normal quantile `z`: exact for one and two
    degrees of freedom, for more Cornish and Fisher's expansion (Abramowitz and Stegun 26.7.5),
    within 1.2%."""
    if degrees <= 2:
        above = NormalDist().cdf(z) - 0.5
        if degrees == 1:
            return math.tan(math.pi * above)
        return above * math.sqrt(2 / (0.25 - above**2))
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    for power, term in enumerate(terms, 1):
        z += term / degrees**power
    return z


def _variance_of_mean(values: Scores) -> float:
    return float(values.var(ddof=1)) / len(values)


def _counts_by_threshold(
    normal: ArrayLike, anomaly: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Anomalies and normal images scoring at least each distinct score, from the highest down."""
    normal, anomaly = _checked("normal", normal), _checked("anomaly", anomaly)
    thresholds = np.unique(np.concatenate([normal, anomaly]))[::-1]
    true_positives = len(anomaly) - np.searchsorted(np.sort(anomaly), thresholds, side="left")
    false_positives = len(normal) - np.searchsorted(np.sort(normal), thresholds, side="left")
    return true_positives, false_positives


def _checked(side: str, scores: ArrayLike) -> Scores:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"{side} scores must be a non-empty (n,) array, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{side} scores must be finite, {(~np.isfinite(values)).sum()} are not")
    return values


def _checked_pair(normal: ArrayLike, anomaly: ArrayLike) -> tuple[Scores, Scores]:
    """Both sides, large enough for a variance."""
    checked = _checked("normal", normal), _checked("anomaly", anomaly)
    if min(map(len, checked)) < 2:
        raise ValueError(
            "a standard error needs at least 2 scores on each side, got "
            f"{len(checked[0])} normal and {len(checked[1])} anomalous"
        )
    return checked
