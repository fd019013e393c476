"""What a search and a retraining have in common: trainings that are handed out and taken in, and
tried again when that may help. No Ray in here."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.job import LARGER_SHARE, Failure, Job, Progress
from amatune.config import DetectorConfig
from amatune.runs.request import Objective
from amatune.several import named
from amatune.tuning.events import State


@dataclass(kw_only=True)
class Training:
    """A training that this session runs."""

    name: str  # of its folders
    config: DetectorConfig  # resolved
    settings: dict[str, Any]  # of those, what was searched or held fixed
    seed: int  # of the detector
    epoch: int = 0  # epochs completed, as far as this session knows
    auroc: float | None = None
    early: float | None = None  # what it is compared by
    doubt: str = ""  # what its method says against it, at its end
    gpu_bytes: int | None = None

    def take_in(self, progress: Progress) -> None:
        """It is one epoch further."""
        self.epoch = progress.epoch
        self.auroc = self.auroc if progress.auroc is None else progress.auroc
        self.early = self.early if progress.early is None else progress.early
        self.gpu_bytes = progress.gpu_bytes


T = TypeVar("T", bound=Training)


class Trainings(ABC, Generic[T]):
    """The part of `Work` that is the same for every kind of training.

    Checkpoints are taken up from and deleted at `checkpoints`, event files go below `tensorboard`.
    After the epochs `score_at` the validation images are scored even by a method that seldom does.
    Checkpoints of another run than that of the identity `run_id` are not taken up.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        tensorboard: Path,
        checkpoint_seconds: float,
        objective: Objective,
        score_at: Sequence[int] = (),
        run_id: str = "",
    ) -> None:
        self._checkpoints = checkpoints
        self._tensorboard = tensorboard
        self._checkpoint_seconds = checkpoint_seconds
        self._objective = objective
        self._score_at = tuple(score_at)
        self._run_id = run_id
        self._running: dict[str, T] = {}

    @abstractmethod
    def _next(self) -> T | None:
        """The next training; None when there are no more."""

    @abstractmethod
    def _tries(self, training: T) -> dict[str, int]:
        """How often it was tried again, as `Failure.try_again` keeps it."""

    @abstractmethod
    def _again(self, training: T, tries: dict[str, int]) -> None:
        """It is handed out again, before any other."""

    @abstractmethod
    def _give_up(self, training: T, reason: str) -> None:
        """It has failed."""

    @abstractmethod
    def _update(self, training: T, state: State, reason: str = "") -> None:
        """Tell the listener."""

    def _furthest(self, training: T) -> int:
        """The last epoch that any attempt at it has completed."""
        return training.epoch

    def start(self, key: str) -> Job | None:
        """The next training, known as `key` from now on; None when there are no more."""
        training = self._next()
        if training is None:
            return None
        self._running[key] = training
        self._update(training, "waiting")
        return self._job(training)

    def started(self, key: str) -> None:
        """The training runs now."""
        self._update(self._running[key], "running")

    def fail(self, key: str, failure: Failure) -> None:
        """The training broke; the others go on, and with them this one when that may help."""
        training = self._running.pop(key)
        if failure.kind == "disk":
            return  # it stays unfinished, for a session that has more room
        tries = failure.try_again(self._tries(training), self._furthest(training))
        if tries is not None:
            self._again(training, tries)
            self._update(training, "waiting", f"{failure.reason}; it is tried again")
            return
        self._give_up(training, failure.reason)
        self._checkpoints.delete(training.name)

    def _job(self, training: T) -> Job:
        return Job(
            folder=self._checkpoints.next_folder(training.name),
            config=named(training.config, training.settings),
            settings=training.settings,
            seed=training.seed,
            run=self._run_id,
            tensorboard=str(self._tensorboard / training.name),
            checkpoints=tuple(self._checkpoints.newest_first(training.name)),
            checkpoint_seconds=self._checkpoint_seconds,
            share=LARGER_SHARE if self._tries(training).get("memory") else 1.0,
            objective=self._objective,
            score_at=self._score_at,
        )
