"""Cross-fitting against a plain loop over folds and images, and its interval in simulations."""

import sys
from pathlib import Path

import numpy as np
import pytest

from amatune import metrics
from amatune.results.crossfit import DEFAULT, Judged, cross_fit
from amatune.results.difference import paired_difference
from amatune.results.objective import validation_auroc

FOLDS = np.arange(24) % 4


def judged(generator, shift, common, share=0.5):
    own = {
        side: np.sqrt(share) * base + np.sqrt(1 - share) * generator.normal(size=len(base))
        for side, base in common.items()
    }
    return Judged(**{**own, "anomaly": own["anomaly"] + shift})


@pytest.fixture
def candidates():
    generator = np.random.default_rng(0)
    sizes = {"chooses": 20, "normal": 30, "anomaly": 24}
    common = {side: generator.normal(size=size) for side, size in sizes.items()}
    shifts = {DEFAULT: 0.6, "trial-1": 1.4, "trial-2": 1.3, "trial-3": 2.0}
    return {
        name: {"A": [judged(generator, shift, common) for _ in range(2)]}
        for name, shift in shifts.items()
    }


def sides(one, inside):
    return {"normal": one.chooses, "anomaly": one.anomaly[inside]}


def chosen_by_hand(candidates, inside, names, sets=None, kind="pooled"):
    """As a retraining chooses."""
    means = {}
    for name in (*names, DEFAULT):
        own = []
        for one in candidates[name]["A"]:
            if sets is None:
                own.append(metrics.auroc(**sides(one, inside)))
            else:
                parts = [one.anomaly[inside & (sets == s)] for s in (0, 1)]
                bounds = np.array([0, len(parts[0]), len(parts[0]) + len(parts[1])])
                own.append(validation_auroc(one.chooses, np.concatenate(parts), bounds, kind))
        means[name] = np.mean(own)
    best = max(means, key=lambda n: (means[n], n == DEFAULT))
    ours, theirs = ([sides(one, inside) for one in candidates[n]["A"]] for n in (best, DEFAULT))
    error = paired_difference(ours, theirs).standard_error
    return DEFAULT if means[best] - means[DEFAULT] <= error else best


@pytest.mark.parametrize("kind", ["pooled", "mean", "worst"])
def test_it_is_a_plain_loop_over_folds(candidates, kind):
    eligible = [{"trial-1", "trial-2"}, {"trial-1", "trial-3"}, {"trial-3"}, {"trial-2"}]
    sets = None if kind == "pooled" else (np.arange(24) >= 10).astype(int)
    found = cross_fit(candidates, FOLDS, eligible, sets=sets, worst=kind == "worst", draws=20)
    names = [
        chosen_by_hand(candidates, k != FOLDS, sorted(eligible[k]), sets, kind) for k in range(4)
    ]
    assert found.chosen == tuple(names)
    everything = np.ones(24, bool)
    every = ["trial-1", "trial-2", "trial-3"]
    assert found.final == chosen_by_hand(candidates, everything, every, sets, kind)
    aurocs = []
    for seed in range(2):
        pairs = 0.0
        for i in range(24):
            one = candidates[names[FOLDS[i]]]["A"][seed]
            pairs += (one.anomaly[i] > one.normal).mean()
        aurocs.append(pairs / 24)
    assert found.auroc == pytest.approx(np.mean(aurocs))
    assert found.spread == pytest.approx(np.std(aurocs, ddof=1))
    base = [metrics.auroc(one.normal, one.anomaly) for one in candidates[DEFAULT]["A"]]
    assert found.difference == pytest.approx(found.auroc - np.mean(base))
    assert (found.folds, found.anomalies, found.normals) == (4, 24, 30)


def test_where_nothing_is_to_be_chosen_it_is_delongs(candidates):
    """One candidate: all anomalies test it, and the interval is the usual one, nearly."""
    alone = {DEFAULT: {"A": candidates["trial-1"]["A"][:1]}}
    found = cross_fit(alone, FOLDS, [set()] * 4, draws=2000)
    one = candidates["trial-1"]["A"][0]
    low, high = metrics.delong_interval(one.normal, one.anomaly)
    assert found.auroc == pytest.approx(metrics.auroc(one.normal, one.anomaly))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)
    assert found.choice_error < 0.03  # the bootstrap's own inaccuracy
    assert found.difference == 0
    assert found.p == pytest.approx(1, abs=0.2)
    groups = np.arange(30) // 3, 10 + np.arange(24) // 3
    wider = cross_fit(alone, np.arange(24) // 3 % 4, [set()] * 4, groups=groups)
    expected = metrics.delong_interval(one.normal, one.anomaly, groups=groups)
    assert wider.high - wider.low == pytest.approx(expected[1] - expected[0], rel=0.4)


def test_the_best_score_of_auto_is_chosen_without_the_fold(candidates):
    both = {
        name: {"A": own["A"], "R": [Judged(chooses=-o.chooses, normal=-o.normal,
               anomaly=-o.anomaly) for o in own["A"]]} for name, own in candidates.items()
    }  # fmt: skip
    every = [set(candidates)] * 4
    one, two = (cross_fit(c, FOLDS, every, draws=20) for c in (candidates, both))
    assert one == two
    with pytest.raises(ValueError, match="no candidate"):
        cross_fit({}, FOLDS, every)


def test_copies_of_pictures_are_no_evidence_for_leaving_the_default():
    """A lead within its error is no reason; every picture four times makes it look like one."""
    generator = np.random.default_rng(2)
    common = {side: generator.normal(size=24) for side in ("chooses", "normal", "anomaly")}
    once = {
        name: {"A": [judged(generator, shift, common)]}
        for name, shift in ((DEFAULT, 1.0), ("trial-1", 1.2))
    }
    fourfold = {
        name: {"A": [Judged(**{k: np.repeat(v, 4) for k, v in vars(own["A"][0]).items()})]}
        for name, own in once.items()
    }
    copies = np.repeat(np.arange(24), 4)
    groups = 100 + copies, 200 + copies
    every = [set(once)] * 4
    assert cross_fit(once, FOLDS, every, draws=20).final == DEFAULT
    blind = cross_fit(fourfold, np.repeat(FOLDS, 4), every, draws=20)
    assert blind.final == "trial-1"
    told = cross_fit(fourfold, np.repeat(FOLDS, 4), every, groups=groups, choosers=copies, draws=20)
    assert told.final == DEFAULT


def test_its_interval_covers_and_its_error_is_smaller():
    """A small part of what `benchmarks/crossfit.py` measures."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        import crossfit as benchmark
    finally:
        sys.path.pop(0)
    generator = np.random.default_rng(1)
    found = [
        benchmark.simulate(generator, 40, 4, 10, normals=(40, 100), draws=50) for _ in range(40)
    ]
    rows = {way: benchmark.summary([one[way] for one in found]) for way in found[0]}
    assert rows["crossfit"]["covered"] >= 0.85  # .95 less three standard errors
    assert abs(rows["crossfit"]["bias"]) < 0.02
    assert rows["crossfit"]["width"] < 0.9 * rows["apart"]["width"]
