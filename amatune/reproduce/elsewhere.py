"""Cells of a table that were computed elsewhere: figures as they are written and read again."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from amatune.errors import RequestError
from amatune.files import read_json, read_text
from amatune.reading import build
from amatune.reproduce.tables import Table
from amatune.results.leaderboard import Leaderboard, TestFigures
from amatune.wording import visible

SCHEMA = 2
CONTROLS = ("PCA", "PCA / complexity", "mean brightness")  # that need no detector
BEST_CONTROL = "best by validation"
_MOST_BYTES = 2**24
_MOST = 10**9  # hours, or trials
_LONGEST = 100  # characters of a score's name
_SAME = 5e-4  # an AUROC on the same images, computed twice, and what is rounded of differences


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What came out of one row in one column."""

    test: TestFigures | None = None  # None where it has not been tested
    score: str = ""
    default: TestFigures | None = None  # of the default settings
    trials: int = 0
    seeds: int = 0
    hours: float = 0.0  # of the search's trainings, added up
    # AUROC of the row that this one is compared with minus its own, on the same images, and p of
    # the paired test, corrected by Holm for all such pairs of the column.
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

    A column may be in several files, some runs in each, where all were tested on the same images.
    Raises `RequestError` for a file that is no such table, is of another table or scale, or has
    what another file has too, or a column of other images than another file.
    """
    beside = {row.name: row.beside for row in table.rows}
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
                _check(name, column, table)
        except RequestError as error:
            raise RequestError(f"{file} is no table that can be joined: {error!s:.200}") from None
        for name, column in saved.columns.items():
            # A difference from a training that is not in the file is left out.
            cells = {
                row: cell
                if beside[row] in column.cells
                else dataclasses.replace(cell, behind=None, p=None)
                for row, cell in column.cells.items()
            }
            own = dataclasses.replace(column, cells=cells, file=visible(str(file)))
            found[name] = _together(name, found[name], own, table) if name in found else own
    return found


def _together(name: str, one: SavedColumn, other: SavedColumn, table: Table) -> SavedColumn:
    """The rows of both."""
    runs = {row.name: row.origin for row in table.rows}
    if twice := sorted({runs[r] for r in one.cells} & {runs[r] for r in other.cells}):
        raise RequestError(
            f"{twice[0]} of {name} is in {one.file} and in {other.file}; give one of them, or "
            "remove it from one, with all that is read from its run"
        )
    if apart := other_images(one.controls, other.controls):
        raise RequestError(
            f"{name} cannot be put together from {one.file} and {other.file}: {apart}"
        )
    return SavedColumn(
        cells={**one.cells, **other.cells},
        controls={**other.controls, **one.controls},
        file=f"{one.file} and {other.file}",
    )


def controls_of(board: Leaderboard) -> dict[str, TestFigures]:
    """What a run has of measures that need no detector, by name."""
    known = {baseline.name: baseline.test for baseline in board.baselines}
    if board.baselines:
        known[BEST_CONTROL] = board.baselines[0].test
    return {name: known[name] for name in (*CONTROLS, BEST_CONTROL) if name in known}


def other_images(one: Mapping[str, TestFigures], other: Mapping[str, TestFigures]) -> str | None:
    """Why two places cannot be known to have tested on the same images: a measure that needs no
    detector differs, or none is in both. None where all agree."""
    both = [name for name in CONTROLS if name in one and name in other]
    for name in both:
        ours, theirs = one[name].auroc, other[name].auroc
        if abs(ours - theirs) > _SAME:
            return (
                f"they are not of the same images, since the AUROC of {name} is {ours:.4f} in one, "
                f"{theirs:.4f} in the other"
            )
    return None if both else "nothing tells whether they are of the same images"


def _check(name: str, column: SavedColumn, table: Table) -> None:
    """Raise `RequestError` for figures that no run can have."""
    rows = {row.name: row for row in table.rows}
    if not column.cells:
        raise RequestError(f"nothing of {name!r:.80} has been tested")
    for control in column.controls.values():
        _check_test(control)
    for row, one in column.cells.items():
        if row not in rows:
            raise RequestError(f"it has a row {row!r:.80}, which {table.name} has not")
        if one.test is None:
            raise RequestError(f"{row} of {name!r:.80} has not been tested")
        for test in (one.test, one.default):
            _check_test(test)
        if min(one.hours, one.trials, one.seeds) < 0 or (
            max(one.hours, one.trials, one.seeds) > _MOST
        ):
            raise RequestError("hours, trials and seeds must be numbers of things, not negative")
        if len(one.score) > _LONGEST or not one.score.isprintable():
            raise RequestError(f"a score cannot be called {one.score!r:.80}")
        if (one.behind is None) != (one.p is None):
            raise RequestError("behind and p must be there both, or neither")
        beside = column.cells.get(rows[row].beside, Figures()).test
        if one.behind is not None and beside is not None:
            apart = beside.auroc - one.test.auroc
            if abs(one.behind - apart) > _SAME or not 0 <= (one.p or 0) <= 1:
                raise RequestError(
                    f"{row} of {name!r:.80} cannot be {one.behind} behind, nor p {one.p}: the "
                    f"AUROCs differ by {apart:.4f}"
                )
    if unknown := sorted(set(column.controls) - {*CONTROLS, BEST_CONTROL}):
        raise RequestError(f"there is no measure {unknown[0]!r:.80}")


def _check_test(test: TestFigures | None) -> None:
    given = () if test is None else vars(test).values()
    # A hair above 1 is rounding: runs of before are kept with it.
    if not all(0 <= value <= 1 + 1e-9 for value in given if value is not None):
        raise RequestError("figures of a test must be in [0, 1]")
