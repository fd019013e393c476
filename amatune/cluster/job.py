"""One training, as it is handed to a worker, and who wants its results."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np

from amatune.data.problem import Problem
from amatune.results.objective import Objective, set_bounds
from amatune.stored import StoredDetector

CALIBRATION_IMAGES = 1024  # training images scored after each epoch; after the last one, all
CHECKPOINT_SECONDS = 60.0  # of training lost at most when a worker or the driver is killed


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training from its first or a saved epoch to the last of its configuration."""

    folder: str  # name of its folder among Ray Tune's trials, unique
    config: dict[str, Any]  # of the detector, whole and resolved
    settings: dict[str, Any]  # of those, what was searched or held fixed, for HParams
    seed: int  # of the detector
    run: str = ""  # that it belongs to: `RunRecord.identity`
    tensorboard: str  # folder for event files
    checkpoints: tuple[str, ...] = ()  # to start from: the first of them that can be read
    checkpoint_seconds: float = CHECKPOINT_SECONDS  # between two checkpoints
    share: float = 1.0  # of the machine, in multiples of a training's ordinary share
    objective: Objective = "pooled"  # over the sets of the validation anomalies
    keep_model: bool = False  # whether the trained detector is wanted
    score_at: tuple[int, ...] = ()  # epochs that are scored, whatever `score_every` says

    @property
    def training(self) -> str:
        """Names what is trained: the same for the same run, configuration and seed."""
        text = json.dumps([self.run, self.config, self.seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for Tune's trial configuration."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Images:
    """What a training sees, uint8 (N, C, H, W) each. Never a test image."""

    train: np.ndarray
    normal: np.ndarray  # validation
    anomaly: np.ndarray  # validation
    labelled: np.ndarray  # anomalies to learn from; usually none
    bounds: np.ndarray  # (S + 1,): set i of the validation anomalies is bounds[i] to bounds[i + 1]

    @classmethod
    def of(cls, problem: Problem) -> Self:
        """The images of a problem that are not for the test."""
        normal, anomaly = problem.validation_images()
        return cls(
            train=problem.train_images(),
            normal=normal,
            anomaly=anomaly,
            labelled=problem.train_anomalies(),
            bounds=set_bounds(problem.validation_sets()),
        )

    def to_dict(self) -> dict[str, np.ndarray]:
        """By name, for the object store."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training leaves behind at its last epoch."""

    scores: dict[str, dict[str, np.ndarray]]  # score name -> {"normal", "anomaly"} -> (N,)
    primary: str  # name of the score that ranks the images
    model: StoredDetector | None  # the detector, when the job wants it
    warnings: tuple[str, ...] = ()  # what its method says against it: `TrainingWarning`


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training is after an epoch."""

    epoch: int  # epochs completed
    auroc: float | None  # validation; None after an epoch that was not scored
    early: float | None = None  # validation AUROC by which trainings are compared before they end
    gpu_bytes: int | None = None  # most that it held on its GPU; None without one


Kind = Literal["broken", "memory", "lost", "disk"]

# How often a training is taken up again from its newest checkpoint, by what ended it: out of memory
# with a larger share; a worker or machine that died as often as it gets further, and a few times
# where it does not. A disk that is full ends the session and no training.
RETRIES: Mapping[Kind, int] = {"memory": 1, "lost": 3}
LARGER_SHARE = 2.0  # of the machine, after running out of memory


@dataclass(frozen=True)
class Failure:
    """Why a training broke."""

    reason: str
    kind: Kind = "broken"

    def try_again(self, tries: Mapping[str, int], epoch: int) -> dict[str, int] | None:
        """The record of tries after this one, or None when the training is given up.

        `tries` is the record so far, by kind of failure, and `epoch` the furthest that the training
        has come.
        """
        before = tries.get("epoch", 0)
        lost = 0 if epoch > before else tries.get("lost", 0)
        counts = {"memory": tries.get("memory", 0), "lost": lost, "epoch": max(epoch, before)}
        if counts.get(self.kind, 0) >= RETRIES.get(self.kind, 0):
            return None
        return {**counts, self.kind: counts[self.kind] + 1}


class Work(Protocol):
    """Hands out jobs and takes in what becomes of them; `key` names a job while it runs."""

    def start(self, key: str) -> Job | None:
        """The next job; None when there are no more."""

    def started(self, key: str) -> None:
        """A worker has taken the job up."""

    def report(self, key: str, progress: Progress) -> bool:
        """An epoch is over that is not the last; True stops the job here."""
        ...

    def keep(self, key: str, trained: Trained) -> None:
        """The last epoch is over; called before `finish`."""

    def finish(self, key: str, progress: Progress) -> None:
        """The job has ended."""

    def fail(self, key: str, failure: Failure) -> None:
        """The job broke; `start` may hand it out again."""
