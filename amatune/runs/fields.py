"""Whether values read from a file are what the fields of a dataclass may be."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any


def wrong_types(cls: type, values: Mapping[str, Any]) -> list[str]:
    """One phrase for each of `values` that is not what the field of `cls` with its name may be.

    Understands plain types, `Literal`, unions, `Mapping`, `tuple[X, ...]` and `Any`, nested in
    each other; of a whole number a `float` may be made, of true and false neither.
    """
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
    """Whether a value is of a type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in inner)
    if origin is typing.Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(one, inner[0]) for one in value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return False
        return all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if hint in (int, float):
        numbers = int if hint is int else int | float
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, hint)


def describe(hint: Any) -> str:
    """A type in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in inner)
    if origin is typing.Literal:
        return " or ".join(repr(option) for option in inner)
    if origin is tuple:
        return f"a list, each {describe(inner[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return "an object"
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return words.get(hint, "null" if hint is type(None) else getattr(hint, "__name__", str(hint)))
