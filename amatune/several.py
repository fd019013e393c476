"""Several methods in one search: a method whose configurations are those of its members.

`ama+features` has the setting `method` that says which one a trial trains, and the members'
settings by their names: `ama.lr`. A setting without a method's name, such as `width`, is that of
every member that has it. What is built from a configuration is the member's own configuration and
detector, so that checkpoints, exports and maps know nothing of the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector
from amatune.errors import ConfigError, RequestError, did_you_mean

METHOD = "method"  # the setting that names the member
JOINT = "+"  # between the members' names in that of all together
AUTO = "auto"
FEATURES = "features"  # a method that needs a network from elsewhere
LARGE = 64  # pixels a side, above which `auto` takes frozen features alone


class Member(Protocol):
    """Of a `registry.Method`, what is needed here."""

    @property
    def detector(self) -> type[Detector]:
        """Its detector."""

    @property
    def space(self) -> Any:
        """Its search space."""


def joined(names: Sequence[str]) -> str:
    """The name of several methods together. Raises `RequestError` for what is no choice."""
    listed = [one for name in names for one in name.split(JOINT)]
    if not listed or "" in listed:
        raise RequestError(f"a method must have a name, got {JOINT.join(names)!r}")
    twice = sorted({name for name in listed if listed.count(name) > 1})
    if twice:
        raise RequestError(f"the method {twice[0]!r} is named twice; name each once")
    if AUTO in listed and len(listed) > 1:
        raise RequestError(
            f"{AUTO} chooses the methods itself; give it alone, or name all that you want"
        )
    return JOINT.join(listed)


def auto_methods(image_shape: ImageShape | None, features: bool = True) -> tuple[str, ...]:
    """The methods that `auto` compares for images (C, H, W); None: before these are known.

    Frozen features, where there are such `features` on this machine: alone on pictures of more than
    LARGE pixels a side, where networks that are trained here were far behind them (magnetic tiles,
    benchmarks/RESULTS.md), else beside Deep SVDD, the cheapest that trains a network of its own,
    and AMA.
    """
    trained = ("deep-svdd", "ama")
    if not features:
        return trained
    large = image_shape is not None and max(image_shape[1:]) > LARGE
    return (FEATURES,) if large else (FEATURES, *trained)


def told_auto(names: Sequence[str], image_shape: ImageShape) -> str:
    """What `auto` takes on such images, and how to have others, in a sentence."""
    height, width = image_shape[1:]
    if len(names) == 1:
        return (
            f"auto takes {names[0]} alone on pictures of {height}x{width}: networks that are "
            f"trained from nothing need smaller ones; --image-size {LARGE}, or less, compares "
            f"them too"
        )
    without = "" if FEATURES in names else f"; {FEATURES} needs a network that is not here"
    return (
        f"auto compares {', '.join(names)} on pictures of {height}x{width}{without}; "
        "--method NAME --method NAME compares others"
    )


class SeveralConfig(DetectorConfig):
    """Makes the configuration of a member; there are no configurations of this class itself."""

    members: ClassVar[Mapping[str, Member]]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Any:
        """The configuration of the member that `method` names, by default the first's."""
        name = values.get(METHOD, next(iter(cls.members)))
        if name not in cls.members:
            raise ConfigError(f"the method {name!r} is none of this search's")
        return cls.members[name].detector.Config.from_dict(own_settings(cls.members, name, values))

    @classmethod
    def kinds(cls) -> dict[str, str]:
        """What each setting may be, in words, by its name in a search of several."""
        found: dict[str, str] = {}
        for member in cls.members.values():
            found |= member.detector.Config.kinds()
        found[METHOD] = f"one of {', '.join(cls.members)}"
        for name, member in cls.members.items():
            found |= {f"{name}.{key}": kind for key, kind in member.detector.Config.kinds().items()}
        return found


def own_settings(
    members: Mapping[str, Member], name: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Of settings in a search of several, those of one member, by its own names.

    Raises `ConfigError` for one that no member has.
    """
    known = {n: set(one.detector.Config.kinds()) for n, one in members.items()}
    mine, shared = {}, {}
    for key, value in values.items():
        owner, dot, setting = key.partition(".")
        if key == METHOD:
            continue
        if dot and owner in known:
            if setting not in known[owner]:
                told = did_you_mean(setting, known[owner])
                raise ConfigError(f"unknown setting {key!r} of {owner}; {told}")
            if owner == name:
                mine[setting] = value
        elif not any(key in names for names in known.values()):
            everything = set().union(*known.values())
            raise ConfigError(
                f"none of {', '.join(known)} has the setting {key!r}; "
                f"{did_you_mean(key, everything)}"
            )
        elif key in known[name]:
            shared[key] = value
    return {**shared, **mine}


class _Own:
    """A trial as a member's space sees it: its settings have their own names."""

    def __init__(self, trial: Any, name: str) -> None:
        self._trial, self._name = trial, name

    def suggest_float(self, name: str, *rule: Any, **options: Any) -> Any:
        return self._trial.suggest_float(f"{self._name}.{name}", *rule, **options)

    def suggest_int(self, name: str, *rule: Any, **options: Any) -> Any:
        return self._trial.suggest_int(f"{self._name}.{name}", *rule, **options)

    def suggest_categorical(self, name: str, *rule: Any, **options: Any) -> Any:
        return self._trial.suggest_categorical(f"{self._name}.{name}", *rule, **options)


@dataclass(frozen=True)
class JoinedSpace:
    """The members' search spaces, each below the choice of its method."""

    members: Mapping[str, Member]

    def __call__(self, trial: Any) -> dict[str, Any]:
        """The member and its settings, suggested through an Optuna trial."""
        name = trial.suggest_categorical(METHOD, list(self.members))
        own = self.members[name].space(_Own(trial, name))
        return {METHOD: name, **{f"{name}.{key}": value for key, value in own.items()}}


def detector_of(members: Mapping[str, Member], name: str) -> type[Detector]:
    """A class that builds the detector of the member whose configuration it is given."""
    detectors = [one.detector for one in members.values()]

    def of(config: DetectorConfig) -> type[Detector]:
        return next(one for one in detectors if type(config) is one.Config)

    def new(_cls: type, config: Any, *others: Any, **named: Any) -> Detector:
        return of(config)(config, *others, **named)

    @classmethod  # type: ignore[misc]
    def require_available(_cls: type, config: Any) -> None:
        of(config).require_available(config)

    @classmethod  # type: ignore[misc]
    def limits(_cls: type) -> tuple[str, ...]:
        return tuple(sentence for one in detectors for sentence in one.limits())

    sides = [one.largest_side for one in detectors]
    return type(
        "Several",
        (Detector,),
        {
            "__new__": new,
            "name": name,
            "summary": f"the best of {', '.join(members)}",
            "Config": type("Config", (SeveralConfig,), {"members": members}),
            "score_names": (),
            "require_available": require_available,
            "limits": limits,
            "usual_steps": None,
            # Of the most modest: all see the same pictures.
            "largest_side": None if None in sides else min(side for side in sides if side),
            "learns_from_anomalies": all(one.learns_from_anomalies for one in detectors),
            "held_with_anomalies": {
                f"{name}.{key}": value
                for name, one in members.items()
                for key, value in one.detector.held_with_anomalies.items()
            },
            "exports_to_onnx": any(one.exports_to_onnx for one in detectors),
        },
    )


def named(config: DetectorConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as plain values, with the member that the settings name."""
    own = {METHOD: settings[METHOD]} if METHOD in settings else {}
    return {**config.to_dict(), **own}


def of_its_method(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's settings, without those of the methods that it does not train."""
    name = settings.get(METHOD)
    return {k: v for k, v in settings.items() if name is None or k.partition(".")[0] in (k, name)}
