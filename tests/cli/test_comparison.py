"""`amatune compare`: odd names in its formats. Its figures: tests/results/test_comparison.py."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fake_run import finished_run, small_problem

from amatune.cli.comparison import WRITERS
from amatune.results.comparison import RunComparison, compare_runs

ODD = "=cmd|<b>\x1b[2J"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> RunComparison:
    folder = tmp_path_factory.mktemp("runs")
    runs = [finished_run(folder / name, small_problem()) for name in ("plain", ODD)]
    return compare_runs(runs)


@pytest.fixture
def written(found: RunComparison, tmp_path: Path) -> Callable[[str], str]:
    def write(form: str) -> str:
        with (tmp_path / "out").open("w", encoding="utf-8") as file:
            WRITERS[form](found, file)
        return (tmp_path / "out").read_text(encoding="utf-8")

    return write


@pytest.mark.parametrize("form", WRITERS)
def test_no_name_commands_a_terminal(form: str, written: Callable[[str], str]) -> None:
    text = written(form)
    assert "\x1b" not in text
    assert "cmd" in text


def test_no_name_is_a_formula(written: Callable[[str], str]) -> None:
    rows = list(csv.reader(written("csv").splitlines()))
    assert [row[0] for row in rows] == ["run", "plain", "'=cmd|<b>\\x1b[2J"]
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@"))]
    # Figures stay figures, whatever their sign.
    differences = rows[0].index("minus plain"), rows[0].index("p against plain")
    assert [float(rows[2][column]) for column in differences]


def test_no_name_is_markup_in_markdown(written: Callable[[str], str]) -> None:
    text = written("markdown")
    before, _, _ = text.partition("```")
    assert "<b>" not in before
    assert "=cmd\\|&lt;b>" in before


def test_names_are_whole_in_json(written: Callable[[str], str]) -> None:
    assert [one["run"] for one in json.loads(written("json"))["runs"]] == ["plain", ODD]


def test_a_path_that_is_no_text_can_be_written_as_json(found: RunComparison) -> None:
    """To standard output, which takes nothing that UTF-8 cannot write."""
    odd = replace(found.runs[0], problem="folder:caf\udce9")
    with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as file:
        WRITERS["json"](replace(found, runs=(odd, found.runs[1])), file)
        file.seek(0)
        assert json.load(file)["runs"][0]["problem"] == "folder:caf\udce9"


def test_values_that_differ_are_not_the_same_in_all(found: RunComparison) -> None:
    """However alike they are when they are rounded."""
    runs = []
    for one, value in zip(found.runs, (0.0012341, 0.0012342), strict=True):
        row = replace(one.row, settings={"lr": value, "k": 0.12345})
        rows = tuple(row if own.chosen else own for own in one.board.rows)
        runs.append(replace(one, board=replace(one.board, rows=rows)))
    file = io.StringIO()
    WRITERS["markdown"](replace(found, runs=tuple(runs)), file)
    assert "| lr | 0.0012341 | 0.0012342 |" in file.getvalue()
    assert "- The same in all: k=0.123\n" in file.getvalue()


def test_what_needs_no_detector_names_the_runs_of_its_images(found: RunComparison) -> None:
    def told(*groups: int) -> list[str]:
        pairs = enumerate(zip(found.runs, groups, strict=True))
        runs = (replace(one, name=f"run{i}", group=group) for i, (one, group) in pairs)
        file = io.StringIO()
        WRITERS["markdown"](replace(found, runs=tuple(runs), differences=()), file)
        return [line.split(" | ")[0] for line in file.getvalue().splitlines() if "without" in line]

    assert told(0, 0) == ["| without a detector"]
    assert told(0, 1) == ["| without a detector (run0)", "| without a detector (run1)"]


def test_one_trial_is_no_plural(found: RunComparison) -> None:
    effort = replace(found.runs[0].board.effort, trials=1)
    runs = [replace(one, board=replace(one.board, effort=effort)) for one in found.runs]
    file = io.StringIO()
    WRITERS["table"](replace(found, runs=tuple(runs)), file)
    assert "Search of plain: 1 trial, " in file.getvalue()
