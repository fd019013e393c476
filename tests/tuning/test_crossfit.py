"""`--cross-fit`: the folds of a run, its shortlists, and what comes of what was retrained."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import fake_method
import numpy as np
import pytest
import torch
from fake_method import METHOD, FakeDetector
from fake_run import add_trial, finished_run, scores_of, small_problem, trained

from amatune.data.problem import Problem
from amatune.data.splits import Selection
from amatune.errors import RequestError
from amatune.results.leaderboard import model_folder, read_leaderboard
from amatune.results.scores import TEST, VALIDATION, save_scores, validation_file
from amatune.runs import RunFolder
from amatune.stored import StoredDetector
from amatune.tuning.crossfit import CrossFitting, deal, require_possible
from amatune.tuning.retrain import run_best
from amatune.tuning.retrainings import Retraining


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_method.install(monkeypatch)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return small_problem()


@pytest.fixture
def run(tmp_path: Path, problem: Problem) -> RunFolder:
    found = finished_run(tmp_path / "runs" / "one", problem)
    detector = trained(0.5, 1, problem.train_images())
    save_scores(validation_file(found, 0), scores_of(detector, *problem.validation_images()))
    return found


def fitting(run: RunFolder, problem: Problem, folds: int = 4, top: int = 2) -> CrossFitting:
    return CrossFitting.of(run, run.record(), METHOD, problem, folds=folds, top=top, epochs=9)


def another_trial(run: RunFolder, problem: Problem) -> int:
    """All mistakes of trial 1 lie in fold 0; another, of this number, makes fewer, but
    everywhere."""
    other = add_trial(run, {"quality": 0.7, "kind": "plain"}, [0.6] * 9)
    dealt = deal(problem, 4)
    of = np.array([dealt[i] for s in problem.splits.validation_anomalies for i in s.identities()])
    normal = np.zeros(len(problem.validation_images()[0]), np.float32)
    everywhere = [int(np.flatnonzero(of == k)[0]) for k in range(4)]
    for number, wrong in ((1, of == 0), (other, np.isin(np.arange(len(of)), everywhere))):
        scores = {"normal": normal, "anomaly": np.where(wrong, -1, 1).astype(np.float32)}
        save_scores(validation_file(run, number), {"bright": scores, "dark": scores})
    return other


def test_folds_are_even_and_depend_on_the_images_alone(problem: Problem) -> None:
    dealt = deal(problem, 4)
    validation = {i for s in problem.splits.validation_anomalies for i in s.identities()}
    for own in (validation, dealt.keys() - validation):
        counts = np.bincount([dealt[image] for image in own])
        assert counts.max() - counts.min() <= 1
    assert dealt == deal(problem, 4)
    (whole,) = problem.splits.validation_anomalies
    groups = tuple(f"part{i // 5}" for i in range(len(whole.ids)))
    grouped = Problem(
        problem.request,
        problem.image_shape,
        dataclasses.replace(
            problem.splits,
            validation_anomalies=(Selection(whole.source, whole.part, whole.ids, groups),),
        ),
        {},
    )
    dealt = deal(grouped, 4)
    by_group: dict[str, set[int]] = {}
    for image, group in zip(whole.identities(), groups, strict=True):
        by_group.setdefault(group, set()).add(dealt[image])
    assert all(len(folds) == 1 for folds in by_group.values())


def test_each_fold_lists_the_best_without_its_own_anomalies(
    run: RunFolder, problem: Problem
) -> None:
    other = another_trial(run, problem)
    found = fitting(run, problem, top=1)
    named = f"trial-{other}"
    assert found.eligible == [{"trial-1", "default"}, *[{named, "default"}] * 3]
    assert {one.name for one in found.candidates} == {"trial-1", named, "default"}
    assert found.candidates[-1].default
    assert found.remark.startswith("the search's proposals and its early stopping saw all 50 ")
    assert "scores were kept" not in found.remark
    validation_file(run, other).unlink()
    assert "of 2 of 3 trials, whose scores were kept" in fitting(run, problem).remark


def test_what_was_retrained_is_chosen_and_tested_over_folds(
    run: RunFolder, problem: Problem
) -> None:
    found = fitting(run, problem)
    finished = {
        one.name: [
            dataclasses.replace(
                Retraining.of(run, one, 0, number), folder=model_folder(run, one.name, number)
            )
            for number in (1, 2)
        ]
        for one in found.candidates
    }
    names = dict.fromkeys(finished, "bright")
    problem.test_images()
    result = found.result(finished, names, problem, "pooled")
    assert (result.folds, result.anomalies) == (4, 50 + 54)
    assert result.low < result.auroc < result.high
    assert set(result.chosen) <= {"trial-1", "default"}
    assert result.remark == found.remark
    board = dataclasses.replace(read_leaderboard(run), cross_fit=result)
    board.write()
    assert read_leaderboard(run) == board


@pytest.mark.parametrize(
    ("changes", "folds", "told"),
    [
        ({}, 1, "cross_fit must be 2 to 20 folds with the run's 104 anomalies, at least 5 in each"),
        ({"anomaly_fraction": 0.1}, 4, "learn from 0 labelled anomalies; leave --cross-fit out"),
        ({"test_ood": ("photos",)}, 4, "of another kind than any that chose"),
    ],
)
def test_what_cannot_be_cross_fitted(run: RunFolder, changes, folds: int, told: str) -> None:
    record = run.record()
    asked = dataclasses.replace(record.request.problem, **changes)
    record = dataclasses.replace(record, request=dataclasses.replace(record.request, problem=asked))
    with pytest.raises(RequestError, match=told):
        require_possible(record, folds)


def test_without_the_scores_of_its_trials_a_run_cannot_be_cross_fitted(
    run: RunFolder, problem: Problem
) -> None:
    shutil.rmtree(run.trials)
    with pytest.raises(RequestError, match=r"are not in .*; leave --cross-fit out"):
        fitting(run, problem)


def test_a_fold_without_any_candidate_leaves_nothing_to_fit(
    run: RunFolder, problem: Problem
) -> None:
    """The first of the others was listed by that fold's own anomalies."""
    found = dataclasses.replace(fitting(run, problem), eligible=[{"trial-1"}, set()])
    training = SimpleNamespace(config=None, scores=lambda _file: _scores(problem))
    assert found.result({"trial-1": [training]}, {"trial-1": "bright"}, problem, "pooled") is None


def _scores(problem: Problem) -> dict[str, dict[str, np.ndarray]]:
    sides = zip(("normal", "anomaly"), problem.validation_images(), strict=True)
    return {"bright": {side: np.zeros(len(images)) for side, images in sides}}


def test_folds_leave_the_choice_as_it_is_without_them(run: RunFolder, problem: Problem) -> None:
    """What some fold lists in addition may be better, and is not chosen for it."""
    other = another_trial(run, problem)
    generator = np.random.default_rng(0)
    for candidate in fitting(run, problem, top=1).candidates:
        ahead = {"trial-1": 2.0, "default": 0.3}.get(candidate.name, 4.0)
        for number in (1, 2):
            training = Retraining.of(run, candidate, 0, number)
            detector = FakeDetector(candidate.config, problem.image_shape, seed=training.seed)
            detector.train_epoch(torch.from_numpy(problem.train_images()))
            detector.calibrate(torch.from_numpy(problem.train_images()))
            StoredDetector.of(detector).save(training.folder)
            for file, images in (
                (VALIDATION, problem.validation_images()),
                (TEST, problem.test_images()),
            ):
                drawn = {
                    "normal": generator.normal(size=len(images[0])),
                    "anomaly": generator.normal(ahead, size=len(images[1])),
                }
                save_scores(training.folder / file, {"bright": drawn, "dark": drawn})
    plain, folds = run_best(run, top=1, seeds=2), run_best(run, top=1, seeds=2, cross_fit=4)
    assert plain.chosen.configuration == folds.chosen.configuration == "trial-1"
    assert folds.choice == f"{plain.choice}; of the shortlist without folds"
    assert folds.chosen.test == plain.chosen.test
    assert folds.rows[0].configuration == f"trial-{other}"
    assert folds.cross_fit.final == f"trial-{other}"
