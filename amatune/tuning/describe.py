"""What a search space holds, found out by asking it; and what a configuration holds."""

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from amatune.registry import Method
from amatune.tuning.proposals import random_trials

# Branches of a conditional space are found by drawing at random; one taken with probability 1/20
# is missed by this many draws once in 28,000 times.
_DRAWS = 200


@dataclass(frozen=True)
class Parameter:
    """One searched setting."""

    name: str
    range: str  # "1e-05 to 0.001, log scale", "shell, ray or cube"
    default: Any  # of the method's configuration
    condition: str  # "geometry = shell or ray"; empty when it is always suggested


def describe_space(method: Method) -> list[Parameter]:
    """The settings a search of `method` suggests, in the order the space asks for them."""
    config = method.detector.Config
    trials = list(random_trials(_DRAWS))
    for trial in trials:
        method.space(trial)

    # A name can have another range in each branch; each is a row.
    found: dict[tuple[str, BaseDistribution], list[int]] = {}
    for index, trial in enumerate(trials):
        for key in trial.distributions.items():
            found.setdefault(key, []).append(index)
    defaults = {field.name: field.default for field in fields(config)}
    draws = [trial.params for trial in trials]
    return [
        Parameter(name, _range(rule), defaults.get(name), _condition(name, set(having), draws))
        for (name, rule), having in found.items()
    ]


@dataclass(frozen=True)
class Setting:
    """A field of a method's configuration."""

    name: str
    kind: str  # "a finite number", "'one' or 'all'"
    default: Any
    meaning: str  # the comment beside it


def describe_settings(method: Method) -> list[Setting]:
    """Every setting of `method`, searched or not, in the order of its configuration."""
    config = method.detector.Config
    comments: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if is_dataclass(cls):
            comments |= _field_comments(cls)
    return [
        Setting(field.name, kind, field.default, comments.get(field.name, ""))
        for field, kind in zip(fields(config), config.kinds().values(), strict=True)
    ]


def _field_comments(cls: type) -> dict[str, str]:
    """The comments on the lines of a class's fields."""
    found = {}
    lines = inspect.getsource(cls)
    names: dict[int, str] = {}
    for node in ast.walk(ast.parse(textwrap.dedent(lines))):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.end_lineno or node.lineno] = node.target.id
    for token in tokenize.generate_tokens(io.StringIO(textwrap.dedent(lines)).readline):
        if token.type == tokenize.COMMENT and token.start[0] in names:
            found[names[token.start[0]]] = token.string.removeprefix("#").strip()
    return found


def _range(distribution: BaseDistribution) -> str:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return _listed(choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            steps = f", step {step}" if step != 1 else ""
            return f"{low} to {high}{steps}{_scale(log)}"
        case FloatDistribution(low=low, high=high, step=step, log=log):
            steps = f", step {step:g}" if step is not None else ""
            return f"{low:g} to {high:g}{steps}{_scale(log)}"
    return str(distribution)


def _scale(log: bool) -> str:
    return ", log scale" if log else ""


def _condition(name: str, having: set[int], draws: Sequence[Mapping[str, Any]]) -> str:
    """The setting whose value decides whether `name` is suggested as in the draws `having`."""
    if len(having) == len(draws):
        return ""
    with_it = [draw for index, draw in enumerate(draws) if index in having]
    without = [draw for index, draw in enumerate(draws) if index not in having]
    for other in with_it[0]:
        if other == name or not all(other in draw for draw in with_it):
            continue
        values = {draw[other] for draw in with_it}
        # A number that never repeats separates any two groups and explains nothing.
        if len(values) < len(draws) / 10 and values.isdisjoint(d.get(other) for d in without):
            return f"{other} = {_listed(sorted(values, key=str))}"
    return "in some trials"


def _listed(values: Sequence[Any]) -> str:
    words = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} or {words[-1]}"
