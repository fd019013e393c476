"""What a search of several methods is before it begins: the methods, and equal time for each."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from amatune.cluster import capacity
from amatune.cluster.job import CALIBRATION_IMAGES
from amatune.data.problem import Problem
from amatune.errors import ConfigError, DivergedError, RequestError
from amatune.registry import Method, SeveralMethods, find_method
from amatune.runs.record import RunRecord
from amatune.runs.request import SearchRequest, budget
from amatune.several import (
    AUTO,
    FEATURES,
    JOINT,
    METHOD,
    auto_methods,
    own_settings,
    told_auto,
)
from amatune.wording import counted

MINIMUM = 1e-5  # seconds of a step, below which a clock says nothing
FEW = 4  # batches to measure with
ANY_SHAPE = (3, 224, 224)  # of pictures: what frozen features need does not depend on it


def side_made_use_of(request: SearchRequest, method: Method) -> int | None:
    """Pixels a side of pictures in a folder that a search makes use of; None: those of small
    networks."""
    if request.method == AUTO and _features_are_there(request):
        return find_method(FEATURES).detector.largest_side
    return method.detector.largest_side


Settled = tuple[SearchRequest, Method, list[dict[str, Any]], dict[str, Any] | None]


def settled(
    request: SearchRequest,
    method: SeveralMethods,
    problem: Problem,
    first: Sequence[Mapping[str, Any]],
) -> Settled:
    """The request with its methods by name; the methods; the settings to try `first` by their
    names; and, by these, all that is held fixed: what the request says, and the steps of each.
    `auto` may come down to one method, which has no names of that kind and None for the last.

    Without a request for steps each method has its usual number, which is what it needs. With one,
    these are those of the method that takes most time for them, as measured on this machine's
    processor, and the others have as many as take that time, never more than is usual for them. One
    that learns in a single pass has that, and one whose `steps_per_epoch` is held fixed has these.

    Raises `RequestError` for settings that none of the methods has, and for what is of one alone.
    """
    if request.space is not None:
        raise RequestError(
            f"a search space belongs to one method, and these are {', '.join(method.members)}; "
            "leave --space out, or name one method"
        )
    if request.sampler == "qmc":
        raise RequestError(
            "qmc spreads one sequence over one space, and each method has its own; choose another "
            "sampler, or one method"
        )
    if METHOD in request.fixed:
        raise RequestError("the method cannot be held fixed; name it alone with --method")
    if request.method == AUTO:
        names = auto_methods(problem.image_shape, _features_are_there(request))
        if len(names) == 1:
            return _alone(names[0], request, method, first)
        method = SeveralMethods.of(names)
    tried = [first_of_several(method.members, one) for one in first]
    fixed = expanded(method.members, request.fixed)
    usual: dict[str, int] = {}
    for name, member in method.members.items():
        if f"{name}.epochs" in fixed:
            raise RequestError(
                f"{name}.epochs cannot be held fixed: the number of epochs is a request of its own"
            )
        if member.detector.usual_steps is None:
            fixed = {**fixed, f"{name}.epochs": 1, f"{name}.steps_per_epoch": None}
        elif fixed.get(f"{name}.steps_per_epoch") is None:
            usual[name] = member.detector.usual_steps
    epochs = min([request.epochs, *usual.values()])
    steps = {name: math.ceil(most / epochs) for name, most in usual.items()}
    if request.steps is not None and usual:
        steps = _in_equal_time(request, method.members, fixed, steps, epochs, problem)
    fixed |= {f"{name}.steps_per_epoch": number for name, number in steps.items()}
    return replace(request, method=method.name, epochs=epochs), method, tried, fixed


def _alone(
    name: str,
    request: SearchRequest,
    method: SeveralMethods,
    first: Sequence[Mapping[str, Any]],
) -> Settled:
    """What a search of one out of several methods is."""
    alone = find_method(name)
    usual = alone.detector.usual_steps
    epochs, steps = budget(usual, None, request.steps)
    for key, value in request.fixed.items():
        # `ama.lr` is of AMA where that is tried; `width` must be of something.
        if "." not in key and not _own(method.members, name, {key: value}):
            raise RequestError(
                f"auto takes {name} alone on these pictures, which has no setting {key!r}; leave "
                "it out, or name the methods to compare"
            )
    fixed = _own(method.members, name, request.fixed)
    tried = []
    for one in first:
        known = first_of_several(method.members, one)
        if known[METHOD] != name:
            raise _cannot_try(one, f"auto takes {name} alone on these pictures")
        tried.append(_own(method.members, name, known))
    asked = replace(request, method=name, fixed=fixed, epochs=epochs, steps=steps)
    return asked, alone, tried, None


def _in_equal_time(
    request: SearchRequest,
    members: Mapping[str, Method],
    fixed: Mapping[str, Any],
    most: Mapping[str, int],
    epochs: int,
    problem: Problem,
) -> dict[str, int]:
    """Steps in an epoch of each method: the costliest has those of the request, the others what
    takes the same time, at most `most`."""
    wanted = math.ceil((request.steps or 1) / epochs)
    paces: dict[str, tuple[float, float]] = {}
    for name in most:
        detector = members[name].detector
        config = detector.Config.from_dict(own_settings(members, name, fixed))
        config = config.resolve(problem.image_shape)
        few = problem.train_images()[: max(FEW * config.batch_size, CALIBRATION_IMAGES)]
        try:
            step, scoring = capacity.pace(detector, config, few, *problem.validation_images())
        except DivergedError:  # so early; as a trial it may do the same, and others go on
            continue
        paces[name] = max(step, MINIMUM), scoring / config.score_every()
    if not paces:
        return {name: min(most[name], wanted) for name in most}
    seconds = max(wanted * step + scoring for step, scoring in paces.values())
    known = {name: round((seconds - scoring) / step) for name, (step, scoring) in paces.items()}
    return {name: max(1, min(most[name], known.get(name, wanted))) for name in most}


def _features_are_there(request: SearchRequest) -> bool:
    """Whether this machine has what frozen features with the settings held fixed need."""
    members = SeveralMethods.of(auto_methods(None)).members
    detector = members[FEATURES].detector
    own = _own(members, FEATURES, request.fixed)
    try:
        detector.require_available(detector.Config.from_dict(own).resolve(ANY_SHAPE))
    except ConfigError:
        return True  # it is told of where settings are
    except RequestError:
        return False
    return True


def resumed(record: RunRecord, request: SearchRequest) -> SearchRequest:
    """The request to continue a run, where `auto` is said again, which became methods, and one of
    these alone settings by its own names, and a budget where it trains in no steps."""
    if record.asked != AUTO or request.method != AUTO:
        return request
    saved = record.request
    request = replace(request, method=saved.method)
    if JOINT in saved.method:
        return request
    if request.fixed != saved.fixed:
        members = SeveralMethods.of(auto_methods(None)).members
        request = replace(request, fixed=_own(members, saved.method, request.fixed))
    if find_method(saved.method).detector.usual_steps is None:
        request = replace(request, epochs=saved.epochs, steps=saved.steps)
    return request


def expanded(members: Mapping[str, Method], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the names of a search of several: `width` of every method that has it.

    Raises `RequestError` for what none has.
    """
    return {
        f"{name}.{key}": value
        for name in members
        for key, value in _own(members, name, settings).items()
    }


def _own(members: Mapping[str, Method], name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return own_settings(members, name, settings)
    except ConfigError as error:
        raise RequestError(str(error)) from None


def first_of_several(members: Mapping[str, Method], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings to try first, by the names of a search of several and with their method: the one
    that they name, or the only one that has them all.

    Raises `RequestError` where that is none, or not one.
    """
    whole = expanded(members, {key: value for key, value in settings.items() if key != METHOD})
    able = [
        name
        for name in members
        if sum(key.startswith(f"{name}.") for key in whole) == len(settings) - (METHOD in settings)
    ]
    name = settings.get(METHOD, able[0] if len(able) == 1 else None)
    if not isinstance(name, str) or name not in members:
        told = f"the method {name!r} is none of {', '.join(members)}"
        if name is None:
            told = f'"method" must say whose they are: {" or ".join(able or members)}'
        raise _cannot_try(settings, told)
    own = {key: value for key, value in whole.items() if key.startswith(f"{name}.")}
    others = [one for one in settings if one != METHOD and not {one, f"{name}.{one}"} & own.keys()]
    if others:
        raise _cannot_try(settings, f"{others[0]} is no setting of {name}")
    return {METHOD: name, **own}


def _cannot_try(settings: Mapping[str, Any], why: str) -> RequestError:
    return RequestError(f"cannot try {json.dumps(dict(settings), default=repr):.200}: {why}")


def told(record: RunRecord) -> list[str]:
    """What `auto` took, and what each of several methods gets, a sentence each."""
    names = record.request.method.split(JOINT)
    found = [told_auto(names, record.image_shape)] if record.asked == AUTO else []
    if record.held is None:
        return found
    each = []
    for name in names:
        steps = record.held.get(f"{name}.steps_per_epoch")
        each.append(
            f"{name} one pass"
            if steps is None
            else f"{name} {counted(steps * record.request.epochs, 'step')}"
        )
    return [
        *found,
        f"{counted(len(names), 'method')} in one search, trials of {', '.join(each)}; their "
        "defaults come first, in full, and are the controls; then whichever promises most",
    ]
