"""What a gradient penalty costs with torch's leaky ReLU, and with one without second derivative.

    python benchmarks/penalty.py [--set NAME=VALUE ...]

Trains two detectors of each method that has a penalty in turn on random pictures, on one core, at
the sizes of `amatune reproduce --scale small`: one with torch's leaky ReLU, whose derivative's
derivative is a tensor of zeros, one with `PenalisedLeakyReLU`. Prints milliseconds a step, medians
over rounds, their ratio, and whether all weights ended equal.
"""

import argparse
import platform
import statistics
import time

import torch
from common import given_settings
from reproduce_steps import IMAGES, SHAPES
from torch import nn

from amatune.detector import Detector
from amatune.nets.adversarial import PenalisedLeakyReLU
from amatune.registry import find_method
from amatune.reproduce.scales import SCALES, Kind

METHODS = ("ama", "waic")


def make(name: str, kind: Kind, values: dict[str, object], plain: bool) -> Detector:
    """A detector of the scale's size and of these settings, with either leaky ReLU."""
    method = find_method(name).detector
    fixed = SCALES["small"].fixed(name, kind)
    detector = method(method.Config.from_dict({**fixed, **values}), SHAPES[kind], seed=0)
    for network in detector.networks.values() if plain else ():
        for module in list(network.modules()):
            for child, layer in module.named_children():
                if isinstance(layer, PenalisedLeakyReLU):
                    setattr(module, child, nn.LeakyReLU(layer.negative_slope))
    return detector


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--set", nargs="*", default=(), metavar="NAME=VALUE", help="of AMA")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, one thread")
    for name in METHODS:
        own = given_settings(arguments.set) if name == "ama" else {}
        values = {"epochs": 100, "steps_per_epoch": arguments.steps, **own}
        for kind, shape in SHAPES.items():
            images = torch.randint(0, 256, (IMAGES, *shape), dtype=torch.uint8)
            pair = [make(name, kind, values, plain) for plain in (True, False)]
            seconds: tuple[list[float], list[float]] = ([], [])
            for _ in range(1 + arguments.rounds):
                for detector, taken in zip(pair, seconds, strict=True):
                    began = time.process_time()
                    detector.train_epoch(images)
                    taken.append(time.process_time() - began)
            # The first round warms up.
            each = [1000 * statistics.median(own[1:]) / arguments.steps for own in seconds]
            weights = [
                [p for network in detector.networks.values() for p in network.parameters()]
                for detector in pair
            ]
            equal = all(map(torch.equal, *weights))
            print(
                f"{name:8}{kind:8}{each[0]:8.1f} ms{each[1]:8.1f} ms {each[1] / each[0]:6.2f}  "
                f"weights {'equal' if equal else 'DIFFER'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
