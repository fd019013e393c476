"""Exact shares against SciPy and by hand; guarantees in simulations where the truth is known."""

import dataclasses
import math

import fake_method
import numpy as np
import pytest
from fake_run import finished_run, group_images, small_problem
from scipy import stats

from amatune.errors import RequestError
from amatune.results.binomial import clopper_pearson, least_images, most_errors
from amatune.results.certify import guarantee, held_out, rate_above, stated_points
from amatune.results.leaderboard import TestGroups as Groups
from amatune.results.leaderboard import read_leaderboard
from amatune.results.operating import CERTIFIED, CHEAPEST, Demand, held_out_normals
from amatune.results.scores import VALIDATION, load_scores

DRAWS = 400
MOST_WRONG = 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)  # 5%, and three standard errors


def sides(generator, normals, anomalies, shift=0.0):
    """Uniform normal scores, so that a threshold t flags 1 - t of them; anomalies on [s, 1 + s]."""
    return {
        "normal": generator.random(normals),
        "anomaly": generator.random(anomalies) + shift,
    }


def below(errors, images, rate):
    """P(Binomial <= errors), term by term."""
    return sum(
        math.comb(images, k) * rate**k * (1 - rate) ** (images - k) for k in range(errors + 1)
    )


@pytest.mark.parametrize(("hits", "of"), [(0, 10), (10, 10), (1, 7), (58, 60), (17, 540)])
def test_the_exact_interval_is_scipys(hits, of):
    ours = clopper_pearson(hits, of)
    assert ours == pytest.approx(stats.binomtest(hits, of).proportion_ci(method="exact"))


@pytest.mark.parametrize(("images", "rate", "risk"), [(60, 0.05, 0.05), (540, 0.01, 0.025)])
def test_the_most_errors_are_counted_term_by_term(images, rate, risk):
    most = most_errors(images, rate, risk)
    assert below(most, images, rate) <= risk < below(most + 1, images, rate)
    assert most_errors(20, rate, risk) == -1


@pytest.mark.parametrize(("rate", "risk", "share"), [(0.05, 0.05, 0.0), (0.1, 0.025, 0.03)])
def test_the_fewest_images_are_found_one_by_one(rate, risk, share):
    fewest = next(n for n in range(1, 3000) if below(math.ceil(share * n), n, rate) <= risk)
    assert least_images(rate, risk, share) == fewest
    assert least_images(rate, risk, rate) is None
    assert least_images(rate, risk, 0.999 * rate, most=500) is None


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("demand", "shift"),
    [
        (Demand(max_fpr=0.05), 0.0),
        (Demand(min_recall=0.9), 0.0),
        (Demand(max_fpr=0.2, min_recall=0.8), 0.6),  # one threshold in [.8, .8] meets both
        (Demand(max_fpr=0.2, min_recall=0.7), 0.6),
    ],
)
def test_a_certified_threshold_breaks_its_limits_no_more_often_than_it_says(
    demand, shift, ties, monkeypatch
):
    """The true rates are known. Also where scores are coarse, as those of few bits are."""
    monkeypatch.setattr("amatune.results.certify._not_good_enough", lambda *_: "")  # a sentence
    generator = np.random.default_rng(0)
    wrong = certified = 0
    for _ in range(DRAWS):
        drawn = sides(generator, 400, 300, shift)
        if ties:
            drawn = {side: np.ceil(values * 50) / 50 for side, values in drawn.items()}
        point = guarantee(demand, drawn, drawn).point
        if point is None:
            continue
        certified += 1
        threshold = math.floor(point.threshold * 50 + 1e-9) / 50 if ties else point.threshold
        alarms = min(max(1 - threshold, 0), 1)
        found = min(max(1 + shift - threshold, 0), 1)
        wrong += alarms > (demand.max_fpr or 1) + 1e-9 or found < (demand.min_recall or 0) - 1e-9
        assert point.name == CERTIFIED
    assert wrong / DRAWS <= MOST_WRONG
    both = demand.max_fpr is not None and demand.min_recall is not None
    if not both:  # and not for being timid: the risk is nearly used up
        assert certified == DRAWS
        if not ties:
            assert wrong / DRAWS > 0.01


def test_intervals_of_stated_thresholds_cover_the_true_rates():
    """Although the threshold was made of the very scores whose share is told, and by few."""
    generator = np.random.default_rng(1)
    missed = np.zeros(2)
    for _ in range(DRAWS):
        drawn = sides(generator, 60, 40, 0.5)
        (point,) = stated_points(**drawn, rates=[0.05])
        alarms, found = 1 - point.threshold, min(1.5 - point.threshold, 1)
        missed += [
            not rate.low <= true <= rate.high
            for rate, true in ((point.false_alarms, alarms), (point.recall, found))
        ]
    assert (missed / DRAWS <= MOST_WRONG).all()
    assert [one.name for one in stated_points(**drawn)] == ["5% false alarms", "10% false alarms"]


def test_the_cheapest_threshold_is_the_best_of_all_and_its_bound_holds():
    demand = Demand(cost_miss=50, cost_alarm=1, anomaly_share=0.02)
    generator = np.random.default_rng(2)
    wrong = 0
    for _ in range(DRAWS):
        chosen_by, test = (sides(generator, 50, 50, 0.7) for _ in range(2))
        found = guarantee(demand, chosen_by, test)
        assert found.point is not None
        threshold = found.point.threshold
        told = float(found.statement.split("at most ")[1].split(" ")[0])
        missed, alarms = min(max(threshold - 0.7, 0), 1), min(max(1 - threshold, 0), 1)
        wrong += 0.02 * 50 * missed + 0.98 * alarms > told * (1 + 1e-3)
    assert wrong / DRAWS <= MOST_WRONG

    def cost(at):
        return np.mean(chosen_by["anomaly"] <= at) + 0.98 * np.mean(chosen_by["normal"] > at)

    everywhere = np.concatenate([[-1.0], *chosen_by.values()])
    assert cost(threshold) == pytest.approx(min(map(cost, everywhere)))
    assert found.point.name == CHEAPEST
    assert "flagging nothing 1, everything 0.98" in found.statement


@pytest.mark.parametrize(("normals", "anomalies", "certified"), [(368, 72, True), (367, 72, False)])
def test_the_number_that_would_do_does(normals, anomalies, certified):
    """.95^72 and .99^368 are the first powers below .025: both limits share the risk."""
    demand = Demand(min_recall=0.95, max_fpr=0.01)
    apart = {"normal": np.linspace(0, 1, normals), "anomaly": np.linspace(2, 3, anomalies)}
    found = guarantee(demand, apart, apart)
    assert (found.point is not None) == certified
    if not certified:
        assert found.statement == (
            "not certifiable with 72 anomalous and 367 normal test images: 368 normal ones would "
            "do, if all of them are judged right"
        )


def test_what_would_do_at_the_rates_that_were_seen():
    generator = np.random.default_rng(3)
    drawn = sides(generator, 500, 60, 1.0)
    drawn["anomaly"][:2] = 0.1  # two of 60 in the midst of normal ones
    told = guarantee(Demand(min_recall=0.9, max_fpr=0.05), drawn, drawn).statement
    assert "58 of 60 anomalies are found; about 85 anomalous ones would do" in told
    assert below(math.ceil(85 * 2 / 60), 85, 0.1) <= 0.025 < below(3, 84, 0.1)
    poor = sides(generator, 500, 60)
    told = guarantee(Demand(min_recall=0.9, max_fpr=0.05), poor, poor).statement
    assert "the detector would have to be better" in told
    both = Demand(min_recall=0.95, max_fpr=0.01)
    assert (
        "72 anomalous ones and 368 normal ones"
        in guarantee(both, *(sides(generator, 9, 9) for _ in range(2))).statement
    )


def test_a_threshold_lies_between_scores_where_rounding_changes_nothing():
    drawn = {"normal": np.arange(100.0), "anomaly": np.arange(50.0) + 60.3}
    point = guarantee(Demand(max_fpr=0.1), drawn, drawn).point
    assert point is not None
    assert point.false_alarms.hits == most_errors(100, 0.1, 0.05) == 4
    assert point.threshold == pytest.approx(95.15)
    point = guarantee(Demand(min_recall=0.9), drawn, drawn).point
    assert point is not None
    assert 50 - point.recall.hits == most_errors(50, 0.1, 0.05) == 1
    assert point.threshold == pytest.approx(61.15)
    assert rate_above(drawn["anomaly"], point.threshold).hits == 49


def test_thresholds_are_made_of_images_that_chose_nothing_unless_there_are_too_few():
    scores, which = held_out_normals(np.arange(50.0), np.arange(60.0))
    assert (len(scores), which) == (60, "test images")
    scores, which = held_out_normals(np.arange(50.0), np.arange(10.0))
    assert (len(scores), which) == (60, "validation and test images")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"min_recall": 1.0}, r"min_recall must be in \(0, 1\), got 1"),
        ({"max_fpr": math.nan}, r"max_fpr must be in \(0, 1\), got nan"),
        ({"cost_miss": 3.0}, "belong together"),
        ({"cost_miss": -1.0, "cost_alarm": math.inf}, "cost_miss must be more than 0, got -1; "),
        ({"cost_miss": 3.0, "cost_alarm": 1.0, "max_fpr": 0.1}, "give one kind"),
        ({"max_fpr": 0.1, "anomaly_share": 0.1}, "anomaly_share is for costs"),
    ],
)
def test_impossible_demands(values, told):
    with pytest.raises(RequestError, match=told):
        Demand(**values)
    assert Demand.of(min_recall=None, max_fpr=None) is None


def test_of_each_group_one_image_counts_of_the_validation_too(tmp_path, monkeypatch):
    """Where there are few groups in the test, and the thresholds are of both."""
    fake_method.install(monkeypatch)
    run = finished_run(tmp_path / "one", small_problem())
    board = read_leaderboard(run)
    kept = load_scores(board.chosen_model / VALIDATION)["bright"]
    group_images(run, 10)
    groups = np.arange(board.test_normals) // 40, 1000 + np.arange(board.test_anomalies) // 9
    board = dataclasses.replace(board, groups=Groups.of(groups))
    validation, test, clause = held_out(board)
    assert clause == ", one a group"
    assert len(test["normal"]) == len(np.unique(groups[0]))
    assert len(validation["normal"]) == math.ceil(len(kept["normal"]) / 10)
    assert len(validation["anomaly"]) == math.ceil(len(kept["anomaly"]) / 10)
    for place, score in enumerate(validation["normal"]):
        assert score in kept["normal"][10 * place : 10 * place + 10]
