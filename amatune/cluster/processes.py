"""The processes of a Ray cluster that is this machine's, and one search's, alone.

They belong to one user and one machine: every port is bound to the loopback interface, and what Ray
writes lies in a folder that no other user can enter. Each runs in a session of its own, so that a
signal for the process group of the search (Ctrl-C, `timeout`, the end of a batch job) reaches the
search, which saves first, and not what it needs for that; SIGTERM, which a service manager sends to
all, is blocked in them. Where they die all the same, for want of memory, the search is told at
once. A search that is killed leaves its folder behind, and the next one removes it.

Ray has no public way to most of this; the tests beside this file pin what it stands on.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray._private import ray_constants, services

# Names of the programs without which nothing goes on.
_NEEDED = {"gcs_server": "Ray's control service", "raylet": "Ray's node service"}
# Unix sockets lie some 70 characters below the temporary folder, in a path of at most 107.
_LONGEST = 24
_PREFIX = "amatune-"  # of the folders
_LOCK = "in-use"  # a file in each that its search holds locked; the lock goes with the process
_TAIL, _LAST_LINES = 2**14, 20  # bytes and lines of what a dead process has said
_END_SECONDS = 5.0  # until what was killed counts as gone


class ClusterLost(BaseException):
    """A process that the cluster needs has died.

    No `Exception`: Tune would take it for the trouble of one trial, or wait for workers that are
    gone.
    """


class _Process(subprocess.Popen[bytes]):
    """Ends at once: nothing it has is wanted, and SIGTERM does not reach it."""

    def terminate(self) -> None:
        self.kill()


class OwnProcesses:
    """What Ray starts on this machine for one search."""

    def __init__(self) -> None:
        parent = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
        if len(parent) > _LONGEST:
            parent = "/tmp"
        _remove_abandoned(Path(parent))
        self._private = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))  # mode 0700
        self._lock = _locked(self._private)
        self.folder = self._private / "ray"  # Ray makes it writable for all
        self._started: list[subprocess.Popen[bytes]] = []

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Meanwhile what Ray starts is started in sessions of its own and on loopback."""

        def start(
            command: list[str], preexec_fn: Callable[[], None], **options: Any
        ) -> subprocess.Popen[bytes]:
            def prepare() -> None:
                preexec_fn()
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

            process = _Process(command, preexec_fn=prepare, start_new_session=True, **options)
            self._started.append(process)
            return process

        how: Any = services
        where: Any = ray_constants
        before = how.ConsolePopen, where.ENABLE_RAY_CLUSTER
        how.ConsolePopen = start
        where.ENABLE_RAY_CLUSTER = False  # of several machines: the address is 127.0.0.1
        try:
            yield
        finally:
            how.ConsolePopen, where.ENABLE_RAY_CLUSTER = before

    def look(self) -> None:
        """As `require_alive`."""
        self.require_alive()

    def require_alive(self, at_once: bool = False) -> None:  # noqa: ARG002 - it always is
        """Raise `ClusterLost` when one that is needed has ended."""
        for process in self._started:
            name = _NEEDED.get(_program(process))
            if name is not None and process.poll() is not None:
                told = f"{name} {_ended(process.returncode)}"
                if words := self._last_words(_program(process)):
                    told += f", its last words: {words[-1]:.300}"
                    logging.getLogger("ray").error("%s:\n%s", name, "\n".join(words))
                raise ClusterLost(told)

    def _last_words(self, program: str) -> list[str]:
        """The last lines that one of the programs has written about errors."""
        file = self.folder / "session_latest" / "logs" / f"{program}.err"
        try:
            with file.open("rb") as errors:
                errors.seek(max(0, file.stat().st_size - _TAIL))
                lines = errors.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []
        return [line.strip() for line in lines if line.strip()][-_LAST_LINES:]

    def end(self) -> None:
        """End whatever is left of them, also what they have started, and remove their folder."""
        limit = time.monotonic() + _END_SECONDS
        sessions = {process.pid for process in self._started}
        while left := _members(sessions):
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            for process in self._started:
                process.poll()  # collects it
            if time.monotonic() > limit:
                break
            time.sleep(0.05)
        shutil.rmtree(self._private, ignore_errors=True)
        os.close(self._lock)


def _locked(folder: Path) -> int:
    """The handle of the lock of a folder, which this process holds until it ends."""
    unfinished = folder / f".{_LOCK}"
    handle = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    unfinished.rename(folder / _LOCK)  # nobody sees it without its lock
    return handle


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders that killed searches of this user have left.

    Nothing but private folders of this user, through no link, and none without a lock that is free:
    one that has none yet belongs to a search that starts.
    """
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(Path(entry.path))


def _remove_if_abandoned(folder: Path) -> None:
    """Raises `OSError` when it is none of ours, or in use."""
    outside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        facts = os.fstat(outside)
        if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
            return
        lock = os.open(_LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=outside)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)  # follows no links
        finally:
            os.close(lock)
    finally:
        os.close(outside)


def _program(process: "subprocess.Popen[bytes]") -> str:
    arguments: Any = process.args
    return Path(arguments[0]).name


def _ended(code: int) -> str:
    if code >= 0:
        return f"has ended with exit code {code}"
    return f"was ended by {signal.Signals(-code).name}"


def _members(sessions: set[int]) -> list[int]:
    """The living processes of these sessions."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, _parent, _group, session = _stat(folder)[:4]
            if int(session) in sessions and state != "Z":
                found.append(int(folder.name))
    return found


def _stat(folder: Path) -> list[str]:
    if not folder.name.isdigit():
        return []
    return (folder / "stat").read_text().rpartition(")")[2].split()
