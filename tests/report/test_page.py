"""The page: sections as they should be, names that cannot harm, nothing of the machine."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from fake_run import (
    EPOCHS,
    add_trial,
    change,
    change_request,
    searched_run,
    write_run,
)
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from parsed_page import Parsed

from amatune import report
from amatune.data.problem import Problem
from amatune.report.evidence import PICTURES
from amatune.report.figures import ENOUGH_TO_RANK, search_figures
from amatune.runs import RunFolder
from amatune.tuning import study as studies
from amatune.wording import download_size

SECTIONS = ["asked", "result", "roc", "scores", "pictures", "search", "trials", "cost"]


def parsed(run: RunFolder) -> Parsed:
    return Parsed(report.make_report(run).page)


def test_the_page_is_whole_and_loads_nothing(page: Parsed) -> None:
    assert [a["id"] for a in page.all("section")] == SECTIONS
    assert [a["href"] for a in page.all("a")] == [f"#{name}" for name in SECTIONS]
    for tag, attributes in page.elements:
        assert tag not in ("link", "base", "iframe", "object", "embed", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "action"):
                assert re.match("data:image/png;base64,|#", value or ""), (tag, value)
    assert "url(" not in "".join(page.texts["style"])
    assert "@import" not in "".join(page.texts["style"])
    assert page.source.count("* plotly.js v") == 1  # the library, once
    size = len(page.source.encode())
    assert f"nothing from elsewhere: {download_size(size)}, of which" in page.text
    assert size < 6e6


def test_only_the_scripts_written_here_may_run(page: Parsed) -> None:
    (policy,) = [
        a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert "default-src 'none'" in policy
    data, *scripts = page.texts["script"]
    assert page.all("script") == [{"type": "application/json", "id": "figures"}, {}, {}]
    assert json.loads(data)
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    rules = next(rule for rule in policy.split("; ") if rule.startswith("script-src"))
    assert "unsafe-inline" not in rules


def test_hostile_names_stay_text(tested: RunFolder, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&lt;<!--"
    rules = {evil: FloatDistribution(0, 1), "colour": CategoricalDistribution([evil, "red"])}
    for quality in (0.2, 0.4, 0.6):
        params = {evil: quality, "colour": evil, "quality": quality}
        add_trial(tested, params, [quality] * EPOCHS, distributions=rules)
    params = {evil: 0.1, "colour": evil}
    add_trial(tested, params, [0.1], TrialState.FAIL, reason=evil, distributions=rules)
    problem = tested.record().problem.to_dict()
    change(tested, command=evil, versions={evil: evil}, problem={**problem, "warnings": [evil]})
    change_request(tested, fixed={evil: evil})
    board = json.loads((tested.best / "leaderboard.json").read_text())
    board["warnings"], board["choice"] = [evil], evil
    board["rows"][0]["settings"][evil] = evil
    board["rows"][0]["test"][evil] = board["rows"][0]["test"]["bright"]
    board["rows"][1]["test"][evil] = board["rows"][1]["test"]["bright"]
    (tested.best / "leaderboard.json").write_text(json.dumps(board))
    named = tmp_path / "runs" / "<img src=x onerror='alert(3)'>\" & co SIZE"
    tested.path.rename(named)

    page = parsed(RunFolder(named))
    assert len(page.all("script")) == 3
    assert all(not (a.get("src") or "").startswith("x") for a in page.all("img"))
    assert evil in page.text
    assert named.name in "".join(page.texts["h1"])
    # Plotly reads markup in texts: there it must be escaped once more.
    shown = json.dumps([f for f in page.figures if "alert" in json.dumps(f)])
    assert "alert(1)" in shown
    assert "<script" not in shown
    assert "<img" not in shown


def test_before_the_test_everything_is_about_validation(
    untested: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_problem: Problem) -> None:
        raise AssertionError("a test image was read")

    monkeypatch.setattr(Problem, "test_images", refuse)
    made = report.make_report(untested)
    page = Parsed(made.page)
    assert "Not tested yet" in page.text
    assert "No test figures yet" in page.text
    assert "amatune best parts" in page.text
    assert "Test AUROC" not in page.text
    names = [t["name"] for t in page.figure("Densities of the score bright")["data"]]
    assert names == ["validation, normal", "validation, anomalous"]
    assert len(page.all("img")) == 4 * PICTURES  # no reconstructions: no detector was kept
    for section in ("roc", "scores", "pictures", "search"):
        part = made.page.split(f'<section id="{section}">')[1].split("</section>")[0]
        assert "selection figure, not a result" in part, section


@pytest.mark.parametrize("finished_trials", [0, 1, 2, 3])
def test_few_trials(tmp_path: Path, problem: Problem, finished_trials: int) -> None:
    run = write_run(tmp_path / "few", problem.to_dict())
    for number in range(finished_trials):
        params = {"quality": 0.1 * number, "kind": "plain"}
        add_trial(run, params, [0.5 + 0.1 * number] * EPOCHS)
    page = parsed(run)
    ended = "1 of 4" if finished_trials == 1 else f"{finished_trials} of 4"
    assert f"The search is not over: {ended} trials have ended." in page.text
    assert f"Importance needs at least {ENOUGH_TO_RANK} trials" in page.text
    kinds = [f.kind for f in search_figures(run) if f.figure is not None]
    slices = ["slice"] * 2
    assert (
        kinds
        == [
            [],
            ["history", "curves", *slices, "timeline"],
            ["history", "curves", "parallel", *slices, "timeline"],
            ["history", "curves", "parallel", *slices, "timeline"],
        ][finished_trials]
    )
    assert len(page.figures) == len(kinds)
    # Trials there are, but no scores of theirs.
    assert "no trial has reached the full budget" in page.text or finished_trials


def test_a_search_under_way(tmp_path: Path, problem: Problem) -> None:
    run = searched_run(tmp_path / "running", problem)
    study = studies.open_study(run)
    running = study.ask()
    running.suggest_float("quality", 0, 1)
    running.report(0.5, 1)
    study.enqueue_trial({"quality": 0.5})
    with run.alone():
        page = parsed(run)
    told = "2 done, 1 {}, 1 pruned, 1 failed, 1 waiting"
    assert told.format("running") in page.text
    assert "running" in page.texts["td"]
    title = "Learning curves, and where trials were stopped"
    assert page.figure(title)["data"][-1]["name"] == "running"
    # Once it was killed, nothing runs.
    page = parsed(run)
    assert told.format("unfinished") in page.text
    assert "unfinished" in page.texts["td"]
    assert "running" not in page.texts["td"]
    assert page.figure(title)["data"][-1]["name"] == "unfinished"
    bars = {bar["name"] for bar in page.figure("When the trials ran")["data"]}
    assert "unfinished" in bars
    assert "running" not in bars


def test_failed_trials_and_their_reasons(page: Parsed) -> None:
    assert "1 failed" in page.text
    assert "diverged: <loss> is not finite" in page.texts["td"]
    assert "quality=1 kind=plain batch_size=16" in page.texts["td"]


def test_cost(page: Parsed) -> None:
    assert "2 done, 1 pruned, 1 failed" in page.text
    assert f"{2 * EPOCHS + 1}, of {4 * EPOCHS} had every trial had the full budget" in page.text
    assert "0:04:30, pauses included" in page.text  # three minutes apart, the last takes 90 s
    assert "0:06:00, added up over trials" in page.text
    assert "4 trainings, 4 epochs together" in page.text  # of an epoch each


def test_of_several_methods_each_has_its_own_epochs(tested: RunFolder) -> None:
    """Frozen features are done after one."""
    study = studies.open_study(tested)
    one = study.trials[0]
    one.user_attrs[studies.CONFIG]["epochs"] = 1
    one.intermediate_values = {1: 0.7}
    study.add_trial(one)
    file = tested.best / "leaderboard.json"
    board = json.loads(file.read_text(encoding="utf-8"))
    board["rows"][0]["config"]["epochs"] = 5
    file.write_text(json.dumps(board), encoding="utf-8")
    page = parsed(tested)
    ran = 2 * EPOCHS + 2
    assert f"{ran}, of {4 * EPOCHS + 1} had every trial had the full budget" in page.text
    assert "4 trainings, 12 epochs together" in page.text
    assert "2 seeds each: trial-1 of 5 epochs, default of 1 epoch" in page.text


def test_what_the_terminal_says_of_a_result_the_page_says_too(tested: RunFolder) -> None:
    """Figures of fewer seeds, what failed, and another choice by all anomalies."""
    file = tested.best / "leaderboard.json"
    board = json.loads(file.read_text(encoding="utf-8"))
    for name in ("seeds", "validation_by_seed", "test_auroc_by_seed"):
        board["rows"][0][name] = board["rows"][0][name][:1]
    board["rows"][0]["failures"] = ["seed 2: diverged"]
    board["dropped"] = ["trial-7: seed 1: no memory"]
    figures = {"auroc": 0.8, "spread": None, "low": 0.7, "high": 0.9, "choice_error": 0.01}
    counts = {"folds": 5, "anomalies": 60, "normals": 99, "chosen": ["default"]}
    rest = {"final": "default", "difference": None, "p": None, "remark": ""}
    board["cross_fit"] = {**figures, **counts, **rest}
    file.write_text(json.dumps(board), encoding="utf-8")
    page = parsed(tested)
    assert "score bright, over 1 seed." in page.text
    assert "the mean over 1 seed, or as many as a row names, ± their" in page.text
    assert "default, 2 seeds" in page.texts["th"]
    assert "1 seed of 1 epoch each" in page.text
    assert "trial-1: seed 2: diverged; trial-7: seed 1: no memory" in page.text
    assert "; by all anomalies default would be chosen; the export is not that" in page.text


def test_names_that_are_no_text_are_shown_all_the_same(tested: RunFolder) -> None:
    """Bytes that are no UTF-8, and characters that turn the direction of what follows."""
    change(tested, command="amatune search --dataset folder:caf\udce9 --ood \u202egnp.exe\n")
    page = report.make_report(tested).page
    page.encode("utf-8")
    assert r"folder:caf\xe9 --ood \u202egnp.exe\n" in Parsed(page).text


def test_settings_that_differ_beyond_three_digits_stand_out(tested: RunFolder) -> None:
    file = tested.best / "leaderboard.json"
    board = json.loads(file.read_text(encoding="utf-8"))
    for row, value in zip(board["rows"], (0.0012341, 0.0012342), strict=True):
        row["settings"]["lr"] = value
    file.write_text(json.dumps(board), encoding="utf-8")
    source = report.make_report(tested).page
    (row,) = re.findall(
        r'<tr class="chosen">\s*<th scope="row">lr</th>(.*?)</tr>', source, re.DOTALL
    )
    assert re.findall("<td>(.*?)</td>", row) == ["0.0012341", "0.0012342"]
