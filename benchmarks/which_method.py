"""Several methods in one search against the same time spent on one of them.

    python benchmarks/which_method.py --seeds 100
    python benchmarks/which_method.py digits mnist-8 --methods ama deep-svdd --arms together apart

Replays recorded trainings (`record_curves.py`, `landscape.py`) through the real session of
`amatune search`, two trials at a time, by a clock that only knows what trainings take: the seconds
of a look at each method, measured first on this machine, or as `--seconds` says. Compared, over the
same seeds, after the time of `--trials` full trainings of the costliest method:

    NAME        a search of this method alone
    together    `--method A --method B`: proposals by UCB1, rungs within each method
    by-time     the same, where UCB1 counts the time that a method has had in the place of trials
    across      together, where rungs compare trials of all methods
    in-turn     together, where the methods take turns

Printed are the true AUROC of what validation prefers at the end and at a third of the time (means
over seeds, with standard errors), and in `together` and its kin how the proposals were shared.
"""

import argparse
import contextlib
import dataclasses
import heapq
import itertools
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from efficiency import SIDES, Ended, chosen
from landscape import Curve, Landscape, read_records
from record_curves import CURVES, HELD, METHODS, PROBLEMS, REPORTS, SIZE, STEPS

from amatune.cluster.capacity import pace
from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.job import Progress
from amatune.registry import Method, SeveralMethods, searched_method
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest
from amatune.several import METHOD
from amatune.tuning import session as sessions
from amatune.tuning import study as studies
from amatune.tuning.allocation import Allocation
from amatune.tuning.defaults import default_of
from amatune.tuning.seeds import derive_seed
from amatune.tuning.session import Session
from amatune.tuning.spaces import settings_to_try
from amatune.tuning.stopping import Halving, make_pruner, rungs

AT_A_TIME = 2
SHAPE = (1, SIZE, SIZE)
ARMS = ("together", "by-time", "across", "in-turn")


class ByTime(Allocation):
    """What a method has cost, in trials of the costliest, is how often it had its turn."""

    def played(self, tried: Any) -> dict[str, float]:
        """Trials that still run count as much as the others of their method."""
        ended = {name: [t for t in own if t.state.is_finished()] for name, own in tried.items()}
        spent = {name: sum(map(seconds_of, own)) for name, own in ended.items()}
        means = {name: spent[name] / len(own) if own else 0.0 for name, own in ended.items()}
        unit = max(means.values()) or 1.0
        return {
            name: (spent[name] + (len(own) - len(ended[name])) * (means[name] or unit)) / unit
            for name, own in tried.items()
        }


def seconds_of(trial: Any) -> float:
    """What the study says that it took."""
    return float(trial.user_attrs[studies.COST]["seconds"])


class InTurn(Allocation):
    """Without any learning."""

    def next_method(self, trials: Any) -> str:
        """The one that is due."""
        return self.names[len(trials) % len(self.names)]


class Across(Halving):
    """Rungs that compare whatever has come so far."""

    def peers(self, study: optuna.Study, _trial: Any) -> list[Any]:
        """All trials."""
        return study.get_trials(deepcopy=False)


@dataclasses.dataclass
class Clock:
    """Stands where the session reads the time."""

    now: float = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


def session_of(method: Method, arm: str, seed: int, run: RunFolder) -> Session:
    """A search's session over a study in memory."""
    names = list(method.members) if isinstance(method, SeveralMethods) else [method.name]
    held = {f"{n}.{k}": v for n in names for k, v in HELD[n].items()} if len(names) > 1 else {}
    held = held or HELD[method.name]

    def complete(settings: Mapping[str, Any]) -> Any:
        values = {**settings, **held, "epochs": REPORTS}
        return method.detector.Config.from_dict(values).resolve(SHAPE)

    request = SearchRequest(
        runs_dir=str(run.path.parent), method=method.name, trials=10**6, epochs=REPORTS, seed=seed
    )
    grace = 2 if len(names) > 1 else complete({}).grace_epochs() + 1
    pruner = make_pruner("asha", REPORTS, grace, SIDES)
    if arm == "across":
        pruner = Across([rungs(REPORTS, grace)], SIDES)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    allocation = None
    if isinstance(method, SeveralMethods):
        default = default_of(method.members, held, SHAPE)
        kind = {"by-time": ByTime, "in-turn": InTurn}.get(arm, Allocation)
        allocation = kind(tuple(names), rungs(REPORTS, grace)[0], SIDES)
        first = [{METHOD: name} for name in names]
    else:
        default, first = complete({}), [{}]
    for one in first:
        study.enqueue_trial(settings_to_try(method.space, one, default, held))
    place = Checkpoints(str(run.trials))
    return Session(
        study,
        request,
        run,
        place,
        method.space,
        complete,
        lambda _event: None,
        allocation=allocation,
    )


def replay(
    landscapes: Mapping[str, Landscape],
    seconds: Mapping[str, float],
    arm: str,
    seed: int,
    limit: float,
) -> tuple[list[Ended], Counter[str]]:
    """What has ended within so many seconds, of two workers together, and what was proposed."""
    together = arm in ARMS
    method = searched_method("+".join(landscapes) if together else arm)
    clock, proposed = Clock(), Counter[str]()
    ended: list[Ended] = []
    with tempfile.TemporaryDirectory() as folder, _timed_by(clock):
        run = RunFolder(Path(folder) / "run")
        run.path.mkdir()
        session = session_of(method, arm, seed, run)
        waiting: list[tuple[float, int, Curve, str, int]] = []
        names = itertools.count()

        def begin() -> None:
            number = next(names)
            job = session.start(str(number))
            assert job is not None
            session.started(str(number))
            name = job.settings.get(METHOD, method.name)
            own = {key.removeprefix(f"{name}."): value for key, value in job.settings.items()}
            random = np.random.default_rng(derive_seed(seed, "residual", number))
            proposed[name] += 1
            curve = landscapes[name](own, random)
            heapq.heappush(waiting, (clock.now + seconds[name], number, curve, name, 1))

        while clock.now * AT_A_TIME < limit:
            while len(waiting) < AT_A_TIME:
                begin()
            clock.now, number, curve, name, epoch = heapq.heappop(waiting)
            column = searched_method(name).detector.early_score
            early = curve.auroc(epoch)
            if column is not None and column != "auto":
                place = landscapes[name].records.scores.index(column)
                early = float(curve.validation[place, epoch - 1])
            progress = Progress(epoch=epoch, auroc=curve.auroc(epoch), early=early)
            if epoch == REPORTS:
                spent = round(clock.now * AT_A_TIME * 1000)
                ended.append(Ended(spent, curve.auroc(epoch), curve.true_auroc))
            if epoch == REPORTS or session.report(str(number), progress):
                session.finish(str(number), progress)
                continue
            heapq.heappush(waiting, (clock.now + seconds[name], number, curve, name, epoch + 1))
    return ended, proposed


@contextlib.contextmanager
def _timed_by(clock: Clock) -> Iterator[None]:
    real: Any = sessions.time
    sessions.time = SimpleNamespace(monotonic=clock.monotonic)  # type: ignore[assignment]
    try:
        yield
    finally:
        sessions.time = real


def seconds_of_a_look(name: str) -> float:
    """Of a method's default, with its scoring, on this machine."""
    method = searched_method(name)
    config = method.detector.Config.from_dict(HELD[name]).resolve(SHAPE)
    images = np.random.default_rng(0).integers(0, 256, (512, *SHAPE), dtype=np.uint8)
    step, scoring = pace(method.detector, config, images, images[:50], images[50:100])
    return STEPS[name] * step + scoring


def mean(values: Sequence[float]) -> str:
    """With its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {error:.3f}"


def compare(
    landscapes: Mapping[str, Landscape],
    seconds: Mapping[str, float],
    arms: Sequence[str],
    seeds: int,
    trials: int,
) -> None:
    """Print a table of a problem."""
    limit = trials * REPORTS * max(seconds.values())
    print(f"{'':12}{'true at the end':>18}{'after a third':>18}   proposals")
    for arm in arms:
        runs = [replay(landscapes, seconds, arm, seed, limit) for seed in range(seeds)]
        after = []
        for spent in (limit * 1000, limit * 1000 / 3):
            found = [chosen(ended, spent) for ended, _ in runs]
            after.append(mean([0.5 if one is None else one.truth for one in found]))
        shares = sum((proposed for _, proposed in runs), Counter[str]())
        told = ", ".join(f"{name} {number / seeds:.0f}" for name, number in sorted(shares.items()))
        print(f"{arm:12}{after[0]:>18}{after[1]:>18}   {told}", flush=True)


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problems", nargs="*", default=PROBLEMS, help=", ".join(PROBLEMS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["ama", "deep-svdd"])
    parser.add_argument("--arms", nargs="+", default=None, help=f"methods, {', '.join(ARMS)}")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--trials", type=int, default=15, help="of the costliest: the time of all")
    parser.add_argument("--scale", type=float, default=1.0, help="of residuals")
    parser.add_argument("--seconds", type=float, nargs="+", help="of a look, by method")
    parser.add_argument("--file", type=Path, default=CURVES)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = arguments.methods
    given = arguments.seconds or [seconds_of_a_look(name) for name in names]
    seconds = dict(zip(names, given, strict=True))
    told = ", ".join(f"{name} {1000 * one:.0f} ms" for name, one in seconds.items())
    for problem in arguments.problems:
        landscapes = {
            name: Landscape(read_records(arguments.file, problem, name), arguments.scale)
            for name in names
        }
        print(f"\n{problem}; a look at {told}; {arguments.seeds} seeds")
        arms = arguments.arms or [*names, *ARMS]
        compare(landscapes, seconds, arms, arguments.seeds, arguments.trials)


if __name__ == "__main__":
    main()
