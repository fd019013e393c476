"""Finds the methods: those of amatune's own folder, and those that installed packages bring.

A method `deep-svdd` of amatune is three files named `deep_svdd.py`: the detector in
`amatune/detectors` (`DETECTOR = ...`), its search space in `search_spaces` (`def space(trial)`,
and `KNOWN` where settings are known that did well elsewhere) and its trainable in `trainables`
(`TRAINABLE = ...`). The folder is the registry.

A method of another package is a `Method` that the package names in the entry-point group
`amatune.methods`, by the method's own name:

    [project.entry-points."amatune.methods"]
    mean-brightness = "my_package:METHOD"

One that cannot be used, for whatever reason, harms no other.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import amatune.detectors
from amatune.detector import Detector
from amatune.errors import AmatuneError, RequestError, did_you_mean
from amatune.several import AUTO, JOINT, METHOD, JoinedSpace, auto_methods, detector_of, joined

GROUP = "amatune.methods"  # of the entry points

# Suggests a configuration for an Optuna trial, which is duck-typed here.
SearchSpace = Callable[[Any], dict[str, Any]]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PLACE = re.compile(r"[\w.]+:\w+")


@dataclass(frozen=True)
class Method:
    """A detector with what a search needs of it. Travels between processes by reference.

    Raises `RequestError` for parts that are not what they must be.
    """

    name: str  # as on the command line, and as the detector calls itself: "deep-svdd"
    detector: type[Detector]
    space: SearchSpace  # suggests settings through an Optuna trial: name -> value
    # The `tune.Trainable`, or where it is, as "package.module:NAME": so that using the detector
    # imports no Ray.
    trainable: type | str
    # Settings of the space that did well on other images, the best first: tried right after the
    # defaults.
    known: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        given: Any = self  # another package's, and perhaps not of the declared types
        found = []
        if not isinstance(given.name, str) or not _NAME.fullmatch(given.name):
            found.append(f"its name must be lower-case words joined by hyphens, got {given.name!r}")
        elif given.name == AUTO:
            found.append(f"{AUTO!r} stands for methods that are chosen; give it another name")
        if not (isinstance(given.detector, type) and issubclass(given.detector, Detector)):
            found.append(f"its detector must be a subclass of Detector, got {given.detector!r}")
        elif (called := getattr(given.detector, "name", None)) != given.name:
            found.append(f"its detector calls itself {called!r}, which must be the method's name")
        elif METHOD in given.detector.Config.kinds():
            found.append(f"it has a setting {METHOD!r}, which in a search of several says whose")
        if not callable(given.space):
            found.append(f"its space must be a function of a trial, got {given.space!r}")
        if not isinstance(given.known, Sequence) or not all(
            isinstance(one, Mapping) for one in given.known
        ):
            found.append(f"its known settings must be a list of objects, got {given.known!r:.80}")
        is_place = isinstance(given.trainable, str) and _PLACE.fullmatch(given.trainable)
        if not (isinstance(given.trainable, type) or is_place):
            found.append(
                f"its trainable must be a class or 'package.module:NAME', got {given.trainable!r}"
            )
        if found:
            raise RequestError(f"the method {given.name!r} cannot be used: {'; '.join(found)}")

    def trainable_class(self) -> type:
        """The `tune.Trainable`; imports Ray.

        Raises `RequestError` where there is none at the place that was named.
        """
        if isinstance(self.trainable, type):
            return self.trainable
        module, _, name = self.trainable.partition(":")
        found = getattr(importlib.import_module(module), name, None)
        if not isinstance(found, type):
            raise RequestError(
                f"the method {self.name!r} cannot be searched: there is no class {name} in {module}"
            )
        return found

    def alone(self) -> tuple["Method", ...]:
        """The methods that this is made of: itself, unless it is several."""
        return (self,)


@dataclass(frozen=True)
class SeveralMethods(Method):
    """Methods that a search compares with one another; see `amatune.several`."""

    members: Mapping[str, Method] = field(default_factory=dict)

    @classmethod
    def of(cls, names: tuple[str, ...]) -> "SeveralMethods":
        """The methods of these names. Raises `RequestError` as `find_method` does."""
        members = {name: find_method(name) for name in names}
        configs = [one.detector.Config for one in members.values()]
        if len(set(configs)) < len(configs):
            raise RequestError(
                f"two of {', '.join(names)} have one class of settings, and cannot be told apart; "
                "search each alone"
            )
        name = JOINT.join(names)
        space = JoinedSpace(members)
        return cls(name, detector_of(members, name), space, "", members=members)

    def __post_init__(self) -> None:
        """Each member was checked when it was made."""

    def alone(self) -> tuple[Method, ...]:
        """Its members."""
        return tuple(self.members.values())

    def trainable_class(self) -> type:
        """A `tune.Trainable` that trains any of them; imports Ray."""
        joint = importlib.import_module("amatune.trainables._several").joined_trainable
        base = importlib.import_module("amatune.trainables").DetectorTrainable
        own = {name: one.trainable_class() for name, one in self.members.items()}
        for name, found in own.items():
            if not issubclass(found, base):
                raise RequestError(
                    f"{name} cannot be searched beside other methods: its trainable is none of "
                    f"amatune's; search it alone, --method {name}"
                )
        made: type = joint(self.detector, own)
        return made


def method_names() -> list[str]:
    """Names of all methods there are, as the command line spells them, sorted.

    Those of other packages are not loaded for it: `find_method` says whether they can be used.
    """
    return sorted({*_own_names(), *(point.name for point in _entry_points())})


def find_method(name: str) -> Method:
    """The method of this name.

    Raises `RequestError` for an unknown name, and for a method of another package that cannot be
    used.
    """
    return _find(name)


def _find(name: str, *also: str) -> Method:
    """See `find_method`; `also` are other names that would have been known here."""
    if name in _own_names():
        return _own(name)
    points = [point for point in _entry_points() if point.name == name]
    if not points:
        known = did_you_mean(name, [*also, *method_names()])
        raise RequestError(f"unknown method {name!r}; {known}")
    if len(points) > 1:
        packages = " and ".join(sorted(map(_package, points)))
        raise RequestError(
            f"the method {name!r} is brought by {packages}; uninstall all but one of them"
        )
    return _load(points[0])


def searched_method(name: str) -> Method:
    """What a search of this name searches: a method or, for names joined by `+` and for "auto",
    several as one.

    Raises `RequestError` as `find_method` does, and for a name that is there twice.
    """
    if name == AUTO:
        return SeveralMethods.of(auto_methods(None))
    if JOINT in name:
        return SeveralMethods.of(tuple(joined([name]).split(JOINT)))
    return _find(name, AUTO)


def survey_methods() -> tuple[list[Method], list[str]]:
    """Every method that can be used, by name, and a sentence on each that cannot."""
    methods = [_own(name) for name in _own_names()]
    problems = []
    for name in sorted({point.name for point in _entry_points()}):
        if name in _own_names():
            others = ", ".join(_package(p) for p in _entry_points() if p.name == name)
            problems.append(
                f"the method {name!r} of {others} is not used: amatune has one of its own by that "
                "name"
            )
            continue
        try:
            methods.append(find_method(name))
        except RequestError as error:
            problems.append(str(error))
    return sorted(methods, key=lambda method: method.name), problems


def _own_names() -> list[str]:
    modules = pkgutil.iter_modules(amatune.detectors.__path__)
    return sorted(m.name.replace("_", "-") for m in modules if not m.name.startswith("_"))


def _own(name: str) -> Method:
    module = name.replace("-", "_")
    searched = importlib.import_module(f"amatune.search_spaces.{module}")
    return Method(
        name=name,
        detector=importlib.import_module(f"amatune.detectors.{module}").DETECTOR,
        space=searched.space,
        trainable=f"amatune.trainables.{module}:TRAINABLE",
        known=getattr(searched, "KNOWN", ()),
    )


def _entry_points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _package(point: EntryPoint) -> str:
    """Who brings a method, for messages."""
    return point.value if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _load(point: EntryPoint) -> Method:
    about = f"the method {point.name!r} of {_package(point)} cannot be used"
    try:
        found = point.load()
    except AmatuneError as error:
        raise RequestError(f"{about}: {error}") from error
    except Exception as error:  # whatever another package does when it is imported
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise RequestError(
            f"{about}: {point.value} raises {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(found, Method):
        raise RequestError(f"{about}: {point.value} is not a Method but {found!r}")
    if found.name != point.name:
        raise RequestError(
            f"{about}: {point.value} calls itself {found.name!r}; its entry point must have that "
            "name"
        )
    return found
