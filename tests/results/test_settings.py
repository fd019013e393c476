"""Settings side by side."""

from typing import Any

import pytest

from amatune.results.settings import side_by_side


@pytest.mark.parametrize(
    ("values", "texts", "differs"),
    [
        ([0.3, 0.3], ["0.3", "0.3"], False),
        ([0.0012341, 0.0012342], ["0.0012341", "0.0012342"], True),
        ([0.0012341, 0.0012342, 0.5], ["0.0012341", "0.0012342", "0.5"], True),
        ([0.1 + 0.2, 0.3], ["0.30000000000000004", "0.29999999999999999"], True),
        ([[0.5, 1.23456], [0.5, 1.23457]], ["[0.5,1.23456]", "[0.5,1.23457]"], True),
        ([[0.5, 1.23456], [0.5, 1.23456]], ["[0.5,1.23]", "[0.5,1.23]"], False),
        ([1, 1.0], ["1", "1"], False),
        ([True, 1], ["true", "1"], True),
        ([None, "ray"], ["none", "ray"], True),
        ([0.12345, 0.5], ["0.123", "0.5"], True),
    ],
)
def test_values_that_differ_have_texts_that_differ(
    values: list[Any], texts: list[str], differs: bool
) -> None:
    (row,) = side_by_side([{"lr": value} for value in values])
    assert row.name == "lr"
    assert list(row.texts) == texts
    assert row.differs == differs


def test_a_setting_that_some_do_not_have_differs() -> None:
    rows = side_by_side([{"a": 1, "b": 2}, {"b": 2, "c": 3.0}])
    assert [(row.name, row.texts, row.differs) for row in rows] == [
        ("a", ("1", "-"), True),
        ("b", ("2", "2"), False),
        ("c", ("-", "3"), True),
    ]
