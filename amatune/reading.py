"""Saved values as typed objects: whatever a file of ours holds is checked when it is read."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from amatune import fields
from amatune.errors import RequestError

_T = TypeVar("_T")


def build(cls: type[_T], values: Any) -> _T:
    """A dataclass from the JSON `values` of its fields, also of those that are dataclasses, or
    lists or objects of such; names it does not have are passed over.

    Raises `RequestError` that says what is not there or not as it should be.
    """
    if not isinstance(values, Mapping):
        raise RequestError(f"there must be an object, got {values!r:.80}")
    if missing := fields.missing(cls, values):
        raise RequestError(f"{', '.join(missing)} not there")
    hints = typing.get_type_hints(cls)
    known: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(cls)):  # type: ignore[arg-type]
        if name in values:
            try:
                known[name] = _typed(hints[name], values[name])
            except RequestError as error:
                raise RequestError(f"in {name}: {error}") from None
    if wrong := fields.wrong_types(cls, known):
        raise RequestError("; ".join(wrong))
    return cls(**known)


def _typed(hint: Any, value: Any) -> Any:
    """The value as a field has it: tuples for lists, dataclasses for objects."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        others = [option for option in inner if option is not type(None)]
        return _typed(others[0], value) if len(others) == 1 and value is not None else value
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(typing.cast(type, hint), value)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(inner[0], one) for one in value)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {name: _typed(inner[1], one) for name, one in value.items()}
    return value
