"""Several images judged at once, from the scores that were kept of each.

The test of typicality (Nalisnick et al., arXiv 1906.02994, Algorithm 1) is of M images that are all
normal or all anomalous: it measures | mean score of the M - mean score of normal images |, and
rejects the M above a quantile of that over groups drawn from normal images. How well it tells
single images apart, AUROC, and how often it rejects are two figures: the paper's tables have the
latter.

The mean of normal images is here that of held-out ones, whose scores are kept, and not of training
images: a density that fits its training images closely is not taken for a difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amatune import metrics

SIZES = (1, 2, 5, 10)  # images in a group
RATES = (0.01, 0.05)  # shares of normal groups that may be rejected
DRAWS = 10_000  # groups of the bootstrap
SHUFFLES = 20  # of the images into groups; figures are means over these


@dataclass(frozen=True, kw_only=True)
class GroupFigures:
    """How groups of `size` images are told apart."""

    size: int
    auroc: float
    false_alarms: Mapping[float, float]  # by the rate aimed at: share of normal groups rejected
    rejected: Mapping[float, float]  # likewise, of anomalous groups


def group_figures(
    held_out: ArrayLike, normal: ArrayLike, anomaly: ArrayLike, size: int, seed: int = 0
) -> GroupFigures:
    """Judge groups of `size` images, each of one kind, by their mean score.

    `held_out` (K,) are scores of normal images that set the mean and the thresholds, `normal` (N,)
    and `anomaly` (M,) those to tell apart. Groups are disjoint, of images shuffled by the seed.
    Raises `ValueError` where there are fewer than `size` of a kind, or a size below 1.
    """
    kinds = [np.asarray(one, np.float64) for one in (held_out, normal, anomaly)]
    if size < 1 or min(map(len, kinds)) < size:
        raise ValueError(
            f"groups of {size} images need a size of at least 1 and as many images of each kind, "
            f"got {', '.join(str(len(one)) for one in kinds)}"
        )
    known, normal_scores, anomaly_scores = kinds
    generator = np.random.default_rng(seed)
    centre = known.mean()
    drawn = np.abs(generator.choice(known, (DRAWS, size)).mean(axis=1) - centre)
    # As many rates as thresholds; above it, strictly, a group is rejected.
    thresholds = np.quantile(drawn, [1 - rate for rate in RATES], method="higher")

    def rejected(distances: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((distances[:, None] > thresholds).mean(axis=0))

    found = []
    for _ in range(SHUFFLES):
        sides = [
            np.abs(_means(generator.permutation(one), size) - centre)
            for one in (normal_scores, anomaly_scores)
        ]
        found.append([metrics.auroc(*sides), *rejected(sides[0]), *rejected(sides[1])])
    auroc, *shares = map(float, np.mean(found, axis=0))
    return GroupFigures(
        size=size,
        auroc=auroc,
        false_alarms=dict(zip(RATES, shares[: len(RATES)], strict=True)),
        rejected=dict(zip(RATES, shares[len(RATES) :], strict=True)),
    )


def _means(scores: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Of successive groups; what is left over at the end is in none."""
    whole = len(scores) // size * size
    return np.asarray(scores[:whole].reshape(-1, size).mean(axis=1))
