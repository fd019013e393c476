"""Do likelihoods detect? The likelihood ratio, the S score and typicality beside what needs none.

    python benchmarks/likelihood.py --data ../shared/data                      # Fashion-MNIST
    python benchmarks/likelihood.py --data ../shared/data fashion mnist-8 cifar --seeds 1
    python benchmarks/likelihood.py --data ../shared/data --method typicality --steps 3000
    python benchmarks/likelihood.py --data ../shared/data --steps 1500 --validation

The data folder holds mnist_full.npz, fashion_mnist_full.npz, omniglot_small.npz, cifar10_12k.npz
and tiny_imagenet.npz (keys train_images, train_labels, test_images, test_labels), those of a
problem at least. Of each seed the two densities of the likelihood ratio are trained; the density of
S is its foreground: trained alone with the same settings it is the same network, and a training is
the most expensive part. All compressors that are installed are tried. A density is scored on every
anomaly set of its problem; typicality also on groups of 2, 5 and 10 test images.

With `--validation` settings can be compared: the test part is not looked at. Without it, that is
scored once per training. A training that is interrupted goes on from its last epoch, and one whose
record is there is not repeated; what is trained with `--set`, `--steps` or `--most` is kept in a
folder of its own. Histograms of the scores are drawn beside the records.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Scores, folder_of, given_settings, problems_of, scores_by_side
from matplotlib import pyplot

from amatune import metrics
from amatune.data.problem import Problem
from amatune.detector import Detector, evenly_spaced, to_unit_range
from amatune.detectors.likelihood_ratio import LikelihoodRatio
from amatune.detectors.s_score import SScore, SScoreConfig
from amatune.detectors.typicality import Typicality
from amatune.errors import RequestError
from amatune.nets.compressors import COMPRESSORS, CompressorName, compressed_bits, version_of
from amatune.nets.pixelcnn import PixelCNNConfig
from amatune.results.baselines import fit_baselines, score_baselines
from amatune.results.groups import group_figures
from amatune.results.leaderboard import figures

# File and classes that are normal, and files or names of what is not; None: the other classes.
PROBLEMS: dict[str, tuple[str, tuple[str, ...], tuple[str | None, ...]]] = {
    "fashion": ("fashion_mnist_full.npz", (), ("mnist_full.npz", "omniglot_small.npz")),
    **{f"mnist-{digit}": ("mnist_full.npz", (str(digit),), (None,)) for digit in range(10)},
    "cifar": ("cifar10_12k.npz", (), ("uniform-noise", "gaussian-noise", "tiny_imagenet.npz")),
}
METHODS: dict[str, type[Detector]] = {"ratio": LikelihoodRatio, "typicality": Typicality}
GROUPS = (2, 5, 10)  # images judged together
SIDES = ("normal", "anomaly")
EPOCHS = 25  # slices of the training


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problems", nargs="*", default=["fashion"], help=", ".join(PROBLEMS))
    parser.add_argument("--data", type=Path, required=True, help="folder with the npz files")
    parser.add_argument("--method", choices=METHODS, default="ratio")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="by default the method's usual number")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/likelihood"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings")
    parser.add_argument("--most", type=int, help="test images of each kind, when not all")
    parser.add_argument("--validation", action="store_true", help="do not look at test images")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.problems if name not in PROBLEMS]
    if unknown:
        parser.error(f"unknown problem {unknown[0]}; known: {', '.join(PROBLEMS)}")
    torch.set_num_threads(arguments.threads)
    method = METHODS[arguments.method]
    changes = given_settings(arguments.set)
    asked = {"steps in all": arguments.steps, "most": arguments.most}
    others = {name: number for name, number in asked.items() if number is not None}
    folder = folder_of(arguments.output, changes | others)
    steps = arguments.steps or method.usual_steps
    settings = changes | {"epochs": EPOCHS, "steps_per_epoch": -(-steps // EPOCHS)}
    most = 0 if arguments.validation else arguments.most or 10**6
    seeds = range(1, arguments.seeds + 1)
    for name in arguments.problems:
        places = [folder / f"{name}-{arguments.method}-seed{seed}" for seed in seeds]
        problems = problems_of(arguments.data, *PROBLEMS[name])
        for anomalies, problem in problems.items():
            print(f"{name}, {anomalies}: {problem.describe()}", flush=True)
        for seed, place in zip(seeds, places, strict=True):
            if not place.with_suffix(".json").exists():
                shape = next(iter(problems.values())).image_shape
                detector = method(method.Config.from_dict(settings), shape, seed=seed)
                measure(problems, detector, place, most)
        print(table(places))


def measure(problems: Mapping[str, Problem], detector: Detector, place: Path, most: int) -> None:
    """Train, score at most so many test images of each kind, and write it."""
    images = next(iter(problems.values())).train_images()
    resident = torch.from_numpy(images)
    record = train(detector, resident, place)
    record |= {"config": detector.config.to_dict(), "sets": {}}
    arrays: dict[str, np.ndarray] = {}
    for anomalies, problem in problems.items():
        own: dict[str, Any] = {}
        sides = problem.validation_images()
        validation = scored(detector, *sides)
        own["validation"] = {name: metrics.auroc(**scores) for name, scores in validation.items()}
        own["bits"] = {side: float(v.mean()) for side, v in validation["nll"].items()}
        shown = {name: round(value, 3) for name, value in own["validation"].items()}
        print(f"{anomalies}: validation {shown}", flush=True)
        bounds = np.array([0, len(sides[1])])
        trivial = fit_baselines(images, *sides, bounds, "pooled")
        own["baselines"] = {one.name: one.validation_auroc for one in trivial}
        drawn = place.with_name(f"{place.name}-{anomalies.replace(' ', '-')}")
        if not most:
            draw(validation, drawn)
            continue
        began = time.process_time()
        tested = [evenly_spaced(torch.from_numpy(s), most).numpy() for s in problem.test_images()]
        found = scored(detector, *tested)
        own["tested"] = [len(side) for side in tested]
        own["scoring_seconds"] = time.process_time() - began
        if isinstance(detector, Typicality):
            own["groups"] = in_groups(validation["nll"], found["nll"])
        for name, scores in score_baselines(trivial, *tested).items():
            found[f"baseline: {name}"] = scores
        draw(found, drawn)
        record["sets"][anomalies] = own
        for name, by_side in found.items():
            for side, values in by_side.items():
                arrays[f"{anomalies}/{name}/{side}"] = values.astype(np.float32)
    if most:
        np.savez_compressed(place.with_suffix(".npz"), **arrays)
        place.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")


def train(detector: Detector, images: torch.Tensor, place: Path) -> dict[str, Any]:
    """All epochs that are left, each saved; what they cost and how they ended."""
    saved = place.with_suffix(".state")
    record: dict[str, Any] = {"cpu_seconds": 0.0, "losses": {}}
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        record = {name: state.pop(name) for name in record}
        detector.load_state_dict(state)
    while detector.epoch < detector.config.epochs:
        began = time.process_time()
        record["losses"] |= detector.train_epoch(images)
        record["cpu_seconds"] += time.process_time() - began
        torch.save({**detector.state_dict(), **record}, saved)
        told = ", ".join(f"{name} {value:.3f}" for name, value in record["losses"].items())
        print(f"epoch {detector.epoch}: {told}, {record['cpu_seconds']:.0f} CPU s", flush=True)
    detector.calibrate(images)
    return record


def scored(detector: Detector, normal: np.ndarray, anomaly: np.ndarray) -> Scores:
    """Every score of the detector; with the ratio, also of S by every compressor."""
    found = scores_by_side(detector, normal, anomaly)
    if not isinstance(detector, LikelihoodRatio):
        return found
    sides = {"normal": torch.from_numpy(normal), "anomaly": torch.from_numpy(anomaly)}
    for name in COMPRESSORS:
        if not installed(name):
            continue
        bits = {side: sizes(images, name) for side, images in sides.items()}
        found[f"s, {name}"] = {side: found["nll"][side] - bits[side] for side in sides}
        found[f"simplicity, {name}"] = {side: -bits[side] for side in sides}
    agrees(detector, found, sides["anomaly"][:20])
    return found


def in_groups(
    held_out: Mapping[str, np.ndarray], tested: Mapping[str, np.ndarray]
) -> dict[str, list[float]]:
    """By size of the groups: AUROC of typicality, and the shares rejected at 1% and 5%."""
    judged = {
        size: group_figures(held_out["normal"], tested["normal"], tested["anomaly"], size)
        for size in GROUPS
    }
    return {str(n): [one.auroc, *one.rejected.values()] for n, one in judged.items()}


def sizes(images: torch.Tensor, name: CompressorName) -> np.ndarray:
    """-simplicity of uint8 images (N, C, H, W), without a density."""
    return compressed_bits(name, to_unit_range(images)).numpy()


def agrees(detector: LikelihoodRatio, found: Scores, images: torch.Tensor) -> None:
    """Raise unless the method `s-score` gives these scores too."""
    known = PixelCNNConfig.__dataclass_fields__
    own = {name: value for name, value in detector.config.to_dict().items() if name in known}
    method = SScore(SScoreConfig.from_dict(own), detector.image_shape)
    method.density.load_state_dict(detector.foreground.state_dict())
    method.is_calibrated = True
    np.testing.assert_allclose(
        method.score(images).numpy(), found["s, webp"]["anomaly"][: len(images)], atol=1e-4
    )


def installed(name: CompressorName) -> bool:
    """Whether a compressor can be used here."""
    try:
        version_of(name)
    except RequestError:
        return False
    return True


def draw(found: Scores, place: Path) -> None:
    """Histograms of every score that is no baseline."""
    names = [name for name in found if not name.startswith("baseline")]
    figure, axes = pyplot.subplots(
        -(-len(names) // 4), 4, figsize=(14, 2.6 * -(-len(names) // 4)), layout="constrained"
    )
    for name, own in zip(names, axes.flat, strict=False):
        both = np.concatenate(list(found[name].values()))
        ends = tuple(np.quantile(both, [0.002, 0.998]))
        for side, values in found[name].items():
            own.hist(values, bins=60, range=ends, density=True, histtype="step", label=side)
        own.set(title=f"{name}: {metrics.auroc(**found[name]):.3f}")
    axes.flat[0].legend()
    figure.savefig(place.with_suffix(".png"), dpi=90)
    pyplot.close(figure)


def table(places: Sequence[Path]) -> str:
    """What the records say, as Markdown."""
    places = [place for place in places if place.with_suffix(".json").exists()]
    if not places:
        return "no training has been tested"
    records = [json.loads(place.with_suffix(".json").read_text("utf-8")) for place in places]
    arrays = [dict(np.load(place.with_suffix(".npz"))) for place in places]
    lines = []
    for anomalies in records[0]["sets"]:
        own = [record["sets"][anomalies] for record in records]
        inside, outside = (statistics.fmean(r["bits"][side] for r in own) for side in SIDES)
        lines += [
            f"Against {anomalies}, {' + '.join(map(str, own[0]['tested']))} test images; "
            f"{inside:.2f} bits per dimension of normal validation images, {outside:.2f} of "
            "others:",
            "",
            "| score | validation AUROC | test AUROC | 95% interval |",
            "|---|---|---|---|",
        ]
        mine = [
            {k.removeprefix(f"{anomalies}/"): v for k, v in one.items() if k.startswith(anomalies)}
            for one in arrays
        ]
        for name in dict.fromkeys(key.rpartition("/")[0] for key in mine[0]):
            plain = name.removeprefix("baseline: ")
            chosen = [{**r["validation"], **r["baselines"]}[plain] for r in own]
            seeds = mine[:1] if plain != name else mine  # a baseline has no seed
            lines.append(_row(name, statistics.fmean(chosen), seeds))
        for size in own[0].get("groups", {}):
            means = [statistics.fmean(r["groups"][size][i] for r in own) for i in range(3)]
            lines.append(
                f"| typicality of {size} images | | {means[0]:.3f} | rejected at 1% and 5%: "
                f"{means[1]:.3f}, {means[2]:.3f} |"
            )
        lines.append("")
    cost = statistics.fmean(record["cpu_seconds"] for record in records)
    scoring = statistics.fmean(
        sum(own["scoring_seconds"] for own in record["sets"].values()) for record in records
    )
    lines.append(
        f"{len(records)} seeds; {cost / 60:.1f} CPU minutes a training, {scoring / 60:.1f} the "
        "scores of the test images."
    )
    return "\n".join(lines)


def _row(name: str, validation: float, arrays: Sequence[Mapping[str, np.ndarray]]) -> str:
    one = figures([{side: own[f"{name}/{side}"] for side in SIDES} for own in arrays])
    spread = "" if one.auroc_spread is None else f" ± {one.auroc_spread:.3f}"
    interval = f"{one.auroc_low:.3f} to {one.auroc_high:.3f}"
    return f"| {name} | {validation:.3f} | {one.auroc:.3f}{spread} | {interval} |"


if __name__ == "__main__":
    main()
