"""The one figure that steers a search: validation AUROC, over one or several anomaly sets."""

import statistics
from collections.abc import Mapping

import numpy as np

from amatune import metrics
from amatune.runs.request import Objective

__all__ = ["Objective", "set_bounds", "validation_auroc"]


def set_bounds(sets: Mapping[str, slice]) -> np.ndarray:
    """Where one set of anomalies ends and the next begins, (S + 1,), from each one's place."""
    return np.array([0, *(own.stop for own in sets.values())])


def validation_auroc(
    normal: np.ndarray, anomaly: np.ndarray, bounds: np.ndarray, kind: Objective
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
