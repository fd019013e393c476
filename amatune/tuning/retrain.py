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
from numbers import Integral
from pathlib import Path
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
    compare,
    control_of,
    figures,
    read_leaderboard,
    spread,
)
from amatune.results.localisation import PIXELS, Masks, over_seeds, write_pixels
from amatune.results.objective import set_bounds
from amatune.results.operating import Demand
from amatune.results.scores import TEST, Scores, save_scores
from amatune.runs import RunFolder
from amatune.runs.record import RunRecord
from amatune.runs.request import LOCAL, MOST, joining, require_confirmed
from amatune.several import METHOD
from amatune.tuning import study as studies
from amatune.tuning.baselines import tested_baselines
from amatune.tuning.candidates import Validated, choose_candidate, validate
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
from amatune.tuning.options import learns_in_one_pass, told_one_pass
from amatune.tuning.retrainings import Candidate, Retraining, Retrainings
from amatune.tuning.room import find_room
from amatune.tuning.search import selection, when_to_go_on
from amatune.tuning.shortlists import shortlist
from amatune.wording import counted

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
    given: dict[str, Any] = {**numbers, "cross_fit": cross_fit}  # whatever they were given
    for name, one in given.items():
        if one is not None and (isinstance(one, bool) or not isinstance(one, Integral)):
            raise RequestError(f"{name} must be a whole number, got {one!r:.80}")
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise RequestError(f"{name} must be at least 1, got {value}")
    for name, value, most in (("seeds", seeds, MOST_SEEDS), ("epochs", epochs, MOST)):
        if value is not None and value > most:
            raise RequestError(f"{name} must be at most {most:,}, got {value}")
    began = time.monotonic()
    emit = Estimating(listener or _nobody)
    with _disk_told(run), run.alone(), contextlib.ExitStack() as stack:
        record = run.record()
        here: dict[str, Any] = {} if concurrent is None else {"concurrent": concurrent}
        if address is None:
            require_confirmed(f"the run {run.name!r}", record.request.address)
        else:
            here["address"] = None if address == LOCAL else address
        record = dataclasses.replace(record, request=dataclasses.replace(record.request, **here))
        request = record.request
        method = registry.searched_method(request.method)
        if learns_in_one_pass(request.method) and epochs not in (None, 1, request.epochs):
            raise RequestError(told_one_pass(request.method, "epochs"))
        problem = record.open_problem(data_dir)
        problem.require_masks()
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
            name: validate(trainings, bounds, request.objective)
            for name, trainings in finished.items()
            if trainings
        }
        eligible = validated
        if fitting is not None:  # what the folds alone list was not to be chosen from without them
            plain = {name: one for name, one in validated.items() if name in fitting.plain}
            eligible = plain or validated
        chosen, choice = choose_candidate(
            eligible, seeds, problem.groups("validation"), bounds, request.objective
        )
        if len(eligible) < len(validated):
            choice += "; of the shortlist without folds"
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
            comparison=_compare(finished, eligible, chosen, seeds, groups),
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
            without = "no cross-fitting: of some fold all that it may choose from has failed"
            warnings = board.warnings if found else (*board.warnings, without)
            board = dataclasses.replace(board, cross_fit=found, warnings=warnings)
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
def _disk_told(run: RunFolder) -> Iterator[None]:
    """An error that says how to go on when no space is left for what is kept of the run."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if execution.is_disk_full(error):
            raise _disk_full(run.path) from error
        raise


def _disk_full(place: Path | str) -> DiskFullError:
    return DiskFullError(
        f"no space is left on a disk that {place} is on; free some and call again: what is "
        "finished is kept"
    )


@contextlib.contextmanager
def _cluster(run: RunFolder, address: str | None) -> Iterator[None]:
    """A cluster; an error that says how to go on when it is lost."""
    command = ["amatune", "best", run.name, "--runs-dir", str(run.path.parent), *joining(address)]
    told = f"{shlex.join(command)}, and the same options"
    go_on = f"what is finished is kept; {when_to_go_on(address)}: {told}"
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
        raise _disk_full(work.place)


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
            concurrent=room.concurrent,
        )
        for folder, one in found:
            _require_finite(folder, one.scores)
            if masks is not None:
                write_pixels(folder / PIXELS, one.pixels)
            save_scores(folder / TEST, one.scores)


def _require_finite(folder: Path, scores: Scores) -> None:
    """Raise `AmatuneError` for scores of test images that are no numbers: nothing is written."""
    for name, sides in scores.items():
        wrong = sum(int((~np.isfinite(values)).sum()) for values in sides.values())
        if wrong:
            raise AmatuneError(
                f"the detector in {folder} gives {counted(wrong, 'test image')} no finite {name}: "
                "its settings cannot be tested; with a smaller --top, or another number of "
                "--epochs, they may not be on the list"
            )


def _row(
    candidate: Candidate,
    trainings: Sequence[Retraining],
    validated: Validated,
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
    validated: Mapping[str, Validated],
    chosen: str,
    seeds: int,
    groups: metrics.Groups | None,
) -> Comparison | None:
    """The chosen one against the default; None for the default itself, or when it failed."""
    default = control_of({name: one.aurocs for name, one in validated.items()}, seeds)
    if chosen == default or default not in validated:
        return None
    ours, theirs = (
        [one.scores(TEST)[validated[name].score] for one in finished[name]]
        for name in (chosen, default)
    )
    return compare(ours, theirs, groups, default)


def _nobody(_event: Event) -> None:
    pass
