"""The comparison of runs, as a table, as Markdown, as CSV and as JSON."""

import csv
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from amatune.cli.output import make_console, say, tensorboard_of_all
from amatune.cli.tables import cell, make_table, never_cut
from amatune.wording import (
    counted,
    csv_cell,
    figure,
    interval,
    markdown_cell,
    sentence,
    visible,
)

if TYPE_CHECKING:
    from amatune.results.comparison import ComparedRun, RunComparison

_COLUMNS: dict[str, Callable[["ComparedRun"], str]] = {
    "run": lambda one: one.name,
    "method, score": lambda one: f"{one.board.method}, {one.board.primary_score}",
    "chosen, seeds": lambda one: f"{one.row.configuration}, {len(one.row.seeds)}",
    "test AUROC": lambda one: figure(one.test.auroc, one.test.auroc_spread),
    "95% interval": lambda one: interval(one.test.auroc_low, one.test.auroc_high),
    "AUPR": lambda one: figure(one.test.aupr, one.test.aupr_spread),
    "FPR at 95% TPR": lambda one: figure(one.test.fpr95, one.test.fpr95_spread),
}


def write_table(found: "RunComparison", file: TextIO) -> None:
    """For people: figures, the settings that differ, and what is to be said about both."""
    console = make_console(file)
    table = make_table(*_COLUMNS)
    never_cut(table.columns)
    for one in found.runs:
        table.add_row(*(cell(text(one)) for text in _COLUMNS.values()))
    for row in _baselines(found):
        table.add_row(*map(cell, row))
    console.print(table)
    rows, _ = _settings(found)
    if rows:
        say(console)
        table = make_table("setting", *(one.name for one in found.runs))
        for row in rows:
            table.add_row(*map(cell, row))
        console.print(table)
    say(console)
    for line in _remarks(found):
        say(console, line)
    say(console, f"Side by side: {_side_by_side(found)}")


def write_markdown(found: "RunComparison", file: TextIO) -> None:
    """The same for a document."""

    def table(*rows: Sequence[str]) -> None:
        for number, row in enumerate(rows):
            print(f"| {' | '.join(map(markdown_cell, row))} |", file=file)
            if number == 0:
                print(f"|{'---|' * len(row)}", file=file)
        print(file=file)

    runs = ([text(one) for text in _COLUMNS.values()] for one in found.runs)
    table(list(_COLUMNS), *runs, *_baselines(found))
    if rows := _settings(found)[0]:
        table(["setting", *(one.name for one in found.runs)], *rows)
    for line in _remarks(found):
        print(f"- {visible(line).replace('<', '&lt;')}", file=file)
    print(f"\n```\n{visible(_side_by_side(found))}\n```", file=file)


def write_csv(found: "RunComparison", file: TextIO) -> None:
    """A line per run: its figures, then for every run the difference from it and Holm's p."""
    table = csv.writer(file, lineterminator="\n")
    figures = [f.name for f in dataclasses.fields(found.runs[0].test)]
    others = [one.name for one in found.runs]
    facts = ["run", "method", "problem", "test_images", "configuration", "seeds", "score"]
    pairs = [heading for name in others for heading in (f"minus {name}", f"p against {name}")]
    heads = [*facts, *figures, "trials", "hours", *pairs, "settings"]
    table.writerow(map(csv_cell, heads))
    for one in found.runs:
        values: list[Any] = [one.to_dict()[name] for name in facts]
        values += [getattr(one.test, name) for name in figures]
        effort = one.board.effort
        values += ["", ""] if effort is None else [effort.trials, effort.hours]
        for name in others:
            pair = found.between(one.name, name)
            if pair is None:
                values += ["", ""]
            else:
                sign = 1 if pair.first == one.name else -1
                values += [sign * pair.difference, pair.p_holm]
        table.writerow(map(csv_cell, [*values, json.dumps(one.row.settings)]))


def write_json(found: "RunComparison", file: TextIO) -> None:
    """Everything, for programs."""
    values = {**found.to_dict(), "tensorboard": _side_by_side(found)}
    json.dump(values, file, indent=2)  # in ASCII: a path may hold what no encoding can write
    print(file=file)


WRITERS: dict[str, Callable[["RunComparison", TextIO], None]] = {
    "table": write_table,
    "markdown": write_markdown,
    "csv": write_csv,
    "json": write_json,
}


def _baselines(found: "RunComparison") -> list[list[str]]:
    """Rows of `_COLUMNS` for what needs no detector: the best of each set of test images, which are
    those of all runs or, where there are several sets, of the runs that a row names."""
    first = {one.group: one for one in reversed(found.runs) if one.board.baselines}
    several = len({one.group for one in found.runs}) > 1
    rows = []
    for group in sorted(first):
        best = first[group].board.baselines[0]
        tested = ", ".join(one.name for one in found.runs if one.group == group)
        rows.append(
            [
                f"without a detector ({tested})" if several else "without a detector",
                best.name,
                "",
                figure(best.test.auroc),
                interval(best.test.auroc_low, best.test.auroc_high),
                figure(best.test.aupr),
                figure(best.test.fpr95),
            ]
        )
    return rows


def _settings(found: "RunComparison") -> tuple[list[list[str]], str]:
    """Settings that differ, a row each: the name, then the value in every run; and the others."""
    from amatune.results.settings import side_by_side

    rows = side_by_side([one.row.settings for one in found.runs])
    shared = [f"{row.name}={row.texts[0]}" for row in rows if not row.differs]
    return [[row.name, *row.texts] for row in rows if row.differs], " ".join(shared)


def _remarks(found: "RunComparison") -> list[str]:
    """What is said below the tables: images, settings in common, verdicts, warnings."""
    problems = list(dict.fromkeys(one.problem for one in found.runs))
    _, shared = _settings(found)
    return [
        *(f"Problem: {problem}" for problem in problems if len(problems) == 1),
        *(f"Problem of {one.name}: {one.problem}" for one in found.runs if len(problems) > 1),
        *([f"The same in all: {shared}"] if shared else []),
        *(
            f"Search of {one.name}: {counted(effort.trials, 'trial')}, {effort.hours:.2f} hours of "
            "training"
            for one in found.runs
            if (effort := one.board.effort) is not None
        ),
        *(
            f"{sentence(f'{one.name} {against.verdict}')}"
            for one in found.runs
            if (against := one.board.against_baseline) is not None
        ),
        *(
            f"{sentence(one.verdict(len(found.differences)))}; standard error of the difference "
            f"{one.standard_error:.3f}"
            for one in found.differences
        ),
        *(f"warning: {warning}" for warning in found.warnings),
    ]


def _side_by_side(found: "RunComparison") -> str:
    return tensorboard_of_all([one.run for one in found.runs])
