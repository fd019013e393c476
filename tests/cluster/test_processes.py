"""The processes of a search's own cluster: who can reach them, and what their death does."""

import os
import re
import signal
import stat
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import epochs_of, members, named, private_folder, start, trials, wait_until
from ray import cloudpickle
from ray._private import services
from ray.exceptions import ActorDiedError, RayTaskError, WorkerCrashedError

from amatune.cluster import connection, execution, scoring
from amatune.cluster.execution import Halt
from amatune.cluster.processes import ClusterLost, OwnProcesses
from amatune.errors import AmatuneError, OutOfMemoryError

LISTENING = "0A"


def listening(pids):
    """The addresses, as the kernel writes them, that these processes listen at."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes |= set(re.findall(r"^socket:\[(\d+)\]$", os.readlink(link)))
            except OSError:
                continue
    rows = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
    ]
    return [row[1].partition(":")[0] for row in rows if row[3] == LISTENING and row[9] in inodes]


def is_loopback(address):
    """127.0.0.1, also as an address of IPv6, or ::1; words are stored back to front."""
    plain = address.removeprefix("0" * 16 + "FFFF0000")
    return plain == "0100007F" or address == "0" * 24 + "01000000"


@pytest.mark.parametrize("victim", ["gcs_server", "raylet", "everything"])
def test_a_cluster_that_dies_ends_the_search_with_a_message(tmp_path, victim):
    """At once and not after Ray's minute; a service manager sends SIGTERM to every process."""
    called = time.monotonic()
    process = start(tmp_path, fixed={"seconds": 0.1}, epochs=500, trials=3, concurrent=2)
    try:
        wait_until(lambda: sum(epochs_of(tmp_path)) >= 2, process)
        before = members(process)
        assert {"gcs_server", "raylet"} <= {Path(words[0]).name for words in before.values()}
        folder = check_privacy(before)
        hit = list(before) if victim == "everything" else named(process, victim)
        began = time.monotonic()
        usual = max(20, began - called)  # 15 s; on a busy machine everything takes long
        for pid in hit:
            os.kill(pid, signal.SIGTERM if victim == "everything" else signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
        assert time.monotonic() - began < usual
        assert hit
        wait_until(lambda: not set(hit) & set(members(process)), None, seconds=usual)
    finally:
        process.kill()
    if victim == "everything":
        assert process.returncode == 130, errors
        assert errors == ""
    else:
        assert process.returncode == 1, errors
        assert re.fullmatch(
            r"amatune: the Ray cluster was lost: Ray's (control|node) service (was|has) .*; "
            r"what is finished is kept; continue with: amatune search --resume --name run .*\n",
            errors,
        )
    assert members(process) == {}
    assert not folder.exists()
    assert "running" in {trial.state for trial in trials(tmp_path)}
    assert "failed" not in {trial.state for trial in trials(tmp_path)}


def check_privacy(processes):
    """Nobody else can reach them; returns the folder that they write to."""
    addresses = listening(processes)
    assert len(addresses) >= 4
    assert all(map(is_loopback, addresses)), addresses
    folder = private_folder(processes)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.geteuid()
    return folder


def test_addresses_that_are_the_loopback():
    assert is_loopback("0100007F")
    assert is_loopback("0000000000000000FFFF00000100007F")
    assert is_loopback("00000000000000000000000001000000")
    for other in ("00000000", "0" * 32, "0000000000000000FFFF000000000000", "0101A8C0"):
        assert not is_loopback(other)


def test_a_long_temporary_folder_is_not_used(tmp_path, monkeypatch):
    """Paths of Unix sockets end at 107 characters."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 60)))
    processes = OwnProcesses()
    assert len(str(processes.folder)) < 40
    processes.end()
    assert not processes.folder.parent.exists()


@pytest.fixture
def short():
    """A short temporary folder: a long one is not used."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        yield Path(folder)


def test_what_a_killed_search_left_is_removed_by_the_next(short, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    child = os.fork()
    if not child:
        OwnProcesses().folder.mkdir()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (left,) = short.glob("amatune-*")
    (left / "ray" / "link").symlink_to(short)
    lives = OwnProcesses()
    assert not left.exists()
    other = OwnProcesses()  # the first one lives
    assert {lives.folder.parent, other.folder.parent} == set(short.iterdir())
    for one in (lives, other):
        one.end()
    assert not list(short.iterdir())


def test_nothing_else_is_removed(short, monkeypatch):
    """Not what others could have made, nor what a link stands for, nor what may be in use."""
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    for name in ("amatune-open", "amatune-starting", "else"):
        (short / name).mkdir(mode=0o700)
    for name in ("amatune-open", "else"):
        (short / name / "in-use").touch()
    (short / "amatune-open").chmod(0o755)
    (short / "amatune-link").symlink_to("else")
    (short / "amatune-file").touch()
    before = set(short.iterdir())
    OwnProcesses().end()
    assert set(short.iterdir()) == before
    assert (short / "else" / "in-use").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_folder_of_another_user_is_not_removed(short, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    (short / "amatune-theirs").mkdir(mode=0o700)
    (short / "amatune-theirs" / "in-use").touch()
    os.chown(short / "amatune-theirs", 12345, -1)
    OwnProcesses().end()
    assert (short / "amatune-theirs").exists()


def test_the_loss_is_noticed_while_the_trials_run(monkeypatch):
    def lost():
        raise ClusterLost("gone")

    halt = Halt()
    assert not halt.stop_all()
    monkeypatch.setattr(connection, "require_alive", lost)
    with pytest.raises(ClusterLost):
        halt.stop_all()


def interrupt_this_process():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)


def test_that_it_is_saving_is_told_at_once_and_only_when_interrupted():
    told = threading.Event()
    halt = Halt(saving=told.set)
    halt.unsaved.add("a")
    before = signal.getsignal(signal.SIGINT)
    with halt.on_interrupt():
        assert not halt.stop_all()
        assert not told.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert told.wait(10)  # while this thread does something else
        assert halt.ending == "interrupted"
        assert not halt.stop_all()
        with pytest.raises(KeyboardInterrupt):
            interrupt_this_process()
    assert signal.getsignal(signal.SIGINT) == before
    told.clear()
    with halt.on_interrupt():
        pass
    assert not told.is_set()
    cloudpickle.dumps(Halt(saving=threading.Lock().acquire))


def test_an_error_that_others_could_have_written_is_not_read(tmp_path):
    """Unpickling runs what is pickled."""
    file = tmp_path / "error.pkl"
    trial = SimpleNamespace(pickled_error_file=str(file))
    assert execution._failure(trial).kind == "lost"
    file.write_bytes(cloudpickle.dumps(OutOfMemoryError("too large")))
    assert execution._failure(trial).reason == "too large"
    file.chmod(0o666)
    assert "was not read, as other users can write it" in execution._failure(trial).reason
    (tmp_path / "link.pkl").symlink_to(file)
    file.chmod(0o600)
    linked = SimpleNamespace(pickled_error_file=str(tmp_path / "link.pkl"))
    assert "was not read" in execution._failure(linked).reason


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_an_error_of_another_user_is_not_read(tmp_path):
    file = tmp_path / "error.pkl"
    file.write_bytes(cloudpickle.dumps(OutOfMemoryError("too large")))
    os.chown(file, 12345, -1)
    trial = SimpleNamespace(pickled_error_file=str(file))
    assert "was not read" in execution._failure(trial).reason


def test_a_worker_that_could_not_be_set_up_is_told_in_its_words(tmp_path):
    """And is not tried again: it has not died."""
    wrong = RayTaskError("__init__", "Traceback\nModuleNotFoundError: no my_package", KeyError("a"))
    (tmp_path / "error.pkl").write_bytes(cloudpickle.dumps(ActorDiedError(wrong)))
    failure = execution._failure(SimpleNamespace(pickled_error_file=str(tmp_path / "error.pkl")))
    assert failure.kind == "broken"
    assert failure.reason.startswith("its worker could not be set up: ")
    assert "no my_package" in failure.reason


def test_what_keeps_an_end_from_being_recorded_is_what_ends_the_session(monkeypatch):
    """Tune takes it for a failure of the trial, which the work knows no more."""

    class Work:
        def finish(self, _key, _progress):
            raise OSError("the study cannot be written")

    monkeypatch.setattr(connection, "require_alive", lambda **_: None)
    proposals = execution._Proposals(Work(), Halt(), 1)
    for error in (False, True):
        with pytest.raises(OSError, match="the study cannot be written"):
            proposals.on_trial_complete("a", {"epoch": 1, "auroc": 0.5}, error=error)


def test_as_many_are_scored_at_a_time_as_was_asked_for(monkeypatch):
    running, most = [], []

    def begin(stored, *_):
        running.append(stored)
        most.append(len(running))
        return stored

    monkeypatch.setattr("ray.remote", lambda **_: lambda _: SimpleNamespace(remote=begin))
    monkeypatch.setattr("ray.put", lambda value: value)
    monkeypatch.setattr("ray.get", lambda task: task)
    monkeypatch.setattr("ray.wait", lambda tasks, **_: ([running.pop(0)], tasks))
    monkeypatch.setattr(connection, "require_alive", lambda **_: None)
    monkeypatch.setattr(scoring.StoredDetector, "load", Stored)
    folders = [Path(str(number)) for number in range(5)]
    shares = {"cpus": 1.0, "gpus": 0.0, "gpu_memory": 1.0, "concurrent": 2}
    found = list(scoring.score_models(folders, {"fake": None}, None, None, **shares))
    assert [folder for folder, _ in found] == [scored.folder for _, scored in found] == folders
    assert max(most) == 2


@dataclass(frozen=True)
class Stored:
    folder: Path
    method: str = "fake"


def test_a_worker_that_dies_while_it_scores_is_told(monkeypatch):
    def died(_):
        raise WorkerCrashedError

    monkeypatch.setattr("ray.get", died)
    monkeypatch.setattr(connection, "require_alive", lambda **_: None)
    with pytest.raises(AmatuneError, match=r"a worker died .* call again, with a smaller"):
        scoring._found(None)


def test_what_stops_a_scoring_is_told_in_its_own_words(monkeypatch):
    """And not with all that Ray adds of another machine."""

    def raised(cause):
        def get(_):
            raise RayTaskError("_score", "Traceback of a worker", cause).as_instanceof_cause()

        return get

    monkeypatch.setattr("ray.get", raised(OutOfMemoryError("too large")))
    with pytest.raises(OutOfMemoryError) as told:
        scoring._found(None)
    assert str(told.value) == "too large"
    monkeypatch.setattr("ray.get", raised(KeyError("a slip")))
    with pytest.raises(RayTaskError):
        scoring._found(None)


def test_the_last_words_of_what_died_are_told_and_kept(short, monkeypatch, caplog):
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    processes = OwnProcesses()
    try:
        logs = processes.folder / "session_latest" / "logs"
        logs.mkdir(parents=True)
        (logs / "raylet.err").write_text("at first\n\nno room for a socket\n", encoding="utf-8")
        with processes.starting():
            services.ConsolePopen(["/bin/sh", "-c", "exit 3"], lambda: None).wait()
        processes._started[0].args = ["raylet"]
        with pytest.raises(ClusterLost, match="exit code 3, its last words: no room for a socket"):
            processes.require_alive()
        assert "at first\nno room for a socket" in caplog.text
    finally:
        processes.end()
