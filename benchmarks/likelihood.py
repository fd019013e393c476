"""Do likelihoods detect? The likelihood ratio and the S score beside what needs no density.

    python benchmarks/likelihood.py --data ../shared/data                      # Fashion-MNIST
    python benchmarks/likelihood.py --data ../shared/data --steps 1500 --validation

The data folder holds fashion_mnist_full.npz and mnist_full.npz (keys train_images, train_labels,
test_images, test_labels). Of each seed the two densities of the likelihood ratio are trained; the
density of S is its foreground: trained alone with the same settings it is the same network, and a
training is the most expensive part. All compressors that are installed are tried.

With `--validation` settings can be compared: the test part is not looked at. Without it, that is
scored once per training. A training that is interrupted goes on from its last epoch, and one whose
record is there is not repeated. Histograms of the scores are drawn beside the records.
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
from matplotlib import pyplot

from amatune import metrics
from amatune.data.problem import Problem
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.detector import evenly_spaced, to_unit_range
from amatune.detectors.likelihood_ratio import LikelihoodRatio, LikelihoodRatioConfig
from amatune.detectors.s_score import SScore, SScoreConfig
from amatune.errors import RequestError
from amatune.nets.compressors import COMPRESSORS, CompressorName, compressed_bits, version_of
from amatune.nets.pixelcnn import PixelCNNConfig
from amatune.results.baselines import fit_baselines, score_baselines
from amatune.results.leaderboard import figures

FILES = ("fashion_mnist_full.npz", "mnist_full.npz")  # what is normal, and what is not
SIDES = ("normal", "anomaly")
EPOCHS = 25  # slices of the training
Scores = dict[str, dict[str, np.ndarray]]  # name -> {"normal", "anomaly"} -> (N,)


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the npz files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=LikelihoodRatio.usual_steps)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/likelihood"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings")
    parser.add_argument("--most", type=int, default=10**6, help="test images of each kind")
    parser.add_argument("--validation", action="store_true", help="do not look at test images")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    settings = {name: json.loads(value) for name, value in (s.split("=", 1) for s in arguments.set)}
    settings |= {"epochs": EPOCHS, "steps_per_epoch": -(-arguments.steps // EPOCHS)}
    config = LikelihoodRatioConfig.from_dict(settings)
    normal, other = (f"npz:{arguments.data / name}" for name in FILES)
    problem = make_problem(ProblemRequest(dataset=normal, ood=(other,)))
    print(problem.describe(), flush=True)
    for seed in range(1, arguments.seeds + 1):
        place = arguments.output / f"fashion-seed{seed}"
        if not place.with_suffix(".json").exists():
            most = 0 if arguments.validation else arguments.most
            measure(problem, config, seed, place, most)
    print(table([arguments.output / f"fashion-seed{n}" for n in range(1, arguments.seeds + 1)]))


def measure(
    problem: Problem, config: LikelihoodRatioConfig, seed: int, place: Path, most: int
) -> None:
    """Train both densities, score at most so many test images of each kind, and write it."""
    images = problem.train_images()
    resident = torch.from_numpy(images)
    detector = LikelihoodRatio(config, problem.image_shape, seed=seed)
    record = train(detector, resident, place)
    sides = problem.validation_images()
    validation = scored(detector, *sides)
    record["validation"] = {name: metrics.auroc(**scores) for name, scores in validation.items()}
    record["bits"] = {side: float(v.mean()) for side, v in validation["nll"].items()}
    record["config"] = detector.config.to_dict()
    shown = {name: round(value, 3) for name, value in record["validation"].items()}
    print(f"validation {shown}", flush=True)
    bounds = np.array([0, len(sides[1])])
    trivial = fit_baselines(images, *sides, bounds, "pooled")
    record["baselines"] = {one.name: one.validation_auroc for one in trivial}
    if not most:
        draw(validation, place)
        return
    began = time.process_time()
    tested = [evenly_spaced(torch.from_numpy(s), most).numpy() for s in problem.test_images()]
    found = scored(detector, *tested)
    record["tested"] = [len(side) for side in tested]
    record["scoring_seconds"] = time.process_time() - began
    for name, scores in score_baselines(trivial, *tested).items():
        found[f"baseline: {name}"] = scores
    draw(found, place)
    arrays = {
        f"{n}/{side}": v.astype(np.float32) for n, s in found.items() for side, v in s.items()
    }
    np.savez_compressed(place.with_suffix(".npz"), **arrays)
    place.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")


def train(detector: LikelihoodRatio, images: torch.Tensor, place: Path) -> dict[str, Any]:
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


def scored(detector: LikelihoodRatio, normal: np.ndarray, anomaly: np.ndarray) -> Scores:
    """Every score of the likelihood ratio, and of S by every compressor."""
    sides = {"normal": torch.from_numpy(normal), "anomaly": torch.from_numpy(anomaly)}
    by_side = {side: detector.scores(images) for side, images in sides.items()}
    found = {n: {s: by_side[s][n].numpy() for s in sides} for n in detector.score_names}
    for name in COMPRESSORS:
        if not installed(name):
            continue
        bits = {side: sizes(images, name) for side, images in sides.items()}
        found[f"s, {name}"] = {side: found["nll"][side] - bits[side] for side in sides}
        found[f"simplicity, {name}"] = {side: -bits[side] for side in sides}
    agrees(detector, found, sides["anomaly"][:20])
    return found


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
    lines = ["| score | validation AUROC | test AUROC | 95% interval |", "|---|---|---|---|"]
    for name in dict.fromkeys(key.rpartition("/")[0] for key in arrays[0]):
        plain = name.removeprefix("baseline: ")
        chosen = [{**r["validation"], **r["baselines"]}[plain] for r in records]
        seeds = arrays[:1] if plain != name else arrays  # a baseline has no seed
        lines.append(_row(name, statistics.fmean(chosen), seeds))
    cost = statistics.fmean(record["cpu_seconds"] for record in records)
    scoring = statistics.fmean(record["scoring_seconds"] for record in records)
    inside, outside = (statistics.fmean(r["bits"][side] for r in records) for side in SIDES)
    lines += [
        "",
        f"{len(records)} seeds, tested on {' + '.join(map(str, records[0]['tested']))} images; "
        f"{cost / 60:.1f} CPU minutes a training of both densities, {scoring / 60:.1f} the scores "
        f"of the test images; {inside:.2f} bits per dimension of "
        f"normal validation images, {outside:.2f} of anomalous ones.",
    ]
    return "\n".join(lines)


def _row(name: str, validation: float, arrays: Sequence[Mapping[str, np.ndarray]]) -> str:
    one = figures([{side: own[f"{name}/{side}"] for side in SIDES} for own in arrays])
    spread = "" if one.auroc_spread is None else f" ± {one.auroc_spread:.3f}"
    interval = f"{one.auroc_low:.3f} to {one.auroc_high:.3f}"
    return f"| {name} | {validation:.3f} | {one.auroc:.3f}{spread} | {interval} |"


if __name__ == "__main__":
    main()
