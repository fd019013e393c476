"""One training, as it is handed to a worker, and who wants its results."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from amatune.data.protocol import Problem
from amatune.tuning.objective import Objective, set_bounds

CHECKPOINT_SECONDS = 60.0  # of training lost at most when a worker or the driver is killed


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training from its first or a saved epoch to the last of its configuration."""

    folder: str  # name of its folder among Ray Tune's trials, unique
    config: dict[str, Any]  # of the detector, whole and resolved
    settings: dict[str, Any]  # of those, what was searched or held fixed, for HParams
    seed: int  # of the detector
    tensorboard: str  # folder for event files
    checkpoints: tuple[str, ...] = ()  # to start from: the first of them that can be read
    checkpoint_seconds: float = CHECKPOINT_SECONDS  # between two checkpoints
    objective: Objective = "pooled"  # over the sets of the validation anomalies
    keep_model: bool = False  # whether the trained detector is wanted

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
    model: dict[str, Any] | None  # the detector's `inference_state`, when the job wants it


class Work(Protocol):
    """Hands out jobs and takes in what becomes of them; `key` names a job while it runs."""

    def start(self, key: str) -> Job | None:
        """The next job; None when there are no more."""

    def started(self, key: str) -> None:
        """A worker has taken the job up."""

    def report(self, key: str, epoch: int, auroc: float) -> bool:
        """An epoch is over that is not the last; True stops the job here."""
        ...

    def keep(self, key: str, trained: Trained) -> None:
        """The last epoch is over; called before `finish`."""

    def finish(self, key: str, epoch: int, auroc: float) -> None:
        """The job has ended after `epoch`."""

    def fail(self, key: str, reason: str) -> None:
        """The job broke."""
