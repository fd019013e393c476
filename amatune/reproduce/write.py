"""A table for people and programs: Markdown, CSV, LaTeX, one HTML page, and JSON to be joined."""

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from amatune.files import write_bytes
from amatune.reproduce.elsewhere import SCHEMA, SavedTable
from amatune.reproduce.outcome import FEWEST, Cell, Outcome, saved_columns
from amatune.results.difference import SIGNIFICANT
from amatune.results.leaderboard import TestFigures
from amatune.runs.folder import writing
from amatune.version import __version__
from amatune.wording import counted, csv_cell, interval, markdown_cell, visible

NOTHING = "-"


@dataclass(frozen=True)
class Block:
    """A table of texts: a heading for each column, and rows as wide."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def blocks(outcome: Outcome) -> list[Block]:
    """The rows of the table, and below them what needs no detector: one block for each group of
    columns, or one of all. A figure is the mean test AUROC over seeds, in brackets the published
    one."""
    table = outcome.plan.table
    asked = {column.name: column for column in table.columns}
    groups = {
        name: [asked[column] for column in columns if column in asked]
        for name, columns in table.groups.items()
    } or {table.title: list(table.columns)}
    found = []
    for group, columns in groups.items():
        if not columns:
            continue
        rows = []
        for row in table.rows:
            cells = [outcome.cells[row.name, column.name] for column in columns]
            texts = [row.title, *map(_figure, cells)]
            if table.groups:
                published = [cell.published for cell in cells if cell.published is not None]
                texts.append(_mean([cell.test for cell in cells], published))
            rows.append(tuple(texts))
        for name, by_column in outcome.controls.items():
            tests = [by_column.get(column.name) for column in columns]
            texts = [f"no detector: {name}", *(_plain(test) for test in tests)]
            if table.groups:
                texts.append(_mean(tests, ()))
            rows.append(tuple(texts))
        heads = ("", *(column.title for column in columns), *(("mean",) if table.groups else ()))
        found.append(Block(group, heads, tuple(rows)))
    return found


def sentences(outcome: Outcome) -> list[str]:
    """What the figures say of the row that the paper has first, and of how they were made: each on
    one line."""
    return [visible(one) for one in (*_claim(outcome), *_about(outcome))]


def _claim(outcome: Outcome) -> list[str]:
    table = outcome.plan.table
    found = []
    for column in table.columns:
        for own in table.rows:
            mine = outcome.cells[own.name, column.name]
            others = [
                cell
                for row in table.rows
                if row.beside == own.name
                and (cell := outcome.cells[row.name, column.name]).test is not None
            ]
            if mine.test is not None and others:
                found.append(f"{column.title}: {own.title}: {_against(mine, others)}.")
    few: dict[str, list[str]] = {}
    for test in outcome.tests:
        about = f"{test.group}: {test.own}"
        if test.p is None:
            few.setdefault(about, []).append(test.other)
            continue
        found.append(
            f"{about}: ahead of {test.other} on {test.ahead} of "
            f"{counted(test.problems, 'problem')}, {test.difference:+.3f} in the mean (signed-rank "
            f"test, p = {test.p:.2g} after Holm's correction)."
        )
    for about, titles in few.items():
        found.append(
            f"{about}: too few problems for a signed-rank test against {', '.join(titles)}: "
            f"{FEWEST} are needed that both were tested on."
        )
    return found


def _against(mine: Cell, others: Sequence[Cell]) -> str:
    """A row and the best of those that are compared with it in one column."""
    best = max(others, key=_auroc)
    behind = _auroc(mine) - _auroc(best) if best.behind is None else best.behind
    whom = best.row.title
    if len(others) > 1:
        whom = f"the best of {counted(len(others), 'other row')}, {whom}"
    if best.p is None:
        return f"{behind:+.3f} beside {whom} (not compared image by image)"
    corrected = "after Holm's correction for all pairs of the problem that were tested together"
    told = f"({behind:+.3f}, p = {best.p:.2g} {corrected})"
    if best.p >= SIGNIFICANT:
        return f"not told apart from {whom} {told}"
    return f"{'ahead of' if behind > 0 else 'behind'} {whom} {told}"


def _auroc(cell: Cell) -> float:
    assert cell.test is not None
    return cell.test.auroc


def _about(outcome: Outcome) -> list[str]:
    plan = outcome.plan
    done = sum(job.tested for job in plan.jobs)
    runs = f"{done} of {counted(len(plan.jobs), 'run')} {'is' if done == 1 else 'are'} there"
    if plan.elsewhere:
        joined = counted(len(plan.taken), "run")
        runs = f"{joined} computed elsewhere" + (f"; of the others {runs}" if plan.jobs else "")
    found = [
        f"Scale {plan.scale.name}: {plan.scale.summary}. {runs}, {outcome.hours:.2f} hours of "
        "training in their searches.",
        "Every method was searched with the same number of trials on the same splits, chosen by "
        "the same anomalies, retrained over seeds and tested once on the same images"
        + ("; of what was computed elsewhere its file is believed" if plan.elsewhere else "")
        + ". Figures are the mean test AUROC over seeds; in brackets, what was published.",
    ]
    if outcome.controls:
        found.append(
            "Rows that need no detector are the side that validation anomalies prefer of each "
            "measure; a method that is not ahead of them has shown nothing."
        )
    empty: dict[tuple[str, str], list[str]] = {}
    for cell in outcome.cells.values():
        about = ("Not compared image by image", cell.apart)
        if cell.test is None:
            about = ("Not there", "" if cell.why == "not run yet" else cell.why)
        empty.setdefault(about, []).append(f"{cell.row.title} on {cell.column.title}")
    for (what, why), where in empty.items():
        listed = ", ".join(where[:3]) + (f" and {len(where) - 3} more" if len(where) > 3 else "")
        if why:
            found.append(f"{what}: {listed}: {why}.")
    shown = {"", *(row.name for row in plan.table.rows)}
    return [*found, *(text for row, text in plan.table.notes if row in shown)]


def _figure(cell: Cell) -> str:
    published = "" if cell.published is None else f" ({cell.published:.3f})"
    if cell.test is None:
        return f"{NOTHING}{published}"
    return f"{_plain(cell.test)}{published}"


def _plain(test: TestFigures | None) -> str:
    return NOTHING if test is None else f"{test.auroc:.3f}"


def _mean(tests: Sequence[TestFigures | None], published: Sequence[float]) -> str:
    """Of the tested, and of the published where all are."""
    ours = [test.auroc for test in tests if test is not None]
    text = f"{statistics.fmean(ours):.3f}" if ours else NOTHING
    if ours and len(ours) < len(tests):
        text += f" of {len(ours)}"
    return text + (f" ({statistics.fmean(published):.3f})" if len(published) == len(tests) else "")


# --- formats --------------------------------------------------------------------------------------


def markdown(outcome: Outcome) -> str:
    """Of the blocks and the sentences."""
    lines = [f"# {outcome.plan.table.title}", ""]
    for block in blocks(outcome):
        if block.title != outcome.plan.table.title:
            lines += [f"## {block.title}", ""]
        lines += [f"| {' | '.join(block.heads)} |", "|---" * len(block.heads) + "|"]
        lines += [f"| {' | '.join(map(markdown_cell, row))} |" for row in block.rows]
        lines.append("")
    return "\n".join([*lines, *(f"- {markdown_cell(one)}" for one in sentences(outcome)), ""])


_CSV_HEADS = (
    *("table", "scale", "row", "method", "problem", "published"),
    *("auroc", "spread", "low", "high", "score", "default", "trials", "seeds", "hours"),
    *("behind", "p", "why"),
)


def comma_separated(outcome: Outcome) -> str:
    """A line for each cell, with everything that is known of it, then one for each control."""
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(_CSV_HEADS)
    own = [outcome.plan.table.name, outcome.plan.scale.name]
    for cell in outcome.cells.values():
        facts = [cell.row.name, cell.row.method, cell.column.name, cell.published]
        default = None if cell.default is None else cell.default.auroc
        more = [cell.score, default, cell.trials, cell.seeds, cell.hours, cell.behind, cell.p]
        table.writerow(map(csv_cell, [*own, *facts, *_values(cell.test), *more, cell.why]))
    for name, by_column in outcome.controls.items():
        for column, test in by_column.items():
            table.writerow(map(csv_cell, [*own, name, "", column, "", *_values(test), *[""] * 8]))
    return file.getvalue()


def _values(test: TestFigures | None) -> list[float | None]:
    if test is None:
        return [None] * 4
    return [test.auroc, test.auroc_spread, test.auroc_low, test.auroc_high]


def latex(outcome: Outcome) -> str:
    """A `tabular` for each block, of the package booktabs; the sentences as comments."""
    lines = [f"% {one}" for one in sentences(outcome)]
    for block in blocks(outcome):
        lines += ["", f"% {block.title}", f"\\begin{{tabular}}{{l{'r' * (len(block.heads) - 1)}}}"]
        heads, *rows = (" & ".join(map(_tex, row)) + r" \\" for row in (block.heads, *block.rows))
        lines += [r"\toprule", heads, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, ""])


_TEX = {character: f"\\{character}" for character in "&%$#_{}"} | {"\\": r"\textbackslash{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def html(outcome: Outcome) -> str:
    """One page that needs nothing else."""
    import jinja2  # of the extra `report`

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    details = [
        (
            cell.column.title,
            cell.row.title,
            f"{cell.test.auroc:.3f} ± {cell.test.auroc_spread or 0:.3f}",
            interval(cell.test.auroc_low, cell.test.auroc_high),
            cell.score,
            NOTHING if cell.default is None else f"{cell.default.auroc:.3f}",
            f"{cell.hours:.2f}",
            NOTHING if cell.p is None else f"{cell.behind:+.3f}, p = {cell.p:.2g}",
        )
        for cell in outcome.cells.values()
        if cell.test is not None
    ]
    template = resources.files("amatune.reproduce").joinpath("page.html.jinja")
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        title=outcome.plan.table.title,
        blocks=blocks(outcome),
        sentences=sentences(outcome),
        details=details,
    )


def joinable(outcome: Outcome) -> str:
    """JSON of all figures, which `elsewhere` reads in another place."""
    saved = SavedTable(
        schema=SCHEMA,
        version=__version__,
        table=outcome.plan.table.name,
        scale=outcome.plan.scale.name,
        columns=saved_columns(outcome),
    )
    return json.dumps(dataclasses.asdict(saved), indent=1, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[[Outcome], str]] = {
    "md": markdown,
    "csv": comma_separated,
    "tex": latex,
    "html": html,
    "json": joinable,
}


def write_all(outcome: Outcome, folder: Path) -> list[Path]:
    """All formats into a folder, and the paths of the files.

    Raises `RequestError`, or `DiskFullError`, where they cannot be written.
    """
    found = []
    for suffix, make in FORMATS.items():
        place = folder / f"{outcome.plan.table.name}.{suffix}"
        with writing(folder):
            write_bytes(place, make(outcome).encode())
        found.append(place)
    return found
