"""What a search and a retraining tell whoever is watching.

A listener is any function of one event. Events are frozen values without behaviour, so that the
terminal, a notebook or a test can each show them in its own way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from amatune.results.crossfit import CrossFit
from amatune.results.operating import Guarantee, OperatingPoint

State = Literal["waiting", "running", "done", "pruned", "failed"]


@dataclass(frozen=True, kw_only=True)
class SearchStarted:
    """The cluster is up and the first trial is about to be proposed."""

    run: Path | None  # None: a rehearsal, which leaves no run behind
    method: str
    problem: str  # one line: data set, counts, what the images are brought to
    trials: int  # wanted in total
    finished: int  # of those, finished by an earlier session of the same run
    epochs: int
    steps: int  # of a trial with the default settings, in all epochs together
    steps_per_epoch: int
    batch: int  # images of a step
    training_images: int
    fixed: Mapping[str, Any]  # settings that are the same in all trials
    concurrent: int  # trials at a time
    cpus_per_trial: float
    gpus_per_trial: float
    validation_normals: int  # images that the AUROC is measured on
    validation_anomalies: int
    warnings: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()  # of several methods: what each gets, and why these


@dataclass(frozen=True, kw_only=True)
class TrialUpdate:
    """A trial of the search changed: proposed, started, one epoch further, ended."""

    number: int  # as in the study, from 0; trial 0 is the default configuration
    state: State
    epoch: int  # epochs completed
    epochs: int  # full budget
    auroc: float | None  # validation AUROC of the primary score after `epoch`
    settings: Mapping[str, Any]  # what the space suggested, and what was held fixed
    early: float | None = None  # validation AUROC that it is compared by while it runs
    gpu_bytes: int | None = None  # most that it held on its GPU; None without one, or not known
    # Why it failed, was pruned or waits to be tried again; of one that is done, what its method
    # says against it (`TrainingWarning`).
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class TimeEstimate:
    """The first seconds of training have been measured; told once."""

    trainings: int  # that were still to be done when it began
    seconds_per_step: float  # of one training, scoring included
    seconds: float  # from beginning to end
    at_most: bool  # whether poor trials are stopped early, which makes it less
    concurrent: int = 1  # trainings at a time
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Ctrl-C or SIGTERM came: what runs saves its newest epoch, and then the session ends.

    Told at once, and so by another thread than all other events.
    """

    seconds: float  # it takes at most


@dataclass(frozen=True, kw_only=True)
class SearchEnded:
    """No trial runs any more."""

    run: Path
    ending: Literal["finished", "good enough", "out of time", "interrupted", "disk full"]
    done: int
    pruned: int
    failed: int
    best: int | None  # number of the best full-budget trial
    best_auroc: float | None  # its validation AUROC: a selection figure, biased upwards
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RetrainStarted:
    """The shortlist is made; every configuration of it trains once per seed."""

    run: Path
    configurations: tuple[str, ...]  # "trial-12", ..., "default"
    seeds: tuple[int, ...]
    epochs: int | None  # of each; None: of several methods, each has its own
    finished: int  # trainings finished by an earlier call
    concurrent: int = 0  # trainings at a time; 0 where none is left
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RetrainUpdate:
    """One training of the shortlist changed."""

    configuration: str
    seed: int
    state: State
    epoch: int
    epochs: int
    auroc: float | None  # validation AUROC of the primary score
    gpu_bytes: int | None = None  # as in `TrialUpdate`
    reason: str = ""  # likewise


@dataclass(frozen=True, kw_only=True)
class RetrainEnded:
    """The chosen configuration has its test figures; `best/leaderboard.json` has all of them."""

    run: Path
    chosen: str
    score: str  # name of the score that ranks the images
    test_auroc: float  # mean over the seeds
    test_auroc_low: float  # 95% interval
    test_auroc_high: float
    pixel_auroc: float | None = None  # of the maps, where there are masks; mean over the seeds
    pro: float | None = None  # likewise
    seconds: float
    thresholds: tuple[OperatingPoint, ...] = ()  # of the model that is exported
    guarantee: Guarantee | None = None  # what was demanded of a threshold
    cross_fit: CrossFit | None = None  # of all anomalies, where it was asked for


@dataclass(frozen=True, kw_only=True)
class TestStarted:
    """The choice is made on validation images; the test images are read now, once."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    chosen: str
    models: int  # to be scored


Event = (
    SearchStarted
    | TrialUpdate
    | TimeEstimate
    | Saving
    | SearchEnded
    | RetrainStarted
    | RetrainUpdate
    | TestStarted
    | RetrainEnded
)
Listener = Callable[[Event], None]
