"""Whether two configurations differ: their test AUROCs on the same images, over seeds.

The difference of the mean AUROCs has two sources of uncertainty: the choice of images (DeLong's
paired test, the mean standard error over all pairs of seeds, an upper bound for that of their mean)
and the training (the variance of each mean over its seeds; the seeds of two configurations are no
pairs). With few seeds the latter is itself uncertain: p comes from Student's t with Welch and
Satterthwaite's degrees of freedom, in which the images count as infinitely many; where they come in
groups, these count, and as many as they are.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special  # and not stats, which takes a second to import

from amatune import metrics
from amatune.results.selection import SeedScores

SIGNIFICANT = 0.05  # p below which a difference counts as one

Sets = NDArray[np.int64]  # of each anomaly (M,), the number of its set


@dataclass(frozen=True)
class PairedTest:
    """The mean AUROC of detectors a minus that of detectors b, on the same images."""

    difference: float
    standard_error: float
    degrees: float  # of freedom; infinite where no spread over seeds is known
    p: float  # two-sided, against a difference of 0


def paired_difference(
    a: Sequence[SeedScores],
    b: Sequence[SeedScores],
    groups: metrics.Groups | None = None,
    sets: Sets | None = None,
) -> PairedTest:
    """Compare two configurations, each with the scores of one or more seeds.

    All scores are of the same images in the same order, which may be in groups; with `sets` it is
    their mean AUROCs over these that differ. See the module's docstring. Raises `ValueError` where
    `metrics.delong_paired` does.
    """
    pairs = [
        metrics.delong_paired(x["normal"], x["anomaly"], y["normal"], y["anomaly"], groups, sets)
        for x in a
        for y in b
    ]
    difference = statistics.fmean(pair.difference for pair in pairs)
    images = statistics.fmean(pair.standard_error for pair in pairs) ** 2
    aurocs = [[statistics.fmean(_aurocs(one, sets)) for one in side] for side in (a, b)]
    return welch_test(difference, images, aurocs, groups)


def lead_error(
    a: Sequence[SeedScores],
    b: Sequence[SeedScores],
    groups: metrics.Groups | None = None,
    sets: Sets | None = None,
    *,
    worst: bool = False,
) -> float:
    """The standard error of a's lead over b in the figure that chooses: the AUROC of all anomalies,
    with `sets` the mean over these or the `worst` of them.

    Of the worst it is that of the set that is worst for a or for b, the larger one; infinite where
    this has but one anomaly, or group of them, which tell nothing of it.
    """
    if sets is None or not worst:
        return paired_difference(a, b, groups, sets).standard_error
    names = np.unique(sets)
    found = 0.0
    for side in (a, b):
        mean = np.mean([_aurocs(one, sets) for one in side], axis=0)
        inside = sets == names[mean.argmin()]
        of = inside.nonzero()[0] if groups is None else groups[1][inside]
        if len(np.unique(of)) < 2:
            return math.inf
        ours, theirs = (
            [{**one, "anomaly": one["anomaly"][inside]} for one in own] for own in (a, b)
        )
        error = paired_difference(ours, theirs, groups and (groups[0], of)).standard_error
        found = max(found, error)
    return found


def _aurocs(scores: SeedScores, sets: Sets | None) -> list[float]:
    """Of each set; without, of all."""
    normal, anomaly = scores["normal"], scores["anomaly"]
    if sets is None:
        return [metrics.auroc(normal, anomaly)]
    return [metrics.auroc(normal, anomaly[sets == one]) for one in np.unique(sets)]


def welch_test(
    difference: float,
    images: float,
    aurocs: Sequence[Sequence[float]],
    groups: metrics.Groups | None = None,
) -> PairedTest:
    """A difference of mean AUROCs whose variance from the choice of images, which may be in groups,
    is `images`; `aurocs` are those of the seeds of either side."""
    variance = images
    uncertain = 0.0  # Welch and Satterthwaite's denominator
    if groups is not None:
        uncertain = variance**2 / (min(len(np.unique(side)) for side in groups) - 1)
    for side in aurocs:
        if len(side) > 1:
            own = statistics.variance(side) / len(side)
            variance += own
            uncertain += own**2 / (len(side) - 1)
    error = math.sqrt(variance)
    degrees = variance**2 / uncertain if uncertain > 0 else math.inf
    if error == 0:
        return PairedTest(difference, 0.0, degrees, 1.0 if difference == 0 else 0.0)
    away = -abs(difference) / error
    # Without end: a normal distribution, which not every version of stdtr takes it for.
    tail = special.ndtr(away) if math.isinf(degrees) else special.stdtr(degrees, away)
    return PairedTest(difference, error, degrees, 2 * float(tail))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p values, in their order: at most 1, never below its own."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected = [0.0] * len(ps)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected
