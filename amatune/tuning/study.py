"""The Optuna study of a run: one SQLite file that knows every trial.

Sampler, pruner and `--resume` all work from it alone. It has one writer, the process that searches;
any number may read. SQLite must lie on a local disk, not on NFS.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from amatune.errors import RequestError
from amatune.results.effort import Effort
from amatune.runs import RunFolder
from amatune.tuning.events import State, TrialUpdate

# Keys of a trial's user attributes.
SETTINGS = "settings"  # what was suggested and what was held fixed
CONFIG = "config"  # the whole resolved configuration
REASON = "reason"  # why it failed or was pruned
PRIMARY = "primary score"  # name of the score that ranks the images; of a trial with all epochs
TRIES = "tries"  # how often it was taken up again, as `Failure.try_again` keeps it
STOPPED = "stopped"  # epoch at which it was decided that it does not go on
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
    epochs = run.record().request.epochs
    return [trial_update(t, epochs) for t in open_study(run).get_trials(deepcopy=False)]


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
        epochs=sum(max(trial.intermediate_values, default=0) for trial in trials),
        hours=sum(cost.get("seconds", 0.0) for cost in costs) / 3600,
        gpu_hours=sum(cost.get("gpu_seconds", 0.0) for cost in costs) / 3600,
    )


def full_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that reached the full budget, best validation AUROC first, then by number."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda t: (-(t.value or 0.0), t.number))
