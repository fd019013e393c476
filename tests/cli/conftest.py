"""What the tests of the command line share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from some_events import started

import amatune.tuning.rehearsal
import amatune.tuning.search
from amatune.data.protocol import make_problem
from amatune.errors import DivergedError
from amatune.runs import RunFolder
from amatune.runs.record import Circumstances, ProblemRecord, RunRecord
from amatune.runs.request import SearchRequest
from amatune.tuning.events import TimeEstimate


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
def rehearsed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Takes the place of a dry run: notes what it was asked, and estimates an hour."""
    calls: list[Any] = []

    def note(request: SearchRequest, listener: Any, resume: bool, **others: Any) -> TimeEstimate:
        calls[:] = [request, resume, others]
        told = TimeEstimate(trainings=9, seconds_per_step=0.5, seconds=3600.0, at_most=True)
        listener(started(run=None))
        listener(told)
        return told

    monkeypatch.setattr(amatune.tuning.rehearsal, "rehearse", note)
    return calls


@pytest.fixture
def save_run() -> Callable[..., RunFolder]:
    """Makes a run in `runs` of a request, and of settings that were tried first."""

    def save(
        request: SearchRequest,
        first: Sequence[Mapping[str, Any]] = ({},),
        known: int | None = None,
    ) -> RunFolder:
        run = RunFolder.create("runs", request.name, "digits")
        problem = ProblemRecord.from_dict(make_problem(request.problem).to_dict())
        begun = Circumstances(started="2025", command="amatune search", versions={})
        record = RunRecord(request=request, problem=problem, begun=begun, first=tuple(first))
        run.write(dataclasses.replace(record, known=known))
        return run

    return save
