"""Tables as a terminal shows them."""

import io

import pytest
from rich.console import Console

from amatune.cli.tables import print_by_columns, print_trials
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


def test_what_was_running_when_a_search_ended_is_unfinished() -> None:
    update = TrialUpdate(number=0, state="running", epoch=2, epochs=9, auroc=0.6, settings={})
    for over, word in ((True, "unfinished"), (False, "running")):
        console = Console(width=100, file=io.StringIO())
        print_trials(console, [update], held=(), over=over)
        assert word in console.file.getvalue()  # type: ignore[attr-defined]
