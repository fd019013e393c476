"""Search spaces: a method's own, or the user's from a file.

A Python file has `def space(trial)`, like those in `search_spaces`; it is the user's own program
and is run as such. A JSON file has the settings by name, in the order they are drawn:

    {"geometry": {"choices": ["shell", "ray"]},
     "delta": [{"low": 0.1, "high": 4, "log": true, "if": {"geometry": ["shell"]}},
               {"low": 0.05, "high": 1, "log": true, "if": {"geometry": ["ray"]}}],
     "k": {"low": 2, "high": 6}}

A run keeps the contents of the file in `run.json`, so that it can be continued without it. Only
`space_of` runs a program that is kept there.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from amatune.config import DetectorConfig, ImageShape
from amatune.data.protocol import machine_memory
from amatune.errors import ConfigError, RequestError, did_you_mean
from amatune.files import read_json, read_text, usable_path
from amatune.registry import Method, SearchSpace
from amatune.stored import lay_out, network_bytes
from amatune.tuning.proposals import random_trials
from amatune.wording import memory_size

MOST_BYTES = 2**20  # of a file with a search space
_LARGEST = 1e15  # of a range's numbers
_DRAWS = 50  # a space is tried out this often before it is searched
_LAID_OUT = 5  # ... of which so many are looked at for their size
_USUAL_SIDE = 64  # pixels
_TRAINED_TIMES = 4  # a network's bytes while it is trained: beside it gradients and Adam's moments
_RULES = frozenset({"choices", "low", "high", "step", "log", "if"})


class HeldFixed:
    """An Optuna trial for a space in which some names are not searched.

    They take their fixed value, also in the space's conditions, and never reach the study's
    parameters, so that the sampler does not model what does not vary.
    """

    def __init__(self, trial: Any, fixed: Mapping[str, Any]) -> None:
        self._trial = trial
        self._fixed = fixed

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> Any:
        """Like `optuna.Trial.suggest_float`."""
        return self._value("suggest_float", name, low, high, **options)

    def suggest_int(self, name: str, low: int, high: int, **options: Any) -> Any:
        """Like `optuna.Trial.suggest_int`."""
        return self._value("suggest_int", name, low, high, **options)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Like `optuna.Trial.suggest_categorical`."""
        return self._value("suggest_categorical", name, choices)

    def _value(self, kind: str, name: str, *rule: Any, **options: Any) -> Any:
        if name in self._fixed:
            return self._fixed[name]
        return getattr(self._trial, kind)(name, *rule, **options)


def read_space(path: str | Path) -> dict[str, Any]:
    """The contents of a file with a search space: {"python": source} or {"json": settings}.

    Raises `RequestError` when it cannot be read.
    """
    file = usable_path(path)
    text = read_text(file, "the search space", MOST_BYTES)
    if file.suffix == ".py":
        return {"python": text}
    if file.suffix != ".json":
        raise RequestError(f"a search space is a .py or a .json file, got {file}")
    settings = read_json(text, f"the search space {file}")
    if not isinstance(settings, dict) or not settings:
        raise RequestError(f"the search space {file} must be an object of settings by name")
    return {"json": settings}


def space_of(method: Method, given: Mapping[str, Any] | None) -> SearchSpace:
    """The space of a search: `given` as from `read_space`, or the method's own for None.

    One in Python is a program, which this runs: be sure that its author is trusted. Raises
    `RequestError` when it is no space.
    """
    if given is None:
        return method.space
    if "json" in given:
        return _json_space(method, given["json"])
    scope: dict[str, Any] = {"__name__": "user_space"}
    try:
        exec(compile(given["python"], "the search space", "exec"), scope)
    except (Exception, SystemExit) as error:
        raise RequestError(f"the search space raised {type(error).__name__}: {error}") from error
    space = scope.get("space")
    if not callable(space):
        raise RequestError("the search space has no function `space(trial)`")
    checked: SearchSpace = space
    return checked


def check_space(
    method: Method,
    space: SearchSpace,
    fixed: Mapping[str, Any],
    complete: Callable[[Mapping[str, Any]], DetectorConfig],
    require: Callable[[DetectorConfig], None] = lambda _: None,
) -> None:
    """Try a user's space out: whatever it draws must be settings of the method that go together.

    `complete` makes settings a configuration; `require` may refuse it, and is asked
    of some draws, since it takes its time. Raises `RequestError` that names what is wrong.
    """
    searched = False
    for number, trial in enumerate(random_trials(_DRAWS)):
        try:
            settings = space(HeldFixed(trial, fixed))
        except (Exception, SystemExit) as error:
            raise RequestError(
                f"the search space raised {type(error).__name__}: {error}"
            ) from error
        _check_names(method, settings, trial.params)
        try:
            config = complete({**settings, **fixed})
        except ConfigError as error:
            raise RequestError(f"the search space draws impossible settings: {error}") from None
        if number < _LAID_OUT:
            require(config)
        searched = searched or bool(trial.params)
    if not searched and not fixed:
        raise RequestError("the search space draws nothing, so that all trials would be the same")


def require_memory(method: Method, image_shape: ImageShape, config: DetectorConfig) -> None:
    """Raise `RequestError` for networks that no training on a machine like this one could hold.

    Laying them out takes a second or two, and is left out where they are no larger than usual.
    """
    usual, values = type(config)().resolve(image_shape).to_dict(), config.to_dict()
    numbers = [n for n, value in usual.items() if n != "epochs" and isinstance(value, int | float)]
    if max(image_shape) <= _USUAL_SIDE and all((values[n] or 0) <= usual[n] for n in numbers):
        return
    asked = _TRAINED_TIMES * network_bytes(lay_out(method.detector, config, image_shape))
    if asked > (there := machine_memory()):
        raise RequestError(
            f"training the networks of these settings takes {memory_size(asked)}, this machine has "
            f"{memory_size(there)}; choose smaller ones, such as another --width"
        )


def _check_names(method: Method, settings: Any, drawn: Mapping[str, Any]) -> None:
    if not isinstance(settings, dict):
        raise RequestError(f"the search space must return a dict of settings, got {settings!r}")
    known = set(method.detector.Config.__dataclass_fields__) - {"epochs"}
    for name in {**settings, **drawn}:
        if name not in known:
            raise RequestError(
                f"the search space draws {name!r}, which is no setting of {method.name}; "
                f"{did_you_mean(name, known)}"
            )
    for name, value in drawn.items():
        if settings.get(name) != value:
            raise RequestError(
                f"the search space draws {name}={value!r} but returns {settings.get(name)!r}: a "
                "setting must be searched under its own name and in its own unit"
            )


def _json_space(method: Method, settings: Mapping[str, Any]) -> SearchSpace:
    kinds = method.detector.Config.kinds()
    branches = {
        name: rules if isinstance(rules, list) else [rules] for name, rules in settings.items()
    }
    earlier: list[str] = []
    for name, rules in branches.items():
        if not rules:
            raise RequestError(
                f"the search space's {name} must be an object, or a list of one or more, got []"
            )
        for rule in rules:
            _check_rule(name, rule, kinds, earlier)
        earlier.append(name)

    def space(trial: Any) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        for name, rules in branches.items():
            for rule in rules:
                wanted = rule.get("if", {})
                if all(drawn.get(other) in values for other, values in wanted.items()):
                    drawn[name] = _suggest(trial, name, rule, whole="whole" in kinds[name])
                    break
        return drawn

    return space


def _check_rule(name: str, rule: Any, kinds: Mapping[str, str], earlier: Collection[str]) -> None:
    """Raise `RequestError` for a rule that is none; `earlier` are the settings drawn before it."""
    known = set(kinds) - {"epochs"}
    if name not in known:
        raise RequestError(
            f"the search space has {name!r}, which is no setting; {did_you_mean(name, known)}"
        )
    problem = None
    if not isinstance(rule, dict):
        problem = "must be an object, or a list of them"
    elif unknown := sorted(set(rule) - _RULES):
        problem = f"has {unknown[0]!r}; known: {', '.join(sorted(_RULES))}"
    elif ("choices" in rule) == ("low" in rule or "high" in rule):
        problem = 'needs either "choices", or "low" and "high"'
    elif "choices" in rule:
        problem = _wrong_choices(rule)
    else:
        problem = _wrong_range(rule, whole="whole" in kinds[name])
    problem = problem or _wrong_condition(rule, earlier)
    if problem:
        raise RequestError(
            f"the search space's {name} {problem}, got {json.dumps(rule, default=repr):.200}"
        )


def _wrong_choices(rule: Mapping[str, Any]) -> str | None:
    choices = rule["choices"]
    if not isinstance(choices, list) or not choices:
        return '"choices" must be a list of one or more values'
    plain = (str, int, float, bool, type(None))
    if not all(isinstance(one, plain) and _is_finite(one) for one in choices):
        return '"choices" must hold texts, numbers, true, false or null'
    if "step" in rule or "log" in rule:
        return 'has "choices", to which neither "step" nor "log" belongs'
    return None


def _wrong_range(rule: Mapping[str, Any], *, whole: bool) -> str | None:
    numbers = {end: rule[end] for end in ("low", "high", "step") if end in rule}
    if not {"low", "high"} <= set(numbers):
        return '"low" and "high" must be numbers'
    for end, number in numbers.items():
        if not _is_number(number) or not _is_finite(number):
            return (
                '"low" and "high" must be numbers' if end != "step" else '"step" must be a number'
            )
        if abs(number) > _LARGEST:
            return f'"{end}" must lie within {_LARGEST:g}'
        if whole and number != int(number):
            return f'is a whole number, and so must be "{end}"'
    if not isinstance(rule.get("log", False), bool):
        return '"log" must be true or false'
    if rule["low"] > rule["high"] or (rule.get("log") and rule["low"] <= 0):
        return '"low" must be at most "high", and positive with "log"'
    if "step" in rule and (rule["step"] <= 0 or rule.get("log")):
        return '"step" must be positive, and does not go with "log"'
    return None


def _wrong_condition(rule: Mapping[str, Any], earlier: Collection[str]) -> str | None:
    condition = rule.get("if", {})
    if not isinstance(condition, dict) or not all(isinstance(v, list) for v in condition.values()):
        return '"if" must hold lists of values by name'
    for other, values in condition.items():
        if other not in earlier:
            known = did_you_mean(other, earlier) if earlier else "there are none before it"
            return f'"if" names {other!r}, which is not drawn before it; {known}'
        if not values:
            return f'"if" must name a value of {other}'
    return None


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _suggest(trial: Any, name: str, rule: Mapping[str, Any], *, whole: bool) -> Any:
    if "choices" in rule:
        return trial.suggest_categorical(name, rule["choices"])
    options = {key: rule[key] for key in ("step", "log") if key in rule}
    if not whole:
        return trial.suggest_float(name, rule["low"], rule["high"], **options)
    if "step" in options:
        options["step"] = int(options["step"])
    return trial.suggest_int(name, int(rule["low"]), int(rule["high"]), **options)


class _Given:
    """Stands in for an Optuna trial: answers with given settings, or else the defaults, and
    refuses what the space does not draw."""

    def __init__(self, given: Mapping[str, Any], default: DetectorConfig) -> None:
        self._given = given
        self._default = default
        self.asked: set[str] = set()

    def _answer(self, name: str) -> Any:
        self.asked.add(name)
        return self._given.get(name, getattr(self._default, name))

    def _number(self, name: str, low: float, high: float, **_options: Any) -> Any:
        value = self._answer(name)
        if not _is_number(value) or not low <= value <= high:
            if name in self._given:
                raise RequestError(f"{name} must be in [{low:g}, {high:g}] here, got {value!r}")
            return min(max(value, low), high) if _is_number(value) else low
        return value

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Like `optuna.Trial.suggest_categorical`."""
        value = self._answer(name)
        if value not in choices:
            if name in self._given:
                listed = ", ".join(map(str, choices))
                raise RequestError(f"{name} must be one of {listed} here, got {value!r}")
            return choices[0]
        return value

    suggest_float = suggest_int = _number


def settings_to_try(
    space: SearchSpace, given: Mapping[str, Any], default: DetectorConfig, fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """`given` settings made whole: what the space draws and they leave out has its default.

    Raises `RequestError` for a name that the space does not draw, or a value outside its range.
    """
    stand_in = _Given(given, default)
    settings = space(HeldFixed(stand_in, fixed))
    others = [name for name in given if name not in stand_in.asked]
    contradicted = [n for n in others if n not in fixed or fixed[n] != given[n]]
    if contradicted:
        name = contradicted[0]
        how = f"it is held fixed at {fixed[name]!r}" if name in fixed else "it is not searched here"
        raise RequestError(f"cannot try {name}={given[name]!r}: {how}")
    return {name: settings[name] for name in settings if name in stand_in.asked}
