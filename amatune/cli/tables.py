"""Tables on a terminal or in a pipe: trials, and what the retrained ones are worth."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from amatune.cli.output import say
from amatune.results.effort import state_text
from amatune.wording import counted, figure, interval, sentence, settings_text, visible

if TYPE_CHECKING:
    from amatune.results.leaderboard import Leaderboard
    from amatune.tuning.events import State, TrialUpdate

STYLES: "dict[State, str]" = {
    "done": "green",
    "pruned": "yellow",
    "failed": "red",
    "running": "cyan",
    "waiting": "dim",
}
ENDED: "tuple[State, ...]" = ("done", "pruned", "failed")


def make_table(*columns: str) -> Table:
    """A table without rules; its last column wraps, the others do not."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(cell(column), no_wrap=column != columns[-1])
    return table


def never_cut(columns: Sequence[Column]) -> None:
    """Figures go on in the next line, on however narrow a terminal."""
    for column in columns:
        column.no_wrap, column.overflow = False, "fold"


def print_by_columns(
    console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], named: int
) -> None:
    """A table; where it is wider than the terminal several, each with the first `named` columns.

    Headings are broken between words, and values not at all.
    """

    def width(column: int, headed: bool) -> int:
        head = [heads[column]] if headed else heads[column].split()
        return max(map(cell_len, [*head, *(row[column] for row in rows), ""]))

    columns = range(len(heads))
    room = console.width - sum(width(column, False) + 2 for column in columns[:named])
    whole = sum(width(column, True) + 2 for column in columns) <= console.width
    groups: list[list[int]] = [[]]
    for column in columns[named:]:
        used = sum(width(other, False) + 2 for other in groups[-1])
        if not whole and groups[-1] and used + width(column, False) + 2 > room:
            groups.append([])
        groups[-1].append(column)
    for number, group in enumerate(groups):
        if number:
            say(console)
        shown = [*columns[:named], *group]
        table = make_table(*(heads[column] for column in shown))
        never_cut(table.columns)
        for place, column in zip(table.columns, shown, strict=True):
            place.width = width(column, whole)
        for row in rows:
            table.add_row(*(cell(row[column]) for column in shown))
        console.print(table)


def cell(text: str) -> str:
    """Text as the cell of a table: it holds neither markup nor commands to a terminal."""
    return escape(visible(text))


def print_trials(
    console: Console,
    trials: "Sequence[TrialUpdate]",
    held: Sequence[str],
    most: int | None = None,
    *,
    over: bool = False,
) -> None:
    """The trials, those with the full budget first, then by validation AUROC.

    What unfinished ones are compared by stands beside it, where it is another figure.
    When the search is `over`, those that were running are unfinished.
    """
    order: list[State] = ["done", "running", "pruned", "failed", "waiting"]
    ranked = sorted(
        trials,
        key=lambda t: (order.index(t.state), -math.inf if t.auroc is None else -t.auroc, t.number),
    )
    compared = any(t.early not in (None, t.auroc) for t in trials)
    columns = ["validation AUROC", "compared by"] if compared else ["validation AUROC"]
    table = make_table("trial", "state", "epochs", *columns, "settings")
    for trial in ranked[:most]:
        failed = trial.state == "failed"
        table.add_row(
            str(trial.number),
            Text(state_text(trial.state, over=over), style=STYLES[trial.state]),
            f"{trial.epoch}/{trial.epochs}",
            figure(trial.auroc),
            *([figure(trial.early)] if compared else []),
            cell(trial.reason if failed else settings_text(trial.settings, held)),
        )
    console.print(table)


def print_leaderboard(console: Console, board: "Leaderboard") -> None:
    """Figures of the retrained configurations, and whether the chosen one beats the default."""
    retrained = f"retrained, {counted(len(board.chosen.seeds), 'seed')}"
    rows = [
        [
            "*" if row.chosen else "",
            board.title(row),
            row.score,
            figure(row.validation_auroc, row.validation_spread),
            figure(row.test[row.score].auroc, row.test[row.score].auroc_spread),
            interval(row.test[row.score].auroc_low, row.test[row.score].auroc_high),
        ]
        for row in board.rows
    ]
    rows += [
        [
            "",
            one.name,
            "no detector",
            figure(one.validation_auroc),
            figure(one.test.auroc),
            interval(one.test.auroc_low, one.test.auroc_high),
        ]
        for one in board.baselines
    ]
    heads = ["", retrained, "by", "validation AUROC", "test AUROC", "95% interval"]
    print_by_columns(console, heads, rows, named=2)
    for method in dict.fromkeys(row.method for row in board.rows):
        of_it = [row for row in board.rows if row.method == method]
        names = list(of_it[0].test)
        if len(names) > 1:
            by_score = [
                [
                    row.configuration,
                    *(figure(row.test[name].auroc, row.test[name].auroc_spread) for name in names),
                ]
                for row in of_it
            ]
            head = "test AUROC" if method is None else f"test AUROC, {method}"
            say(console)
            print_by_columns(console, [head, *(f"of {n}" for n in names)], by_score, named=1)

    _print_pixels(console, board)
    chosen = board.chosen
    test = chosen.test[board.primary_score]
    say(console)
    say(console, f"* {chosen.name}, chosen on validation images:")
    say(console, f"  {settings_text(chosen.settings)}")
    say(
        console,
        f"Test AUROC of {board.primary_score}: {figure(test.auroc, test.auroc_spread)}, 95% "
        f"interval {interval(test.auroc_low, test.auroc_high)} ({board.test_normals} normal and "
        f"{board.test_anomalies} anomalous images)",
    )
    say(
        console,
        f"AUPR {figure(test.aupr, test.aupr_spread)}, FPR at 95% TPR "
        f"{figure(test.fpr95, test.fpr95_spread)}",
    )
    _print_honesty(console, board)
    for name, own in chosen.test_by_set.items():
        about_it = f"{figure(own.auroc, own.auroc_spread)}, 95% interval"
        say(console, f"  against {name}: {about_it} {interval(own.auroc_low, own.auroc_high)}")
    if board.comparison is not None:
        versus = board.comparison
        say(
            console,
            f"{sentence(versus.verdict)}; standard error of the difference "
            f"{versus.standard_error:.3f}",
        )
    elif chosen.default:
        say(console, "The default was chosen: the search found nothing clearly better.")
    if board.against_baseline is not None:
        say(console, f"{sentence(f'{chosen.configuration} {board.against_baseline.verdict}')}.")
    if board.cross_fit is not None:
        say(console, f"Cross-fitted AUROC: {board.cross_fit}")
    if board.other_choice:
        say(console, f"  {sentence(board.other_choice)}.")
    _print_thresholds(console, board)
    for line in (*board.failed, *board.warnings):
        say(console, f"warning: {line}")


def _print_pixels(console: Console, board: "Leaderboard") -> None:
    """How well maps find where test images are anomalous, where masks tell."""
    found = [(row.configuration, row.pixels) for row in board.rows if row.pixels is not None]
    if not found:
        return
    rows = [
        [name, figure(own.auroc, own.auroc_spread), figure(own.pro, own.pro_spread)]
        for name, own in found
    ]
    own = found[0][1]
    where = f"maps, {own.regions} regions of {counted(own.masked, 'masked test image')}"
    say(console)
    print_by_columns(console, [where, "pixel AUROC", "PRO to FPR 0.3"], rows, named=1)


def _print_thresholds(console: Console, board: "Leaderboard") -> None:
    """What thresholds of the model that is exported flag, and what was demanded of one."""
    from amatune.results.operating import rates_text

    held = board.guarantee
    points = [*board.thresholds, *([held.point] if held and held.point else [])]
    if points:
        say(console)
        heads = ["threshold for", "above", "normal flagged", "95% interval"]
        heads += ["anomalies flagged", "95% interval"]
        rows = [[one.name, f"{one.threshold:.6g}", *rates_text(one)] for one in points]
        print_by_columns(console, heads, rows, named=1)
    if held is not None:
        name = f"{sentence(held.point.name)}: " if held.point else ""
        say(console, f"{name}{held.statement if name else sentence(held.statement)}")


def _print_honesty(console: Console, board: "Leaderboard") -> None:
    """Why this one was chosen, what the search's own figure is worth, and what it all took."""
    if board.choice:
        say(console, f"Choice: {board.choice}")
    if board.selection is not None:
        say(console, f"The search's best validation AUROC: {board.selection}")
    if (effort := board.effort) is not None:
        gpu = f", {effort.gpu_hours:.2f} GPU-hours" if effort.gpu_hours else ""
        say(
            console,
            f"The search took {counted(effort.trials, 'trial')} ({effort.done} to the end, "
            f"{effort.pruned} pruned, {effort.failed} failed), {counted(effort.epochs, 'epoch')}, "
            f"{effort.hours:.2f} hours of training{gpu}",
        )
