"""Tables on a terminal or in a pipe: trials, and what the retrained ones are worth."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from amatune.cli.output import say
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


def cell(text: str) -> str:
    """Text as the cell of a table: it holds neither markup nor commands to a terminal."""
    return escape(visible(text))


def print_trials(
    console: Console, trials: "Sequence[TrialUpdate]", held: Sequence[str], most: int | None = None
) -> None:
    """The trials, those with the full budget first, then by validation AUROC."""
    order: list[State] = ["done", "running", "pruned", "failed", "waiting"]
    ranked = sorted(
        trials,
        key=lambda t: (order.index(t.state), -math.inf if t.auroc is None else -t.auroc, t.number),
    )
    table = make_table("trial", "state", "epochs", "validation AUROC", "settings")
    for trial in ranked[:most]:
        failed = trial.state == "failed"
        table.add_row(
            str(trial.number),
            Text(trial.state, style=STYLES[trial.state]),
            f"{trial.epoch}/{trial.epochs}",
            figure(trial.auroc),
            cell(trial.reason if failed else settings_text(trial.settings, held)),
        )
    console.print(table)


def print_leaderboard(console: Console, board: "Leaderboard") -> None:
    """Figures of the retrained configurations, and whether the chosen one beats the default."""
    retrained = f"retrained, {counted(len(board.seeds), 'seed')}"
    table = make_table("", retrained, "by", "validation AUROC", "test AUROC", "95% interval")
    never_cut(table.columns[2:])
    for row in board.rows:
        test = row.test[row.score]
        table.add_row(
            "*" if row.chosen else "",
            cell(row.configuration),
            cell(row.score),
            figure(row.validation_auroc, row.validation_spread),
            figure(test.auroc, test.auroc_spread),
            interval(test.auroc_low, test.auroc_high),
        )
    for one in board.baselines:
        table.add_row(
            "",
            Text(one.name, style="dim"),
            Text("no detector", style="dim"),
            figure(one.validation_auroc),
            figure(one.test.auroc),
            interval(one.test.auroc_low, one.test.auroc_high),
        )
    console.print(table)
    names = list(board.rows[0].test)
    if len(names) > 1:
        say(console)
        table = make_table("test AUROC of", *names)
        never_cut(table.columns)
        for row in board.rows:
            of = (figure(row.test[name].auroc, row.test[name].auroc_spread) for name in names)
            table.add_row(cell(row.configuration), *of)
        console.print(table)

    chosen = board.chosen
    test = chosen.test[board.primary_score]
    say(console)
    say(console, f"* {chosen.configuration}, chosen on validation images:")
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
    failures = [f"{row.configuration}: {failure}" for row in board.rows for failure in row.failures]
    for line in (*failures, *board.dropped, *board.warnings):
        say(console, f"warning: {line}")


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
