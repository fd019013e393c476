"""The options of a search, as a caller gives them, and the request that they make.

`amatune search` and `amatune.search` take the same options by the same names. What is left out has
its default, or stays as it was when a run is continued.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from amatune.data.places import data_folder
from amatune.data.request import ProblemRequest
from amatune.errors import RequestError, did_you_mean
from amatune.fields import wrong_types
from amatune.files import read_json, read_text, usable_path
from amatune.registry import SeveralMethods, searched_method, survey_methods
from amatune.runs import AnyRun, RunFolder
from amatune.runs.request import (
    LOCAL,
    SLICES,
    SearchRequest,
    budget,
    is_uri,
    require_confirmed,
)
from amatune.several import AUTO, JOINT, METHOD, auto_methods, joined
from amatune.tuning import study
from amatune.tuning.spaces import read_space

MOST_BYTES = 2**24  # of a file with settings to try first
WARM_STARTS = 5  # settings taken over from an earlier run

FilePath = str | os.PathLike[str]
# Settings by name to try first, a list of such, or a JSON file with either.
FirstSettings = Mapping[str, Any] | Sequence[Mapping[str, Any]] | FilePath

_PROBLEM = {field.name for field in dataclasses.fields(ProblemRequest)}
_RENAMED = {"normal_class": "normal_classes"}  # in a problem's request
FIXING = ("preset", "fix", "width", "tile", "tile_overlap")  # options that hold settings fixed
_REPEATED = ("ood", "test_ood", "normal_classes")


class SearchOptions(TypedDict, total=False):
    """What `amatune search --help` explains, by the same names."""

    # The problem
    dataset: str  # of the normal images: a name, or a kind and path, such as folder:PATH
    ood: str | Sequence[str]  # of the anomalies
    test_ood: str | Sequence[str]
    normal_class: str | int | Sequence[str | int]
    val_anomalies: int
    anomaly_fraction: float  # [0, 0.5]
    contamination: float  # [0, 0.5]
    image_size: int | tuple[int, int] | None  # pixels a side, or height and width
    channels: int | None  # 1 or 3
    keep_together: str | None  # "near-copies"
    group_by: str | None  # what belongs together, see `data.groups`
    max_broken: float | None  # a whole number of pictures, or a share below 1
    data_dir: FilePath | None
    # The search
    method: str | Sequence[str]  # several: compared under one budget; "auto" chooses them
    trials: int
    epochs: int | None  # passes over the images; with steps, the slices that these are cut into
    steps: int | None  # of a trial; None without epochs: the usual ones of the method
    time_budget: float | None  # seconds
    width: float | None
    tile: int | None  # pixels; of methods that have such a setting
    tile_overlap: int | None  # pixels
    fix: Mapping[str, Any]  # settings held fixed, by name
    preset: str | None
    space: FilePath | Mapping[str, Any] | None  # a file, or what `spaces.read_space` makes of it
    sampler: str
    scheduler: str
    objective: str
    stop_at: float | None  # AUROC
    seed: int
    # The machine
    gpus_per_trial: float | None  # None: the share that was measured to train most
    cpus_per_trial: float
    concurrent: int | None
    address: str | None
    storage_path: FilePath | None
    # The run
    study_storage: str  # "sqlite", or "journal" for a folder on NFS
    name: AnyRun  # of a new run a text; one that goes on may be named by its folder too, or itself
    runs_dir: FilePath


def with_options(request: SearchRequest, options: SearchOptions) -> SearchRequest:
    """The request with these options in place of its own.

    `SearchRequest()` has the defaults. Raises `RequestError` for unknown options and impossible
    values.
    """
    known = SearchOptions.__annotations__
    for name in options:
        if name not in known:
            raise RequestError(f"a search has no option {name!r}; {did_you_mean(name, known)}")
    given: dict[str, Any] = {_RENAMED.get(name, name): value for name, value in options.items()}
    if "method" in given:
        given["method"] = joined(_texts(given["method"]))
    fixing = {name: given.pop(name) for name in FIXING if name in given}
    if fixing:
        given["fixed"] = fixed = fixed_settings(given.get("method", request.method), **fixing)
        if "tile_overlap" in fixed and fixed.get("tile") is None:
            told = f"tile_overlap {fixed['tile_overlap']} is of no use without tiles; give a tile"
            raise RequestError(told)
    for name in _REPEATED:
        if name in given:
            given[name] = _texts(given[name])
    if given.get("data_dir") is not None:
        given["data_dir"] = str(data_folder(given["data_dir"]))
    if given.get("address") == LOCAL:
        given["address"] = None
    place = given.get("storage_path")
    if isinstance(place, os.PathLike):
        place = given["storage_path"] = os.fspath(place)
    if isinstance(place, str) and place and not is_uri(place):
        given["storage_path"] = str(usable_path(place).resolve())
    if "runs_dir" in given:
        given["runs_dir"] = os.fspath(given["runs_dir"])
    if isinstance(given.get("space"), str | os.PathLike):
        given["space"] = read_space(given["space"])
    problem = {name: value for name, value in given.items() if name in _PROBLEM}
    others = {name: value for name, value in given.items() if name not in _PROBLEM - {"seed"}}
    if others.get("epochs", 0) is None:
        del others["epochs"]
    return dataclasses.replace(
        request, problem=dataclasses.replace(request.problem, **problem), **others
    )


def budgeted(options: SearchOptions) -> SearchOptions:
    """The options of a new search, with the epochs and steps that they leave to the method.

    Raises `RequestError` for a budget that the method, or several, cannot have.
    """
    method = searched_method(joined(_texts(options.get("method", SearchRequest.method))))
    epochs, steps = options.get("epochs"), options.get("steps")
    numbers = {n: v for n, v in (("epochs", epochs), ("steps", steps)) if v is not None}
    if wrong := wrong_types(SearchRequest, numbers):
        raise RequestError("; ".join(wrong))
    if isinstance(method, SeveralMethods):
        # The steps of each method follow from what they cost.
        if epochs is not None and steps is None:
            raise RequestError(
                f"{epochs} epochs alone are passes over the images, which are no equal budget for "
                f"{method.name.replace(JOINT, ', ')}; give the steps too, or leave both out"
            )
        if epochs is None:
            epochs = SLICES if steps is None else max(1, min(SLICES, steps))
        return {**options, "epochs": epochs, "steps": steps}
    usual = method.detector.usual_steps
    if learns_in_one_pass(method.name) and (steps is not None or epochs not in (None, 1)):
        raise RequestError(told_one_pass(method.name, "steps and epochs"))
    epochs, steps = budget(usual, epochs, steps)
    return {**options, "epochs": epochs, "steps": steps}


def learns_in_one_pass(name: str) -> bool:
    """Whether another pass would teach the method of that name nothing. Not said of several, each
    of which has its own budget, nor of one of a package that is not here."""
    try:
        method = searched_method(name)
    except RequestError:
        return False
    return not isinstance(method, SeveralMethods) and method.detector.usual_steps is None


def told_one_pass(name: str, without: str) -> str:
    """Why such a method has no other budget, and what to leave out."""
    return (
        f"{name} learns all there is in one pass over the images, and others would only "
        f"repeat the scoring; leave {without} out"
    )


def continued(options: SearchOptions) -> SearchRequest:
    """The request of the run `name`, in `runs_dir` or at that path, the newest for None, with the
    other options.

    Whether such a change is possible is for the search to decide. Raises `RequestError` when there
    is no such run.
    """
    run = RunFolder.open(options.get("name"), options.get("runs_dir", SearchRequest.runs_dir))
    # The earlier session's time says nothing about this one's.
    earlier = dataclasses.replace(run.record().request, time_budget=None)
    if options.get("address") is None:
        require_confirmed(f"the run {run.name!r}", earlier.address)
    others: SearchOptions = {k: v for k, v in options.items() if k != "name"}  # type: ignore[assignment]
    request = with_options(earlier, others)
    return dataclasses.replace(request, name=run.name, runs_dir=str(run.path.parent))


def options_of(request: SearchRequest) -> SearchOptions:
    """The options that make this request, but for the name of its run."""
    back = {new: old for old, new in _RENAMED.items()}
    values = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    problem = values.pop("problem")
    values |= {name: getattr(problem, name) for name in _PROBLEM}
    values["fix"] = dict(values.pop("fixed"))
    del values["name"]
    if JOINT in request.method and request.steps is None:
        del values["epochs"]  # the usual slices: alone they would be passes
    if learns_in_one_pass(request.method):
        del values["epochs"], values["steps"]  # one pass is no budget for another
    options: SearchOptions = {back.get(name, name): value for name, value in values.items()}  # type: ignore[assignment]
    return options


def fixed_settings(
    method: str,
    *,
    preset: str | None = None,
    fix: Mapping[str, Any] | None = None,
    width: float | None = None,
    tile: int | None = None,
    tile_overlap: int | None = None,
) -> dict[str, Any]:
    """The settings held fixed by a method's preset, by name, and by options of their own.

    Raises `RequestError` for an unknown method or preset, for one that is given twice, and for
    tiles where the method knows none.
    """
    if not isinstance(fix, Mapping | None):
        raise RequestError(
            f"the settings to hold fixed are a mapping, such as {{'width': 0.5}}, got {fix!r:.80}"
        )
    fixed = dict(fix or {})
    own = {"width": width, "tile": tile, "tile_overlap": tile_overlap}
    for name, value in own.items():
        if value is None:
            continue
        if name in fixed:
            raise RequestError(
                f"the {name} is given twice, by itself and by `fix`; give one of them"
            )
        fixed[name] = value
    if tile is not None and "tile" not in searched_method(method).detector.Config.kinds():
        found, _ = survey_methods()
        able = [one.name for one in found if "tile" in one.detector.Config.kinds()]
        raise RequestError(
            f"{method} sees pictures whole, it has no tiles; those that have: {', '.join(able)}"
        )
    if preset is None:
        return fixed
    presets = searched_method(method).detector.presets
    if preset not in presets:
        known = did_you_mean(preset, presets) if presets else "it has none"
        raise RequestError(f"{method} has no preset {preset!r}; {known}")
    return {**presets[preset], **fixed}


def first_settings(
    enqueue: Sequence[FirstSettings] | FirstSettings = (),
    warm_start: AnyRun = None,
    runs_dir: FilePath = SearchRequest.runs_dir,
    method: str = SearchRequest.method,
) -> list[dict[str, Any]]:
    """The settings to try right after the defaults: those that are given, then the best trials of
    an earlier run, by the names that a search of `method` gives them.

    Raises `RequestError` for a file that cannot be read or holds no settings, and for a run that
    does not exist or has no trial with the full budget.
    """
    given = [enqueue] if isinstance(enqueue, str | os.PathLike | Mapping) else enqueue
    if not isinstance(given, Sequence):
        raise RequestError(
            f"settings to try first are mappings, files, or a list of these, got {enqueue!r:.80}"
        )
    found = [settings for one in given for settings in _settings(one)]
    if warm_start is not None:
        run = RunFolder.open(warm_start, runs_dir)
        trials = study.full_trials(study.open_study(run))
        if not trials:
            raise RequestError(f"no trial of the run {run.name!r} has reached its full budget")
        earlier = [_params(run.record().request.method, trial.params, method) for trial in trials]
        taken = [params for params in earlier if params is not None]
        if not taken:
            raise RequestError(
                f"no trial of the run {run.name!r} with the method {method} has reached its full "
                "budget"
            )
        found += taken[:WARM_STARTS]
    return found


def _params(theirs: str, params: Mapping[str, Any], method: str) -> dict[str, Any] | None:
    """What a trial of a search of the method or methods `theirs` drew, for a search of `method`;
    None for a trial of a method that is not in it."""
    several = method == AUTO or JOINT in method
    if JOINT not in theirs and not several:
        return dict(params)  # of another method: it is told of where settings are
    name = params.get(METHOD, theirs)
    if name not in (auto_methods(None) if method == AUTO else method.split(JOINT)):
        return None
    if several:
        return {**params, METHOD: name}
    return {key.removeprefix(f"{method}."): v for key, v in params.items() if key != METHOD}


def _settings(given: FirstSettings) -> list[dict[str, Any]]:
    place = "the settings to try first"
    content: Any = given
    if isinstance(given, str | os.PathLike):
        file = usable_path(given)
        place = str(file)
        text = read_text(file, "the settings in", MOST_BYTES)
        content = read_json(text, f"the file of settings {file}")
    listed = [content] if isinstance(content, Mapping) else content
    is_list = isinstance(listed, Sequence) and not isinstance(listed, str)
    if not is_list or not all(isinstance(one, Mapping) for one in listed):
        raise RequestError(f"{place} must hold an object of settings by name, or a list of them")
    if not listed:
        raise RequestError(f"{place} must hold settings; it is an empty list")
    if any(not isinstance(name, str) for one in listed for name in one):
        raise RequestError(f"{place} must name the settings by text")
    return [dict(one) for one in listed]


def _texts(value: Any) -> tuple[str, ...]:
    """One or several names, as a request has them."""
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return tuple(map(str, several))
