"""Run folders: names, refusals, and files that are never half written."""

import errno
import multiprocessing
import os
from pathlib import Path

import pytest
from processes import fork, hold

from amatune.errors import DiskFullError, RequestError
from amatune.files import write_json
from amatune.runs import RunFolder, all_runs


def make(runs_dir, name, started="2026-01-01"):
    run = RunFolder.create(runs_dir, name, "digits")
    write_json(run.run_json, {"started": started})
    return run


def test_paths(tmp_path):
    run = RunFolder(tmp_path / "r")
    assert run.name == "r"
    assert run.study_path == tmp_path / "r" / "study.db"
    assert not run.path.exists()


def test_create_makes_the_folder_and_its_parents(tmp_path):
    run = RunFolder.create(tmp_path / "a" / "b", "first", "digits")
    assert run.path.is_dir()
    assert run.name == "first"


def test_names_made_from_time_and_data_set_are_unique(tmp_path):
    runs = [RunFolder.create(tmp_path, None, "folder:/data/My scans/") for _ in range(3)]
    assert len({run.name for run in runs}) == 3
    assert all("My-scans" in run.name for run in runs)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-x", "a b", "ä"])
def test_impossible_names_are_refused(tmp_path, name):
    with pytest.raises(RequestError, match="cannot be called"):
        RunFolder.create(tmp_path, name, "digits")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("runs_dir", "name", "told"),
    [
        ("file", None, "file: File exists"),
        ("file/below", "mine", "Not a directory"),
        ("runs", "n" * 256, "File name too long"),
        ("/proc/runs", "mine", "/proc/runs: No such file or directory"),
    ],
)
def test_places_that_take_no_run(tmp_path, runs_dir, name, told):
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=f"cannot write to .*{told}; name another folder or run"):
        RunFolder.create(tmp_path / runs_dir, name, "digits")
    assert not list(tmp_path.glob("runs/*"))


def test_a_full_disk_is_no_wrong_request(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(DiskFullError, match="No space left on device; free some space"):
        RunFolder.create(tmp_path / "runs", "mine", "digits")


def test_a_name_that_no_run_can_have_is_not_found(tmp_path):
    with pytest.raises(RequestError, match="there are no runs"):
        RunFolder.open("n" * 300, tmp_path)


def test_a_name_that_is_too_long_is_refused_beforehand(tmp_path):
    with pytest.raises(RequestError, match="File name too long; name another folder or run"):
        RunFolder.require_free(tmp_path, "n" * 300)


def test_whether_a_run_is_in_use(tmp_path):
    run = make(tmp_path, "mine")
    assert not run.in_use
    with run.alone():
        assert RunFolder(run.path).in_use
    assert not run.in_use


def test_whether_a_run_that_may_only_be_read_is_in_use(tmp_path, monkeypatch):
    """A lock cannot be opened for writing then, which says nothing about who holds it."""
    run = make(tmp_path, "mine")
    with run.alone():
        pass

    def refuse(*_args, **_options):
        raise PermissionError(errno.EACCES, "Permission denied", str(run.path / ".lock"))

    with run.alone():
        monkeypatch.setattr("amatune.runs.folder.FileLock.acquire", refuse)
        assert run.in_use
    assert not run.in_use
    (run.path / ".lock").unlink()
    os.mkfifo(run.path / ".lock")  # whatever somebody else's run holds
    assert not run.in_use


def test_an_existing_run_is_refused(tmp_path):
    make(tmp_path, "mine")
    with pytest.raises(RequestError, match=r"'mine' exists already.*--resume"):
        RunFolder.create(tmp_path, "mine", "digits")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(RequestError, match="is not a run"):
        RunFolder.create(tmp_path, "mine", "digits")


def test_open_by_name_path_and_newest(tmp_path):
    make(tmp_path, "b", "2026-01-01T10:00")
    make(tmp_path, "a", "2026-01-02T10:00")
    assert RunFolder.open("b", tmp_path).name == "b"
    assert RunFolder.open(str(tmp_path / "b"), "elsewhere").name == "b"
    assert RunFolder.open(tmp_path / "b", "elsewhere").name == "b"
    assert RunFolder.open(RunFolder(tmp_path / "b"), "elsewhere").name == "b"
    assert RunFolder.open(None, tmp_path).name == "a"
    assert [run.name for run in all_runs(tmp_path)] == ["b", "a"]


def test_open_says_what_there_is(tmp_path):
    with pytest.raises(RequestError, match="there are no runs"):
        RunFolder.open(None, tmp_path / "none")
    make(tmp_path, "scans-1")
    make(tmp_path, "other")
    with pytest.raises(RequestError, match="did you mean 'scans-1'"):
        RunFolder.open("scan-1", tmp_path)
    with pytest.raises(RequestError, match="known: other, scans-1"):
        RunFolder.open("zzz", tmp_path)
    with pytest.raises(RequestError, match="no run 'runs/zzz'"):
        RunFolder.open(Path("runs/zzz"), tmp_path)
    with pytest.raises(RequestError, match="by its name or its folder, got 3"):
        RunFolder.open(3, tmp_path)


def test_a_run_is_worked_on_by_one_process(tmp_path):
    run = make(tmp_path, "r")
    context = multiprocessing.get_context("forkserver")
    ready, release = context.Event(), context.Event()
    other = fork(hold, run.path, ready, release)
    assert ready.wait(60)
    with pytest.raises(RequestError, match="another process"), run.alone():
        pass
    os.kill(other.pid, 9)  # the lock goes with the process
    other.join()
    with run.alone():
        pass


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_a_pipe_is_no_record(tmp_path):
    make(tmp_path, "a")
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "run.json")
    assert {run.name for run in all_runs(tmp_path)} == {"a", "b"}
    with pytest.raises(RequestError, match="no run 'b'"):
        RunFolder.open("b", tmp_path)


@pytest.mark.parametrize("kept", [None, "", "s3://bucket/runs"])
def test_event_files_lie_in_the_run(tmp_path, kept):
    run = RunFolder(tmp_path / "r")
    assert run.event_files(kept) == run.tensorboard


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_event_files_lie_on_the_shared_disk(tmp_path, prefix):
    shared = tmp_path / "shared"
    assert RunFolder("r").event_files(f"{prefix}{shared}") == shared / "r" / "tensorboard"
