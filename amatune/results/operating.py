"""Operating points: a threshold, what it flags, and what was demanded of it. Values alone;
`results.certify` finds them.

A picture is flagged when its score is above the threshold. Recall is the share of anomalies that
are flagged, false alarms the share of normal pictures that are.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amatune.errors import RequestError
from amatune.reading import build
from amatune.wording import interval

STATED_RATES = (0.01, 0.05, 0.10)  # false alarms whose thresholds an export lists
CONFIDENCE = 0.95  # of every guarantee, and of every interval here

CERTIFIED = "certified"  # the threshold that meets limits
CHEAPEST = "cheapest"  # the one that costs least


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What is asked of a threshold: limits, or costs. Raises `RequestError` for impossible ones."""

    min_recall: float | None = None  # share of anomalies to find, in (0, 1)
    max_fpr: float | None = None  # share of normal pictures that may be flagged, in (0, 1)
    cost_miss: float | None = None  # of an anomaly that is not flagged, in any unit
    cost_alarm: float | None = None  # of a normal picture that is
    anomaly_share: float | None = None  # among the pictures in use; None: that of the test

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, float | int | None):
                raise RequestError(f"{name} must be a number, got {value!r:.80}")
        found = [
            f"{name} must be in (0, 1), got {value:g}"
            for name in ("min_recall", "max_fpr", "anomaly_share")
            if (value := getattr(self, name)) is not None and not 0 < value < 1
        ]
        costs = self.cost_miss, self.cost_alarm
        found += [
            f"{name} must be more than 0, got {value:g}"
            for name, value in zip(("cost_miss", "cost_alarm"), costs, strict=True)
            if value is not None and not 0 < value < math.inf
        ]
        if (costs[0] is None) != (costs[1] is None):
            found.append("cost_miss and cost_alarm belong together; give both")
        elif costs[0] is not None and self.has_limits:
            found.append(
                "limits (min_recall, max_fpr) and costs each decide a threshold; give one kind"
            )
        if self.anomaly_share is not None and costs[0] is None:
            found.append("anomaly_share is for costs; give cost_miss and cost_alarm too")
        if found:
            raise RequestError("; ".join(found))

    @classmethod
    def of(cls, **wanted: float | None) -> "Demand | None":
        """The demand of these values; None where none is given."""
        return cls(**wanted) if any(value is not None for value in wanted.values()) else None

    @property
    def has_limits(self) -> bool:
        """Whether a recall or a rate of false alarms is asked for."""
        return self.min_recall is not None or self.max_fpr is not None


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of pictures, as seen, and where the true one lies."""

    hits: int
    of: int
    low: float  # exact 95% interval (Clopper and Pearson)
    high: float

    @property
    def value(self) -> float:
        """The share that was seen."""
        return self.hits / self.of


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold and what it flags among held-out images."""

    name: str  # `stated_name`, CERTIFIED, CHEAPEST
    threshold: float  # flagged: score > threshold
    false_alarms: Rate
    recall: Rate


def stated_name(rate: float) -> str:
    """Of the threshold for a rate of false alarms, such as one of `STATED_RATES`."""
    return f"{rate:.0%} false alarms"


def rates_text(point: OperatingPoint) -> list[str]:
    """Cells of a table: false alarms, then recall, each followed by its interval."""
    return [
        text
        for rate in (point.false_alarms, point.recall)
        for text in (f"{rate.hits} of {rate.of}", interval(rate.low, rate.high))
    ]


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """What was demanded of a threshold, and what can be said of it."""

    demand: Demand
    point: OperatingPoint | None  # None: nothing meets the demand for sure
    statement: str  # a sentence, with numbers


def read_guarantee(values: Any) -> Guarantee | None:
    """From JSON values. Raises `RequestError` where they are not those of a guarantee."""
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise RequestError(f"a guarantee must be an object, got {values!r:.80}")
    found = build(Guarantee, values)
    if found.point is not None and found.point.name not in (CERTIFIED, CHEAPEST):
        raise RequestError(f"there is no threshold of the name {found.point.name!r:.80}")
    return found


def held_out_normals(validation: ArrayLike, test: ArrayLike) -> tuple[NDArray[Any], str]:
    """The normal scores that thresholds are made of, (n,), and words for those images.

    Those of the test, which have chosen nothing, so that what is said of the thresholds is exact;
    where they are fewer than the validation's, both together.
    """
    validation, test = np.asarray(validation), np.asarray(test)
    if len(test) >= len(validation):
        return test, "test images"
    return np.concatenate([validation, test]), "validation and test images"
