"""Without the extras: what works, and the one line that is said where something is missing."""

import json
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

# Each line of commands in turn; a result for each, as JSON.
COMMANDS = """
import contextlib, io, json
from amatune.cli import main

results = []
for words in LINES:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


def amatune_without(
    missing: tuple[str, ...], *lines: str, how: str = WITHOUT
) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of command lines where those packages cannot be imported.

    In one process of their own, which has imported nothing before.
    """
    words = [line.split() for line in lines]
    source = f"MISSING = {missing!r}\nLINES = {words!r}\n{how}\n{COMMANDS}"
    path = os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


ALL = tuple({package: None for packages in EXTRAS.values() for package in packages})
# What each command lacks without any extra.
LACKS = {
    "search --trials 1": "search",
    "search --config a.yaml": "search",
    "best": "search",
    "status": "search",
    "space ama": "search",
    "report": "report",
}


def test_without_any_extra(exported: Path, pictures: Path) -> None:
    Path("a.yaml").write_text("trials: 3", encoding="utf-8")
    works = [f"score {exported} {pictures}", "datasets", "datasets digits", "methods"]
    works += ["--help", "search --help"]
    found = amatune_without(ALL, *works, *LACKS)
    for line, (code, out, err) in zip(works, found[: len(works)], strict=True):
        assert (code, err) == (0, ""), line
        assert out, line
    assert found[0][1].count("\n") == 6  # a row for each picture
    for (line, extra), (code, out, err) in zip(LACKS.items(), found[len(works) :], strict=True):
        assert (code, out) == (2, ""), line
        assert err.count("\n") == 1, line
        assert f"pip install 'amatune[{extra}]'" in err, line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "missing",
    [
        {"tensorboard": ("search --trials 1", "search"), "jinja2": ("report", "report")},
        {"pyarrow": ("search --trials 1", "search")},
    ],
)
def test_a_part_of_an_extra_is_not_enough(missing: dict[str, tuple[str, str]]) -> None:
    found = amatune_without(tuple(missing), *(line for line, _ in missing.values()))
    for (package, (line, extra)), (code, out, err) in zip(missing.items(), found, strict=True):
        assert (code, out) == (2, ""), line
        assert err.count("\n") == 1
        assert f"this needs {package}, not installed here" in err
        assert f"pip install 'amatune[{extra}]'" in err
    assert not Path("runs").exists()


def test_a_report_needs_no_ray() -> None:
    ((code, _, err),) = amatune_without(("ray", "tensorboard", "pyarrow", "onnx"), "report")
    assert code == 2
    assert "there are no runs" in err


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


def test_commands_start_on_windows(exported: Path, pictures: Path) -> None:
    lines = (f"score {exported} {pictures}", "datasets", "methods", "report")
    *others, report = amatune_without(POSIX, *lines, how=WINDOWS)
    for line, (code, out, err) in zip(lines, others, strict=False):
        assert (code, err) == (0, ""), line
        assert out, line
    assert report[0] == 2
    assert "there are no runs" in report[2]
