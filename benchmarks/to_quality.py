"""CPU seconds until AMA detects: this code and the authors' public code, in turn, to one AUROC.

    python benchmarks/to_quality.py --data ../shared/data --authors PATH

PATH is a checkout of github.com/somepago/AMA; nothing of it is part of this project. One digit of
MNIST is normal, brought to the 3 x 32 x 32 pixels that the authors' networks take; both codes train
those networks at one width, batch size and without negatives, which the authors begin with late.
Theirs has its published recipe: five critic steps, learning rate 3e-4. Ours has its defaults. Both
are timed in turn, slice by slice, in one process, and scored after each slice, untimed, on held-out
images of the digit and 200 of the others, from the training part alone. A target is reached where
the mean of three neighbouring slices reaches it: one figure is noise. All slices go to a file.

Neither learning rate drops meanwhile, since there is no end, and that of ours is seven times
theirs: its figures swing. So ours is also trained to an end, with its schedule, for a few budgets
of CPU seconds (`--ended`), and scored there once.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from throughput import authors
from torch import Tensor, nn

from amatune import metrics
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.detector import to_unit_range
from amatune.detectors.ama import AMA, AMAConfig
from amatune.loop import shuffled_batches
from amatune.nets.scores import a_score, means_and_stds, per_complexity, r_score

SCORES = ("A", "R", "AC", "RC")
TARGETS = (0.80, 0.85, 0.90, 0.925, 0.95)
TO_FIT = 400  # training images that give the means and deviations of R and RC
BATCH = 32
STEPS = 4  # of ours between two looks at the clock

Raw = Callable[[Tensor], tuple[Tensor, Tensor]]  # images (B, 3, 32, 32) -> R and RC, (B,) each


class Arm:
    """A training that goes on for some seconds, and is then scored."""

    def __init__(self, slice_: Callable[[], None], networks: list[nn.Module], raw: Raw) -> None:
        self.slice, self.networks, self.raw = slice_, networks, raw
        self.seconds = 0.0
        self.found: list[dict[str, float]] = []

    def go_on(self, least: float) -> None:
        """Train for at least so many CPU seconds."""
        for network in self.networks:
            network.train()
        began = time.process_time()
        self.slice()
        while time.process_time() - began < least:
            self.slice()
        self.seconds += time.process_time() - began

    def score(self, fit: Tensor, normal: Tensor, anomaly: Tensor) -> None:
        """Keep the validation AUROC of the four scores."""
        for network in self.networks:
            network.eval()
        with torch.no_grad():
            raw = [torch.stack(self._raw(images)).double() for images in (fit, normal, anomaly)]
        means, stds = means_and_stds(list(raw[0]))
        sides = []
        for values in raw[1:]:
            distances = [a_score(values[i], means[i], stds[i]) for i in (0, 1)]
            sides.append(
                dict(zip(SCORES, (distances[0], values[0], distances[1], values[1]), strict=True))
            )
        figures = {
            name: metrics.auroc(sides[0][name].numpy(), sides[1][name].numpy()) for name in SCORES
        }
        self.found.append({"seconds": self.seconds, **figures})

    def _raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """R and RC of images (N, 3, 32, 32), (N,) each."""
        parts = [self.raw(to_unit_range(part)) for part in images.split(200)]
        return torch.cat([r for r, _ in parts]), torch.cat([rc for _, rc in parts])

    def reached(self, score: str, target: float) -> float:
        """CPU seconds until the mean of three neighbouring slices is at the target, or NaN."""
        values = np.array([one[score] for one in self.found])
        for last in range(2, len(values)):
            if values[last - 2 : last + 1].mean() >= target:
                return self.found[last]["seconds"]
        return math.nan


def ours(images: Tensor, width: float, seed: int, settings: Mapping[str, object]) -> Arm:
    """AMA's defaults with the residual networks; the rate does not drop: there is no end."""
    config = AMAConfig.from_dict(
        {"network": "residual", "width": width, "batch_size": BATCH, "steps_per_epoch": STEPS,
         "epochs": 10**6, **settings}
    )  # fmt: skip
    detector = AMA(config, (3, 32, 32), seed=seed)
    raw = detector.raw_scorer()
    return Arm(lambda: _ignore(detector.train_epoch(images)), list(detector.networks.values()), raw)


def ended(images: Tensor, width: float, seed: int, step_seconds: float, budget: float) -> Arm:
    """Ours for so many seconds, with the drops of its learning rate."""
    epochs = max(4, round(budget / step_seconds / STEPS))
    arm = ours(images, width, seed, {"epochs": epochs})
    began = time.process_time()
    for _ in range(epochs):
        arm.slice()
    arm.seconds = time.process_time() - began
    return arm


def theirs(images: Tensor, width: float, seed: int, place: Path) -> Arm:
    """The authors' code, by its published recipe."""
    torch.manual_seed(seed)
    made = authors(place, width, "cpu", negatives=False)
    generator = torch.Generator().manual_seed(seed)
    batches: list[Tensor] = []

    def one() -> None:
        if not batches:
            batches.extend(shuffled_batches(len(images), BATCH, generator))
        made.step(to_unit_range(images[batches.pop()]))

    def raw(batch: Tensor) -> tuple[Tensor, Tensor]:
        rebuilt = made.generator(made.encoder(batch))
        features = [
            made.critic.feature(torch.cat([batch, other], dim=1))  # type: ignore[operator]
            for other in (batch, rebuilt)
        ]
        r = r_score(*features)
        return r, per_complexity(r, batch)

    return Arm(one, [made.encoder, made.generator, made.critic], raw)


def _ignore(_: object) -> None:
    return None


def main() -> None:
    """Train in turn, and print when each target was reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the npz files")
    parser.add_argument("--authors", type=Path, required=True, help="checkout of somepago/AMA")
    parser.add_argument("--digit", default="8")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slice", type=float, default=10.0, help="CPU seconds between scorings")
    parser.add_argument("--slices", type=int, default=30, help="of ours; theirs has --more times")
    parser.add_argument("--more", type=int, default=2, help="slices of theirs for one of ours")
    parser.add_argument("--ended", type=float, nargs="*", default=[30, 60, 120])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/to-quality"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")

    problem = make_problem(
        ProblemRequest(
            dataset=f"npz:{arguments.data / 'mnist_full.npz'}",
            normal_classes=(arguments.digit,),
            image_size=32,
            channels=3,
            val_anomalies=200,
        )
    )
    images = torch.from_numpy(problem.train_images())
    sides = [torch.from_numpy(side[:200]) for side in problem.validation_images()]
    print(problem.describe())
    fit = images[:: max(1, len(images) // TO_FIT)]
    arms = {
        "amatune": ours(images, arguments.width, arguments.seed, {}),
        "authors": theirs(images, arguments.width, arguments.seed, arguments.authors),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    place = arguments.output / f"mnist-{arguments.digit}-seed{arguments.seed}.json"
    for _ in range(arguments.slices):
        for name, times in (("amatune", 1), ("authors", arguments.more)):
            for _ in range(times):
                arms[name].go_on(arguments.slice)
                arms[name].score(fit, *sides)
            last = {k: round(v, 3) for k, v in arms[name].found[-1].items()}
            print(f"{name}: {last}", flush=True)
        place.write_text(json.dumps({name: arm.found for name, arm in arms.items()}))
    if arms["amatune"].found:
        print(table(arms))
    arm = ours(images, arguments.width, arguments.seed, {})
    arm.go_on(5)  # the first steps are slower
    began, steps = arm.seconds, 10
    for _ in range(steps):
        arm.go_on(0)
    for budget in arguments.ended:
        each = (arm.seconds - began) / steps / STEPS
        one = ended(images, arguments.width, arguments.seed, each, budget)
        one.score(fit, *sides)
        told = {k: round(v, 3) for k, v in one.found[-1].items()}
        print(f"amatune, trained to an end: {told}", flush=True)


def table(arms: Mapping[str, Arm]) -> str:
    """CPU seconds to each target, as Markdown."""
    lines = ["| score | target | amatune, s | authors, s | ratio |", "|---|---|---|---|---|"]
    for score in SCORES:
        for target in TARGETS:
            mine, other = (arms[name].reached(score, target) for name in ("amatune", "authors"))
            if math.isnan(mine) and math.isnan(other):
                continue
            spent = arms["authors"].seconds
            shown = f"more than {spent:.0f}" if math.isnan(other) else f"{other:.0f}"
            ratio = f"over {spent / mine:.1f}" if math.isnan(other) else f"{other / mine:.1f}"
            lines.append(f"| {score} | {target} | {mine:.0f} | {shown} | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
