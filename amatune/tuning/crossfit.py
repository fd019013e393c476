"""`amatune best --cross-fit K`: every anomaly chooses and tests, without further training.

The shortlist is made for each fold anew: the trials with the full budget are ranked by the scores
that were kept of them, without the fold's anomalies. All that some fold lists is retrained, and in
a fold only what it lists may be chosen.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from amatune.data.problem import Problem
from amatune.data.sources.base import Id, Part
from amatune.data.strata import draw
from amatune.errors import RequestError
from amatune.registry import Method
from amatune.results.crossfit import DEFAULT, CrossFit, Judged, cross_fit
from amatune.results.objective import set_bounds, validation_auroc
from amatune.results.scores import TEST, VALIDATION, has_scores, load_scores, validation_file
from amatune.runs import RunFolder
from amatune.runs.record import RunRecord
from amatune.tuning import study as studies
from amatune.tuning.retrainings import Candidate, Retraining
from amatune.tuning.shortlists import shortlist

MOST_FOLDS = 20
LEAST = 5  # anomalies in a fold
_LISTS = ("validation_anomalies", "test_anomalies")

Key = tuple[str, Part, Id]


def require_possible(record: RunRecord, folds: int) -> None:
    """Raise `RequestError` unless the anomalies of a run can be dealt into so many folds, and its
    detectors have learned from none."""
    problem = record.request.problem
    counts = record.problem.counts
    anomalies = sum(counts[name] for name in _LISTS)
    most = min(MOST_FOLDS, anomalies // LEAST)
    if not 2 <= folds <= most:
        raise RequestError(
            f"cross_fit must be 2 to {most} folds with the run's {anomalies} anomalies, at least "
            f"{LEAST} in each, got {folds}"
        )
    if problem.anomaly_fraction > 0:
        raise RequestError(
            "cross-fitting is for detectors that learn from normal images alone: this run's learn "
            f"from {counts.get('train_anomalies', 0)} labelled anomalies; leave --cross-fit out"
        )
    if problem.test_ood:
        raise RequestError(
            "the run's --test-ood asks for a test with anomalies of another kind than any that "
            "chose, and cross-fitting lets all of them choose; leave --cross-fit out"
        )


def deal(problem: Problem, folds: int) -> dict[Key, int]:
    """The fold of every anomaly of the validation and of the test.

    Each set's, from either list, is spread evenly; anomalies of one group are in one fold. Depends
    on the run's seed and on the images alone.
    """
    units: dict[str, list[tuple[str, str, Key]]] = {}
    for name in _LISTS:
        for selection in getattr(problem.splits, name):
            keys = selection.groups or [f"{name}/{one}" for one in selection.identities()]
            for unit, image in zip(keys, selection.identities(), strict=True):
                units.setdefault(str(unit), []).append((name, selection.source, image))
    loads: dict[tuple[str, str], list[int]] = {}
    found: dict[Key, int] = {}
    for unit in map(str, draw(units, len(units), problem.request.seed, "folds")):
        list_name, source, _ = units[unit][0]
        load = loads.setdefault((list_name, source), [0] * folds)
        whole = [sum(one[k] for one in loads.values()) for k in range(folds)]
        fold = min(range(folds), key=lambda k: (load[k], whole[k], k))
        for name, own, image in units[unit]:
            loads.setdefault((name, own), [0] * folds)[fold] += 1
            found[image] = fold
    return found


@dataclass(frozen=True)
class CrossFitting:
    """The folds of a run, and what may be chosen in each."""

    folds: int
    dealt: Mapping[Key, int]
    candidates: Sequence[Candidate]  # of all folds, and of the plain shortlist
    plain: Collection[str]  # names of that shortlist, of which one is chosen as without folds
    eligible: Sequence[Collection[str]]  # names, by fold
    remark: str

    @classmethod
    def of(
        cls,
        run: RunFolder,
        record: RunRecord,
        method: Method,
        problem: Problem,
        *,
        folds: int,
        top: int,
        epochs: int,
    ) -> "CrossFitting":
        """Raises `RequestError` as `require_possible` and `shortlist` do."""
        require_possible(record, folds)
        dealt = deal(problem, folds)
        full = studies.full_trials(studies.open_study(run))
        found = list(shortlist(run, record, method, top, epochs, full))
        plain = frozenset(candidate.name for candidate in found)
        kept = _kept_scores(run, problem, full)
        if full and not kept:
            raise RequestError(
                f"the trials' scores of validation images are not in {run.trials} any more, and "
                "cross-fitting chooses by them; leave --cross-fit out"
            )
        of = _folds(problem, dealt, _LISTS[:1])
        bounds = set_bounds(problem.validation_sets())
        eligible: list[set[str]] = []
        for k in range(folds):
            ranks = {
                number: max(_without(scores, of != k, bounds, record) for scores in own)
                for number, own in kept.items()
            }
            ranked = sorted(
                (trial for trial in full if trial.number in ranks),
                key=lambda trial: (-ranks[trial.number], trial.number),
            )
            names = set()
            for candidate in shortlist(run, record, method, top, epochs, ranked):
                same = [one for one in found if one.config == candidate.config]
                names.add((same or [candidate])[0].name)
                if not same:
                    found.insert(-1, candidate)  # the default is the last
            eligible.append(names)
        return cls(folds, dealt, found, plain, eligible, _remark(record, len(full), len(kept)))

    def result(
        self,
        finished: Mapping[str, Sequence[Retraining]],
        scores: Mapping[str, str],
        problem: Problem,
        objective: str,
    ) -> CrossFit | None:
        """Choose and test by what the retrained detectors scored; `scores` are the names of those
        that rank, by configuration, where the settings name one. None where all that a fold may
        choose from has failed."""
        seeds = max(map(len, finished.values()))
        candidates = {
            name: _judged(own, scores[name]) for name, own in finished.items() if len(own) == seeds
        }
        if any(candidates.keys().isdisjoint({*own, DEFAULT}) for own in self.eligible):
            return None
        sets = None
        if objective != "pooled":
            names = [
                selection.source
                for name in _LISTS
                for selection in getattr(problem.splits, name)
                for _ in selection.ids
            ]
            sets = np.unique(names, return_inverse=True)[1]
        choosers, groups = None, problem.groups_of(["validation_normals", "test_normals"], _LISTS)
        if groups is not None:
            count = sum(len(own.ids) for own in problem.splits.validation_normals)
            choosers, groups = groups[0][:count], (groups[0][count:], groups[1])
        return cross_fit(
            candidates,
            _folds(problem, self.dealt, _LISTS),
            self.eligible,
            sets=sets,
            worst=objective == "worst",
            groups=groups,
            choosers=choosers,
            remark=self.remark,
        )


def _judged(trainings: Sequence[Retraining], score: str) -> dict[str, list[Judged]]:
    by_seed = [(one.scores(VALIDATION), one.scores(TEST)) for one in trainings]
    names = [score]
    if getattr(trainings[0].config, "score", None) == "auto":
        names = list(by_seed[0][0])
    return {
        name: [
            Judged(
                chooses=validation[name]["normal"],
                normal=test[name]["normal"],
                anomaly=np.concatenate([validation[name]["anomaly"], test[name]["anomaly"]]),
            )
            for validation, test in by_seed
        ]
        for name in names
    }


def _folds(problem: Problem, dealt: Mapping[Key, int], lists: Sequence[str]) -> NDArray[np.int64]:
    """The fold of each anomaly in the lists, in their order."""
    return np.array(
        [
            dealt[image]
            for name in lists
            for selection in getattr(problem.splits, name)
            for image in selection.identities()
        ],
        np.int64,
    )


_Kept = list[Mapping[str, np.ndarray]]  # the scores of a trial that may rank, by side


def _kept_scores(
    run: RunFolder, problem: Problem, trials: Sequence[FrozenTrial]
) -> dict[int, _Kept]:
    """What was kept of the validation images, by trial; those without are left out."""
    normals, anomalies = map(len, problem.validation_images())
    found: dict[int, _Kept] = {}
    for trial in trials:
        file, primary = validation_file(run, trial.number), trial.user_attrs.get(studies.PRIMARY)
        if primary is None or not has_scores(file):
            continue
        by_name = load_scores(file)
        auto = trial.user_attrs[studies.CONFIG].get("score") == "auto"
        own: _Kept = [by_name[name] for name in (by_name if auto else [primary]) if name in by_name]
        if own and all(
            (len(one["normal"]), len(one["anomaly"])) == (normals, anomalies) for one in own
        ):
            found[trial.number] = own
    return found


def _without(
    scores: Mapping[str, np.ndarray],
    inside: NDArray[np.bool_],
    bounds: np.ndarray,
    record: RunRecord,
) -> float:
    """The validation AUROC by some of the anomalies."""
    left = np.array([int(inside[:end].sum()) for end in bounds])
    if record.request.objective != "pooled":
        left = np.unique(left)  # a set that is in the fold as a whole
    anomaly = scores["anomaly"][inside]
    return validation_auroc(scores["normal"], anomaly, left, record.request.objective)


def _remark(record: RunRecord, full: int, kept: int) -> str:
    told = (
        f"the search's proposals and its early stopping saw all "
        f"{record.problem.counts['validation_anomalies']} validation anomalies; only the ranking "
        "of its trials was repeated without a fold's own"
    )
    if kept < full:
        told += f", of {kept} of {full} trials, whose scores were kept"
    return told
