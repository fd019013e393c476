"""What a search tries first: the defaults, what the user wants, and what a method is known for."""

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from amatune.config import DetectorConfig
from amatune.errors import ConfigError, RequestError
from amatune.registry import Method, SeveralMethods, searched_method
from amatune.runs.record import RunRecord
from amatune.several import JOINT, METHOD
from amatune.tuning.defaults import controls, default_of
from amatune.tuning.spaces import check_space, require_memory, settings_to_try, space_of


def first_trials(
    record: RunRecord, method: Method, others: Sequence[Mapping[str, Any]], known: bool = True
) -> tuple[tuple[Mapping[str, Any], ...], int]:
    """The settings of the default configuration, the `others` to try after it, and then, if
    `known`, those that the method is known for, where they go with what is held fixed; and how many
    the last are.

    Raises `RequestError` for impossible fixed values, spaces and settings, and when the machine
    lacks what the method needs.
    """
    request = record.request

    def complete(settings: Mapping[str, Any]) -> DetectorConfig:
        if request.steps is not None and "steps_per_epoch" in settings:
            raise ConfigError("steps_per_epoch follows from steps and epochs; give epochs alone")
        config = record.configuration(method, settings)
        if request.problem.anomaly_fraction and (wrong := config.problems_with_anomalies()):
            raise ConfigError("; ".join(wrong))
        return config

    require = partial(require_memory, method, record.image_shape)
    defaults = [complete({**record.fixed, **own}) for own in controls(method)]
    for one in defaults:
        method.detector.require_available(one)
    default = _default(record, method)
    space = space_of(method, request.space)
    if request.space is not None:
        check_space(method, space, record.fixed, complete, require)
    found: list[Mapping[str, Any]] = []
    for given in (*controls(method), *others):
        settings = settings_to_try(space, given, default, record.fixed)
        require(complete({**settings, **record.fixed}))
        if settings not in found:
            found.append(settings)
    good: list[Mapping[str, Any]] = []
    # Of several methods each has its own when it is its turn.
    if known and not isinstance(method, SeveralMethods):
        good = [settings for settings in known_settings(record, method) if settings not in found]
    return (*found, *good), len(good)


def known_settings(record: RunRecord, method: Method) -> list[dict[str, Any]]:
    """What a method, or each of several, is known to do well with on other images; without what
    does not go with settings that are held fixed."""
    if record.request.sampler != "tpe" or record.request.space is not None:
        return []
    default, found = _default(record, method), []
    for one in method.alone():
        for own in one.known:
            given = dict(own)
            if isinstance(method, SeveralMethods):
                given = {METHOD: one.name, **{f"{one.name}.{k}": v for k, v in own.items()}}
            free = {name: value for name, value in given.items() if name not in record.fixed}
            with contextlib.suppress(RequestError):
                settings = settings_to_try(method.space, free, default, record.fixed)
                config = record.configuration(method, {**settings, **record.fixed})
                require_memory(method, record.image_shape, config)
                if settings not in found:
                    found.append(settings)
    return found


def asked_first(record: RunRecord) -> list[Mapping[str, Any]]:
    """Of what a run tried first, that which its user asked for: neither the defaults, one of each
    method, nor what the method is known for, which come by themselves."""
    name = record.request.method
    others = list(record.first[len(name.split(JOINT)) :])
    if record.known is not None:
        return others[: len(others) - record.known]
    if JOINT in name:
        return others
    known: list[dict[str, Any]] = []
    with contextlib.suppress(RequestError):  # the method may be of a package that is not here
        known = known_settings(record, searched_method(name))
    return [settings for settings in others if settings not in known]


def _default(record: RunRecord, method: Method) -> Any:
    """The default configuration; of several methods, all of them as one."""
    if isinstance(method, SeveralMethods):
        return default_of(method.members, record.fixed, record.image_shape)
    return record.configuration(method, record.fixed)
