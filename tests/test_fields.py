"""Values against the types of dataclass fields."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from amatune.fields import describe, fits, missing, wrong_types


@dataclass
class Thing:
    name: str
    sizes: tuple[int, ...]
    kind: Literal["one", "all"] = "one"
    share: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("value", "hint", "holds"),
    [
        ("a", str, True),
        (b"a", str, False),
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (1.5, float, True),
        (False, float, False),
        (float("nan"), float, False),
        (float("inf"), float, False),
        (True, bool, True),
        (1, bool, False),
        (None, float | None, True),
        ("x", float | None, False),
        ("one", Literal["one", "all"], True),
        ("two", Literal["one", "all"], False),
        ([], Literal["one", "all"], False),
        (1, Literal[1, 2], True),
        (True, Literal[1, 2], False),
        ((1, 2), tuple[int, ...], True),
        ([1, 2], tuple[int, ...], False),
        ((1, "2"), tuple[int, ...], False),
        ((1, 2.5), tuple[int, float], True),
        ((1, 2, 3), tuple[int, int], False),
        ((1,), tuple[int, int], False),
        ([1], list[int], True),
        ({1}, list[int], False),
        ({"a": 1}, Mapping[str, int], True),
        ({"a": "1"}, Mapping[str, int], False),
        ({1: 1}, Mapping[str, int], False),
        ([1], Mapping[str, int], False),
        ({"a": {"b": 1.5}}, Mapping[str, Mapping[str, float]], True),
        (({"a": [object()]},), tuple[Mapping[str, Any], ...], True),
    ],
)
def test_values_and_types(value: Any, hint: Any, holds: bool) -> None:
    assert fits(value, hint) == holds


def test_wrong_types_are_said_in_words() -> None:
    good = {"name": "a", "sizes": (1,), "share": 1, "settings": {"lr": None}, "other": 3}
    assert wrong_types(Thing, good) == []
    assert wrong_types(Thing, {"name": 1, "sizes": [1], "kind": "x", "share": "x"}) == [
        "name must be text, got 1",
        "sizes must be a list of a whole number, got [1]",
        "kind must be 'one' or 'all', got 'x'",
        "share must be a finite number or None, got 'x'",
    ]
    assert describe(Mapping[str, bool]) == "an object of true or false"
    assert describe(tuple[int, str]) == "a list of a whole number and text"


def test_fields_without_a_default_must_be_there() -> None:
    assert missing(Thing, {"sizes": ()}) == ["name"]
    assert missing(Thing, {"sizes": (), "name": ""}) == []
