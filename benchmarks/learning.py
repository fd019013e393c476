"""Does AMA learn? Test AUROC on real images, over seeds.

    python benchmarks/learning.py --data ../shared/data                       # all problems
    python benchmarks/learning.py --data ../shared/data fashion-mnist mnist-8 --seeds 1

The data folder holds fashion_mnist.npz, mnist.npz, cifar10.npz and tiny_imagenet.npz (keys
train_images, train_labels, test_images, test_labels). Settings and budgets below were chosen on
validation images; the test part is scored once per training. Every training leaves a JSON file, and
one for which there is such a file is not repeated: an interrupted study goes on. Besides the table
it draws reconstructions and the densities of R of the first seed.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot
from torchvision.utils import save_image

from amatune import metrics
from amatune.data.problem import Problem
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.detector import to_unit_range
from amatune.detectors.ama import AMA, AMAConfig
from amatune.results.leaderboard import figures

# A quarter of the published width and few critic steps: what a CPU affords. The published decay of
# the learning rate starts at 30% of the budget, which is too early for budgets this short.
SMALL = {"width": 0.25, "critic_steps": 2, "lr": 1e-3}
SETTINGS: dict[str, dict[str, Any]] = {
    "fashion-mnist": {**SMALL, "batch_size": 64, "epochs": 20, "milestones": [0.7, 0.9]},
    "mnist": {**SMALL, "batch_size": 32, "epochs": 50, "milestones": [0.6, 0.85]},
    "cifar10": {**SMALL, "width": 0.125, "batch_size": 64, "epochs": 10, "milestones": [0.7, 0.9]},
}
ANOMALIES = {
    "fashion-mnist": ("mnist.npz",),
    "cifar10": ("uniform-noise", "gaussian-noise", "tiny_imagenet.npz"),
}
DIGITS = tuple(f"mnist-{digit}" for digit in range(10))
PROBLEMS = ("fashion-mnist", *DIGITS, "cifar10")
CURVE = 10  # points of a learning curve


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problems", nargs="*", default=PROBLEMS, help=f"of {', '.join(PROBLEMS)}")
    parser.add_argument("--data", type=Path, required=True, help="folder with the npz files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("runs/learning"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.problems if name not in PROBLEMS]
    if unknown:
        parser.error(f"unknown problem {unknown[0]}; known: {', '.join(PROBLEMS)}")
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    changes = {name: json.loads(value) for name, value in (s.split("=", 1) for s in arguments.set)}
    for name in arguments.problems:
        for seed in range(1, arguments.seeds + 1):
            record = arguments.output / f"{name}-seed{seed}.json"
            if not record.exists():
                study(name, seed, arguments.data, record, changes)
    print(table(arguments.problems, arguments.seeds, arguments.output))


def request(name: str, data: Path, anomalies: str | None) -> ProblemRequest:
    """One normal set or class, and one anomaly set, or the other classes for None."""

    def source(text: str) -> str:
        return f"npz:{data / text}" if text.endswith(".npz") else text

    family, _, digit = name.partition("mnist-")
    if digit and not family:
        return ProblemRequest(dataset=source("mnist.npz"), normal_classes=(digit,))
    dataset = source(f"{name.replace('-', '_')}.npz")
    return ProblemRequest(dataset=dataset, ood=(source(anomalies or ""),))


def study(name: str, seed: int, data: Path, record: Path, changes: dict[str, Any]) -> None:
    """Train one detector, score every anomaly set, and write what came out."""
    kind = "mnist" if name in DIGITS else name
    problems = {
        anomalies or "other classes": make_problem(request(name, data, anomalies))
        for anomalies in ANOMALIES.get(kind, (None,))
    }
    first = next(iter(problems.values()))
    # The anomaly set does not decide which normal images are for training.
    images = torch.from_numpy(first.train_images())
    config = AMAConfig.from_dict({**SETTINGS[kind], **changes})
    detector = AMA(config, first.image_shape, seed=seed)
    print(f"{name} seed {seed}: {first.describe()}", flush=True)

    began, curve, losses = time.monotonic(), [], {}
    for epoch in range(1, config.epochs + 1):
        losses = detector.train_epoch(images)
        if epoch % max(1, config.epochs // CURVE) == 0:
            detector.calibrate(images[:1024])
            auroc = metrics.auroc(**scores(detector, *first.validation_images())["A"])
            curve.append((epoch, auroc))
            shown = " ".join(f"{key} {value:.3g}" for key, value in losses.items())
            print(f"  epoch {epoch} validation AUROC {auroc:.3f} {shown}", flush=True)
    seconds = time.monotonic() - began
    detector.calibrate(images)
    results = {
        anomalies: {
            score: {side: values.tolist() for side, values in sides.items()}
            for score, sides in scores(detector, *problem.test_images()).items()
        }
        for anomalies, problem in problems.items()
    }
    if seed == 1:
        draw(name, detector, images, problems, results, record.parent)
    facts = {
        "config": detector.config.to_dict(),
        "counts": first.splits.counts(),
        "seconds": seconds,
        "curve": curve,
        "losses": losses,
        "test scores": results,
    }
    record.write_text(json.dumps(facts), encoding="utf-8")


def scores(detector: AMA, normal: Any, anomaly: Any) -> dict[str, dict[str, np.ndarray]]:
    """Score name -> {"normal", "anomaly"} -> (N,)."""
    sides = {
        side: detector.scores(torch.from_numpy(images))
        for side, images in (("normal", normal), ("anomaly", anomaly))
    }
    return {name: {s: sides[s][name].numpy() for s in sides} for name in detector.score_names}


def draw(
    name: str,
    detector: AMA,
    train: torch.Tensor,
    problems: dict[str, Problem],
    results: dict[str, Any],
    folder: Path,
) -> None:
    """Pictures above their reconstructions, and the densities of R."""
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    densities = {"training": detector.scores(train)["R"].numpy()}
    rows = []
    for anomalies, problem in problems.items():
        normal, anomaly = (torch.from_numpy(images[:12]) for images in problem.test_images())
        shown = [normal, anomaly] if not rows else [anomaly]
        for pictures in shown:
            rows += [to_unit_range(pictures), detector.reconstruct(pictures)]
        densities["test, normal"] = np.array(results[anomalies]["R"]["normal"])
        densities[f"test, {Path(anomalies).stem}"] = np.array(results[anomalies]["R"]["anomaly"])
    top = max(float(np.quantile(values, 0.98)) for values in densities.values())
    for label, values in densities.items():
        axes.hist(values, bins=60, range=(0, top), density=True, histtype="step", label=label)
    axes.set(xlabel="R", ylabel="density", title=name)
    axes.legend()
    figure.savefig(folder / f"{name}-densities.png", dpi=110)
    pyplot.close(figure)
    save_image(torch.cat(rows) / 2 + 0.5, folder / f"{name}-reconstructions.png", nrow=12)


@dataclasses.dataclass
class _Row:
    """The figures of one problem and anomaly set."""

    name: str
    anomalies: str
    seconds: float
    figures: dict[str, Any]


def table(problems: Sequence[str], seeds: int, folder: Path) -> str:
    """What the records say, as Markdown."""
    rows = []
    for name in problems:
        paths = [folder / f"{name}-seed{seed}.json" for seed in range(1, seeds + 1)]
        records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        for anomalies in records[0]["test scores"]:
            by_seed = [
                {
                    score: {side: np.array(values) for side, values in sides.items()}
                    for score, sides in record["test scores"][anomalies].items()
                }
                for record in records
            ]
            seconds = statistics.fmean(record["seconds"] for record in records)
            own = {score: figures([one[score] for one in by_seed]) for score in ("A", "R")}
            rows.append(_Row(name, Path(anomalies).stem, seconds, own))
    lines = [
        f"| normal | anomalies | A, mean of {seeds} seeds | 95% interval | R | 95% interval | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            f"{f.auroc:.3f} ± {f.auroc_spread:.3f} | {f.auroc_low:.3f} to {f.auroc_high:.3f}"
            if f.auroc_spread is not None
            else f"{f.auroc:.3f} | {f.auroc_low:.3f} to {f.auroc_high:.3f}"
            for f in row.figures.values()
        ]
        lines.append(f"| {row.name} | {row.anomalies} | {' | '.join(cells)} | {row.seconds:.0f} |")
    one_class = [row for row in rows if row.name in DIGITS]
    if len(one_class) > 1:
        means = {
            score: statistics.fmean(row.figures[score].auroc for row in one_class)
            for score in ("A", "R")
        }
        lines.append(
            f"| mean of {len(one_class)} digits | | {means['A']:.3f} | | {means['R']:.3f} | | |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
