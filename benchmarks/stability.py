"""Does training stay finite over the whole search space?

    python benchmarks/stability.py --trials 60 --epochs 15

Random settings from the search space of AMA, each trained on the embedded digits (small networks at
a quarter of their width). Counts the trainings that diverged or collapsed, which raise, and prints
the extremes of what the others reached.
"""

import argparse
from typing import Any

import optuna
import torch

from amatune import metrics
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.detectors.ama import AMA, AMAConfig
from amatune.errors import DivergedError
from amatune.registry import find_method

HELD: dict[str, Any] = {"width": 0.25, "batch_size": 64, "critic_steps": 2, "lr_decay": 1.0}
WATCHED = ("wasserstein", "penalty", "code_norm", "critic")


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    problem = make_problem(ProblemRequest(dataset="digits"))
    train = torch.from_numpy(problem.train_images())
    normal, anomaly = map(torch.from_numpy, problem.validation_images())
    space = find_method("ama").space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    reached: dict[str, list[float]] = {name: [] for name in (*WATCHED, "auroc")}
    failed = []
    for number in range(arguments.trials):
        settings = {**space(study.ask()), **HELD, "epochs": arguments.epochs}
        detector = AMA(AMAConfig.from_dict(settings), problem.image_shape, seed=number)
        try:
            for _ in range(arguments.epochs):
                losses = detector.train_epoch(train)
            detector.calibrate(train)
            scores = [detector.score(images).numpy() for images in (normal, anomaly)]
        except DivergedError as error:
            failed.append(f"{error} ({settings})")
            continue
        for name in WATCHED:
            reached[name].append(losses[name])
        reached["auroc"].append(metrics.auroc(*scores))
    print(f"{arguments.trials} random settings, {arguments.epochs} epochs: {len(failed)} diverged")
    for line in failed:
        print(f"  {line}")
    for name, values in reached.items():
        print(f"{name}: {min(values):.3g} to {max(values):.3g}")


if __name__ == "__main__":
    main()
