"""The import arrows of the design, read in the source of every module.

Every import counts, also one inside a function or for type checking alone: what a module may know
does not depend on when it looks.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("amatune", "search_spaces", "trainables")

# Part of the project -> the parts it may import. A part is the first name below `amatune`, or one
# of the two other packages; modules of one part may import each other, detectors excepted.
BELOW_TUNING = {
    *("errors", "detector", "core", "backbones", "detectors", "registry"),
    *("data", "runs", "metrics", "version"),
}
ARROWS: dict[str, set[str]] = {
    # amatune/__init__.py: the version, and `load` and `AnomalyDetector` on demand
    "version": {"export", "estimator"},
    "errors": set(),
    "detector": {"errors"},
    "core": {"errors", "detector"},
    "backbones": {"errors", "detector", "core"},
    "detectors": {"errors", "detector", "core", "backbones"},
    "registry": {"errors", "detector", "core", "backbones", "detectors"},
    "metrics": set(),
    "data": {"errors", "metrics"},
    "runs": {"errors", "data"},
    "tuning": BELOW_TUNING,
    "export": BELOW_TUNING,
    "estimator": BELOW_TUNING,
    "report": {"version", "errors", "metrics", "runs", "data", "detector", "registry", "tuning"},
    "cli": {*BELOW_TUNING, "tuning", "export", "report"},
    "search_spaces": set(),
    "trainables": {*BELOW_TUNING, "tuning", "search_spaces"},
}

# Packages of others that only some parts may import ...
RESERVED = {
    "ray": {"tuning", "trainables"},
    "optuna": {"tuning", "trainables"},
    "onnx": {"export"},
    "typer": {"cli"},
    "rich": {"cli"},
}
# ... and parts that may import only some packages of others.
RESTRICTED: dict[str, set[str]] = {
    "errors": set(),
    "detector": {"torch"},
    "estimator": {"numpy", "torch", "sklearn"},
    "core": {"torch"},
    "metrics": {"numpy"},
    "data": {
        *("numpy", "torch", "torchvision", "PIL", "sklearn", "scipy"),
        *("platformdirs", "filelock"),
    },
    "runs": set(),
    "search_spaces": set(),
}


def part_of(module: str) -> str:
    """The part a module of the project belongs to."""
    package, _, rest = module.partition(".")
    if package != "amatune":
        return package
    return rest.partition(".")[0] or "version"


def module_name(path: Path) -> str:
    names = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def imported(source: str, path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a source imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).parts[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                # `from amatune import runs` imports a module, `from amatune.runs import RunFolder`
                # a name: only what lies on disk is a module.
                full = f"{base}.{alias.name}"
                file = ROOT.joinpath(*full.split("."))
                is_module = file.is_dir() or file.with_suffix(".py").exists()
                yield node.lineno, full if is_module else base


def forbidden(source: str, path: Path) -> list[str]:
    """Every import of a source that the design forbids, with file and line."""
    importer = module_name(path)
    part = part_of(importer)
    where = path.relative_to(ROOT)
    if part not in ARROWS:
        return [
            f"{where}:1: the part {part!r} has no arrows; give it some in {Path(__file__).name}"
        ]
    found = []
    for line, module in imported(source, path):
        top = module.partition(".")[0]
        if top in PACKAGES:
            target = part_of(module)
            wrong = target != part and target not in ARROWS[part]
            if part == target == "detectors":
                wrong = module not in (importer, "amatune.detectors")
        elif top in sys.stdlib_module_names:
            wrong = False
        else:
            wrong = part not in RESERVED.get(top, {part}) or top not in RESTRICTED.get(part, {top})
        if wrong:
            found.append(f"{where}:{line}: {importer} must not import {module}")
    return found


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_every_module_is_read() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in sources()} == set(PACKAGES)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path: Path) -> None:
    found = forbidden(path.read_text(encoding="utf-8"), path)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "line", "module"),
    [
        ("amatune/errors.py", "import amatune.runs", "amatune.runs"),
        ("amatune/nets/losses.py", "from amatune import registry", "amatune.registry"),
        ("amatune/nets/losses.py", "from .. import registry", "amatune.registry"),
        ("amatune/nets/losses.py", "import numpy", "numpy"),
        ("amatune/detectors/new.py", "from amatune.detectors import ama", "amatune.detectors.ama"),
        ("amatune/detectors/new.py", "from .ama import AMA", "amatune.detectors.ama"),
        ("amatune/detectors/new.py", "def f():\n    import optuna", "optuna"),
        ("amatune/registry.py", "import amatune.trainables.ama", "trainables.ama"),
        ("amatune/tuning/search.py", "import amatune.search_spaces", "search_spaces"),
        ("amatune/tuning/search.py", "from amatune.export import load", "amatune.export"),
        ("amatune/tuning/search.py", "from rich.live import Live", "rich.live"),
        ("amatune/export/folder.py", "import ray.tune", "ray.tune"),
        ("amatune/export/folder.py", "from amatune.tuning import job", "amatune.cluster.job"),
        ("amatune/estimator.py", "import optuna", "optuna"),
        ("amatune/estimator.py", "from amatune.export import load", "amatune.export"),
        ("amatune/cli.py", "import optuna", "optuna"),
        ("amatune/report.py", "import optuna", "optuna"),
        ("amatune/report.py", "from amatune.export import load", "amatune.export"),
        ("amatune/tuning/figures.py", "import amatune.report", "amatune.report"),
        ("amatune/metrics.py", "from scipy import stats", "scipy"),
        ("amatune/data/protocol.py", "import amatune.runs", "amatune.runs"),
        ("search_spaces/ama.py", "import amatune", "amatune"),
        ("search_spaces/ama.py", "import optuna", "optuna"),
        ("trainables/ama.py", "from amatune.cli import main", "amatune.cli"),
    ],
)
def test_a_forbidden_arrow_is_reported(file: str, line: str, module: str) -> None:
    found = forbidden(f"import os\n{line}\n", ROOT / file)
    number = 1 + len(line.splitlines())
    importer = module_name(ROOT / file)
    assert found == [f"{file}:{number}: {importer} must not import {module}"]


def test_a_part_without_arrows_is_reported() -> None:
    (found,) = forbidden("", ROOT / "amatune/novelty.py")
    assert "novelty" in found
