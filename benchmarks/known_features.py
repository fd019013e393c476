"""Which settings of frozen features do well on pictures of things that lie anywhere?

    python benchmarks/known_features.py cifar10 fashion --data DATA

Learns from one class at a time, and prints the AUROC of the validation images, of which there are
more anomalies than the usual 50; the test part is not read. `KNOWN` of search_spaces/features.py is
chosen by it. What the network computes is kept in the user's cache, as in a search.
"""

import argparse
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import folder_of, scores_by_side

from amatune import metrics
from amatune.data.feature_cache import FeatureCache
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.detectors.features import Features, FeaturesConfig

FILES = {"cifar10": "cifar10_12k.npz", "fashion": "fashion_mnist.npz"}
ANOMALIES = 500
DEEP = ("4", "3+4", "2+3+4")

CANDIDATES: tuple[Mapping[str, Any], ...] = (
    {},
    {"contrast_normalization": True},
    *(
        {"model": "mean", "layers": layers, "pooling": pooling, "contrast_normalization": contrast}
        for layers, pooling, contrast in itertools.product(
            DEEP, ("mean", "mean+std"), (False, True)
        )
    ),
    *({"model": "mean", "layers": layers, "pooling": "mean", "scale": 1.5} for layers in DEEP),
    *({"layers": layers, "neighbourhood": around} for layers in DEEP[1:] for around in (3, 5)),
)


def measure(request: ProblemRequest, settings: Mapping[str, Any]) -> float:
    """AUROC of the validation images, by whichever score is better."""
    problem = make_problem(request)
    detector = Features(FeaturesConfig(**settings), problem.image_shape, seed=1)
    detector.store = FeatureCache.default()
    images = torch.from_numpy(problem.train_images())
    detector.train_epoch(images)
    detector.calibrate(images)
    found = scores_by_side(detector, *problem.validation_images())
    return max(metrics.auroc(**sides) for sides in found.values())


def main() -> None:
    """Measure what is missing and print the table, the best first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sets", nargs="+", choices=FILES, metavar="SET", help=", ".join(FILES))
    parser.add_argument("--data", type=Path, required=True, help="folder with the npz files")
    parser.add_argument("--classes", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--output", type=Path, default=Path("runs/known-features"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.sets:
        dataset = f"npz:{arguments.data.resolve() / FILES[name]}"
        rows = []
        for settings in CANDIDATES:
            folder, found = folder_of(arguments.output, settings), []
            for number in arguments.classes:
                file = folder / f"{name}-{number}"
                if not file.exists():
                    request = ProblemRequest(
                        dataset=dataset, normal_classes=(str(number),), val_anomalies=ANOMALIES
                    )
                    file.write_text(str(measure(request, settings)), encoding="utf-8")
                found.append(float(file.read_text(encoding="utf-8")))
            rows.append((float(np.mean(found)), json.dumps(settings), found))
        print(f"| {name} | mean | {' | '.join(map(str, arguments.classes))} |")
        print("|---" * (2 + len(arguments.classes)) + "|")
        for mean, told, found in sorted(rows, reverse=True):
            print(f"| {told} | {mean:.3f} | {' | '.join(f'{one:.3f}' for one in found)} |")


if __name__ == "__main__":
    main()
