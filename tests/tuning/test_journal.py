"""A study that is kept as a journal: the same search as with SQLite, killed anywhere."""

import contextlib
import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import optuna
import pytest
from fake_run import add_trial, small_problem, write_run
from fake_search import request, write_record
from fake_session import open_session, play
from hypothesis import given, settings
from hypothesis import strategies as st

from amatune.errors import RequestError
from amatune.files import network_filesystem
from amatune.runs import RunFolder
from amatune.tuning import cost, search
from amatune.tuning import study as studies
from amatune.tuning.study import open_study, read_trials


@pytest.fixture(autouse=True)
def _trust_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits until a line is on the disk: processes die in tests, machines do not."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def search_through(folder: Path, kind: str, trials: int) -> RunFolder:
    """A search of so many trials, some of which are stopped early; it goes on where it was."""
    folder.mkdir(exist_ok=True)
    session, _ = open_session(folder, trials=trials, study_storage=kind, epochs=4)
    play(session, lambda number, epoch: 0.5 + (number * 7 % 16) / 100 + epoch / 1000)
    return RunFolder(folder / "run")


def told(run: RunFolder) -> list[Any]:
    return [(t.params, t.state, t.intermediate_values) for t in open_study(run).get_trials()]


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """That of a search of 4 trials."""
    return search_through(tmp_path_factory.mktemp("whole"), "journal", 4).journal.read_bytes()


@pytest.fixture
def run(tmp_path: Path, journal: bytes) -> RunFolder:
    found = write_run(tmp_path / "run", small_problem().to_dict(), study=False)
    found.journal.write_bytes(journal)
    return found


def test_it_is_the_search_that_sqlite_keeps(tmp_path: Path) -> None:
    found = [told(search_through(tmp_path / kind, kind, 6)) for kind in ("sqlite", "journal")]
    assert found[0] == found[1]
    assert {state.name for _, state, _ in found[1]} == {"COMPLETE", "PRUNED"}
    run = RunFolder(tmp_path / "journal" / "run")
    assert run.study_path == run.path / "study.journal"
    assert not (run.path / "study.db").exists()
    assert run.record().request.study_storage == "journal"
    # As optuna-dashboard opens it.
    backend = optuna.storages.journal.JournalFileBackend(str(run.journal))
    study = optuna.load_study(study_name="run", storage=optuna.storages.JournalStorage(backend))
    assert study.metric_names == ["validation AUROC"]
    assert len(study.trials) == 6


def test_a_writer_that_is_killed_anywhere_loses_its_last_line_alone(
    run: RunFolder, journal: bytes
) -> None:
    lines = journal.splitlines(keepends=True)
    before = b"".join(lines[:-1])
    for torn in (lines[-1][:1], lines[-1][: len(lines[-1]) // 2], lines[-1][:-1], b"\0" * 40):
        run.journal.write_bytes(before + torn)
        (run.path / "study.journal.lock").touch()  # its lock stays too
        seen = [t.state for t in read_trials(run)]  # a reader waits for nothing and mends nothing
        assert run.journal.read_bytes() == before + torn
        studies.take_over(run)
        assert run.journal.read_bytes() == before
        assert not (run.path / "study.journal.lock").exists()
        assert [t.state for t in read_trials(run)] == seen
        add_trial(run, {"quality": 0.5, "kind": "plain"}, [0.5] * 4)
        assert len(read_trials(run)) == len(seen) + 1
    studies.take_over(run)
    assert len(read_trials(run)) == len(seen) + 1


@pytest.mark.parametrize("place", [0.2, 0.5, 0.95])
def test_a_killed_search_goes_on_as_if_it_had_not_been(tmp_path: Path, place: float) -> None:
    whole = search_through(tmp_path / "whole", "journal", 4)
    journal = whole.journal.read_bytes()
    killed = tmp_path / "killed" / "run"
    killed.mkdir(parents=True)
    (killed / "study.journal").write_bytes(journal[: int(place * len(journal))])
    assert told(search_through(tmp_path / "killed", "journal", 4)) == told(whole)


def test_a_line_that_finds_no_room_leaves_no_part(
    run: RunFolder, journal: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(run)

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "fsync", full)  # of what was written by then
        with pytest.raises(OSError, match="No space"):
            study.set_user_attr("a", 1)
    assert run.journal.read_bytes() == journal
    study.set_user_attr("a", 2)
    assert open_study(run).user_attrs == {"a": 2}


def test_reading_while_it_is_made_disturbs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    original = os.replace

    def replace(source: Path, target: Path) -> None:
        with pytest.raises(RequestError, match="has no study"):
            open_study(run)
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    studies.create_study(run, [{}], "journal")
    assert len(open_study(run).trials) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["study.journal"]


def test_two_studies_are_one_too_many(run: RunFolder, tmp_path: Path) -> None:
    studies.create_study(RunFolder(tmp_path), [])
    (tmp_path / "study.db").rename(run.database)
    with pytest.raises(RequestError, match=r"has two studies, .*study\.db and .*study\.journal"):
        open_study(run)


def test_the_kind_of_a_run_stays(tmp_path: Path) -> None:
    asked = request(tmp_path, study_storage="journal")
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    write_record(run, asked)
    with pytest.raises(RequestError, match="study_storage was 'journal', now 'sqlite'"):
        search._reopened(run, request(tmp_path), trust_space=False)
    with pytest.raises(RequestError, match="unknown study storage 'redis'; known: sqlite, journal"):
        request(tmp_path, study_storage="redis")


# --- what others may have written -----------------------------------------------------------------


def test_nothing_of_a_journal_is_unpickled(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna unpickles the snapshots of backends that have some; the one of a file has none."""
    backend = optuna.storages.journal.JournalFileBackend(str(run.journal))
    assert not hasattr(backend, "load_snapshot"), (
        "Optuna's journal in a file keeps snapshots now, which are pickles: reading the journal of "
        "somebody else's run would run what is in them"
    )

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    assert len(read_trials(run)) == 4


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda log: {**log, "op_code": 99}, None),
        (lambda log: [log], None),
        (lambda log: {**log, "directions": [1]} if log["op_code"] == 0 else log, "must maximise"),
        (lambda log: {} if log["op_code"] == 0 else log, None),
        (lambda log: {**log, "state": 77}, None),
        (lambda log: {**log, "intermediate_value": 7}, r"not in \[0, 1\]"),
        (lambda log: {**log, "intermediate_value": float("nan")}, r"not in \[0, 1\]"),
        (lambda log: {**log, "step": -1}, "has no epoch"),
        (lambda log: {**log, "distribution": "{}"}, None),
        (lambda log: {**log, "user_attr": {"settings": 3}}, "of trial 0 settings is 3"),
    ],
)
def test_contents_that_are_not_as_written(
    run: RunFolder, journal: bytes, change: Any, why: str | None
) -> None:
    lines = [json.dumps(change(json.loads(line))) for line in journal.splitlines()]
    run.journal.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(RequestError, match=why) as caught:
        read_trials(run)
    assert str(caught.value).startswith(f"{run.journal} cannot be read as a study: ")
    assert "\n" not in str(caught.value)


@given(st.integers(0, 100_000), st.binary(min_size=1, max_size=30), st.booleans())
@settings(max_examples=25)
def test_nothing_but_a_request_error_comes_of_damaged_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    journal: bytes,
    place: int,
    damage: bytes,
    truncated: bool,
) -> None:
    run = RunFolder(tmp_path_factory.mktemp("damaged"))
    place %= len(journal)
    after = b"" if truncated else journal[place + len(damage) :]
    run.journal.write_bytes(journal[:place] + damage + after)
    with contextlib.suppress(RequestError):
        open_study(run)


# --- where it belongs -----------------------------------------------------------------------------


MOUNTS = """\
/dev/sda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/local ext4 rw 0 0
server:/odd /mnt/a\\040b nfs rw 0 0
//server/share /mnt/share cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/data/runs", None),
        ("/home/user/runs", "nfs4"),
        ("/homes/runs", None),
        ("/home/local/runs", None),
        ("/mnt/a b/runs", "nfs"),
        ("/mnt/share", "cifs"),
    ],
)
def test_a_folder_on_nfs_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, kind: str | None
) -> None:
    mounts = tmp_path / "mounts"
    monkeypatch.setattr("amatune.files._MOUNTS", mounts)
    assert network_filesystem(Path(place)) is None  # nobody says
    mounts.write_text(MOUNTS)
    assert network_filesystem(Path(place)) == kind
    found = cost._unfit_for_sqlite(request(tmp_path), Path(place))
    assert bool(found) == (kind is not None)
    assert all("--study-storage journal" in line for line in found)
    kept = request(tmp_path, study_storage="journal")
    assert cost._unfit_for_sqlite(kept, Path(place)) == []
