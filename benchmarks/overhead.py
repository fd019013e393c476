"""What a search costs a training of about a minute, beside the training.

    python benchmarks/overhead.py --rounds 3

The same training, digits with networks at a quarter of their width, as a plain loop and as the
second trial of a search, in turn; epochs are chosen so that it takes about `--seconds`. Both train,
and score the validation images after every epoch; the search also reports, logs, draws and saves.
The search's time is from its first to its last event about the trial: starting Ray and its worker,
which trains all trials one after the other, is not in it.
"""

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch

from amatune import metrics
from amatune.data.problem import Problem
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.detectors.ama import AMA, AMAConfig
from amatune.registry import find_method
from amatune.runs.request import SearchRequest
from amatune.trainables._base import CALIBRATION_IMAGES
from amatune.tuning.events import Event, TrialUpdate
from amatune.tuning.proposals import random_trials
from amatune.tuning.search import run_search
from amatune.tuning.seeds import derive_seed
from amatune.tuning.spaces import HeldFixed

HELD: dict[str, Any] = {
    "width": 0.25,
    "batch_size": 64,
    "critic_steps": 2,
    "warmup": 0.0,
    # All that is searched, so that the trials of a search are one and the same training. What is
    # searched of negatives is not asked for where there are none.
    "negative_share": 0.0,
    "k": 3,
    "lambda_inter": 0.5,
    "lambda_reg": 1.0,
    "lr": 3e-4,
}
PROBLEM = ProblemRequest(dataset="digits")


def require_nothing_searched() -> None:
    """Raise where a trial could have settings that the plain loop has not."""
    space = find_method("ama").space
    for trial in random_trials(50):
        space(HeldFixed(trial, HELD))
        if trial.params:
            raise RuntimeError(f"the space of AMA draws {', '.join(trial.params)}: put it in HELD")


def bare(problem: Problem, epochs: int) -> float:
    """Seconds of a plain loop."""
    began = time.monotonic()
    train = torch.from_numpy(problem.train_images())
    normal, anomaly = map(torch.from_numpy, problem.validation_images())
    config = AMAConfig(epochs=epochs, **HELD).resolve(problem.image_shape)
    detector = AMA(config, problem.image_shape, seed=derive_seed(0, "trial", 0))
    for _ in range(epochs):
        detector.train_epoch(train)
        detector.calibrate(train[:CALIBRATION_IMAGES])
        metrics.auroc(*(detector.score(images).numpy() for images in (normal, anomaly)))
    return time.monotonic() - began


def searched(epochs: int) -> float:
    """Seconds of the same training as a trial."""
    times = []

    def watch(event: Event) -> None:
        second = isinstance(event, TrialUpdate) and event.number == 1
        if second and event.state != "waiting":
            times.append(time.monotonic())

    with tempfile.TemporaryDirectory() as folder:
        request = SearchRequest(
            problem=PROBLEM,
            trials=2,
            scheduler="none",
            epochs=epochs,
            fixed=HELD,
            runs_dir=folder,
            concurrent=1,
        )
        run_search(request, watch)
    return times[-1] - times[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    require_nothing_searched()
    torch.set_num_threads(1)  # what a trial with one CPU gets
    problem = make_problem(PROBLEM)
    epochs = max(1, round(arguments.seconds / (bare(problem, 3) / 3)))
    ratios = []
    for _ in range(arguments.rounds):
        plain, trial = bare(problem, epochs), searched(epochs)
        ratios.append(trial / plain)
        print(f"{epochs} epochs: {plain:.1f} s bare, {trial:.1f} s in a search", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f} over {len(ratios)} rounds")


if __name__ == "__main__":
    main()
