"""Does a method detect at all? Trained briefly, its AUROCs on validation images, beside baselines.

    python benchmarks/brief.py --data DATA --steps 300 --methods ganomaly anogan -- fashion-mnist

trains methods for so many steps with their defaults at width 1/4, one thread, and prints the AUROC
of every score on the *validation* images of Fashion-MNIST against MNIST, or of one digit against
the others (`mnist-5`), beside what needs no detector. Test images are not looked at. `DATA` has
mnist.npz and fashion_mnist.npz, excerpts of 5,000 + 2,000 images each and not the *_full.npz of
other benchmarks. Methods are compared by `amatune reproduce`.
"""

import argparse
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import steps
import torch

from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.registry import find_method
from amatune.results.baselines import fit_baselines

OWN: dict[str, dict[str, Any]] = {"waic": {"members": 3, "lr": 5e-4}}  # beside the width
EPOCHS = 10


def problem(name: str, data: Path) -> ProblemRequest:
    """Fashion-MNIST against MNIST, or one digit of MNIST against the others."""
    if name == "fashion-mnist":
        mnist, fashion = (f"npz:{data / file}.npz" for file in ("mnist", "fashion_mnist"))
        return ProblemRequest(dataset=fashion, ood=(mnist,))
    digit = name.removeprefix("mnist-")
    return ProblemRequest(dataset=f"npz:{data / 'mnist'}.npz", normal_classes=(digit,))


def measure(name: str, arguments: argparse.Namespace) -> list[str]:
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
        each = -(-arguments.steps // EPOCHS)
        width = {"width": 0.25, "epochs": EPOCHS, "steps_per_epoch": each}
        config = cls.Config.from_dict({**width, **OWN.get(method, {})})
        detector = cls(config, made.image_shape, seed=1)
        found = steps.measure(detector, resident, sides)
        told = ", ".join(f"{n} {auroc:.3f}" for n, auroc in found.auroc.items())
        lines.append(f"| {method} | {found.training:.0f} + {found.scoring:.0f} | {told} |")
        last = ", ".join(f"{n} {value:.3g}" for n, value in found.losses.items())
        print(f"{name} {method}: {lines[-1]}\n  losses: {last}", flush=True)
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problems", nargs="+", help="fashion-mnist, or mnist-0 to mnist-9")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--methods", nargs="+", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {version('torch')}; one thread", flush=True)
    for name in arguments.problems:
        print("", name, "", *measure(name, arguments), sep="\n", flush=True)


if __name__ == "__main__":
    main()
