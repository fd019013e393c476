"""The benchmarks run and print their figures; what they measure is not asserted."""

import contextlib
import io
import json
import logging
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fake_method
import matplotlib
import numpy as np
import optuna
import pytest
import torch
from fake_run import searched_run, small_problem
from PIL import Image
from sklearn.gaussian_process import GaussianProcessRegressor
from some_events import trial

from amatune.data.protocol import make_problem
from amatune.runs import RunFolder

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(f.name for f in BENCHMARKS.glob("*.py") if "def main(" in f.read_text("utf-8"))


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


def here(command: list[str]) -> str:
    """What a script prints that another script starts: run in this process, which has imported what
    it needs already."""
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as output:
        patch.setattr(sys, "argv", command[1:])
        with contextlib.redirect_stdout(output):
            runpy.run_path(command[1], run_name="__main__")
        return output.getvalue()


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They can be imported, and what one does to the environment meanwhile is undone."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_benchmark_says_what_it_takes(run, name, capfd):
    with pytest.raises(SystemExit) as ended:
        run(name, "--help")
    assert ended.value.code == 0
    assert capfd.readouterr().out.startswith(f"usage: {name} ")


@pytest.mark.usefixtures("scripts")
def test_settings_of_a_command_line_and_where_their_records_are(tmp_path):
    from common import folder_of, given_settings

    words = ["dims=64", "model=mean", "layers=2+3", 'kept="3"', "tile=null", "weights=a=b"]
    found = given_settings(words)
    assert found == {
        "dims": 64,
        "model": "mean",
        "layers": "2+3",
        "kept": "3",
        "tile": None,
        "weights": "a=b",
    }
    assert folder_of(tmp_path, {}) == tmp_path
    one = folder_of(tmp_path / "new", {"k": 3, "lr": 0.1})
    assert one.is_dir()
    assert one == folder_of(tmp_path / "new", {"lr": 0.1, "k": 3})
    assert one != folder_of(tmp_path / "new", {"lr": 0.1, "k": 5})


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
    output = tmp_path / "output"
    asked = ["few-mnist-1", "--data", noise, "--output", output, "--seeds", 2, "--draw"]
    asked += ["--set", "epochs=1", "steps_per_epoch=2", "width=0.05"]
    first = run("learning.py", *asked)
    assert "| few-mnist-1 | other classes | 2 |" in first
    again = run("learning.py", *asked)
    assert again.splitlines() == first.splitlines()[-len(again.splitlines()) :]
    assert suffixes(output) == {".json", ".npz", ".png"}
    # What has other settings is another training.
    assert "CPU seconds" in run("learning.py", *asked, "penalty_every=4", "--seeds", 1)
    [kept] = output.glob("*penalty_every=4*/few-mnist-1-seed1.json")
    assert json.loads(kept.read_text(encoding="utf-8"))["config"]["penalty_every"] == 4


def suffixes(folder: Path) -> set[str]:
    return {path.suffix for path in folder.rglob("*") if path.is_file()}


def test_8_bits_are_compared_with_32(run, tmp_path):
    generator = np.random.default_rng(0)
    for name, count in (("normal", 12), ("defect", 4)):
        (tmp_path / name).mkdir()
        for number in range(count):
            pixels = generator.integers(0, 256, (40, 40), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    ways = ("as by `amatune quantize`", "weights by channel")
    settings = ["--set", "backbone=random", "model=mean", "resolution=64"]
    output = run("int8.py", "--data", tmp_path, "--ways", *ways, *settings)
    for line in ("| 32-bit floating point", *(f"| 8 bits, {way}" for way in ways)):
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
    assert suffixes(output) == {".state", ".png"}
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


def test_throughput_prints_gains_and_the_share_of_the_peak(run):
    options = ["--family", "small", "--width", 0.02, "--batch", 4, "--rounds", 1]
    output = run("throughput.py", *options, "--threads", 1)
    for line in (
        "plain:",
        "shared:",
        "fused:",
        "share of the matrix peak",
        "scoring an image takes",
    ):
        assert line in output


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
    arms = ("old", "known-3-by-best", "one-ranking", "ray")
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


@pytest.mark.usefixtures("scripts")
def test_the_landscape_predicts_like_its_gaussian_process(monkeypatch):
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


@pytest.mark.usefixtures("scripts")
def test_epochs_until_a_target():
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


@pytest.mark.usefixtures("scripts")
def test_the_overhead_is_that_of_one_and_the_same_training(monkeypatch):
    import overhead

    overhead.require_nothing_searched()
    assert overhead.bare(make_problem(overhead.PROBLEM), epochs=1) > 0
    monkeypatch.delitem(overhead.HELD, "lr")
    with pytest.raises(RuntimeError, match="draws lr"):
        overhead.require_nothing_searched()


@pytest.mark.usefixtures("scripts")
def test_tiles_are_split_and_results_of_other_options_refused(monkeypatch, tmp_path):
    import tiles

    for name, count in (("normal", 300), ("defect", 120)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number:03}.png").touch()
    rest, test = tiles.split(tmp_path, seed=0)
    assert {name: (len(rest[name]), len(test[name])) for name in test} == {
        "normal": (225, 75),
        "defect": (75, 45),
    }
    assert not {*rest["normal"], *rest["defect"]} & {*test["normal"], *test["defect"]}

    method, asked = SimpleNamespace(name="ama"), SimpleNamespace(output=tmp_path, trials=4)
    kept = {"options": tiles.OPTIONS["ama"], "seconds": 1}
    (tmp_path / "ama-4-trials-0.json").write_text(json.dumps(kept), encoding="utf-8")
    assert tiles.measure(method, 0, asked) == kept
    monkeypatch.setitem(tiles.OPTIONS, "ama", {"steps": 800})
    with pytest.raises(SystemExit, match="name another --output"):
        tiles.measure(method, 0, asked)


@pytest.mark.usefixtures("scripts")
def test_a_quality_is_reached_by_three_slices_together():
    from to_quality import SCORES, Arm, table

    arms = {}
    for name, aurocs in (("amatune", (0.7, 0.86, 0.9, 0.96)), ("authors", (0.6, 0.8, 0.85, 0.86))):
        arms[name] = Arm(lambda: None, [], lambda images: (images, images))
        arms[name].seconds = 40.0
        arms[name].found = [
            {"seconds": 10.0 * number, **dict.fromkeys(SCORES, auroc)}
            for number, auroc in enumerate(aurocs, 1)
        ]
    assert [row for row in table(arms).splitlines() if row.startswith("| RC ")] == [
        "| RC | 0.8 | 30 | 40 | 1.3 |",
        "| RC | 0.85 | 40 | more than 40 | over 1.0 |",
        "| RC | 0.9 | 40 | more than 40 | over 1.0 |",
    ]


def test_seeds_are_batched(run):
    small = ["--threads", 1, "--width", 0.02, "--batch", 2, "--seeds", 2, "--rounds", 1]
    assert run("batched_seeds.py", *small).count("times as fast") == 2


def test_steps_of_a_method_are_timed(run):
    told = run("reproduce_steps.py", "deep-svdd", "--rounds", 1, "--seconds", 0.01)
    assert re.findall(r"^deep-svdd +(\w+) .* ms a step", told, re.MULTILINE) == ["grey", "colour"]


def test_memory_formats_are_compared(run):
    told = run("memory_format.py", "deep-svdd", "--rounds", 1, "--steps", 1)
    assert re.findall(r"^deep-svdd +(\w+) .* ms .* ms ", told, re.MULTILINE) == ["grey", "colour"]


def test_penalties_are_compared(run):
    told = run("penalty.py", "--rounds", 1, "--steps", 1, "--set", "penalty_share=1")
    found = re.findall(r"^(\w+) +(\w+) .* ms .* ms .*  weights equal$", told, re.MULTILINE)
    assert found == [(name, kind) for name in ("ama", "waic") for kind in ("grey", "colour")]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
@pytest.mark.usefixtures("scripts")
def test_a_search_tells_time_and_memory_by_its_trials(capsys):
    from scale import Meter

    meter = Meter(2)
    for number in range(4):
        meter(trial(number, "running"))
        meter(trial(number, "pruned" if number else "done"))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["2", "4"]


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunFolder:
    """A run of two trials to the end, one that was stopped and one that failed."""
    fake_method.install(monkeypatch)
    return searched_run(tmp_path / "mine", small_problem())


@pytest.mark.usefixtures("scripts")
def test_the_live_table_of_a_run_is_drawn(searched):
    from readme_pictures import live_table

    drawn = live_table(searched).replace("&#160;", " ")
    assert drawn.startswith("<svg")
    assert "run runs/mine: digits" in drawn
    assert "font-face" not in drawn


def test_pictures_to_score_are_written(run, searched, tmp_path):
    run("demo_pictures.py", searched.path, tmp_path / "pictures", "--each", 2)
    written = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert written == {"normal-0.png", "normal-1.png", "anomaly-0.png", "anomaly-1.png"}
