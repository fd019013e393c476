"""The Optuna study of a run: one file that knows every trial.

Sampler, pruner and `--resume` all work from it alone. It has one writer, the process that searches;
any number may read. SQLite is for local disks; on NFS, whose locks it cannot rely on, the file is a
journal: one JSON object per line, for each change, appended under a lock that is a file.
"""

import os
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from amatune.errors import RequestError
from amatune.fields import fits
from amatune.results.effort import Effort
from amatune.runs import RunFolder
from amatune.runs.request import StudyStorage
from amatune.tuning.events import State, TrialUpdate

LOCK_SECONDS = 60.0  # until a study that another process holds counts as locked
METRIC = "validation AUROC"  # of the study's one value

# Keys of a trial's user attributes.
SETTINGS = "settings"  # what was suggested and what was held fixed
CONFIG = "config"  # the whole resolved configuration
REASON = "reason"  # why it failed or was pruned, or what its method says against it
PRIMARY = "primary score"  # name of the score that ranks the images; of a trial with all epochs
TRIES = "tries"  # how often it was taken up again, as `Failure.try_again` keeps it
EARLY = "early"  # {epoch: validation AUROC that it is compared by while it runs}
GRACE = "grace"  # epochs in which it is not stopped: its warm-up
STOPPED = "stopped"  # epoch at which it was decided that it does not go on
GOES_ON = "goes on"  # newest epoch at which it was decided that it does
COST = "cost"  # {"seconds": of training, all attempts together, "gpu_seconds": those by share}

STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def create_study(
    run: RunFolder, first: Sequence[Mapping[str, Any]], kind: StudyStorage = "sqlite"
) -> None:
    """Make the run's study, named like the run; validation AUROC is maximised.

    The first trials will be those with the settings `first`, in this order. The file appears whole
    or not at all.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    temporary = run.path / f".study-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    database = kind == "sqlite"
    storage = _database(temporary, new=True) if database else _journal(temporary)
    study = optuna.create_study(study_name=run.name, storage=storage, direction="maximize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([METRIC])  # what optuna-dashboard shows in place of "Objective 0"
    for settings in first:
        study.enqueue_trial(dict(settings))
    if isinstance(storage, optuna.storages.RDBStorage):
        storage.engine.dispose()
    os.replace(temporary, run.database if database else run.journal)


def take_over(run: RunFolder) -> None:
    """Undo what a killed writer has left of a journal: its lock, and a line that it did not finish.

    For the one process that works on the run (`RunFolder.alone`). SQLite does this by itself.
    """
    if run.study_path != run.journal or not run.journal.is_file():
        return
    _lock_file(run.journal).unlink(missing_ok=True)
    written = run.journal.read_bytes()
    whole = written.rfind(b"\n") + 1
    if whole < len(written):
        os.truncate(run.journal, whole)


class _OneWriter(JournalFileBackend):
    """A journal in which a line that found no room leaves no part of itself: the next one would be
    appended to it, and neither could be read."""

    def __init__(self, file: Path) -> None:
        super().__init__(str(file), lock_obj=JournalFileOpenLock(str(file)))
        self._file = file

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append a line for each."""
        size = self._file.stat().st_size
        try:
            super().append_logs(logs)
        except OSError:
            os.truncate(self._file, size)
            raise


def _journal(file: Path) -> optuna.storages.JournalStorage:
    """The storage of a journal. Optuna reads each line as JSON; snapshots, which are pickles, are
    for backends that keep them, and a file keeps none."""
    return optuna.storages.JournalStorage(_OneWriter(file))


def _lock_file(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}.lock")


def _database(file: Path, *, new: bool = False) -> optuna.storages.RDBStorage:
    # A reader (a dashboard, `amatune status`) may hold the lock for a moment. Threads share the
    # connections, as where SQLAlchemy makes them.
    connect = partial(sqlite3.connect, file, timeout=LOCK_SECONDS, check_same_thread=False)
    return optuna.storages.RDBStorage(
        # Of the address the kind alone counts: in one, the `?`, `%` and `{` of a path are signs.
        f"sqlite:///{file.name}",
        engine_kwargs={"creator": connect},
        skip_table_creation=not new,
    )


def open_study(run: RunFolder, pruner: optuna.pruners.BasePruner | None = None) -> optuna.Study:
    """The study of an existing run. Raises `RequestError` when there is none or it is damaged."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = run.study_path
    if not file.is_file():
        raise RequestError(f"the run {run.name!r} has no study at {file}")
    if file == run.database and run.journal.exists():
        raise RequestError(
            f"the run {run.name!r} has two studies, {file} and {run.journal}; move one away"
        )
    try:
        storage = _database(file) if file == run.database else _journal(file)
        names = optuna.get_all_study_names(storage)
        if len(names) != 1:
            raise RequestError(f"it must hold one study, it holds {len(names)}")
        # Not by the run's name: a run folder may have been renamed.
        study = optuna.load_study(study_name=names[0], storage=storage, pruner=pruner)
        if study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
            raise RequestError("its study must maximise one value")
        for trial in study.get_trials(deepcopy=False):
            _check(trial)
        return study
    except Exception as error:  # SQLAlchemy and Optuna each have their own families of errors
        told, way_out = _reason(error), "put back the file as the search wrote it, or search anew"
        if "locked" in told:
            way_out = "another program holds it: wait for that, or end it"
        raise RequestError(f"{file} cannot be read as a study: {told:.200}; {way_out}") from error


def _reason(error: BaseException) -> str:
    """Of the error that all came from, in one line: what wraps it says less."""
    while (cause := error.__cause__) is not None:
        error = cause
    return str(error).partition("\n")[0] or type(error).__name__


def _check(trial: FrozenTrial) -> None:
    """Raise `RequestError` when what the study holds of a trial is not what was written."""
    kinds: dict[str, type] = {
        **dict.fromkeys((SETTINGS, CONFIG, TRIES, COST, EARLY), Mapping),
        **dict.fromkeys((REASON, PRIMARY), str),
        **dict.fromkeys((GRACE, STOPPED, GOES_ON), int),
    }
    for name, kind in kinds.items():
        if name in trial.user_attrs and not isinstance(trial.user_attrs[name], kind):
            found = f"{trial.user_attrs[name]!r:.80}"
            raise RequestError(f"of trial {trial.number} {name} is {found}")
    if trial.state == TrialState.COMPLETE:
        for name in (SETTINGS, CONFIG):
            if name not in trial.user_attrs:
                raise RequestError(f"of trial {trial.number} {name} is not there")
    for name in (COST, TRIES, EARLY):
        for value in trial.user_attrs.get(name, {}).values():
            if not fits(value, float):
                raise RequestError(f"of trial {trial.number} {name} is {value!r:.80}")
    aurocs = [
        *trial.intermediate_values.values(),
        *trial.user_attrs.get(EARLY, {}).values(),
        *([] if trial.value is None else [trial.value]),
    ]
    if not all(0 <= one <= 1 for one in aurocs) or any(e < 1 for e in trial.intermediate_values):
        raise RequestError(f"of trial {trial.number} an AUROC is not in [0, 1], or has no epoch")


def trial_update(trial: FrozenTrial, epochs: int) -> TrialUpdate:
    """A trial of the study as an event."""
    values = trial.intermediate_values
    epoch = max(values, default=0)
    return TrialUpdate(
        number=trial.number,
        state=STATES[trial.state],
        epoch=epoch,
        epochs=trial.user_attrs.get(CONFIG, {}).get("epochs", epochs),
        auroc=values.get(epoch),
        early=early_figure(trial, epoch),
        settings=trial.user_attrs.get(SETTINGS, trial.params),
        reason=trial.user_attrs.get(REASON, ""),
    )


def early_figure(trial: FrozenTrial | optuna.Trial, epoch: int) -> float | None:
    """The validation AUROC that the trial is compared by after an epoch; None when not known."""
    found: float | None = trial.user_attrs.get(EARLY, {}).get(str(epoch))
    return found


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
