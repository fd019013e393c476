"""Does it detect? Test AUROC of AMA on real images, over seeds, beside what needs no detector.

    python benchmarks/learning.py --data ../shared/data                        # all problems
    python benchmarks/learning.py --data ../shared/data mnist-8 fashion --seeds 1

The data folder holds mnist_full.npz, fashion_mnist_full.npz, cifar10_12k.npz, omniglot_small.npz
and tiny_imagenet.npz (keys train_images, train_labels, test_images, test_labels). Settings were
chosen on training images of digits 0 to 5 and 8; the test part is scored once per training. Every
training leaves two files, and one for which they are there is not repeated: an interrupted study
goes on. What is trained with `--set` is kept in a folder of its own. With `--draw`,
reconstructions and densities of the first seed are drawn.

The studies `ablate-*` are the paper's ablations (Table 1, lower half, and Table 3's cube): its game
with its weights, and one part of it taken away, by the recipe of `FAST` in 1,200 steps. Their
second table has the differences. "R instead of A" is a column of the first.

The score of a row is the one that the 50 validation anomalies find best, on the mean over seeds.
The last columns are the baseline that validation images prefer, and the paper's figure.
"""

import argparse
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import folder_of, given_settings, problems_of, scores_by_side
from matplotlib import pyplot
from scipy import stats
from torchvision.utils import save_image

from amatune import metrics
from amatune.data.problem import Problem
from amatune.detector import to_unit_range
from amatune.detectors.ama import AMA, AMAConfig
from amatune.results.baselines import fit_baselines, score_baselines
from amatune.results.difference import holm, paired_difference
from amatune.results.leaderboard import figures

SCORES = ("A", "R", "AC", "RC")
EPOCHS = 25  # slices of the training
FAST: dict[str, Any] = {"width": 0.25, "epochs": EPOCHS, "steps_per_epoch": 120}
# The paper's game, with which its ablations are compared.
GAME: dict[str, Any] = {
    **FAST,
    "steps_per_epoch": 48,
    "lambda_reg": 1.0,
    "negative_share": 0.1,
}
WITHOUT: dict[str, dict[str, Any]] = {
    "whole": {},
    "mirror": {"mirrored": False},
    "simplex": {"k": 1},
    "atypical": {"negative_share": 0.0},
    "cube": {"geometry": "cube"},  # Sipple's negatives in the place of atypical ones
}
PAPER_FASHION = {
    "whole": (0.987, 0.998),
    "mirror": (0.653, 0.899),
    "simplex": (0.960, 0.998),
    "atypical": (0.894, 0.997),
    "cube": (0.824, None),
}
PAPER_MNIST = (0.986, 0.998, 0.882, 0.891, 0.894, 0.938, 0.981, 0.983, 0.876, 0.948)
PAPER_CIFAR = (0.752, 0.634, 0.696, 0.603, 0.733, 0.650, 0.658, 0.582, 0.754, 0.632)


@dataclasses.dataclass(frozen=True)
class Study:
    """A normal set, what counts as anomalous, and how AMA is trained."""

    name: str
    normal: str  # file
    classes: tuple[str, ...] = ()
    anomalies: tuple[str | None, ...] = (None,)  # file or name; None: the other classes
    few: int | None = None  # training images, when not all
    settings: Mapping[str, Any] = dataclasses.field(default_factory=lambda: FAST)
    published: tuple[float | None, ...] = (None,)

    def problems(self, data: Path) -> dict[str, Problem]:
        """One for each set of anomalies; they share the normal images."""
        return problems_of(data, self.normal, self.classes, self.anomalies)


def studies() -> Iterator[Study]:
    """All that are known."""
    for digit in range(10):
        own = (str(digit),)
        paper = (PAPER_MNIST[digit],)
        yield Study(f"mnist-{digit}", "mnist_full.npz", own, published=paper)
        yield Study(f"few-mnist-{digit}", "mnist_full.npz", own, few=450, published=paper)
    fashion = Study(
        "fashion",
        "fashion_mnist_full.npz",
        anomalies=("mnist_full.npz", "omniglot_small.npz"),
        published=PAPER_FASHION["whole"],
    )
    yield fashion
    for part, change in WITHOUT.items():
        game = {**GAME, **change}
        name = f"ablate-fashion-{part}"
        yield dataclasses.replace(fashion, name=name, settings=game, published=PAPER_FASHION[part])
        for digit in (2, 8):
            name = f"ablate-mnist-{digit}-{part}"
            yield Study(name, "mnist_full.npz", (str(digit),), settings=game)
    colour: dict[str, dict[str, Any]] = {
        "": {**FAST, "network": "small", "spectral_norm": False},
        "residual-": {**FAST, "network": "residual", "width": 0.125, "steps_per_epoch": 48},
    }
    noises = ("uniform-noise", "gaussian-noise", "tiny_imagenet.npz")
    for kind, settings in colour.items():
        for number in range(10):
            own, paper = (str(number),), (PAPER_CIFAR[number],)
            name = f"{kind}cifar-{number}"
            yield Study(name, "cifar10_12k.npz", own, settings=settings, published=paper)
        nothing = (None, None, None)
        yield Study(f"{kind}cifar", "cifar10_12k.npz", (), noises, None, settings, nothing)


STUDIES = {study.name: study for study in studies()}


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("studies", nargs="*", default=list(STUDIES), help=", ".join(STUDIES))
    parser.add_argument("--data", type=Path, required=True, help="folder with the npz files")
    parser.add_argument("--seeds", type=int, default=3, help="the last one")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/learning"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings")
    parser.add_argument("--draw", action="store_true", help="pictures of the first seed")
    parser.add_argument("--table", action="store_true", help="of what is there; train nothing")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.studies if name not in STUDIES]
    if unknown:
        parser.error(f"unknown study {unknown[0]}; known: {', '.join(STUDIES)}")
    torch.set_num_threads(arguments.threads)
    changes = given_settings(arguments.set)
    folder = folder_of(arguments.output, changes)
    if not arguments.table:
        # Seed by seed: whenever it is interrupted, as many problems as possible are compared.
        for seed in range(arguments.first_seed, arguments.seeds + 1):
            for name in arguments.studies:
                place = folder / f"{name}-seed{seed}"
                if not place.with_suffix(".json").exists():
                    train(STUDIES[name], seed, arguments.data, place, changes, arguments.draw)
    print(table(arguments.studies, arguments.seeds, folder))
    print(ablations(arguments.studies, arguments.seeds, folder))


def train(
    study: Study, seed: int, data: Path, place: Path, changes: dict[str, Any], draws: bool
) -> None:
    """Train one detector, score every anomaly set, and write what came out."""
    problems = study.problems(data)
    first = next(iter(problems.values()))
    images = first.train_images()
    if study.few is not None:
        images = images[: study.few]
    resident = torch.from_numpy(images)
    config = AMAConfig.from_dict({**study.settings, **changes})
    detector = AMA(config, first.image_shape, seed=seed)
    print(f"{study.name} seed {seed}: {first.describe()}", flush=True)

    began, losses = time.process_time(), {}
    for _ in range(config.epochs):
        losses = detector.train_epoch(resident)
    seconds = time.process_time() - began
    detector.calibrate(resident)
    arrays: dict[str, Any] = {}
    validation: dict[str, dict[str, float]] = {}
    for anomalies, problem in problems.items():
        sides = problem.validation_images()
        held_out = scores_by_side(detector, *sides)
        validation[anomalies] = {name: metrics.auroc(**held_out[name]) for name in SCORES}
        found = scores_by_side(detector, *problem.test_images())
        bounds = np.array([0, len(sides[1])])
        trivial = fit_baselines(images, *sides, bounds, "pooled")
        measured = score_baselines(trivial[:1], *problem.test_images())
        best = {f"baseline: {trivial[0].name}": measured[trivial[0].name]}
        for name, by_side in {**found, **best}.items():
            for side, values in by_side.items():
                arrays[f"{anomalies}/{name}/{side}"] = values.astype(np.float32)
    if draws and seed == 1:
        draw(study.name, detector, resident, problems, place.parent)
    np.savez_compressed(place.with_suffix(".npz"), **arrays)
    facts = {
        "config": detector.config.to_dict(),
        "counts": {**first.splits.counts(), "trained on": len(images)},
        "cpu_seconds": seconds,
        "losses": losses,
        "validation": validation,
    }
    place.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
    shown = {a: {n: round(v, 3) for n, v in s.items()} for a, s in validation.items()}
    print(f"  {seconds:.0f} CPU seconds, validation {shown}", flush=True)


def draw(
    name: str, detector: AMA, train: torch.Tensor, problems: dict[str, Problem], folder: Path
) -> None:
    """Pictures above their reconstructions, and the densities of R and RC."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    spread = train[:: max(1, len(train) // 1000)]
    sets, rows = {"training": spread}, []
    for anomalies, problem in problems.items():
        normal, anomaly = (torch.from_numpy(images) for images in problem.test_images())
        sets["test, normal"], sets[f"test, {anomalies}"] = normal[:1000], anomaly[:1000]
        for pictures in [anomaly[:12]] if rows else [normal[:12], anomaly[:12]]:
            rebuilt = detector.reconstruct(pictures)
            rows += [to_unit_range(pictures), pictures if rebuilt is None else rebuilt]
    found = {label: detector.scores(pictures) for label, pictures in sets.items()}
    for own, score in zip(axes, ("R", "RC"), strict=True):
        top = max(float(values[score].quantile(0.98)) for values in found.values())
        for label, values in found.items():
            bins = {"bins": 60, "range": (0, top), "density": True, "histtype": "step"}
            own.hist(values[score].numpy(), label=label, **bins)
        own.set(xlabel=score, ylabel="density", title=name)
    axes[0].legend()
    figure.savefig(folder / f"{name}-densities.png", dpi=110)
    pyplot.close(figure)
    save_image(torch.cat(rows) / 2 + 0.5, folder / f"{name}-reconstructions.png", nrow=12)


def table(names: Sequence[str], seeds: int, folder: Path) -> str:
    """What the records say, as Markdown."""
    lines = [
        "| normal | anomalies | seeds | A | R | AC | RC | by validation | baseline | paper | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[str, list[dict[str, float]]] = {}
    for name in names:
        places = [folder / f"{name}-seed{seed}.json" for seed in range(1, seeds + 1)]
        places = [place for place in places if place.exists()]
        if not places:
            continue
        records = [json.loads(place.read_text(encoding="utf-8")) for place in places]
        arrays = [dict(np.load(place.with_suffix(".npz"))) for place in places]
        seconds = statistics.fmean(record["cpu_seconds"] for record in records)
        for number, anomalies in enumerate(records[0]["validation"]):
            own = {name: _figures(arrays, anomalies, name) for name in SCORES}
            chosen = max(
                SCORES,
                key=lambda n: statistics.fmean(r["validation"][anomalies][n] for r in records),
            )
            trivial = next(
                key.removeprefix(f"{anomalies}/").rpartition("/")[0]
                for key in arrays[0]
                if key.startswith(f"{anomalies}/baseline: ")
            )
            baseline = _figures(arrays[:1], anomalies, trivial)
            published = STUDIES[name].published[number]
            lines.append(
                f"| {name} | {anomalies} | {len(places)} | "
                + " | ".join(_cell(own[score]) for score in SCORES)
                + f" | **{own[chosen].auroc:.3f}** {chosen} | {baseline.auroc:.3f} "
                f"{trivial.partition(': ')[2]} | {'' if published is None else published} | "
                f"{seconds:.0f} |"
            )
            row = {score: own[score].auroc for score in SCORES}
            row |= {"chosen": own[chosen].auroc, "baseline": baseline.auroc}
            groups.setdefault(name.rstrip("0123456789"), []).append(
                row | ({} if published is None else {"paper": published})
            )
    for group, rows in groups.items():
        if len(rows) > 1 and group.endswith("-"):
            mean = {k: statistics.fmean(row[k] for row in rows) for k in rows[0]}
            lines.append(
                f"| **mean of {len(rows)}** {group}* | | | "
                + " | ".join(f"{mean[score]:.3f}" for score in SCORES)
                + f" | **{mean['chosen']:.3f}** | {mean['baseline']:.3f} | "
                f"{mean.get('paper', float('nan')):.3f} | |"
            )
    return "\n".join(lines)


def ablations(names: Sequence[str], seeds: int, folder: Path) -> str:
    """The whole game's AUROC of A minus that without a part of it, as Markdown; p by Holm."""
    found = []
    for name in names:
        stem, _, part = name.rpartition("-")
        if not stem.startswith("ablate-") or part == "whole":
            continue
        both = [_arrays(one, seeds, folder) for one in (f"{stem}-whole", name)]
        if not all(both):
            continue
        for anomalies in sorted({key.partition("/")[0] for key in both[0][0]}):
            sides = [[_sides(one, anomalies, "A") for one in arrays] for arrays in both]
            found.append((stem, anomalies, part, len(both[1]), paired_difference(*sides)))
    if not found:
        return ""
    lines = [
        "",
        "| normal | anomalies | without | seeds | A, whole minus this | 95% interval | p |",
        "|---|---|---|---|---|---|---|",
    ]
    ps = holm([test.p for *_, test in found])
    for (stem, anomalies, part, count, test), p in zip(found, ps, strict=True):
        half = test.standard_error * (
            stats.t.ppf(0.975, test.degrees) if math.isfinite(test.degrees) else 1.96
        )
        lines.append(
            f"| {stem.removeprefix('ablate-')} | {anomalies} | {part} | {count} "
            f"| {test.difference:+.3f} | {test.difference - half:+.3f} to "
            f"{test.difference + half:+.3f} | {p:.3f} |"
        )
    return "\n".join(lines)


def _arrays(name: str, seeds: int, folder: Path) -> list[dict[str, np.ndarray]]:
    """The kept scores of a study's trainings, as far as they are there."""
    places = (folder / f"{name}-seed{seed}.npz" for seed in range(1, seeds + 1))
    return [dict(np.load(place)) for place in places if place.exists()]


def _sides(arrays: Mapping[str, np.ndarray], anomalies: str, score: str) -> dict[str, np.ndarray]:
    return {side: arrays[f"{anomalies}/{score}/{side}"] for side in ("normal", "anomaly")}


def _figures(arrays: Sequence[Mapping[str, np.ndarray]], anomalies: str, score: str) -> Any:
    return figures([_sides(one, anomalies, score) for one in arrays])


def _cell(one: Any) -> str:
    spread = "" if one.auroc_spread is None else f" ± {one.auroc_spread:.3f}"
    return f"{one.auroc:.3f}{spread} [{one.auroc_low:.3f}, {one.auroc_high:.3f}]"


if __name__ == "__main__":
    main()
