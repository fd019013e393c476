"""The documents: examples run, command lines parse, links resolve, the tables are right."""

import importlib.util
import itertools
import random
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import pytest
from command_lines import check, command_lines

import amatune.detectors
import amatune.search_spaces
import amatune.trainables
from amatune.cli import main
from amatune.cli.config import assigned
from amatune.cli.options import assignment
from amatune.detectors.ama import AMA, AMAConfig
from amatune.export import export_detector
from amatune.registry import Method, find_method
from amatune.runs.request import SearchRequest
from amatune.testing import MethodTests
from amatune.wording import value_text

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "deploy" / "README.md"])
METHOD = "plain-autoencoder"  # of docs/adding-a-method.md


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Language and contents of every fenced block."""
    text = path.read_text(encoding="utf-8")
    for indent, language, inside in re.findall(
        r"^( *)```(\w*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE
    ):
        yield language, re.sub(rf"^{indent}", "", inside, flags=re.MULTILINE)


def python_blocks(path: Path) -> list[str]:
    return [text for language, text in blocks(path) if language == "python"]


# --- examples -------------------------------------------------------------------------------------

# What takes long, and the same in seconds.
SMALLER = {
    "(512, 1, 28, 28)": "(32, 1, 28, 28)",
    "trials=12, epochs=30, width=0.25": (
        "trials=1, epochs=1, width=0.05, image_size=12, gpus_per_trial=0"
    ),
    "=3": "=1",
}


@pytest.fixture
def in_a_folder_with_an_export(
    tmp_path: Path, detector: AMA, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the examples read: exports and pictures, under the names they have there."""
    monkeypatch.chdir(tmp_path)
    export_detector(detector, "export", figures={}, data={})
    for place in ("runs/parts-full/best/export", "demo/runs/digits/best/export"):
        shutil.copytree("export", place)
    for place in ("photos/new", "photos/new-good", "demo/pictures"):
        shutil.copytree(pictures, place)


@pytest.fixture
def with_the_method_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its three files where the registry looks."""
    packages = (amatune.detectors, amatune.search_spaces, amatune.trainables)
    file = f"{METHOD.replace('-', '_')}.py"
    for package, source in zip(packages, python_blocks(DOCS / "adding-a-method.md"), strict=False):
        folder = tmp_path / "method" / package.__name__
        folder.mkdir(parents=True)
        (folder / file).write_text(source, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, f"{package.__name__}.{Path(file).stem}", raising=False)
    importlib.invalidate_caches()


@pytest.mark.parametrize("path", [p for p in PAGES if python_blocks(p)], ids=name_of)
@pytest.mark.usefixtures("in_a_folder_with_an_export", "with_the_method_of_the_docs")
def test_examples_run(
    path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any("amatune.search" in source for source in python_blocks(path)):
        request.getfixturevalue("ray_cluster")
    example = types.ModuleType("example")  # one for the page: later examples build on earlier ones
    monkeypatch.setitem(sys.modules, "example", example)
    for number, published in enumerate(python_blocks(path)):
        source = published
        for large, small in SMALLER.items():
            source = source.replace(large, small)
        exec(compile(source, f"{name_of(path)}, example {number + 1}", "exec"), example.__dict__)


def test_the_options_in_a_file_of_the_docs_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[SearchRequest] = []

    def note(request: SearchRequest, **_: object) -> None:
        asked.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr("amatune.tuning.search.run_search", note)
    (text,) = [text for language, text in blocks(DOCS / "python.md") if language == "yaml"]
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert main(["search", "--config", str(tmp_path / "config.yaml")]) == 130
    assert asked[0].trials == 40
    assert asked[0].fixed == {"geometry": "ray", "critic_steps": 2}


class TestTheMethodOfTheDocs(MethodTests):
    @pytest.fixture
    def method(self, with_the_method_of_the_docs: None) -> Method:  # noqa: ARG002
        return find_method(METHOD)


# --- command lines --------------------------------------------------------------------------------

# Commands whose options the documents mention alone, and the arguments that they cannot do without.
NEEDED = {
    "search": [],
    "best": [],
    "score": ["export", "picture"],
    "verify": ["export", "picture"],
    "recalibrate": ["export", "picture"],
    "quantize": ["export", "picture"],
    "compare": ["one", "other"],
    "report": [],
    "plan": [],
    "datasets": [],
    "reproduce": ["table1"],
}


def problem_of(words: list[str]) -> str | None:
    """What is wrong with a command line: options, and the names that --fix gives."""
    found = check(words)
    fixed = [after for word, after in itertools.pairwise(words) if word == "--fix"]
    if found is None and fixed and "--method" not in words:
        AMAConfig.from_dict(assigned([assignment(word) for word in fixed if "..." not in word]))
    return found


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_command_lines_parse(path: Path) -> None:
    texts = [text for language, text in blocks(path) if language in ("", "console", "bash")]
    # In running text, commands stand in backticks; options alone are words of `search` or `best`.
    prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    quoted = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    texts += [code for code in quoted if re.match(r"amatune \w+ .*--", code)]
    lines = [words for text in texts for words in command_lines(text)]
    assert not [(words, problem) for words in lines if (problem := problem_of(words))]

    option = re.compile(r"--[a-z][a-z-]+")
    alone = {code.split()[0] for code in quoted if option.match(code) and " " in code + " "}
    foreign = {"--help", "--ipc=host", "--shm-size", "--version"}
    unknown = [
        name
        for name in sorted(alone - foreign)
        if all(
            str(check([command, *needed, name])).startswith("No such option")
            for command, needed in NEEDED.items()
        )
    ]
    assert not unknown


def test_command_lines_are_found() -> None:
    lines = list(command_lines((DOCS / "tutorial.md").read_text(encoding="utf-8")))
    assert {words[0] for words in lines} >= {"search", "status", "best", "score"}
    assert problem_of(["search", "--trails", "3"])
    assert problem_of(["serach"])


# --- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_between_documents_resolve(path: Path) -> None:
    generated = hooks().PAGES
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!\w+:)([^)\s]*)\)", text):
        page, _, anchor = target.partition("#")
        file = path.parent / page if page else path
        if path.parent == DOCS and page in generated:
            file = ROOT / generated[page]
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), target


def slug(heading: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def hooks():
    specification = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_links_out_of_a_generated_page_lead_to_pages_or_nowhere() -> None:
    relinked = hooks().relinked
    text = "[a](deploy/README.md#slurm), [b](pyproject.toml), [c](https://x.org/y), [d](#e)"
    expected = "[a](deploy.md#slurm), b, [c](https://x.org/y), [d](#e)"
    assert relinked(text, Path()) == expected


# --- the settings of AMA --------------------------------------------------------------------------


def test_every_setting_is_documented_with_its_default() -> None:
    text = (DOCS / "ama.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`( \*)? \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    assert [row[0] for row in rows if not row[4].strip()] == []
    defaults = {name: default.strip() for name, _, default, _, _ in rows}
    assert len(defaults) == len(rows)
    written = {}
    for field in fields(AMAConfig):
        value = field.default
        written[field.name] = f"{value:g}" if isinstance(value, float) else value_text(value)
    assert defaults == written
    searched: set[str] = set()

    class Trial:
        def __init__(self, choice: int) -> None:
            self.choices = random.Random(choice)

        def suggest_categorical(self, name: str, choices: list[str]) -> str:
            searched.add(name)
            return self.choices.choice(choices)

        def suggest_float(self, name: str, low: float, *_: float, **__: object) -> float:
            searched.add(name)
            return low

        suggest_int = suggest_float

    for choice in range(50):
        find_method("ama").space(Trial(choice))
    assert {name for name, mark, *_ in rows if mark} == searched


# --- the site -------------------------------------------------------------------------------------


class Assets(HTMLParser):
    """What a page loads by itself: links to follow do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(values.get("src") or "")
        elif tag == "link" and values.get("rel") not in ("canonical", "prev", "next", "edit"):
            self.found.append(values.get("href") or "")


def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    # Not --quiet: what is not said is not counted either, and nothing is a warning then.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {path.stem for path in PAGES if path.parent == DOCS} | {
        Path(page).stem for page in hooks().PAGES
    }
    assert {path.stem for path in tmp_path.glob("*.html")} == {*names, "404"}
    for page in tmp_path.glob("*.html"):
        assets = Assets()
        html = page.read_text(encoding="utf-8")
        assets.feed(html)
        assert not [asset for asset in assets.found if re.match(r"(https?:)?//", asset)], page.name
        assert not re.search(r"@import|url\([\"']?(https?:)?//", html), page.name
