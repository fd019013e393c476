"""Every anomaly chooses and tests: the choice and its test over folds of all of them.

Detectors that learn from normal images alone have seen no anomaly, so that trained ones can be
chosen and tested again and again without training. The anomalies of the validation and of the test
are dealt into K folds. For each fold a configuration is chosen by all other anomalies and the
validation's normal images, as a retraining chooses, and tested by the fold's anomalies and the
test's normal images. The figure is over all anomalies, each judged by what was chosen without it.

Its variance is DeLong's of these placements, each with the detector that judged it, and in addition
what the choice contributes: that, a bootstrap tells which repeats the choice. It draws images, and
an image stays in its fold, so that none is in a choice and its test.

Sources:
    DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988
    LeDell, Petersen and van der Laan, Electronic Journal of Statistics 9, 2015  (AUROC over folds)
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amatune import metrics
from amatune.results.difference import SIGNIFICANT, lead_error, welch_test
from amatune.results.selection import Floats, SeedScores, draw_by_group, draw_groups, draw_images

DRAWS = 300
DEFAULT = "default"  # in a search of several methods followed by the method's name

Above = NDArray[np.float32]  # (M, N): 1 where an anomaly is above a normal image, ties a half


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a detector gives all images of a choice and of its test; higher = more anomalous."""

    chooses: np.ndarray  # of the validation's normal images (V,)
    normal: np.ndarray  # of the test's (N,)
    anomaly: np.ndarray  # of all anomalies (M,)


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """The figure over all folds; of what the procedure chooses, and not of one configuration."""

    folds: int
    anomalies: int
    normals: int  # of the test
    chosen: tuple[str, ...]  # for each fold
    final: str  # by all anomalies
    auroc: float  # mean over seeds
    spread: float | None  # over seeds; None with one
    low: float  # 95% interval
    high: float
    choice_error: float  # what the choice adds to the standard error
    difference: float | None  # from the default, on the same images; None without one
    p: float | None  # two-sided
    remark: str  # what the folds cannot take back

    def __str__(self) -> str:
        """In a sentence, and what remains."""
        remains = f"; {self.remark}" if self.remark else ""
        spread = "" if self.spread is None else f" ± {self.spread:.3f}"
        told = (
            f"{self.auroc:.3f}{spread}, 95% interval {self.low:.3f} to {self.high:.3f}, each of "
            f"{self.anomalies} anomalies judged by what the others chose ({self.folds} folds: "
            f"{', '.join(sorted(set(self.chosen)))})"
        )
        if self.difference is None or self.p is None:
            return told + remains
        verdict = "better" if self.difference > 0 else "worse"
        if self.p >= SIGNIFICANT:
            verdict = "no evidence of a difference"
        against = f"against the default {self.difference:+.3f} (p = {self.p:.2g}): {verdict}"
        return f"{told}; {against}{remains}"


def cross_fit(
    candidates: Mapping[str, Mapping[str, Sequence[Judged]]],
    folds: NDArray[np.int64],
    eligible: Sequence[Collection[str]],
    *,
    sets: NDArray[np.int64] | None = None,
    worst: bool = False,
    groups: metrics.Groups | None = None,
    choosers: NDArray[np.int64] | None = None,
    draws: int = DRAWS,
    remark: str = "",
) -> CrossFit:
    """Choose and test over `folds` (M,), numbered from 0.

    `candidates` are the configurations, by name, each with one or several scores of which the best
    counts, by seed; all with the same numbers of seeds. Of fold k those in `eligible[k]` may be
    chosen, and the default, which is taken when it is within a standard error of the best. With
    `sets` (M,) the choice is by the mean over the sets of anomalies, or by the `worst`. `groups`
    are of the test's normal images and of all anomalies, `choosers` (V,) those of the validation's
    normal images, by the same numbers.

    Raises `ValueError` without a candidate.
    """
    choice = None if groups is None or choosers is None else (choosers, groups[1])
    table = _Table(candidates, folds, sets, worst, choice)
    allowed = np.array(
        [
            [name in eligible[k] or name == DEFAULT for name, _ in table.names]
            for k in range(table.folds)
        ]
    )
    ones = [np.ones((size, 1)) for size in table.sizes]
    chosen_by, _, _ = table.figures(*ones)
    defaults = table.defaults(chosen_by[:, :, 0])
    errors = table.errors(defaults)
    chosen = _choose(chosen_by, allowed, errors, defaults)[:, 0]  # (K,)
    whole = table.whole(ones[0], ones[2])[:, None]  # (C, 1, 1)
    own = table.defaults(whole[:, :, 0])
    anywhere: NDArray[np.bool_] = allowed.max(axis=0, keepdims=True)
    final = int(_choose(whole, anywhere, table.errors(own, whole=True), own)[0, 0])

    by_seed = [table.placements(chosen, seed) for seed in range(table.seeds)]
    aurocs = [float(at_anomaly.mean()) for _, at_anomaly in by_seed]
    images = statistics.fmean(math.sqrt(metrics.area_variance(*p, groups)) for p in by_seed)
    mean = _mean(by_seed)
    generator = np.random.default_rng(0)
    drawn = _draw(generator, table.sizes, groups, choosers, draws)
    figures, base = table.repeated(drawn, allowed, errors, defaults)
    extra = _choice(figures, metrics.area_variance(*mean, groups))
    sizes = metrics.independent(*table.sizes[1:], groups)
    auroc = statistics.fmean(aurocs)
    error = math.sqrt(images**2 + extra)
    low, high = metrics.area_interval(auroc, error, *sizes, grouped=groups is not None)
    difference = p = None
    if defaults is not None:
        theirs = [table.placements(defaults, seed) for seed in range(table.seeds)]
        difference, p = _against(by_seed, theirs, figures - base, groups)
    return CrossFit(
        folds=table.folds,
        anomalies=table.sizes[2],
        normals=table.sizes[1],
        chosen=tuple(table.names[one][0] for one in chosen),
        final=table.names[final][0],
        auroc=auroc,
        spread=statistics.stdev(aurocs) if len(aurocs) > 1 else None,
        low=low,
        high=high,
        choice_error=math.sqrt(extra),
        difference=difference,
        p=p,
        remark=remark,
    )


def _mean(several: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Of placements, over seeds."""
    return np.mean([p[0] for p in several], axis=0), np.mean([p[1] for p in several], axis=0)


def _choice(figures: Floats, images: float) -> float:
    """What the choice adds to the variance: that of the repeated choice, less that of images."""
    known = figures[np.isfinite(figures)]
    return max(float(known.var(ddof=1)) - images, 0.0) if len(known) > 1 else 0.0


def _against(
    ours: Sequence[tuple[Floats, Floats]],
    defaults: Sequence[tuple[Floats, Floats]],
    repeated: Floats,
    groups: metrics.Groups | None,
) -> tuple[float, float]:
    """The difference from the default on the same images, and p: images, seeds and the choice."""
    gaps = [(x[0] - y[0], x[1] - y[1]) for x in ours for y in defaults]
    images = statistics.fmean(math.sqrt(metrics.area_variance(*gap, groups)) for gap in gaps) ** 2
    mean = _mean(gaps)
    images += _choice(repeated, metrics.area_variance(*mean, groups))
    aurocs = [[float(p[1].mean()) for p in side] for side in (ours, defaults)]
    found = welch_test(float(mean[1].mean()), images, aurocs, groups)
    return found.difference, found.p


def _choose(
    figures: Floats,
    allowed: NDArray[np.bool_],
    errors: Floats,
    defaults: NDArray[np.intp] | None,
) -> NDArray[np.intp]:
    """The candidate of each fold and draw, (K, B), by `figures` (C, K, B), of those `allowed`
    (K, C); `errors` (C, K) say how far ahead of the fold's default, of `defaults` (K,), it must
    be."""
    open_ones = np.where(allowed.T[:, :, None], np.nan_to_num(figures, nan=-1.0), -np.inf)
    best: NDArray[np.intp] = open_ones.argmax(axis=0)
    if defaults is None:
        return best
    own = open_ones[defaults, np.arange(len(defaults))]  # (K, B)
    needed = errors[best, np.arange(len(defaults))[:, None]]
    return np.where(open_ones.max(axis=0) - own <= needed, defaults[:, None], best)


def _draw(
    generator: np.random.Generator,
    sizes: Sequence[int],
    groups: metrics.Groups | None,
    choosers: NDArray[np.int64] | None,
    draws: int,
) -> list[Floats]:
    """How often each image is in each draw: of the three lists, (size, draws) each."""
    if groups is None:
        return [draw_images(generator, size, draws) for size in sizes]
    grouped = draw_groups(generator, groups, draws)
    if choosers is None:
        return [draw_images(generator, sizes[0], draws), *grouped]
    return [draw_by_group(generator, choosers, draws), *grouped]


class _Table:
    """Every candidate's comparisons of anomalies with normal images, the mean over its seeds."""

    def __init__(
        self,
        candidates: Mapping[str, Mapping[str, Sequence[Judged]]],
        folds: NDArray[np.int64],
        sets: NDArray[np.int64] | None,
        worst: bool,
        groups: metrics.Groups | None,
    ) -> None:
        self._groups = groups  # of the images that choose
        self.names = [(name, score) for name, own in candidates.items() for score in own]
        if not self.names:
            raise ValueError("there is no candidate to choose from")
        self._judged = [candidates[name][score] for name, score in self.names]
        first = self._judged[0][0]
        self.seeds = len(self._judged[0])
        self.sizes = len(first.chooses), len(first.normal), len(first.anomaly)
        self.folds, self._of = int(folds.max()) + 1, folds
        self._sets = np.zeros(self.sizes[2], np.int64) if sets is None else sets
        self._worst = worst
        self._chooses = [
            np.mean([_above(one.chooses, one.anomaly) for one in own], axis=0)
            for own in self._judged
        ]
        self._tests = [
            np.mean([_above(one.normal, one.anomaly) for one in own], axis=0)
            for own in self._judged
        ]

    def defaults(self, figures: Floats) -> NDArray[np.intp] | None:
        """The default of each fold (K,), of its scores the best by `figures` (C, K); None where it
        is not among the candidates."""
        its = np.array([name == DEFAULT for name, _ in self.names])
        if not its.any():
            return None
        found: NDArray[np.intp] = np.where(its[:, None], figures, -np.inf).argmax(axis=0)
        return found

    def figures(
        self, chooses: Floats, normals: Floats, anomalies: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Of images that are so often in each draw: the figure that chooses, without each fold,
        (C, K, B); the sum over pairs that tests it, (C, K, B); and of what a sum is, (B,)."""
        chosen_by, tested = [], []
        for choose, test in zip(self._chooses, self._tests, strict=True):
            chosen_by.append(
                self._without_folds((choose @ chooses) * anomalies, chooses, anomalies)
            )
            tested.append(self._by_fold((test @ normals) * anomalies))
        pairs = normals.sum(axis=0) * anomalies.sum(axis=0)
        return np.array(chosen_by), np.array(tested), pairs

    def whole(self, chooses: Floats, anomalies: Floats) -> Floats:
        """The figure that chooses by all anomalies, (C, B)."""
        found = []
        for choose in self._chooses:
            sums = (choose @ chooses) * anomalies
            pairs = anomalies * chooses.sum(axis=0)
            every = self._every_set()
            found.append(
                self._combined(
                    [self._set_sums(sums, s) for s in every],
                    [self._set_sums(pairs, s) for s in every],
                )
            )
        return np.array(found)

    def repeated(
        self,
        drawn: Sequence[Floats],
        allowed: NDArray[np.bool_],
        errors: Floats,
        defaults: NDArray[np.intp] | None,
    ) -> tuple[Floats, Floats]:
        """The figure of each draw with its own choices, (B,), and that of the default, else 0."""
        chosen_by, tested, pairs = self.figures(*drawn)
        chosen = _choose(chosen_by, allowed, errors, defaults)
        base = np.zeros(len(pairs))
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.take_along_axis(tested, chosen[None], axis=0)[0].sum(axis=0) / pairs
            if defaults is not None:
                base = tested[defaults, np.arange(self.folds)].sum(axis=0) / pairs
        return found, base

    def placements(self, chosen: NDArray[np.intp], seed: int) -> tuple[Floats, Floats]:
        """Of every normal image of the test (N,) and every anomaly (M,), each anomaly judged by the
        candidate `chosen` (K,) of its fold: their means are the AUROC."""
        above = np.empty((self.sizes[2], self.sizes[1]), np.float32)
        for k, candidate in enumerate(chosen):
            one = self._judged[candidate][seed]
            above[self._of == k] = _above(one.normal, one.anomaly[self._of == k])
        return above.mean(axis=0, dtype=np.float64), above.mean(axis=1, dtype=np.float64)

    def errors(self, defaults: NDArray[np.intp] | None, *, whole: bool = False) -> Floats:
        """The standard error of each candidate's lead over the default where it is chosen, without
        each fold, (C, K); with the `whole` of the anomalies, (C, 1)."""
        found = np.zeros((len(self.names), 1 if whole else self.folds))
        for k, default in enumerate(() if defaults is None else defaults):
            inside = np.full(self.sizes[2], True) if whole else self._of != k
            base = [_sides(one, inside) for one in self._judged[default]]
            groups = self._groups and (self._groups[0], self._groups[1][inside])
            sets = self._sets[inside]
            for c, own in enumerate(self._judged):
                if c != default:
                    ours = [_sides(one, inside) for one in own]
                    found[c, k] = lead_error(ours, base, groups, sets, worst=self._worst)
        return found

    def _by_fold(self, sums: Floats) -> Floats:
        return np.array([sums[self._of == k].sum(axis=0) for k in range(self.folds)])

    def _every_set(self) -> range:
        return range(int(self._sets.max()) + 1)

    def _set_sums(self, values: Floats, number: int, without: int | None = None) -> Floats:
        inside = self._sets == number
        if without is not None:
            inside &= self._of != without
        total: Floats = values[inside].sum(axis=0)
        return total

    def _combined(self, sums: Sequence[Floats], pairs: Sequence[Floats]) -> Floats:
        found, count = np.zeros_like(sums[0]), np.zeros_like(sums[0])
        least = np.full_like(sums[0], np.inf)
        for own, of in zip(sums, pairs, strict=True):  # a draw may have none of a set
            area = np.divide(own, of, out=np.zeros_like(own), where=of > 0)
            found, count = found + area, count + (of > 0)
            least = np.where(of > 0, np.minimum(least, area), least)
        if self._worst:
            return np.where(count > 0, least, np.nan)
        return np.divide(found, count, out=np.full_like(found, np.nan), where=count > 0)

    def _without_folds(self, sums: Floats, chooses: Floats, anomalies: Floats) -> Floats:
        weight = chooses.sum(axis=0)
        return np.array(
            [
                self._combined(
                    [self._set_sums(sums, s, k) for s in self._every_set()],
                    [self._set_sums(anomalies, s, k) * weight for s in self._every_set()],
                )
                for k in range(self.folds)
            ]
        )


def _sides(one: Judged, inside: NDArray[np.bool_]) -> SeedScores:
    return {"normal": one.chooses, "anomaly": one.anomaly[inside]}


def _above(normal: np.ndarray, anomaly: np.ndarray) -> Above:
    above: Above = (anomaly[:, None] > normal) + np.float32(0.5) * (anomaly[:, None] == normal)
    return above
