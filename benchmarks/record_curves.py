"""Train random settings of AMA to the end and keep their learning curves.

    python benchmarks/record_curves.py --trials 100 --threads 1

The problem: the embedded digits at 16 x 16 pixels, 0 to 4 normal, networks at a quarter of their
width, 27 epochs. Writes settings and validation AUROC per epoch to `curves.json`, after every
training, and goes on from there when called again. `efficiency.py` replays them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import optuna
import torch

from amatune import metrics
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.detectors.ama import AMA, AMAConfig
from amatune.errors import DivergedError
from amatune.registry import find_method

CURVES = Path(__file__).parent / "curves.json"
EPOCHS = 27
HELD: dict[str, Any] = {"width": 0.25, "batch_size": 64, "critic_steps": 2, "lr_decay": 1.0}


def main() -> None:
    """Train and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--file", type=Path, default=CURVES)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    problem = make_problem(ProblemRequest(dataset="digits", image_size=16))
    train = torch.from_numpy(problem.train_images())
    normal, anomaly = map(torch.from_numpy, problem.validation_images())
    space = find_method("ama").space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    known = json.loads(arguments.file.read_text()) if arguments.file.exists() else []
    for number in range(arguments.trials):
        settings = space(study.ask())  # drawn also when known: the next draws follow from it
        if number < len(known):
            continue
        config = AMAConfig.from_dict({**settings, **HELD, "epochs": EPOCHS})
        detector = AMA(config, problem.image_shape, seed=number)
        curve = []
        try:
            for _ in range(EPOCHS):
                detector.train_epoch(train)
                detector.calibrate(train)
                scores = [detector.score(images).numpy() for images in (normal, anomaly)]
                curve.append(round(metrics.auroc(*scores), 4))
        except DivergedError:
            pass  # a shorter curve
        known.append({"settings": settings, "auroc": curve})
        lines = ",\n".join(json.dumps(one) for one in known)
        arguments.file.write_text(f"[\n{lines}\n]\n")
        print(number, curve[-1] if curve else "diverged", flush=True)


if __name__ == "__main__":
    main()
