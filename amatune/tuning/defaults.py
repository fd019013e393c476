"""The default configuration of a search, or those of its several methods: the controls. No Ray in
here: a report reads them too."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from amatune.config import DetectorConfig, ImageShape
from amatune.registry import Method, SeveralMethods
from amatune.runs.record import RunRecord
from amatune.several import METHOD, own_settings


def controls(method: Method) -> list[dict[str, Any]]:
    """The settings that say whose default is meant: of one method none, of several the name of
    each."""
    if not isinstance(method, SeveralMethods):
        return [{}]
    return [{METHOD: name} for name in method.members]


def defaults(record: RunRecord, method: Method, epochs: int | None = None) -> list[DetectorConfig]:
    """The default configuration, or of several methods each one's, those held fixed included; of
    `epochs`, or the budget of the request for None."""
    fixed = record.fixed
    return [record.configuration(method, {**fixed, **own}, epochs) for own in controls(method)]


def first_decision(record: RunRecord, method: Method) -> int:
    """The first epoch at which a trial may be stopped; of several methods, each trial has its own
    beside it."""
    first = defaults(record, method)[0]
    return 2 if isinstance(method, SeveralMethods) else first.grace_epochs() + 1


def longest(record: RunRecord, method: Method) -> DetectorConfig:
    """The default configuration; of several methods, the one that is trained in most epochs."""
    return max(defaults(record, method), key=lambda config: config.epochs)


def default_of(
    members: Mapping[str, Method], fixed: Mapping[str, Any], image_shape: ImageShape
) -> Any:
    """The members' default configurations as one object with the names of a search of several."""
    values: dict[str, Any] = {METHOD: next(iter(members))}
    for name, member in members.items():
        own = own_settings(members, name, fixed)
        config: DetectorConfig = member.detector.Config.from_dict(own).resolve(image_shape)
        values |= {f"{name}.{key}": getattr(config, key) for key in config.to_dict()}
    return SimpleNamespace(**values)
