"""Whether values, also those read from a file, are what the fields of a dataclass may be."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any


def wrong_types(cls: type, values: Mapping[str, Any]) -> list[str]:
    """One phrase for each of `values` that is not what the field of `cls` with its name may be."""
    hints = typing.get_type_hints(cls)
    return [
        f"{name} must be {describe(hints[name])}, got {values[name]!r}"
        for name in hints
        if name in values and not fits(values[name], hints[name])
    ]


def missing(cls: type, values: Mapping[str, Any]) -> list[str]:
    """The fields of a dataclass that have no default and are not among `values`."""
    return [
        field.name
        for field in dataclasses.fields(cls)
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: a plain one, `Any`, or, in each other, unions, `Literal`,
    `tuple[X, ...]`, `tuple[X, Y]` and `Mapping`; of any other generic type, its origin.

    A whole number is a `float` too, an infinite one is not; true and false are no numbers.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in inner)
    if origin is typing.Literal:
        return not isinstance(value, bool) and any(value == option for option in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = inner[:1] * len(value) if inner[-1] is ... else inner
        return len(each) == len(value) and all(map(fits, value, each))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return False
        return all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if origin is not None:
        return isinstance(value, origin)
    if hint in (int, float):
        kind = int if hint is int else int | float
        return isinstance(value, kind) and not isinstance(value, bool) and _is_finite(value)
    return isinstance(value, hint)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def describe(hint: Any) -> str:
    """A type in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in inner)
    if origin is typing.Literal:
        return " or ".join(repr(option) for option in inner)
    if origin is tuple:
        return f"a list of {' and '.join(describe(one) for one in inner if one is not ...)}"
    if origin is not None and issubclass(origin, Mapping):
        return "an object" if inner[1] is Any else f"an object of {describe(inner[1])}"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


_WORDS: dict[Any, str] = {
    type(None): "None",
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
}
