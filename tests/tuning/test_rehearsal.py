"""What a dry run says and refuses. No cluster: how fast things are is what the test says."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_run import add_trial
from fake_search import install, request, write_record
from optuna.trial import TrialState

from amatune.cluster import capacity, connection
from amatune.cluster.capacity import Room
from amatune.errors import RequestError
from amatune.runs import RunFolder
from amatune.tuning import rehearsal
from amatune.tuning import study as studies
from amatune.tuning.events import Event, SearchStarted, TimeEstimate
from amatune.tuning.rehearsal import rehearse


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def cluster(address: str | None, log: Path) -> Iterator[None]:
        assert address is None
        assert log.parent.is_dir()
        yield

    install(monkeypatch)
    monkeypatch.setattr(connection, "cluster", cluster)
    monkeypatch.setattr(connection, "gpus", lambda: 0)
    monkeypatch.setattr(rehearsal, "find_room", lambda *_: Room(3, 0.0, 4.0))
    monkeypatch.setattr(capacity, "seconds_per_epoch", lambda *_: 2.0)


def test_it_is_told_what_a_search_would_tell(tmp_path: Path) -> None:
    events: list[Event] = []
    told = rehearse(request(tmp_path / "runs", trials=7, scheduler="none"), events.append)
    begun, estimate = events
    assert isinstance(begun, SearchStarted)
    assert (begun.run, begun.problem, begun.concurrent) == (None, "noise against brighter noise", 3)
    assert (begun.trials, begun.finished, begun.training_images) == (7, 0, 200)
    assert estimate == told
    assert told == TimeEstimate(
        trainings=7, seconds_per_step=2.0, seconds=3 * 9 * 2.0, at_most=False, concurrent=3
    )
    assert not (tmp_path / "runs").exists()


def test_of_a_run_that_goes_on_the_finished_trials_cost_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    asked = request(tmp_path, trials=6)
    write_record(run, asked)
    told: list[Any] = []
    assert rehearse(asked, told.append, resume=True).trainings == 6  # killed before its study
    studies.create_study(run, [])
    add_trial(run, {"quality": 0.5, "kind": "plain"}, [0.5] * 9)
    add_trial(run, {"quality": 0.4, "kind": "plain"}, [0.5], TrialState.PRUNED)
    add_trial(run, {"quality": 0.4, "kind": "plain"}, [0.5], TrialState.RUNNING)
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    assert rehearse(asked, told.append, resume=True).trainings == 4
    assert told[-2].finished == 2
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


def test_what_a_search_would_refuse_is_refused(tmp_path: Path) -> None:
    for name, why in (("a b", "cannot be called"), ("run", "exists already and is not a run")):
        (tmp_path / "run").mkdir(exist_ok=True)
        with pytest.raises(RequestError, match=why):
            rehearse(request(tmp_path, name=name))
    write_record(RunFolder(tmp_path / "run"), request(tmp_path))
    with pytest.raises(RequestError, match=r"exists already in .*--resume"):
        rehearse(request(tmp_path))
    with pytest.raises(RequestError, match="quality must be"):
        rehearse(request(tmp_path, name="new", fixed={"quality": 7.0}))
    with pytest.raises(RequestError, match="seed was 0, now 1"):
        rehearse(request(tmp_path, seed=1), resume=True)
