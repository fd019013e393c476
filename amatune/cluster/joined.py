"""A cluster that others have started: whether it still answers.

Ray itself tells of a dead control service after a minute, and of a dead node service after ten
seconds, by ending the process with an error of its own.
"""

import contextlib
import socket
import time
from typing import Any

import ray

from amatune.cluster.processes import ClusterLost

LOOK_SECONDS = 2.0  # between two looks
LOST_SECONDS = 20.0  # without an answer of another machine, until the cluster counts as lost
DEAD_SECONDS = 1.0  # the same for a service of this one, between which and us is no network
ANSWER_SECONDS = 5.0  # that one answer may take

Place = tuple[str, int] | str  # host and port, or the path of a Unix socket


class JoinedCluster:
    """The services that this process needs of a cluster that it has joined."""

    def __init__(self, places: dict[str, Place]) -> None:
        self._places = places  # by what lies there
        self._silent: dict[str, float] = {}  # since when
        self._looked = 0.0
        self._lost: str | None = None

    @classmethod
    def connected(cls) -> "JoinedCluster":
        """The one that this process is connected to."""
        node: Any = ray._private.worker._global_node
        host, _, port = str(node.gcs_address).rpartition(":")
        places: dict[str, Place] = {"its control service": (host.strip("[]"), int(port))}
        if str(node.raylet_socket_name).startswith("/"):
            places["its node service on this machine"] = str(node.raylet_socket_name)
        return cls(places)

    def look(self) -> None:
        """Ask every service, when the last time is LOOK_SECONDS ago; for the thread that watches.

        Raises `ClusterLost` once one has not answered for long.
        """
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            for name, place in self._places.items():
                patience = DEAD_SECONDS if isinstance(place, str) else LOST_SECONDS
                self._note(name, _answers(place), patience)
            self._looked = time.monotonic()
        self.require_alive()

    def _note(self, name: str, answers: bool, patience: float) -> None:
        now = time.monotonic()
        if answers:
            self._silent.pop(name, None)
        elif now - self._silent.setdefault(name, now) >= patience:
            self._lost = f"{name} has not answered for {patience:.0f} s"

    def require_alive(self, at_once: bool = False) -> None:
        """Raise `ClusterLost` when it is known to be lost, or, `at_once`, when a service does not
        answer now: what failed just then failed for that."""
        if self._lost is not None:
            raise ClusterLost(self._lost)
        if at_once:
            for name, place in self._places.items():
                if not _answers(place):
                    raise ClusterLost(f"{name} does not answer")

    def end(self) -> None:
        """Nothing of it is this process's to end."""


def _answers(place: Place) -> bool:
    with contextlib.suppress(OSError):
        if isinstance(place, str):
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(ANSWER_SECONDS)
                one.connect(place)
        else:
            socket.create_connection(place, ANSWER_SECONDS).close()
        return True
    return False
