"""What a run has to show: its record and study, what its detectors said, and the images themselves.

All reading of a report happens here. Test images are opened only when the run has a leaderboard,
that is, once `amatune best` has opened them. Nothing of a run is executed, and nothing downloaded.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from amatune import metrics
from amatune.data.catalogue import find_dataset
from amatune.data.pictures import Pixels
from amatune.data.places import DataDir
from amatune.data.problem import Problem
from amatune.data.sources.base import Id
from amatune.data.splits import Selection
from amatune.detector import Detector
from amatune.errors import AmatuneError, DataError, RequestError
from amatune.registry import find_method
from amatune.report.figures import SearchFigure, search_figures
from amatune.results.effort import Effort
from amatune.results.groups import SIZES, GroupFigures, group_figures
from amatune.results.leaderboard import (
    Leaderboard,
    LeaderboardRow,
    read_leaderboard,
    require_as_listed,
)
from amatune.results.operating import stated_name
from amatune.results.overlay import outline, overlaid, shares_of
from amatune.results.scores import TEST, VALIDATION, load_scores, validation_file
from amatune.runs import RunFolder
from amatune.runs.record import RunRecord
from amatune.stored import StoredDetector
from amatune.tuning import study as studies
from amatune.tuning.events import TrialUpdate
from amatune.wording import sentence

FALSE_ALARMS = 0.05  # false positive rate of the threshold, unless another was demanded
TRAINING_IMAGES = 1000  # at most, decoded and scored for the density
SLOW_IMAGES = 100  # likewise, where each needs an optimisation of its own
PICTURES = 8  # in each of the four groups

Sides = Mapping[str, np.ndarray]  # "normal" (N,), "anomaly" (M,), higher = more anomalous


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Images that a detector has scored, and the detectors' scores of them."""

    which: str  # "test" or "validation"
    name: str  # of the configuration
    seed: int | None  # of the one detector that is looked at image by image; None: of the search
    primary: str
    scores: Mapping[str, Sides]  # by score name, of that detector
    threshold: float  # of the primary score
    rule: str  # what the threshold is for and was made of: goes on from its value
    by_seed: tuple[Sides, ...]  # primary scores with each seed
    control: str = ""  # the configuration that it is compared with; empty: none
    control_by_seed: tuple[Sides, ...] = ()  # its scores likewise
    model: Path | None  # folder of that detector; None: it was not kept
    groups: tuple[GroupFigures, ...] = ()  # of test images, where the method judges such
    belonging: metrics.Groups | None = None  # which images are of one part, day or camera

    @property
    def title(self) -> str:
        """The detector in words."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    def is_wrong(self, side: str, score: float) -> bool:
        """Whether an image of that side lies on the wrong side of the threshold."""
        return (score > self.threshold) == (side == "normal")


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """An image, its score, and what the detector made of it."""

    image: Pixels  # (C, H, W)
    rebuilt: Pixels | None  # likewise; None when the method makes none, or it was not kept
    mapped: Pixels | None  # likewise, in colour: a map over it, and the outline of its mask
    score: float
    wrong: bool  # on the wrong side of the threshold
    source: str  # the image's data set
    id: Id


@dataclass(frozen=True, kw_only=True)
class Extremes:
    """The images that were told apart worst and best, each group beginning with the clearest."""

    false_alarms: tuple[Shown, ...]  # normal, highest scores
    misses: tuple[Shown, ...]  # anomalous, lowest scores
    clear_normals: tuple[Shown, ...]
    clear_anomalies: tuple[Shown, ...]

    @property
    def are_rebuilt(self) -> bool:
        """Whether there are reconstructions."""
        return any(one.rebuilt is not None for one in self.false_alarms)

    @property
    def are_mapped(self) -> bool:
        """Whether there are maps."""
        return any(one.mapped is not None for one in self.false_alarms)


@dataclass(frozen=True, kw_only=True)
class Images:
    """What could be had of the run's images."""

    training: Mapping[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    extremes: Extremes | None = None
    why_none: str = ""  # there are no `extremes`
    notes: tuple[str, ...] = ()  # about all that is missing


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A run, which may be going on, as far as it can be read."""

    run: RunFolder
    record: RunRecord
    trials: tuple[TrialUpdate, ...]  # by number
    over: bool  # nothing works on it now
    effort: Effort
    budget: int  # epochs of the trials that have started, had each had all of its own
    took: timedelta | None  # from the first trial's start to the last end, pauses included
    search: tuple[SearchFigure, ...]
    board: Leaderboard | None  # None before `amatune best`
    judged: Judged | None
    why_not_judged: str
    images: Images

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be read, and why."""
        return (self.why_not_judged,) if self.why_not_judged else self.images.notes


def gather(run: RunFolder, data_dir: DataDir = None) -> Evidence:
    """All that a report of the run shows.

    Images come from the run's data sets: from `data_dir`, or the folder that the search used. What
    is missing is left out. Raises `RequestError` for a run that cannot be read.
    """
    record = run.record()
    over = not run.in_use  # first: what ends meanwhile is done, and not unfinished
    study = studies.open_study(run)
    board = read_leaderboard(run) if run.leaderboard.exists() else None
    judged, why_not = None, ""
    try:
        judged = _by_best(board) if board else _by_search(run, record, study)
    except AmatuneError as error:
        why_not = str(error)
    trials = study.get_trials(deepcopy=False)
    updates = tuple(studies.trial_update(trial, record.request.epochs) for trial in trials)
    begun = zip(updates, trials, strict=True)
    starts = [trial.datetime_start for trial in trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    return Evidence(
        run=run,
        record=record,
        trials=updates,
        over=over,
        effort=studies.effort(study),
        budget=sum(one.epochs for one, trial in begun if trial.datetime_start),
        took=max(ends) - min(starts) if ends and max(ends) > min(starts) else None,
        search=tuple(search_figures(run, over=over)),
        board=board,
        judged=judged,
        why_not_judged=why_not,
        images=_look(record, judged, data_dir) if judged else Images(),
    )


# --- what the detectors said ----------------------------------------------------------------------


def _by_best(board: Leaderboard) -> Judged:
    """The test images, scored by the configuration chosen on validation images."""
    chosen, model = board.chosen, board.chosen_model
    scores = _read_scores(model / TEST)
    validation = _read_scores(model / VALIDATION)
    threshold, rule = _of_export(board) or threshold_of(validation[board.primary_score])
    control = None if board.control is chosen else board.control
    return Judged(
        which="test",
        name=chosen.configuration,
        seed=int(model.name.removeprefix("seed")),
        primary=board.primary_score,
        scores=scores,
        threshold=threshold,
        rule=rule,
        by_seed=_test_scores(board, chosen, board.primary_score),
        control=control.configuration if control else "",
        control_by_seed=_test_scores(board, control, control.score) if control else (),
        model=model,
        groups=_groups(board, validation, scores),
        belonging=board.groups.pair if board.groups else None,
    )


def _test_scores(board: Leaderboard, row: LeaderboardRow, score: str) -> tuple[Sides, ...]:
    return tuple(
        _read_scores(require_as_listed(board, row, seed) / TEST)[score] for seed in row.seeds
    )


def _groups(
    board: Leaderboard, validation: Mapping[str, Sides], test: Mapping[str, Sides]
) -> tuple[GroupFigures, ...]:
    """Test images several at a time, as many as there are of each kind."""
    try:
        name = find_method(board.method).detector.group_score
    except RequestError:  # of a package that is no longer there
        return ()
    if name is None or name not in validation or name not in test:
        return ()
    kinds = validation[name]["normal"], test[name]["normal"], test[name]["anomaly"]
    return tuple(group_figures(*kinds, size) for size in SIZES if min(map(len, kinds)) >= size)


def _of_export(board: Leaderboard) -> tuple[float, str] | None:
    """The threshold by which the exported model flags unless another is asked for, as
    `threshold_of`; None where it has none."""
    held, usual = board.guarantee, stated_name(FALSE_ALARMS)
    if held is not None and held.point is not None:
        rule = f"is the exported model's {held.point.name} one, found with the test images"
        return held.point.threshold, rule
    for point in board.thresholds:
        if point.name == usual:
            # So of the test's it flags as many as asked, whatever they are: that is no finding.
            rule = f"is the exported model's for {usual}, made of normal images, the test's too"
            return point.threshold, rule
    return None


def _by_search(run: RunFolder, record: RunRecord, study: optuna.Study) -> Judged:
    """The validation images, scored by the best trial of the search."""
    for trial in studies.full_trials(study):
        file, primary = validation_file(run, trial.number), trial.user_attrs.get(studies.PRIMARY)
        if primary is not None and file.exists():
            scores = _read_scores(file)
            threshold, rule = threshold_of(scores[primary])
            return Judged(
                which="validation",
                name=f"trial {trial.number}",
                seed=None,
                primary=primary,
                scores=scores,
                threshold=threshold,
                rule=rule,
                by_seed=(scores[primary],),
                model=None,
                belonging=record.problem.groups("validation"),
            )
    raise DataError("There are no scores yet: no trial has reached the full budget.")


def _read_scores(file: Path) -> dict[str, dict[str, np.ndarray]]:
    """Kept scores. Raises `DataError` when they are not there, or not what was kept."""
    try:
        return load_scores(file)
    except RequestError as error:
        raise DataError(sentence(str(error))) from error


def threshold_of(validation: Sides) -> tuple[float, str]:
    """A threshold by validation images, where there is none of an export, and what it is for: a
    false positive rate of FALSE_ALARMS, or a larger one where normals are few."""
    normal = validation["normal"]
    least = math.ceil(10_000 / (len(normal) + 1)) / 10_000  # 1 / (n + 1), rounded up
    rate = max(FALSE_ALARMS, least)
    rule = f"comes from the validation normals, for a false positive rate of {rate:.1%}"
    return metrics.conformal_threshold(normal, rate), rule


# --- the images -----------------------------------------------------------------------------------


def _look(record: RunRecord, judged: Judged, data_dir: DataDir) -> Images:
    """Training images scored, and the images that were told apart worst and best."""
    try:
        problem = _open_problem(record, data_dir)
    except AmatuneError as error:
        return Images(
            why_none=str(error), notes=(f"no pictures, and no scores of training images: {error}",)
        )
    detector, notes = None, []
    if judged.model is not None:
        try:
            detector = StoredDetector.load(judged.model).build()
        except (AmatuneError, OSError) as error:
            notes.append(f"no reconstructions, and no scores of training images: {error}")
    training: Mapping[str, NDArray[np.float32]] = {}
    if detector is not None:
        try:
            training = _score_training(problem, detector)
        except AmatuneError as error:
            notes.append(f"no scores of training images: {error}")
    extremes, why_none = None, ""
    try:
        extremes = _extremes(problem, judged, detector)
    except AmatuneError as error:
        why_none = str(error)
        notes.append(f"no pictures: {error}")
    return Images(training=training, extremes=extremes, why_none=why_none, notes=tuple(notes))


def _open_problem(record: RunRecord, data_dir: DataDir) -> Problem:
    """The images, of the training part a sample. Raises `DataError` when they are not there."""
    folder = data_dir or record.request.data_dir
    for name in record.problem.sources:
        found = find_dataset(name, folder)
        if found.state in ("missing", "incomplete"):
            raise DataError(
                f"{name} is {found.state} in {found.place}; --data-dir says where else it is"
            )
    problem = record.open_problem(folder)
    (whole,) = problem.splits.train_normals
    places = np.unique(np.linspace(0, len(whole.ids) - 1, TRAINING_IMAGES).round().astype(int))
    sample = dataclasses.replace(whole, ids=tuple(whole.ids[place] for place in places))
    problem.splits = dataclasses.replace(
        problem.splits, train_normals=(sample,), hidden_anomalies=()
    )
    return problem


def _score_training(problem: Problem, detector: Detector) -> dict[str, NDArray[np.float32]]:
    """Scores of the training images that were opened, or of some: name -> (N,)."""
    images = problem.train_images()
    if detector.needs_gradient_to_score:
        images = images[:: math.ceil(len(images) / SLOW_IMAGES)]
    return {n: scores.numpy() for n, scores in detector.scores(torch.from_numpy(images)).items()}


def _extremes(problem: Problem, judged: Judged, detector: Detector | None) -> Extremes:
    """Raises `AmatuneError` when the images that were scored cannot be had."""
    test = judged.which == "test"
    normal, anomaly = problem.test_images() if test else problem.validation_images()
    images = {"normal": normal, "anomaly": anomaly}
    scores = judged.scores[judged.primary]
    if any(len(images[side]) != len(scores[side]) for side in images):
        raise DataError(
            f"{len(normal)} normal and {len(anomaly)} anomalous {judged.which} images can be "
            f"read, {len(scores['normal'])} and {len(scores['anomaly'])} were scored"
        )
    splits = problem.splits.by_name()  # only now: damaged pictures leave them when they are read
    names = {
        "normal": _names(splits[f"{judged.which}_normals"]),
        "anomaly": _names(splits[f"{judged.which}_anomalies"]),
    }

    places = {
        name: (side, np.argsort(direction * scores[side], kind="stable")[:PICTURES])
        for name, side, direction in _GROUPS
    }
    chosen = np.concatenate([images[side][order] for side, order in places.values()])
    masks = {"anomaly": problem.test_masks() if test else [None] * len(anomaly)}
    masks["normal"] = [None] * len(normal)
    outlines = [masks[side][place] for side, order in places.values() for place in order]
    rebuilt = _reconstructions(detector, chosen)
    mapped = _overlays(detector, chosen, outlines)
    rows = itertools.count()  # of all that are shown, one group after the other

    def shown(side: str, place: int, row: int) -> Shown:
        return Shown(
            image=chosen[row],
            rebuilt=None if rebuilt is None else rebuilt[row],
            mapped=None if mapped is None else mapped[row],
            score=float(scores[side][place]),
            wrong=judged.is_wrong(side, float(scores[side][place])),
            source=names[side][place][0],
            id=names[side][place][1],
        )

    return Extremes(
        **{
            name: tuple(shown(side, place, next(rows)) for place in order)
            for name, (side, order) in places.items()
        }
    )


# Of `Extremes`: its group, of which side, and the direction in which scores rise.
_GROUPS = (
    ("false_alarms", "normal", -1),
    ("misses", "anomaly", 1),
    ("clear_normals", "normal", 1),
    ("clear_anomalies", "anomaly", -1),
)


def _names(split: Sequence[Selection]) -> list[tuple[str, Id]]:
    return [(selection.source, one) for selection in split for one in selection.ids]


def _reconstructions(detector: Detector | None, images: Pixels) -> Pixels | None:
    """Like `images`, (N, C, H, W); None without a detector, or when it makes none."""
    rebuilt = None if detector is None else detector.reconstruct(torch.from_numpy(images))
    if rebuilt is None:
        return None
    return rebuilt.float().clamp(-1, 1).add(1).mul(127.5).round().byte().numpy()


def _overlays(
    detector: Detector | None, images: Pixels, masks: Sequence[NDArray[np.bool_] | None]
) -> Pixels | None:
    """Images (N, C, H, W) with maps over them, on one scale, and the outlines of masks; in colour.
    None without a detector, or when it makes no maps."""
    maps = None if detector is None else detector.pixel_map(torch.from_numpy(images))
    if maps is None:
        return None
    drawn = overlaid(images, shares_of(maps.float().numpy()))
    outline(drawn, masks)
    return drawn
