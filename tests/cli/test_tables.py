"""Tables as a terminal shows them."""

import dataclasses
import io
import re
from pathlib import Path

import pytest
from fake_run import scores, small_problem, write_leaderboard, write_run
from rich.console import Console

from amatune.cli.tables import print_by_columns, print_leaderboard, print_trials
from amatune.results.leaderboard import read_leaderboard
from amatune.tuning.events import TrialUpdate

HEADS = ["", "retrained, 3 seeds", "validation AUROC", "test AUROC of fm", "95% interval"]
HEADS += ["of logits", "of l1", "of l2"]
ROWS = [
    ["*", "trial-12", "0.912 ± 0.012", "0.903 ± 0.022", "0.871 to 0.934", *["0.523 ± 0.1"] * 3],
    ["", "default", "0.812 ± 0.012", "0.803 ± 0.022", "0.771 to 0.834", *["0.423 ± 0.1"] * 3],
]


def shown(width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    print_by_columns(console, HEADS, ROWS, named=2)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_word_is_broken(width: int) -> None:
    text = shown(width)
    assert all(len(line) <= width for line in text.splitlines())
    for row in ROWS:
        for value in row[1:5]:
            assert value in text
    assert text.count("0.523 ± 0.1") == 3
    for word in ("retrained,", "validation", "AUROC", "interval", "logits"):
        assert word in text
    tables = text.strip("\n").split("\n\n")
    assert (len(tables) == 1) == (width >= 100)
    assert all("trial-12" in table for table in tables)


def test_the_seeds_that_are_told_are_those_behind_the_figures(tmp_path: Path) -> None:
    """The chosen one failed with a seed, as all may do."""
    run = write_run(tmp_path / "run", small_problem().to_dict(), study=False)
    by_seed = [{"bright": scores(1.0, seed)} for seed in (1, 2)]
    write_leaderboard(run, {"trial-1": by_seed[:1], "default": by_seed})
    board = read_leaderboard(run)
    chosen = dataclasses.replace(board.chosen, failures=("seed 2: diverged",))
    board = dataclasses.replace(board, seeds=(1, 2), rows=(chosen, *board.rows[1:]))
    console = Console(width=120, file=io.StringIO())
    print_leaderboard(console, board)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "retrained, 1 seed " in text
    assert re.search(r"^\*  trial-1  ", text, re.MULTILINE)
    assert re.search(r"^   default, 2 seeds  ", text, re.MULTILINE)
    assert "warning: trial-1: seed 2: diverged\n" in text


def test_what_was_running_when_a_search_ended_is_unfinished() -> None:
    update = TrialUpdate(number=0, state="running", epoch=2, epochs=9, auroc=0.6, settings={})
    for over, word in ((True, "unfinished"), (False, "running")):
        console = Console(width=100, file=io.StringIO())
        print_trials(console, [update], held=(), over=over)
        assert word in console.file.getvalue()  # type: ignore[attr-defined]
