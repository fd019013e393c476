"""What the tests of the search share: a problem made of noise, and a cluster that knows the fakes.

Run as a program it is a search that a test can kill:

    python fake_search.py '{"runs_dir": ..., "name": ..., "trials": 4, ...}' [resume]
"""

import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_method
import forked_workers
import numpy as np
import pytest
import ray
from ray._private.parameter import RayParams

from amatune.data.request import ProblemRequest
from amatune.errors import AmatuneError
from amatune.runs import RunFolder
from amatune.runs import record as records
from amatune.runs.record import Circumstances, ProblemRecord, RunRecord
from amatune.runs.request import SearchRequest
from amatune.tuning import search
from amatune.tuning.events import Event

SHAPE = (1, 8, 8)


class FakeProblem:
    """Noise; anomalies are a little brighter."""

    image_shape = SHAPE
    warnings: tuple[str, ...] = ()
    may_test = False
    labelled = 0  # anomalies to learn from

    def train_images(self) -> np.ndarray:
        return noise(200, 100, seed=0)

    def train_anomalies(self) -> np.ndarray:
        return noise(self.labelled, 106, seed=5)

    def validation_images(self) -> tuple[np.ndarray, np.ndarray]:
        return noise(60, 100, seed=1), noise(50, 106, seed=2)

    def validation_sets(self) -> dict[str, slice]:
        return {"a": slice(0, 20), "b": slice(20, 50)}

    def test_images(self) -> tuple[np.ndarray, np.ndarray]:
        if not self.may_test:
            raise AssertionError("a test image was read")
        return noise(80, 100, seed=3), noise(40, 106, seed=4)

    def test_sets(self) -> dict[str, slice]:
        return {"bright": slice(0, 25), "brighter": slice(25, 40)}

    def require_masks(self) -> None:
        """There are none."""

    def test_masks(self) -> list[None]:
        return [None] * 40

    def test_kinds(self) -> dict[str, np.ndarray]:
        return {}

    def groups(self, which: str) -> None:  # noqa: ARG002
        return None

    def test_duplicates(self, file: Path | None = None) -> list[str]:  # noqa: ARG002
        return []

    def list_copies(self, file: Path) -> None:
        file.write_text("a copy\n", encoding="utf-8")

    def list_damaged(self, file: Path) -> list[str]:
        file.write_text("a damaged picture\n", encoding="utf-8")
        return []

    def describe(self) -> str:
        return "noise against brighter noise"

    def to_dict(self) -> dict[str, Any]:
        return {
            "request": ProblemRequest().to_dict(),
            "image_shape": list(SHAPE),
            "counts": {
                "train_normals": 200,
                "validation_normals": 60,
                "validation_anomalies": 50,
                "test_normals": 80,
                "test_anomalies": 40,
            },
            "splits": {
                "train_normals": [{"source": "noise", "part": "train", "ids": [1, 2]}],
                "validation_normals": [],
                "validation_anomalies": [],
                "test_normals": [],
                "test_anomalies": [],
            },
            "sources": {"noise": {}},
            "warnings": [],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], _data_dir: str | None = None) -> "FakeProblem":
        assert values == cls().to_dict()
        return cls()


def noise(count: int, mean: float, seed: int) -> np.ndarray:
    """uint8 (count, 1, 8, 8)."""
    values = np.random.default_rng(seed).normal(mean, 30, (count, *SHAPE))
    return values.clip(0, 255).astype(np.uint8)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make "fake" a method, and FakeProblem the one problem, of this process."""
    fake_method.install(monkeypatch)
    monkeypatch.setattr(search, "make_problem", lambda *_: FakeProblem())
    monkeypatch.setattr(records, "Problem", FakeProblem)
    monkeypatch.setattr(FakeProblem, "may_test", False)


def write_record(run: RunFolder, asked: SearchRequest) -> RunRecord:
    """The `run.json` of a search that was asked for; in a folder that exists."""
    record = RunRecord(
        request=asked,
        problem=ProblemRecord.from_dict(FakeProblem().to_dict()),
        begun=Circumstances.now(),
        first=({"quality": 0.5, "kind": "plain"},),
    )
    run.write(record)
    return record


@contextlib.contextmanager
def forking() -> Iterator[str]:
    """A process that forks workers, and the address of its socket."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        address = f"{folder}/workers"
        listening.bind(address)
        listening.listen(64)
        number = listening.fileno()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = subprocess.Popen(
            [sys.executable, forked_workers.__file__, "serve", str(number)],
            pass_fds=[number],
            env=environment,
        )
        try:
            yield address
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """A cluster that says it has 4 CPUs and a GPU, and whose workers can import the fakes."""
    with pytest.MonkeyPatch.context() as patch, forking() as address:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.setenv(forked_workers.ADDRESS, address)
        forked = functools.partialmethod(
            RayParams.__init__, setup_worker_path=forked_workers.__file__
        )
        patch.setattr(RayParams, "__init__", forked)
        ray.init("local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()


def request(runs_dir: Path | str, **changes: Any) -> SearchRequest:
    """A small search with the fakes, one trial at a time: starting a worker takes seconds."""
    small = {"name": "run", "method": "fake", "trials": 4, "epochs": 9, "concurrent": 1}
    values: dict[str, Any] = {**small, "gpus_per_trial": 0.0, **changes}
    return SearchRequest(problem=ProblemRequest(), runs_dir=str(runs_dir), **values)


def main(words: list[str]) -> None:
    """Be a search that a test can kill."""
    wanted = json.loads(words[0])
    saving = wanted.pop("checkpoint_seconds", 60.0)
    install(pytest.MonkeyPatch())

    def show(event: Event) -> None:
        if wanted.get("name") != "silent":
            print(type(event).__name__, getattr(event, "state", ""), flush=True)

    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    try:
        outcome = search.run_search(
            request(**wanted), show, resume=words[1:] == ["resume"], checkpoint_seconds=saving
        )
    except AmatuneError as error:
        sys.exit(f"amatune: {error}")
    sys.exit(130 if outcome.interrupted else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
