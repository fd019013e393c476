"""Figures of a search and about scores: they equal the study's and the leaderboard's."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_run import EPOCHS, add_trial, change_request, write_run
from parsed_page import Parsed
from scipy import integrate, stats
from sklearn.metrics import roc_curve

from amatune.data.problem import Problem
from amatune.report.curves import density, roc_band
from amatune.report.figures import rung_epochs, search_figures
from amatune.results.leaderboard import read_leaderboard
from amatune.results.scores import load_scores
from amatune.runs import RunFolder
from amatune.tuning import study as studies
from amatune.tuning.stopping import Halving, make_pruner


def numbers(values: Any) -> np.ndarray:
    """An array as plotly writes it."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
    return np.array(values, dtype=float)


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
    assert lines == rung_epochs(finished) == [3]

    slices = {n: page.figure(f"Validation AUROC by {n}")["data"][0] for n in ("quality", "boost")}
    assert numbers(slices["quality"]["x"]).tolist() == [0.5, 0.9]
    assert numbers(slices["quality"]["y"]).tolist() == [trials[0].value, trials[1].value]
    assert numbers(slices["boost"]["x"]).tolist() == [0.25]
    assert "1 of 2 trials have it." in page.text
    (done, failed, pruned) = page.figure("When the trials ran")["data"]
    assert [b["name"] for b in (done, failed, pruned)] == ["done", "failed", "pruned"]
    assert [list(b["y"]) for b in (done, failed, pruned)] == [[0, 1], [3], [2]]


def test_what_trials_are_compared_by_is_drawn_at_the_rungs(
    tmp_path: Path, problem: Problem
) -> None:
    run = write_run(tmp_path / "early", problem.to_dict())
    for early in ({}, {"3": 0.75, "4": 0.8}):
        add_trial(run, {"quality": 0.5, "kind": "plain"}, [0.6] * EPOCHS, early=early)
    curves = next(f for f in search_figures(run) if f.kind == "curves")
    assert curves.figure is not None
    (points,) = (t for t in curves.figure.data if t.name == "compared by")
    assert (points.x, points.y, points.customdata) == ((3,), (0.75,), (1,))
    assert "Diamonds: what they are compared by there" in curves.note


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
    [("asha", [3]), ("hyperband", [3]), ("median", []), ("none", [])],
)
def test_rungs(tested: RunFolder, scheduler: str, expected: list[int]) -> None:
    change_request(tested, scheduler=scheduler)
    assert rung_epochs(tested) == expected
    if scheduler == "asha":
        pruner = make_pruner("asha", EPOCHS, 1)
        assert isinstance(pruner, Halving)
        assert pruner.levels(0) == expected


def test_test_figures_are_those_of_the_leaderboard(finished: RunFolder, page: Parsed) -> None:
    board = read_leaderboard(finished)
    trivial, mean, seeds = page.figure("Test AUROC of every configuration")["data"]
    assert trivial["y"] == ["mean brightness"]
    assert numbers(trivial["x"]) == pytest.approx([board.baselines[0].test.auroc])
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
        return roc_band([scores])

    (mean, low, high), (_, less, more) = band(50), band(5000)
    assert (low <= mean + 0.1).all()
    assert (mean <= high + 0.1).all()
    assert (more - less).max() < 0.3 * (high - low).max()


@pytest.mark.parametrize("values", [stats.norm(2, 3).rvs(200, random_state=0), np.ones(30)])
def test_the_density_is_a_density(values: np.ndarray) -> None:
    grid = np.linspace(-12, 16, 512)
    found = density(values, grid)
    assert integrate.trapezoid(found, grid) == pytest.approx(1, abs=0.01)
    if values.std() > 0:
        width = 0.9 * min(values.std(), stats.iqr(values) / 1.34) * len(values) ** -0.2
        expected = stats.gaussian_kde(values, width / values.std(ddof=1))(grid)
        assert found == pytest.approx(expected, abs=1e-6)
