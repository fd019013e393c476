"""What came out of a table, beside what was published.

Cells are made of the runs that are there, or taken from a table that was written elsewhere. Methods
are compared image by image where both were tested in one place.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from amatune.errors import RequestError
from amatune.reproduce.elsewhere import (
    BEST_CONTROL,
    Figures,
    SavedColumn,
    controls_of,
    other_images,
)
from amatune.reproduce.plan import Job, Plan, run_name
from amatune.reproduce.run import failures
from amatune.reproduce.tables import CLAIMED, CLAIMED_CHOSEN, Column, Row
from amatune.results.difference import holm, paired_difference
from amatune.results.leaderboard import Leaderboard, TestFigures, kept_test_scores, read_leaderboard
from amatune.results.selection import SeedScores

FEWEST = 6  # problems for a signed-rank test: with fewer, no p can be below .05


@dataclass(frozen=True, kw_only=True)
class Cell(Figures):
    """One row in one column."""

    row: Row
    column: Column
    published: float | None
    why: str = ""  # it is empty
    apart: str = ""  # why it has not been compared image by image, where its scores are missing


@dataclass(frozen=True, kw_only=True)
class GroupTest:
    """A row against another, over problems (Demsar, JMLR 7, 2006)."""

    group: str
    own: str  # title
    other: str
    problems: int
    ahead: int  # in how many the first is
    difference: float  # of the mean AUROC
    p: float | None  # signed-rank, corrected by Holm; None for fewer than `FEWEST` problems


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A table as far as it is there."""

    plan: Plan
    cells: Mapping[tuple[str, str], Cell]  # (row, column), names of both
    controls: Mapping[str, Mapping[str, TestFigures]]  # name -> column -> test
    tests: tuple[GroupTest, ...]

    @property
    def hours(self) -> float:
        """Of all searches' trainings."""
        return sum(cell.hours for cell in self.cells.values() if not cell.row.run)


def read_outcome(plan: Plan) -> Outcome:
    """What is there of a plan, here and in the columns that it takes from elsewhere."""
    failed = failures(plan)
    jobs = {job.name: job for job in plan.jobs}
    boards = {name: _board(job) for name, job in jobs.items()}
    cells: dict[tuple[str, str], Cell] = {}
    controls: dict[str, dict[str, TestFigures]] = {}
    for column in plan.table.columns:
        saved = plan.elsewhere.get(column.name)
        own: dict[str, Cell] = {}
        seen: dict[str, list[SeedScores]] = {}
        here: dict[str, TestFigures] = {}
        first = ""  # the run that `here` is of
        for row in plan.table.rows:
            name = run_name(row, column)
            published = plan.table.published.get(row.name, {}).get(column.name)
            board = boards.get(name)
            if board is None:
                board = (
                    plan.missing.get(row.name)
                    or plan.missing.get(row.run)
                    or plan.missing.get(column.name)
                    or failed.get(name, "not run yet")
                )
            elif isinstance(board, Leaderboard) and here:
                # A run of another --source, or from before the data changed, is none of the column.
                why = other_images(controls_of(board), here)
                told = f"{name} and {first}: {why}; remove the one that is of other images"
                board = told if why else board
            if isinstance(board, str):
                own[row.name] = Cell(row=row, column=column, published=published, why=board)
                continue
            own[row.name] = cell = _cell(row, column, published, board, jobs[name])
            try:
                seen[row.name] = kept_test_scores(board, board.chosen, cell.score)
            except RequestError as error:
                own[row.name] = dataclasses.replace(cell, apart=str(error))
            here, first = controls_of(board) | here, first or name
        own = _compared(own, seen)
        if saved is not None:
            apart = other_images(here, saved.controls) if seen else None
            own = _joined(own, saved, apart)
            here = here if apart else {**saved.controls, **here}
        cells |= {(name, column.name): cell for name, cell in own.items()}
        for control, figures in here.items():
            controls.setdefault(control, {})[column.name] = figures
    found = {key: cell.test for key, cell in cells.items() if cell.test is not None}
    found |= {(BEST_CONTROL, name): test for name, test in controls.get(BEST_CONTROL, {}).items()}
    tests = tuple(one for group in plan.table.groups for one in _group_tests(plan, found, group))
    return Outcome(plan=plan, cells=cells, controls=controls, tests=tests)


def _board(job: Job) -> Leaderboard | str | None:
    """The leaderboard of a run, or why it cannot be read; None where there is none yet."""
    if not job.run.leaderboard.exists():
        return None
    try:
        return read_leaderboard(job.run)
    except RequestError as error:
        return f"{error}, as does the same command without --table"


def _cell(
    row: Row,
    column: Column,
    published: float | None,
    board: Leaderboard,
    job: Job,
) -> Cell:
    """Where no score is named, that of the chosen settings and that of the defaults are each the
    one that validation took for them."""
    score = row.score or board.primary_score
    plain = board.control
    return Cell(
        row=row,
        column=column,
        published=published,
        test=board.chosen.test[score],
        score=score,
        default=None if plain is None else plain.test[row.score or plain.score],
        trials=job.request.trials if board.effort is None else board.effort.trials,
        seeds=len(board.chosen.seeds),
        hours=0.0 if board.effort is None else board.effort.hours,
    )


def _joined(own: Mapping[str, Cell], saved: SavedColumn, apart: str | None) -> dict[str, Cell]:
    """The cells of a column, with those from elsewhere, unless they may be of other images."""
    found = dict(own)
    for name, figures in saved.cells.items():
        if name not in own or own[name].test is not None:
            continue
        if apart:
            why = f"what is in {saved.file} cannot be put beside runs that are here: {apart}"
            found[name] = dataclasses.replace(own[name], why=why)
            continue
        values = vars(figures)
        beside = own[name].row.beside
        if beside in own and own[beside].test is not None:
            values = {**values, "behind": None, "p": None}  # they are of another training
        found[name] = dataclasses.replace(own[name], why="", **values)
    return found


def saved_columns(outcome: Outcome) -> dict[str, SavedColumn]:
    """The columns of which something is there, for `elsewhere` to read in another place."""
    found = {}
    for column in outcome.plan.table.columns:
        cells = {}
        for row in outcome.plan.table.rows:
            cell = outcome.cells[row.name, column.name]
            if cell.test is not None:
                values = {one.name: getattr(cell, one.name) for one in dataclasses.fields(Figures)}
                cells[row.name] = Figures(**values)
        if cells:
            controls = {
                name: tests[column.name]
                for name, tests in outcome.controls.items()
                if column.name in tests
            }
            found[column.name] = SavedColumn(cells=cells, controls=controls)
    return found


def _compared(
    cells: Mapping[str, Cell], scores: Mapping[str, Sequence[SeedScores]]
) -> dict[str, Cell]:
    """The cells of a column, each tested against the row that it is compared with."""
    pairs = {name: cells[name].row.beside for name in scores if cells[name].row.beside in scores}
    found = dict(cells)
    if not pairs:
        return found
    tests = [paired_difference(scores[beside], scores[name]) for name, beside in pairs.items()]
    corrected = holm([test.p for test in tests])
    for name, test, p in zip(pairs, tests, corrected, strict=True):
        found[name] = dataclasses.replace(cells[name], behind=test.difference, p=p)
    return found


def _group_tests(
    plan: Plan, tests: Mapping[tuple[str, str], TestFigures], group: str
) -> list[GroupTest]:
    """Of each row that others are compared with, of AMA with the score of the paper against what is
    compared with AMA's chosen score, and of both against what needs no detector."""
    titles = {row.name: row.title for row in plan.table.rows}
    pairs = [(row.beside, row.name) for row in plan.table.rows if row.beside in titles]
    own = [name for name in (CLAIMED_CHOSEN, CLAIMED) if name in titles]
    pairs += [(CLAIMED, other) for beside, other in pairs if beside == CLAIMED_CHOSEN]
    pairs += [(name, BEST_CONTROL) for name in own]
    titles[BEST_CONTROL] = f"what needs no detector, {BEST_CONTROL}"
    found: list[GroupTest] = []
    ps: list[float | None] = []
    for own_name, other in pairs:
        apart = [
            tests[own_name, name].auroc - tests[other, name].auroc
            for name in plan.table.groups[group]
            if (own_name, name) in tests and (other, name) in tests
        ]
        if not apart:
            continue
        if len(apart) < FEWEST:
            ps.append(None)
        else:
            ps.append(float(stats.wilcoxon(apart).pvalue) if any(apart) else 1.0)
        found.append(
            GroupTest(
                group=group,
                own=titles[own_name],
                other=titles[other],
                problems=len(apart),
                ahead=sum(one > 0 for one in apart),
                difference=statistics.fmean(apart),
                p=None,
            )
        )
    known = [p for p in ps if p is not None]
    corrected = iter(holm(known)) if known else itertools.repeat(0.0)
    return [
        one if p is None else dataclasses.replace(one, p=next(corrected))
        for one, p in zip(found, ps, strict=True)
    ]
