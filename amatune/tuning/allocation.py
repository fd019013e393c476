"""Which of several methods has the next proposal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from amatune.metrics import hanley_mcneil
from amatune.several import METHOD
from amatune.tuning.stopping import compared_figure
from amatune.tuning.study import COST

LEAST = 1e-3  # of a trial: what a proposal counts at least


@dataclass(frozen=True)
class Allocation:
    """Proposals by UCB1 (Auer, Cesa-Bianchi and Fischer, Machine Learning 47, 2002), where a method
    is an arm and what it has cost is how often it was played: the method with the highest

        best_m + error * sqrt(2 ln(n) / n_m)

    has the next one. `best_m` is its best AUROC so far, `error` the standard error that chance
    gives such an AUROC, `n_m` the time of its trials in units of a trial of the costliest method,
    `n` the sum of these. The best stands in the place of the mean, since the best is what a search
    is after; time in that of the number, so that methods share time and a cheap one is tried more
    often than a costly one.

    Trials that still run count as much as the others of their method. The choice depends on the
    study alone, and so on how long its trials took.
    """

    names: Sequence[str]  # of the methods
    rung: int  # epochs after which trials are compared
    sides: tuple[int, int]  # validation anomalies and normal images

    def next_method(self, trials: Sequence[FrozenTrial]) -> str:
        """The method to propose for, after these trials, running ones included."""
        own = {name: [t for t in trials if t.params.get(METHOD) == name] for name in self.names}
        for name, tried in own.items():
            if not tried:
                return name
        played = self._played(own)
        best = {name: max(map(self._figure, tried)) for name, tried in own.items()}
        error = hanley_mcneil(min(max(*best.values(), 0.5), 1.0), *self.sides)
        total = max(sum(played.values()), 2.0)

        def bound(name: str) -> float:
            return best[name] + error * math.sqrt(2 * math.log(total) / played[name])

        return max(self.names, key=bound)

    def _played(self, own: dict[str, list[FrozenTrial]]) -> dict[str, float]:
        """What each method has cost, in trials of the costliest."""
        spent, means = {}, {}
        for name, tried in own.items():
            ended = [t for t in tried if t.state.is_finished()]
            spent[name] = sum(map(_seconds, ended))
            means[name] = spent[name] / len(ended) if ended else 0.0
        unit = max(means.values()) or 1.0
        played = {}
        for name, tried in own.items():
            # None has ended: each of them may be as costly as any.
            each = means[name] or unit
            running = sum(not t.state.is_finished() for t in tried)
            played[name] = max((spent[name] + running * each) / unit, LEAST * len(tried))
        return played

    def _figure(self, trial: FrozenTrial) -> float:
        if trial.state == TrialState.COMPLETE:
            return trial.value or 0.0
        return compared_figure(trial, self.rung) or 0.0


def _seconds(trial: FrozenTrial) -> float:
    return float(trial.user_attrs.get(COST, {}).get("seconds", 0.0))
