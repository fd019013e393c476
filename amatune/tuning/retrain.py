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
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from amatune import metrics, registry
from amatune.cluster import connection, execution
from amatune.cluster.capacity import Room, find_room
from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.device import claim_device
from amatune.cluster.job import (
    CHECKPOINT_SECONDS,
    LARGER_SHARE,
    Failure,
    Images,
    Job,
    Progress,
    Trained,
)
from amatune.config import DetectorConfig
from amatune.data.problem import Problem
from amatune.detector import Detector
from amatune.errors import AmatuneError, DiskFullError, RequestError
from amatune.results.leaderboard import (
    Comparison,
    Leaderboard,
    LeaderboardRow,
    TestFigures,
    choose,
    compare,
    figures,
    model_folder,
    read_leaderboard,
    spread,
)
from amatune.results.objective import set_bounds, validation_auroc
from amatune.results.scores import TEST, VALIDATION, load_scores, save_scores
from amatune.runs import RunFolder
from amatune.stored import StoredDetector, read_facts
from amatune.tuning import study as studies
from amatune.tuning.events import (
    Event,
    Listener,
    RetrainStarted,
    RetrainUpdate,
    State,
    TestStarted,
)
from amatune.tuning.request import SearchRequest
from amatune.tuning.search import (
    gpu_share,
    saved_request,
    selection,
    tensorboard_place,
    trials_place,
)
from amatune.tuning.seeds import derive_seed
from amatune.tuning.spaces import space_of

__all__ = [
    "Comparison",
    "Leaderboard",
    "LeaderboardRow",
    "TestFigures",
    "read_leaderboard",
    "run_best",
]


@dataclass(frozen=True)
class Candidate:
    """A configuration of the shortlist."""

    name: str  # "trial-12" or "default"
    default: bool
    settings: dict[str, Any]
    config: DetectorConfig  # resolved
    search_auroc: float | None


@dataclass
class Training:
    """One candidate with one seed."""

    candidate: Candidate
    seed: int  # 1, 2, ...
    detector_seed: int
    folder: Path  # of what it leaves behind
    epoch: int = 0
    auroc: float | None = None
    gpu_bytes: int | None = None
    tries: dict[str, int] = field(default_factory=dict)  # as `Failure.try_again` keeps them

    @property
    def name(self) -> str:
        """Of its folders. The budget is part of it: a checkpoint belongs to one budget."""
        return f"{self.candidate.name}-{self.candidate.config.epochs}epochs-seed{self.seed}"

    @property
    def facts(self) -> dict[str, Any] | None:
        """What is kept of the detector that this training makes; None when there is none."""
        facts = read_facts(self.folder)
        mine = {"config": self.candidate.config.to_dict(), "seed": self.detector_seed}
        if facts is None or any(facts.get(name) != value for name, value in mine.items()):
            return None
        return facts

    @property
    def primary(self) -> str:
        """The score that ranks the images; once it is finished."""
        return str((self.facts or {})["primary"])

    def primary_scores(self, file: str) -> dict[str, np.ndarray]:
        """The kept scores of VALIDATION or TEST images: "normal" (N,), "anomaly" (M,)."""
        return load_scores(self.folder / file)[self.primary]


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
    emit = listener or _nobody
    with run.alone(), contextlib.ExitStack() as stack:
        request = saved_request(run)
        if address is not None:
            request = dataclasses.replace(request, address=address)
        problem = Problem.from_dict(run.read()["problem"], data_dir or request.data_dir)
        candidates = shortlist(run, request, problem, top, epochs or request.epochs)
        trainings = [
            Training(
                candidate,
                seed,
                derive_seed(request.seed, "retrain", seed),
                model_folder(run, candidate.name, seed),
            )
            for candidate in candidates
            for seed in range(1, seeds + 1)
        ]
        work = _Retraining(run, request, trainings, emit, checkpoint_seconds)
        emit(
            RetrainStarted(
                run=run.path,
                configurations=tuple(candidate.name for candidate in candidates),
                seeds=tuple(range(1, seeds + 1)),
                epochs=candidates[0].config.epochs,
                finished=len(trainings) - len(work.left),
                warnings=tuple(problem.warnings),
            )
        )
        if work.left:
            # One for training and testing.
            stack.enter_context(connection.cluster(request.address, run.log))
            _train(work, request, problem)
        finished = {
            candidate.name: [t for t in trainings if t.candidate is candidate and t.facts]
            for candidate in candidates
        }
        if not any(finished.values()):
            reasons = "; ".join(sorted(set(itertools.chain(*work.failures.values()))))
            raise AmatuneError(f"every training of the shortlist failed: {reasons}")
        bounds = set_bounds(problem.validation_sets())
        validation = {  # what the search would say of the primary score, by seed
            name: [
                validation_auroc(
                    **training.primary_scores(VALIDATION), bounds=bounds, kind=request.objective
                )
                for training in trainings
            ]
            for name, trainings in finished.items()
        }
        chosen, choice = _choose(finished, validation, seeds)
        untested = [
            t for t in itertools.chain(*finished.values()) if not (t.folder / TEST).exists()
        ]
        if untested:
            emit(TestStarted(chosen=chosen, models=len(untested)))
            _test(untested, run, request, problem)
        sets = problem.test_sets()
        rows = [
            _row(
                candidate,
                finished[candidate.name],
                validation[candidate.name],
                chosen,
                work.failures,
                sets,
            )
            for candidate in candidates
            if finished[candidate.name]
        ]
        study = studies.open_study(run)
        some_scores = finished[chosen][0].primary_scores(TEST)
        board = Leaderboard(
            run=run,
            method=request.method,
            primary_score=finished[chosen][0].primary,
            epochs=candidates[0].config.epochs,
            seeds=tuple(range(1, seeds + 1)),
            rows=tuple(sorted(rows, key=lambda row: -row.validation_auroc)),
            comparison=_compare(finished[chosen], finished["default"]),
            dropped=tuple(
                f"{name}: {'; '.join(work.failures[name])}"
                for name, trainings in finished.items()
                if not trainings
            ),
            test_normals=len(some_scores["normal"]),
            test_anomalies=len(some_scores["anomaly"]),
            warnings=(*problem.test_duplicates(), *problem.list_damaged(run.broken)),
            choice=choice,
            selection=selection(run, request, problem, study),
            effort=studies.effort(study),
        )
        board.write()
        return board


def shortlist(
    run: RunFolder, request: SearchRequest, problem: Problem, top: int, epochs: int
) -> list[Candidate]:
    """The best `top` full-budget trials, then the default, all with a budget of `epochs`.

    The default is in there once and takes no place from another, also when it is among the best;
    a configuration that was tried twice is in there once. Raises `RequestError` when no trial has
    reached the full budget.
    """
    method = registry.detector_class(request.method)
    full = studies.full_trials(studies.open_study(run))
    if not full:
        raise RequestError(
            f"no trial of the run {run.name!r} has reached the full budget of {request.epochs} "
            "epochs yet; continue the search with --resume"
        )
    default = method.Config.from_dict({**request.fixed, "epochs": epochs})
    default = default.resolve(problem.image_shape)
    found: list[Candidate] = []
    default_auroc = None
    for trial in full:
        config = method.Config.from_dict({**trial.user_attrs[studies.CONFIG], "epochs": epochs})
        if config == default:
            default_auroc = trial.value if default_auroc is None else default_auroc
        elif len(found) < top and all(config != other.config for other in found):
            settings = trial.user_attrs[studies.SETTINGS]
            found.append(Candidate(f"trial-{trial.number}", False, settings, config, trial.value))
    space = space_of(request.method, request.space)
    settings = studies.default_settings(space, default, request.fixed)
    return [*found, Candidate("default", True, settings, default, default_auroc)]


class _Retraining:
    """The `Work` of a retraining."""

    def __init__(
        self,
        run: RunFolder,
        request: SearchRequest,
        trainings: Sequence[Training],
        emit: Listener,
        checkpoint_seconds: float,
    ) -> None:
        self.run = run
        self._tensorboard = tensorboard_place(run, request.storage_path)
        self._request = request
        self._emit = emit
        self._checkpoint_seconds = checkpoint_seconds
        self.place = trials_place(run, request, "best/trials")
        self._checkpoints = Checkpoints(self.place)
        self.left = [training for training in trainings if training.facts is None]
        self.failures: dict[str, list[str]] = {}  # by candidate
        self._running: dict[str, Training] = {}

    def start(self, key: str) -> Job | None:
        if not self.left:
            return None
        training = self._running[key] = self.left.pop(0)
        self._update(training, "waiting")
        return Job(
            folder=self._checkpoints.next_folder(training.name),
            config=training.candidate.config.to_dict(),
            settings=training.candidate.settings,
            seed=training.detector_seed,
            tensorboard=str(self._tensorboard / f"best-{training.name}"),
            checkpoints=tuple(self._checkpoints.newest_first(training.name)),
            checkpoint_seconds=self._checkpoint_seconds,
            share=LARGER_SHARE if training.tries.get("memory") else 1.0,
            objective=self._request.objective,
            keep_model=True,
        )

    def started(self, key: str) -> None:
        self._update(self._running[key], "running")

    def report(self, key: str, progress: Progress) -> bool:
        training = self._running[key]
        self._take_in(training, progress)
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
        self._take_in(training, progress)
        self._checkpoints.delete(training.name)
        self._update(training, "done")

    def fail(self, key: str, failure: Failure) -> None:
        training = self._running.pop(key)
        if failure.kind == "disk":
            return  # a later call goes on
        tries = failure.try_again(training.tries, training.epoch)
        if tries is not None:
            training.tries = tries
            self.left.insert(0, training)
            self._update(training, "waiting", f"{failure.reason}; it is tried again")
            return
        failures = self.failures.setdefault(training.candidate.name, [])
        failures.append(f"seed {training.seed}: {failure.reason}")
        self._checkpoints.delete(training.name)
        self._update(training, "failed", failure.reason)

    def _take_in(self, training: Training, progress: Progress) -> None:
        training.epoch, training.auroc = progress.epoch, progress.auroc
        training.gpu_bytes = progress.gpu_bytes

    def _update(self, training: Training, state: State, reason: str = "") -> None:
        self._emit(
            RetrainUpdate(
                configuration=training.candidate.name,
                seed=training.seed,
                state=state,
                epoch=training.epoch,
                epochs=training.candidate.config.epochs,
                auroc=training.auroc,
                gpu_bytes=training.gpu_bytes,
                reason=reason,
            )
        )


def _train(work: _Retraining, request: SearchRequest, problem: Problem) -> None:
    """Carry out all trainings that are left."""
    trainable: Any = registry.trainable_class(request.method)
    ending = execution.execute(
        work,
        trainable=trainable,
        images=Images.of(problem),
        cpus_per_trial=request.cpus_per_trial,
        **_room(work.run, request).for_execution,
        place=work.place,
        halt=execution.Halt(),
    )
    if ending == "interrupted":
        raise KeyboardInterrupt
    if ending == "disk full":
        raise DiskFullError(
            f"no space is left on a disk that {work.place} is on; free some and call again: what "
            "is finished is kept"
        )


def _room(run: RunFolder, request: SearchRequest) -> Room:
    share, _ = gpu_share(run, request)
    return find_room(request, share)


def _choose(
    finished: Mapping[str, Sequence[Training]],
    validation: Mapping[str, Sequence[float]],
    seeds: int,
) -> tuple[str, str]:
    """The candidate to take, by the mean validation AUROC over the seeds, and why.

    One that failed with some seed is not chosen while another failed with none.
    """
    names = [n for n, aurocs in validation.items() if len(aurocs) == seeds]
    names = names or [n for n, aurocs in validation.items() if aurocs]
    scores = {n: [t.primary_scores(VALIDATION) for t in finished[n]] for n in names}
    return choose(scores, {n: statistics.fmean(validation[n]) for n in names})


def _test(
    trainings: Sequence[Training], run: RunFolder, request: SearchRequest, problem: Problem
) -> None:
    """Open the test set and keep every detector's scores beside it."""
    with connection.cluster(request.address, run.log):
        cpus, gpus = request.cpus_per_trial, _room(run, request).gpus_per_trial
        method = registry.find_method(request.method)
        score = ray.remote(num_cpus=cpus, num_gpus=gpus)(_score)
        normal, anomaly = (ray.put(images) for images in problem.test_images())
        pending: dict[Any, Training] = {}
        for training in trainings:
            stored = StoredDetector.load(training.folder)
            pending[score.remote(stored, method.detector, normal, anomaly, cpus, gpus)] = training
        while pending:
            task = ray.wait(list(pending))[0][0]
            scores: Any = ray.get(task)
            save_scores(pending.pop(task).folder / TEST, scores)


def _score(
    stored: StoredDetector,
    detector_class: type[Detector],
    normal: np.ndarray,
    anomaly: np.ndarray,
    cpus: float,
    gpus: float,
) -> dict[str, dict[str, np.ndarray]]:
    """In a worker: every score of the test images (N, C, H, W) uint8."""
    detector = stored.build(claim_device(cpus, gpus), detector_class)
    # Copies: arrays in the object store are read-only.
    by_side = {
        "normal": detector.scores(torch.tensor(normal)),
        "anomaly": detector.scores(torch.tensor(anomaly)),
    }
    return {
        name: {side: scores[name].numpy() for side, scores in by_side.items()}
        for name in detector.score_names
    }


def _row(
    candidate: Candidate,
    trainings: Sequence[Training],
    validation: Sequence[float],
    chosen: str,
    failures: Mapping[str, Sequence[str]],
    sets: Mapping[str, slice],
) -> LeaderboardRow:
    by_seed = [load_scores(training.folder / TEST) for training in trainings]
    primary = [s[training.primary] for training, s in zip(trainings, by_seed, strict=True)]
    return LeaderboardRow(
        configuration=candidate.name,
        default=candidate.default,
        chosen=candidate.name == chosen,
        settings=candidate.settings,
        config=candidate.config.to_dict(),
        seeds=tuple(training.seed for training in trainings),
        search_auroc=candidate.search_auroc,
        validation_auroc=statistics.fmean(validation),
        validation_spread=spread(validation),
        validation_by_seed=tuple(validation),
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


def _compare(chosen: Sequence[Training], default: Sequence[Training]) -> Comparison | None:
    """None for the default itself, or when no seed of it finished."""
    if not default or chosen is default:
        return None
    return compare(*([one.primary_scores(TEST) for one in side] for side in (chosen, default)))


def _nobody(_event: Event) -> None:
    pass
