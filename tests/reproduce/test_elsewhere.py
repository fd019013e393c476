"""Cells of a table that were computed elsewhere, joined."""

import json
import re
from pathlib import Path

import pytest
from fake_table import AMA, DIGITS, leave_result, plan_of, saved

from amatune.errors import RequestError
from amatune.reproduce.elsewhere import read_elsewhere
from amatune.reproduce.outcome import read_outcome
from amatune.reproduce.run import failures
from amatune.reproduce.tables import TABLES
from amatune.reproduce.write import blocks, joinable, latex, sentences, write_all


def joined(folder: Path, *files: Path, rows=("ama", "deep-svdd", "alad")):
    elsewhere = read_elsewhere(files, TABLES["table2"], "small")
    return plan_of(folder, *rows, elsewhere=elsewhere)


def test_columns_of_two_places_make_the_table_that_one_place_would(filled, tmp_path):
    first = saved(filled, tmp_path, *DIGITS[:3], name="a.json")
    second = saved(filled, tmp_path, *DIGITS[3:7], name="b.json")
    outcome = read_outcome(joined(tmp_path, first, second))
    assert outcome.tests == filled.outcome.tests
    assert outcome.controls == filled.outcome.controls
    assert outcome.hours == filled.outcome.hours
    assert blocks(outcome) == blocks(filled.outcome)
    assert outcome.cells == filled.outcome.cells
    assert joinable(outcome) == joinable(filled.outcome)


def test_cells_from_elsewhere_are_not_run_here(filled, tmp_path):
    plan = joined(tmp_path, saved(filled, tmp_path, *DIGITS[:7]))
    assert {job.column.name for job in plan.jobs if job.row.name != "alad"} == set(DIGITS[7:])
    assert len([job for job in plan.jobs if job.row.name == "alad"]) == 10
    assert set(plan.elsewhere) == set(DIGITS[:7])
    told = " ".join(sentences(read_outcome(plan)))
    assert "14 runs computed elsewhere; of the others 0 of 16 runs are there" in told


def test_rows_of_two_places_fill_one_column(filled, tmp_path):
    first = saved(filled, tmp_path, "mnist-0", rows=AMA, name="a.json")
    second = saved(filled, tmp_path, "mnist-0", rows=["deep-svdd"], name="b.json")
    outcome = read_outcome(joined(tmp_path, first, second))
    for row in (*AMA, "deep-svdd"):
        ours, theirs = (one.cells[row, "mnist-0"] for one in (outcome, filled.outcome))
        assert ours.test == theirs.test
    # The pictures' scores are not in the files: no paired test.
    assert outcome.cells["deep-svdd", "mnist-0"].p is None
    assert "beside Deep SVDD (not compared image by image)" in " ".join(sentences(outcome))
    assert {(test.problems, test.p) for test in outcome.tests} == {(1, None)}
    assert [test.other for test in outcome.tests[:2]] == ["Deep SVDD"] * 2


def run_here(folder: Path, row: str, file: Path) -> None:
    """Leave a run of digit 0 behind, and make the file one of the same images."""
    plan = plan_of(folder, row, only=("mnist-0",))
    leave_result(plan.jobs[0], 0.0)
    controls = json.loads(joinable(read_outcome(plan)))["columns"]["mnist-0"]["controls"]
    values = json.loads(file.read_text())
    values["columns"]["mnist-0"]["controls"] = controls
    file.write_text(json.dumps(values))


def test_what_has_been_tested_here_is_shown_and_the_rest_is_joined(filled, tmp_path):
    file = saved(filled, tmp_path, "mnist-0", "mnist-1")
    run_here(tmp_path, "deep-svdd", file)
    plan = joined(tmp_path, file)
    assert plan.both == ("mnist-0--deep-svdd",)
    assert set(plan.elsewhere["mnist-0"].cells) == set(AMA)
    outcome = read_outcome(plan)
    assert outcome.cells["ama", "mnist-0"] == filled.outcome.cells["ama", "mnist-0"]
    theirs = filled.outcome.cells["deep-svdd", "mnist-0"]
    assert outcome.cells["deep-svdd", "mnist-0"].test != theirs.test
    assert outcome.cells["deep-svdd", "mnist-0"].p is None


def test_a_difference_from_another_training_is_not_kept(filled, tmp_path):
    file = saved(filled, tmp_path, "mnist-0")
    run_here(tmp_path, "ama", file)
    plan = joined(tmp_path, file)
    assert plan.both == ("mnist-0--ama",)
    cell = read_outcome(plan).cells["deep-svdd", "mnist-0"]
    assert cell.test == filled.outcome.cells["deep-svdd", "mnist-0"].test
    assert (cell.behind, cell.p) == (None, None)


def other_split(file: Path) -> Path:
    """The same file, tested on other images."""
    values = json.loads(file.read_text())
    for column in values["columns"].values():
        column["controls"]["mean brightness"]["auroc"] += 0.01
    file.write_text(json.dumps(values))
    return file


def test_cells_of_other_images_are_not_put_together(filled, tmp_path):
    first = saved(filled, tmp_path, "mnist-0", rows=AMA, name="a.json")
    second = other_split(saved(filled, tmp_path, "mnist-0", rows=["deep-svdd"], name="b.json"))
    told = (
        r"mnist-0 cannot be put together from .*a\.json and .*b\.json: .* of mean brightness is 0"
    )
    with pytest.raises(RequestError, match=told):
        joined(tmp_path, first, second)
    plan = joined(tmp_path, second)
    leave_result(plan_of(tmp_path, "ama", only=("mnist-0",)).jobs[0], 0.0)
    outcome = read_outcome(plan)
    cell = outcome.cells["deep-svdd", "mnist-0"]
    assert cell.test is None
    assert "are not of the same images" in cell.why
    assert cell.why in " ".join(sentences(outcome))
    # From then on it is run here.
    again = joined(tmp_path, second)
    assert "mnist-0--deep-svdd" in {job.name for job in again.jobs}
    assert "is left out: they are not of the same images" in again.apart["mnist-0"]


def test_without_a_measure_that_both_have_nothing_is_put_together(filled, tmp_path):
    files = []
    for name, rows in (("a.json", AMA), ("b.json", ["deep-svdd"])):
        files.append(saved(filled, tmp_path, "mnist-0", rows=rows, name=name))
        values = json.loads(files[-1].read_text())
        values["columns"]["mnist-0"]["controls"] = {}
        files[-1].write_text(json.dumps(values))
    with pytest.raises(RequestError, match="nothing tells whether they are of the same images"):
        joined(tmp_path, *files)


@pytest.mark.parametrize("rows", [["ama"], ["ama-r", "ama-chosen"]])
def test_a_run_of_which_a_row_is_missing_is_run(filled, tmp_path, rows):
    plan = joined(tmp_path, saved(filled, tmp_path, "mnist-0", rows=rows), rows=("ama",))
    assert "mnist-0--ama" in {job.name for job in plan.jobs}
    assert "mnist-0--ama" not in plan.taken
    plan.folder.mkdir()
    (plan.folder / "failed.json").write_text('{"mnist-0--ama": "why"}')
    assert failures(plan) == {"mnist-0--ama": "why"}


def test_the_rows_of_a_run_are_not_taken_from_two_files(filled, tmp_path):
    first = saved(filled, tmp_path, "mnist-0", rows=["ama"], name="a.json")
    second = saved(filled, tmp_path, "mnist-0", rows=["ama-chosen"], name="b.json")
    with pytest.raises(RequestError, match="ama of mnist-0 is in"):
        joined(tmp_path, first, second)


def test_strange_names_of_files_are_written(filled, tmp_path):
    file = saved(filled, tmp_path, "mnist-0", rows=["deep-svdd"], name="a\n\\input{x}\udcff.json")
    plan = joined(tmp_path, other_split(file))
    leave_result(plan_of(tmp_path, "ama", only=("mnist-0",)).jobs[0], 0.0)
    outcome = read_outcome(plan)
    assert len(write_all(outcome, plan.folder)) == 5
    assert not [line for line in latex(outcome).splitlines() if line.startswith("\\input")]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 7}, "is no table that this version can join"),
        ({"table": "table1"}, "it is of table1 at scale small, not of table2 at scale small"),
        ({"scale": "paper"}, "it is of table2 at scale paper, not of table2 at scale small"),
        (
            {"columns": {"mnist-11": {"cells": {}, "controls": {}}}},
            "it has a column 'mnist-11', which table2 has not",
        ),
        ({"columns": {"mnist-1": {"cells": {}}}}, "controls not there"),
        (
            {"columns": {"mnist-1": {"cells": {"ama": {"p": float("nan")}}, "controls": {}}}},
            "p must be a finite number or None, got nan",
        ),
        ({"columns": {"mnist-1": {"cells": {"ama": {"test": 3}}, "controls": {}}}}, "in cells"),
        ({"columns": {"mnist-1": {"cells": {}, "controls": {}}}}, "nothing of 'mnist-1' has been"),
        ({"columns": {"mnist-1": {"cells": {"ama": {}}, "controls": {}}}}, "ama of 'mnist-1' has"),
        ({"columns": {"mnist-1": {"cells": {"amma": {}}, "controls": {}}}}, "a row 'amma', which"),
    ],
)
def test_what_cannot_be_joined_is_refused(filled, tmp_path, change, told):
    with pytest.raises(RequestError, match=re.escape(told)) as caught:
        joined(tmp_path, saved(filled, tmp_path, **change))
    assert "table2.json" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"test": {"auroc": -7.0}}, "figures of a test must be in [0, 1]"),
        ({"test": {"auroc_high": 1e308}}, "figures of a test must be in [0, 1]"),
        ({"test": {"auroc": 10**400}}, "auroc must be a finite number"),
        ({"trials": 10**4200}, "trials must be a whole number"),
        ({"hours": -1.0}, "hours, trials and seeds must be numbers of things"),
        ({"behind": None, "p": 0.1}, "behind and p must be there both, or neither"),
        ({"p": 5.0}, "nor p 5.0: the AUROCs differ by"),
        ({"behind": -0.3}, "cannot be -0.3 behind"),
        ({"score": "\x1b[31m"}, "a score cannot be called"),
        ({"score": "x" * 1000}, "a score cannot be called"),
    ],
)
def test_figures_that_no_run_can_have_are_refused(filled, tmp_path, change, told):
    values = json.loads(saved(filled, tmp_path, "mnist-2").read_text())
    cell = values["columns"]["mnist-2"]["cells"]["deep-svdd"]
    cell |= {k: {**cell[k], **v} if isinstance(v, dict) else v for k, v in change.items()}
    with pytest.raises(RequestError, match=re.escape(told)) as caught:
        joined(tmp_path, saved(filled, tmp_path, **values))
    assert len(str(caught.value)) < 1000


def test_a_measure_that_is_none_is_refused(filled, tmp_path):
    values = json.loads(saved(filled, tmp_path, "mnist-2").read_text())
    controls = values["columns"]["mnist-2"]["controls"]
    controls["=HYPERLINK()"] = next(iter(controls.values()))
    with pytest.raises(RequestError, match="there is no measure '=HYPER"):
        joined(tmp_path, saved(filled, tmp_path, **values))


def test_a_run_that_failed_here_is_not_missed_where_it_is_joined(filled, tmp_path):
    plan = joined(tmp_path, saved(filled, tmp_path, "mnist-0"))
    plan.folder.mkdir()
    (plan.folder / "failed.json").write_text('{"mnist-0--ama": "why", "mnist-0--alad": "why"}')
    assert failures(plan) == {"mnist-0--alad": "why"}


def test_a_cell_is_joined_from_one_file(filled, tmp_path):
    files = [saved(filled, tmp_path, "mnist-2", name=name) for name in ("a.json", "b.json")]
    with pytest.raises(RequestError, match=r"ama of mnist-2 is in .*a\.json and in .*b\.json"):
        joined(tmp_path, *files)
