"""Cross-fitting by simulation: how wrong the final figure is, and how often its interval holds.

A search is simulated from its trials on: settings of unequal worth, seeds with luck of their own,
pictures that are hard for every detector alike, an early look that stops half of the trials. Three
ways to come to a figure are compared on the very same scores:

    apart      half of the anomalies choose, the other half tests (`amatune best`)
    crossfit   all of them, in folds (`amatune best --cross-fit K`)
    same       all of them choose and test, as is often done

The truth is the AUROC of the configuration that is taken, over seeds, on endless pictures.

    python benchmarks/crossfit.py --repeats 400 --anomalies 60 --folds 5
"""

import argparse
import platform
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy import stats

from amatune import metrics
from amatune.results.crossfit import DEFAULT, Judged, cross_fit
from amatune.results.leaderboard import choose, figures

COMMON = 0.6  # share of a score's variance that all detectors have in common
SEED_LUCK = 0.15  # standard deviation of a seed's shift
SETTINGS_SPREAD = 0.25  # of the settings' worth, in standard deviations of a score
USUAL = 1.3  # the mean shift of anomalies: an AUROC of .82
TOP, SEEDS = 3, 3


@dataclass(frozen=True)
class Way:
    """What a way to a figure gives, and what is true of what it takes."""

    figure: float
    low: float
    high: float
    truth: float


def simulate(
    generator: np.random.Generator,
    anomalies: int,
    folds: int,
    trials: int,
    normals: tuple[int, int] = (50, 300),
    draws: int = 200,
) -> dict[str, Way]:
    """One search, and the three ways to a figure."""
    worth = USUAL + SETTINGS_SPREAD * generator.normal(size=trials)
    common = {
        "chooses": generator.normal(size=normals[0]),
        "normal": generator.normal(size=normals[1]),
        "anomaly": generator.normal(size=anomalies),
    }
    luck: dict[int, list[float]] = {}

    def judged(trial: int) -> Judged:
        """A training with a seed of its own."""
        shift = worth[trial] + SEED_LUCK * generator.normal()
        luck.setdefault(trial, []).append(shift)
        scores = {
            side: np.sqrt(COMMON) * own + np.sqrt(1 - COMMON) * generator.normal(size=len(own))
            for side, own in common.items()
        }
        scores["anomaly"] += shift
        return Judged(**scores)

    searched = [judged(trial) for trial in range(trials)]
    luck.clear()
    seen = np.arange(anomalies) < anomalies // 2  # those of the validation
    early = [
        metrics.auroc(one.chooses, one.anomaly[seen] - 0.4 * generator.normal()) for one in searched
    ]
    full = [t for t in range(trials) if t == 0 or early[t] >= np.median(early)]
    of = np.arange(anomalies) % folds

    def best(inside: np.ndarray) -> list[int]:
        rank = {t: metrics.auroc(searched[t].chooses, searched[t].anomaly[inside]) for t in full}
        return sorted((t for t in full if t), key=lambda t: -rank[t])[:TOP]

    by_fold = [best(seen & (of != k)) for k in range(folds)]
    plain = best(seen)
    trained = {t: [judged(t) for _ in range(SEEDS)] for t in {0, *plain, *chain(*by_fold)}}
    named = {t: DEFAULT if t == 0 else f"trial-{t}" for t in trained}
    numbers = {name: t for t, name in named.items()}

    def truth(name: str) -> float:
        return float(np.mean(stats.norm.cdf(np.array(luck[numbers[name]]) / np.sqrt(2))))

    def apart(chooses: np.ndarray, tests: np.ndarray) -> Way:
        those = {t: trained[t] for t in (0, *plain)}
        scores = {
            named[t]: [{"normal": o.chooses, "anomaly": o.anomaly[chooses]} for o in own]
            for t, own in those.items()
        }
        means = {n: statistics.fmean(metrics.auroc(**s) for s in own) for n, own in scores.items()}
        chosen, _ = choose(scores, means)
        found = figures(
            [
                {"normal": one.normal, "anomaly": one.anomaly[tests]}
                for one in trained[numbers[chosen]]
            ]
        )
        return Way(found.auroc, found.auroc_low, found.auroc_high, truth(chosen))

    fitted = cross_fit(
        {named[t]: {"A": own} for t, own in trained.items()},
        of,
        [{named[t] for t in own} for own in by_fold],
        draws=draws,
    )
    everything = np.ones(anomalies, bool)
    return {
        "apart": apart(seen, ~seen),
        "crossfit": Way(fitted.auroc, fitted.low, fitted.high, truth(fitted.final)),
        "same": apart(everything, everything),
    }


def summary(ways: list[Way]) -> Mapping[str, float]:
    """Root mean square error, bias, coverage and width."""
    errors = np.array([one.figure - one.truth for one in ways])
    return {
        "error": float(np.sqrt((errors**2).mean())),
        "bias": float(errors.mean()),
        "covered": float(np.mean([one.low <= one.truth <= one.high for one in ways])),
        "width": float(np.mean([one.high - one.low for one in ways])),
        "truth": float(np.mean([one.truth for one in ways])),
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--anomalies", type=int, default=60, help="validation and test together")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=40)
    given = parser.parse_args()
    generator = np.random.default_rng(0)
    found = [
        simulate(generator, given.anomalies, given.folds, given.trials)
        for _ in range(given.repeats)
    ]
    print(f"numpy {np.__version__}, Python {platform.python_version()}, {vars(given)}")
    print(f"{'way':10} {'error':>7} {'bias':>8} {'covered':>8} {'width':>7} {'truth':>7}")
    for way in ("apart", "crossfit", "same"):
        row = summary([one[way] for one in found])
        print(
            f"{way:10} {row['error']:7.4f} {row['bias']:+8.4f} {row['covered']:8.3f} "
            f"{row['width']:7.3f} {row['truth']:7.4f}"
        )


if __name__ == "__main__":
    main()
