"""AMA on a GPU: is it right, how fast, how much memory, and how well do trials share the card?

    python benchmarks/gpu.py --authors PATH --output results.md
    python benchmarks/gpu.py --device cpu --width 0.05 --batch 10 --steps 3   # a dry run

PATH is a checkout of github.com/somepago/AMA. Needs torch alone, neither Ray nor Optuna. Variants
are measured in turn, round after round, and compared by the median of the ratios of neighbours.
Every section is printed, and written to the file, when it is there: what is cut short keeps those
before. Concurrent trainings take some 20 s for each number of them. "float32" is what torch does by
default: convolutions in TF32 where the card has it, matrix products not. Without a GPU it measures
what a CPU has: no graphs, no memory.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from throughput import SHAPES, Step, authors, detector, matrix_peak, multiply_adds, seconds
from torch import Tensor

from amatune.nets.capture import EAGER_STEPS

PATIENCE = 60.0  # seconds after its end at which a training counts as stuck
LOSSES = ("wasserstein", "reconstruction", "code_norm", "penalty")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default=default_device())
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=40, help="before losses are compared")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each concurrent training")
    parser.add_argument("--start", type=float, default=12.0, help="seconds a training warms up")
    parser.add_argument("--each", type=float, default=2.0, help="seconds more for each beside it")
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--authors", type=Path, help="checkout of github.com/somepago/AMA")
    parser.add_argument("--output", type=Path, help="write the tables there, too")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.worker:
        work_beside_others(arguments)
        return
    sections = [machine(arguments)]
    told(sections, arguments)
    for part in (parity, speed, sharing):
        for family in SHAPES:
            arguments.family = family
            sections.append(part(family, arguments))
            told(sections, arguments)


def told(sections: list[str], arguments: argparse.Namespace) -> None:
    """Print the newest section, and write all of them."""
    print(sections[-1], end="\n\n", flush=True)
    if arguments.output:
        arguments.output.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def default_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine(arguments: argparse.Namespace) -> str:
    """What it runs on."""
    gpu = arguments.device == "cuda"
    name = torch.cuda.get_device_name() if gpu else f"{platform.machine()}, a CPU"
    cuda = f", CUDA {torch.version.cuda}" if gpu else ""
    return (
        f"{name}{cuda}; torch {torch.__version__}, Python {platform.python_version()}; width "
        f"{arguments.width:g}, batch {arguments.batch}\n\n    {' '.join(sys.argv)}"
    )


def variants(device: str) -> dict[str, dict[str, object]]:
    """Name -> settings, the reference first."""
    found: dict[str, dict[str, object]] = {
        "float32": {},
        "bfloat16": {"precision": "bfloat16"},
    }
    if device == "cuda":
        found["float32, graphs"] = {"cuda_graphs": True}
        found["bfloat16, graphs"] = {"precision": "bfloat16", "cuda_graphs": True}
    return found


def batch_of(family: str, arguments: argparse.Namespace) -> Tensor:
    """Smooth random pictures in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    channels, *size = SHAPES[family]
    coarse = torch.rand(arguments.batch, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, tuple(size), mode="bilinear")
    return (smooth * 2 - 1).to(arguments.device)


def parity(family: str, arguments: argparse.Namespace) -> str:
    """The losses of the last of some steps beside those of float32."""
    batch = batch_of(family, arguments)
    lines = [
        f"**{family}: losses after {arguments.steps} steps**",
        "",
        f"| | {' | '.join(LOSSES)} |",
        "|---|" + "---|" * len(LOSSES),
    ]
    for name, settings in variants(arguments.device).items():
        step = detector(arguments, **settings).train_step
        for _ in range(arguments.steps):
            losses = step(batch)
        lines.append(f"| {name} | {' | '.join(f'{float(losses[n]):.4f}' for n in LOSSES)} |")
    return "\n".join(lines)


def speed(family: str, arguments: argparse.Namespace) -> str:
    """Images per second, peak memory and share of the matrix peak of every variant."""
    gpu = arguments.device == "cuda"
    batch = batch_of(family, arguments)
    steps: dict[str, Step] = {}
    for name, settings in variants(arguments.device).items():
        steps[name] = detector(arguments, **settings).train_step
    if arguments.authors and family == "residual":
        own = authors(arguments.authors, arguments.width, arguments.device)
        steps["the authors' code"] = own.step
    work = multiply_adds(detector(arguments).train_step, batch)
    peaks = {kind: matrix_peak(arguments.device, kind) for kind in ("float32", "bfloat16")}
    memory = {}
    for name, step in steps.items():
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(EAGER_STEPS + 2):
            step(batch)
        memory[name] = torch.cuda.max_memory_allocated() / 2**20 if gpu else None
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, batch, 5 if gpu else 1))
    lines = [
        f"**{family}: training speed**, {work / 1e6:.0f} M multiply-adds an image and step; peak "
        f"{peaks['float32'] / 1e12:.2f} T multiply-adds/s float32, {peaks['bfloat16'] / 1e12:.2f} "
        "bfloat16",
        "",
        "| | images/s | times float32 | share of the peak | peak MiB |",
        "|---|---|---|---|---|",
    ]
    for name, own in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["float32"], own, strict=True))
        per_second = arguments.batch / statistics.median(own)
        peak = peaks["bfloat16" if "bfloat16" in name else "float32"]
        share = f"{work * per_second / peak:.1%}" if "authors" not in name else ""
        held = "" if memory[name] is None else f"{memory[name]:.0f}"
        lines.append(f"| {name} | {per_second:.0f} | {ratio:.2f} | {share} | {held} |")
    return "\n".join(lines)


def sharing(family: str, arguments: argparse.Namespace) -> str:
    """What several trainings give together, each in a process with its part of the machine."""
    name, settings = list(variants(arguments.device).items())[-1]
    if arguments.device == "cpu":
        name, settings = "float32", {}
    lines = [
        f"**{family}: concurrent trainings**, {name}, each with 1/n of the memory",
        "",
        "| trainings | images/s together | times one |",
        "|---|---|---|",
    ]
    alone = None
    for count in arguments.trials:
        until = arguments.start + arguments.each * count
        start = time.time() + until
        command = [sys.executable, *sys.argv, "--worker", f"{family}/{count}/{start}"]
        command.append("graphs" if "cuda_graphs" in settings else "steps")
        workers = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        outputs = [ended(worker, until + arguments.seconds + PATIENCE) for worker in workers]
        broken = [
            (errors.strip().splitlines() or ["ended without a word"])[-1]
            for output, errors in outputs
            if not output
        ]
        if broken:
            lines.append(f"| {count} | {broken[0]} | |")
            continue
        together = sum(float(output) for output, _ in outputs)
        alone = alone or together / count
        lines.append(f"| {count} | {together:.0f} | {together / alone:.2f} |")
    return "\n".join(lines)


def ended(worker: "subprocess.Popen[str]", patience: float) -> tuple[str, str]:
    """What a worker wrote; of one that takes too long, that."""
    try:
        output, errors = worker.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.communicate()
        return "", f"took more than {patience:.0f} s"
    return output, errors


def work_beside_others(arguments: argparse.Namespace) -> None:
    """One of the concurrent trainings: wait for the common start, train, print images/s."""
    what, kind = arguments.worker
    family, count, start = what.split("/")
    arguments.family = family
    settings: dict[str, object] = {}
    if arguments.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(1 / int(count))
        settings = variants("cuda")["bfloat16, graphs" if kind == "graphs" else "bfloat16"]
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(count)))
    step = detector(arguments, **settings).train_step
    batch = batch_of(family, arguments)
    for _ in range(EAGER_STEPS + 1):
        step(batch)
    early = float(start) - time.time()
    if early < 0:
        sys.exit(f"warmed up {-early:.1f} s too late: give more by --start or --each")
    time.sleep(early)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < arguments.seconds:
        seconds(step, batch, 1)
        done += 1
    print(done * arguments.batch / (time.perf_counter() - began))


if __name__ == "__main__":
    main()
