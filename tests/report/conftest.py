"""Runs that are reported on, and the page of one."""

import shutil
from pathlib import Path

import fake_method
import pytest
from fake_run import finished_run, small_problem
from parsed_page import Parsed

from amatune import report
from amatune.data.problem import Problem
from amatune.runs import RunFolder


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_method.install(monkeypatch)
    monkeypatch.setattr("amatune.report.curves.BOOTSTRAP", 20)
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* the library */")


@pytest.fixture(scope="session")
def problem() -> Problem:
    return small_problem()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, problem: Problem) -> RunFolder:
    """A tested run; tests that change something copy it."""
    return finished_run(tmp_path_factory.mktemp("runs") / "parts", problem)


@pytest.fixture(scope="session")
def page(finished: RunFolder) -> Parsed:
    """Its report, as it is in every respect."""
    with pytest.MonkeyPatch.context() as patch:
        fake_method.install(patch)
        made = report.make_report(finished)
    assert made.notes == ()
    return Parsed(made.page)


@pytest.fixture
def tested(finished: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(finished.path, tmp_path / "runs" / "parts")
    return RunFolder(tmp_path / "runs" / "parts")


@pytest.fixture
def untested(tested: RunFolder) -> RunFolder:
    shutil.rmtree(tested.best)
    return tested
