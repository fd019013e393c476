"""What more images would buy, against simulations in which there are more; and the command."""

import json
from pathlib import Path

import fake_method
import numpy as np
import pytest
from calls import call
from fake_run import finished_run, group_images, searched_run, small_problem
from scipy import stats

from amatune import metrics
from amatune.results.difference import paired_difference
from amatune.results.plan import bootstrap_error, expected_best, make_plan


def drawn(generator, anomalies, luck=0.0, shift=1.2, normals=150):
    """A detector's scores; its luck moves all anomalies."""
    return {
        "normal": generator.normal(size=normals),
        "anomaly": generator.normal(shift + luck * generator.normal(), size=anomalies),
    }


def test_the_width_that_is_foretold_is_the_one_that_comes():
    """From 50 anomalies, on average, what 200 have; and now, by DeLong."""
    generator = np.random.default_rng(0)
    foretold = [bootstrap_error([drawn(generator, 50)], 4) for _ in range(25)]
    came = np.std([metrics.auroc(**drawn(generator, 200)) for _ in range(1500)])
    assert np.mean(foretold) == pytest.approx(came, rel=0.08)
    scores = drawn(generator, 50)
    assert bootstrap_error([scores]) == pytest.approx(
        metrics.auroc_standard_error(**scores), rel=0.1
    )
    groups = np.repeat(np.arange(30), 5), np.repeat(np.arange(30, 40), 5)
    assert bootstrap_error([scores], 1, groups) == pytest.approx(
        metrics.auroc_standard_error(**scores, groups=groups), rel=0.15
    )


def test_a_detectable_difference_is_detected_four_times_in_five():
    """Of detectors whose seeds see the same images, and have luck of their own."""
    generator = np.random.default_rng(1)

    def pair(anomalies, better=0.0):
        images = {"normal": generator.normal(size=150), "anomaly": generator.normal(size=anomalies)}
        return [
            [
                {
                    side: 0.8 * own
                    + 0.6 * generator.normal(size=len(own))
                    + (side == "anomaly") * (1.2 + gain + 0.1 * generator.normal())
                    for side, own in images.items()
                }
                for _ in range(3)
            ]
            for gain in (better, 0.0)
        ]

    foretold = []
    for _ in range(12):
        plan = make_plan("x", *pair(60), "default")
        foretold.append([row.detectable for row in plan.anomalies if row.anomalies == 240])
    difference = float(np.mean(foretold))
    luck = np.sqrt(2 + 0.01)  # of a normal and an anomalous score's difference
    better = luck * stats.norm.ppf(stats.norm.cdf(1.2 / luck) + difference) - 1.2
    found = sum(paired_difference(*pair(240, better)).p < 0.05 for _ in range(100))
    assert 0.65 < found / 100 < 0.97


def test_the_rest_of_a_plan_by_hand():
    generator = np.random.default_rng(2)
    mine, other = ([drawn(generator, 40, 0.2) for _ in range(2)] for _ in range(2))
    plan = make_plan("x", mine, other, "default", [0.5, 0.6, 0.7, 0.9])
    now = plan.anomalies[0]
    assert now.anomalies == 40
    assert now.width_by_size == pytest.approx(
        2 * 1.959964 * metrics.hanley_mcneil(plan.auroc, 40, 150)
    )
    missed = np.mean([(s["anomaly"] <= np.sort(s["normal"])[142]).mean() for s in mine])
    hits = 40 - int(np.ceil(missed * 40 - 1e-9))
    exact = stats.binomtest(hits, 40).proportion_ci(0.9, method="exact")
    assert now.recall == pytest.approx(exact.low)
    assert now.recall_at_best == pytest.approx(0.05 ** (1 / 40))
    assert plan.normals[0].rate == pytest.approx(1 - 0.05 ** (1 / 150))
    widths = [row.width for row in plan.anomalies]
    assert widths == sorted(widths, reverse=True)
    variances = metrics.paired_variances(*mine[0].values(), *other[0].values())
    error = metrics.delong_paired(*mine[0].values(), *other[0].values()).standard_error
    assert sum(variances) == pytest.approx(error**2)
    more = [row.detectable for row in plan.seeds]
    assert more == sorted(more, reverse=True)
    assert [row.trials for row in plan.trials] == [1, 2, 4]
    assert plan.trials[0].best == pytest.approx(0.675)  # the mean
    pairs = [max(a, b) for a in (0.5, 0.6, 0.7, 0.9) for b in (0.5, 0.6, 0.7, 0.9)]
    assert expected_best([0.9, 0.5, 0.7, 0.6], 2) == pytest.approx(np.mean(pairs))


def test_the_command_tells_it_before_and_after_the_test(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fake_method.install(monkeypatch)
    problem = small_problem()
    searched_run(Path("runs/one"), problem)
    assert call("plan one") == 0
    told = capsys.readouterr().out
    assert told.startswith("By trial 1 on ")
    assert "of the validation, which chose it" in told
    assert "Twice as many anomalies make the interval" in told
    assert "group" not in told
    group_images(searched_run(Path("runs/grouped"), problem), 5)
    assert call("plan grouped") == 0
    assert "group" in capsys.readouterr().out
    finished_run(Path("runs/two"), problem)
    assert call("plan two --json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["against"] == "default"
    assert values["anomalies"][0]["anomalies"] == 54
    assert call("plan two") == 0
    assert "difference from default found" in " ".join(capsys.readouterr().out.split())
