"""Which trials are stopped early: compared at equal epochs, by figures that the study holds.

A trial is compared by its *early figure*, the validation AUROC of the score that its method names
for this (`Detector.early_score`). The session writes it to the trial's attributes before it asks,
and the pruners read what is written: a session that is killed in between decides the same when it
goes on. A study of an earlier version holds no early figures; where a trial to compare with has
none, all are compared by the figure that ranks them at the end.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from amatune.metrics import hanley_mcneil
from amatune.runs.request import Scheduler
from amatune.several import METHOD
from amatune.tuning.study import EARLY, GRACE, early_figure

REDUCTION = 3  # of the trials that reach a rung, about one in REDUCTION goes on
FIRST, SECOND = 7, 3  # rungs are at a seventh and at a third of the budget
# A rung decides nothing while its figures vary less than so many times what the validation images'
# number alone makes them vary.
NOISE = 2.0
MEDIAN_OF = 5  # trials with the full budget, before the median rule stops any


def rungs(epochs: int, grace: int) -> list[int]:
    """Epochs at which poor trials are stopped, rising; empty when the budget is too short.

    At a seventh and a third of the budget, or right behind the warm-up (`grace` is the first epoch
    at which a trial may be stopped) where that ends later; one alone where the two would be close
    to each other, none where it would save less than a quarter of the budget.
    benchmarks/efficiency.py compares.
    """
    first, second = (max(math.ceil(epochs / share), grace) for share in (FIRST, SECOND))
    levels = [first, second] if second >= 2 * first else [second]
    return [level for level in levels if level < epochs and 4 * level <= 3 * epochs + 1]


def decision_epochs(kind: Scheduler, epochs: int, grace: int) -> Sequence[int]:
    """The epochs at which `make_pruner`'s pruner may stop a trial."""
    if kind == "none":
        return ()
    return range(grace, epochs) if kind == "median" else rungs(epochs, grace)


def make_pruner(
    kind: Scheduler, epochs: int, grace: int, sides: tuple[int, int] | None = None
) -> optuna.pruners.BasePruner:
    """What stops poor trials, never before `grace` epochs.

    asha: asynchronous successive halving (Li et al., MLSys 2020) at these `rungs`, without pausing:
    who is not in the best third of a rung's figures so far ends there. hyperband: the same, where
    some trials are spared the first rung. median: who has at no epoch been as good as the median of
    the trials with the full budget is now, at any epoch.

    `sides` are the numbers of validation anomalies and normal images behind a figure: figures that
    differ no more than by chance decide nothing. None: all differences count.
    """
    if kind == "none" or not (levels := rungs(epochs, grace)):
        return optuna.pruners.NopPruner()
    if kind == "median":
        return MedianRule(grace, sides)
    # Of five trials of a Hyperband with two brackets three begin at the first rung.
    brackets = [levels] * 3 + [levels[1:]] * 2 if kind == "hyperband" else [levels]
    return Halving(brackets, sides)


class Halving(optuna.pruners.BasePruner):
    """Successive halving at the rungs of a trial's bracket: those of `brackets`, in turn by the
    trials' numbers. Only trials of the same rungs are compared."""

    def __init__(self, brackets: Sequence[Sequence[int]], sides: tuple[int, int] | None) -> None:
        self.brackets = [list(levels) for levels in brackets]
        self.sides = sides

    def levels(self, number: int) -> list[int]:
        """The rungs of a trial."""
        return self.brackets[number % len(self.brackets)]

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial's newest epoch is the one it is compared at, and others were better."""
        levels = self.levels(trial.number)
        reached = [level for level in levels if level <= (trial.last_step or 0)]
        if not reached:
            return False
        place = len(reached) - 1
        until = levels[place + 1] if place + 1 < len(levels) else math.inf
        if _epoch_in(trial, reached[-1], until) != trial.last_step:
            return False
        peers = [t for t in self.peers(study, trial) if self.levels(t.number) == levels]
        found = _compared((t, _epoch_in(t, reached[-1], until)) for t in _with(trial, peers))
        if is_noise(list(found.values()), self.sides):
            return False
        going_on = max(1, len(found) // REDUCTION)
        return found[trial.number] < sorted(found.values())[-going_on]

    def peers(self, study: optuna.Study, trial: FrozenTrial) -> list[FrozenTrial]:
        """What a trial may be compared with."""
        return of_its_method(study.get_trials(deepcopy=False), trial)


class MedianRule(optuna.pruners.BasePruner):
    """Stops what has at no epoch been as good as the median of full trials is now."""

    def __init__(self, grace: int, sides: tuple[int, int] | None) -> None:
        self.grace = grace
        self.sides = sides

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial ends at its newest epoch."""
        now = trial.last_step
        if now is None or now < self.grace:
            return False
        full = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        full = of_its_method(full, trial)
        if len(full) < MEDIAN_OF:
            return False
        there = [t for t in full if now in t.intermediate_values]
        found = _compared((t, now) for t in _with(trial, there))
        own = found.pop(trial.number)
        if not found or is_noise([own, *found.values()], self.sides):
            return False
        early = trial.user_attrs.get(EARLY, {})
        earlier = trial.intermediate_values
        if own == early.get(str(now)):
            earlier = {int(epoch): value for epoch, value in early.items()}
        return max(own, *earlier.values()) < statistics.median(found.values())


def of_its_method(trials: Sequence[FrozenTrial], trial: FrozenTrial) -> list[FrozenTrial]:
    """In a search of several methods those of the trial's own; in that of one all."""
    return [other for other in trials if other.params.get(METHOD) == trial.params.get(METHOD)]


def is_noise(figures: Sequence[float], sides: tuple[int, int] | None) -> bool:
    """Whether AUROCs vary no more than chance makes them: less than NOISE times the variance of
    Hanley and McNeil (Radiology 143, 1982) at their mean, with `sides` anomalies and normals."""
    if sides is None or len(figures) < 2:
        return False
    chance = hanley_mcneil(statistics.fmean(figures), *sides) ** 2
    return statistics.variance(figures) < NOISE * chance


def _with(trial: FrozenTrial, others: Sequence[FrozenTrial]) -> Iterator[FrozenTrial]:
    yield trial
    yield from (other for other in others if other.number != trial.number)


def _epoch_in(trial: FrozenTrial, first: int, until: float) -> int | None:
    """The first epoch from `first` and before `until` at which the trial was scored and could have
    been stopped: behind its own warm-up. None when there is none."""
    beginning = max(first, trial.user_attrs.get(GRACE, 0) + 1)
    epochs = [epoch for epoch in trial.intermediate_values if beginning <= epoch < until]
    return min(epochs, default=None)


def compared_figure(trial: FrozenTrial, first: int) -> float | None:
    """What a trial is compared by at the rung after `first` epochs; None before it gets there."""
    epoch = _epoch_in(trial, first, math.inf)
    if epoch is None:
        return None
    early = early_figure(trial, epoch)
    return trial.intermediate_values[epoch] if early is None else early


def _compared(epochs: Iterable[tuple[FrozenTrial, int | None]]) -> dict[int, float]:
    """By the trials' numbers, what they are compared by after these epochs; without those that were
    not there. Early figures, or the ones of the end when not all have early ones."""
    there = [(trial, epoch) for trial, epoch in epochs if epoch is not None]
    early = {t.number: early_figure(t, epoch) for t, epoch in there}
    known = {number: value for number, value in early.items() if value is not None}
    if len(known) < len(early):
        return {t.number: t.intermediate_values[epoch] for t, epoch in there}
    return known
