"""How many epochs a search spends until it is as good as random search with full trainings.

    python benchmarks/efficiency.py --seeds 100                     # every problem, AMA
    python benchmarks/efficiency.py digits mnist-8 --arms random new one-ranking
    python benchmarks/efficiency.py --early                         # which early score says most

Proposals get curves from a landscape (`landscape.py`) over trainings that were recorded once
(`record_curves.py`), and are searched by the real code of `amatune search`, without its processes:
its proposals, its session, its rungs, four trials at a time that advance an epoch in turn.
Compared, over the same seeds:

    random      random settings, every training to the end
    tpe         TPE with every other proposal random, every training to the end
    old         the same, stopped as in version 0.1: at a ninth and a third of the budget, by the
                method's first score
    new         what `amatune search` does; the settings that a method is known for are those that
                did best on the other two problems, so that none has seen its own
    no-known    new, without these; where a method is known for none, it is new, and left out
    no-noise    new, without the rule that a rung whose figures differ by chance decides nothing
    ray         Ray's own OptunaSearch (TPE) and ASHAScheduler with their defaults

and, when asked for with `--arms`: `by-R` and `by-best` compare by AMA's R and by whichever score is
best by then; `third` at one rung, after a third of the budget; `no-tpe` proposes at random;
`known-3` and `known-6` try so many settings first that did best on the other problems, as does
`known-3-by-best`; and other ways to propose (`candidates.py`).

The target is fixed for a problem: the median, over seeds that the arms do not use, of the best that
random search has found after `--trials` full trainings; once in validation AUROC and once in the
true AUROC, without noise, of the trial that validation prefers. Printed are the epochs spent by all
trials until a trial has ended that reaches it, as a share of what that random search spends, median
and quartiles, how many never did within that, and the true AUROC of the trial that a search would
choose after a fifth of it.
"""

import argparse
import itertools
import math
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import candidates
import numpy as np
import optuna
from landscape import Curve, Landscape, Records, early_scores, is_recorded, read_records
from record_curves import CURVES, HELD, METHODS, PROBLEMS, REPORTS, SIZE, VALIDATED

from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.job import Progress
from amatune.config import DetectorConfig
from amatune.registry import find_method
from amatune.runs import RunFolder
from amatune.runs.request import Sampler, Scheduler, SearchRequest
from amatune.tuning import proposals
from amatune.tuning import session as sessions
from amatune.tuning.seeds import derive_seed
from amatune.tuning.session import Session
from amatune.tuning.spaces import settings_to_try
from amatune.tuning.stopping import Halving, make_pruner

AT_A_TIME = 4
SHAPE = (1, SIZE, SIZE)
SIDES = (VALIDATED, VALIDATED)
TARGET_SEEDS = 1_000_000  # and on: of the random searches that set the target
FIFTH = 0.2


@dataclass(frozen=True)
class Ended:
    """A training that reached its end."""

    spent: int  # epochs, by all trials so far
    auroc: float  # validation
    truth: float  # without noise


@dataclass(frozen=True)
class Arm:
    """A way to search."""

    sampler: Sampler
    scheduler: Scheduler
    score: str = ""  # compared by it: a name, "first" or "auto"; "": the method's `early_score`
    rungs: tuple[int, ...] = ()  # (): the usual ones; (0,): those of version 0.1
    sides: tuple[int, int] | None = SIDES
    proposals: str = ""  # of `candidates.py`; "": the usual ones
    # Settings that did best on the other problems, tried after the defaults; None: as many as the
    # method is known for.
    known: int | None = 0


ARMS = {
    "random": Arm("random", "none"),
    "tpe": Arm("tpe", "none"),
    "old": Arm("tpe", "asha", score="first", rungs=(0,), sides=None),
    "new": Arm("tpe", "asha", known=None),
    "no-known": Arm("tpe", "asha"),
    "no-noise": Arm("tpe", "asha", known=None, sides=None),
    "by-R": Arm("tpe", "asha", score="R"),  # of AMA
    "by-best": Arm("tpe", "asha", score="auto"),
    "third": Arm("tpe", "asha", rungs=(9,)),
    "no-tpe": Arm("random", "asha"),
    "known-3": Arm("tpe", "asha", known=3),
    "known-6": Arm("tpe", "asha", known=6),
    "known-3-by-best": Arm("tpe", "asha", known=3, score="auto"),
    **{name: Arm("tpe", "asha", proposals=name) for name in candidates.NAMES},
}
USUAL = ["random", "tpe", "old", "new", "no-known", "no-noise", "ray"]


def old_rungs(epochs: int, grace: int) -> list[int]:
    """Those of version 0.1."""
    early, late = math.ceil(epochs / 9), math.ceil(epochs / 3)
    if early >= 2 * grace - 1:
        return [rung for rung in (early, 3 * early) if rung < epochs]
    if late >= grace:
        return [late]
    return [grace] if 4 * grace <= 3 * epochs else []


def search(
    landscape: Landscape,
    arm: Arm,
    seed: int,
    epochs: int,
    known: Sequence[Mapping[str, Any]] = (),
) -> list[Ended]:
    """A search by the real session that spends at most so many epochs. `known` settings are tried
    right after the defaults."""
    method = find_method(landscape.records.method)
    scores = method.detector.score_names
    early_score = arm.score or method.detector.early_score or "auto"
    column = None
    if early_score != "auto":
        column = 0 if early_score == "first" else scores.index(early_score)

    def complete(settings: Mapping[str, Any]) -> DetectorConfig:
        values = {**settings, **HELD[method.name], "epochs": REPORTS}
        return method.detector.Config.from_dict(values).resolve(SHAPE)

    default = complete({})
    grace = default.grace_epochs() + 1
    with tempfile.TemporaryDirectory() as folder:
        request = SearchRequest(
            runs_dir=folder,
            method=method.name,
            trials=10 * epochs,
            epochs=REPORTS,
            seed=seed,
            sampler=arm.sampler,
            scheduler=arm.scheduler,
        )
        run = RunFolder(Path(folder) / "run")
        run.path.mkdir()
        pruner = make_pruner(arm.scheduler, REPORTS, grace, arm.sides)
        if arm.rungs:
            levels = [rung for rung in arm.rungs if rung >= grace] or old_rungs(REPORTS, grace)
            pruner = Halving([levels], arm.sides)
        # In memory: what is measured is epochs, not time.
        study = optuna.create_study(direction="maximize", pruner=pruner)
        study.enqueue_trial(settings_to_try(method.space, {}, default, HELD[method.name]))
        for settings in known:
            study.enqueue_trial(dict(settings))
        place = Checkpoints(str(run.trials))
        session = Session(study, request, run, place, method.space, complete, lambda _event: None)
        others = candidates.candidates(method.name, default.to_dict(), REPORTS)
        sessions.make_sampler = others.get(arm.proposals, proposals.make_sampler)
        try:
            return list(_advance(session, landscape, seed, epochs, column))
        finally:
            sessions.make_sampler = proposals.make_sampler


def _advance(
    session: Session, landscape: Landscape, seed: int, most: int, column: int | None
) -> Iterator[Ended]:
    spent = 0
    running: dict[str, tuple[Curve, int]] = {}
    names = itertools.count()
    while spent < most:
        while len(running) < AT_A_TIME:
            number = next(names)
            job = session.start(str(number))
            if job is None:
                return
            running[str(number)] = _curve(landscape, job.settings, seed, number), 0
        for key, (curve, before) in list(running.items()):
            epoch, spent = before + 1, spent + 1
            auroc = curve.auroc(epoch)
            early = auroc if column is None else float(curve.validation[column, epoch - 1])
            progress = Progress(epoch=epoch, auroc=auroc, early=early)
            running[key] = curve, epoch
            if epoch == REPORTS:
                yield Ended(spent, auroc, curve.true_auroc)
            if epoch == REPORTS or session.report(key, progress):
                session.finish(key, progress)
                del running[key]


def _curve(landscape: Landscape, settings: Mapping[str, Any], seed: int, number: int) -> Curve:
    return landscape(settings, np.random.default_rng(derive_seed(seed, "residual", number)))


def ray_search(landscape: Landscape, seed: int, epochs: int) -> list[Ended]:
    """Ray's own searcher and scheduler, asked and told as Tune's controller does."""
    from ray.tune.schedulers import ASHAScheduler, TrialScheduler
    from ray.tune.search.optuna import OptunaSearch

    method = find_method(landscape.records.method)
    searcher = OptunaSearch(space=method.space, metric="auroc", mode="max", seed=seed)
    scheduler: Any = ASHAScheduler(metric="auroc", mode="max", max_t=REPORTS)
    spent, names = 0, itertools.count()
    running: dict[str, tuple[Any, Curve, int]] = {}
    ended = []
    while spent < epochs:
        while len(running) < AT_A_TIME:
            number = next(names)
            settings: Any = searcher.suggest(str(number))
            trial = types.SimpleNamespace(trial_id=str(number))  # all that ASHA reads of a trial
            scheduler.on_trial_add(None, trial)
            running[str(number)] = trial, _curve(landscape, settings, seed, number), 0
        for key, (trial, curve, before) in list(running.items()):
            epoch, spent = before + 1, spent + 1
            result = {"training_iteration": epoch, "auroc": curve.auroc(epoch)}
            running[key] = trial, curve, epoch
            last = epoch == REPORTS
            stops = last or scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP
            if not stops:
                searcher.on_trial_result(key, result)
                continue
            scheduler.on_trial_complete(None, trial, result)
            searcher.on_trial_complete(key, result)
            del running[key]
            if last:
                ended.append(Ended(spent, curve.auroc(epoch), curve.true_auroc))
    return ended


def chosen(ended: Sequence[Ended], spent: float = math.inf) -> Ended | None:
    """What a search would choose after so many epochs."""
    there = [one for one in ended if one.spent <= spent]
    return max(there, key=lambda one: one.auroc, default=None)


def until(ended: Sequence[Ended], target: float) -> float:
    """Epochs until a training has ended with this validation AUROC; infinite when none has."""
    return min((one.spent for one in ended if one.auroc >= target), default=math.inf)


def until_true(ended: Sequence[Ended], target: float) -> float:
    """Epochs until what validation prefers has this true AUROC; infinite when it never has."""
    best: Ended | None = None
    for one in sorted(ended, key=lambda one: one.spent):
        best = one if best is None or one.auroc > best.auroc else best
        if best.truth >= target:
            return one.spent
    return math.inf


def summary(values: Sequence[float], full: int) -> str:
    """Median and quartiles as shares of random search's epochs."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), method="lower") / full
    told = [f"{v:.2f}" if math.isfinite(v) else "never" for v in (middle, low, high)]
    return f"{told[0]:>6} [{told[1]} {told[2]}]".ljust(22)


def compare(
    landscape: Landscape,
    arms: Sequence[str],
    seeds: int,
    trials: int,
    others: Sequence[Records] = (),
    target_seeds: int | None = None,
) -> None:
    """Print a table of a problem. `others` are the recorded trainings of the other problems; so
    many searches set the target as there are of each arm, or as `target_seeds` says."""
    full = trials * REPORTS
    longer = full + AT_A_TIME * REPORTS  # those that run side by side end together
    searched = [
        search(landscape, ARMS["random"], TARGET_SEEDS + seed, longer)
        for seed in range(target_seeds or seeds)
    ]
    best = [one for ended in searched if (one := chosen(ended[:trials])) is not None]
    target = float(np.median([one.auroc for one in best]))
    true_target = float(np.median([one.truth for one in best]))
    print(f"target {target:.3f} in validation, {true_target:.3f} true; {seeds} seeds")
    print(f"{'':15}{'validation target':>22}{'true target':>22}   not reached   true after a fifth")
    for arm in arms:
        count = 0 if arm == "ray" else ARMS[arm].known
        if count is None:
            count = len(find_method(landscape.records.method).known)
        known = candidates.portfolio(others, count)
        runs: list[list[Ended]] = []
        for seed in range(seeds):
            if arm == "ray":
                runs.append(ray_search(landscape, seed, full))
            else:
                runs.append(search(landscape, ARMS[arm], seed, full, known))
        reached = [until(one, target) for one in runs]
        truly = [until_true(one, true_target) for one in runs]
        after = [chosen(one, FIFTH * full) for one in runs]
        truths = [one.truth for one in after if one is not None]
        missed = [sum(map(math.isinf, values)) / seeds for values in (reached, truly)]
        print(
            f"{arm:15}{summary(reached, full):>22}{summary(truly, full):>22}"
            f"{missed[0]:7.0%}{missed[1]:6.0%}{np.median(truths) if truths else math.nan:14.3f}",
            flush=True,
        )


def tell_early(file: Path, problems: Sequence[str]) -> None:
    """Print which score says earliest how a training ends."""
    looks = [3, 4, 6, 9, 12, 25]
    for method, problem in itertools.product(METHODS, problems):
        if not is_recorded(file, problem, method):
            continue
        records = read_records(file, problem, method)
        print(f"{method}, {problem}: {len(records.settings)} trainings, {records.broken} diverged")
        print(f"  {'after':16}" + "".join(f"{look:7}" for look in looks) + f"   of {REPORTS}")
        for name, values in early_scores(records, looks).items():
            print(f"  {name:16}" + "".join(f"{value:7.2f}" for value in values))


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problems", nargs="*", default=PROBLEMS, help=", ".join(PROBLEMS))
    parser.add_argument("--method", choices=METHODS, default="ama")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--target-seeds", type=int, help="that set the target; default: --seeds")
    parser.add_argument("--trials", type=int, default=50, help="of the search that sets the target")
    parser.add_argument("--scale", type=float, nargs="+", default=[0.5, 1.0], help="of residuals")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, "ray"], help=", ".join(USUAL))
    parser.add_argument("--file", type=Path, default=CURVES)
    parser.add_argument("--early", action="store_true", help="print what early figures say instead")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if arguments.early:
        tell_early(arguments.file, arguments.problems)
        return
    known = find_method(arguments.method).known
    arms = arguments.arms or [arm for arm in USUAL if known or arm != "no-known"]
    for problem in arguments.problems:
        records = read_records(arguments.file, problem, arguments.method)
        if (count := len(records.settings)) < 2:
            parser.error(
                f"{count} training of {arguments.method} on {problem} is recorded, and a landscape "
                "needs many; record_curves.py makes them"
            )
        for scale in arguments.scale:
            landscape = Landscape(records, scale)
            print(
                f"\n{arguments.method}, {problem}: {len(records.settings)} trainings, "
                f"{records.broken} diverged; left out, R^2 {landscape.r_squared:.2f}; residuals "
                f"{landscape.residual:.3f} x {scale:g} (between two seeds {landscape.noise:.3f})"
            )
            others = [
                read_records(arguments.file, other, arguments.method)
                for other in PROBLEMS
                if other != problem and is_recorded(arguments.file, other, arguments.method)
            ]
            compare(
                landscape,
                arms,
                arguments.seeds,
                arguments.trials,
                others,
                arguments.target_seeds,
            )


if __name__ == "__main__":
    main()
