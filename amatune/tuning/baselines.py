"""The baselines of a run: measured once on its validation images, once on its test images."""

from amatune.cluster.job import Images
from amatune.data.problem import Problem
from amatune.results.baselines import (
    Baseline,
    BaselineFigure,
    describe_baselines,
    fit_baselines,
    read_baselines,
    score_baselines,
    write_baselines,
)
from amatune.results.leaderboard import BaselineRow, figures
from amatune.results.scores import has_scores, load_scores, save_scores
from amatune.results.selection import SeedScores
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest


def validated_baselines(
    run: RunFolder, request: SearchRequest, images: Images
) -> list[BaselineFigure]:
    """What needs no detector on a run's validation images; measured once, and kept in the run."""
    return read_baselines(run.baselines) or describe_baselines(_fitted(run, request, images))


def tested_baselines(
    run: RunFolder, request: SearchRequest, problem: Problem
) -> tuple[tuple[BaselineRow, ...], SeedScores]:
    """What needs no detector on the test images, and the scores of what validation prefers.

    Kept beside the detectors: the test images are read once.
    """
    file = run.best / "baselines.npz"
    described = read_baselines(run.baselines)
    scores = load_scores(file) if described and has_scores(file) else {}
    if not described or any(one.name not in scores for one in described):
        fitted = _fitted(run, request, Images.of(problem))
        described = describe_baselines(fitted)
        scores = score_baselines(fitted, *problem.test_images())
        save_scores(file, scores)
    rows = tuple(
        BaselineRow(
            name=one.name,
            side=one.side,
            validation_auroc=one.validation_auroc,
            test=figures([scores[one.name]], problem.groups("test")),
        )
        for one in described
    )
    return rows, scores[rows[0].name]


def _fitted(run: RunFolder, request: SearchRequest, images: Images) -> list[Baseline]:
    """The baselines, ready to measure; what validation images say of them is kept in the run."""
    fitted = fit_baselines(
        images.train, images.normal, images.anomaly, images.bounds, request.objective
    )
    write_baselines(run.baselines, describe_baselines(fitted))
    return fitted
