"""The processes of a Ray cluster that is this machine's, and one search's, alone.

They belong to one user and one machine: every port is bound to the loopback interface, and what Ray
writes lies in a folder that no other user can enter. Each runs in a session of its own, so that a
signal for the process group of the search (Ctrl-C, `timeout`, the end of a batch job) reaches the
search, which saves first, and not what it needs for that; SIGTERM, which a service manager sends to
all, is blocked in them. Where they die all the same, for want of memory, the search is told at
once.

Ray has no public way to most of this; the tests beside this file pin what it stands on.
"""

import contextlib
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
        self._private = Path(tempfile.mkdtemp(prefix="amatune-", dir=parent))  # mode 0700
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

    def require_alive(self) -> None:
        """Raise `ClusterLost` when one that is needed has ended."""
        for process in self._started:
            name = _NEEDED.get(_program(process))
            if name is not None and process.poll() is not None:
                raise ClusterLost(f"{name} {_ended(process.returncode)}")

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
