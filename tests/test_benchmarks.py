"""The benchmarks run and print their figures; what they measure is not asserted."""

import contextlib
import io
import logging
import re
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
from PIL import Image
from sklearn.gaussian_process import GaussianProcessRegressor

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
    logging.disable(logging.NOTSET)
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
        lambda command, **_: SimpleNamespace(communicate=lambda **_: (here(command), "")),
    )
    monkeypatch.setattr("time.sleep", lambda _: None)  # until the common start
    output = tmp_path / "results.md"
    small = ["--width", 0.02, "--batch", 4, "--steps", 1, "--rounds", 1, "--seconds", 0.1]
    shown = run(
        "gpu.py", "--device", "cpu", *small, "--trials", 1, "--start", 999, "--output", output
    )
    written = output.read_text(encoding="utf-8")
    assert shown.strip() == written.strip()
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


def test_8_bits_are_compared_with_32(run, tmp_path):
    generator = np.random.default_rng(0)
    for name, count in (("normal", 12), ("defect", 4)):
        (tmp_path / name).mkdir()
        for number in range(count):
            pixels = generator.integers(0, 256, (40, 40), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    settings = ["--set", "backbone=random", "model=mean"]
    output = run("int8.py", "--data", tmp_path, "--ways", "weights by channel", *settings)
    for line in ("| 32-bit floating point", "| 8 bits, weights by channel"):
        for engine in ("ONNX Runtime", "OpenVINO"):
            assert any(r.startswith(line) and engine in r for r in output.splitlines())


def test_each_number_of_steps_is_a_training_that_is_kept(run, noise, tmp_path):
    tiny = ["--steps", 25, "--width", 0.05, "--batch", 4, "--methods", "alad", "--data", noise]
    first = run("steps.py", *tiny, "--output", tmp_path / "steps", "--", "mnist-1")
    assert "| mnist-1 | alad | 4 | 25 |" in first
    assert run("steps.py", *tiny, "--output", tmp_path / "steps", "--", "mnist-1") == first
    assert len(list((tmp_path / "steps").iterdir())) == 1


def test_the_likelihoods_look_at_test_images_when_asked_and_train_once(run, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 40, (360, 8, 8), np.uint8)
    images[::2] *= 6
    np.savez(
        tmp_path / "mnist_full.npz",
        train_images=images[:300],
        train_labels=np.arange(300) % 2,
        test_images=images[300:],
        test_labels=np.arange(60) % 2,
    )
    output = tmp_path / "output"
    tiny = ["mnist-1", "--data", tmp_path, "--output", output, "--seeds", 1, "--steps", 25]
    tiny += ["--set", "width=0.25", "mixtures=1", "batch_size=8"]
    first = run("likelihood.py", *tiny, "--validation")
    assert "no training has been tested" in first
    assert {path.suffix for path in output.iterdir()} == {".state", ".png"}
    second = run("likelihood.py", *tiny)
    assert "epoch" not in second, "the training is there"
    for score in ("llr", "nll", "s, webp", "simplicity, png", "baseline: PCA"):
        assert f"| {score} | " in second
    assert "Against other classes, 30 + " in second
    assert run("likelihood.py", *tiny).splitlines()[1:] == second.splitlines()[2:]
    glow = ["--method", "typicality", *tiny[:-4], "--set", "steps=1", "hidden=4", "levels=1"]
    assert "| typicality of 2 images | | " in run("likelihood.py", *glow)


def test_methods_are_trained_briefly_beside_what_needs_no_detector(run, noise):
    (noise / "mnist_full.npz").rename(noise / "mnist.npz")
    output = run(
        "brief.py", "--data", noise, "--steps", 1, "--methods", "ganomaly", "--", "mnist-1"
    )
    assert "| PCA | | 0." in output
    assert "code 0." in output.partition("| ganomaly |")[2]
    assert "losses: autoencoder " in output


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


def test_curves_are_recorded_packed_and_replayed(run, tmp_path):
    work = ["--work", tmp_path / "curves", "--file", tmp_path / "curves.npz"]
    few = ["--problems", "digits", "--methods", "deep-svdd", "--settings", 1]
    assert "digits deep-svdd 0 1000" in run("record_curves.py", *work, *few)  # twice, for the noise
    assert "deep-svdd 0" not in run("record_curves.py", *work, *few)  # nothing is missing
    assert "digits_deep-svdd 2 trainings" in run("record_curves.py", *work, "--pack")
    arms = ("old", "known-3", "one-ranking", "ray")
    small = ["--seeds", 1, "--trials", 5, "--scale", 1, "--arms", *arms]
    output = run("efficiency.py", "digits", "--method", "deep-svdd", *work[2:], *small)
    assert "deep-svdd, digits: 2 trainings, 0 diverged" in output
    for arm in arms:
        assert f"\n{arm} " in output


def test_methods_are_searched_together(run: Callable[..., str]) -> None:
    seconds = ["--seconds", 0.8, 0.1, "--seeds", 1, "--trials", 1]
    told = run("which_method.py", "digits", *seconds, "--arms", "deep-svdd", "together", "by-time")
    assert "digits; a look at ama 800 ms, deep-svdd 100 ms; 1 seeds" in told
    rows = {line.split()[0]: line for line in told.splitlines()[3:]}
    assert rows.keys() == {"deep-svdd", "together", "by-time"}
    assert re.search(r"ama [1-9]\d*, deep-svdd [1-9]", rows["together"])


def test_the_landscape_predicts_like_its_gaussian_process(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from landscape import _Process

    random = np.random.default_rng(0)
    points = random.uniform(size=(12, 3))
    values = 3 * points[:, 0] - points[:, 1] + 0.1 * random.normal(size=12)
    fitted: list[GaussianProcessRegressor] = []

    class Kept(GaussianProcessRegressor):
        def fit(self, points, values):
            fitted.append(self)
            return super().fit(points, values)

    monkeypatch.setattr("landscape.GaussianProcessRegressor", Kept)
    process = _Process(points, values)
    others = random.uniform(size=(5, 3))
    expected = values.std() * fitted[0].predict(others)
    assert [process(point) for point in others] == pytest.approx(expected, abs=1e-6)
    # Left out: the same kernel over the other eleven.
    again = GaussianProcessRegressor(fitted[0].kernel_, optimizer=None)
    again.fit(points[1:], values[1:])
    assert process.left_out[0] == pytest.approx(again.predict(points[:1])[0], abs=1e-6)


def test_epochs_until_a_target(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from efficiency import Ended, chosen, until, until_true

    ended = [Ended(25, 0.7, 0.9), Ended(50, 0.9, 0.8), Ended(75, 0.85, 0.95), Ended(99, 0.95, 0.9)]
    assert until(ended, 0.85) == 50
    assert until(ended, 0.99) == float("inf")
    # The third is truly the best, and validation does not prefer it.
    assert until_true(ended, 0.85) == 25
    assert until_true(ended, 0.92) == float("inf")
    assert chosen(ended) == ended[3]
    assert chosen(ended, 60) == ended[1]
    assert chosen(ended, 20) is None


def test_cross_fitting_is_compared_with_half_and_half(run: Callable[..., str]) -> None:
    told = run("crossfit.py", "--repeats", 2, "--trials", 6, "--anomalies", 20, "--folds", 2)
    assert [line.split()[0] for line in told.splitlines()[2:]] == ["apart", "crossfit", "same"]
