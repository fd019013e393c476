"""Which of the retrained configurations is taken: by validation images, over the seeds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amatune import metrics
from amatune.results.leaderboard import choose, control_of, without_failure
from amatune.results.objective import Objective, best_score, validation_auroc
from amatune.results.scores import VALIDATION
from amatune.results.selection import SeedScores
from amatune.tuning.retrainings import Retraining


@dataclass(frozen=True)
class Validated:
    """What validation images say of a candidate's trainings, by the score that ranks them."""

    score: str  # its name
    scores: Sequence[SeedScores]  # of each seed
    aurocs: Sequence[float]  # of each seed: what the search would say


def validate(
    trainings: Sequence[Retraining], bounds: np.ndarray, objective: Objective
) -> Validated:
    """Of trainings that differ in their seed alone. The score is that of the settings, of a method
    without such a setting its first, or for "auto" the one whose mean over the seeds is best."""
    by_seed = [training.scores(VALIDATION) for training in trainings]
    aurocs = {
        name: [validation_auroc(**s[name], bounds=bounds, kind=objective) for s in by_seed]
        for name in by_seed[0]
    }
    score = getattr(trainings[0].config, "score", next(iter(by_seed[0])))
    if score == "auto":
        score = best_score({name: statistics.fmean(values) for name, values in aurocs.items()})
    return Validated(score, [s[score] for s in by_seed], aurocs[score])


def choose_candidate(
    validated: Mapping[str, Validated],
    seeds: int,
    groups: metrics.Groups | None,
    bounds: np.ndarray,
    objective: Objective,
) -> tuple[str, str]:
    """The candidate to take, by the mean over the seeds of what `validation_auroc` gives by these
    `bounds` and this objective, and why.

    One that failed with some seed is not chosen while another failed with none.
    """
    sets = None
    if objective != "pooled":
        sets = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    aurocs = {name: one.aurocs for name, one in validated.items()}
    names = without_failure(aurocs, seeds)
    return choose(
        {name: validated[name].scores for name in names},
        {name: statistics.fmean(aurocs[name]) for name in names},
        groups,
        control_of(aurocs, seeds),
        sets=sets,
        worst=objective == "worst",
    )
