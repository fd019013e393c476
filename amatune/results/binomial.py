"""How sure a share of pictures is: exact statements about k of n, however scores are distributed.

Sources:
    Clopper and Pearson, Biometrika 26:404-413, 1934        (exact intervals of a share)
    Wilks, Annals of Mathematical Statistics 12, 1941       (tolerance limits from order statistics)
"""

import math

import numpy as np
from scipy import special  # `stats`, which takes a second to import, only where it is needed

_ONE_BY_ONE = 2000  # images up to which the fewest are told exactly
MOST = 200_000  # images; who would need more is told that no number does


def clopper_pearson(hits: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a share of which `hits` in `of` were seen, inside [0, 1].

    Covers with at least the probability `level`, for a threshold that was fixed beforehand. It also
    does for one that lies next to a fixed order statistic of the very same scores, as every
    threshold of a stated rate does: with k of n scores above it, the share beyond it follows
    Beta(k + 1, n - k) or, where it may lie anywhere up to the next score, something between that
    and Beta(k, n - k + 1). These are the distributions that the two ends come from.

    Raises `ValueError` unless 0 <= hits <= of, of >= 1 and 0 < level < 1.
    """
    if not (0 <= hits <= of and of >= 1 and 0 < level < 1):
        raise ValueError(f"no interval for {hits} of {of} at level {level}")
    tail = (1 - level) / 2
    low = float(special.betaincinv(hits, of - hits + 1, tail)) if hits else 0.0
    high = float(special.betaincinv(hits + 1, of - hits, 1 - tail)) if hits < of else 1.0
    return low, high


def most_errors(images: int, rate: float, risk: float) -> int:
    """The most errors among `images` that prove a rate of errors of at most `rate`; -1: not even 0.

    Were the true rate `rate` or more, so few would be seen with a probability of at most `risk`.
    `rate` and `risk` lie in (0, 1).
    """
    from scipy import stats

    at = int(stats.binom.ppf(risk, images, rate))
    while at >= 0 and stats.binom.cdf(at, images, rate) > risk:
        at -= 1
    return at


def least_images(rate: float, risk: float, share: float = 0.0, most: int = MOST) -> int | None:
    """The fewest images that prove an error rate of at most `rate` when a `share` of them errs.

    Errors are counted up to the next whole one. None where no number does, since `share` is not
    below `rate`, or none up to `most`.
    """
    if share >= rate:
        return None
    if share == 0:
        least = math.ceil(math.log(risk) / math.log1p(-rate) - 1e-9)
        return least if least <= most else None
    from scipy import stats

    images = np.arange(1, min(most, _ONE_BY_ONE) + 1)
    if most > _ONE_BY_ONE:  # beyond, to a hundredth
        steps = math.ceil(100 * math.log(most / _ONE_BY_ONE))
        images = np.append(images, np.geomspace(_ONE_BY_ONE, most, steps).astype(int))
    proven = stats.binom.cdf(np.ceil(share * images - 1e-9), images, rate) <= risk
    return int(images[np.argmax(proven)]) if proven.any() else None
