"""Cells of a table that were computed elsewhere: figures as they are written and read again."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from amatune.errors import RequestError
from amatune.files import read_json, read_text
from amatune.reading import build
from amatune.reproduce.tables import Table, compared_with
from amatune.results.leaderboard import TestFigures

SCHEMA = 2
CONTROLS = ("PCA", "PCA / complexity", "mean brightness")  # that need no detector
BEST_CONTROL = "best by validation"
_MOST_BYTES = 2**24
_MOST = 10**9  # hours, or trials
_LONGEST = 100  # characters of a score's name
# Of a control's AUROC on the same images, computed on two machines.
_SAME = 5e-4


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What came out of one row in one column."""

    test: TestFigures | None = None  # None where it has not been tested
    score: str = ""
    default: TestFigures | None = None  # of the default settings
    trials: int = 0
    seeds: int = 0
    hours: float = 0.0  # of the search's trainings, added up
    # AUROC of the row of AMA by the same rule minus this one's, on the same images, and p of the
    # paired test, corrected by Holm for the rows of the column.
    behind: float | None = None
    p: float | None = None


@dataclass(frozen=True, kw_only=True)
class SavedColumn:
    """What is there of a problem."""

    cells: dict[str, Figures]  # by row
    controls: dict[str, TestFigures]  # by name
    file: str = ""  # that it was read from, or those


@dataclass(frozen=True, kw_only=True)
class SavedTable:
    """The content of a file."""

    schema: int
    version: str  # of amatune
    table: str
    scale: str
    columns: dict[str, SavedColumn] = field(default_factory=dict)


def read_elsewhere(files: Sequence[Path], table: Table, scale: str) -> Mapping[str, SavedColumn]:
    """By name, the columns in files of a table that were written elsewhere.

    A column may be in several files, some rows in each, where all were tested on the same images.
    Raises `RequestError` for a file that is no such table, is of another table or scale, or has a
    cell that another file has too, or a column of other images than another file.
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
            if (saved.table, saved.scale) != (table.name, scale):
                raise RequestError(
                    f"it is of {saved.table:.20} at scale {saved.scale:.20}, not of {table.name} "
                    f"at scale {scale}"
                )
            if unknown := sorted(set(saved.columns) - {column.name for column in table.columns}):
                raise RequestError(
                    f"it has a column {unknown[0]!r:.80}, which {table.name} has not"
                )
            for name, column in saved.columns.items():
                _check(name, column)
        except RequestError as error:
            raise RequestError(f"{file} is no table that can be joined: {error!s:.200}") from None
        for name, column in saved.columns.items():
            cells = {row: _compared(row, column.cells, table) for row in column.cells}
            own = dataclasses.replace(column, cells=cells, file=str(file))
            found[name] = _together(name, found[name], own) if name in found else own
    return found


def _together(name: str, one: SavedColumn, other: SavedColumn) -> SavedColumn:
    """The rows of both."""
    if twice := sorted(set(one.cells) & set(other.cells)):
        raise RequestError(
            f"{twice[0]} of {name} is in {one.file} and in {other.file}; give one of them, or "
            "remove it from one"
        )
    if apart := other_images(one.controls, other.controls):
        raise RequestError(
            f"{name} cannot be put together from {one.file} and {other.file}, which were tested on "
            f"other images: {apart}"
        )
    return SavedColumn(
        cells={**one.cells, **other.cells},
        controls={**other.controls, **one.controls},
        file=f"{one.file} and {other.file}",
    )


def _compared(row: str, cells: Mapping[str, Figures], table: Table) -> Figures:
    """The cell, without a difference from a training that is not in the file."""
    beside = {one.name: compared_with(one) for one in table.rows}.get(row)
    if beside in cells:
        return cells[row]
    return dataclasses.replace(cells[row], behind=None, p=None)


def other_images(one: Mapping[str, TestFigures], other: Mapping[str, TestFigures]) -> str | None:
    """How measures that need no detector tell that they are not of the same images, else None."""
    for name in CONTROLS:
        if name in one and name in other:
            ours, theirs = one[name].auroc, other[name].auroc
            if abs(ours - theirs) > _SAME:
                return f"the AUROC of {name} is {ours:.4f} in one, {theirs:.4f} in the other"
    return None


def _check(name: str, column: SavedColumn) -> None:
    """Raise `RequestError` for figures that no run can have."""
    tested = [cell.test for cell in column.cells.values() if cell.test is not None]
    if not tested:
        raise RequestError(f"nothing of {name!r:.80} has been tested")
    for one in column.cells.values():
        if one.default is not None:
            tested.append(one.default)
        if (one.behind is None) != (one.p is None):
            raise RequestError("behind and p must be there both, or neither")
        if not (-1 <= (one.behind or 0) <= 1 and 0 <= (one.p or 0) <= 1):
            raise RequestError(f"a difference of AUROCs cannot be {one.behind}, nor p {one.p}")
        if min(one.hours, one.trials, one.seeds) < 0 or max(one.hours, one.trials) > _MOST:
            raise RequestError("hours, trials and seeds must be numbers of things, not negative")
        if len(one.score) > _LONGEST or not one.score.isprintable():
            raise RequestError(f"a score cannot be called {one.score!r:.80}")
    if unknown := sorted(set(column.controls) - {*CONTROLS, BEST_CONTROL}):
        raise RequestError(f"there is no measure {unknown[0]!r:.80}")
    for test in (*tested, *column.controls.values()):
        found = [value for value in vars(test).values() if value is not None]
        if not all(0 <= value <= 1 for value in found):
            raise RequestError("figures of a test must be in [0, 1]")
