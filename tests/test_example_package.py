"""A method in a package of its own, installed: listed, searched, retrained, exported and scored."""

import csv
import json
import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import linear_autoencoder
import numpy as np
import pytest
from PIL import Image

from amatune.registry import Method
from amatune.testing import MethodTests

PACKAGE = Path(linear_autoencoder.__file__).parent.parent
METHOD = "linear-autoencoder"


class TestItsMethod(MethodTests):
    """What the package's own tests would be."""

    @pytest.fixture
    def method(self) -> Method:
        return linear_autoencoder.METHOD


def run(*words: object, folder: Path | None = None) -> str:
    """A command's standard output. Its errors are shown where it fails."""
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the package in it, and all that this one has."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False, symlinks=os.name != "nt")
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = folder / "venv" / scripts / Path(sys.executable).name
    own = run(python, "-c", "import site; print(site.getsitepackages()[-1])").strip()
    lines = [f"import site; site.addsitedir({place!r})\n" for place in site.getsitepackages()]
    Path(own, "all_of_this.pth").write_text("".join(lines), encoding="utf-8")
    shutil.copytree(PACKAGE, folder / "source")  # where building may leave things
    run(
        *(sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"),
        *("install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"),
        folder / "source",
    )
    return python


# The commands one after the other in one process and one Ray cluster: starting takes the time.
COMMANDS = """
import json, os, sys
from pathlib import Path
import ray
from amatune.cli import main
from amatune.cluster import connection

methods, space, search, best, score = json.loads(sys.argv[1])
for words in (methods, space):
    assert main(words) == 0, words
with connection.cluster(None, Path("log.txt")):
    # What has no share of a GPU sees none, else it would take some of its memory.
    seen = ray.remote(num_cpus=1)(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    assert ray.get(seen.remote()) == ""
    for words in (search, best):
        assert main(words) == 0, words
assert main(score) == 0, score
"""


def test_it_is_searched_retrained_exported_and_scored_like_any_other(
    python: Path, tmp_path: Path
) -> None:
    problem = f"search --method {METHOD} --image-size 8 --val-anomalies 10 --name run"
    commands = [
        "methods",
        f"space {METHOD}",
        f"{problem} --trials 2 --epochs 2 --concurrent 1 --json",
        "best run --top 1 --seeds 1 --export",
        "score runs/run/best/export pictures",
    ]
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{number}.png")
    words = json.dumps([command.split() for command in commands])
    told = run(python, "-c", COMMANDS, words, folder=tmp_path)
    assert METHOD in told
    assert "latent_dim" in told
    events = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    warnings = next(event["warnings"] for event in events if event["event"] == "search_started")
    assert "linear-autoencoder cannot be exported to ONNX: its score is a gradient" in warnings
    assert "warning: linear-autoencoder cannot be exported" in told  # before retraining, too

    export = tmp_path / "runs" / "run" / "best" / "export"
    assert {path.name for path in export.iterdir()} == {
        *("README.md", "calibration.safetensors", "config.json", "model.safetensors")
    }
    assert "its score is a gradient" in (export / "README.md").read_text(encoding="utf-8")
    rows = list(csv.DictReader(told.splitlines()[-4:]))
    assert len(rows) == 3
    assert all(float(row["slope"]) == float(row["score"]) > 0 for row in rows)


def test_one_that_is_broken_is_told_and_harms_no_other(python: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['linear_autoencoder'] = None\n"
        "from amatune.cli import main\n"
        "assert main(['methods']) == 0\n"
        f"assert main(['space', {METHOD!r}]) == 2\n"
    )
    done = subprocess.run(
        [python, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "ama" in done.stdout
    told = f"the method {METHOD!r} of {METHOD} 1.0 cannot be used: linear_autoencoder:METHOD raises"
    assert f"warning: {told}" in " ".join(done.stdout.split())
    assert told in done.stderr
