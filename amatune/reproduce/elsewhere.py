"""Columns of a table that were computed elsewhere: figures as they are written and read again."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from amatune.errors import RequestError
from amatune.files import read_json, read_text
from amatune.reading import build
from amatune.results.leaderboard import TestFigures

SCHEMA = 1
_MOST_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What came out of one row in one column."""

    test: TestFigures | None = None  # None where it has not been tested
    score: str = ""
    default: TestFigures | None = None  # of the default settings
    trials: int = 0
    seeds: int = 0
    hours: float = 0.0  # of the search's trainings, added up
    # AUROC of the row that the paper has first minus this one's, on the same images, and p of the
    # paired test, corrected by Holm for the rows of the column.
    behind: float | None = None
    p: float | None = None


@dataclass(frozen=True, kw_only=True)
class SavedColumn:
    """All that is there of a problem."""

    cells: dict[str, Figures]  # by row
    controls: dict[str, TestFigures]  # by name
    file: str = ""  # that it was read from


@dataclass(frozen=True, kw_only=True)
class SavedTable:
    """The content of a file."""

    schema: int
    version: str  # of amatune
    table: str
    scale: str
    columns: dict[str, SavedColumn] = field(default_factory=dict)


def read_elsewhere(
    files: Sequence[Path], table: str, scale: str, known: Sequence[str]
) -> Mapping[str, SavedColumn]:
    """By name, the columns in tables that were written elsewhere; `known` are those of the table.

    Raises `RequestError` for a file that is no such table, is of another table or scale, or has a
    column that another file has too.
    """
    found: dict[str, SavedColumn] = {}
    for file in files:
        values = read_json(read_text(file, "a table", _MOST_BYTES), f"a table in {file}")
        if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
            raise RequestError(
                f"{file} is no table that this version can join; `amatune reproduce` writes such "
                "files as TABLE.json"
            )
        try:
            saved = build(SavedTable, values)
        except RequestError as error:
            raise RequestError(f"{file} is no table that can be joined: {error}") from None
        if (saved.table, saved.scale) != (table, scale):
            raise RequestError(
                f"{file} is of {saved.table} at scale {saved.scale}, not of {table} at scale "
                f"{scale}; what is joined must be of the same"
            )
        for name, column in saved.columns.items():
            if name not in known:
                raise RequestError(f"{file} has a column {name!r}, which {table} has not")
            if name in found:
                raise RequestError(
                    f"{name} is in {found[name].file} and in {file}; give one of them, or remove "
                    "it from one"
                )
            found[name] = dataclasses.replace(column, file=str(file))
    return found
