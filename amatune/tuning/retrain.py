"""From the best trials to a result: retrain the shortlist over fresh seeds, choose, test once.

The shortlist is the best full-budget trials of the search and, as a control, the default
configuration. All train from scratch with seeds the search has not used, the same ones for every
configuration. The choice falls on the best mean validation AUROC over the seeds, or on the default
when that is within one standard error of it. Only then are the test images read, scored by every
detector, and turned into a `Leaderboard`.
"""

import contextlib
import dataclasses
import itertools
import shlex
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amatune import metrics, registry
from amatune.cluster import connection, execution
from amatune.cluster.capacity import Room
from amatune.cluster.job import CHECKPOINT_SECONDS, Images
from amatune.cluster.scoring import score_models
from amatune.data.problem import Problem
from amatune.errors import AmatuneError, ClusterLostError, DiskFullError, RequestError
from amatune.registry import Method, SeveralMethods
from amatune.results.certify import with_thresholds
from amatune.results.leaderboard import (
    Comparison,
    Leaderboard,
    LeaderboardRow,
    Places,
    TestFigures,
    TestGroups,
    against_baseline,
    anomaly_groups,
    choose,
    compare,
    figures,
    read_leaderboard,
    spread,
)
from amatune.results.localisation import PIXELS, Masks, over_seeds, write_pixels
from amatune.results.objective import best_score, set_bounds, validation_auroc
from amatune.results.operating import Demand
from amatune.results.scores import TEST, VALIDATION, save_scores
from amatune.results.selection import SeedScores
from amatune.runs import RunFolder
from amatune.runs.record import RunRecord
from amatune.runs.request import LOCAL, MOST, Objective
from amatune.several import METHOD
from amatune.tuning import study as studies
from amatune.tuning.baselines import tested_baselines
from amatune.tuning.cost import Budget, Estimating, Plan
from amatune.tuning.crossfit import CrossFitting
from amatune.tuning.events import (
    Event,
    Listener,
    RetrainEnded,
    RetrainStarted,
    Saving,
    TestStarted,
)
from amatune.tuning.retrainings import Candidate, Retraining, Retrainings
from amatune.tuning.room import find_room
from amatune.tuning.search import selection, when_to_go_on
from amatune.tuning.shortlists import DEFAULT, shortlist

__all__ = [
    "Comparison",
    "Leaderboard",
    "LeaderboardRow",
    "TestFigures",
    "read_leaderboard",
    "run_best",
]

MOST_SEEDS = 1000


def run_best(
    run: RunFolder,
    *,
    top: int = 3,
    seeds: int = 3,
    epochs: int | None = None,
    demand: Demand | None = None,
    cross_fit: int | None = None,
    data_dir: str | None = None,
    address: str | None = None,
    concurrent: int | None = None,
    listener: Listener | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Leaderboard:
    """Retrain the best `top` trials and the default over `seeds` seeds, choose one, test all.

    Every training runs `epochs` epochs, by default the search's. A `demand` is met, or not, by a
    threshold of the detector that would be exported. With `cross_fit` folds, all anomalies choose
    and test in turn, beside the choice and the test that are always made. Detectors, their
    validation and test scores go to `best/models`, the leaderboard to `best/leaderboard.json`.
    Called again it trains only what is not there yet. Uses the resources and, unless `address`,
    `data_dir` and `concurrent` say otherwise, the cluster, the data folder and at most as many
    trainings at a time as the search's request.

    Raises `RequestError` when no trial has reached the full budget, `DataError` when the images
    have changed since, `AmatuneError` when every training fails, and `KeyboardInterrupt` after one
    Ctrl-C, with everything finished so far kept.
    """
    numbers = {"top": top, "seeds": seeds, "epochs": epochs, "concurrent": concurrent}
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise RequestError(f"{name} must be at least 1, got {value}")
    for name, value, most in (("seeds", seeds, MOST_SEEDS), ("epochs", epochs, MOST)):
        if value is not None and value > most:
            raise RequestError(f"{name} must be at most {most:,}, got {value}")
    began = time.monotonic()
    emit = Estimating(listener or _nobody)
    with run.alone(), contextlib.ExitStack() as stack:
        record = run.record()
        here: dict[str, Any] = {} if concurrent is None else {"concurrent": concurrent}
        if address is not None:
            here["address"] = None if address == LOCAL else address
        record = dataclasses.replace(record, request=dataclasses.replace(record.request, **here))
        request = record.request
        method = registry.searched_method(request.method)
        problem = record.open_problem(data_dir)
        candidates: Sequence[Candidate]
        fitting = None
        if cross_fit is not None and isinstance(method, SeveralMethods):
            raise RequestError(
                "cross-fitting compares with the one default of a method, and this search has "
                f"several, {method.name}; leave --cross-fit out"
            )
        if cross_fit is None:
            candidates = shortlist(run, record, method, top, epochs or request.epochs)
        else:
            fitting = CrossFitting.of(
                run,
                record,
                method,
                problem,
                folds=cross_fit,
                top=top,
                epochs=epochs or request.epochs,
            )
            candidates = fitting.candidates
        trainings = [
            Retraining.of(run, candidate, request.seed, number)
            for candidate in candidates
            for number in range(1, seeds + 1)
        ]
        work = Retrainings(run, record, trainings, emit, checkpoint_seconds)
        room = None
        if work.left:
            # One for training and testing.
            stack.enter_context(_cluster(run, request.address))
            room = find_room(record, method)
        emit(
            RetrainStarted(
                run=run.path,
                configurations=tuple(candidate.name for candidate in candidates),
                seeds=tuple(range(1, seeds + 1)),
                epochs=None if isinstance(method, SeveralMethods) else candidates[0].config.epochs,
                finished=len(trainings) - len(work.left),
                concurrent=room.concurrent if room else 0,
                warnings=(
                    *problem.warnings,
                    *method.detector.limits(),
                    *(room.notes if room else ()),
                ),
            )
        )
        if room:
            _train(work, emit, record, method, problem, room)
        finished = {
            candidate.name: [t for t in trainings if t.candidate is candidate and t.facts]
            for candidate in candidates
        }
        if not any(finished.values()):
            reasons = "; ".join(sorted(set(itertools.chain(*work.failures.values()))))
            raise AmatuneError(f"every training of the shortlist failed: {reasons}")
        bounds = set_bounds(problem.validation_sets())
        validated = {
            name: _validated(trainings, bounds, request.objective)
            for name, trainings in finished.items()
            if trainings
        }
        chosen, choice = _choose(validated, seeds, problem.groups("validation"))
        masks = Masks.of(problem.test_masks())
        untested = [
            t for t in itertools.chain(*finished.values()) if not t.is_tested(with_maps=bool(masks))
        ]
        if untested:
            emit(TestStarted(chosen=chosen, models=len(untested)))
            _test(untested, run, record, method, problem, masks)
        sets = anomaly_groups(problem)
        groups = problem.groups("test")
        rows = [
            _row(
                candidate,
                finished[candidate.name],
                validated[candidate.name],
                chosen,
                work.failures,
                sets,
                groups,
            )
            for candidate in candidates
            if finished[candidate.name]
        ]
        baselines, strongest = tested_baselines(run, request, problem)
        study = studies.open_study(run)
        some_scores = finished[chosen][0].scores(TEST)[validated[chosen].score]
        work_of = {candidate.name: candidate for candidate in candidates}
        board = Leaderboard(
            run=run,
            method=work_of[chosen].settings.get(METHOD, method.name),
            epochs=work_of[chosen].config.epochs,
            seeds=tuple(range(1, seeds + 1)),
            rows=tuple(sorted(rows, key=lambda row: -row.validation_auroc)),
            comparison=_compare(finished, validated, chosen, seeds, groups),
            baselines=baselines,
            against_baseline=against_baseline(
                [one.scores(TEST)[validated[chosen].score] for one in finished[chosen]],
                strongest,
                baselines[0].name,
                groups,
            ),
            dropped=tuple(
                f"{name}: {'; '.join(work.failures[name])}"
                for name, trainings in finished.items()
                if not trainings
            ),
            test_normals=len(some_scores["normal"]),
            test_anomalies=len(some_scores["anomaly"]),
            warnings=(*problem.test_duplicates(run.near_copies), *problem.list_damaged(run.broken)),
            choice=choice,
            selection=selection(run, request, problem, study),
            effort=studies.effort(study),
            groups=TestGroups.of(groups),
        )
        board = with_thresholds(board, demand)
        if fitting is not None:
            scores = {name: one.score for name, one in validated.items()}
            trained = {name: finished[name] for name in scores}
            found = fitting.result(trained, scores, problem, request.objective)
            board = dataclasses.replace(board, cross_fit=found)
        board.write()
        best = board.chosen
        test = best.test[board.primary_score]
        emit(
            RetrainEnded(
                run=run.path,
                chosen=best.configuration,
                score=board.primary_score,
                test_auroc=test.auroc,
                test_auroc_low=test.auroc_low,
                test_auroc_high=test.auroc_high,
                pixel_auroc=None if best.pixels is None else best.pixels.auroc,
                pro=None if best.pixels is None else best.pixels.pro,
                thresholds=board.thresholds,
                guarantee=board.guarantee,
                cross_fit=board.cross_fit,
                seconds=time.monotonic() - began,
            )
        )
        return board


@contextlib.contextmanager
def _cluster(run: RunFolder, address: str | None) -> Iterator[None]:
    """A cluster; an error that says how to go on when it is lost."""
    command = shlex.join(["amatune", "best", run.name, "--runs-dir", str(run.path.parent)])
    go_on = f"what is finished is kept; {when_to_go_on(address)}: {command}, and the same options"
    try:
        with connection.cluster(address, run.log, go_on):
            yield
    except ClusterLostError as lost:
        raise ClusterLostError(f"the Ray cluster was lost: {lost}; {go_on}") from None


def _train(
    work: Retrainings,
    emit: Estimating,
    record: RunRecord,
    method: Method,
    problem: Problem,
    room: Room,
) -> None:
    """Carry out all trainings that are left."""
    images = Images.of(problem)
    if not isinstance(method, SeveralMethods):  # whose trainings have nothing in common
        emit.begin(
            Plan(
                budget=Budget.of(work.left[0].config, len(images.train)),
                trainings=len(work.left),
                concurrent=room.concurrent,
                may_stop=False,
            )
        )
    ending = execution.execute(
        work,
        trainable=method.trainable_class(),
        images=images,
        cpus_per_trial=record.request.cpus_per_trial,
        **room.for_execution,
        place=work.place,
        halt=execution.Halt(saving=lambda: emit(Saving(seconds=execution.SAVING_SECONDS))),
    )
    if ending == "interrupted":
        raise KeyboardInterrupt
    if ending == "disk full":
        raise DiskFullError(
            f"no space is left on a disk that {work.place} is on; free some and call again: what "
            "is finished is kept"
        )


@dataclass(frozen=True)
class _Validated:
    """What validation images say of a candidate's trainings, by the score that ranks them."""

    score: str  # its name
    scores: Sequence[SeedScores]  # of each seed
    aurocs: Sequence[float]  # of each seed: what the search would say


def _validated(
    trainings: Sequence[Retraining], bounds: np.ndarray, objective: Objective
) -> _Validated:
    """Of trainings that differ in their seed alone. The score is that of the settings, of a method
    without such a setting its first, or for "auto" the one whose mean over the seeds is best."""
    by_seed = [training.scores(VALIDATION) for training in trainings]
    aurocs = {
        name: [validation_auroc(**s[name], bounds=bounds, kind=objective) for s in by_seed]
        for name in by_seed[0]
    }
    score = getattr(trainings[0].config, "score", next(iter(by_seed[0])))
    if score == "auto":
        score = best_score({name: statistics.fmean(values) for name, values in aurocs.items()})
    return _Validated(score, [s[score] for s in by_seed], aurocs[score])


def _choose(
    validated: Mapping[str, _Validated], seeds: int, groups: metrics.Groups | None
) -> tuple[str, str]:
    """The candidate to take, by the mean validation AUROC over the seeds, and why.

    One that failed with some seed is not chosen while another failed with none.
    """
    names = _whole(validated, seeds)
    return choose(
        {name: validated[name].scores for name in names},
        {name: statistics.fmean(validated[name].aurocs) for name in names},
        groups,
        control(validated, seeds),
    )


def control(validated: Mapping[str, _Validated], seeds: int) -> str:
    """The default that others must be ahead of: of several methods', the one that validation
    images prefer, of those that failed with no seed where there is one."""
    names = _whole(validated, seeds)
    defaults = [name for name in names if name.partition("-")[0] == DEFAULT]
    return max(defaults, key=lambda name: statistics.fmean(validated[name].aurocs), default=DEFAULT)


def _whole(validated: Mapping[str, _Validated], seeds: int) -> list[str]:
    """Those that failed with no seed; all where there is none."""
    return [n for n, one in validated.items() if len(one.aurocs) == seeds] or list(validated)


def _test(
    trainings: Sequence[Retraining],
    run: RunFolder,
    record: RunRecord,
    method: Method,
    problem: Problem,
    masks: Masks | None,
) -> None:
    """Keep every detector's scores of the test set beside it, and what its maps are worth."""
    with _cluster(run, record.request.address):
        room = find_room(record, method)
        found = score_models(
            [training.folder for training in trainings],
            {one.name: one.detector for one in method.alone()},
            *problem.test_images(),
            masks,
            cpus=record.request.cpus_per_trial,
            gpus=room.gpus_per_trial,
            gpu_memory=room.gpu_memory,
        )
        for folder, one in found:
            if masks is not None:
                write_pixels(folder / PIXELS, one.pixels)
            save_scores(folder / TEST, one.scores)


def _row(
    candidate: Candidate,
    trainings: Sequence[Retraining],
    validated: _Validated,
    chosen: str,
    failures: Mapping[str, Sequence[str]],
    sets: Mapping[str, Places],
    groups: metrics.Groups | None,
) -> LeaderboardRow:
    by_seed = [training.scores(TEST) for training in trainings]
    primary = [scores[validated.score] for scores in by_seed]
    return LeaderboardRow(
        configuration=candidate.name,
        default=candidate.default,
        chosen=candidate.name == chosen,
        score=validated.score,
        settings=candidate.settings,
        config=candidate.config.to_dict(),
        seeds=tuple(training.number for training in trainings),
        search_auroc=candidate.search_auroc,
        validation_auroc=statistics.fmean(validated.aurocs),
        validation_spread=spread(validated.aurocs),
        validation_by_seed=tuple(validated.aurocs),
        test={name: figures([s[name] for s in by_seed], groups) for name in by_seed[0]},
        test_auroc_by_seed=tuple(metrics.auroc(**scores) for scores in primary),
        failures=tuple(failures.get(candidate.name, ())),
        test_by_set={
            name: figures(
                [{**scores, "anomaly": scores["anomaly"][own]} for scores in primary],
                groups and (groups[0], groups[1][own]),
            )
            for name, own in sets.items()
        },
        pixels=over_seeds([training.pixels() for training in trainings]),
    )


def _compare(
    finished: Mapping[str, Sequence[Retraining]],
    validated: Mapping[str, _Validated],
    chosen: str,
    seeds: int,
    groups: metrics.Groups | None,
) -> Comparison | None:
    """The chosen one against the default; None for the default itself, or when it failed."""
    default = control(validated, seeds)
    if chosen == default or default not in validated:
        return None
    ours, theirs = (
        [one.scores(TEST)[validated[name].score] for one in finished[name]]
        for name in (chosen, default)
    )
    return compare(ours, theirs, groups, default)


def _nobody(_event: Event) -> None:
    pass
