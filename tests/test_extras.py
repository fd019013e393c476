"""Without the extras: what works, and the one line that is said where something is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import amatune
from amatune.errors import RequestError
from amatune.extras import EXTRAS, MissingExtraError, require_extra

SOURCES = Path(amatune.__file__).parent.parent

# As if the packages were not installed, for every importer.
WITHOUT = """
import importlib.abc, sys

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
"""

# As if this were Windows, for the modules of amatune alone: those of others know what to do there.
WINDOWS = """
import builtins, sys
importing = builtins.__import__

def on_windows(name, globals=None, locals=None, fromlist=(), level=0):
    if name in MISSING and (globals or {}).get("__name__", "").startswith("amatune"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return importing(name, globals, locals, fromlist, level)

builtins.__import__ = on_windows
"""

POSIX = ("fcntl", "pwd", "grp", "termios", "resource", "tty", "pty")


def amatune_without(
    missing: tuple[str, ...], *words: str, how: str = WITHOUT
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, where those packages cannot be imported."""
    source = (
        f"MISSING = {missing!r}\n{how}\n"
        f"from amatune.cli import main\nsys.exit(main({list(words)!r}))\n"
    )
    path = os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


ALL = tuple({package: None for packages in EXTRAS.values() for package in packages})


def test_scoring_needs_no_extra(exported: Path, pictures: Path) -> None:
    done = amatune_without(ALL, "score", str(exported), str(pictures))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 6


@pytest.mark.parametrize("words", [["datasets"], ["methods"], ["space", "ama"], ["--help"]])
def test_lists_need_no_extra(words: list[str]) -> None:
    done = amatune_without(ALL, *words)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("missing", "words", "extra"),
    [
        (ALL, ["search", "--trials", "1"], "search"),
        (("tensorboard",), ["search", "--trials", "1"], "search"),
        (("pyarrow",), ["search", "--trials", "1"], "search"),
        (ALL, ["best"], "search"),
        (ALL, ["status"], "search"),
        (ALL, ["report"], "report"),
        (("jinja2",), ["report"], "report"),
    ],
)
def test_what_is_missing_is_one_line(
    missing: tuple[str, ...], words: list[str], extra: str
) -> None:
    done = amatune_without(missing, *words)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert f"pip install 'amatune[{extra}]'" in line
    assert any(package in line for package in missing)
    assert done.stdout == ""
    assert not Path("runs").exists()


def test_a_report_needs_no_ray() -> None:
    done = amatune_without(("ray", "tensorboard", "pyarrow", "onnx"), "report")
    assert done.returncode == 2
    assert "there are no runs" in done.stderr


def test_the_message_names_what_is_missing_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "search", ("json", "no_such_package", "nor.this"))
    with pytest.raises(MissingExtraError) as caught:
        require_extra("search")
    assert str(caught.value) == (
        "this needs no_such_package and nor.this, not installed here; they come with "
        "pip install 'amatune[search]'"
    )
    assert isinstance(caught.value, RequestError)
    assert caught.value.exit_code == 2
    require_extra("search", "json")


@pytest.mark.parametrize("words", [["datasets"], ["report"], ["methods"]])
def test_commands_start_on_windows(words: list[str]) -> None:
    done = amatune_without(POSIX, *words, how=WINDOWS)
    if words == ["report"]:
        assert done.returncode == 2
        assert "there are no runs" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_scoring_starts_on_windows(exported: Path, pictures: Path) -> None:
    done = amatune_without(POSIX, "score", str(exported), str(pictures), how=WINDOWS)
    assert (done.returncode, done.stderr) == (0, "")
