"""Which score ranks a retrained configuration, and that no test image decides it."""

from types import SimpleNamespace

import numpy as np
import pytest

from amatune.results.scores import VALIDATION
from amatune.tuning.candidates import validate

BOUNDS = np.array([0, 2])


def training(score, **by_name):
    """One whose validation scores tell the two anomalies from two normal images so well."""

    def scores(file):
        assert file == VALIDATION
        return {
            name: {"normal": np.array([0.0, 1.0]), "anomaly": np.array(anomaly)}
            for name, anomaly in by_name.items()
        }

    return SimpleNamespace(config=SimpleNamespace(score=score), scores=scores)


def test_it_is_the_one_with_the_best_mean_over_the_seeds():
    trainings = [
        training("auto", A=[2.0, 2.0], R=[0.5, 2.0]),  # A 1, R .75
        training("auto", A=[-1.0, -1.0], R=[0.5, 2.0]),  # A 0, R .75
    ]
    found = validate(trainings, BOUNDS, "pooled")
    assert found.score == "R"
    assert found.aurocs == pytest.approx([0.75, 0.75])
    assert [s["anomaly"].tolist() for s in found.scores] == [[0.5, 2.0]] * 2


def test_a_score_that_was_asked_for_stays():
    trainings = [training("A", A=[-1.0, -1.0], R=[2.0, 2.0])]
    assert validate(trainings, BOUNDS, "pooled").score == "A"


def test_of_equal_scores_the_first_counts():
    trainings = [training("auto", A=[2.0, 2.0], R=[2.0, 2.0])]
    assert validate(trainings, BOUNDS, "pooled").score == "A"


def test_the_objective_decides_between_scores():
    """A finds one set entirely and the other not at all, R each by half."""
    trainings = [training("auto", R=[0.5, 0.5], A=[2.0, -0.5])]
    bounds = np.array([0, 1, 2])
    assert validate(trainings, bounds, "worst").score == "R"
    assert validate(trainings, bounds, "worst").aurocs == pytest.approx([0.5])


def test_a_method_that_offers_no_choice_ranks_by_its_first_score():
    """As its detector does: the thresholds of an export are of the score that ranks."""
    for names in ({"llr": [-1.0, -1.0], "nll": [2.0, 2.0]}, {"distance": [2.0, 2.0]}):
        one = training("auto", **names)
        one.config = SimpleNamespace()
        assert validate([one], BOUNDS, "pooled").score == next(iter(names))
