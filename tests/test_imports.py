"""The import arrows of the design, read in the source of every module.

Every import counts, also one inside a function or for type checking alone: what a module may know
does not depend on when it looks.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("amatune", "search_spaces", "trainables")

# Room of the project -> the rooms it may import. A room is the first name below `amatune`: a folder
# or a file. Files of one room may import each other, detectors excepted.
BASE = {"errors", "extras", "version"}  # for all
TRAINED = {*(*BASE, "config", "detector", "detectors", "registry", "sealed", "several", "stored")}
ARROWS: dict[str, set[str]] = {
    "package": {"version", "api", "estimator", "export"},  # amatune/__init__.py, on demand
    "version": set(),
    "errors": set(),
    "extras": {"errors"},
    "wording": set(),
    "metrics": set(),
    "fields": set(),
    "config": {"errors", "fields"},
    "loop": {"errors"},
    "maps": set(),
    "detector": {"errors", "config", "loop", "maps"},
    "nets": {*BASE, "config", "detector"},
    "detectors": {"errors", "extras", "config", "detector", "nets"},
    "several": {"errors", "config", "detector"},
    "registry": {*BASE, "config", "detector", "detectors", "several"},
    "data": {*BASE, "files", "metrics", "wording"},
    "files": {"errors"},
    "reading": {"errors", "fields"},
    "sealed": {"errors", "files"},
    "stored": {*BASE, "files", "config", "detector", "registry", "sealed"},
    "runs": {*BASE, "fields", "files", "reading", "config", "metrics", "data", "registry"},
    "results": {*TRAINED, "nets", "files", "reading", "wording", "metrics", "data", "runs"},
    "cluster": {*TRAINED, "files", "wording", "metrics", "data", "runs", "results"},
    "trainables": {*TRAINED, "metrics", "data", "cluster", "results"},
    "search_spaces": set(),
    "tuning": {
        *TRAINED,
        *("fields", "files", "wording", "metrics", "data", "runs", "results", "cluster"),
    },
    "export": {*TRAINED, "fields", "files", "wording", "metrics", "data", "runs", "results"},
    "report": {*TRAINED, "files", "wording", "metrics", "data", "runs", "results", "tuning"},
    "reproduce": {
        *TRAINED,
        "files",
        "reading",
        "wording",
        "metrics",
        "data",
        "runs",
        "results",
        "tuning",
    },
    "estimator": TRAINED,
    "testing": {*TRAINED, "data", "tuning", "export"},
    "api": {*TRAINED, "data", "runs", "results", "tuning", "export", "report"},
    "cli": {
        *(*TRAINED, "files", "wording", "metrics", "data", "runs", "results"),
        *("tuning", "export", "report", "reproduce", "api"),
    },
    "__main__": {"cli"},
}

# Packages of others that only some rooms may import ...
RESERVED = {
    "ray": {"cluster", "trainables"},
    "optuna": {"tuning", "report"},
    "plotly": {"report"},
    "jinja2": {"report", "reproduce"},
    "tensorboard": {"cluster"},
    "onnx": {"export"},
    "onnxscript": {"export"},
    "onnxruntime": {"export"},
    "openvino": {"export"},
    "typer": {"cli"},
    "rich": {"cli"},
    "sklearn": {"estimator", "data"},
}
# ... and rooms that may import only some packages of others.
RESTRICTED: dict[str, set[str]] = {
    **{
        room: set()
        for room in ("errors", "version", "wording", "fields", "config", "search_spaces")
    },
    **{room: {"torch", "numpy"} for room in ("detector", "detectors")},
    "nets": {"torch", "numpy", "PIL", "imagecodecs"},
    "estimator": {"numpy", "torch", "sklearn"},
    "metrics": {"numpy"},
    "results": {"numpy", "scipy", "PIL"},
}


def room_of(module: str) -> str:
    """The room a module of the project belongs to."""
    return module.partition(".")[2].partition(".")[0] or "package"


def module_name(path: Path) -> str:
    """As which a file is imported: `search_spaces/ama.py` is `amatune.search_spaces.ama`."""
    names = path.relative_to(ROOT).with_suffix("").parts
    if names[0] != "amatune":
        names = ("amatune", *names)
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def file_of(module: str) -> Path | None:
    """The file of a module of the project."""
    names = module.split(".")
    if names[1:2] and names[1] in ("search_spaces", "trainables"):
        names = names[1:]
    place = ROOT.joinpath(*names)
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if path.exists():
            return path
    return None


def imported(source: str, path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a source imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["amatune", *path.relative_to(ROOT).parts[:-1]]
                package = package[1:] if package[1] == "amatune" else package
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                # `from amatune import runs` imports a module, `from amatune.runs import RunFolder`
                # a name: only what lies on disk is a module.
                full = f"{base}.{alias.name}"
                is_module = base.partition(".")[0] == "amatune" and file_of(full) is not None
                yield node.lineno, full if is_module else base


def forbidden(source: str, path: Path) -> list[str]:
    """Every import of a source that the design forbids, with file and line."""
    importer = module_name(path)
    room = room_of(importer)
    where = path.relative_to(ROOT)
    if room not in ARROWS:
        return [
            f"{where}:1: the room {room!r} has no arrows; give it some in {Path(__file__).name}"
        ]
    found = []
    for line, module in imported(source, path):
        top = module.partition(".")[0]
        if top == "amatune":
            target = room_of(module)
            wrong = target != room and target not in ARROWS[room]
            if room == target == "detectors":
                own = importer.split(".")[:3]
                wrong = module.split(".")[:3] not in (own, ["amatune", "detectors"])
        elif top in sys.stdlib_module_names:
            wrong = False
        else:
            wrong = room not in RESERVED.get(top, {room}) or top not in RESTRICTED.get(room, {top})
        if wrong:
            found.append(f"{where}:{line}: {importer} must not import {module}")
    return found


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of files that import each other, directly or on a way round."""
    reachable = {start: _reachable(start, arrows) for start in arrows}
    found = {
        tuple(sorted(other for other in reachable[one] if one in reachable.get(other, ())))
        for one in arrows
        if one in reachable[one]
    }
    return sorted(map(list, found))


def _reachable(start: str, arrows: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for target in arrows.get(waiting.pop(), ()):
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_every_module_is_read() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in sources()} == set(FOLDERS)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path: Path) -> None:
    found = forbidden(path.read_text(encoding="utf-8"), path)
    assert not found, "\n".join(found)


def test_no_files_import_each_other() -> None:
    arrows = {
        module_name(path): {
            module
            for _, module in imported(path.read_text(encoding="utf-8"), path)
            if module.startswith("amatune.") and module != module_name(path)
        }
        for path in sources()
        if module_name(path) != "amatune"  # it imports what is asked of it, when it is
    }
    assert circles(arrows) == []


def test_a_circle_is_found() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert circles(arrows) == [["b", "c"]]


def test_no_file_is_longer_than_500_lines() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in sources()}
    assert {name: lines for name, lines in lengths.items() if lines > 500} == {}


@pytest.mark.parametrize(
    ("file", "line", "module"),
    [
        ("amatune/errors.py", "import amatune.runs", "amatune.runs"),
        ("amatune/nets/sizes.py", "from amatune import registry", "amatune.registry"),
        ("amatune/nets/sizes.py", "from .. import registry", "amatune.registry"),
        ("amatune/nets/sizes.py", "import scipy", "scipy"),
        ("amatune/detectors/new.py", "from amatune.detectors import ama", "amatune.detectors.ama"),
        ("amatune/detectors/new.py", "from .ama.latent import x", "amatune.detectors.ama.latent"),
        ("amatune/detectors/new.py", "def f():\n    import optuna", "optuna"),
        ("amatune/registry.py", "import amatune.trainables.ama", "amatune.trainables.ama"),
        ("amatune/tuning/search.py", "from amatune.export import load", "amatune.export"),
        ("amatune/tuning/search.py", "from rich.live import Live", "rich.live"),
        ("amatune/export/folder.py", "import ray.tune", "ray.tune"),
        ("amatune/export/folder.py", "from amatune.cluster import job", "amatune.cluster.job"),
        ("amatune/cluster/job.py", "from amatune.tuning import study", "amatune.tuning.study"),
        ("amatune/results/scores.py", "from amatune.tuning import study", "amatune.tuning.study"),
        ("amatune/estimator.py", "import optuna", "optuna"),
        ("amatune/estimator.py", "from amatune.export import load", "amatune.export"),
        ("amatune/cli/app.py", "import optuna", "optuna"),
        ("amatune/report/page.py", "from amatune.export import load", "amatune.export"),
        ("amatune/tuning/study.py", "import amatune.report", "amatune.report"),
        ("amatune/metrics.py", "from scipy import stats", "scipy"),
        ("amatune/data/problem.py", "import amatune.runs", "amatune.runs"),
        ("search_spaces/ama.py", "import amatune", "amatune"),
        ("search_spaces/ama.py", "import optuna", "optuna"),
        ("trainables/ama.py", "from amatune.cli import main", "amatune.cli"),
        ("trainables/ama.py", "from ..cli import main", "amatune.cli"),
    ],
)
def test_a_forbidden_arrow_is_reported(file: str, line: str, module: str) -> None:
    found = forbidden(f"import os\n{line}\n", ROOT / file)
    number = 1 + len(line.splitlines())
    importer = module_name(ROOT / file)
    assert found == [f"{file}:{number}: {importer} must not import {module}"]


def test_a_room_without_arrows_is_reported() -> None:
    (found,) = forbidden("", ROOT / "amatune/novelty.py")
    assert "novelty" in found
