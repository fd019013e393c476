"""The paper's tables: what was published, the plan, what came out, its formats, and the command."""

import csv
import io
import re
import shutil
import statistics
from dataclasses import replace

import pytest
from fake_table import AMA, DIGITS, SMALL, SOURCES, leave_result, plan_of
from parsed_page import Parsed
from scipy import stats

from amatune.registry import find_method
from amatune.reproduce.outcome import read_outcome
from amatune.reproduce.plan import make_plan, run_name
from amatune.reproduce.scales import SCALES
from amatune.reproduce.tables import TABLES
from amatune.reproduce.write import (
    blocks,
    comma_separated,
    html,
    latex,
    markdown,
    sentences,
)
from amatune.results.difference import holm, paired_difference
from amatune.results.leaderboard import kept_test_scores, read_leaderboard
from amatune.runs import RunFolder

# --- what was published ---------------------------------------------------------------------------


def test_the_published_averages_are_those_of_the_entries():
    published = TABLES["table2"].published
    for row, average in (
        ("ama", 0.938),
        ("deep-svdd", 0.921),
        ("alad", 0.828),
        ("anogan", 0.731),
        ("fence-gan", 0.504),
        ("ganomaly", 0.531),
    ):
        mean = statistics.fmean(published[row][name] for name in DIGITS)
        assert mean == pytest.approx(average, abs=0.0011), row
    objects = [c.name for c in TABLES["table2"].columns if c.dataset == "cifar10"]
    for row, average in (("ama", 0.669), ("deep-svdd", 0.631), ("fence-gan", 0.534)):
        mean = statistics.fmean(published[row][name] for name in objects)
        assert mean == pytest.approx(average, abs=0.0011), row


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_tables_name_only_what_they_have(table):
    rows, columns = ([one.name for one in them] for them in (table.rows, table.columns))
    assert len(set(rows)) == len(rows)
    assert len(set(columns)) == len(columns)
    assert set(table.published) <= set(rows)
    assert {name for by_column in table.published.values() for name in by_column} <= set(columns)
    assert {name for group in table.groups.values() for name in group} <= set(columns)
    assert all(row.run in ("", *rows) for row in table.rows)
    assert {row for row, _ in table.notes} <= {"", *rows}


# --- the plan -------------------------------------------------------------------------------------


def test_rows_of_a_column_share_its_seed_and_columns_differ(tmp_path):
    plan = plan_of(tmp_path, "ama", "deep-svdd")
    assert len(plan.jobs) == 20  # AMA's scores are read from one run
    by_column = {}
    for job in plan.jobs:
        by_column.setdefault(job.column.name, set()).add(job.request.seed)
        assert job.request.problem.seed == job.request.seed
        assert job.request.problem.normal_classes == (job.column.name[-1],)
        assert job.request.problem.dataset == SOURCES["mnist"]
    assert all(len(seeds) == 1 for seeds in by_column.values())
    assert len(set.union(*by_column.values())) == 10
    assert [row.name for row in plan.table.rows] == ["deep-svdd", "ama", "ama-r", "ama-chosen"]
    other = plan_of(tmp_path, "ama", seed=1)
    assert other.folder != plan.folder
    assert other.jobs[0].request.seed != plan.jobs[0].request.seed


def test_a_scale_decides_sizes_and_steps(tmp_path):
    ours = {job.row.name: job.request for job in plan_of(tmp_path, only=("mnist-0",)).jobs}
    assert ours["ama"].steps == SMALL.budget("ama", "grey").steps
    assert ours["ama"].fixed == SMALL.sizes["ama"]
    assert (ours["features"].epochs, ours["features"].steps) == (1, None)
    table = TABLES["table3"]
    plan = make_plan(table, SCALES["paper"], tmp_path, only=["fashion-mnist"])
    assert {job.request.epochs for job in plan.jobs} == {100}
    assert plan.jobs[0].request.fixed["geometry"] == "cube"
    assert [job.request.fixed["k"] for job in plan.jobs] == [1, 1, 3, 3]


def test_the_papers_scale_is_the_published_one():
    """Both of Deep SVDD's phases; and what differs between grey and colour."""
    paper = SCALES["paper"]
    deep_svdd = find_method("deep-svdd").detector.Config()
    assert paper.budget("deep-svdd", "grey").epochs == deep_svdd.epochs == 300
    assert paper.budget("deep-svdd", "colour").epochs == 350 + 150
    presets = find_method("typicality").detector.presets
    for kind, preset in (("grey", "paper"), ("colour", "paper-colour")):
        fixed = paper.fixed("typicality", kind)
        assert fixed.items() <= presets[preset].items()
        assert set(fixed) == {"steps", "hidden", "levels"}
    assert paper.budget("ama", "colour") == paper.budget("ama", "grey")


def test_every_budget_is_one_that_its_method_takes(tmp_path):
    for table in TABLES.values():
        for scale in SCALES.values():
            for job in make_plan(table, scale, tmp_path, sources={}).jobs:
                method = find_method(job.row.method)
                method.detector.Config.from_dict(dict(job.request.fixed))


def test_a_method_that_is_not_installed_leaves_its_row_empty(tmp_path, monkeypatch):
    monkeypatch.setattr("amatune.reproduce.plan.method_names", lambda: ["ama"])
    plan = plan_of(tmp_path, "alad", "ama")
    assert plan.missing == {"alad": "the method alad is not installed"}
    assert {job.row.name for job in plan.jobs} == {"ama"}
    assert "ALAD on digit 0" in " ".join(sentences(read_outcome(plan)))


def test_data_that_must_be_put_there_by_hand_leave_a_column_empty(tmp_path):
    columns = ("cifar10",)
    plan = make_plan(TABLES["table1"], SMALL, tmp_path, only=columns, data_dir=str(tmp_path))
    told = plan.missing.get("cifar10-imagenet-resize", "")
    by_hand = [job for job in plan.jobs if job.column.name == "cifar10-imagenet-resize"]
    assert bool(told) != bool(by_hand)


def test_what_has_been_tested_needs_no_data(tmp_path):
    """As on the machine of whoever writes, not of whoever computes."""
    given = {"only": ("cifar10-imagenet-resize",), "methods": ("deep-svdd", "waic")}
    source = {"imagenet-resize": "npz:/nowhere/tiny.npz", "cifar10": "npz:/nowhere/cifar10.npz"}
    (job, _) = make_plan(TABLES["table1"], SMALL, tmp_path, sources=source, **given).jobs
    leave_result(job, 1.0)
    plan = make_plan(TABLES["table1"], SMALL, tmp_path, data_dir=tmp_path, **given)
    assert [one.name for one in plan.jobs] == [job.name]
    cells = read_outcome(plan).cells
    own = next(name for name, _ in cells if job.row.name == name)
    assert cells[own, "cifar10-imagenet-resize"].test is not None
    assert all("by hand" in one.why for (name, _), one in cells.items() if name != own)


def test_a_cell_without_scores_of_images_keeps_its_figures(tmp_path):
    plan = plan_of(tmp_path, "ganomaly", "ama", "ama-chosen", only=("mnist-0",))
    for job in plan.jobs:
        leave_result(job, 1.0 if job.row.name == "ama" else 0.5)
    assert read_outcome(plan).cells["ganomaly", "mnist-0"].p is not None
    job = next(job for job in plan.jobs if job.row.name == "ganomaly")
    shutil.rmtree(job.run.best / "models")
    outcome = read_outcome(plan)
    cell = outcome.cells["ganomaly", "mnist-0"]
    assert (cell.test is None, cell.p) == (False, None)
    (told,) = [one for one in sentences(outcome) if one.startswith("Not compared image by image")]
    assert "GANomaly" in told
    assert "test.npz" in told


# --- what came out --------------------------------------------------------------------------------


def test_cells_have_the_score_of_their_row(filled):
    for (row, name), by_seed in filled.figures.items():
        score = "A" if row == "ama" else "bright"
        mean = statistics.fmean(one[score] for one in by_seed)
        cell = filled.outcome.cells[row, name]
        assert cell.test.auroc == pytest.approx(mean)
        assert cell.score == score
        if row == "ama":
            r = filled.outcome.cells["ama-r", name]
            assert r.test.auroc == pytest.approx(statistics.fmean(o["R"] for o in by_seed))
            assert filled.outcome.cells["ama-chosen", name].score == "bright"
    assert filled.outcome.cells["ama", "mnist-8"].why == "not run yet"


def test_the_defaults_have_the_score_that_was_chosen_for_them(tmp_path):
    """Not that of the settings which were found: by it they may rank the other way round."""
    plan = plan_of(tmp_path, "ama", "ama-chosen", only=("mnist-0",))
    (job,) = plan.jobs
    leave_result(job, 1.0, default=0.5, defaults_by="R")
    cells = read_outcome(plan).cells
    plain = read_leaderboard(job.run).rows[1]
    for row, own, score in (("ama", "A", "A"), ("ama-chosen", "bright", "R")):
        cell = cells[row, "mnist-0"]
        assert cell.score == own
        assert cell.default == plain.test[score]
    assert len({one.auroc for one in plain.test.values()}) == 3


def test_methods_are_compared_by_the_same_rule_for_the_score(filled):
    """Over problems by the signed-rank test: AMA's A too, which is what was published."""
    control = "what needs no detector, best by validation"
    assert [(t.own, t.other) for t in filled.outcome.tests] == [
        ("AMA, score by validation", "Deep SVDD"),
        ("AMA", "Deep SVDD"),
        ("AMA, score by validation", control),
        ("AMA", control),
    ]
    ps = []
    for test, score in zip(filled.outcome.tests[:2], ("bright", "A"), strict=True):
        means = {
            key: statistics.fmean(one[score if key[0] == "ama" else "bright"] for one in by_seed)
            for key, by_seed in filled.figures.items()
        }
        apart = [means["ama", name] - means["deep-svdd", name] for name in DIGITS[:7]]
        assert (test.group, test.problems) == ("MNIST", 7)
        assert test.difference == pytest.approx(statistics.fmean(apart))
        assert test.ahead == sum(one > 0 for one in apart)
        ps.append(stats.wilcoxon(apart).pvalue)
        if score == "bright":
            cell = filled.outcome.cells["deep-svdd", "mnist-3"]
            assert cell.behind == pytest.approx(apart[3])
            assert 0 < cell.p <= 1
    for score in ("bright", "A"):
        without = filled.outcome.controls["best by validation"]
        ps.append(
            stats.wilcoxon(
                [
                    statistics.fmean(one[score] for one in filled.figures["ama", name])
                    - without[name].auroc
                    for name in DIGITS[:7]
                ]
            ).pvalue
        )
    assert [t.p for t in filled.outcome.tests] == pytest.approx(holm(ps))


def test_rows_are_compared_where_the_score_is_chosen_by_the_same_rule():
    for table in TABLES.values():
        rows = {row.name: row for row in table.rows}
        for row in table.rows:
            if row.beside:
                assert rows[row.beside].score == row.score
    beside = {row.name: row.beside for row in TABLES["table1"].rows}
    assert beside["deep-svdd"] == "ama-chosen"
    assert beside["ama-unmirrored"] == "ama-whole"
    assert beside["ama-whole"] == "ama"
    assert {beside[name] for name in AMA} == {""}
    assert {row.name: row.beside for row in TABLES["table3"].rows} == {
        "cube": "ray",
        "cube-no-simplex": "ray-no-simplex",
        "ray": "",
        "ray-no-simplex": "",
    }


@pytest.mark.parametrize("table", ["table1", "table3"])
def test_ablations_are_told_apart_from_what_they_are_of(table, tmp_path):
    plan = make_plan(TABLES[table], SMALL, tmp_path, only=["fashion-mnist-mnist"])
    shifts = {"ama-whole": 1.2, "ama": 1.0, "ray": 1.2}
    for job in plan.jobs:
        leave_result(job, shifts.get(job.row.name, 0.5))
    outcome = read_outcome(plan)
    told = [one for one in sentences(outcome) if one.startswith("Fashion-MNIST / MNIST: ")]
    if table == "table1":
        assert len(told) == 3
        assert "AMA with all its parts: " in told[2]
        assert "the best of 3 other rows, AMA without" in told[2]
    else:
        assert len(told) == 2
    pairs = [cell for cell in outcome.cells.values() if cell.p is not None]
    assert len(pairs) == (9 if table == "table1" else 2)
    # Holm's correction is over all pairs of the column.
    raw = []
    for cell in pairs:
        own, other = (
            kept_test_scores(board, board.chosen, name.score or board.primary_score)
            for name in (next(r for r in plan.table.rows if r.name == cell.row.beside), cell.row)
            if (board := read_leaderboard(RunFolder(plan.folder / run_name(name, cell.column))))
        )
        raw.append(paired_difference(own, other).p)
    assert [cell.p for cell in pairs] == pytest.approx(holm(raw))


def test_problems_without_a_difference_are_enough_for_a_test(tmp_path):
    plan = plan_of(tmp_path, "ama", "deep-svdd")
    for job in plan.jobs:
        leave_result(job, 1.0)
    tests = {test.own: test for test in read_outcome(plan).tests if test.other == "Deep SVDD"}
    chosen = tests["AMA, score by validation"]
    assert (chosen.p, chosen.difference) == (1.0, 0.0)
    assert tests["AMA"].p < 0.05
    assert "too few" not in " ".join(sentences(read_outcome(plan)))


def test_a_score_that_is_asked_for_brings_its_run(tmp_path):
    plan = plan_of(tmp_path, "ama-r", only=("mnist-0",))
    assert [job.row.name for job in plan.jobs] == ["ama"]


def test_few_problems_are_not_tested(tmp_path):
    plan = plan_of(tmp_path, "ama", "deep-svdd", only=("mnist-0",))
    for job in plan.jobs:
        leave_result(job, 1.0)
    assert {test.p for test in read_outcome(plan).tests} == {None}
    assert "too few problems for a signed-rank test against Deep SVDD" in " ".join(
        sentences(read_outcome(plan))
    )


def test_all_formats_have_the_same_figures(filled):
    outcome = filled.outcome
    (block,) = blocks(outcome)
    assert block.heads[0] == ""
    assert block.heads[-1] == "mean"
    by_title = {row[0]: row[1:] for row in block.rows}
    ama = outcome.cells["ama", "mnist-2"]
    assert by_title["AMA"][2] == f"{ama.test.auroc:.3f} (0.882)"
    assert by_title["ALAD"][2] == "- (0.794)"
    assert by_title["AMA"][-1].endswith("of 7 (0.938)")
    assert "no detector: mean brightness" in by_title

    lines = [line for line in markdown(outcome).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {13}
    rows = list(csv.DictReader(io.StringIO(comma_separated(outcome))))
    (own,) = [r for r in rows if (r["row"], r["problem"]) == ("ama", "mnist-2")]
    assert float(own["auroc"]) == pytest.approx(ama.test.auroc)
    assert own["published"] == "0.882"
    assert float(own["low"]) < float(own["auroc"]) < float(own["high"])
    tabular = re.findall(r"^(?!%)(.*&.*)\\\\$", latex(outcome), re.MULTILINE)
    assert {line.count("&") for line in tabular} == {11}
    page = Parsed(html(outcome))
    assert f"{ama.test.auroc:.3f} (0.882)" in page.text


def test_texts_are_escaped(filled):
    plan = filled.plan
    rows = [replace(row, title="<b>& 5%_") for row in plan.table.rows]
    strange = replace(
        filled.outcome, plan=replace(plan, table=replace(plan.table, rows=tuple(rows)))
    )
    assert "<b>" not in html(strange)
    assert r"<b>\& 5\%\_" in latex(strange)
    assert "&lt;b>" in markdown(strange)


def test_a_run_of_other_images_is_not_put_beside_those_of_a_column(tmp_path):
    """As one that was made with another --source: nothing is compared between them."""
    plan = plan_of(tmp_path, "ganomaly", "deep-svdd", only=("mnist-0",))
    for job in plan.jobs:
        leave_result(job, 1.0)
    outcome = read_outcome(plan)
    assert all(outcome.cells[row, "mnist-0"].test for row in ("ganomaly", "deep-svdd"))
    board = read_leaderboard(plan.jobs[1].run)
    (control,) = board.baselines
    other = replace(control.test, auroc=control.test.auroc - 0.01)
    changed = replace(control, test=other)
    replace(board, baselines=(changed,)).write()
    cells = [read_outcome(plan).cells[row, "mnist-0"] for row in ("ganomaly", "deep-svdd")]
    (apart,) = [cell for cell in cells if cell.test is None]
    assert "mnist-0--ganomaly" in apart.why
    assert "mnist-0--deep-svdd" in apart.why
    assert "they are not of the same images, since the AUROC of mean bright" in apart.why
    assert "remove the one" in apart.why


def test_a_leaderboard_that_cannot_be_read_is_told(tmp_path):
    plan = plan_of(tmp_path, "ganomaly", only=("mnist-0",))
    leave_result(plan.jobs[0], 1.0)
    plan.jobs[0].run.leaderboard.write_text('{"schema": 1}', encoding="utf-8")
    cell = read_outcome(plan).cells["ganomaly", "mnist-0"]
    assert cell.test is None
    assert "cannot be read as a leaderboard" in cell.why
    assert "makes it again, as does the same command without --table" in cell.why
