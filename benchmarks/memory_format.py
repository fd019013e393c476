"""Whether a method's convolutions are faster with the channels of a pixel side by side in memory.

    python benchmarks/memory_format.py [METHOD ...]

Trains two detectors of each method in turn on random pictures, on one core, at the sizes of
`amatune reproduce --scale small`: one with each layout. Prints milliseconds a step, the fastest of
several rounds, and their ratio. Methods where it is below one for both kinds of pictures set
`channels_last`.
"""

import argparse
import platform
import time

import torch
from reproduce_steps import IMAGES, SHAPES, in_steps

from amatune.detector import Detector
from amatune.registry import find_method
from amatune.reproduce.scales import SCALES, Kind


def make(name: str, kind: Kind, steps: int, channels_last: bool) -> Detector:
    """A detector with one of the layouts."""
    method = find_method(name).detector
    fixed = SCALES["small"].fixed(name, kind)
    config = method.Config.from_dict({**fixed, "epochs": 100, "steps_per_epoch": steps})
    # A class of its own: the layout is decided when the networks are built.
    laid_out = type(method.__name__, (method,), {"channels_last": channels_last})
    return laid_out(config, SHAPES[kind], seed=0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("methods", nargs="*", help="by default all that train in steps")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, one thread")
    for name in arguments.methods or in_steps():
        for kind, shape in SHAPES.items():
            images = torch.randint(0, 256, (IMAGES, *shape), dtype=torch.uint8)
            pair = [make(name, kind, arguments.steps, layout) for layout in (False, True)]
            best = [float("inf")] * 2
            for _ in range(1 + arguments.rounds):  # the first round warms up: never the fastest
                for which, detector in enumerate(pair):
                    began = time.process_time()
                    detector.train_epoch(images)
                    best[which] = min(best[which], time.process_time() - began)
            plain, laid_out = (1000 * seconds / arguments.steps for seconds in best)
            print(
                f"{name:18}{kind:8}{plain:8.1f} ms{laid_out:8.1f} ms {laid_out / plain:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
