"""What the tests of the command line share."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import amatune.tuning.search
from amatune.data.protocol import make_problem
from amatune.errors import DivergedError
from amatune.runs import RunFolder
from amatune.runs.record import Circumstances, ProblemRecord, RunRecord
from amatune.runs.request import SearchRequest


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Takes the place of the search: notes what it was asked and fails."""
    calls: list[Any] = []

    def note(
        request: SearchRequest, listener: Any, resume: bool, first: Any, trust_space: bool
    ) -> None:
        calls[:] = [request, resume, listener, first, trust_space]
        raise DivergedError("noted")

    monkeypatch.setattr(amatune.tuning.search, "run_search", note)
    return calls


@pytest.fixture
def save_run() -> Callable[..., RunFolder]:
    """Makes a run in `runs` of a request, and of settings that were tried first."""

    def save(request: SearchRequest, first: Sequence[Mapping[str, Any]] = ({},)) -> RunFolder:
        run = RunFolder.create("runs", request.name, "digits")
        problem = ProblemRecord.from_dict(make_problem(request.problem).to_dict())
        begun = Circumstances(started="2025", command="amatune search", versions={})
        record = RunRecord(request=request, problem=problem, begun=begun, first=tuple(first))
        run.write(record)
        return run

    return save
