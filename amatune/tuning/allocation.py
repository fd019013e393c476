"""Which of several methods has the next proposal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from amatune.metrics import hanley_mcneil
from amatune.several import METHOD
from amatune.tuning.stopping import compared_figure

Tried = Mapping[str, Sequence[FrozenTrial]]  # by method


@dataclass(frozen=True)
class Allocation:
    """Proposals by UCB1 (Auer, Cesa-Bianchi and Fischer, Machine Learning 47, 2002), where a method
    is an arm: the next one is of the method with the highest

        best_m + error * sqrt(2 ln(n) / n_m)

    `best_m` is its best AUROC so far, `error` the standard error that chance gives the highest of
    these, `n_m` the number of its trials and `n` that of all. The best stands in the place of the
    mean, since the best is what a search is after. A method that does badly has fewer proposals and
    never none for good. The choice depends on the study alone. benchmarks/which_method.py compares.
    """

    names: Sequence[str]  # of the methods
    rung: int  # epochs after which trials are compared
    sides: tuple[int, int]  # validation anomalies and normal images
    # By method, settings that it tries right after its default.
    known: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def next_method(self, trials: Sequence[FrozenTrial]) -> str:
        """The method to propose for, after these trials, running ones included."""
        tried = {name: [t for t in trials if t.params.get(METHOD) == name] for name in self.names}
        for name, own in tried.items():
            if not own:
                return name
        played = self.played(tried)
        best = {name: max(map(self._figure, own)) for name, own in tried.items()}
        # At 1 the formula gives 0, as if the next anomalies were sure to be found too.
        highest = 1 - 1 / (2 * self.sides[0])
        error = hanley_mcneil(min(max(*best.values(), 0.5), highest), *self.sides)
        total = max(sum(played.values()), 2.0)

        def bound(name: str) -> float:
            return best[name] + error * math.sqrt(2 * math.log(total) / played[name])

        return max(self.names, key=lambda name: (bound(name), -played[name]))

    def played(self, tried: Tried) -> dict[str, float]:
        """How often each method has had its turn, above 0."""
        return {name: float(len(own)) for name, own in tried.items()}

    def _figure(self, trial: FrozenTrial) -> float:
        if trial.state == TrialState.COMPLETE:
            return trial.value or 0.0
        return compared_figure(trial, self.rung) or 0.0
