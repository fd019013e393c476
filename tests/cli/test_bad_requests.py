"""Requests that cannot be carried out: each ends in one message that names what is wrong.

A row is a command line as in a shell, and a piece of the message. The exit code is 2, nothing is
printed on standard output, and nothing is written but a run's lock. What would train is replaced by
a failure of the test: a request that is taken for a sound one does not pass.
"""

import functools
import json
import os
import shlex
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import fake_method
import numpy as np
import pytest
import ray
import torch
from bad_requests import FILES, ROWS
from fake_run import add_trial, scores, small_problem, write_leaderboard, write_run
from pictures_on_disk import write_npz, write_pictures

import amatune.tuning.search
from amatune.cli import main
from amatune.detectors.ama import AMA
from amatune.export import export_detector
from amatune.tuning import retrain, search

WRITTEN_ANYWAY = ("/.lock", "/nodata")  # by looking at a run; by a download that was tried


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, detector: AMA) -> Path:
    """A folder with pictures, arrays, runs, exports, and files of every wrong kind."""
    folder = tmp_path_factory.mktemp("place")
    write_pictures(folder / "good", 90, (12, 12))
    write_pictures(folder / "bad", 40, (12, 12))
    write_pictures(folder / "few", 3, (12, 12))
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "same").mkdir()
    for number in range(12):
        (folder / "broken" / f"{number}.png").write_bytes(b"no picture")
    for number in range(70):
        shutil.copy(folder / "good" / "000.png", folder / "same" / f"{number}.png")
    write_npz(folder / "parts.npz")
    np.savez(folder / "floats.npz", train_images=np.ones((60, 9, 9)), test_images=np.ones((9, 9)))
    (folder / "odd.npz").write_bytes(b"no archive")
    os.mkfifo(folder / "pipe.npz")
    for name, content in FILES.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    _write_runs(folder / "runs")
    images = torch.randint(0, 256, (32, 1, 12, 12), dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("amatune.export.folder.onnx_bytes", lambda _: b"")
        normal = detector.score(images)
        export_detector(detector, folder / "model", figures={}, data={}, normal_scores=normal)
        export_detector(detector, folder / "plain", figures={}, data={})
    return folder


def _write_runs(folder: Path) -> None:
    problem = small_problem().to_dict()
    write_run(folder / "begun", problem)
    for name in ("done", "searched"):
        run = write_run(folder / name, problem)
        add_trial(run, {"quality": 0.5, "kind": "plain"}, [0.6] * 9)
        if name == "done":
            write_leaderboard(run, {"default": [{"bright": scores(1.0, 1)}]})
    for name, content in (("damaged", "{"), ("later", '{"schema": 99}')):
        (folder / name).mkdir()
        (folder / name / "run.json").write_text(content, encoding="utf-8")


@pytest.fixture(autouse=True)
def _nothing_is_carried_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In that folder, without a network, and with a failure in the place of Ray."""

    def carried_out(*_: Any, **__: Any) -> None:
        pytest.fail("the request was carried out")

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    fake_method.install(monkeypatch)
    monkeypatch.chdir(place)
    monkeypatch.setenv("AMATUNE_DATA", str(place / "nodata"))
    # Other tests of the same process may have left a cluster connected.
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", carried_out)
    for module in (search, retrain):
        monkeypatch.setattr(module.execution, "execute", carried_out)
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr(amatune.tuning.search, "make_problem", _make_problem)


_make_problem = functools.cache(search.make_problem)


def _listing(folder: Path) -> list[str]:
    """What lies in the folder, in its runs and beside them; the pictures are not looked at."""
    found = [*folder.iterdir(), *(folder / "runs").rglob("*")]
    names = [f"/{path.relative_to(folder).as_posix()}" for path in found]
    return sorted(name for name in names if not name.endswith(WRITTEN_ANYWAY))


def test_the_table_is_long_and_names_each_request_once() -> None:
    assert len(ROWS) >= 150
    lines = [line for line, _ in ROWS]
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize(("line", "told"), ROWS, ids=[line[:60] for line, _ in ROWS])
def test_a_bad_request_gets_one_message(
    line: str, told: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _listing(place)
    assert main(shlex.split(line)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("amatune: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert told in captured.err
    assert _listing(place) == before


def test_a_sound_request_would_be_carried_out() -> None:
    """What the table stands on: nothing but the failure in Ray's place holds it back."""
    with pytest.raises(pytest.fail.Exception, match="was carried out"):
        main(["search", "--name", "sound", "--runs-dir", "others"])
    shutil.rmtree("others")
