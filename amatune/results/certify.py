"""Thresholds with a statement that holds at 95% confidence, however the scores are distributed.

Learn then Test (Angelopoulos and others, arXiv 2110.01052): every threshold is a hypothesis, "it
does not meet the limit", with the exact binomial p-value of what it flags among held-out images.
Thresholds are tested in a fixed order, from the one that flags nothing downwards for false alarms,
from the one that flags everything upwards for the recall, and the last that was rejected before the
first that was not is taken. Since the true rates are monotone in the threshold, the chance that any
threshold is wrongly certified is at most the risk, over all thresholds together. For false alarms
this is Wilks' (1941) tolerance limit: an order statistic. Two limits share the risk.

The images must not have chosen the detector, so they are those of the test. Setting a threshold by
them is the one thing that is done with test images beside measuring, after every figure, and the
statement allows for it. A threshold by costs is chosen on validation images and measured on the
test.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amatune.metrics import Groups, conformal_threshold
from amatune.results.binomial import MOST, clopper_pearson, least_images, most_errors
from amatune.results.leaderboard import Leaderboard
from amatune.results.operating import (
    CERTIFIED,
    CHEAPEST,
    CONFIDENCE,
    STATED_RATES,
    Demand,
    Guarantee,
    OperatingPoint,
    Rate,
    held_out_normals,
    stated_name,
)
from amatune.results.scores import TEST, VALIDATION, load_scores
from amatune.results.selection import SeedScores
from amatune.wording import counted

_SCALES = tuple(1.25**step for step in range(1, 26))  # of both numbers of images, to about 260
_SURE = f"with {CONFIDENCE:.0%} confidence"

Floats = NDArray[np.float64]


def rate_above(scores: ArrayLike, threshold: float, level: float = CONFIDENCE) -> Rate:
    """How many of the scores (n,) lie above a threshold, strictly."""
    values = np.asarray(scores)
    hits = int((values > threshold).sum())
    low, high = clopper_pearson(hits, len(values), level)
    return Rate(hits=hits, of=len(values), low=low, high=high)


def point_at(name: str, threshold: float, normal: ArrayLike, anomaly: ArrayLike) -> OperatingPoint:
    """What a threshold flags of these scores."""
    return OperatingPoint(
        name=name,
        threshold=threshold,
        false_alarms=rate_above(normal, threshold),
        recall=rate_above(anomaly, threshold),
    )


def stated_points(
    normal: ArrayLike, anomaly: ArrayLike, rates: Sequence[float] = STATED_RATES
) -> tuple[OperatingPoint, ...]:
    """The conformal thresholds of those `rates` that so many normal scores (n,) support."""
    least = 1 / (len(np.asarray(normal)) + 1)
    return tuple(
        point_at(stated_name(rate), conformal_threshold(normal, rate), normal, anomaly)
        for rate in rates
        if rate >= least
    )


def with_thresholds(board: Leaderboard, demand: Demand | None) -> Leaderboard:
    """The leaderboard with the thresholds of the model that is exported, and what is said of a
    demand. Raises `RequestError` when that model's scores cannot be read."""
    validation, test, clause = held_out(board)
    normal, _ = held_out_normals(validation["normal"], test["normal"])
    return dataclasses.replace(
        board,
        thresholds=stated_points(normal, test["anomaly"]),
        guarantee=guarantee(demand, validation, test, clause) if demand else None,
    )


def held_out(board: Leaderboard) -> tuple[SeedScores, SeedScores, str]:
    """Scores of the model that is exported, on validation and on test images, and a clause about
    both.

    Statements are about images that are independent: of each group one is taken, by chance.
    """
    validation: SeedScores
    test: SeedScores
    model = board.chosen_model
    validation, test = (
        load_scores(model / file)[board.primary_score] for file in (VALIDATION, TEST)
    )
    if board.groups is None:
        return validation, test, ""
    if (groups := board.run.record().problem.groups("validation")) is not None:
        validation = _thinned(validation, groups)
    return validation, _thinned(test, board.groups.pair), ", one a group"


def _thinned(scores: SeedScores, groups: Groups) -> SeedScores:
    sides = zip(("normal", "anomaly"), groups, strict=True)
    return {side: scores[side][_one_each(own)] for side, own in sides}


def _one_each(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of one image of each group."""
    order = np.random.default_rng(0).permutation(len(groups))
    _, first = np.unique(groups[order], return_index=True)
    return np.sort(order[first])


def guarantee(
    demand: Demand, validation: SeedScores, test: SeedScores, clause: str = ""
) -> Guarantee:
    """The threshold that meets a demand, and the statement about it.

    Scores are of one detector, "normal" (n,) and "anomaly" (m,), on images that chose it and on
    images that did not. The `clause` says more of the latter.
    """
    if demand.has_limits:
        normal, anomaly = (np.sort(np.float64(test[side])) for side in ("normal", "anomaly"))
        found = _by_limits(demand, normal, anomaly)
    else:
        found = _by_costs(demand, validation, test)
    if not clause:
        return found
    return dataclasses.replace(found, statement=f"{found.statement} (test images{clause})")


# --- limits ---------------------------------------------------------------------------------------


def _by_limits(demand: Demand, normal: Floats, anomaly: Floats) -> Guarantee:
    """Of sorted scores. Of the thresholds that meet all limits the lowest where false alarms are
    limited, which finds most, else the highest."""
    recall, fpr = demand.min_recall, demand.max_fpr
    risk = 1 - CONFIDENCE if recall is None or fpr is None else (1 - CONFIDENCE) / 2
    alarms = None if fpr is None else most_errors(len(normal), fpr, risk)
    misses = None if recall is None else most_errors(len(anomaly), 1 - recall, risk)
    lowest, highest = -math.inf, math.inf
    if alarms is not None and alarms >= 0:
        lowest = _between(normal, anomaly, float(normal[len(normal) - 1 - alarms]))
    if misses is not None and misses >= 0:
        highest = _below(normal, anomaly, float(anomaly[misses]))
    impossible = -1 in (alarms, misses)
    if impossible or lowest > highest:
        why = _too_few(demand, len(normal), len(anomaly), risk)
        if not impossible:
            why = _not_good_enough(demand, normal, anomaly, risk, lowest)
        have = f"{len(anomaly)} anomalous and {len(normal)} normal test images"
        return Guarantee(demand=demand, point=None, statement=f"not certifiable with {have}: {why}")
    point = point_at(CERTIFIED, lowest if fpr is not None else highest, normal, anomaly)
    promised = [] if recall is None else [f"at least {recall:.4g} of such anomalies are found"]
    if fpr is not None:
        promised.append(f"at most {fpr:.4g} of normal pictures are flagged")
    return Guarantee(demand=demand, point=point, statement=f"{_SURE} {' and '.join(promised)}")


def _between(normal: Floats, anomaly: Floats, score: float) -> float:
    """A threshold that flags what lies above a normal score and nothing else: the middle of the gap
    to the next score, where other rounding on another machine changes no decision."""
    above = [float(one[one > score][0]) for one in (normal, anomaly) if (one > score).any()]
    return _middle(score, min(above)) if above else score


def _below(normal: Floats, anomaly: Floats, score: float) -> float:
    """A threshold that flags what has at least the score of an anomaly: the middle of the gap to
    the next lower score."""
    below = [float(one[one < score][-1]) for one in (normal, anomaly) if (one < score).any()]
    return _middle(max(below), score) if below else math.nextafter(score, -math.inf)


def _middle(low: float, high: float) -> float:
    """Between two scores, and below the upper one whatever the rounding."""
    middle = low + (high - low) / 2
    return middle if middle < high else low


def _too_few(demand: Demand, normals: int, anomalies: int, risk: float) -> str:
    """That a limit cannot be proven by so few images, and how many it takes without any error."""
    needed = []
    for limit, has, what in (
        (None if demand.min_recall is None else 1 - demand.min_recall, anomalies, "anomalous"),
        (demand.max_fpr, normals, "normal"),
    ):
        least = None if limit is None else least_images(limit, risk)
        if limit is not None and (least is None or least > has):
            needed.append(f"{f'{least:,}' if least else f'more than {MOST:,}'} {what} ones")
    return f"{' and '.join(needed)} would do, if all of them are judged right"


def _not_good_enough(
    demand: Demand, normal: Floats, anomaly: Floats, risk: float, lowest: float
) -> str:
    """That both limits together are too much, and what would do if the rates stay as seen."""
    recall, fpr = demand.min_recall or 0.0, demand.max_fpr or 0.0
    at = rate_above(anomaly, lowest)
    found = f"where at most {fpr:.4g} of normal pictures are flagged for sure, {at.hits} of {at.of}"
    found += " anomalies are found"
    more = least_images(1 - recall, risk, 1 - at.value)
    if more is not None:
        return f"{found}; about {more:,} anomalous ones would do, if that share stays"
    for scale in _SCALES:
        normals = math.ceil(scale * len(normal))
        share = most_errors(normals, fpr, risk) / normals
        threshold = float(np.quantile(normal, 1 - share, method="higher"))
        missed = 1 - rate_above(anomaly, threshold).value
        more = least_images(1 - recall, risk, missed, math.ceil(max(scale, 10) * len(anomaly)))
        if more is not None:
            return (
                f"{found}; about {normals:,} normal and {more:,} anomalous ones would do, if the "
                "scores stay as they are"
            )
    return f"{found}; more images alone would hardly do: the detector would have to be better"


# --- costs ----------------------------------------------------------------------------------------


def _by_costs(demand: Demand, validation: SeedScores, test: SeedScores) -> Guarantee:
    """Cheapest on validation images; what it costs, on the test."""
    miss, alarm = demand.cost_miss or 0.0, demand.cost_alarm or 0.0
    counts = {side: len(test[side]) for side in ("normal", "anomaly")}
    share = demand.anomaly_share or counts["anomaly"] / sum(counts.values())
    weights = share * miss, (1 - share) * alarm
    normal, anomaly = (np.sort(np.float64(validation[s])) for s in ("normal", "anomaly"))
    threshold = _cheapest(normal, anomaly, *weights)
    point = point_at(CHEAPEST, threshold, test["normal"], test["anomaly"])
    cost = weights[0] * (1 - point.recall.value) + weights[1] * point.false_alarms.value
    # Each end of an interval is wrong with half its risk, so that both hold with the whole of it.
    most = weights[0] * (1 - point.recall.low) + weights[1] * point.false_alarms.high
    statement = (
        f"{_SURE} at most {most:.4g} a picture, {cost:.4g} on the test images (flagging nothing "
        f"{weights[0]:.4g}, everything {weights[1]:.4g}), with {share:.3g} of the pictures "
        f"anomalous; chosen on {counted(len(normal), 'normal image')} and "
        f"{counted(len(anomaly), 'anomaly', 'anomalies')} of the validation"
    )
    return Guarantee(demand=demand, point=point, statement=statement)


def _cheapest(normal: Floats, anomaly: Floats, miss: float, alarm: float) -> float:
    """The threshold of least cost on sorted scores; of equal ones the middle of the widest gap."""
    values = np.unique(np.concatenate([normal, anomaly]))
    edges = np.concatenate([[math.nextafter(values[0], -math.inf)], values])  # flagged: above
    misses = np.searchsorted(anomaly, edges, side="right") / len(anomaly)
    alarms = 1 - np.searchsorted(normal, edges, side="right") / len(normal)
    costs = miss * misses + alarm * alarms
    gaps = np.append(np.diff(edges), 0.0)
    best = np.flatnonzero(costs <= costs.min() * (1 + 1e-12))
    at = int(best[np.argmax(gaps[best])])
    low = float(edges[at])
    return _middle(low, float(edges[at + 1])) if at + 1 < len(edges) else low
