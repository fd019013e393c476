"""From the best trials to a result: retrain the shortlist over fresh seeds, choose, test once.

The shortlist is the best full-budget trials of the search and, as a control, the default
configuration. All train from scratch with seeds the search has not used, the same ones for every
configuration. The choice falls on the best mean validation AUROC over the seeds, or on the default
when that is within one standard error of it. Only then are the test images read, scored by every
detector, and turned into a `Leaderboard`.
"""

import contextlib
import dataclasses
import itertools
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amatune import metrics, registry
from amatune.cluster import connection, execution
from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.job import CHECKPOINT_SECONDS, Images, Job, Progress, Trained
from amatune.cluster.scoring import score_models
from amatune.config import DetectorConfig
from amatune.data.problem import Problem
from amatune.errors import AmatuneError, ClusterLostError, DiskFullError, RequestError
from amatune.registry import Method
from amatune.results.leaderboard import (
    Comparison,
    Leaderboard,
    LeaderboardRow,
    TestFigures,
    against_baseline,
    choose,
    compare,
    figures,
    model_folder,
    read_leaderboard,
    spread,
)
from amatune.results.objective import best_score, set_bounds, validation_auroc
from amatune.results.scores import TEST, VALIDATION, has_scores, load_scores, save_scores
from amatune.results.selection import SeedScores
from amatune.runs import RunFolder
from amatune.runs.record import RunRecord
from amatune.runs.request import LOCAL, MOST, Objective
from amatune.stored import read_facts
from amatune.tuning import study as studies
from amatune.tuning.baselines import tested_baselines
from amatune.tuning.events import (
    Event,
    Listener,
    RetrainStarted,
    RetrainUpdate,
    Saving,
    State,
    TestStarted,
)
from amatune.tuning.search import find_room, selection, trials_place, when_to_go_on
from amatune.tuning.seeds import derive_seed
from amatune.tuning.trainings import Training, Trainings

__all__ = [
    "Comparison",
    "Leaderboard",
    "LeaderboardRow",
    "TestFigures",
    "read_leaderboard",
    "run_best",
]

MOST_SEEDS = 1000


@dataclass(frozen=True)
class Candidate:
    """A configuration of the shortlist."""

    name: str  # "trial-12" or "default"
    default: bool
    settings: dict[str, Any]
    config: DetectorConfig  # resolved
    search_auroc: float | None


@dataclass(kw_only=True)
class Retraining(Training):
    """One candidate with one seed."""

    candidate: Candidate
    number: int  # of the seed: 1, 2, ...
    folder: Path  # of what it leaves behind
    tries: dict[str, int] = field(default_factory=dict)  # as `Failure.try_again` keeps them

    @classmethod
    def of(cls, run: RunFolder, candidate: Candidate, seed: int, number: int) -> "Retraining":
        """The candidate with the `number`-th seed of a search with this `seed`."""
        return cls(
            # The budget is part of the name: a checkpoint belongs to one budget.
            name=f"{candidate.name}-{candidate.config.epochs}epochs-seed{number}",
            config=candidate.config,
            settings=candidate.settings,
            seed=derive_seed(seed, "retrain", number),
            candidate=candidate,
            number=number,
            folder=model_folder(run, candidate.name, number),
        )

    @property
    def facts(self) -> dict[str, Any] | None:
        """What is kept of the detector that this training makes; None when there is none."""
        facts = read_facts(self.folder)
        mine = {"config": self.config.to_dict(), "seed": self.seed}
        if facts is None or any(facts.get(name) != value for name, value in mine.items()):
            return None
        if not has_scores(self.folder / VALIDATION):
            return None  # cut short: it is trained again
        return facts

    def scores(self, file: str) -> dict[str, dict[str, np.ndarray]]:
        """The kept scores of VALIDATION or TEST images, by name: "normal" (N,), "anomaly" (M,)."""
        return load_scores(self.folder / file)


def run_best(
    run: RunFolder,
    *,
    top: int = 3,
    seeds: int = 3,
    epochs: int | None = None,
    data_dir: str | None = None,
    address: str | None = None,
    listener: Listener | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Leaderboard:
    """Retrain the best `top` trials and the default over `seeds` seeds, choose one, test all.

    Every training runs `epochs` epochs, by default the search's. Detectors, their validation and
    test scores go to `best/models`, the leaderboard to `best/leaderboard.json`. Called again it
    trains only what is not there yet. Uses the resources and, unless `address` and `data_dir` name
    others, the cluster and the data folder of the search's request.

    Raises `RequestError` when no trial has reached the full budget, `DataError` when the images
    have changed since, `AmatuneError` when every training fails, and `KeyboardInterrupt` after one
    Ctrl-C, with everything finished so far kept.
    """
    for name, value in (("top", top), ("seeds", seeds), ("epochs", epochs)):
        if value is not None and value < 1:
            raise RequestError(f"{name} must be at least 1, got {value}")
    for name, value, most in (("seeds", seeds, MOST_SEEDS), ("epochs", epochs, MOST)):
        if value is not None and value > most:
            raise RequestError(f"{name} must be at most {most:,}, got {value}")
    emit = listener or _nobody
    with run.alone(), contextlib.ExitStack() as stack:
        record = run.record()
        if address is not None:
            other = None if address == LOCAL else address
            request = dataclasses.replace(record.request, address=other)
            record = dataclasses.replace(record, request=request)
        request = record.request
        method = registry.find_method(request.method)
        problem = record.open_problem(data_dir)
        candidates = shortlist(run, record, method, top, epochs or request.epochs)
        trainings = [
            Retraining.of(run, candidate, request.seed, number)
            for candidate in candidates
            for number in range(1, seeds + 1)
        ]
        work = _Retrainings(run, record, trainings, emit, checkpoint_seconds)
        emit(
            RetrainStarted(
                run=run.path,
                configurations=tuple(candidate.name for candidate in candidates),
                seeds=tuple(range(1, seeds + 1)),
                epochs=candidates[0].config.epochs,
                finished=len(trainings) - len(work.left),
                warnings=(*problem.warnings, *method.detector.limits()),
            )
        )
        if work.left:
            # One for training and testing.
            stack.enter_context(_cluster(run, request.address))
            _train(work, record, method, problem)
        finished = {
            candidate.name: [t for t in trainings if t.candidate is candidate and t.facts]
            for candidate in candidates
        }
        if not any(finished.values()):
            reasons = "; ".join(sorted(set(itertools.chain(*work.failures.values()))))
            raise AmatuneError(f"every training of the shortlist failed: {reasons}")
        bounds = set_bounds(problem.validation_sets())
        validated = {
            name: _validated(trainings, bounds, request.objective)
            for name, trainings in finished.items()
            if trainings
        }
        chosen, choice = _choose(validated, seeds)
        untested = [
            t for t in itertools.chain(*finished.values()) if not has_scores(t.folder / TEST)
        ]
        if untested:
            emit(TestStarted(chosen=chosen, models=len(untested)))
            _test(untested, run, record, method, problem)
        sets = problem.test_sets()
        rows = [
            _row(
                candidate,
                finished[candidate.name],
                validated[candidate.name],
                chosen,
                work.failures,
                sets,
            )
            for candidate in candidates
            if finished[candidate.name]
        ]
        baselines, strongest = tested_baselines(run, request, problem)
        study = studies.open_study(run)
        some_scores = finished[chosen][0].scores(TEST)[validated[chosen].score]
        board = Leaderboard(
            run=run,
            method=method.name,
            epochs=candidates[0].config.epochs,
            seeds=tuple(range(1, seeds + 1)),
            rows=tuple(sorted(rows, key=lambda row: -row.validation_auroc)),
            comparison=_compare(finished, validated, chosen),
            baselines=baselines,
            against_baseline=against_baseline(
                [one.scores(TEST)[validated[chosen].score] for one in finished[chosen]],
                strongest,
                baselines[0].name,
            ),
            dropped=tuple(
                f"{name}: {'; '.join(work.failures[name])}"
                for name, trainings in finished.items()
                if not trainings
            ),
            test_normals=len(some_scores["normal"]),
            test_anomalies=len(some_scores["anomaly"]),
            warnings=(*problem.test_duplicates(run.near_copies), *problem.list_damaged(run.broken)),
            choice=choice,
            selection=selection(run, request, problem, study),
            effort=studies.effort(study),
        )
        board.write()
        return board


@contextlib.contextmanager
def _cluster(run: RunFolder, address: str | None) -> Iterator[None]:
    """A cluster; an error that says how to go on when it is lost."""
    command = shlex.join(["amatune", "best", run.name, "--runs-dir", str(run.path.parent)])
    go_on = f"what is finished is kept; {when_to_go_on(address)}: {command}, and the same options"
    try:
        with connection.cluster(address, run.log, go_on):
            yield
    except ClusterLostError as lost:
        raise ClusterLostError(f"the Ray cluster was lost: {lost}; {go_on}") from None


def shortlist(
    run: RunFolder, record: RunRecord, method: Method, top: int, epochs: int
) -> list[Candidate]:
    """The best `top` full-budget trials, then the default, all with a budget of `epochs`.

    The default is in there once and takes no place from another, also when it is among the best;
    a configuration that was tried twice is in there once. Raises `RequestError` when no trial has
    reached the full budget.
    """
    full = studies.full_trials(studies.open_study(run))
    if not full:
        raise RequestError(
            f"no trial of the run {run.name!r} has reached the full budget of "
            f"{record.request.epochs} "
            "epochs yet; continue the search with --resume"
        )
    fixed = record.request.fixed
    default = record.configuration(method, fixed, epochs)
    found: list[Candidate] = []
    default_auroc = None
    for trial in full:
        config = record.configuration(method, trial.user_attrs[studies.CONFIG], epochs)
        if config == default:
            default_auroc = trial.value if default_auroc is None else default_auroc
        elif len(found) < top and all(config != other.config for other in found):
            settings = trial.user_attrs[studies.SETTINGS]
            found.append(Candidate(f"trial-{trial.number}", False, settings, config, trial.value))
    settings = {**{name: getattr(default, name) for name in record.searched}, **fixed}
    return [*found, Candidate("default", True, settings, default, default_auroc)]


class _Retrainings(Trainings[Retraining]):
    """The `Work` of a retraining."""

    def __init__(
        self,
        run: RunFolder,
        record: RunRecord,
        trainings: Sequence[Retraining],
        emit: Listener,
        checkpoint_seconds: float,
    ) -> None:
        request = record.request
        self.place = trials_place(run, request, "best/trials")
        super().__init__(
            Checkpoints(self.place),
            run.event_files(request.storage_path),
            checkpoint_seconds,
            request.objective,
        )
        self.emit = emit
        self.left = [training for training in trainings if training.facts is None]
        self.failures: dict[str, list[str]] = {}  # by candidate

    def _next(self) -> Retraining | None:
        return self.left.pop(0) if self.left else None

    def _job(self, training: Retraining) -> Job:
        job = super()._job(training)
        tensorboard = str(self._tensorboard / f"best-{training.name}")
        return dataclasses.replace(job, tensorboard=tensorboard, keep_model=True)

    def report(self, key: str, progress: Progress) -> bool:
        training = self._running[key]
        training.take_in(progress)
        self._update(training, "running")
        return False

    def keep(self, key: str, trained: Trained) -> None:
        training = self._running[key]
        (training.folder / TEST).unlink(missing_ok=True)  # of an earlier detector
        save_scores(training.folder / VALIDATION, trained.scores)
        if trained.model is not None:  # every job asks for it
            trained.model.save(training.folder)

    def finish(self, key: str, progress: Progress) -> None:
        training = self._running.pop(key)
        training.take_in(progress)
        self._checkpoints.delete(training.name)
        self._update(training, "done")

    def _tries(self, training: Retraining) -> dict[str, int]:
        return training.tries

    def _again(self, training: Retraining, tries: dict[str, int]) -> None:
        training.tries = tries
        self.left.insert(0, training)

    def _give_up(self, training: Retraining, reason: str) -> None:
        failures = self.failures.setdefault(training.candidate.name, [])
        failures.append(f"seed {training.number}: {reason}")
        self._update(training, "failed", reason)

    def _update(self, training: Retraining, state: State, reason: str = "") -> None:
        self.emit(
            RetrainUpdate(
                configuration=training.candidate.name,
                seed=training.number,
                state=state,
                epoch=training.epoch,
                epochs=training.config.epochs,
                auroc=training.auroc,
                gpu_bytes=training.gpu_bytes,
                reason=reason,
            )
        )


def _train(work: _Retrainings, record: RunRecord, method: Method, problem: Problem) -> None:
    """Carry out all trainings that are left."""
    ending = execution.execute(
        work,
        trainable=method.trainable_class(),
        images=Images.of(problem),
        cpus_per_trial=record.request.cpus_per_trial,
        **find_room(record, method).for_execution,
        place=work.place,
        halt=execution.Halt(saving=lambda: work.emit(Saving(seconds=execution.SAVING_SECONDS))),
    )
    if ending == "interrupted":
        raise KeyboardInterrupt
    if ending == "disk full":
        raise DiskFullError(
            f"no space is left on a disk that {work.place} is on; free some and call again: what "
            "is finished is kept"
        )


@dataclass(frozen=True)
class _Validated:
    """What validation images say of a candidate's trainings, by the score that ranks them."""

    score: str  # its name
    scores: Sequence[SeedScores]  # of each seed
    aurocs: Sequence[float]  # of each seed: what the search would say


def _validated(
    trainings: Sequence[Retraining], bounds: np.ndarray, objective: Objective
) -> _Validated:
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
    return _Validated(score, [s[score] for s in by_seed], aurocs[score])


def _choose(validated: Mapping[str, _Validated], seeds: int) -> tuple[str, str]:
    """The candidate to take, by the mean validation AUROC over the seeds, and why.

    One that failed with some seed is not chosen while another failed with none.
    """
    names = [n for n, one in validated.items() if len(one.aurocs) == seeds] or list(validated)
    return choose(
        {name: validated[name].scores for name in names},
        {name: statistics.fmean(validated[name].aurocs) for name in names},
    )


def _test(
    trainings: Sequence[Retraining],
    run: RunFolder,
    record: RunRecord,
    method: Method,
    problem: Problem,
) -> None:
    """Open the test set and keep every detector's scores beside it."""
    with _cluster(run, record.request.address):
        cpus, gpus = record.request.cpus_per_trial, find_room(record, method).gpus_per_trial
        folders = [training.folder for training in trainings]
        images = problem.test_images()
        for folder, scores in score_models(folders, method.detector, *images, cpus=cpus, gpus=gpus):
            save_scores(folder / TEST, scores)


def _row(
    candidate: Candidate,
    trainings: Sequence[Retraining],
    validated: _Validated,
    chosen: str,
    failures: Mapping[str, Sequence[str]],
    sets: Mapping[str, slice],
) -> LeaderboardRow:
    by_seed = [training.scores(TEST) for training in trainings]
    primary = [scores[validated.score] for scores in by_seed]
    return LeaderboardRow(
        configuration=candidate.name,
        default=candidate.default,
        chosen=candidate.name == chosen,
        score=validated.score,
        settings=candidate.settings,
        config=candidate.config.to_dict(),
        seeds=tuple(training.number for training in trainings),
        search_auroc=candidate.search_auroc,
        validation_auroc=statistics.fmean(validated.aurocs),
        validation_spread=spread(validated.aurocs),
        validation_by_seed=tuple(validated.aurocs),
        test={name: figures([scores[name] for scores in by_seed]) for name in by_seed[0]},
        test_auroc_by_seed=tuple(metrics.auroc(**scores) for scores in primary),
        failures=tuple(failures.get(candidate.name, ())),
        test_by_set={
            name: figures([{**scores, "anomaly": scores["anomaly"][own]} for scores in primary])
            for name, own in sets.items()
        }
        if len(sets) > 1
        else {},
    )


def _compare(
    finished: Mapping[str, Sequence[Retraining]], validated: Mapping[str, _Validated], chosen: str
) -> Comparison | None:
    """The chosen one against the default; None for the default itself, or when it failed."""
    if chosen == "default" or "default" not in validated:
        return None
    return compare(
        *(
            [one.scores(TEST)[validated[name].score] for one in finished[name]]
            for name in (chosen, "default")
        )
    )


def _nobody(_event: Event) -> None:
    pass
