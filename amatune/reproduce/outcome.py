"""What came out of a table, beside what was published.

Cells are made of the runs that are there, or taken from a table that was written elsewhere: always
whole columns, since methods are compared image by image.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from amatune.errors import RequestError
from amatune.reproduce.elsewhere import BEST_CONTROL, CONTROLS, Figures, SavedColumn
from amatune.reproduce.plan import Job, Plan, run_name
from amatune.reproduce.run import failures
from amatune.reproduce.tables import Column, Row
from amatune.results.difference import holm, paired_difference
from amatune.results.leaderboard import Leaderboard, TestFigures, kept_test_scores, read_leaderboard
from amatune.results.selection import SeedScores

CLAIMED = "ama"  # the row that the paper has first
FEWEST = 6  # problems for a signed-rank test: with fewer, no p can be below .05


@dataclass(frozen=True, kw_only=True)
class Cell(Figures):
    """One row in one column."""

    row: Row
    column: Column
    published: float | None
    why: str = ""  # it is empty


@dataclass(frozen=True, kw_only=True)
class GroupTest:
    """The claimed row against another, over problems (Demsar, JMLR 7, 2006)."""

    group: str
    other: Row
    problems: int
    ahead: int  # in how many the claimed row is
    difference: float  # of the mean AUROC
    p: float | None  # signed-rank, corrected by Holm; None for fewer than `FEWEST` problems


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A table as far as it is there."""

    plan: Plan
    cells: Mapping[tuple[str, str], Cell]  # (row, column), names of both
    controls: Mapping[str, Mapping[str, TestFigures]]  # name -> column -> test
    tests: tuple[GroupTest, ...]

    def mean(self, row: Row, group: str) -> tuple[float, int] | None:
        """Over the tested problems of a group, and how many these are."""
        columns = self.plan.table.groups[group]
        found = [
            cell.test.auroc
            for name in columns
            if (cell := self.cells.get((row.name, name))) is not None and cell.test is not None
        ]
        return (statistics.fmean(found), len(found)) if found else None

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
        if (saved := plan.elsewhere.get(column.name)) is not None:
            for row in plan.table.rows:
                published = plan.table.published.get(row.name, {}).get(column.name)
                cells[row.name, column.name] = _saved_cell(row, column, published, saved)
            for control, figures in saved.controls.items():
                controls.setdefault(control, {})[column.name] = figures
            continue
        own: dict[str, Cell] = {}
        seen: dict[str, list[SeedScores]] = {}
        for row in plan.table.rows:
            name = run_name(row, column)
            published = plan.table.published.get(row.name, {}).get(column.name)
            board = boards.get(name)
            if board is None:
                why = (
                    plan.missing.get(row.name)
                    or plan.missing.get(row.run)
                    or plan.missing.get(column.name)
                    or failed.get(name, "not run yet")
                )
                own[row.name] = Cell(row=row, column=column, published=published, why=why)
                continue
            score = row.score or board.primary_score
            own[row.name] = _cell(row, column, published, board, score, jobs[name])
            seen[row.name] = kept_test_scores(board, board.chosen, score)
            _add_controls(controls, column, board)
        cells |= {(name, column.name): cell for name, cell in _compared(own, seen).items()}
    tests = tuple(test for group in plan.table.groups for test in _group_tests(plan, cells, group))
    return Outcome(plan=plan, cells=cells, controls=controls, tests=tests)


def _board(job: Job) -> Leaderboard | None:
    if not job.tested:
        return None
    try:
        return read_leaderboard(job.run)
    except RequestError:
        return None


def _cell(
    row: Row,
    column: Column,
    published: float | None,
    board: Leaderboard,
    score: str,
    job: Job,
) -> Cell:
    plain = next((one for one in board.rows if one.default), None)
    return Cell(
        row=row,
        column=column,
        published=published,
        test=board.chosen.test[score],
        score=score,
        default=None if plain is None else plain.test[score],
        trials=job.request.trials if board.effort is None else board.effort.trials,
        seeds=len(board.chosen.seeds),
        hours=0.0 if board.effort is None else board.effort.hours,
    )


def _saved_cell(row: Row, column: Column, published: float | None, saved: SavedColumn) -> Cell:
    found = saved.cells.get(row.name, Figures())
    why = "" if found.test else f"not in {saved.file}"
    return Cell(row=row, column=column, published=published, why=why, **vars(found))


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


def _add_controls(
    controls: dict[str, dict[str, TestFigures]], column: Column, board: Leaderboard
) -> None:
    """Every run of a column has the same; the first that is read gives them."""
    known = {baseline.name: baseline.test for baseline in board.baselines}
    if board.baselines:
        known[BEST_CONTROL] = board.baselines[0].test
    for name in (*CONTROLS, BEST_CONTROL):
        if name in known:
            controls.setdefault(name, {}).setdefault(column.name, known[name])


def _compared(
    cells: Mapping[str, Cell], scores: Mapping[str, Sequence[SeedScores]]
) -> dict[str, Cell]:
    """The cells of a column, each but the claimed one and its other scores tested against it."""
    others = [n for n in scores if n != CLAIMED and cells[n].row.run != CLAIMED]
    if CLAIMED not in scores or not others:
        return dict(cells)
    tests = [paired_difference(scores[CLAIMED], scores[name]) for name in others]
    corrected = holm([test.p for test in tests])
    found = dict(cells)
    for name, test, p in zip(others, tests, corrected, strict=True):
        found[name] = dataclasses.replace(cells[name], behind=test.difference, p=p)
    return found


def _group_tests(plan: Plan, cells: Mapping[tuple[str, str], Cell], group: str) -> list[GroupTest]:
    found, ps = [], []
    for row in plan.table.rows:
        if row.name == CLAIMED or row.run == CLAIMED:
            continue
        both = [
            (mine.test.auroc, theirs.test.auroc)
            for name in plan.table.groups[group]
            if (mine := cells.get((CLAIMED, name))) is not None
            and (theirs := cells.get((row.name, name))) is not None
            and mine.test is not None
            and theirs.test is not None
        ]
        if not both:
            continue
        apart = [mine - theirs for mine, theirs in both]
        tested = len(both) >= FEWEST and any(apart)
        ps.append(float(stats.wilcoxon(apart).pvalue) if tested else None)
        found.append(
            GroupTest(
                group=group,
                other=row,
                problems=len(both),
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
