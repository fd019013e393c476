"""The report: sections as they should be, figures that equal the run's, names that cannot harm."""

import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fake_method
import numpy as np
import pytest
from fake_run import (
    EPOCHS,
    add_trial,
    change,
    change_request,
    finished_run,
    searched_run,
    small_problem,
    write_run,
)
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from PIL import Image
from scipy import integrate, stats
from sklearn.metrics import roc_curve

from amatune import report
from amatune.cli import main
from amatune.data.protocol import Problem
from amatune.report.figures import ENOUGH_TO_RANK, rung_epochs, search_figures
from amatune.results.leaderboard import read_leaderboard
from amatune.results.scores import load_scores
from amatune.runs import RunFolder
from amatune.tuning import study as studies

VOID = {"meta", "img", "br", "link", "base"}
SECTIONS = ["asked", "result", "roc", "scores", "pictures", "search", "trials", "cost"]


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_method.install(monkeypatch)
    monkeypatch.setattr("amatune.report.page.BOOTSTRAP", 20)
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* the library */")


@pytest.fixture(scope="module")
def problem() -> Problem:
    return small_problem()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, problem: Problem) -> RunFolder:
    """A tested run; tests that change something copy it."""
    return finished_run(tmp_path_factory.mktemp("runs") / "parts", problem)


@pytest.fixture(scope="module")
def page(finished: RunFolder) -> "Parsed":
    """Its report, as it is in every respect."""
    with pytest.MonkeyPatch.context() as patch:
        fake_method.install(patch)
        made = report.make_report(finished)
    assert made.notes == ()
    return Parsed(made.page)


@pytest.fixture
def tested(finished: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(finished.path, tmp_path / "runs" / "parts")
    return RunFolder(tmp_path / "runs" / "parts")


@pytest.fixture
def untested(tested: RunFolder) -> RunFolder:
    shutil.rmtree(tested.best)
    return tested


class Parsed(HTMLParser):
    """A page taken apart; every element must be closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.source = page
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}  # by innermost element
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        shown = [t for tag, ts in self.texts.items() if tag not in ("script", "style") for t in ts]
        return " ".join(" ".join(shown).split())

    @property
    def figures(self) -> list[dict[str, Any]]:
        drawn: list[dict[str, Any]] = json.loads(self.texts["script"][0])
        return drawn

    def figure(self, label: str) -> dict[str, Any]:
        places = [a for a in self.all("div") if a.get("class") == "figure"]
        assert len(places) == len(self.figures)
        (index,) = [i for i, a in enumerate(places) if a["aria-label"] == label]
        assert places[index]["id"] == f"figure-{index}"
        return self.figures[index]


def parsed(run: RunFolder) -> Parsed:
    return Parsed(report.make_report(run).page)


def numbers(values: Any) -> np.ndarray:
    """An array as plotly writes it."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
    return np.array(values, dtype=float)


# --- the page -------------------------------------------------------------------------------------


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
    megabytes = len(page.source.encode()) / 1e6
    assert f"nothing from elsewhere: {megabytes:.1f} MB, of which" in page.text
    assert megabytes < 6


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
    problem = tested.read()["problem"]
    change(tested, command=evil, versions={evil: evil}, problem={**problem, "warnings": [evil]})
    change_request(tested, fixed={evil: evil})
    board = json.loads((tested.best / "leaderboard.json").read_text())
    board["warnings"], board["choice"] = [evil], evil
    board["rows"][0]["settings"][evil] = evil
    board["rows"][0]["test"][evil] = board["rows"][0]["test"]["bright"]
    board["rows"][1]["test"][evil] = board["rows"][1]["test"]["bright"]
    (tested.best / "leaderboard.json").write_text(json.dumps(board))
    named = tmp_path / "runs" / "<img src=x onerror='alert(3)'>\" & co"
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


def test_nothing_in_a_script_ends_it() -> None:
    values = ["</script><!-- & \u2028", {"<b>": 1.5}]
    text = report._for_script(values)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == values


# --- figures --------------------------------------------------------------------------------------


def test_figures_of_the_search_are_those_of_the_study(finished: RunFolder, page: Parsed) -> None:
    trials = studies.open_study(finished).trials
    history, best, _ = page.figure("Optimisation history")["data"]
    assert history["x"] == [0, 1]
    assert numbers(history["y"]).tolist() == [trials[0].value, trials[1].value]
    assert numbers(best["y"]).tolist() == [trials[0].value] + [trials[1].value] * 3

    curves = page.figure("Learning curves, and where trials were stopped")
    named = {re.match("trial (.)", c["hovertemplate"])[1]: c for c in curves["data"]}  # type: ignore[index]
    assert sorted(named) == ["0", "1", "2"]
    for number, curve in named.items():
        values = trials[int(number)].intermediate_values
        assert numbers(curve["x"]).tolist() == list(values)
        assert numbers(curve["y"]).tolist() == list(values.values())
    assert named["1"]["name"] == "best, trial 1"
    assert curves["data"][-1] == named["1"]
    assert named["2"]["opacity"] < named["0"]["opacity"] < named["1"]["opacity"]
    lines = [shape["x0"] for shape in curves["layout"]["shapes"]]
    assert lines == rung_epochs(finished) == [1, 3]

    slices = {n: page.figure(f"Validation AUROC by {n}")["data"][0] for n in ("quality", "boost")}
    assert numbers(slices["quality"]["x"]).tolist() == [0.5, 0.9]
    assert numbers(slices["quality"]["y"]).tolist() == [trials[0].value, trials[1].value]
    assert numbers(slices["boost"]["x"]).tolist() == [0.25]
    assert "1 of 2 trials have it." in page.text
    (done, failed, pruned) = page.figure("When the trials ran")["data"]
    assert [b["name"] for b in (done, failed, pruned)] == ["done", "failed", "pruned"]
    assert [list(b["y"]) for b in (done, failed, pruned)] == [[0, 1], [3], [2]]


def test_test_figures_are_those_of_the_leaderboard(finished: RunFolder, page: Parsed) -> None:
    board = read_leaderboard(finished)
    mean, seeds = page.figure("Test AUROC of every configuration")["data"]
    assert mean["y"] == ["default", "trial-1"]
    tests = [row.test["bright"] for row in reversed(board.rows)]
    assert numbers(mean["x"]) == pytest.approx([t.auroc for t in tests])
    reach = numbers(mean["error_x"]["array"]), numbers(mean["error_x"]["arrayminus"])
    assert numbers(mean["x"]) + reach[0] == pytest.approx([t.auroc_high for t in tests])
    assert numbers(mean["x"]) - reach[1] == pytest.approx([t.auroc_low for t in tests])
    by_seed = [value for row in reversed(board.rows) for value in row.test_auroc_by_seed]
    assert numbers(seeds["x"]) == pytest.approx(by_seed)
    chosen = board.chosen.test["bright"]
    cells = page.texts["td"]
    assert f"{chosen.auroc:.3f} ± {chosen.auroc_spread:.3f}" in cells
    assert f"{chosen.auroc_low:.3f} to {chosen.auroc_high:.3f}" in cells
    assert f"{chosen.fpr95:.3f} ± {chosen.fpr95_spread:.3f}" in cells
    assert board.comparison is not None
    assert board.comparison.verdict in page.text
    assert page.texts["strong"] == [f"{chosen.auroc:.3f} ± {chosen.auroc_spread:.3f}"]


def test_the_roc_curve_is_the_mean_over_seeds(finished: RunFolder, page: Parsed) -> None:
    drawn = {t.get("name"): t for t in page.figure("ROC curves")["data"] if t.get("name")}
    for name in ("trial-1", "default"):
        expected = []
        for seed in (1, 2):
            scores = load_scores(finished.best / "models" / name / f"seed{seed}" / "test.npz")
            normal, anomaly = scores["bright"]["normal"], scores["bright"]["anomaly"]
            labels = np.repeat([0, 1], [len(normal), len(anomaly)])
            fpr, tpr, _ = roc_curve(labels, np.concatenate([normal, anomaly]))
            # The best that can be had with so many false alarms.
            expected.append([tpr[fpr <= x + 1e-9].max() for x in numbers(drawn[name]["x"])])
        assert numbers(drawn[name]["y"]) == pytest.approx(np.mean(expected, axis=0))


def test_the_band_covers_the_curve_and_narrows_with_more_images() -> None:
    generator = np.random.default_rng(0)

    def band(size: int) -> Any:
        scores = {"normal": generator.normal(size=size), "anomaly": generator.normal(1, size=size)}
        return report.roc_band([scores])

    (mean, low, high), (_, less, more) = band(50), band(5000)
    assert (low <= mean + 0.1).all()
    assert (mean <= high + 0.1).all()
    assert (more - less).max() < 0.3 * (high - low).max()


@pytest.mark.parametrize("values", [stats.norm(2, 3).rvs(200, random_state=0), np.ones(30)])
def test_the_density_is_a_density(values: np.ndarray) -> None:
    grid = np.linspace(-12, 16, 512)
    found = report.density(values, grid)
    assert integrate.trapezoid(found, grid) == pytest.approx(1, abs=0.01)
    if values.std() > 0:
        width = 0.9 * min(values.std(), stats.iqr(values) / 1.34) * len(values) ** -0.2
        expected = stats.gaussian_kde(values, width / values.std(ddof=1))(grid)
        assert found == pytest.approx(expected, abs=1e-6)


def test_the_threshold_lets_few_validation_normals_pass(finished: RunFolder, page: Parsed) -> None:
    (told,) = re.findall(r"The threshold (\S+) on bright", page.text)
    folder = read_leaderboard(finished).chosen_model
    validation = load_scores(folder / "validation.npz")["bright"]["normal"]
    # p = (1 + how many score as high) / (n + 1) is at most .05 above it, and not at it.
    allowed = int(0.05 * (len(validation) + 1)) - 1
    assert float(told) == pytest.approx(np.sort(validation)[::-1][allowed], rel=1e-3)
    own = load_scores(folder / "test.npz")["bright"]
    shares = [f"{(own[side] > np.sort(validation)[::-1][allowed]).mean():.1%}" for side in own]
    assert "for a false positive rate of 5.0%; of the test images" in page.text
    assert f"of the test images it flags {shares[0]} of the normal and {shares[1]}" in page.text
    figure = page.figure("Densities of the score bright")
    assert [t["name"] for t in figure["data"]] == ["training", "test, normal", "test, anomalous"]
    assert figure["layout"]["shapes"][0]["x0"] == pytest.approx(float(told), rel=1e-3)
    assert "shapes" not in page.figure("Densities of the score dark")["layout"]


@pytest.mark.parametrize("normals", [10, 18, 19, 500])
def test_few_validation_normals_have_a_threshold(normals: int) -> None:
    threshold, rate = report._threshold({"normal": np.arange(normals), "anomaly": np.zeros(1)})
    assert rate == pytest.approx(max(0.05, 1 / (normals + 1)), abs=1e-4)
    assert threshold == normals - max(1, (normals + 1) // 20)


def test_pictures_are_the_worst_and_the_clearest(
    finished: RunFolder, page: Parsed, problem: Problem
) -> None:
    folder = read_leaderboard(finished).chosen_model
    scores = load_scores(folder / "test.npz")["bright"]
    shown = [a["title"] for a in page.all("figure")]
    expected = []
    for side, sign in (("normal", -1), ("anomaly", 1), ("normal", 1), ("anomaly", -1)):
        (selection,) = getattr(
            problem.splits, "test_normals" if side == "normal" else "test_anomalies"
        )
        ranked = sorted(range(len(scores[side])), key=lambda i: sign * scores[side][i])
        expected += [f"digits {selection.ids[i]}" for i in ranked[: report.PICTURES]]
    assert shown == expected
    sources = [a["src"] for a in page.all("img")]
    assert len(sources) == 2 * len(shown)
    first = Image.open(io.BytesIO(base64.b64decode(str(sources[0]).partition(",")[2])))
    normal, _ = problem.test_images()
    worst = normal[int(np.argmax(scores["normal"]))][0]
    assert np.array_equal(np.asarray(first), worst)
    rebuilt = Image.open(io.BytesIO(base64.b64decode(str(sources[1]).partition(",")[2])))
    half = ((worst / 127.5 - 1) * 0.5 + 1) * 127.5  # what the fake reconstructs
    assert np.abs(np.asarray(rebuilt) - half).max() <= 1


# --- runs of all kinds ----------------------------------------------------------------------------


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
    assert len(page.all("img")) == 4 * report.PICTURES  # no reconstructions: no detector was kept
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
    page = parsed(run)
    assert "2 done, 1 running, 1 pruned, 1 failed, 1 waiting" in page.text
    curves = page.figure("Learning curves, and where trials were stopped")["data"]
    assert [c["name"] for c in curves][-1] == "running"


def test_failed_trials_and_their_reasons(page: Parsed) -> None:
    assert "1 failed" in page.text
    assert "diverged: <loss> is not finite" in page.texts["td"]
    assert "quality=1 kind=plain batch_size=16" in page.texts["td"]


def test_settings_of_some_trials_alone(tmp_path: Path, problem: Problem) -> None:
    run = write_run(tmp_path / "conditional", problem.to_dict())
    for number in range(8):
        params: dict[str, Any] = {"quality": number / 8, "kind": "plain"}
        if number % 2:
            params |= {"kind": "boosted", "boost": number / 16}
        add_trial(run, params, [0.5 + number / 20] * EPOCHS)
    by_kind = {f.kind: f for f in search_figures(run)}
    importance = by_kind["importance"]
    assert importance.figure is not None
    assert "quality" in importance.figure.data[0].y
    assert importance.note == (
        "From 8 trials with the full budget: a hint at most. Settings that only some trials have "
        "are the least sure."
    )
    assert by_kind["parallel"].figure is not None
    lines = [t for t in by_kind["parallel"].figure.data if t.mode == "lines"]
    assert len(lines) == 8
    assert "None" in json.dumps(by_kind["parallel"].figure.to_plotly_json(), default=list)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [("asha", [1, 3]), ("hyperband", [1, 3]), ("median", []), ("none", [])],
)
def test_rungs(tested: RunFolder, scheduler: str, expected: list[int]) -> None:
    change_request(tested, scheduler=scheduler)
    assert rung_epochs(tested) == expected
    if scheduler == "asha":
        pruner = studies.make_pruner("asha", EPOCHS, 1)
        assert pruner._min_resource == expected[0]  # type: ignore[attr-defined]


def test_without_the_images_the_report_says_why(
    tested: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tested.read()["problem"]
    changed = {"digits": {**saved["sources"]["digits"], "content": "other"}}
    change(tested, problem={**saved, "sources": changed})
    made = report.make_report(tested)
    assert "digits has changed" in made.notes[0]
    page = Parsed(made.page)
    assert page.all("img") == []
    assert "There are no pictures: digits has changed" in page.text
    names = [t["name"] for t in page.figure("Densities of the score bright")["data"]]
    assert names == ["test, normal", "test, anomalous"]

    monkeypatch.setenv("AMATUNE_DATA", str(tmp_path))  # a report downloads nothing
    change(tested, problem={**saved, "sources": {"mnist": {}}})
    made = report.make_report(tested, data_dir=str(tmp_path))
    assert f"mnist is missing in {tmp_path}" in made.notes[0]


def test_other_images_than_those_scored_are_not_shown(tested: RunFolder) -> None:
    saved = tested.read()["problem"]
    splits = saved["splits"]
    splits["test_normals"][0]["ids"] = splits["test_normals"][0]["ids"][1:]
    change(tested, problem={**saved, "splits": splits})
    made = report.make_report(tested)
    assert "normal and 54 anomalous test images can be read" in made.notes[0]
    assert "<img" not in made.page


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_without_the_scores_the_figures_stay(tested: RunFolder, damage: str) -> None:
    file = read_leaderboard(tested).chosen_model / "test.npz"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.unlink()
    made = report.make_report(tested)
    assert f"The scores in {file} cannot be read" in made.notes[0]
    page = Parsed(made.page)
    assert [a["id"] for a in page.all("section")] == [
        *("asked", "result", "scores", "search", "trials", "cost")
    ]
    assert page.figure("Test AUROC of every configuration")


def test_without_the_detector_there_are_pictures_alone(tested: RunFolder) -> None:
    (read_leaderboard(tested).chosen_model / "model.safetensors").write_bytes(b"other")
    made = report.make_report(tested)
    assert "is not what was saved there" in made.notes[0]
    assert len(Parsed(made.page).all("img")) == 4 * report.PICTURES


def test_cost(page: Parsed) -> None:
    assert "2 done, 1 pruned, 1 failed" in page.text
    assert f"{2 * EPOCHS + 1}, of {4 * EPOCHS} had every trial had the full budget" in page.text
    assert "0:04:30, pauses included" in page.text  # three minutes apart, the last takes 90 s
    assert "0:06:00, added up over trials" in page.text
    assert "4 trainings of 9 epochs" in page.text


# --- the command ----------------------------------------------------------------------------------


def test_the_command_writes_the_page(
    tested: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tested.path.parent.parent)
    assert main(["report"]) == 0
    assert re.fullmatch(r"Report: runs/parts/report.html, \d+ KiB\n", capsys.readouterr().out)
    assert (tested.path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    (read_leaderboard(tested).chosen_model / "model.safetensors").unlink()
    assert main(["report", "parts", "--output", "page.html"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("note: no reconstructions, and no scores of training images: ")
    assert "Report: page.html" in told
    assert Path("page.html").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["report", "gone"], "no run 'gone'"),
        (["report", "--output", "no/such/page.html"], "name a file in a folder that exists"),
        (["report", "--output", "runs"], "cannot write to runs"),
    ],
)
def test_a_wrong_request(
    tested: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tested.path.parent.parent)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err


def test_a_run_without_a_study_is_refused(tmp_path: Path, problem: Problem) -> None:
    run = write_run(tmp_path / "runs" / "empty", problem.to_dict())
    run.study_path.unlink()
    assert main(["report", "empty", "--runs-dir", str(tmp_path / "runs")]) == 2
