"""Magnetic tiles: a small set of factory pictures, searched with several methods and tested once.

    python benchmarks/tiles.py --data DATA/magnetic_tile --methods features deep-svdd
    python benchmarks/tiles.py --data DATA/magnetic_tile --beforehand
    python benchmarks/tiles.py --speed
    python benchmarks/tiles.py --memory 2000 --tile 256 --backbone random

300 pictures without a defect and 120 with one. What frozen features try and their defaults were
looked at on two thirds of the former and half of the latter; the test pictures of every split are
drawn from the rest (75 of 100 and 45 of 60), all others are for training and validation. Of each
split a method is searched with the same number of trials, chosen by 50 defects, learnt anew with
its best settings and with its defaults, and scores the test pictures once; beside it what needs no
detector, its side and components chosen by the same 50 defects. Results are kept in `--output`:
called again, it goes on where it stopped.

`--speed` takes the time to score a colour picture of 256 x 256, with a coreset of 10,000 patches
or Gaussians, on one core, in seconds of that core, so that other processes matter little.
`--beforehand` compares settings on the pictures that no test draws: 150 normal ones to learn from,
50 and 60 defects to compare by, three draws. `--memory` learns from so many generated grey pictures
of 1,024 x 1,024, scores twenty, and says the most memory that the process held up to then.
"""

import argparse
import json
import platform
import random
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import scores_by_side

from amatune import metrics
from amatune.cluster import connection
from amatune.cluster.job import Images
from amatune.data.feature_cache import FeatureCache
from amatune.data.pictures import Pixels, read_pictures
from amatune.detector import Detector, to_unit_range
from amatune.detectors.features import Features, FeaturesConfig
from amatune.export.onnx import onnx_bytes
from amatune.export.runtime import open_session
from amatune.registry import Method, find_method
from amatune.results.baselines import fit_baselines, score_baselines
from amatune.results.objective import best_score
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest
from amatune.tuning import study
from amatune.tuning.options import SearchOptions, budgeted, with_options
from amatune.tuning.search import run_search

BASELINES = ("mean brightness", "PCA")
# What a CPU cannot afford, or what the pictures decide, is held fixed.
OPTIONS: dict[str, SearchOptions] = {
    "features": {"fix": {"scale": 1.0}},
    "deep-svdd": {"epochs": 60, "fix": {"batch_size": 64, "pretrain": 0.3}},
    "ama": {"steps": 400, "width": 0.25},
    "alad": {"epochs": 40, "width": 0.125},
}
Part = dict[str, list[Path]]  # "normal", "defect" -> pictures


def split(data: Path, seed: int) -> tuple[Part, Part]:
    """The pictures to learn and choose from, and those of the test."""
    rest: Part = {}
    test: Part = {}
    for name, untried, share in (
        ("normal", slice(0, None, 3), 75),
        ("defect", slice(1, None, 2), 45),
    ):
        files = sorted((data / name).glob("*.png"))
        untouched = files[untried]
        test[name] = sorted(random.Random(seed).sample(untouched, share))
        rest[name] = [file for file in files if file not in set(test[name])]
    return rest, test


def folder(part: Part, tests: Part, home: Path) -> Path:
    """Both as the folders that a search reads: train/ to learn and choose from, test/ unread."""
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        for name in part:
            for place, files in (("train", part[name]), ("test", tests[name])):
                (home / name / place).mkdir(parents=True)
                for file in files:
                    shutil.copy(file, home / name / place / file.name)
        (home / "complete").touch()
    return home


def auroc(scores: dict[str, Any]) -> dict[str, float]:
    """Test AUROC with its 95% interval."""
    low, high = metrics.delong_interval(scores["normal"], scores["anomaly"])
    area = metrics.auroc(scores["normal"], scores["anomaly"])
    return {"auroc": area, "low": low, "high": high}


def learn(method: Method, config: Any, images: Images, store: FeatureCache) -> Detector:
    """A detector of one configuration, calibrated."""
    channels, height, width = images.train.shape[1:]
    detector = method.detector(config, (channels, height, width))
    if hasattr(detector, "store"):
        detector.store = store
    train = torch.tensor(images.train)
    for _ in range(config.epochs):
        detector.train_epoch(train)
    detector.calibrate(train)
    return detector


def tested(detector: Detector, images: Images, test: dict[str, Pixels]) -> dict[str, Any]:
    """The score that validation images prefer, and what it is worth on the test pictures."""

    on_validation = scores_by_side(detector, images.normal, images.anomaly)
    validation = {name: metrics.auroc(**sides) for name, sides in on_validation.items()}
    name = best_score(validation) if detector.chooses_score else detector.primary_score
    on_test = scores_by_side(detector, test["normal"], test["defect"])[name]
    return {"score": name, "validation": validation[name], **auroc(on_test)}


def measure(method: Method, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One split: search, learn anew, test; kept in a file. Exits where one of other options is."""
    own = OPTIONS.get(method.name, {})
    name = f"{method.name}-{arguments.trials}-trials-{seed}"
    file = arguments.output / f"{name}.json"
    if file.exists():
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if kept["options"] != own:
            raise SystemExit(f"{file} is of {kept['options']}, not of {own}: name another --output")
        return kept
    home = folder(*split(arguments.data, seed), arguments.output / f"split-{seed}")
    options: SearchOptions = {
        "dataset": f"folder:{home / 'normal'}",
        "ood": f"folder:{home / 'defect'}",
        "method": method.name,
        "trials": arguments.trials,
        "seed": seed,
        "name": name,
        "runs_dir": arguments.output,
        **own,
    }
    request = with_options(SearchRequest(), budgeted(options))
    run = RunFolder(arguments.output / name)
    began = time.monotonic()
    outcome = run_search(request, resume=run.run_json.exists())
    if outcome.ending == "interrupted":
        raise SystemExit(130)  # called again, it goes on
    seconds = time.monotonic() - began

    record = run.record()
    problem = record.open_problem()
    images = Images.of(problem)
    best = study.full_trials(study.open_study(run))[0]
    store = FeatureCache.default()
    shape = record.image_shape
    files = {name: sorted((home / name / "test").iterdir()) for name in ("normal", "defect")}
    test = {name: read_pictures(paths, shape)[0] for name, paths in files.items()}
    result: dict[str, Any] = {"seconds": seconds, "shape": shape, "settings": dict(best.params)}
    result["options"] = own
    for which, settings in (("searched", best.params), ("defaults", {})):
        config = record.configuration(method, {**settings, **request.fixed})
        result[which] = tested(learn(method, config, images, store), images, test)
    fitted = fit_baselines(images.train, images.normal, images.anomaly, images.bounds, "pooled")
    scored = score_baselines(fitted, test["normal"], test["defect"])
    result |= {name: auroc(scored[name]) for name in BASELINES}
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def table(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A row for each method, its defaults, and what needs no detector."""
    lines = ["| | test AUROC, each split with its 95% interval | mean | search, s |"]
    lines.append("|---|---|---|---|")

    def row(name: str, parts: list[dict[str, float]], seconds: str) -> None:
        each = "; ".join(f"{p['auroc']:.3f} ({p['low']:.3f} to {p['high']:.3f})" for p in parts)
        mean = statistics.fmean(part["auroc"] for part in parts)
        lines.append(f"| {name} | {each} | {mean:.3f} | {seconds} |")

    for name, splits in results.items():
        spent = statistics.fmean(one["seconds"] for one in splits)
        row(f"{name}, searched", [one["searched"] for one in splits], f"{spent:.0f}")
        row(f"{name}, its defaults", [one["defaults"] for one in splits], "")
    for name, splits in results.items():
        side = splits[0]["shape"][1]
        for baseline in BASELINES:
            at = f"{baseline} at {side} x {side}, as {name} sees them"
            row(at, [one[baseline] for one in splits], "")
    return lines


def speed() -> list[str]:
    """What the network, the whole score of one picture, and both and a map by ONNX Runtime take."""
    learnt = torch.randint(0, 256, (8, 3, 256, 256), dtype=torch.uint8)
    asked = np.ascontiguousarray(learnt[:1].permute(0, 2, 3, 1).numpy())
    picture = to_unit_range(learnt[:1])
    lines = ["| model | layers | dims | network, ms | all, ms | ONNX Runtime, ms |"]
    lines.append("|---|---|---|---|---|---|")
    for settings in (
        {"model": "gaussians"},
        {"model": "coreset"},
        {"model": "coreset", "dims": 64},
        {"model": "coreset", "layers": "3"},
    ):
        config = FeaturesConfig.from_dict({"resolution": 256, **settings})
        detector = Features(config, (3, 256, 256))
        detector.train_epoch(learnt)
        config = detector.config
        if config.model == "coreset":
            detector.memory = torch.randn(10_000, detector.projection.shape[1])
        detector.calibrate(learnt)
        scorer: Any = detector.raw_scorer()
        session = open_session(onnx_bytes(detector), threads=1)
        network = milliseconds(partial(scorer.sight, picture))
        whole = milliseconds(partial(scorer, picture))
        other = milliseconds(partial(session.run, None, {session.get_inputs()[0].name: asked}))
        named = f"{config.model} | {config.layers} | {config.dims or 'all'}"
        lines.append(f"| {named} | {network:.0f} | {whole:.0f} | {other:.0f} |")
    return lines


TRIED: dict[str, dict[str, Any]] = {
    "coreset": {"model": "coreset"},
    "coreset, 100 dims": {"model": "coreset", "dims": 100},
    "coreset, 64 dims": {"model": "coreset", "dims": 64},
    "coreset, layers 3": {"model": "coreset", "layers": "3"},
    "gaussians": {"model": "gaussians"},
    "gaussians, 64 dims": {"model": "gaussians", "dims": 64},
    "gaussians, neighbourhood 3": {"model": "gaussians", "neighbourhood": 3},
    "gaussians, all dims": {"model": "gaussians", "dims": 152},
    "mean": {"model": "mean"},
}


def beforehand(data: Path) -> list[str]:
    """AUROC of `max` by settings, on pictures that no test draws: the mean of three draws."""
    shape = (1, 128, 128)
    normal = sorted((data / "normal").glob("*.png"))
    defects = sorted((data / "defect").glob("*.png"))[::2]
    untested = [file for place, file in enumerate(normal) if place % 3]
    good, bad = (torch.tensor(read_pictures(files, shape)[0]) for files in (untested, defects))
    lines = ["| settings | AUROC of three draws | mean |", "|---|---|---|"]
    for name, settings in TRIED.items():
        found = []
        for seed in range(3):
            order = random.Random(seed).sample(range(len(good)), len(good))
            learnt, held = good[order[:150]], good[order[150:]]
            detector = Features(FeaturesConfig.from_dict(settings), shape, seed=seed)
            detector.store = FeatureCache.default()
            detector.train_epoch(learnt)
            detector.calibrate(learnt)
            sides = (detector.scores(side)["max"].numpy() for side in (held, bad))
            found.append(metrics.auroc(*sides))
        each = ", ".join(f"{one:.3f}" for one in found)
        lines.append(f"| {name} | {each} | {statistics.fmean(found):.3f} |")
    return lines


def memory(count: int, tile: int | None, backbone: str) -> list[str]:
    """The most memory held so far, after each step, on Linux."""

    def held() -> str:
        return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"

    lines = [f"started: {held()}"]
    pictures = torch.empty(count, 1, 1024, 1024, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    for picture in pictures:
        small = torch.randint(0, 256, (1, 1, 64, 64), generator=generator).float()
        picture[:] = torch.nn.functional.interpolate(small, 1024, mode="bilinear")[0].byte()
    lines.append(f"{count} pictures, {pictures.nbytes / 2**30:.2f} GiB: {held()}")
    settings = {"backbone": backbone, "tile": tile}
    detector = Features(FeaturesConfig.from_dict(settings), (1, 1024, 1024))
    detector.train_epoch(pictures)
    lines.append(f"learnt: {held()}")
    some = pictures[:20]
    detector.calibrate(some)
    detector.scores(some)
    detector.pixel_map(some)
    return [*lines, f"scored and mapped: {held()}"]


def milliseconds(call: Callable[[], Any]) -> float:
    """The median CPU time of a call, of nine after the first."""
    times = []
    with torch.inference_mode():
        for _ in range(10):
            began = time.process_time()
            call()
            times.append(time.process_time() - began)
    return 1000 * statistics.median(times[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with normal and defect")
    parser.add_argument("--speed", action="store_true", help="time the scoring of a picture")
    parser.add_argument("--beforehand", action="store_true", help="compare settings")
    parser.add_argument("--memory", type=int, metavar="N", help="learn from N large pictures")
    parser.add_argument("--tile", type=int, metavar="PIXELS", help="of --memory")
    parser.add_argument("--backbone", default="efficientnet-lite0", help="of --memory")
    parser.add_argument("--methods", nargs="+", default=["features"])
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("runs/tiles"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.speed:
        print(*speed(), sep="\n")
        return
    if arguments.memory:
        print(*memory(arguments.memory, arguments.tile, arguments.backbone), sep="\n")
        return
    if arguments.data is None:
        parser.error("--data must name the folder with normal and defect")
    if arguments.beforehand:
        print(*beforehand(arguments.data), sep="\n")
        return
    arguments.data, arguments.output = arguments.data.resolve(), arguments.output.resolve()
    arguments.output.mkdir(parents=True, exist_ok=True)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "optuna"))
    print(f"{platform.machine()}, {versions}; {arguments.trials} trials", flush=True)
    results: dict[str, list[dict[str, Any]]] = {}
    with connection.cluster(None, arguments.output / "ray.txt"):  # one for all searches
        for name in arguments.methods:
            method = find_method(name)
            results[name] = []
            for seed in range(arguments.splits):
                results[name].append(measure(method, seed, arguments))
                print(f"{name}, split {seed}: {results[name][-1]}", flush=True)
    print("", *table(results), sep="\n", flush=True)


if __name__ == "__main__":
    main()
