"""The search: Optuna proposes, Ray Tune trains, the study remembers.

One validation AUROC per epoch is all that steers it; no test image is read. The best validation
AUROC of many trials is biased upwards and never a result: `retrain.run_best` makes results.
"""

import dataclasses
import importlib.metadata
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

import amatune
from amatune import registry
from amatune.cluster import capacity, connection, execution
from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.execution import Ending
from amatune.cluster.job import CHECKPOINT_SECONDS, Images
from amatune.config import DetectorConfig, ImageShape
from amatune.data.problem import Problem
from amatune.data.protocol import make_problem
from amatune.detector import Detector
from amatune.errors import DiskFullError, RequestError
from amatune.results.objective import set_bounds
from amatune.results.scores import load_scores
from amatune.results.selection import Selection, correct_for_selection
from amatune.runs import RunFolder
from amatune.tuning import study as studies
from amatune.tuning.events import Event, Listener, SearchEnded, SearchStarted
from amatune.tuning.request import SearchRequest
from amatune.tuning.session import FINISHED, Session, validation_file
from amatune.tuning.spaces import check_space, settings_to_try, space_of
from amatune.tuning.warmups import warm_up_name, warm_ups_repeat

__all__ = ["SearchOutcome", "SearchRequest", "run_search", "saved_request"]

SCHEMA = 1  # of run.json


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
    shared_epochs: int  # not trained, since another trial had trained the same warm-up

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it; `resume=True` continues it."""
        return self.ending == "interrupted"


def saved_request(run: RunFolder) -> SearchRequest:
    """What a run was asked to do."""
    return SearchRequest.from_dict(run.read()["request"])


def run_search(
    request: SearchRequest,
    listener: Listener | None = None,
    resume: bool = False,
    *,
    first: Sequence[Mapping[str, Any]] = (),
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> SearchOutcome:
    """Search as requested and return when all trials have ended, time is over or on Ctrl-C.

    With `resume` the run `request.name` goes on, or the newest one for None: finished trials stay,
    unfinished ones continue from their newest checkpoint, then new ones follow until there are
    `request.trials` in all. Raises `RequestError` (also its kinds `ConfigError`, `DataError`) for
    what cannot be done, before anything is started; on resuming also when the request differs from
    the saved one in what decides the search. Raises `DiskFullError` when no space is left; the run
    can be continued.

    `first` are settings to try right after the defaults; what they leave out has its default.
    They belong to a new run alone.

    `checkpoint_seconds` is how much of a trial's training a kill may cost.
    """
    emit = listener or _nobody
    request = _with_inert_settings_fixed(request)
    if resume:
        if first:
            raise RequestError(
                "settings to try first belong to a new run; this one is continued as it is"
            )
        run = RunFolder.open(request.name, request.runs_dir)
        with run.alone():
            problem = _reopen(run, request)
            return _search(run, request, problem, emit, checkpoint_seconds)

    problem = make_problem(request.problem, request.data_dir)
    start = _first_trials(request, problem.image_shape, first)  # refuses what is impossible
    run = RunFolder.create(request.runs_dir, request.name, request.problem.dataset)
    with run.alone():
        request = replace(request, name=run.name)
        problem.list_damaged(run.broken)
        run.write(
            {
                "schema": SCHEMA,
                "request": request.to_dict(),
                "method": request.method,
                "seed": request.seed,
                "problem": problem.to_dict(),
                "first": start,
                **_circumstances(),
                "continued": [],
            }
        )
        try:
            return _search(run, request, problem, emit, checkpoint_seconds)
        except RequestError:
            # No room, no cluster: an empty run would only count as the newest.
            if not _has_started(run):
                shutil.rmtree(run.path)
            raise


def _with_inert_settings_fixed(request: SearchRequest) -> SearchRequest:
    """Hold fixed what means nothing when there are labelled anomalies to learn from.

    Raises `RequestError` when the method cannot learn from them.
    """
    if not request.problem.anomaly_fraction:
        return request
    method = registry.detector_class(request.method)
    if not method.learns_from_anomalies:
        raise RequestError(
            f"{request.method} does not learn from labelled anomalies; leave the anomaly fraction "
            f"at 0, got {request.problem.anomaly_fraction:g}"
        )
    defaults = {field.name: field.default for field in fields(method.Config)}
    inert = {name: defaults[name] for name in method.inert_with_anomalies}
    return replace(request, fixed={**inert, **request.fixed})


def _has_started(run: RunFolder) -> bool:
    if not run.study_path.exists():
        return False
    return any(trial.state != "waiting" for trial in studies.read_trials(run))


def _search(
    run: RunFolder,
    request: SearchRequest,
    problem: Problem,
    emit: Listener,
    checkpoint_seconds: float,
) -> SearchOutcome:
    try:
        return _run_session(run, request, problem, emit, checkpoint_seconds)
    except DiskFullError:
        raise
    except Exception as error:
        if execution.is_disk_full(error):
            raise _no_space(run, error) from error
        raise


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
    request: SearchRequest,
    problem: Problem,
    emit: Listener,
    checkpoint_seconds: float,
) -> SearchOutcome:
    began = time.monotonic()
    trainable: Any = registry.trainable_class(request.method)
    method = registry.detector_class(request.method)
    images = Images.of(problem)
    study = _study(run, request, problem.image_shape)
    place = trials_place(run, request)
    space = space_of(request.method, request.space)
    complete = _Completion(request, problem.image_shape)

    def warm_up(config: DetectorConfig) -> str | None:
        # Labelled anomalies are learnt from at once.
        return None if request.problem.anomaly_fraction else warm_up_name(method, config)

    session = Session(
        study,
        request,
        run,
        Checkpoints(place),
        space,
        complete,
        emit,
        checkpoint_seconds,
        warm_up,
        warm_ups_repeat(space, request.fixed, complete, warm_up),
        tensorboard_place(run, request.storage_path),
    )
    ending: Ending = "finished"
    if session.left > 0 and not session.is_satisfied:
        with connection.cluster(request.address, run.log):
            share, notes = _gpu_share(run, request, method, complete(request.fixed), images.train)
            found = capacity.find_room(request, share, notes)
            session.gpus_per_trial = found.gpus_per_trial
            emit(
                SearchStarted(
                    run=run.path,
                    method=request.method,
                    problem=problem.describe(),
                    trials=request.trials,
                    finished=session.count(*FINISHED),
                    epochs=request.epochs,
                    concurrent=found.concurrent,
                    cpus_per_trial=request.cpus_per_trial,
                    gpus_per_trial=found.gpus_per_trial,
                    validation_normals=len(images.normal),
                    validation_anomalies=len(images.anomaly),
                    warnings=(*problem.warnings, *found.notes),
                )
            )
            ending = execution.execute(
                session,
                trainable=trainable,
                images=images,
                cpus_per_trial=request.cpus_per_trial,
                **found.for_execution,
                place=place,
                halt=execution.Halt(request.time_budget),
            )
    session.close()
    if ending == "finished" and session.left > 0 and session.is_satisfied:
        ending = "good enough"
    outcome = _outcome(run, request, problem, study, ending)
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
            shared_epochs=outcome.shared_epochs,
        )
    )
    if ending == "disk full":
        raise _no_space(run, OSError(f"trials write to {place}"))
    return outcome


def _gpu_share(
    run: RunFolder,
    request: SearchRequest,
    method: type[Detector],
    config: DetectorConfig,
    images: np.ndarray,
) -> tuple[float, list[str]]:
    """The share of a GPU for each trial, and notes on it; measured once in a run."""
    if request.gpus_per_trial is None and connection.gpus() > 0 and "gpu_share" not in run.read():
        measured = capacity.measure_share(method, config, images, request.cpus_per_trial)
        facts = None if measured is None else dataclasses.asdict(measured)
        run.write({**run.read(), "gpu_share": facts})
    return gpu_share(run, request)


def gpu_share(run: RunFolder, request: SearchRequest) -> tuple[float, list[str]]:
    """The share of a GPU for each trial, asked for or measured before, and notes on it."""
    if request.gpus_per_trial is not None:
        return request.gpus_per_trial, []
    if connection.gpus() == 0:
        return 0.0, []
    facts = run.read().get("gpu_share")
    if facts is None:
        trainable: Any = registry.trainable_class(request.method)
        usual = trainable.gpu_share
        note = f"the best share of a GPU could not be measured; each trial gets {usual:g}"
        return usual, [note]
    share = capacity.Share.from_dict(facts)
    return share.gpus, [capacity.NO_MPS] if share.gpus < 1 and not share.mps else []


def trials_place(run: RunFolder, request: SearchRequest, inside: str = "trials") -> str:
    """Where Ray Tune keeps its files: a folder inside the run's, there or at the storage path."""
    if request.storage_path is None:
        return str(run.path / inside)
    return f"{request.storage_path.rstrip('/')}/{run.name}/{inside}"


def tensorboard_place(run: RunFolder, storage_path: str | None) -> Path:
    """The folder of the event files: on a shared disk, where there is one, else in the run's.

    Workers write them, which on a cluster run on other machines. Object stores take no files that
    grow.
    """
    if storage_path is None:
        return run.tensorboard
    scheme, separator, rest = storage_path.rpartition("://")
    if separator and scheme != "file":
        return run.tensorboard
    return Path(rest).resolve() / run.name / "tensorboard"


class _Completion:
    """Makes settings a whole configuration."""

    def __init__(self, request: SearchRequest, image_shape: ImageShape) -> None:
        self._request = request
        self._image_shape = image_shape

    def __call__(self, settings: Mapping[str, Any]) -> DetectorConfig:
        method = registry.detector_class(self._request.method)
        config = method.Config.from_dict({**settings, "epochs": self._request.epochs})
        return config.resolve(self._image_shape)


def _complete(request: SearchRequest, image_shape: ImageShape) -> DetectorConfig:
    """The default configuration with the fixed values in it."""
    return _Completion(request, image_shape)(request.fixed)


def _study(run: RunFolder, request: SearchRequest, image_shape: ImageShape) -> optuna.Study:
    """The run's study."""
    grace = _complete(request, image_shape).grace_epochs() + 1
    pruner = studies.make_pruner(request.scheduler, request.epochs, grace)
    # Also when resuming: the session before may have been killed before it came to this.
    if not run.study_path.exists():
        studies.create_study(run, run.read()["first"])
    return studies.open_study(run, pruner)


def _first_trials(
    request: SearchRequest, image_shape: ImageShape, others: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The settings of the default configuration, and of the `others` to try after it.

    Raises `RequestError` for impossible fixed values, spaces and settings.
    """
    complete = _Completion(request, image_shape)
    default = complete(request.fixed)
    space = space_of(request.method, request.space)
    if request.space is not None:
        check_space(request.method, space, request.fixed, complete)
    given: list[Mapping[str, Any]] = [{}, *others]
    found: list[dict[str, Any]] = []
    for one in given:
        settings = settings_to_try(space, one, default, request.fixed)
        complete({**settings, **request.fixed})
        if settings not in found:
            found.append(settings)
    return found


def _reopen(run: RunFolder, request: SearchRequest) -> Problem:
    """Check a continued run's request against the saved one and note the continuation."""
    contents = run.read()
    saved = saved_request(run)
    differences = saved.differences(request)
    if differences:
        raise RequestError(
            f"the run {run.name!r} cannot be continued with another request: "
            f"{'; '.join(differences)}. Leave these as they were, or start a new run; more trials "
            "and another time budget are possible"
        )
    problem = Problem.from_dict(contents["problem"], request.data_dir)
    continued = [*contents.get("continued", []), _circumstances()]
    asked = replace(request, name=run.name).to_dict()
    run.write({**contents, "request": asked, "continued": continued})
    return problem


def _circumstances() -> dict[str, Any]:
    """When, how and with what a session was started."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "ray", "optuna")}
    return {
        "started": datetime.now(UTC).isoformat(timespec="microseconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {
            "amatune": amatune.__version__,
            "python": platform.python_version(),
            **versions,
        },
        "machine": platform.node(),
    }


def selection(
    run: RunFolder, request: SearchRequest, problem: Problem, study: optuna.Study
) -> Selection | None:
    """The search's best validation AUROC, corrected for its having been picked.

    None before a trial has reached the full budget.
    """
    scores = []
    for trial in studies.full_trials(study):
        file = validation_file(run, trial.number)
        if file.exists() and studies.PRIMARY in trial.user_attrs:
            scores.append(load_scores(file)[trial.user_attrs[studies.PRIMARY]])
    if not scores:
        return None
    bounds = set_bounds(problem.validation_sets())
    return correct_for_selection(scores, bounds, request.objective, seed=request.seed)


def _outcome(
    run: RunFolder,
    request: SearchRequest,
    problem: Problem,
    study: optuna.Study,
    ending: Ending,
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
        shared_epochs=sum(trial.user_attrs.get(studies.SHARED, 0) for trial in trials),
    )


def _nobody(_event: Event) -> None:
    pass
