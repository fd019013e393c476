"""What several test files share: a cluster, a small trained detector and pictures to score."""

import os
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import sqlalchemy
import torch
from alembic.config import Config
from alembic.script import ScriptDirectory
from PIL import Image

from amatune.detectors.ama import AMA, AMAConfig
from amatune.export import export_detector, onnx_bytes

# How long an example takes, to be made too, depends on what else the machine does.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# Whatever Ray is started here: no workers that nobody has asked for, each of which imports for a
# second, and none that wait until the machine has nothing else to do.
os.environ |= {
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_worker_niceness": "0",
}

torch.set_num_threads(1)  # small networks: more threads only wait for each other

# Files that take longest, in that order: they come first, so that none of them ends alone.
LONGEST = (
    "tuning/test_chaos.py",
    "tuning/test_search.py",
    "tuning/test_search_process.py",
    "cluster/test_processes.py",
    "tuning/test_retrain.py",
    "test_benchmarks.py",
    "test_docs.py",
    "test_conformance.py",
    "test_example_package.py",
    "cli/test_end_to_end.py",
    "test_packaging.py",
    "test_extras.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; all else stays as it is."""
    places = {Path(__file__).parent / file: place for place, file in enumerate(LONGEST)}
    assert all(file.exists() for file in places), "LONGEST names a file that is not there"
    items.sort(key=lambda item: places.get(item.path, len(places)))


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
def trust_the_machine(study: sqlite3.Connection, _: object) -> None:
    """Nothing waits until a study is on the disk: processes die in tests, machines do not."""
    study.execute("PRAGMA synchronous=OFF")


_revisions: dict[str | None, ScriptDirectory] = {}  # by the folder that they lie in
_read_revisions = ScriptDirectory.from_config


def read_revisions_once(config: Config) -> ScriptDirectory:
    """The revisions of Optuna's tables, a dozen Python files, which it runs anew to see whether a
    study that it opens is of the newest: most of the time that opening one takes."""
    folder = config.get_main_option("script_location")
    if folder not in _revisions:
        _revisions[folder] = _read_revisions(config)
    return _revisions[folder]


ScriptDirectory.from_config = read_revisions_once


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The one cluster of this process: searches find the connection open, and use it."""
    from fake_search import cluster  # here, since most tests need no Ray

    with cluster():
        yield


@pytest.fixture(autouse=True)
def no_terminal_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output as in a pipe, whatever the terminal, or the plugin that runs the tests, says."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def own_picture_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An empty cache of decoded pictures for each test, never the user's own."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{uuid.uuid4().hex}"
    monkeypatch.setenv("AMATUNE_CACHE", str(folder))
    monkeypatch.delenv("AMATUNE_CACHE_BYTES", raising=False)
    return folder


@pytest.fixture(scope="session")
def detector() -> AMA:
    """AMA for grey 12 x 12 images, trained for an epoch on 32 of them, and calibrated."""
    images = torch.from_numpy(_images(32))
    small = AMA(AMAConfig(epochs=1, batch_size=16, width=0.05, critic_steps=1), (1, 12, 12))
    small.train_epoch(images)
    small.calibrate(images)
    return small


@pytest.fixture(scope="session")
def onnx_model(detector: AMA) -> bytes:
    """The detector as an ONNX model: converting takes seconds."""
    return onnx_bytes(detector)


@pytest.fixture
def convert_once(onnx_model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile every export of the detector gets that model."""
    monkeypatch.setattr("amatune.export.folder.onnx_bytes", lambda _detector: onnx_model)


@pytest.fixture
def exported(detector: AMA, tmp_path: Path, convert_once: None) -> Path:  # noqa: ARG001
    """The detector in a folder of its own, with the scores of 30 normal images."""
    scores = detector.score(torch.from_numpy(_images(30)))
    export_detector(detector, tmp_path / "model", figures={}, data={}, normal_scores=scores)
    return tmp_path / "model"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five PNG pictures, 0.png to 4.png, that fit the detector."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, image in enumerate(_images(5)):
        Image.fromarray(image[0]).save(folder / f"{number}.png")
    return folder


def _images(count: int) -> np.ndarray:
    """Noise, uint8 (count, 1, 12, 12)."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, 1, 12, 12), dtype=np.uint8)
