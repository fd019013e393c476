"""The search: Optuna proposes, Ray Tune trains, the study remembers.

One validation AUROC per epoch is all that steers it; no test image is read. The best validation
AUROC of many trials is biased upwards and never a result: `retrain.run_best` makes results.
"""

import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from amatune import registry
from amatune.cluster import connection, execution
from amatune.cluster.checkpoints import Checkpoints, is_trained_at
from amatune.cluster.execution import Ending
from amatune.cluster.job import CHECKPOINT_SECONDS, Images
from amatune.data.problem import Problem
from amatune.data.protocol import LEAST_OF_A_SET, make_problem
from amatune.errors import ClusterLostError, DataError, DiskFullError, RequestError
from amatune.registry import Method, SeveralMethods
from amatune.results.baselines import BaselineFigure
from amatune.results.objective import set_bounds
from amatune.results.scores import has_scores, load_scores, validation_file
from amatune.results.selection import Selection, correct_for_selection
from amatune.runs import RunFolder
from amatune.runs.record import Circumstances, ProblemRecord, RunRecord
from amatune.runs.request import SearchRequest, joining
from amatune.several import AUTO, METHOD
from amatune.tuning import study as studies
from amatune.tuning.allocation import Allocation
from amatune.tuning.baselines import validated_baselines
from amatune.tuning.cost import Estimating, plan, started
from amatune.tuning.defaults import first_decision
from amatune.tuning.events import Event, Listener, Saving, SearchEnded
from amatune.tuning.first_trials import first_trials, known_settings
from amatune.tuning.methods import resumed, settled, side_made_use_of
from amatune.tuning.room import find_room, measured
from amatune.tuning.session import FINISHED, Session
from amatune.tuning.spaces import space_of
from amatune.tuning.stopping import decision_epochs, make_pruner, rungs

__all__ = ["SearchOutcome", "SearchRequest", "run_search"]


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """How a search ended. `best_*` are empty when no trial reached the full budget."""

    run: RunFolder
    ending: Ending
    done: int
    pruned: int
    failed: int
    best_number: int | None
    best_auroc: float | None  # on validation images: a selection figure, biased upwards
    best_settings: dict[str, Any]
    selection: Selection | None  # the best AUROC corrected for having been picked from several
    baselines: tuple[BaselineFigure, ...]  # what needs no detector, on the same validation images

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it; `resume=True` continues it."""
        return self.ending == "interrupted"


def run_search(
    request: SearchRequest,
    listener: Listener | None = None,
    resume: bool = False,
    *,
    first: Sequence[Mapping[str, Any]] = (),
    known: bool = True,
    trust_space: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> SearchOutcome:
    """Search as requested and return when all trials have ended, time is over or on Ctrl-C.

    With `resume` the run `request.name` goes on, or the newest one for None: finished trials stay,
    unfinished ones continue from their newest checkpoint, then new ones follow until there are
    `request.trials` in all. Raises `RequestError` (also its kinds `ConfigError`, `DataError`) for
    what cannot be done, before anything is started; on resuming also when the request differs from
    the saved one in what decides the search. Raises `DiskFullError` when no space is left and
    `ClusterLostError` when Ray's processes die; the run can be continued.

    `first` are settings to try right after the defaults; what they leave out has its default.
    They belong to a new run alone. Without `known`, those that the method is known for are not
    tried after them: for images that these were found on.

    A run whose space is a Python program is continued, and the program run, only with
    `trust_space`: it is the program of whoever started the run. That of a new run comes with the
    request and is run.

    `checkpoint_seconds` is how much of a trial's training a kill may cost.
    """
    emit = listener or _nobody
    method = registry.searched_method(request.method)
    if resume:
        run = RunFolder.open(request.name, request.runs_dir)
        with run.alone():
            record, problem, method = continued(run, request, method, first, trust_space)
            run.write(record)
            return _search(run, record, method, problem, emit, checkpoint_seconds)

    record, problem, method = begun(request, method, first, known)
    run = RunFolder.create(request.runs_dir, request.name, request.problem.dataset)
    with run.alone():
        try:
            problem.list_damaged(run.broken)
            problem.list_copies(run.near_copies)
            record = replace(
                record,
                request=replace(record.request, name=run.name),
                problem=ProblemRecord.from_dict(problem.to_dict()),  # its warnings name the list
            )
            run.write(record)
            return _search(run, record, method, problem, emit, checkpoint_seconds)
        except BaseException as error:
            refused = isinstance(error, RequestError | ClusterLostError | DiskFullError | OSError)
            # Anything else, as Ctrl-C, leaves what can be resumed.
            if _has_started(run) or (run.run_json.exists() and not refused):
                raise
            # No room, no cluster: an empty run would only count as the newest.
            shutil.rmtree(run.path, ignore_errors=True)
            if execution.is_disk_full(error):
                told = f"no space is left for the run {run.path}; free some and call again"
                raise DiskFullError(told) from error
            if isinstance(error, ClusterLostError):
                told = str(error).partition(f"; {KEPT}")[0]
                raise ClusterLostError(f"{told}; nothing was searched: call again") from None
            if isinstance(error, OSError):
                told = f"cannot write to {run.path}: {error.strerror or error}"
                raise RequestError(told) from error
            raise


def begun(
    request: SearchRequest, method: Method, first: Sequence[Mapping[str, Any]], known: bool = True
) -> tuple[RunRecord, Problem, Method]:
    """The record of a new run, its problem, and what `method` became where it was left to `auto`;
    refuses what is impossible, and writes nothing."""
    _require_unused(request)
    asked = request.method
    request = _with_inert_settings_fixed(method, request)
    side = side_made_use_of(request, method)
    problem = make_problem(request.problem, request.data_dir, side)
    held = None
    if isinstance(method, SeveralMethods):
        request, method, first, held = settled(request, method, problem, first)
    _require_sets(request, problem)
    record = RunRecord(
        request=request,
        problem=ProblemRecord.from_dict(problem.to_dict()),
        begun=Circumstances.now(),
        asked=asked if asked == AUTO else "",
        held=held,
    )
    tried, good = first_trials(record, method, first, known)
    return replace(record, first=tried, known=good), problem, method


def _require_unused(request: SearchRequest) -> None:
    """Raise `RequestError` where a run of this name has trained at the storage path: the trials of
    both would lie in one folder."""
    if request.storage_path is None or request.name is None:
        return  # it is a folder of the run's own, or named by the time
    RunFolder.require_free(request.runs_dir, request.name)  # else it may be that very run
    run = RunFolder(Path(request.runs_dir) / request.name)
    if is_trained_at(*(trials_place(run, request, one) for one in ("trials", "best/trials"))):
        place = trials_place(run, request, "").rstrip("/")
        raise RequestError(
            f"{place} holds checkpoints of another run called {request.name!r}; remove that "
            "folder if nobody continues that run, or choose another --name or --storage-path"
        )


def _require_sets(request: SearchRequest, problem: Problem) -> None:
    """Raise `DataError` where the objective is of each set of anomalies, and one has too few."""
    if request.objective == "pooled":
        return
    for name, own in problem.validation_sets().items():
        if (count := own.stop - own.start) < LEAST_OF_A_SET:
            raise DataError(
                f"the objective {request.objective} goes by the AUROC of each set of anomalies; "
                f"{name} has {count} to validate with, at least {LEAST_OF_A_SET} are needed: add "
                "pictures to it, leave it out, or take the objective pooled"
            )


def continued(
    run: RunFolder,
    request: SearchRequest,
    method: Method,
    first: Sequence[Mapping[str, Any]],
    trust_space: bool,
) -> tuple[RunRecord, Problem, Method]:
    """The record of a run that goes on, its problem and its method; likewise."""
    if first:
        raise RequestError(
            "settings to try first belong to a new run; this one is continued as it is"
        )
    _require_study(run)
    record = _reopened(run, _with_inert_settings_fixed(method, request), trust_space)
    method = registry.searched_method(record.request.method)
    return record, record.open_problem(request.data_dir), method


def _with_inert_settings_fixed(method: Method, request: SearchRequest) -> SearchRequest:
    """Hold fixed what labelled anomalies to learn from need, or make meaningless.

    Raises `RequestError` when the method cannot learn from them.
    """
    if not request.problem.anomaly_fraction:
        return request
    if not method.detector.learns_from_anomalies:
        raise RequestError(
            f"{method.name} does not learn from labelled anomalies; leave the anomaly fraction "
            f"at 0, got {request.problem.anomaly_fraction:g}"
        )
    return replace(request, fixed={**method.detector.held_with_anomalies, **request.fixed})


def _require_study(run: RunFolder) -> None:
    """Raise `RequestError` for a run without its study that has trained: a new one would begin
    again, with the numbers of the trials that are there."""
    if not run.study_path.exists() and (run.leaderboard.exists() or any(run.trials.glob("*"))):
        raise RequestError(
            f"the run {run.name!r} has trained trials, and its study at {run.study_path} is gone, "
            "with what they came to: put the file back, or start a new run"
        )


def _has_started(run: RunFolder) -> bool:
    if not run.study_path.exists():
        return False
    return any(trial.state != "waiting" for trial in studies.read_trials(run))


def _search(
    run: RunFolder,
    record: RunRecord,
    method: Method,
    problem: Problem,
    emit: Listener,
    checkpoint_seconds: float,
) -> SearchOutcome:
    try:
        return _run_session(run, record, method, problem, emit, checkpoint_seconds)
    except DiskFullError:
        raise
    except ClusterLostError as lost:
        go_on = _how_to_go_on(run, record.request.address)
        raise ClusterLostError(f"the Ray cluster was lost: {lost}; {go_on}") from None
    except Exception as error:
        if execution.is_disk_full(error):
            raise _no_space(run, error) from error
        raise


KEPT = "what is finished is kept"


def when_to_go_on(address: str | None) -> str:
    """What comes before the command that continues after the loss of a cluster."""
    if address is None:
        return "continue with"
    return "once it is back, or with another --address (local: this machine alone), continue with"


def _how_to_go_on(run: RunFolder, address: str | None) -> str:
    command = ["amatune", "search", "--resume", "--name", run.name]
    command += ["--runs-dir", str(run.path.parent), *joining(address)]
    return f"{KEPT}; {when_to_go_on(address)}: {shlex.join(command)}"


def _no_space(run: RunFolder, error: Exception) -> DiskFullError:
    return DiskFullError(
        f"no space is left on a disk that the run {run.name!r} writes to ({_last_line(error)}); "
        f"free some and continue with --resume --name {run.name}"
    )


def _last_line(error: Exception) -> str:
    """Of an error that Tune raised, the one it came from: Tune's text is a whole traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _run_session(
    run: RunFolder,
    record: RunRecord,
    method: Method,
    problem: Problem,
    listener: Listener,
    checkpoint_seconds: float,
) -> SearchOutcome:
    began = time.monotonic()
    emit = Estimating(listener)
    request = record.request
    images = Images.of(problem)
    study = _study(run, record, method, images)
    place = trials_place(run, request)
    session = Session(
        study,
        request,
        run,
        Checkpoints(place),
        space_of(method, request.space),
        partial(record.configuration, method),
        emit,
        checkpoint_seconds,
        run.event_files(request.storage_path),
        decision_epochs(request.scheduler, request.epochs, first_decision(record, method)),
        method.detector.early_score,
        _allocation(record, method, images),
        record.held,
        record.identity,
    )
    ending: Ending = "finished"
    if session.left > 0 and not session.is_satisfied:
        go_on = _how_to_go_on(run, request.address)
        with connection.cluster(request.address, run.log, go_on):
            before, record = record, measured(record, method, images.train)
            if record != before:
                run.write(record)
            found = find_room(record, method)
            session.gpus_per_trial = found.gpus_per_trial
            finished = session.count(*FINISHED)
            emit(started(run.path, record, method, problem, images, found, finished))
            if not isinstance(method, SeveralMethods):  # whose trials have nothing in common
                default = record.configuration(method, record.fixed)
                emit.begin(plan(record, default, images, found, session.left))
            ending = execution.execute(
                session,
                trainable=method.trainable_class(),
                images=images,
                cpus_per_trial=request.cpus_per_trial,
                **found.for_execution,
                place=place,
                halt=execution.Halt(
                    request.time_budget,
                    saving=lambda: emit(Saving(seconds=execution.SAVING_SECONDS)),
                ),
            )
    session.close()
    if ending == "finished" and session.left > 0 and session.is_satisfied:
        ending = "good enough"
    baselines = validated_baselines(run, request, images)
    outcome = _outcome(run, request, problem, study, ending, baselines)
    emit(
        SearchEnded(
            run=run.path,
            ending=ending,
            done=outcome.done,
            pruned=outcome.pruned,
            failed=outcome.failed,
            best=outcome.best_number,
            best_auroc=outcome.best_auroc,
            seconds=time.monotonic() - began,
        )
    )
    if ending == "disk full":
        raise _no_space(run, OSError(f"trials write to {place}"))
    return outcome


def trials_place(run: RunFolder, request: SearchRequest, inside: str = "trials") -> str:
    """Where Ray Tune keeps its files: a folder inside the run's, there or at the storage path."""
    if request.storage_path is None:
        return str(run.path / inside)
    return f"{request.storage_path.rstrip('/')}/{run.name}/{inside}"


def _allocation(record: RunRecord, method: Method, images: Images) -> Allocation | None:
    if not isinstance(method, SeveralMethods):
        return None
    epochs = record.request.epochs
    rung = next(iter(rungs(epochs, first_decision(record, method))), epochs)
    known = known_settings(record, method)
    return Allocation(
        tuple(method.members),
        rung,
        _sides(record.request, images),
        {name: [one for one in known if one[METHOD] == name] for name in method.members},
    )


def _sides(request: SearchRequest, images: Images) -> tuple[int, int]:
    """The validation anomalies and normal images behind an AUROC."""
    anomalies = len(images.anomaly)
    if request.objective == "worst":  # the AUROC of one set
        anomalies = int(min(np.diff(images.bounds)))
    return anomalies, len(images.normal)


def _study(run: RunFolder, record: RunRecord, method: Method, images: Images) -> optuna.Study:
    """The run's study."""
    request = record.request
    grace, sides = first_decision(record, method), _sides(request, images)
    pruner = make_pruner(request.scheduler, request.epochs, grace, sides)
    # Also when resuming: the session before may have been killed before it came to this.
    if not run.study_path.exists():
        studies.create_study(run, record.first, request.study_storage)
    studies.take_over(run)
    return studies.open_study(run, pruner)


def _reopened(run: RunFolder, request: SearchRequest, trust_space: bool) -> RunRecord:
    """The record of a continued run, with a session for this request; nothing is written.

    Raises `RequestError` when the request differs from the saved one in what decides the search,
    and when the run brings a program that is not trusted.
    """
    record = run.record()
    request = resumed(record, request)
    differences = record.request.differences(request)
    if differences:
        raise RequestError(
            f"the run {run.name!r} cannot be continued with another request: "
            f"{'; '.join(differences)}. Leave these as they were, or start a new run; more trials "
            "and another time budget are possible"
        )
    if record.request.brings_a_program and not trust_space:
        raise RequestError(
            f"the search space of the run {run.name!r} is a Python program, which continuing it "
            f"would run on this machine; if you trust whoever started the run, or have read the "
            f"program in {run.run_json}, continue with --trust-space (in Python: trust_space=True)"
        )
    return record.continue_with(replace(request, name=run.name))


def selection(
    run: RunFolder, request: SearchRequest, problem: Problem, study: optuna.Study
) -> Selection | None:
    """The search's best validation AUROC, corrected for its having been picked.

    None before a trial has reached the full budget.
    """
    scores = []
    for trial in studies.full_trials(study):
        file = validation_file(run, trial.number)
        if studies.PRIMARY in trial.user_attrs and has_scores(file):
            by_name = load_scores(file)
            chosen = trial.user_attrs[studies.CONFIG].get("score") == "auto"
            names = by_name if chosen else [trial.user_attrs[studies.PRIMARY]]
            scores.append([by_name[name] for name in names if name in by_name])
    if not scores:
        return None
    bounds = set_bounds(problem.validation_sets())
    return correct_for_selection(
        scores,
        bounds,
        request.objective,
        seed=request.seed,
        groups=problem.groups("validation"),
    )


def _outcome(
    run: RunFolder,
    request: SearchRequest,
    problem: Problem,
    study: optuna.Study,
    ending: Ending,
    baselines: Sequence[BaselineFigure],
) -> SearchOutcome:
    trials = study.get_trials(deepcopy=False)
    states = [trial.state for trial in trials]
    best = next(iter(studies.full_trials(study)), None)
    return SearchOutcome(
        run=run,
        ending=ending,
        done=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
        failed=states.count(TrialState.FAIL),
        best_number=best.number if best else None,
        best_auroc=best.value if best else None,
        best_settings=best.user_attrs[studies.SETTINGS] if best else {},
        selection=selection(run, request, problem, study),
        baselines=tuple(baselines),
    )


def _nobody(_event: Event) -> None:
    pass
