"""Every method under the same rules: the same splits, 50 anomalies to choose by, number of trials.

    python benchmarks/rivals.py --data DATA fashion-mnist mnist-8

Searches each method on each problem, retrains its best settings and its defaults over seeds, tests
them once on the same images, and prints a table with paired tests for each problem. `DATA` has
mnist.npz and fashion_mnist.npz. Runs go to `--runs-dir`; called again it goes on where it stopped.

What a CPU cannot afford is held fixed: widths, batch sizes, critic steps, and epochs such that a
full training of each method takes about a minute or less. So the figures are of small networks
trained briefly and not those of the papers.
"""

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import torch

from amatune.data.protocol import ProblemRequest
from amatune.runs import RunFolder
from amatune.tuning.comparison import compare_runs
from amatune.tuning.request import SearchRequest
from amatune.tuning.retrain import run_best
from amatune.tuning.search import run_search

# What is held fixed, by method.
FIXED: dict[str, dict[str, Any]] = {
    "ama": {"width": 0.25, "batch_size": 64, "critic_steps": 2, "milestones": [0.7]},
    "deep-svdd": {"batch_size": 64, "pretrain": 0.3},
    "alad": {"width": 0.125, "batch_size": 64},
}
EPOCHS = {  # of a full training, by kind of problem
    "fashion-mnist": {"ama": 8, "deep-svdd": 20, "alad": 6},
    "mnist": {"ama": 50, "deep-svdd": 60, "alad": 40},  # 450 images of one digit
}


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
    if not (run.best / "leaderboard.json").exists():
        run_search(request, resume=run.run_json.exists())
        run_best(run, top=1, seeds=arguments.seeds)
        print(f"{run.name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problems", nargs="+", help="fashion-mnist, or mnist-0 to mnist-9")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/rivals"))
    arguments = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, {arguments.trials} trials each")
    for name in arguments.problems:
        runs = [measure(name, method, arguments) for method in FIXED]
        found = compare_runs(runs)
        print(f"\n{name}\n\n| method | chosen | test AUROC | 95% interval | default | hours |")
        print("|---|---|---|---|---|---|")
        for one in found.runs:
            test, default = one.test, next(row for row in one.board.rows if row.default)
            plain = default.test[one.board.primary_score]
            hours = one.board.effort.hours if one.board.effort else 0.0
            print(
                f"| {one.board.method} | {one.row.configuration} | {test.auroc:.3f} ± "
                f"{test.auroc_spread or 0:.3f} | {test.auroc_low:.3f} to {test.auroc_high:.3f} | "
                f"{plain.auroc:.3f} ± {plain.auroc_spread or 0:.3f} | {hours:.2f} |"
            )
        print()
        for difference in found.differences:
            print(f"- {difference.verdict(len(found.differences))}", flush=True)


if __name__ == "__main__":
    main()
