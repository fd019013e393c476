"""What more images would buy, against simulations in which there are more; and the command."""

import json
from pathlib import Path

import fake_method
import numpy as np
import pytest
from calls import call
from fake_run import finished_run, group_images, searched_run, small_problem
from scipy import special, stats

from amatune import metrics
from amatune.errors import RequestError
from amatune.results.difference import paired_difference
from amatune.results.leaderboard import figures
from amatune.results.plan import expected_best, make_plan


def drawn(generator, anomalies, luck=0.0, shift=1.2, normals=150):
    """A detector's scores; its luck moves all anomalies."""
    return {
        "normal": generator.normal(size=normals),
        "anomaly": generator.normal(shift + luck * generator.normal(), size=anomalies),
    }


def widths(plan):
    return [row.width for row in plan.anomalies]


def test_the_width_that_is_foretold_is_the_one_that_comes():
    """From 50 anomalies, on average, what 200 have."""
    generator = np.random.default_rng(0)
    foretold = [widths(make_plan("x", [drawn(generator, 50)]))[3] for _ in range(25)]
    came = [metrics.delong_interval(**drawn(generator, 200)) for _ in range(100)]
    assert np.mean(foretold) == pytest.approx(np.mean([high - low for low, high in came]), rel=0.04)


APART = np.repeat(np.arange(30), 5), np.repeat(np.arange(30, 40), 4)
MIXED = np.repeat(np.arange(15), 10), np.repeat(np.arange(10), 4)


@pytest.mark.parametrize("groups", [None, APART, MIXED])
@pytest.mark.parametrize("shift", [0.5, 2.0, 3.5, 20.0])
def test_today_the_interval_is_as_wide_as_the_one_that_is_printed(groups, shift):
    """Also at AUROC 1, where no standard error says anything: there its numbers of images do."""
    generator = np.random.default_rng(3)
    by_seed = [drawn(generator, 40, shift=shift) for _ in range(2)]
    printed = figures(by_seed, groups)
    plan = make_plan("x", by_seed, groups=groups)
    assert plan.anomalies[0].width == pytest.approx(printed.auroc_high - printed.auroc_low)
    assert 0 < plan.anomalies[-1].width < plan.anomalies[0].width
    if shift == 20:
        assert printed.auroc == 1
        assert widths(plan) == sorted(widths(plan), reverse=True)
        assert [row.width_by_size for row in plan.anomalies] == pytest.approx(widths(plan))
        assert not any("0.000 wide" in remark for remark in plan.remarks)


def test_what_images_of_a_day_have_in_common_makes_no_variance_negative():
    """Days that raise the scores of their normal images and those of their anomalies far more."""
    generator = np.random.default_rng(4)
    luck = generator.normal(size=20)
    groups = np.repeat(np.arange(20), 5), np.repeat(np.arange(20), 2)

    def detector(by_day):
        return {
            "normal": 0.4 * by_day * luck[groups[0]] + 0.3 * generator.normal(size=100),
            "anomaly": 1 + by_day * luck[groups[1]] + 0.3 * generator.normal(size=40),
        }

    mine, other = detector(1.0), detector(0.0)
    normal, rest = metrics.paired_variances(*mine.values(), *other.values(), groups)
    whole = metrics.delong_paired(*mine.values(), *other.values(), groups).standard_error
    assert normal + rest == pytest.approx(whole**2)
    plan = make_plan("x", [mine], [other], "default", groups=groups)
    found = [row.detectable for row in plan.anomalies]
    power = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert found == pytest.approx([power * (normal + rest / t) ** 0.5 for t in (1, 1.5, 2, 4, 8)])


def test_one_group_of_a_kind_says_nothing():
    one = drawn(np.random.default_rng(5), 20)
    with pytest.raises(RequestError, match=r"2 groups of normal and .* anomalous .*, got 30 and 1"):
        make_plan("x", [one], groups=(APART[0], np.full(20, 99)))
    with pytest.raises(RequestError, match="at least 2 normal and 2 anomalous images, got 150 and"):
        make_plan("x", [{**one, "anomaly": one["anomaly"][:1]}])


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
    error = metrics.hanley_mcneil(plan.auroc, 40, 150)
    reach = 1.959964 * error / (plan.auroc * (1 - plan.auroc))
    low, high = special.expit(special.logit(plan.auroc) + np.array([-reach, reach]))
    assert now.width_by_size == pytest.approx(high - low)
    missed = np.mean([(s["anomaly"] <= np.sort(s["normal"])[142]).mean() for s in mine])
    hits = 40 - int(np.ceil(missed * 40 - 1e-9))
    exact = stats.binomtest(hits, 40).proportion_ci(0.9, method="exact")
    assert now.recall == pytest.approx(exact.low)
    assert now.recall_at_best == pytest.approx(0.05 ** (1 / 40))
    assert plan.normals[0].rate == pytest.approx(1 - 0.05 ** (1 / 150))
    assert widths(plan) == sorted(widths(plan), reverse=True)
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
