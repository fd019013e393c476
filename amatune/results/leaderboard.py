"""The result of a run: what the shortlist scores on the test images, and how sure that is.

Two kinds of figures, never to be confused. Validation figures have selected something: the search's
picked the shortlist, the retraining's picked the chosen configuration; both are biased upwards and
are no results. Test figures come from images that nothing was selected on.

Over seeds a figure is the mean, its spread the standard deviation. The interval of an AUROC is
DeLong's for each seed's detector, averaged over the seeds: what to expect of one trained detector
on other images of the same kind.
"""

import dataclasses
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amatune import metrics
from amatune.data.problem import Problem
from amatune.errors import RequestError
from amatune.files import read_json, read_text, write_json
from amatune.reading import build
from amatune.results.crossfit import DEFAULT, CrossFit
from amatune.results.difference import SIGNIFICANT, Sets, lead_error, paired_difference
from amatune.results.effort import Effort
from amatune.results.localisation import PixelSummary
from amatune.results.operating import Guarantee, OperatingPoint
from amatune.results.scores import TEST, load_scores
from amatune.results.selection import SeedScores, Selection
from amatune.runs import RunFolder
from amatune.sealed import read_facts
from amatune.several import METHOD
from amatune.wording import counted

SCHEMA = 2  # of leaderboard.json
Places = slice | NDArray[np.intp]  # of some images among others
_MOST_BYTES = 2**26  # of it


@dataclass(frozen=True, kw_only=True)
class TestFigures:
    """Test figures of one score of one configuration, over its seeds."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    auroc: float
    auroc_spread: float | None  # None with one seed
    auroc_low: float  # 95% interval
    auroc_high: float
    aupr: float
    aupr_spread: float | None
    fpr95: float  # share of normal images flagged when 95% of the anomalies are
    fpr95_spread: float | None


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """One configuration of the shortlist."""

    # "trial-12", "default", or of several methods "default-ama"; also the folder in best/models
    configuration: str
    default: bool
    chosen: bool
    score: str  # that ranks the images; figures without a name of their own are of it
    settings: dict[str, Any]  # searched and fixed values
    config: dict[str, Any]  # the whole detector configuration that was trained
    seeds: tuple[int, ...]  # that finished
    search_auroc: float | None  # selection figure; None when the search did not finish it
    validation_auroc: float  # selection figure: mean over the seeds
    validation_spread: float | None
    validation_by_seed: tuple[float, ...]
    test: dict[str, TestFigures]  # by score name
    test_auroc_by_seed: tuple[float, ...]  # of its score
    failures: tuple[str, ...]  # seeds that failed, with the reason
    # Of its score, by anomaly set where there are several, and by kind of defect where known.
    test_by_set: dict[str, TestFigures] = dataclasses.field(default_factory=dict)
    pixels: PixelSummary | None = None  # of its maps; None without masks or without maps

    @property
    def method(self) -> str | None:
        """Its method in a search of several; None in that of one."""
        return self.settings.get(METHOD)

    @property
    def epochs(self) -> int:
        """In which each of its seeds was trained; of several methods, each has its own."""
        return int(self.config["epochs"])

    @property
    def name(self) -> str:
        """The configuration, with its method in a search of several."""
        if self.method is None or self.default:
            return self.configuration
        return f"{self.configuration} ({self.method})"


@dataclass(frozen=True, kw_only=True)
class BaselineRow:
    """A measure that needs no detector, on the same test images."""

    name: str
    side: str  # where anomalies lie in it: chosen on validation images
    validation_auroc: float  # selection figure
    test: TestFigures


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The chosen configuration against another, or a baseline, on the same test images."""

    difference: float  # test AUROC, chosen minus the other, mean over seeds
    standard_error: float
    p: float  # two-sided
    verdict: str  # a sentence


@dataclass(frozen=True, kw_only=True)
class TestGroups:
    """The group of every test image, by number."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    normal: tuple[int, ...]
    anomaly: tuple[int, ...]

    @classmethod
    def of(cls, groups: metrics.Groups | None) -> "TestGroups | None":
        """Those that `metrics` has."""
        if groups is None:
            return None
        normal, anomaly = (tuple(side.tolist()) for side in groups)
        return cls(normal=normal, anomaly=anomaly)

    @property
    def pair(self) -> metrics.Groups:
        """As `metrics` has them."""
        return np.array(self.normal, np.int64), np.array(self.anomaly, np.int64)


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """The shortlist, best validation AUROC first, and what was found on the test images."""

    run: RunFolder
    method: str
    epochs: int
    seeds: tuple[int, ...]
    rows: tuple[LeaderboardRow, ...]
    comparison: Comparison | None  # None when the default was chosen, or could not be trained
    baselines: tuple[BaselineRow, ...]  # best validation AUROC first
    against_baseline: Comparison | None  # the chosen one and the first of the baselines
    dropped: tuple[str, ...]  # configurations that failed with every seed, and why
    test_normals: int
    test_anomalies: int
    warnings: tuple[str, ...]  # about the test images: copies of others, few groups
    choice: str = ""  # why the chosen one was chosen, in a sentence
    selection: Selection | None = None  # the search's best validation AUROC, corrected
    effort: Effort | None = None  # what the search took
    # Which test images belong together, such as those of one part; None where nobody said.
    groups: TestGroups | None = None
    # Of `chosen_model`, the one that is exported, on the test images.
    thresholds: tuple[OperatingPoint, ...] = ()
    guarantee: Guarantee | None = None  # None: nothing was demanded
    cross_fit: CrossFit | None = None  # None: not asked for

    @property
    def chosen(self) -> LeaderboardRow:
        """The configuration chosen on validation images."""
        return next(row for row in self.rows if row.chosen)

    @property
    def control(self) -> LeaderboardRow | None:
        """The default that the chosen one is compared with: of several methods' the one that
        validation images prefer, of those that failed with no seed. None where none was trained."""
        validated = {row.configuration: row.validation_by_seed for row in self.rows}
        name = control_of(validated, len(self.seeds))
        return next((row for row in self.rows if row.configuration == name), None)

    @property
    def failed(self) -> tuple[str, ...]:
        """Which configurations failed with which seeds, and why."""
        by_row = (f"{row.configuration}: {told}" for row in self.rows for told in row.failures)
        return (*by_row, *self.dropped)

    @property
    def other_choice(self) -> str:
        """That all anomalies together would choose another configuration, in a sentence; empty
        where they would not, and without a cross-fit."""
        if self.cross_fit is None or self.cross_fit.final == self.chosen.configuration:
            return ""
        return f"by all anomalies {self.cross_fit.final} would be chosen; the export is not that"

    def title(self, row: LeaderboardRow) -> str:
        """The name of a row, with its number of seeds where that is not the chosen one's."""
        if len(row.seeds) == len(self.chosen.seeds):
            return row.name
        return f"{row.name}, {counted(len(row.seeds), 'seed')}"

    @property
    def primary_score(self) -> str:
        """The score of the chosen configuration that ranks the images."""
        return self.chosen.score

    @property
    def chosen_model(self) -> Path:
        """Folder of the chosen configuration's detector with the best validation AUROC.

        That seed is one more selection: what to expect of it is the configuration's mean. Raises
        `RequestError` as `require_as_listed` does.
        """
        row = self.chosen
        best = max(range(len(row.seeds)), key=lambda i: row.validation_by_seed[i])
        return require_as_listed(self, row, row.seeds[best])

    def write(self) -> None:
        """Write `best/leaderboard.json`, atomically."""
        values = dataclasses.asdict(dataclasses.replace(self, run=None))  # type: ignore[arg-type]
        del values["run"]
        notes = {
            "search_auroc": "selection figure on validation images, biased upwards: not a result",
            "validation": "selection figures on validation images, biased upwards: not results",
            "selection": "apparent: the search's best validation AUROC; corrected: what to expect "
            "of such a choice on other images, by bootstrapping it (BBC-CV)",
            "test": "means over seeds; spread: standard deviation over seeds; low, high: 95% "
            "DeLong interval per seed, averaged",
            "pixels": "of maps, on test images with a mask; pro: per-region overlap up to a false "
            "positive rate of 0.3; means over seeds",
            "thresholds": "of the model that is exported: made of held-out normal images; what "
            "they flag of the test images, with exact 95% intervals",
        }
        write_json(self.run.leaderboard, {"schema": SCHEMA, "notes": notes, **values})


def read_leaderboard(run: RunFolder) -> Leaderboard:
    """The leaderboard an earlier retraining wrote.

    Raises `RequestError` when there is none, and for one that is not as it should be.
    """
    path = run.leaderboard
    if not path.exists():
        raise RequestError(
            f"the run {run.name!r} has no leaderboard yet; `amatune best {run.name}` makes it"
        )
    try:
        values = read_json(read_text(path, "the leaderboard", _MOST_BYTES), "it")
        if not isinstance(values, dict):
            raise RequestError("it must hold a JSON object")
        if values.get("schema") != SCHEMA:
            found = f"schema {values['schema']!r:.80}" if "schema" in values else "no schema"
            raise RequestError(f"it has {found}, and this version of amatune reads {SCHEMA}")
        board = build(Leaderboard, {**values, "run": run})
        if wrong := _contradictions(board):
            raise RequestError(wrong)
    except RequestError as error:
        raise RequestError(
            f"{path} cannot be read as a leaderboard: {error}; `amatune best {run.name}` makes it "
            "again"
        ) from None
    return board


def _contradictions(board: Leaderboard) -> str | None:
    """What in a leaderboard contradicts itself."""
    if sum(row.chosen for row in board.rows) != 1:
        return "one of its rows must be the chosen one"
    for row in board.rows:
        # It names a folder.
        if not re.fullmatch(r"default(-[a-z0-9-]+)?|trial-[0-9]+", row.configuration):
            return (
                "a configuration is default, default-METHOD or trial-NUMBER, got "
                f"{row.configuration!r:.80}"
            )
        if row.score not in row.test:
            return f"{row.configuration} has no figures of {row.score!r:.80}"
        by_seed = row.seeds, row.validation_by_seed, row.test_auroc_by_seed
        if not row.seeds or len({len(one) for one in by_seed}) != 1:
            return f"{row.configuration} must have figures of one or more seeds, of each the same"
        epochs = row.config.get("epochs")
        if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
            return f"the configuration of {row.configuration} has {epochs!r:.80} epochs"
        others = (one for one in board.rows if one.method == row.method)
        if any(row.test.keys() != one.test.keys() for one in others):
            return f"{row.configuration} has figures of other scores than the rest"
    if (own := board.groups) is not None:
        sizes = len(own.normal), len(own.anomaly)
        if sizes != (board.test_normals, board.test_anomalies):
            return "its groups must be of every test image"
    return None


def model_folder(run: RunFolder, configuration: str, seed: int) -> Path:
    """Where the detector of a configuration and seed is kept."""
    return run.best / "models" / configuration / f"seed{seed}"


def require_as_listed(board: Leaderboard, row: LeaderboardRow, seed: int) -> Path:
    """The folder of a retrained model. Raises `RequestError` where the model in it is not the one
    that the leaderboard tells of, as after a retraining that was interrupted."""
    folder = model_folder(board.run, row.configuration, seed)
    facts = read_facts(folder)
    if facts is not None and facts.get("config") != row.config:
        raise RequestError(
            f"the model in {folder} was trained with other settings than those on the leaderboard, "
            f"by a retraining that did not come to its end: call `amatune best {board.run.name}` "
            "again, with its options or without"
        )
    return folder


def kept_test_scores(board: Leaderboard, row: LeaderboardRow, score: str) -> list[SeedScores]:
    """What a configuration gives the test images by one of its scores, with each of its seeds.

    Raises `RequestError` where that was not kept, or not of all images.
    """
    found: list[SeedScores] = []
    for seed in row.seeds:
        file = require_as_listed(board, row, seed) / TEST
        try:
            scores = load_scores(file)[score]
        except (RequestError, KeyError) as error:
            raise RequestError(
                f"the scores in {file} cannot be read ({error}); `amatune best {board.run.name}` "
                "makes them again"
            ) from error
        sides = (board.test_normals, board.test_anomalies)
        if (len(scores["normal"]), len(scores["anomaly"])) != sides:
            raise RequestError(
                f"{file} has the scores of {len(scores['normal'])} normal and "
                f"{len(scores['anomaly'])} anomalous images, the leaderboard is of {sides[0]} and "
                f"{sides[1]}; `amatune best {board.run.name}` makes both again"
            )
        found.append(scores)
    return found


def figures(by_seed: Sequence[SeedScores], groups: metrics.Groups | None = None) -> TestFigures:
    """Figures of one score, from its test scores with each seed; images may be in groups."""
    pairs = [(s["normal"], s["anomaly"]) for s in by_seed]
    aurocs = [metrics.auroc(*pair) for pair in pairs]
    auprs = [metrics.average_precision(*pair) for pair in pairs]
    fprs = [metrics.fpr_at_tpr(*pair) for pair in pairs]
    intervals = [metrics.delong_interval(*pair, groups=groups) for pair in pairs]
    return TestFigures(
        auroc=statistics.fmean(aurocs),
        auroc_spread=spread(aurocs),
        auroc_low=statistics.fmean(low for low, _ in intervals),
        auroc_high=statistics.fmean(high for _, high in intervals),
        aupr=statistics.fmean(auprs),
        aupr_spread=spread(auprs),
        fpr95=statistics.fmean(fprs),
        fpr95_spread=spread(fprs),
    )


def anomaly_groups(problem: Problem) -> dict[str, Places]:
    """Where the test anomalies that have figures of their own lie among all of them: those of each
    set, where there are several, and of each kind of defect, with two pictures or more, which are
    not of one group. Opens the test part."""
    sets = problem.test_sets()
    found: dict[str, Places] = dict(sets) if len(sets) > 1 else {}
    for kind, places in problem.test_kinds().items():
        found[f"{kind}, {len(places)} pictures"] = places
    groups = problem.groups("test")
    of = np.arange(len(problem.test_images()[1])) if groups is None else groups[1]
    return {name: own for name, own in found.items() if len(np.unique(of[own])) > 1}


def against_baseline(
    chosen: Sequence[SeedScores],
    baseline: SeedScores,
    name: str,
    groups: metrics.Groups | None = None,
) -> Comparison:
    """The chosen configuration, by its seeds, against a measure that needs no detector; the verdict
    goes on from its name."""
    found = paired_difference(chosen, [baseline], groups)
    by = f"{found.difference:+.3f} AUROC, standard error {found.standard_error:.3f}"
    by += f", p = {found.p:.2g}"
    if found.difference <= 0:
        verdict = (
            f"does not beat {name}, which needs no detector ({by}): it has shown nothing that this "
            "does not"
        )
    elif found.p >= SIGNIFICANT:
        verdict = f"gives no evidence that it beats {name}, which needs no detector ({by})"
    else:
        verdict = f"beats the best baseline, {name} ({by})"
    return Comparison(
        difference=found.difference,
        standard_error=found.standard_error,
        p=found.p,
        verdict=verdict,
    )


def compare(
    chosen: Sequence[SeedScores],
    default: Sequence[SeedScores],
    groups: metrics.Groups | None = None,
    name: str = "default",
) -> Comparison:
    """Chosen against default, of this name, by the scores of their seeds on the same test
    images."""
    found = paired_difference(chosen, default, groups)
    difference, p = found.difference, found.p
    by = f"by {abs(difference):.3f} AUROC (p = {p:.2g})"
    if p >= SIGNIFICANT:
        verdict = f"no evidence of improvement over {_the(name)} (difference {difference:+.3f}"
        verdict += f", p = {p:.2g})"
    elif difference > 0:
        verdict = f"better than {_the(name)} {by}"
    else:
        verdict = f"worse than {_the(name)} {by}, although the validation images preferred it"
    if min(len(chosen), len(default)) == 1:
        verdict += "; one seed says nothing about the spread over seeds"
    return Comparison(
        difference=difference, standard_error=found.standard_error, p=p, verdict=verdict
    )


def choose(
    validation: Mapping[str, Sequence[SeedScores]],
    means: Mapping[str, float],
    groups: metrics.Groups | None = None,
    default: str = "default",
    *,
    sets: Sets | None = None,
    worst: bool = False,
) -> tuple[str, str]:
    """The configuration to take, and why, in a sentence.

    `means` are the mean validation AUROCs over the seeds and `validation` the scores behind them,
    by configuration; with `sets` (M,) of the anomalies they are of the mean over these, or of the
    `worst`. The best mean wins, unless the default comes within one standard error of it: of what
    cannot be told apart, the better known is taken.
    """
    best = max(means, key=lambda name: (means[name], name == default))
    if best == default or default not in means:
        return best, f"{best} has the best mean validation AUROC over the seeds"
    error = lead_error(validation[best], validation[default], groups, sets, worst=worst)
    gap = means[best] - means[default]
    by = f"{gap:.3f} with a standard error of {error:.3f}"
    if gap <= error:
        return default, f"{best} is ahead of {_the(default)} by {by}: not enough to prefer it"
    return best, f"{best} is ahead of {_the(default)} by {by} on validation images"


def control_of(validation: Mapping[str, Sequence[float]], seeds: int) -> str:
    """The default that others must be ahead of, by the validation AUROCs of each configuration's
    seeds: of several methods', the one that validation images prefer, of those that failed with no
    seed where there is one."""
    whole = without_failure(validation, seeds)
    defaults = [name for name in whole if name.partition("-")[0] == DEFAULT]
    return max(defaults, key=lambda name: statistics.fmean(validation[name]), default=DEFAULT)


def without_failure(validation: Mapping[str, Sequence[float]], seeds: int) -> list[str]:
    """Those that failed with no seed; all where there is none."""
    return [name for name, own in validation.items() if len(own) == seeds] or list(validation)


def _the(default: str) -> str:
    return "the default" if default == "default" else default


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation, of a sample; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None
