"""The Optuna study of a run: one SQLite file that knows every trial.

Sampler, pruner and `--resume` all work from it alone. It has one writer, the process that searches;
any number may read. SQLite must lie on a local disk, not on NFS.
"""

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from amatune.config import DetectorConfig
from amatune.errors import RequestError
from amatune.runs import RunFolder
from amatune.tuning.events import State, TrialUpdate
from amatune.tuning.request import Sampler, Scheduler
from amatune.tuning.seeds import derive_seed

Space = Callable[[Any], dict[str, Any]]

REDUCTION = 3  # of the trials that reach a rung, about one in REDUCTION goes on
STARTUP_TRIALS = 10  # proposed at random before TPE has something to learn from
# With TPE every so many-th trial is random all the same, as in BOHB (Falkner et al. 2018, there
# every third): what is learnt from few and noisy trainings may be wrong, and where poor trials are
# stopped early a random one costs little. benchmarks/efficiency.py compares.
EXPLORE_EVERY = 2

# Keys of a trial's user attributes.
SETTINGS = "settings"  # what was suggested and what was held fixed
CONFIG = "config"  # the whole resolved configuration
REASON = "reason"  # why it failed or was pruned
PRIMARY = "primary score"  # name of the score that ranks the images; of a trial with all epochs
TRIES = "tries"  # how often it was taken up again, as `Failure.try_again` keeps it
STOPPED = "stopped"  # epoch at which it was decided that it does not go on
WARM_UP = "warm-up"  # which warm-up it begins with: that of all trials with the same value
SHARED = "shared epochs"  # of that warm-up, trained by another trial
COST = "cost"  # {"seconds": of training, all attempts together, "gpu_seconds": those by share}

STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def create_study(run: RunFolder, first: Sequence[Mapping[str, Any]]) -> None:
    """Make the run's study, named like the run; validation AUROC is maximised.

    The first trials will be those with the settings `first`, in this order. The file appears whole
    or not at all.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    temporary = run.path / f".study-{os.getpid()}.db"
    temporary.unlink(missing_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{temporary}")
    study = optuna.create_study(study_name=run.name, storage=storage, direction="maximize")
    for settings in first:
        study.enqueue_trial(dict(settings))
    storage.engine.dispose()
    os.replace(temporary, run.study_path)


def open_study(run: RunFolder, pruner: optuna.pruners.BasePruner | None = None) -> optuna.Study:
    """The study of an existing run. Raises `RequestError` when there is none or it is damaged."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not run.study_path.is_file():
        raise RequestError(f"the run {run.name!r} has no study at {run.study_path}")
    try:
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{run.study_path}",
            # A reader (a dashboard, `amatune status`) may hold the lock for a moment.
            engine_kwargs={"connect_args": {"timeout": 60}},
            skip_table_creation=True,
        )
        names = optuna.get_all_study_names(storage)
        if len(names) != 1:
            raise RequestError(
                f"{run.study_path} must hold one study, it holds {len(names)}: {', '.join(names)}"
            )
        # Not by the run's name: a run folder may have been renamed.
        return optuna.load_study(study_name=names[0], storage=storage, pruner=pruner)
    except RequestError:
        raise
    except Exception as error:  # SQLAlchemy and Optuna each have their own families of errors
        first_line = str(error).partition("\n")[0]
        raise RequestError(f"{run.study_path} cannot be read as a study: {first_line}") from error


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without Optuna's messages about studies made and trials begun."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def random_trials(count: int) -> Iterator[optuna.Trial]:
    """Trials of no run, to try a space out: the same random ones each time."""
    with quiet_optuna():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(count):
            yield study.ask()


def make_sampler(kind: Sampler, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler that proposes trial `number`.

    Each trial gets its own, seeded by its number, so that a proposal depends on the seed, the
    number and the study's trials alone: a continued search goes on as if it had never stopped.
    """
    own_seed = derive_seed(seed, "proposal", number)
    at_random = optuna.samplers.RandomSampler(seed=own_seed)
    explores = kind == "tpe" and number % EXPLORE_EVERY == EXPLORE_EVERY - 1
    if kind == "random" or explores:
        return at_random
    with warnings.catch_warnings():
        # Experimental is also TPE's group, which keeps it multivariate in a space with an `if`.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if kind == "gp":
            return optuna.samplers.GPSampler(
                seed=own_seed,
                n_startup_trials=STARTUP_TRIALS,
                independent_sampler=at_random,
                warn_independent_sampling=False,
            )
        if kind == "qmc":
            # One sequence for the whole search; the study counts how far it has come.
            return optuna.samplers.QMCSampler(
                scramble=True,
                seed=derive_seed(seed, "sequence", 0) % 2**32,
                independent_sampler=at_random,
                warn_asynchronous_seeding=False,
                warn_independent_sampling=False,
            )
        return optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            group=True,
            constant_liar=True,
            seed=own_seed,
        )


def rungs(epochs: int, grace: int) -> list[int]:
    """Epochs at which poor trials are stopped, rising; empty when the budget is too short.

    At a ninth and a third of the budget, or at a third alone, or at `grace` alone where a quarter
    of the budget can be saved; never before `grace` epochs. A ninth must be as far behind the
    warm-up as that is long: in replays, rungs just behind it stopped what would have been best in
    nine of ten searches (benchmarks/efficiency.py --rungs).
    """
    early, late = math.ceil(epochs / REDUCTION**2), math.ceil(epochs / REDUCTION)
    if early >= 2 * grace - 1:
        return [rung for rung in (early, early * REDUCTION) if rung < epochs]
    if late >= grace:
        return [late]
    return [grace] if 4 * grace <= 3 * epochs else []


def make_pruner(kind: Scheduler, epochs: int, grace: int) -> optuna.pruners.BasePruner:
    """What stops poor trials, comparing at equal epochs, never before `grace` epochs.

    asha: asynchronous successive halving with these `rungs`. hyperband: the same with several
    first rungs, each for its share of the trials. median: below the median of the trials before,
    at any epoch.
    """
    levels = rungs(epochs, grace)
    if not levels or kind == "none":
        return optuna.pruners.NopPruner()
    if kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=grace)
    if kind == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=levels[0], max_resource=epochs, reduction_factor=REDUCTION
        )
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=levels[0], reduction_factor=REDUCTION
    )


class HeldFixed:
    """An Optuna trial for a space in which some names are not searched.

    They take their fixed value, also in the space's conditions, and never reach the study's
    parameters, so that the sampler does not model what does not vary.
    """

    def __init__(self, trial: Any, fixed: Mapping[str, Any]) -> None:
        self._trial = trial
        self._fixed = fixed

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> Any:
        """Like `optuna.Trial.suggest_float`."""
        return self._value("suggest_float", name, low, high, **options)

    def suggest_int(self, name: str, low: int, high: int, **options: Any) -> Any:
        """Like `optuna.Trial.suggest_int`."""
        return self._value("suggest_int", name, low, high, **options)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Like `optuna.Trial.suggest_categorical`."""
        return self._value("suggest_categorical", name, choices)

    def _value(self, kind: str, name: str, *rule: Any, **options: Any) -> Any:
        if name in self._fixed:
            return self._fixed[name]
        return getattr(self._trial, kind)(name, *rule, **options)


class _Defaults:
    """Stands in for an Optuna trial and answers with a configuration's own values."""

    def __init__(self, config: DetectorConfig) -> None:
        self._config = config

    def _value(self, name: str, *_rule: Any, **_options: Any) -> Any:
        return getattr(self._config, name)

    suggest_float = suggest_int = suggest_categorical = _value


def default_settings(
    space: Space, config: DetectorConfig, fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of `config` that the space would search, and the fixed ones.

    `config` is the resolved default configuration with the fixed values already in it.
    """
    return {**space(HeldFixed(_Defaults(config), fixed)), **fixed}


def trial_update(trial: FrozenTrial, epochs: int) -> TrialUpdate:
    """A trial of the study as an event."""
    values = trial.intermediate_values
    epoch = max(values, default=0)
    return TrialUpdate(
        number=trial.number,
        state=STATES[trial.state],
        epoch=epoch,
        epochs=epochs,
        auroc=values.get(epoch),
        settings=trial.user_attrs.get(SETTINGS, trial.params),
        reason=trial.user_attrs.get(REASON, ""),
    )


def read_trials(run: RunFolder) -> list[TrialUpdate]:
    """Every trial of a run, by number; the search may be going on meanwhile."""
    epochs = run.read()["request"]["epochs"]
    return [trial_update(t, epochs) for t in open_study(run).get_trials(deepcopy=False)]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a search has taken so far, over all sessions."""

    trials: int  # that have ended
    done: int
    pruned: int
    failed: int
    epochs: int  # trained, without those of warm-ups that other trials had trained
    hours: float  # of training, added up over trials that ran at the same time
    gpu_hours: float  # of those, by share of a GPU


def effort(study: optuna.Study) -> Effort:
    """What the trials of a study have taken."""
    trials = study.get_trials(deepcopy=False)
    states = [trial.state for trial in trials]
    counts = [states.count(s) for s in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)]
    costs = [trial.user_attrs.get(COST, {}) for trial in trials]
    return Effort(
        trials=sum(counts),
        done=counts[0],
        pruned=counts[1],
        failed=counts[2],
        epochs=sum(
            max(trial.intermediate_values, default=0) - trial.user_attrs.get(SHARED, 0)
            for trial in trials
        ),
        hours=sum(cost.get("seconds", 0.0) for cost in costs) / 3600,
        gpu_hours=sum(cost.get("gpu_seconds", 0.0) for cost in costs) / 3600,
    )


def full_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that reached the full budget, best validation AUROC first, then by number."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda t: (-(t.value or 0.0), t.number))
