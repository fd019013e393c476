"""The correction of a picked AUROC, against a plain bootstrap and in simulations; the choice."""

import itertools

import numpy as np
import pytest

from amatune.results.leaderboard import choose
from amatune.results.objective import validation_auroc
from amatune.results.selection import Selection, correct_for_selection


def trial(shift, generator, normals=60, anomalies=50):
    return {
        "normal": generator.normal(0, 1, normals),
        "anomaly": generator.normal(shift, 1, anomalies),
    }


def auroc(normal, anomaly):
    """By its definition: the share of pairs in the right order, ties half."""
    gaps = anomaly[:, None] - normal
    return np.mean((gaps > 0) + 0.5 * (gaps == 0))


@pytest.mark.parametrize("kind", ["pooled", "mean", "worst"])
def test_it_is_a_plain_bootstrap_of_the_choice(kind):
    """Drawn image by image, pair by pair, and with other random numbers."""
    generator = np.random.default_rng(0)
    trials = [trial(s, generator, 30, 24) for s in (0.3, 0.8, 0.9, 1.0)]
    trials[1] = {side: values.round(0) for side, values in trials[1].items()}  # ties
    bounds = np.array([0, 10, 24])
    sets = list(itertools.pairwise(bounds)) if kind != "pooled" else [(0, 24)]
    combine = min if kind == "worst" else np.mean

    def figure(scores, normal, by_set):
        return combine([auroc(scores["normal"][normal], scores["anomaly"][s]) for s in by_set])

    held_out = []
    for _ in range(400):
        normal = generator.integers(0, 30, 30)
        drawn = [generator.integers(a, b, b - a) for a, b in sets]
        best = max(trials, key=lambda t: figure(t, normal, drawn))
        left = np.setdiff1d(np.arange(30), normal)
        rest = [np.setdiff1d(np.arange(a, b), d) for (a, b), d in zip(sets, drawn, strict=True)]
        held_out.append(figure(best, left, rest))
    found = correct_for_selection([[t] for t in trials], bounds, kind, draws=2000)
    spread = np.std(held_out) / np.sqrt(400)
    assert found.corrected == pytest.approx(np.mean(held_out), abs=3.5 * spread)
    figures = [validation_auroc(**t, bounds=bounds, kind=kind) for t in trials]
    assert found.apparent == pytest.approx(max(figures))
    assert found.of == 4


def test_the_best_of_many_equals_is_brought_back():
    """40 trials, all worth .714: the best looks like .8 and the correction removes the gain."""
    generator = np.random.default_rng(1)
    truth = 0.714  # Phi(0.8 / sqrt 2)
    apparent, corrected = [], []
    for _ in range(20):
        trials = [[trial(0.8, generator)] for _ in range(40)]
        found = correct_for_selection(trials, np.array([0, 50]), "pooled", draws=100)
        apparent.append(found.apparent)
        corrected.append(found.corrected)
    assert np.mean(apparent) - truth > 0.08
    assert abs(np.mean(corrected) - truth) < 0.025


def test_choosing_the_score_is_corrected_like_choosing_the_trial():
    """Ten trials of four scores each are forty candidates."""
    generator = np.random.default_rng(1)
    bounds = np.array([0, 50])
    apparent, corrected = [], []
    for _ in range(10):
        trials = [[trial(0.8, generator) for _ in range(4)] for _ in range(10)]
        found = correct_for_selection(trials, bounds, "pooled", draws=100)
        flat = [[scores] for scores in itertools.chain(*trials)]
        same = correct_for_selection(flat, bounds, "pooled", draws=100)
        assert (found.apparent, found.corrected) == (same.apparent, same.corrected)
        assert (found.of, found.scores) == (10, 4)
        apparent.append(found.apparent)
        corrected.append(found.corrected)
    assert np.mean(apparent) - 0.714 > 0.08
    assert abs(np.mean(corrected) - 0.714) < 0.03


def test_a_clear_winner_keeps_its_figure():
    generator = np.random.default_rng(2)
    trials = [[trial(2.0, generator)], *([trial(0.2, generator)] for _ in range(20))]
    found = correct_for_selection(trials, np.array([0, 50]), "pooled")
    assert found.corrected == pytest.approx(found.apparent, abs=0.01)


def test_the_same_seed_gives_the_same_figure_and_nothing_none():
    generator = np.random.default_rng(3)
    trials = [[trial(s, generator)] for s in (0.5, 0.6)]
    bounds = np.array([0, 50])
    first, second = (correct_for_selection(trials, bounds, "pooled") for _ in range(2))
    assert first == second
    with pytest.raises(ValueError, match="no trial"):
        correct_for_selection([], bounds, "pooled")


def test_the_default_is_taken_when_it_is_within_a_standard_error():
    generator = np.random.default_rng(4)
    good = [trial(1.5, generator) for _ in range(3)]
    alike = [{k: v + 0.01 * generator.normal(size=v.shape) for k, v in t.items()} for t in good]
    poor = [trial(0.2, generator) for _ in range(3)]

    def means(**scores):
        return {n: float(np.mean([auroc(**s) for s in seeds])) for n, seeds in scores.items()}

    name, why = choose({"default": poor, "trial-1": good}, means(default=poor, **{"trial-1": good}))
    assert name == "trial-1"
    assert "trial-1 is ahead of the default by" in why
    close = {"default": alike, "trial-1": good}
    figures = means(**close)
    figures["trial-1"] = figures["default"] + 1e-4
    name, why = choose(close, figures)
    assert name == "default"
    assert "not enough to prefer it" in why
    assert choose({"default": good}, {"default": 0.9})[0] == "default"
    assert choose({"trial-1": good}, {"trial-1": 0.9})[0] == "trial-1"


def test_the_figure_of_the_only_full_trial_is_not_said_to_be_corrected():
    assert str(Selection(apparent=0.836, corrected=0.8312, of=3)) == (
        "0.836, corrected for being picked from 3: 0.831; the luck of its seed is still in it, "
        "another seed may lose more than that"
    )
    chosen = str(Selection(apparent=0.836, corrected=0.8312, of=3, scores=4))
    assert "picked from 3 and by the best of 4 scores: 0.831" in chosen
    alone = str(Selection(apparent=0.824, corrected=0.824, of=1))
    assert alone == "0.824, of the only trial with the full budget"


def test_it_is_never_above_what_was_seen():
    """One trial was not picked: there the bootstrap alone would come out above every other time."""
    generator = np.random.default_rng(5)
    for _ in range(20):
        found = correct_for_selection(
            [[trial(0.8, generator)]], np.array([0, 50]), "pooled", draws=50
        )
        assert found.corrected <= found.apparent
    alone = correct_for_selection([[trial(1, generator, 1, 1)]], np.array([0, 1]), "pooled")
    assert alone.corrected == alone.apparent
