"""What a search or a retraining takes: told before it begins, and once some steps are measured."""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from amatune.cluster import capacity, connection
from amatune.cluster.capacity import Room
from amatune.cluster.job import Images
from amatune.config import DetectorConfig
from amatune.data.problem import Problem
from amatune.files import network_filesystem
from amatune.registry import Method
from amatune.runs.record import RunRecord
from amatune.runs.request import SearchRequest
from amatune.tuning.defaults import defaults, longest
from amatune.tuning.events import (
    Event,
    Listener,
    RetrainUpdate,
    SearchStarted,
    TimeEstimate,
    TrialUpdate,
)
from amatune.tuning.methods import told
from amatune.wording import clock, counted

MEASURED_SECONDS = 5.0  # of training, before anything is said of the rest


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one training takes."""

    epochs: int
    steps_per_epoch: int
    batch: int  # images of a step
    images: int  # that it trains on

    @classmethod
    def of(cls, config: DetectorConfig, images: int) -> "Budget":
        """Of a resolved configuration and so many training images."""
        return cls(
            epochs=config.epochs,
            steps_per_epoch=config.steps_in(images),
            batch=min(config.batch_size, images),
            images=images,
        )

    @property
    def steps(self) -> int:
        """In all epochs together."""
        return self.epochs * self.steps_per_epoch


def warnings_of(
    record: RunRecord, method: Method, config: DetectorConfig, images: np.ndarray
) -> list[str]:
    """Whether a whole trial is much shorter than trainings of the method usually are, and a batch
    not much smaller than all of the training `images` (N, C, H, W)."""
    budget = Budget.of(config, len(images))
    usual = method.detector.usual_steps
    if usual is None:
        return []  # nothing is trained in steps
    found = []
    if config.batch_size > len(images):
        found.append(
            f"batch_size {config.batch_size} is more than the {len(images)} training images: every "
            f"step sees all of them; --fix batch_size={max(2, len(images) // 4)} is a batch"
        )
    if 3 * budget.steps >= usual:
        return found
    passes = record.request.steps is None and config.steps_per_epoch is None
    of_it = (
        f" ({counted(budget.epochs, 'epoch')} of {budget.steps_per_epoch}: batches of "
        f"{budget.batch} from {counted(budget.images, 'image')})"
    )
    told = (
        f"a trial trains for {counted(budget.steps, 'step')}{of_it if passes else ''}, and "
        f"{method.name} learns little in so few: --steps {usual} is usual for it"
    )
    if connection.gpus() == 0:
        minutes = usual * capacity.seconds_per_step(method.detector, config, images) / 60
        told += f", about {max(minutes, 0.1):.1f} minutes a trial on a core of this machine"
    return [*found, told]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much there is to do."""

    budget: Budget  # of each training
    trainings: int  # that are still to be done
    concurrent: int
    may_stop: bool  # whether poor ones are stopped before their end
    time_budget: float | None = None  # seconds for all of them

    def estimate(self, seconds_per_epoch: float) -> TimeEstimate:
        """How long it takes from its beginning when an epoch takes that long."""
        each = self.budget.epochs * seconds_per_epoch
        estimate = TimeEstimate(
            trainings=self.trainings,
            seconds_per_step=seconds_per_epoch / self.budget.steps_per_epoch,
            seconds=math.ceil(self.trainings / self.concurrent) * each,
            at_most=self.may_stop,
            concurrent=self.concurrent,
        )
        if self.time_budget is None or self.time_budget >= estimate.seconds:
            return estimate
        through = int(self.time_budget // each) * self.concurrent
        return replace(estimate, warnings=(self._too_long(through),))

    def _too_long(self, through: int) -> str:
        enough = f"{min(through, self.trainings)} of {counted(self.trainings, 'trial')}"
        limit = f"the time budget of {clock(self.time_budget or 0.0)}"
        if self.may_stop:
            return f"{limit} may not be enough: if none is stopped early, for about {enough}"
        return f"{limit} is enough for about {enough}"


def plan(
    record: RunRecord, config: DetectorConfig, images: Images, room: Room, trials: int
) -> Plan:
    """What a session with so many trials left, all like this configuration, has to do."""
    request = record.request
    return Plan(
        budget=Budget.of(config, len(images.train)),
        trainings=trials,
        concurrent=room.concurrent,
        may_stop=request.scheduler != "none",
        time_budget=request.time_budget,
    )


def started(
    run: Path | None,
    record: RunRecord,
    method: Method,
    problem: Problem,
    images: Images,
    room: Room,
    finished: int,
) -> SearchStarted:
    """What is said of a search before it begins, with so many trials finished before."""
    request = record.request
    budget = Budget.of(longest(record, method), len(images.train))
    return SearchStarted(
        run=run,
        method=request.method,
        problem=problem.describe(),
        trials=request.trials,
        finished=finished,
        epochs=request.epochs,
        steps=budget.steps,
        steps_per_epoch=budget.steps_per_epoch,
        batch=budget.batch,
        training_images=budget.images,
        fixed=record.fixed,
        concurrent=room.concurrent,
        cpus_per_trial=request.cpus_per_trial,
        gpus_per_trial=room.gpus_per_trial,
        validation_normals=len(images.normal),
        validation_anomalies=len(images.anomaly),
        methods=tuple(told(record)),
        warnings=(
            *problem.warnings,
            *method.detector.limits(),
            *room.notes,
            *_unfit_for_sqlite(request, run or Path(request.runs_dir)),
            *itertools.chain.from_iterable(
                warnings_of(record, one, config, images.train)
                for one, config in zip(method.alone(), defaults(record, method), strict=True)
            ),
        ),
    )


def _unfit_for_sqlite(request: SearchRequest, place: Path) -> list[str]:
    kind = network_filesystem(place)
    if kind is None or request.study_storage != "sqlite":
        return []
    return [
        f"{place} is on a network file system ({kind}), where SQLite may lose the study: start the "
        "run with --study-storage journal, or keep --runs-dir on a local disk"
    ]


class Estimating:
    """A listener that passes every event on and, after the first seconds of what was begun, says
    once how long all of it takes."""

    def __init__(self, listener: Listener, now: Callable[[], float] = time.monotonic) -> None:
        self._listener = listener
        self._now = now
        self._plan: Plan | None = None  # until it is told, and once it has said it
        self._seen: dict[object, list[tuple[int, float]]] = {}  # training -> epoch and time, each

    def begin(self, plan: Plan) -> None:
        """The first of these trainings is about to start."""
        self._plan = plan

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        self._listener(event)
        if self._plan is None or not isinstance(event, TrialUpdate | RetrainUpdate):
            return
        if event.state not in ("running", "done"):
            return
        key: object = event.number if isinstance(event, TrialUpdate) else ""
        if isinstance(event, RetrainUpdate):
            key = event.configuration, event.seed
        self._seen.setdefault(key, []).append((event.epoch, self._now()))
        if (seconds := self._seconds_per_epoch()) is not None:
            told, self._plan = self._plan.estimate(seconds), None
            self._listener(told)

    def _seconds_per_epoch(self) -> float | None:
        """Over all trainings together; None until enough was seen. The first epoch of each, in
        which workers start, counts only where it is long."""
        epochs, seconds = 0, 0.0
        for seen in self._seen.values():
            for (before, began), (epoch, ended) in itertools.pairwise(seen):
                if epoch == before + 1 and (before > 0 or ended - began > 4 * MEASURED_SECONDS):
                    epochs, seconds = epochs + 1, seconds + ended - began
        return seconds / epochs if seconds >= MEASURED_SECONDS else None
