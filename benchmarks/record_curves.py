"""Train random settings of three methods on three problems, and keep every score's learning curve.

    python benchmarks/record_curves.py --data ../shared/data --work runs/curves
    python benchmarks/record_curves.py --work runs/curves --pack

Problems: the embedded digits, 0 to 4 normal; the digit 8 of MNIST against the others; Fashion-MNIST
against MNIST; all at 16 x 16 pixels. Methods: AMA at an eighth of its width, Deep SVDD at a half
and ALAD at a sixteenth, trained for 250, 300 or (AMA) 1,000 steps that are looked at 25 times, as a
search does.
The first setting of each is the default, the others are drawn from the method's search space, and
one in five of all is trained again from another seed, for the noise.

A look keeps every loss and the AUROC of every score by 50 + 50 validation images; the last three
looks also that by a few hundred others of the training part. The test part is never opened. The
work folder gets a line per training; called again, it goes on where it stopped. `--pack` writes
them to `curves.npz`, which `efficiency.py` replays; what is in it of other problems and methods
stays.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import torch
from torch import Tensor

from amatune import metrics
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.detector import evenly_spaced
from amatune.errors import DivergedError
from amatune.registry import Method, find_method
from amatune.tuning.spaces import settings_to_try

CURVES = Path(__file__).parent / "curves.npz"
REPORTS = 25
METHODS = ("ama", "deep-svdd", "alad")
STEPS = {"ama": 40, "deep-svdd": 12, "alad": 10}  # between two looks
HELD: dict[str, dict[str, Any]] = {
    "ama": {"width": 0.125},
    "deep-svdd": {"width": 0.5, "batch_size": 32},
    "alad": {"width": 0.0625},
}
PROBLEMS = ("digits", "mnist-8", "fashion")
SIZE = 16  # pixels a side
TRAINED, VALIDATED, DEVELOPED = 1000, 50, 300  # images at most
LAST = 3  # looks that the development images are scored at
REPEATED = 5  # every so many-th setting is trained twice
CALIBRATED = 256  # training images at a look


class Images(NamedTuple):
    """Of a problem, uint8 (N, 1, H, W) each."""

    train: Tensor
    validation: tuple[Tensor, Tensor]  # normal, anomalous
    development: tuple[Tensor, Tensor]


def images_of(name: str, data: Path | None) -> Images:
    """The images of a problem; the validation anomalies asked for are split into two sets."""
    folder = (data or Path()).resolve()
    files = {n: f"npz:{folder / n}_full.npz" for n in ("mnist", "fashion_mnist")}
    request: dict[str, Any] = {
        "digits": {"dataset": "digits"},
        "mnist-8": {"dataset": files["mnist"], "normal_classes": ("8",)},
        "fashion": {"dataset": files["fashion_mnist"], "ood": (files["mnist"],)},
    }[name]
    wanted = VALIDATED + DEVELOPED
    problem = make_problem(ProblemRequest(**request, image_size=SIZE, val_anomalies=wanted))
    random = np.random.default_rng(0)

    def shuffled(images: np.ndarray) -> Tensor:
        return torch.from_numpy(images[random.permutation(len(images))])

    normal, anomalous = map(shuffled, problem.validation_images())
    train = shuffled(problem.train_images())
    held_back = min(DEVELOPED, len(train) // 3)
    return Images(
        train[held_back:][:TRAINED],
        (normal[:VALIDATED], anomalous[:VALIDATED]),
        (train[:held_back], anomalous[VALIDATED:]),
    )


def settings_of(method: Method, count: int) -> list[dict[str, Any]]:
    """The default settings, then drawn ones."""
    config = method.detector.Config.from_dict({**HELD[method.name], "epochs": REPORTS})
    default = config.resolve((1, SIZE, SIZE))
    drawn = [settings_to_try(method.space, {}, default, HELD[method.name])]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn += [dict(method.space(study.ask())) for _ in range(count - 1)]
    return drawn


def curve(method: Method, settings: Mapping[str, Any], images: Images, seed: int) -> dict[str, Any]:
    """Train once; figures by name, a value per look. Shorter where it diverged."""
    fixed = {**HELD[method.name], "epochs": REPORTS, "steps_per_epoch": STEPS[method.name]}
    config = method.detector.Config.from_dict({**settings, **fixed})
    detector = method.detector(config, (1, SIZE, SIZE), seed=seed)
    found: dict[str, list[float]] = {}
    sample = evenly_spaced(images.train, CALIBRATED)
    began, broken = time.process_time(), ""
    try:
        for look in range(1, REPORTS + 1):
            for name, value in detector.train_epoch(images.train).items():
                found.setdefault(f"loss/{name}", []).append(float(f"{value:.4g}"))
            detector.calibrate(sample)
            for kind in ("validation", "development")[: 2 if look > REPORTS - LAST else 1]:
                normal, anomalous = map(detector.scores, getattr(images, kind))
                for name in detector.score_names:
                    auroc = metrics.auroc(normal[name].numpy(), anomalous[name].numpy())
                    found.setdefault(f"{kind}/{name}", []).append(round(auroc, 4))
    except DivergedError as error:
        broken = str(error)
    seconds = round(time.process_time() - began, 2)
    return {"settings": settings, "seed": seed, "seconds": seconds, "broken": broken} | found


def jobs(
    problems: Sequence[str], methods: Sequence[str], count: int
) -> Iterator[tuple[str, str, int, int]]:
    """Problem, method, number of the settings and seed; all pairs advance together."""
    for number in range(count):
        for repeat in range(1 if number % REPEATED else 2):
            for method in methods:
                for problem in problems:
                    yield problem, method, number, 1000 * repeat + number


def record(arguments: argparse.Namespace) -> None:
    """Train what is missing."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    images = {name: images_of(name, arguments.data) for name in arguments.problems}
    for name, one in images.items():
        print(name, len(one.train), [len(side) for side in one.validation + one.development])
    methods = {name: find_method(name) for name in arguments.methods}
    settings = {name: settings_of(method, arguments.settings) for name, method in methods.items()}
    done = {
        (path.stem.partition("_")[0], path.stem.partition("_")[2], one["number"], one["seed"])
        for path in arguments.work.glob("*.jsonl")
        for one in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    }
    for job in jobs(arguments.problems, arguments.methods, arguments.settings):
        if job in done:
            continue
        problem, name, number, seed = job
        found = curve(methods[name], settings[name][number], images[problem], seed)
        line = json.dumps({"number": number} | found)
        with (arguments.work / f"{problem}_{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        ends = {k.partition("/")[2]: v[-1] for k, v in found.items() if k.startswith("dev")}
        print(*job, found["seconds"], ends, found["broken"], flush=True)


def pack(work: Path, file: Path) -> None:
    """All lines of the work folder in one compressed file: JSON of what was trained, and arrays of
    float32 (trainings, figures, looks), NaN after a training broke."""
    arrays: dict[str, Any] = dict(np.load(file)) if file.exists() else {}
    for path in sorted(work.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        figures = sorted({key for one in lines for key in one if "/" in key})
        values = np.full((len(lines), len(figures), REPORTS), np.nan, np.float32)
        for row, one in enumerate(lines):
            for column, name in enumerate(figures):
                first = REPORTS - LAST if name.startswith("development/") else 0
                found = one.get(name, [])
                values[row, column, first : first + len(found)] = found
        about = [{k: v for k, v in one.items() if "/" not in k} for one in lines]
        told = {"figures": figures, "trainings": about}
        arrays[f"{path.stem}_about"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
        arrays[f"{path.stem}_curves"] = values
        print(path.stem, len(lines), "trainings,", len(figures), "figures")
    np.savez_compressed(file, **arrays)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Train and record, or pack."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with (fashion_)mnist_full.npz")
    parser.add_argument("--work", type=Path, required=True, help="folder of the records")
    parser.add_argument("--settings", type=int, default=60)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--pack", action="store_true", help="write the records to one file")
    parser.add_argument("--file", type=Path, default=CURVES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if arguments.pack:
        pack(arguments.work, arguments.file)
    elif arguments.data is None and set(arguments.problems) != {"digits"}:
        parser.error("--data is needed for all problems but the digits")
    else:
        record(arguments)


if __name__ == "__main__":
    main()
