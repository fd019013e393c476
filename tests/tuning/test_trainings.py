"""What a search and a retraining have in common: their jobs say which run they belong to."""

from dataclasses import replace
from pathlib import Path

import pytest
from fake_method import FakeConfig
from fake_search import install, request, write_record
from fake_session import open_session

from amatune.runs import RunFolder
from amatune.runs.record import Circumstances
from amatune.tuning.retrainings import Candidate, Retraining, Retrainings


def test_two_runs_of_one_name_train_different_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    record = write_record(run, request(tmp_path))
    candidate = Candidate("default", True, {}, FakeConfig(epochs=9), None)
    names = []
    for one in (record, replace(record, begun=Circumstances.now()), run.record()):
        trainings = [Retraining.of(run, candidate, 0, 1)]
        job = Retrainings(run, one, trainings, lambda _: None, 60.0).start("a")
        assert job is not None
        assert job.run == one.identity
        names.append(job.training)
    assert names[0] == names[2] != names[1]


def test_a_session_hands_its_run_on(tmp_path: Path) -> None:
    session, _ = open_session(tmp_path, run_id="that one")
    job = session.start("a")
    assert job is not None
    assert job.run == "that one"
