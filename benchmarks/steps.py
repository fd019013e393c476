"""How many steps does a method need? Validation AUROC of its defaults by the length of training.

    python benchmarks/steps.py --data ../shared/data --methods deep-svdd alad -- mnist-2 mnist-8

Each number of steps is a training of its own, since learning rates drop towards a planned end.
The data folder holds mnist_full.npz and fashion_mnist_full.npz. Figures are of the validation
images, of which there are more anomalies than the usual 50; the test part is not read. Every
training leaves a line in `--output`, and one whose line is there is not repeated.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import scores_by_side

from amatune import metrics
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.detector import Detector
from amatune.registry import find_method

STEPS = (500, 1500, 4000)
EPOCHS = 25  # slices of a training
ANOMALIES = 500
PROBLEMS = ("fashion", *(f"mnist-{digit}" for digit in range(10)))


def request(name: str, data: Path) -> ProblemRequest:
    """Fashion-MNIST against MNIST, or one digit of MNIST against the others."""
    mnist = f"npz:{data / 'mnist_full.npz'}"
    if name == "fashion":
        fashion = f"npz:{data / 'fashion_mnist_full.npz'}"
        return ProblemRequest(dataset=fashion, ood=(mnist,), val_anomalies=ANOMALIES)
    digit = (name.removeprefix("mnist-"),)
    return ProblemRequest(dataset=mnist, normal_classes=digit, val_anomalies=ANOMALIES)


class Measured(NamedTuple):
    """What became of a training."""

    losses: dict[str, float]  # of the last epoch
    auroc: dict[str, float]  # of every score
    training: float  # CPU seconds
    scoring: float  # CPU seconds, of calibration too


def measure(
    detector: Detector, images: torch.Tensor, sides: tuple[np.ndarray, np.ndarray]
) -> Measured:
    """Train all epochs on images (N, C, H, W), calibrate, and score normal and anomalous ones."""
    began = time.process_time()
    for _ in range(detector.config.epochs):
        losses = detector.train_epoch(images)
    training = time.process_time() - began
    detector.calibrate(images)
    found = scores_by_side(detector, *sides)
    scoring = time.process_time() - began - training
    aurocs = {name: metrics.auroc(**own) for name, own in found.items()}
    return Measured(losses, aurocs, training, scoring)


def train(method: str, problem: str, steps: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One training, and the AUROC of every score on the validation images."""
    made = make_problem(request(problem, arguments.data.resolve()))
    images, sides = torch.from_numpy(made.train_images()), made.validation_images()
    detector_class = find_method(method).detector
    settings = {
        "width": arguments.width,
        "epochs": EPOCHS,
        "steps_per_epoch": -(-steps // EPOCHS),
        **({"batch_size": arguments.batch} if arguments.batch else {}),
        **(find_method(method).known[arguments.known - 1] if arguments.known else {}),
    }
    config = detector_class.Config.from_dict(settings)
    detector = detector_class(config, made.image_shape, seed=arguments.seed)
    found = measure(detector, images, sides)
    return {"seconds": found.training, "losses": found.losses, "auroc": found.auroc}


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problems", nargs="+", choices=PROBLEMS, metavar="PROBLEM")
    parser.add_argument("--data", type=Path, required=True, help="folder with the npz files")
    parser.add_argument("--methods", nargs="+", default=["deep-svdd", "alad"])
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS))
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, help="images; by default the method's")
    parser.add_argument("--known", type=int, metavar="N", help="the Nth settings it is known for")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/steps"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    print("| problem | method | batch | steps | s | validation AUROC |")
    print("|---|---|---|---|---|---|")
    for problem in arguments.problems:
        for method in arguments.methods:
            for steps in arguments.steps:
                own = [problem, method, steps, arguments.width, arguments.batch, arguments.seed]
                own += [f"known{arguments.known}"] if arguments.known else []
                file = arguments.output / f"{'-'.join(map(str, own))}.json"
                if not file.exists():
                    found = train(method, problem, steps, arguments)
                    file.write_text(json.dumps(found), encoding="utf-8")
                found = json.loads(file.read_text(encoding="utf-8"))
                told = ", ".join(f"{name} {value:.3f}" for name, value in found["auroc"].items())
                size = arguments.batch or find_method(method).detector.Config().batch_size
                print(
                    f"| {problem} | {method} | {size} | {steps:,} | {found['seconds']:.0f} "
                    f"| {told} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
