"""The benchmarks run and print their figures; what they measure is not asserted."""

import contextlib
import io
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import matplotlib
import numpy as np
import optuna
import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a script here: a process of its own would import torch for seconds.

    What the script sets for its process (threads, a drawing backend, what is logged) is set back.
    """
    monkeypatch.syspath_prepend(BENCHMARKS)  # where a script's own imports are found
    threads, verbosity = torch.get_num_threads(), optuna.logging.get_verbosity()
    backend = matplotlib.get_backend()

    def script(name: str, *options: object) -> str:
        monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / name), *map(str, options)])
        capfd.readouterr()
        runpy.run_path(sys.argv[0], run_name="__main__")
        return capfd.readouterr().out

    matplotlib.use("agg")
    yield script
    matplotlib.use(backend)
    torch.set_num_threads(threads)
    optuna.logging.set_verbosity(verbosity)


def here(command: list[str], environment: Mapping[str, str] = MappingProxyType({})) -> str:
    """What a script prints that another script starts: run in this process, which has imported what
    it needs already."""
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as output:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", command[1:])
        with contextlib.redirect_stdout(output):
            runpy.run_path(command[1], run_name="__main__")
        return output.getvalue()


def test_the_gpu_benchmark_runs_without_a_gpu(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        subprocess,
        "Popen",
        lambda command, **_: SimpleNamespace(communicate=lambda: (here(command), "")),
    )
    output = tmp_path / "results.md"
    small = ["--width", 0.02, "--batch", 4, "--steps", 1, "--rounds", 1, "--seconds", 0.1]
    run("gpu.py", "--device", "cpu", *small, "--trials", 1, "--start", 1, "--output", output)
    written = output.read_text(encoding="utf-8")
    for part in ("losses after 1 steps", "training speed", "concurrent trainings"):
        assert written.count(part) == 2, part  # of both families


@pytest.fixture
def noise(tmp_path):
    """In the place of MNIST: pictures of ten classes, in which there is nothing to learn."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    parts = {}
    for part, count in (("train", 900), ("test", 200)):
        parts[f"{part}_images"] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        parts[f"{part}_labels"] = np.arange(count) % 10
    np.savez(folder / "mnist_full.npz", **parts)
    return folder


def test_the_learning_study_trains_once_and_draws(run, noise, tmp_path):
    tiny = ["--set", "epochs=1", "steps_per_epoch=2", "width=0.05", "--seeds", 2, "--draw"]
    output = tmp_path / "output"
    first = run("learning.py", "few-mnist-1", "--data", noise, "--output", output, *tiny)
    assert "| few-mnist-1 | other classes | 2 |" in first
    again = run("learning.py", "few-mnist-1", "--data", noise, "--output", output, *tiny)
    assert again.splitlines() == first.splitlines()[-len(again.splitlines()) :]
    assert {path.suffix for path in output.iterdir()} == {".json", ".npz", ".png"}


def test_the_likelihoods_look_at_test_images_when_asked_and_train_once(run, tmp_path):
    rng = np.random.default_rng(0)
    for name, top in (("fashion_mnist", 256), ("mnist", 40)):
        images = rng.integers(0, top, (360, 8, 8), np.uint8)
        np.savez(
            tmp_path / f"{name}_full.npz",
            train_images=images[:300],
            train_labels=np.arange(300) % 2,
            test_images=images[300:],
            test_labels=np.arange(60) % 2,
        )
    output = tmp_path / "output"
    tiny = ["--data", tmp_path, "--output", output, "--seeds", 1, "--steps", 25]
    tiny += ["--set", "width=0.25", "mixtures=1", "batch_size=8"]
    first = run("likelihood.py", *tiny, "--validation")
    assert "no training has been tested" in first
    assert {path.suffix for path in output.iterdir()} == {".state", ".png"}
    second = run("likelihood.py", *tiny)
    assert "epoch" not in second, "the training is there"
    for score in ("llr", "nll", "s, webp", "simplicity, png", "baseline: PCA"):
        assert f"| {score} | " in second
    assert run("likelihood.py", *tiny).splitlines()[1:] == second.splitlines()[2:]


@pytest.mark.parametrize("family", ["small", "residual"])
def test_throughput_prints_gains_and_the_share_of_the_peak(run, family):
    options = ["--family", family, "--width", 0.02, "--batch", 4, "--rounds", 1]
    output = run("throughput.py", *options, "--threads", 1)
    for line in (
        "plain:",
        "shared:",
        "fused:",
        "share of the matrix peak",
        "scoring an image takes",
    ):
        assert line in output


def test_decoding_prints_speed_and_memory(run, monkeypatch):
    monkeypatch.setattr(
        subprocess, "run", lambda command, env, **_: SimpleNamespace(stdout=here(command, env))
    )
    output = run("decoding.py", "--pictures", 30)
    for line in ("off ", "cold ", "cached ", "the cache takes"):
        assert f"\n{line}" in output


def test_stability_counts_what_diverged(run):
    output = run("stability.py", "--trials", 2, "--epochs", 1, "--threads", 1)
    assert "2 random settings, 1 epochs: 0 diverged" in output
    assert "auroc: 0." in output
