"""Runs as a search and a retraining leave them behind, made without either."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from fake_method import FakeConfig, FakeDetector
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from amatune import metrics
from amatune.data.problem import Problem
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.files import write_json
from amatune.results.effort import Effort
from amatune.results.leaderboard import (
    BaselineRow,
    Leaderboard,
    LeaderboardRow,
    against_baseline,
    compare,
    figures,
    model_folder,
    spread,
)
from amatune.results.scores import TEST, VALIDATION, save_scores, validation_file
from amatune.runs import RunFolder
from amatune.runs.record import Circumstances, ProblemRecord, RunRecord
from amatune.runs.request import SearchRequest
from amatune.stored import StoredDetector
from amatune.tuning import study as studies

EPOCHS = 9
SHAPE = (1, 8, 8)
NORMALS, ANOMALIES = 120, 40  # of `scores`
QUALITY: BaseDistribution = FloatDistribution(0, 1)
BOOST: BaseDistribution = FloatDistribution(0, 0.5)
KIND: BaseDistribution = CategoricalDistribution(["plain", "boosted"])


def small_problem() -> Problem:
    """Digits of 8 x 8 pixels."""
    return make_problem(ProblemRequest(image_size=8))


def write_run(
    folder: Path, problem: Mapping[str, Any], *, study: bool = True, **request: Any
) -> RunFolder:
    """A run's folder with its `run.json` and, unless it is not needed, an empty study."""
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    asked = SearchRequest(method="fake", epochs=EPOCHS, trials=4, name=run.name, **request)
    begun = Circumstances(
        started="2026-01-02T03:04:05.678901+00:00",
        command="amatune search --method fake",
        versions={"amatune": "0", "optuna": "5"},
        machine="here",
    )
    first = ({"quality": 0.5, "kind": "plain"},)
    saved = ProblemRecord.from_dict(problem)
    run.write(RunRecord(request=asked, problem=saved, begun=begun, first=first))
    if study:
        studies.create_study(run, [])
    return run


def add_trial(
    run: RunFolder,
    params: Mapping[str, Any],
    aurocs: Sequence[float],
    state: TrialState = TrialState.COMPLETE,
    *,
    reason: str = "",
    early: Mapping[str, float] | None = None,
    distributions: Mapping[str, BaseDistribution] | None = None,
) -> int:
    """A trial with a validation AUROC after each epoch; returns its number."""
    rules = {"quality": QUALITY, "boost": BOOST, "kind": KIND, **(distributions or {})}
    study = studies.open_study(run)
    number = len(study.trials)
    start = datetime(2026, 1, 2, 3, 4) + timedelta(minutes=number)
    trial = optuna.trial.create_trial(
        state=state,
        params=dict(params),
        distributions={name: rules[name] for name in params},
        value=aurocs[-1] if state == TrialState.COMPLETE else None,
        intermediate_values=dict(enumerate(aurocs, 1)),
        user_attrs={
            studies.SETTINGS: {**params, "batch_size": 16},
            studies.CONFIG: {**FakeConfig(epochs=EPOCHS).to_dict(), **params},
            studies.REASON: reason,
            studies.PRIMARY: "bright",
            studies.COST: {"seconds": 90.0, "gpu_seconds": 0.0},
            **({studies.EARLY: dict(early)} if early else {}),
        },
    )
    trial.datetime_start = start
    if state.is_finished():
        trial.datetime_complete = start + timedelta(seconds=90)
    study.add_trial(trial)
    return number


def config_of(quality: float) -> FakeConfig:
    """Of a detector that trains for an epoch."""
    return FakeConfig(quality=quality, epochs=1).resolve(SHAPE)


def trained(quality: float, seed: int, images: np.ndarray) -> FakeDetector:
    """A detector after an epoch, calibrated."""
    detector = FakeDetector(config_of(quality), SHAPE, seed=seed)
    detector.train_epoch(torch.from_numpy(images))
    detector.calibrate(torch.from_numpy(images))
    return detector


def scores_of(detector: FakeDetector, normal: np.ndarray, anomaly: np.ndarray) -> Any:
    """As they are kept: score name -> side -> (N,)."""
    sides = {"normal": torch.from_numpy(normal), "anomaly": torch.from_numpy(anomaly)}
    found = {side: detector.scores(images) for side, images in sides.items()}
    return {n: {s: found[s][n].numpy() for s in sides} for n in detector.score_names}


def searched_run(folder: Path, problem: Problem, **request: Any) -> RunFolder:
    """A search that is over: two trials with the full budget, one stopped, one failed."""
    run = write_run(folder, problem.to_dict(), **request)
    add_trial(run, {"quality": 0.5, "kind": "plain"}, [0.5 + 0.02 * e for e in range(EPOCHS)])
    better = {"quality": 0.9, "kind": "boosted", "boost": 0.25}
    add_trial(run, better, [0.6 + 0.03 * e for e in range(EPOCHS)])
    add_trial(run, {"quality": 0.1, "kind": "plain"}, [0.4], TrialState.PRUNED)
    broken = {"quality": 1.0, "kind": "plain"}
    add_trial(run, broken, [], TrialState.FAIL, reason="diverged: <loss> is not finite")
    detector = trained(0.9, 1, problem.train_images())
    save_scores(validation_file(run, 1), scores_of(detector, *problem.validation_images()))
    return run


def finished_run(folder: Path, problem: Problem, seeds: int = 2) -> RunFolder:
    """A run that has been through `amatune best`: trial 1 and the default."""
    run = searched_run(folder, problem)
    by_name: dict[str, list[Any]] = {}
    for name, quality in (("trial-1", 0.9), ("default", 0.5)):
        for seed in range(1, seeds + 1):
            detector = trained(quality, seed, problem.train_images())
            place = model_folder(run, name, seed)
            StoredDetector.of(detector).save(place)
            save_scores(place / VALIDATION, scores_of(detector, *problem.validation_images()))
            scores = scores_of(detector, *problem.test_images())
            save_scores(place / TEST, scores)
            by_name.setdefault(name, []).append(scores)
    write_leaderboard(run, by_name)
    return run


def group_images(run: RunFolder, size: int) -> None:
    """Let so many images of a list be of one group, in its order, as the record of a run has it."""
    record = run.record()
    splits = {
        name: tuple(
            dataclasses.replace(one, groups=tuple(f"part{i // size}" for i in range(len(one.ids))))
            for one in split
        )
        for name, split in record.problem.splits.items()
    }
    problem = dataclasses.replace(record.problem, splits=splits)
    run.write(dataclasses.replace(record, problem=problem))


def scores(shift: float, seed: int) -> dict[str, np.ndarray]:
    """Of images that have something in common for all seeds."""
    image, own = np.random.default_rng(0), np.random.default_rng(seed)
    normal = image.normal(size=NORMALS) + 0.5 * own.normal(size=NORMALS)
    anomaly = image.normal(shift, size=ANOMALIES) + 0.5 * own.normal(size=ANOMALIES)
    return {"normal": normal + own.normal() / 10, "anomaly": anomaly}


def write_leaderboard(
    run: RunFolder,
    by_name: Mapping[str, Sequence[Any]],
    trials: int = 4,
    *,
    defaults_by: str = "bright",
) -> None:
    """The leaderboard of test scores by configuration and seed; the first one is chosen."""
    rows = []
    for name, by_seed in by_name.items():
        seeds = tuple(range(1, len(by_seed) + 1))
        quality = 0.9 if name != "default" else 0.5
        validation = tuple(0.8 + 0.01 * seed for seed in seeds)
        score = defaults_by if name == "default" else "bright"
        rows.append(
            LeaderboardRow(
                configuration=name,
                default=name == "default",
                chosen=not rows,
                score=score,
                settings={"quality": quality, "batch_size": 16},
                config=config_of(quality).to_dict(),
                seeds=seeds,
                search_auroc=0.84,
                validation_auroc=float(np.mean(validation)),
                validation_spread=spread(validation),
                validation_by_seed=validation,
                test={own: figures([s[own] for s in by_seed]) for own in by_seed[0]},
                test_auroc_by_seed=tuple(metrics.auroc(**s[score]) for s in by_seed),
                failures=(),
            )
        )
    chosen, *others = ([s["bright"] for s in by_seed] for by_seed in by_name.values())
    sizes = {side: len(values) for side, values in chosen[0].items()}
    Leaderboard(
        run=run,
        method="fake",
        epochs=EPOCHS,
        seeds=rows[0].seeds,
        rows=tuple(rows),
        comparison=compare(chosen, others[0]) if others else None,
        baselines=(
            BaselineRow(
                name="mean brightness",
                side="anomalies are higher",
                validation_auroc=0.8,
                test=figures([scores(0.5, 0)]),  # whatever the detectors say
            ),
        ),
        against_baseline=against_baseline(chosen, chosen[0], "mean brightness"),
        dropped=(),
        test_normals=sizes["normal"],
        test_anomalies=sizes["anomaly"],
        warnings=(),
        effort=Effort(
            trials=trials,
            done=1,
            pruned=trials - 1,
            failed=0,
            epochs=3 * trials,
            hours=trials / 8,
            gpu_hours=0.0,
        ),
    ).write()


def change(run: RunFolder, **values: Any) -> None:
    """Change top-level entries of `run.json`."""
    contents = json.loads(run.run_json.read_text(encoding="utf-8"))
    write_json(run.run_json, {**contents, **values})


def change_request(run: RunFolder, **values: Any) -> None:
    """Change what a run was asked."""
    change(run, request={**run.record().request.to_dict(), **values})
