"""How many steps of each method a training of `amatune reproduce --scale small` has time for.

    python benchmarks/reproduce_steps.py

Trains each method with its defaults at the scale's sizes on random pictures, on one core, and
prints milliseconds a step and the steps that `SMALL_SECONDS` are, as `SMALL_STEPS` of
`amatune/reproduce/scales.py` has them. Methods are timed in turn, in several rounds; the fastest
round counts, since others only ever make one slower. A method with phases is timed in each; the two
slowest epochs of ten are left out, since what AnoGAN measures twice in a training would outweigh
its steps here.
"""

import argparse
import platform
import statistics
import time

import torch

from amatune.registry import find_method, method_names
from amatune.reproduce.scales import SCALES, SMALL_SECONDS, Kind

SHAPES: dict[Kind, tuple[int, int, int]] = {"grey": (1, 28, 28), "colour": (3, 32, 32)}
IMAGES = 512
EPOCHS = 10


def step_seconds(name: str, kind: Kind, seconds: float) -> float:
    """Of one step, in the mean over the epochs of a short training with all its phases."""
    method = find_method(name)
    fixed = dict(SCALES["small"].fixed(name, kind))
    images = torch.randint(0, 256, (IMAGES, *SHAPES[kind]), dtype=torch.uint8)

    def epoch_seconds(epochs: int, steps: int) -> list[float]:
        values = {**fixed, "epochs": epochs, "steps_per_epoch": steps}
        detector = method.detector(method.detector.Config.from_dict(values), SHAPES[kind], seed=0)
        found = []
        for _ in range(epochs):
            began = time.process_time()
            detector.train_epoch(images)
            found.append(time.process_time() - began)
        return found

    each = min(epoch_seconds(4, 1)[1:])
    steps = max(1, round(seconds / each / EPOCHS))
    return statistics.fmean(sorted(epoch_seconds(EPOCHS, steps))[:-2]) / steps


def in_steps() -> list[str]:
    """The methods that train in steps."""
    return [name for name in method_names() if find_method(name).detector.usual_steps is not None]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("methods", nargs="*", help="by default all that train in steps")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a measurement, about")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = arguments.methods or in_steps()
    print(f"{platform.machine()}, torch {torch.__version__}, one thread")
    best: dict[tuple[str, Kind], float] = {}
    for _ in range(arguments.rounds):
        for name in names:
            for kind in SHAPES:
                found = step_seconds(name, kind, arguments.seconds)
                best[name, kind] = min(found, best.get((name, kind), found))
    for (name, kind), seconds in best.items():
        steps = round(SMALL_SECONDS / seconds, -2 if SMALL_SECONDS / seconds > 1000 else -1)
        print(f"{name:18}{kind:8}{1000 * seconds:8.1f} ms a step{steps:8.0f} steps", flush=True)


if __name__ == "__main__":
    main()
