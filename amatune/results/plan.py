"""What more anomalies, seeds and trials would buy, by the scores that a run has kept.

Sources:
    Hanley and McNeil, Radiology 143:29-36, 1982              (standard error from sizes alone)
    DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988    (what images add to an error)
    Dodge and others, Show Your Work, EMNLP 2019              (the best of so many trials, expected)

The scores are taken for what other images would get too. The more there are than there were, the
rougher that is: forty anomalies do not hold the rare kind that four hundred would.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special  # and not stats, which takes a second to import

from amatune import metrics
from amatune.errors import RequestError
from amatune.results.operating import CONFIDENCE
from amatune.results.selection import SeedScores

POWER = 0.8  # with which a detectable difference is found
ALARMS = 0.05  # false alarms at which the recall is told
TIMES = (1, 1.5, 2, 4, 8)  # as many anomalies as there are
SEEDS = (1, 3, 5, 10, 20)

_Z = float(special.ndtri((1 + CONFIDENCE) / 2))
_REACH = _Z + float(special.ndtri(POWER))


@dataclass(frozen=True, kw_only=True)
class AnomalyRow:
    """What so many anomalies say, with the normal images that there are."""

    anomalies: int
    width: float  # of the 95% interval of an AUROC, by DeLong's variance of the scores
    width_by_size: float  # likewise, by Hanley and McNeil
    detectable: float | None  # difference of AUROC found with POWER; None without another detector
    recall: float  # that can be promised at ALARMS, if the share that is missed stays
    recall_at_best: float  # and if none is missed


@dataclass(frozen=True, kw_only=True)
class NormalRow:
    """What so many normal images say."""

    normals: int
    rate: float  # the lowest rate of false alarms that can be promised, by none of them flagged


@dataclass(frozen=True, kw_only=True)
class SeedRow:
    """What so many seeds of each configuration say."""

    seeds: int
    error: float  # standard error of a mean AUROC from the luck of its seeds
    detectable: float  # difference of AUROC found with POWER, with the images that there are


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """The best of so many trials, on average."""

    trials: int
    best: float  # validation AUROC, which selects: optimistic


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run could gain, and from what."""

    of: str  # whose scores: "trial-3 on 269 normal and 54 anomalous test images"
    auroc: float  # of them
    against: str  # the configuration that differences are measured against; empty: none
    anomalies: tuple[AnomalyRow, ...]
    normals: tuple[NormalRow, ...]
    seeds: tuple[SeedRow, ...]  # empty where fewer than two seeds were trained
    trials: tuple[TrialRow, ...]
    remarks: tuple[str, ...]  # sentences

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


def make_plan(
    of: str,
    by_seed: Sequence[SeedScores],
    other: Sequence[SeedScores] = (),
    against: str = "",
    trials: Sequence[float] = (),
    groups: metrics.Groups | None = None,
) -> Plan:
    """The plan by the scores of a configuration, of one or more seeds, and of another one on the
    same images. `trials` are the last validation AUROCs of those that have ended.

    Raises `RequestError` for fewer than two images of a kind, or groups of them.
    """
    normals, have = len(by_seed[0]["normal"]), len(by_seed[0]["anomaly"])
    counts = metrics.independent(normals, have, groups)
    if min(counts) < 2:
        of = "groups of " if groups is not None else ""
        raise RequestError(
            f"a plan needs scores of at least 2 {of}normal and 2 {of}anomalous images, got "
            f"{counts[0]} and {counts[1]}"
        )
    auroc = float(np.mean([metrics.auroc(**scores) for scores in by_seed]))
    seeds = _by_seeds(by_seed, other, groups) if other else ()
    rows = tuple(
        _with_anomalies(math.ceil(times * have), counts, by_seed, other, groups) for times in TIMES
    )
    return Plan(
        of=of,
        auroc=auroc,
        against=against if other else "",
        anomalies=rows,
        normals=tuple(
            NormalRow(normals=n, rate=-math.expm1(math.log1p(-CONFIDENCE) / max(1, n)))
            for n in (counts[0], 2 * counts[0], 4 * counts[0])
        ),
        seeds=seeds,
        trials=_by_trials(trials),
        remarks=tuple(_remarks(rows, seeds, _by_trials(trials), groups)),
    )


# --- anomalies ------------------------------------------------------------------------------------


def _with_anomalies(
    number: int,
    counts: tuple[int, int],
    by_seed: Sequence[SeedScores],
    other: Sequence[SeedScores],
    groups: metrics.Groups | None,
) -> AnomalyRow:
    """With that number of them; `counts` are the independent images of each kind there are."""
    have = len(by_seed[0]["anomaly"])
    detectable = None
    if other:
        variance = _of_images(by_seed, other, number / have, groups) + _of_seeds(by_seed, other)
        detectable = _REACH * math.sqrt(variance)
    normals = counts[0]
    effective = max(1, round(number * counts[1] / have))  # what groups prove is that of one each
    aurocs = [metrics.auroc(**scores) for scores in by_seed]
    mean = float(np.mean(aurocs))
    errors = [_error(scores, number / have, groups) for scores in by_seed]

    def width(auroc: float, error: float) -> float:
        """Of the interval that a test would print."""
        grouped = groups is not None
        low, high = metrics.area_interval(auroc, error, normals, effective, grouped=grouped)
        return high - low

    missed = np.mean(
        [
            (s["anomaly"] <= np.quantile(s["normal"], 1 - ALARMS, method="higher")).mean()
            for s in by_seed
        ]
    )
    return AnomalyRow(
        anomalies=number,
        width=float(np.mean(list(map(width, aurocs, errors)))),
        width_by_size=width(mean, metrics.hanley_mcneil(mean, effective, normals)),
        detectable=detectable,
        recall=_provable(effective, math.ceil(float(missed) * effective - 1e-9)),
        recall_at_best=_provable(effective, 0),
    )


def _provable(images: int, missed: int) -> float:
    """The recall that so many misses prove: Clopper and Pearson's one-sided bound."""
    found = images - missed
    return float(special.betaincinv(found, missed + 1, 1 - CONFIDENCE)) if found else 0.0


def _error(scores: SeedScores, times: float, groups: metrics.Groups | None) -> float:
    """The standard error of an AUROC with `times` as many anomalies, or groups of such."""
    normal, anomaly = metrics.area_variances(scores["normal"], scores["anomaly"], groups)
    return math.sqrt(normal + anomaly / times)


# --- differences ----------------------------------------------------------------------------------


def _of_images(
    a: Sequence[SeedScores],
    b: Sequence[SeedScores],
    times: float,
    groups: metrics.Groups | None,
) -> float:
    """The variance of a difference from the choice of images, with `times` as many anomalies."""
    errors = []
    for x in a:
        for y in b:
            normal, anomaly = metrics.paired_variances(
                x["normal"], x["anomaly"], y["normal"], y["anomaly"], groups
            )
            errors.append(math.sqrt(normal + anomaly / times))
    return float(np.mean(errors)) ** 2


def _of_seeds(a: Sequence[SeedScores], b: Sequence[SeedScores], seeds: int | None = None) -> float:
    """Likewise, from the luck of seeds: of those there are, or of `seeds` each. A configuration
    with one seed tells nothing, and its luck counts as the other's."""
    aurocs = [[metrics.auroc(**scores) for scores in side] for side in (a, b)]
    spreads = [statistics.variance(own) if len(own) > 1 else None for own in aurocs]
    known = [one for one in spreads if one is not None]
    if not known:
        return 0.0
    usual = float(np.mean(known))
    return sum(
        (usual if spread is None else spread) / (seeds or len(side))
        for spread, side in zip(spreads, (a, b), strict=True)
    )


def _by_seeds(
    a: Sequence[SeedScores], b: Sequence[SeedScores], groups: metrics.Groups | None
) -> tuple[SeedRow, ...]:
    if max(len(a), len(b)) < 2:
        return ()
    images = _of_images(a, b, 1.0, groups)
    rows = []
    for seeds in sorted({*SEEDS, len(a)}):
        luck = _of_seeds(a, b, seeds)
        error, detectable = math.sqrt(luck / 2), _REACH * math.sqrt(images + luck)
        rows.append(SeedRow(seeds=seeds, error=error, detectable=detectable))
    return tuple(rows)


# --- trials ---------------------------------------------------------------------------------------


def expected_best(values: Sequence[float], count: int) -> float:
    """The mean of the best of `count` values drawn from `values` with replacement."""
    ordered: NDArray[np.float64] = np.sort(np.asarray(values, np.float64))
    ranks = np.arange(len(ordered) + 1) / len(ordered)
    return float(np.diff(ranks**count) @ ordered)


def _by_trials(values: Sequence[float]) -> tuple[TrialRow, ...]:
    have = len(values)
    counts = sorted({max(1, have // part) for part in (8, 4, 2, 1)}) if have else []
    return tuple(TrialRow(trials=n, best=expected_best(values, n)) for n in counts)


def _remarks(
    rows: Sequence[AnomalyRow],
    seeds: Sequence[SeedRow],
    trials: Sequence[TrialRow],
    groups: metrics.Groups | None,
) -> list[str]:
    now, double = rows[0], next(row for row in rows if row.anomalies >= 2 * rows[0].anomalies)
    promise = "no recall either: these scores find too few"
    if double.recall > 0:
        promise = f"a recall of {double.recall:.3f} instead of {now.recall:.3f}"
    found = [
        f"twice as many anomalies make the interval {double.width:.3f} wide instead of "
        f"{now.width:.3f}, and promise {promise}"
    ]
    if now.detectable is not None and double.detectable is not None and seeds:
        most = seeds[-1]
        better = "anomalies" if double.detectable < most.detectable else "seeds"
        found.append(
            f"a difference is found from {now.detectable:.3f} AUROC on; with twice the anomalies "
            f"from {double.detectable:.3f}, with {most.seeds} seeds from {most.detectable:.3f}: "
            f"{better} help more"
        )
    if len(trials) > 1:
        gain = trials[-1].best - trials[-2].best
        found.append(
            f"from {trials[-2].trials} to {trials[-1].trials} trials the best validation AUROC "
            f"rose by {gain:.3f} on average; as many again seldom bring more than that"
        )
    if groups is not None:
        found.append("images are in groups: what counts is more groups, not more images of each")
    return found
