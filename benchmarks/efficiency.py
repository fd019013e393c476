"""How many epochs a search spends until it is as good as random search with full trainings.

    python benchmarks/efficiency.py --seeds 20

Replays recorded learning curves (`record_curves.py`) through the real search: its proposals, rungs
and decisions, with four trials at a time that advance an epoch in turn. A proposal gets the curve
of the recorded settings nearest to it, or the mean of several such curves (`--neighbours`).
Compared, each over the same seeds:

    random        random settings, every training to the end
    tpe           TPE, every training to the end
    tpe + asha    what `amatune search` does
    random + asha random settings, the same rungs
    ray           Ray Tune's own OptunaSearch (TPE) and ASHAScheduler, their defaults, on real Ray
                  (`--ray`: slow)

The target of a seed is the AUROC that its random search has reached after `--trials` trainings; the
figure is the epochs spent, by all trials, until a training has ended with that AUROC.
`--rungs` compares other rungs of ASHA.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from record_curves import CURVES, EPOCHS, HELD

from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.job import Progress
from amatune.config import DetectorConfig
from amatune.detectors.ama import AMAConfig
from amatune.registry import find_method
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest
from amatune.tuning import stopping
from amatune.tuning.session import Session
from amatune.tuning.spaces import settings_to_try

AT_A_TIME = 4
SHAPE = (1, 16, 16)
LOGARITHMIC = {
    "delta": (0.05, 4.0),
    "lambda_inter": (0.05, 2.0),
    "lambda_neg": (0.5, 10.0),
    "lambda_reg": (0.01, 3.0),
    "lr": (1e-4, 3e-3),
}

Settings = Mapping[str, Any]
Spent = list[tuple[int, float]]  # epochs spent so far when a training ended, and its AUROC


class Curves:
    """The recorded curves, and whose is nearest to settings."""

    def __init__(self, recorded: Sequence[Mapping[str, Any]], neighbours: int) -> None:
        self.recorded = [one for one in recorded if len(one["auroc"]) == EPOCHS]
        self.neighbours = neighbours

    def of(self, settings: Settings) -> list[float]:
        """The curve of the nearest recorded settings, or the mean of several by nearness."""
        away = [self._distance(one["settings"], settings) for one in self.recorded]
        nearest = sorted(range(len(away)), key=away.__getitem__)[: self.neighbours]
        weights = [1 / (away[i] + 0.01) for i in nearest]
        curves = [self.recorded[i]["auroc"] for i in nearest]
        return [
            sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)
            for values in zip(*curves, strict=True)
        ]

    @staticmethod
    def _distance(one: Settings, other: Settings) -> float:
        total = 0.0
        for name in ("geometry", "radius", "direction"):
            total += one.get(name) != other.get(name)
        total += ((one["k"] - other["k"]) / 4) ** 2
        for name, (low, high) in LOGARITHMIC.items():
            if name in one and name in other:
                total += (math.log(one[name] / other[name]) / math.log(high / low)) ** 2
        return total


def replay(
    curves: Curves,
    seed: int,
    trials: int,
    sampler: Any,
    scheduler: Any,
    rungs: Callable[[int, int], list[int]],
) -> Spent:
    """A search by the real session; epochs spent and AUROC of each full training."""
    with tempfile.TemporaryDirectory() as folder:
        request = SearchRequest(
            runs_dir=folder,
            trials=trials,
            epochs=EPOCHS,
            seed=seed,
            sampler=sampler,
            scheduler=scheduler,
        )

        def complete(settings: Settings) -> DetectorConfig:
            return AMAConfig.from_dict({**settings, **HELD, "epochs": EPOCHS}).resolve(SHAPE)

        default = complete({})
        space = find_method("ama").space
        run = RunFolder(Path(folder) / "run")
        run.path.mkdir()
        usual, stopping.rungs = stopping.rungs, rungs
        try:
            pruner = stopping.make_pruner(scheduler, EPOCHS, default.grace_epochs() + 1)
        finally:
            stopping.rungs = usual
        # In memory: what is measured is epochs, not time.
        study = optuna.create_study(direction="maximize", pruner=pruner)
        study.enqueue_trial(settings_to_try(space, {}, default, {}))
        place = Checkpoints(str(run.trials))
        session = Session(study, request, run, place, space, complete, lambda _event: None)
        return _advance(session, curves)


def _advance(session: Session, curves: Curves) -> Spent:
    spent, ended = 0, []
    running: dict[str, tuple[list[float], int]] = {}
    names = itertools.count()
    while True:
        while len(running) < AT_A_TIME:
            key = str(next(names))
            job = session.start(key)
            if job is None:
                break
            running[key] = curves.of(job.settings), 0
        if not running:
            return ended
        for key, (curve, before) in list(running.items()):
            epoch = before + 1
            spent += 1
            progress = Progress(epoch=epoch, auroc=curve[epoch - 1])
            running[key] = curve, epoch
            if epoch == EPOCHS:
                ended.append((spent, progress.auroc))
            if epoch == EPOCHS or session.report(key, progress):
                session.finish(key, progress)
                del running[key]


def ray_replay(curves: Curves, seed: int, trials: int) -> Spent:
    """Ray Tune's own searcher and scheduler, with their defaults, on as many trials at a time."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    recorded, neighbours = curves.recorded, curves.neighbours
    sys_path = str(Path(__file__).parent)

    def train(config: dict[str, Any]) -> None:
        import sys

        sys.path.insert(0, sys_path)
        from efficiency import Curves as Again

        own = Again(recorded, neighbours)
        for epoch, auroc in enumerate(own.of(config), start=1):
            tune.report({"epoch": epoch, "auroc": auroc})

    sampler = optuna.samplers.TPESampler(seed=seed)
    space = find_method("ama").space
    order: list[tuple[str, int, float]] = []

    class Watch(tune.Callback):
        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
        ) -> None:
            del iteration, trials  # Tune fixes the signature
            order.append((trial.trial_id, result["epoch"], result["auroc"]))

    with tempfile.TemporaryDirectory() as folder:
        tune.run(
            tune.with_resources(train, {"cpu": 1}),
            search_alg=OptunaSearch(space=space, metric="auroc", mode="max", sampler=sampler),
            scheduler=ASHAScheduler(
                time_attr="epoch", metric="auroc", mode="max", max_t=EPOCHS, reduction_factor=4
            ),
            num_samples=trials,
            max_concurrent_trials=AT_A_TIME,
            callbacks=[Watch()],
            storage_path=folder,
            reuse_actors=True,
            verbose=0,
            raise_on_failed_trial=False,
        )
    ended = []
    for spent, (_, epoch, auroc) in enumerate(order, start=1):
        if epoch == EPOCHS:
            ended.append((spent, auroc))
    return ended


def until(spent: Spent, target: float) -> float:
    """Epochs spent until a training has ended with the target; infinite when none has."""
    return min((epochs for epochs, auroc in spent if auroc >= target), default=math.inf)


def summary(values: Sequence[float]) -> str:
    """Median and quartiles."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    middle = statistics.median(ordered)
    return f"{middle:8.0f}{ordered[quarter]:8.0f}{ordered[-1 - quarter]:8.0f}"


def at(*levels: int) -> Callable[[int, int], list[int]]:
    """Fixed rungs."""
    return lambda _epochs, _grace: list(levels)


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--file", type=Path, default=CURVES)
    parser.add_argument("--rungs", action="store_true", help="other rungs of ASHA instead")
    parser.add_argument("--neighbours", type=int, default=1, help="recorded curves averaged")
    parser.add_argument("--ray", action="store_true", help="Ray's own searcher and scheduler alone")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = Curves(json.loads(arguments.file.read_text(encoding="utf-8")), arguments.neighbours)
    final = sorted(one["auroc"][-1] for one in curves.recorded)
    print(
        f"{len(final)} recorded trainings of {EPOCHS} epochs: AUROC {final[0]:.3f} to "
        f"{final[-1]:.3f}, median {statistics.median(final):.3f}"
    )
    seeds, trials = range(arguments.seeds), arguments.trials
    usual = stopping.rungs
    at_random = {s: replay(curves, s, trials, "random", "none", usual) for s in seeds}
    targets = {s: max(auroc for _, auroc in at_random[s]) for s in seeds}
    arms: dict[str, dict[int, Spent]] = {"random": at_random}
    if arguments.ray:
        import ray

        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
        ray.init(num_cpus=AT_A_TIME, include_dashboard=False, log_to_driver=False)
        arms["ray"] = {s: ray_replay(curves, s, 2 * trials) for s in seeds}
    elif arguments.rungs:
        for levels in ([4], [4, 12], [9], [6, 18], [5, 15], [12]):
            name = f"rungs {', '.join(map(str, levels))}"
            arms[name] = {
                s: replay(curves, s, 2 * trials, "tpe", "asha", at(*levels)) for s in seeds
            }
    else:
        arms["tpe"] = {s: replay(curves, s, 2 * trials, "tpe", "none", usual) for s in seeds}
        arms["tpe + asha"] = {s: replay(curves, s, 3 * trials, "tpe", "asha", usual) for s in seeds}
        arms["random + asha"] = {
            s: replay(curves, s, 3 * trials, "random", "asha", usual) for s in seeds
        }
    print(f"target: the best of {trials} random trainings; {len(seeds)} seeds, four at a time")
    print(f"{'':14}{'median':>8}{'25%':>8}{'75%':>8}   of random   not reached")
    base = statistics.median([until(at_random[s], targets[s]) for s in seeds])
    full = trials * EPOCHS
    for name, found in arms.items():
        epochs = [until(found[s], targets[s]) for s in seeds]
        missed = sum(math.isinf(e) for e in epochs)
        ratio = statistics.median(epochs) / full
        print(f"{name:14}{summary(epochs)}{ratio:12.2f}{missed:14}")
    print(f"random search spends {full} epochs in all, {base:.0f} until it meets its own best")


if __name__ == "__main__":
    main()
