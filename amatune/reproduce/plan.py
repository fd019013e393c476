"""A table as the searches that fill it."""

import contextlib
import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from amatune.data.catalogue import dataset_info, find_dataset, is_path
from amatune.errors import RequestError, did_you_mean
from amatune.registry import method_names
from amatune.reproduce.elsewhere import SavedColumn, controls_of, other_images
from amatune.reproduce.scales import Kind, Scale
from amatune.reproduce.tables import Column, Row, Table
from amatune.results.leaderboard import read_leaderboard
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest
from amatune.tuning.options import SearchOptions, budgeted, with_options
from amatune.tuning.seeds import derive_seed

_BETWEEN = "--"  # column and row in the name of a run
_COLOUR = frozenset({"cifar10", "cifar100", "svhn", "imagenet-resize"})


@dataclass(frozen=True, kw_only=True)
class Job:
    """A search with its retraining and its test: one cell, or those of a run's several scores."""

    row: Row
    column: Column
    request: SearchRequest
    top: int
    seeds: int

    @property
    def name(self) -> str:
        """Of the run."""
        return run_name(self.row, self.column)

    @property
    def run(self) -> RunFolder:
        """Where it is, or will be."""
        return RunFolder(Path(self.request.runs_dir) / self.name)

    @property
    def tested(self) -> bool:
        """Whether there is nothing left to do: there is a leaderboard, and it can be read."""
        try:
            read_leaderboard(self.run)
        except RequestError:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done, and what cannot be."""

    table: Table  # the rows and columns that were asked for
    scale: Scale
    folder: Path
    jobs: tuple[Job, ...]
    missing: Mapping[str, str]  # row or column -> why it stays empty
    # Column -> figures from elsewhere. A run all of whose rows are there is not among the jobs.
    elsewhere: Mapping[str, SavedColumn] = field(default_factory=dict)
    # Column -> why figures from elsewhere cannot be put beside the runs that are here.
    apart: Mapping[str, str] = field(default_factory=dict)
    # Runs that are here and elsewhere: those here are shown.
    both: tuple[str, ...] = ()

    @property
    def taken(self) -> frozenset[str]:
        """Runs whose figures come from elsewhere."""
        return frozenset(
            run_name(row, column)
            for column in self.table.columns
            if column.name in self.elsewhere
            for row in self.table.rows
            if _is_whole(row, self.table.rows, self.elsewhere[column.name])
        )

    @property
    def trainings(self) -> int:
        """Of all that is not tested yet, at most: searches stop poor trials early."""
        scale = self.scale
        each = scale.trials + (scale.top + 1) * scale.seeds
        return each * sum(not job.tested for job in self.jobs)


def run_name(row: Row, column: Column) -> str:
    """Of the run that fills a cell."""
    return f"{column.name}{_BETWEEN}{row.origin}"


def make_plan(
    table: Table,
    scale: Scale,
    runs_dir: Path,
    *,
    methods: Collection[str] = (),
    only: Collection[str] = (),
    sources: Mapping[str, str] | None = None,
    elsewhere: Mapping[str, SavedColumn] | None = None,
    data_dir: Path | None = None,
    address: str | None = None,
    concurrent: int | None = None,
    seed: int = 0,
) -> Plan:
    """The jobs of a table, column by column.

    `methods` are names of rows, all for none; `only` names of columns, or what some begin with.
    `sources` say which file or folder stands for a named set, `npz:PATH` for instance. `elsewhere`
    are cells that were computed in another place: they are taken as they are, unless they have been
    tested here. Each column has a seed of its own; the methods share it, and with it the splits.

    Raises `RequestError` for names that are not known.
    """
    sources = dict(sources or {})
    _check_sources(table, sources)
    rows = _asked_rows(table, methods)
    columns = _asked_columns(table, only)
    missing = {
        row.name: f"the method {row.method} is not installed"
        for row in rows
        if row.method not in method_names()
    }
    named = {name for one in columns for name in (one.dataset, *one.ood)} - sources.keys()
    known = {name: find_dataset(name, data_dir) for name in sorted(named)}
    for column in columns:
        for name in (column.dataset, *column.ood):
            found = known.get(name)
            if found and found.by_hand and found.state in ("missing", "incomplete"):
                missing[column.name] = (
                    f"{name} has to be put into the data folder by hand; `amatune datasets {name}` "
                    "says where from and where to"
                )
    # Splits and proposals of another seed are other runs.
    folder = runs_dir / f"{table.name}-{scale.name}{f'-seed{seed}' if seed else ''}"
    both, taken, apart = _divided(table, columns, folder, elsewhere or {})
    jobs = []
    for column in columns:
        there = taken.get(column.name)
        for row in rows:
            if row.run or row.name in missing:
                continue
            if there is not None and _is_whole(row, rows, there):
                continue
            run = RunFolder(folder / run_name(row, column))
            if column.name in missing and not run.leaderboard.exists():
                continue
            kind: Kind = "colour" if column.dataset in _COLOUR else "grey"
            cost = scale.budget(row.method, kind)
            options: SearchOptions = {
                **_problem(column, sources),
                "seed": derive_seed(seed, column.name),
                "method": row.method,
                "trials": scale.trials,
                "epochs": cost.epochs,
                "steps": cost.steps,
                "fix": {**scale.fixed(row.method, kind), **row.fixed},
                "address": address,
                "concurrent": concurrent,
                "name": run_name(row, column),
                "runs_dir": folder,
                "data_dir": data_dir,
            }
            request = with_options(SearchRequest(), budgeted(options))
            jobs.append(
                Job(row=row, column=column, request=request, top=scale.top, seeds=scale.seeds)
            )
    asked = dataclasses.replace(table, rows=rows, columns=columns)
    return Plan(
        table=asked,
        scale=scale,
        folder=folder,
        jobs=tuple(jobs),
        missing=missing,
        elsewhere=taken,
        apart=apart,
        both=both,
    )


def _is_whole(row: Row, rows: Collection[Row], saved: SavedColumn) -> bool:
    """Whether all rows that are read from this one's run are there."""
    return all(one.name in saved.cells for one in rows if one.origin == row.origin)


def _divided(
    table: Table,
    columns: Collection[Column],
    folder: Path,
    elsewhere: Mapping[str, SavedColumn],
) -> tuple[tuple[str, ...], dict[str, SavedColumn], dict[str, str]]:
    """Runs that are in both places; by column what is only elsewhere; and why a column's is not
    taken, where runs here may be of other images."""
    both: list[str] = []
    taken: dict[str, SavedColumn] = {}
    apart: dict[str, str] = {}
    for column in columns:
        if column.name not in elsewhere:
            continue
        saved = elsewhere[column.name]
        cells = saved.cells
        for row in table.rows:
            run = RunFolder(folder / run_name(row, column))
            if row.run or not run.leaderboard.exists():
                continue
            with contextlib.suppress(RequestError):
                why = other_images(controls_of(read_leaderboard(run)), saved.controls)
                if why is not None:
                    apart[column.name] = f"what is in {saved.file} is left out: {why}"
            shown = {one.name for one in table.rows if one.origin == row.name}
            if shown & cells.keys():
                both.append(run.path.name)
                cells = {name: cell for name, cell in cells.items() if name not in shown}
        if cells and column.name not in apart:
            taken[column.name] = dataclasses.replace(saved, cells=cells)
    return tuple(both), taken, apart


def _asked_rows(table: Table, names: Collection[str]) -> tuple[Row, ...]:
    known = [row.name for row in table.rows]
    for name in names:
        if name not in known:
            raise RequestError(f"{table.name} has no row {name!r}, {did_you_mean(name, known)}")
    if not names:
        return table.rows
    # The scores of a run are shown with it, and one of them needs the run.
    needed = {*names, *(row.run for row in table.rows if row.run and row.name in names)}
    return tuple(row for row in table.rows if row.name in needed or row.run in needed)


def _asked_columns(table: Table, names: Collection[str]) -> tuple[Column, ...]:
    known = [column.name for column in table.columns]
    for name in names:
        if not any(one == name or one.startswith(f"{name}-") for one in known):
            raise RequestError(f"{table.name} has no column {name!r}, {did_you_mean(name, known)}")
    if not names:
        return table.columns
    return tuple(
        column
        for column in table.columns
        if any(column.name == name or column.name.startswith(f"{name}-") for name in names)
    )


def _check_sources(table: Table, sources: Mapping[str, str]) -> None:
    known = sorted({name for one in table.columns for name in (one.dataset, *one.ood)})
    for name, place in sources.items():
        if name not in known:
            raise RequestError(
                f"{table.name} has no data set {name!r}, {did_you_mean(name, known)}"
            )
        if not is_path(place):
            raise RequestError(f"what stands for {name} is npz:PATH or folder:PATH, got {place!r}")


def _problem(column: Column, sources: Mapping[str, str]) -> SearchOptions:
    found: SearchOptions = {
        "dataset": sources.get(column.dataset, column.dataset),
        "ood": [sources.get(name, name) for name in column.ood],
    }
    if (number := column.normal_class) is not None:
        # Arrays have their labels for names.
        own = column.dataset in sources
        name = str(number) if own else dataset_info(column.dataset).classes[number]
        found["normal_class"] = [name]
    return found
