"""The one figure that steers a search: validation AUROC, over one or several anomaly sets."""

import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np

from amatune import metrics

Objective = Literal["pooled", "mean", "worst"]


def validation_auroc(
    normal: np.ndarray, anomaly: np.ndarray, bounds: Sequence[int] | np.ndarray, kind: Objective
) -> float:
    """AUROC of scores, `normal` (N,) against `anomaly` (M,), higher = more anomalous.

    The anomalies of set i are those from `bounds[i]` to `bounds[i + 1]`. pooled: all of them
    together. mean, worst: of the AUROCs of the sets.
    """
    if kind == "pooled":
        return metrics.auroc(normal, anomaly)
    starts, ends = bounds[:-1], bounds[1:]
    by_set = [metrics.auroc(normal, anomaly[a:b]) for a, b in zip(starts, ends, strict=True)]
    return min(by_set) if kind == "worst" else statistics.fmean(by_set)
