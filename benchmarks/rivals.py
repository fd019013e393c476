"""Every method under the same rules: the same splits, 50 anomalies to choose by, number of trials.

    python benchmarks/rivals.py --data DATA fashion-mnist mnist-{0..9}

Searches each method on each problem, retrains its best settings and its defaults over seeds, tests
them once on the same images, and prints a table with paired tests for each problem, then one of all
problems. `DATA` has mnist.npz and fashion_mnist.npz. Runs go to `--runs-dir`; called again it goes
on where it stopped. `amatune compare` shows the same three runs of a problem with their settings.

What a CPU cannot afford is held fixed: widths, batch sizes, critic steps, and epochs such that a
full training of each method takes a few minutes at most. So the figures are of small networks
trained briefly and not those of the papers.

    python benchmarks/rivals.py --data DATA --brief 300 --methods ganomaly anogan -- fashion-mnist

trains methods for so many steps with their defaults at width 1/4, one thread, and prints the AUROC
of every score on the *validation* images beside what needs no detector: whether a method detects at
all. Test images are not looked at.

Over the digits, methods are compared by the signed-rank test of their mean test AUROCs (Wilcoxon;
Demsar, JMLR 7, 2006). The digits are anomalies of one another, so they are not quite independent.
"""

import argparse
import itertools
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import steps
import torch
from scipy import stats

from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.registry import find_method
from amatune.results.baselines import fit_baselines
from amatune.results.comparison import ComparedRun, RunComparison, compare_runs
from amatune.results.difference import holm
from amatune.results.leaderboard import TestFigures
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest
from amatune.tuning.retrain import run_best
from amatune.tuning.search import run_search

# What is held fixed, by method.
FIXED: dict[str, dict[str, Any]] = {
    "ama": {"width": 0.25, "batch_size": 64, "critic_steps": 2, "milestones": [0.7]},
    "deep-svdd": {"batch_size": 64, "pretrain": 0.3},
    "alad": {"width": 0.125, "batch_size": 64},
}
EPOCHS = {  # of a full training, by kind of problem
    "fashion-mnist": {"ama": 12, "deep-svdd": 60, "alad": 12},
    "mnist": {"ama": 50, "deep-svdd": 60, "alad": 40},  # 450 images of one digit
}
# Beside the width, where a method is trained briefly.
BRIEF: dict[str, dict[str, Any]] = {"waic": {"members": 3, "lr": 5e-4}}
BRIEF_EPOCHS = 10
FEWEST = 6  # digits for a signed-rank test: with fewer, no p can be below .05, even uncorrected


def problem(name: str, data: Path) -> ProblemRequest:
    """Fashion-MNIST against MNIST, or one digit of MNIST against the others."""
    if name == "fashion-mnist":
        mnist, fashion = (f"npz:{data / file}.npz" for file in ("mnist", "fashion_mnist"))
        return ProblemRequest(dataset=fashion, ood=(mnist,))
    digit = name.removeprefix("mnist-")
    return ProblemRequest(dataset=f"npz:{data / 'mnist'}.npz", normal_classes=(digit,))


def measure(name: str, method: str, arguments: argparse.Namespace) -> RunFolder:
    """Search, retrain and test one method on one problem."""
    epochs = EPOCHS["fashion-mnist" if name == "fashion-mnist" else "mnist"][method]
    request = SearchRequest(
        problem=problem(name, arguments.data.resolve()),
        method=method,
        trials=arguments.trials,
        epochs=epochs,
        fixed=FIXED[method],
        name=f"{name}-{method}",
        runs_dir=str(arguments.runs_dir),
    )
    run = RunFolder(arguments.runs_dir / f"{name}-{method}")
    began = time.monotonic()
    if not run.leaderboard.exists():
        if run_search(request, resume=run.run_json.exists()).ending == "interrupted":
            raise SystemExit(130)  # called again, it goes on
        run_best(run, top=1, seeds=arguments.seeds)
        print(f"{run.name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    return run


def brief(name: str, arguments: argparse.Namespace) -> list[str]:
    """Train each method for some steps; AUROCs on the validation images of a problem."""
    made = make_problem(problem(name, arguments.data.resolve()))
    train, sides = made.train_images(), made.validation_images()
    resident = torch.from_numpy(train)
    bounds = np.array([0, len(sides[1])])
    lines = [f"{made.describe()}", "", "| | CPU s | validation AUROC |", "|---|---|---|"]
    for one in fit_baselines(train, *sides, bounds, "pooled"):
        lines.append(f"| {one.name} | | {one.validation_auroc:.3f} |")
    for method in arguments.methods:
        cls = find_method(method).detector
        each = -(-arguments.brief // BRIEF_EPOCHS)
        width = {"width": 0.25, "epochs": BRIEF_EPOCHS, "steps_per_epoch": each}
        config = cls.Config.from_dict({**width, **BRIEF.get(method, {})})
        detector = cls(config, made.image_shape, seed=1)
        found = steps.measure(detector, resident, sides)
        told = ", ".join(f"{n} {auroc:.3f}" for n, auroc in found.auroc.items())
        lines.append(f"| {method} | {found.training:.0f} + {found.scoring:.0f} | {told} |")
        last = ", ".join(f"{n} {value:.3g}" for n, value in found.losses.items())
        print(f"{name} {method}: {lines[-1]}\n  losses: {last}", flush=True)
    return lines


def table(found: RunComparison) -> list[str]:
    """One problem: the chosen settings and the defaults of each method, and the paired tests."""
    lines = ["| method | chosen | test AUROC | 95% interval | default | hours |"]
    lines += ["|---|---|---|---|---|---|"]
    for one in found.runs:
        interval = f"{one.test.auroc_low:.3f} to {one.test.auroc_high:.3f}"
        lines.append(
            f"| {one.board.method} | {one.row.configuration} | {figure(one.test)} | {interval} | "
            f"{figure(default(one))} | {hours(one):.2f} |"
        )
    verdicts = [f"- {one.verdict(len(found.differences))}" for one in found.differences]
    return [*lines, "", *verdicts, *(f"- warning: {warning}" for warning in found.warnings)]


def summary(by_problem: dict[str, Sequence[ComparedRun]]) -> list[str]:
    """All problems: a row each, the digits' mean, and whether methods differ over the digits."""
    methods = list(FIXED)
    lines = [f"| normal | {' | '.join(f'{m} | its default' for m in methods)} |"]
    lines.append("|---|" + "---|---|" * len(methods))
    for name, runs in by_problem.items():
        cells = [cell for one in runs for cell in (figure(one.test), figure(default(one)))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    digits = [runs for name, runs in by_problem.items() if name.startswith("mnist-")]
    tuned = {m: [runs[i].test.auroc for runs in digits] for i, m in enumerate(methods)}
    plain = {m: [default(runs[i]).auroc for runs in digits] for i, m in enumerate(methods)}
    if len(digits) > 1:
        means = [statistics.fmean(of[m]) for m in methods for of in (tuned, plain)]
        lines.append(f"| mean of {len(digits)} digits | {' | '.join(f'{m:.3f}' for m in means)} |")
    spent = [sum(hours(runs[i]) for runs in by_problem.values()) for i in range(len(methods))]
    lines.append(f"| hours | {' | '.join(f'{h:.2f} | ' for h in spent)} |")
    if len(digits) >= FEWEST:
        pairs = list(itertools.combinations(methods, 2))
        corrected = holm([float(stats.wilcoxon(tuned[a], tuned[b]).pvalue) for a, b in pairs])
        lines.append("")
        for (a, b), p in zip(pairs, corrected, strict=True):
            ahead = sum(x > y for x, y in zip(tuned[a], tuned[b], strict=True))
            lines.append(f"- {a} ahead of {b} on {ahead} of {len(digits)} digits, p = {p:.2g}")
    return lines


def figure(test: TestFigures) -> str:
    """Mean and standard deviation over the seeds."""
    return f"{test.auroc:.3f} ± {test.auroc_spread or 0:.3f}"


def default(one: ComparedRun) -> TestFigures:
    """Of the method's default settings, by its primary score."""
    return next(row for row in one.board.rows if row.default).test[one.board.primary_score]


def hours(one: ComparedRun) -> float:
    """Of training in the search, added up."""
    return one.board.effort.hours if one.board.effort else 0.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problems", nargs="+", help="fashion-mnist, or mnist-0 to mnist-9")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/rivals"))
    parser.add_argument("--brief", type=int, metavar="STEPS", help="no search: train this long")
    parser.add_argument("--methods", nargs="+", default=list(FIXED), help="with --brief")
    arguments = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "optuna"))
    if arguments.brief:
        torch.set_num_threads(1)
        print(f"{platform.machine()}, {versions}; one thread", flush=True)
        for name in arguments.problems:
            print("", name, "", *brief(name, arguments), sep="\n", flush=True)
        return
    print(f"{platform.machine()}, {versions}; {arguments.trials} trials each", flush=True)
    by_problem: dict[str, Sequence[ComparedRun]] = {}
    for name in arguments.problems:
        runs = [measure(name, method, arguments) for method in FIXED]
        found = compare_runs(runs)
        by_problem[name] = found.runs
        print("", name, "", *table(found), sep="\n", flush=True)
    print("", "all", "", *summary(by_problem), sep="\n", flush=True)


if __name__ == "__main__":
    main()
