"""The Ray cluster a search runs on: started or joined, quiet, and what it has."""

import contextlib
import logging
import os
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from amatune.cluster.joined import JoinedCluster
from amatune.cluster.processes import ClusterLost, OwnProcesses
from amatune.errors import ClusterLostError, RequestError
from amatune.runs.request import HERE

__all__ = ["ClusterLost", "cluster", "gpus", "most_cpus", "places", "require_alive"]

ANSWER_SECONDS = 10.0  # until a cluster counts as not there
WATCH_SECONDS = 0.5  # between two looks at the processes of one's own cluster
STUCK_SECONDS = 5.0  # for giving up after their loss, in good order ...
SHUTDOWN_SECONDS = 10.0  # ... and for Ray to let go of what is not there any more
RECONNECT_SECONDS = 12  # after which Ray itself ends all that has lost the control service
_watched: list[OwnProcesses | JoinedCluster] = []  # the cluster that this process has connected


@contextlib.contextmanager
def cluster(address: str | None, log: Path, go_on: str = "") -> Iterator[None]:
    """A cluster for the duration: the one at `address`, or one started on this machine, for this
    process alone.

    A connection that exists already is used and left open. What Ray and Optuna log goes to the file
    `log`, and not to the terminal. Raises `RequestError` when nothing answers at the address, what
    answers cannot be joined, or this process has connected to another cluster, and
    `ClusterLostError` when the cluster dies meanwhile, or does not answer any more. Where Ray,
    waiting for what is dead, lets nothing be raised, this process ends and says how to `go_on`; Ray
    itself would end it a minute later.
    """
    with _logging_to(log):
        if ray.is_initialized():
            if address not in (None, HERE) and not _watched:
                _require_connected(address)
            yield
            return
        try:
            with _own_cluster(go_on) if address is None else _joined(address, go_on):
                try:
                    yield
                except Exception:
                    require_alive(at_once=True)  # else Ray has failed for want of the cluster
                    raise
        except ClusterLost as lost:
            raise ClusterLostError(str(lost)) from None


@contextlib.contextmanager
def _own_cluster(go_on: str) -> Iterator[None]:
    _provide_token()
    processes = OwnProcesses()
    with _watching(processes, go_on):
        with processes.starting():
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,  # workers' output
                logging_level=logging.ERROR,
                _temp_dir=str(processes.folder),
                _system_config={"gcs_rpc_server_reconnect_timeout_s": RECONNECT_SECONDS},
            )
        yield


@contextlib.contextmanager
def _watching(watched: OwnProcesses | JoinedCluster, go_on: str) -> Iterator[None]:
    """Meanwhile the loss of a cluster is noticed; afterwards it is left and ended."""
    leaving, over = threading.Event(), threading.Event()
    arguments = (watched, leaving, over, go_on)
    watch = threading.Thread(target=_end_if_stuck, args=arguments, daemon=True)
    watch.start()
    _watched.append(watched)
    try:
        yield
    finally:
        _watched.clear()
        leaving.set()
        ray.shutdown()
        over.set()
        watch.join()
        watched.end()


def _end_if_stuck(
    watched: OwnProcesses | JoinedCluster,
    leaving: threading.Event,
    over: threading.Event,
    go_on: str,
) -> None:
    """End this process when it does not get over the loss of its cluster."""
    while not leaving.wait(WATCH_SECONDS):
        try:
            watched.look()
        except ClusterLost as lost:
            if leaving.wait(STUCK_SECONDS) and over.wait(SHUTDOWN_SECONDS):
                return
            watched.end()
            shown = "\x1b[?25h" if sys.stdout.isatty() else ""  # the cursor, hidden by a live table
            sys.stdout.write(shown)
            sys.stdout.flush()
            sys.stderr.write(f"amatune: the Ray cluster was lost: {lost}; {go_on}\n")
            sys.stderr.flush()
            os._exit(1)


@contextlib.contextmanager
def _joined(address: str, go_on: str) -> Iterator[None]:
    found = (address == HERE and os.environ.get("RAY_ADDRESS")) or address  # as Ray finds it
    told = repr(found) if found == address else f"{found!r} (from RAY_ADDRESS)"
    if found != HERE:
        _require_answer(found, told)
    try:
        ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        ray.shutdown()
        raise _no_answer(told, error) from None
    except (RuntimeError, ValueError, ray.exceptions.RayError) as error:
        ray.shutdown()
        why = " ".join(str(error).split())  # of two versions, each has a line of its own
        raise RequestError(
            f"the Ray cluster at {told} cannot be joined: {why}; see that this machine has the "
            "cluster's Ray, Python and token, or leave the address out"
        ) from None
    with _watching(JoinedCluster.connected(), go_on):
        yield


def require_alive(at_once: bool = False) -> None:
    """Raise `ClusterLost` when the cluster that this process has connected cannot go on.

    `cluster` makes a `ClusterLostError` of it. To be called now and then: of a dead control service
    Ray itself tells after a minute, by ending the process. One that others have started counts as
    lost after some seconds without an answer, or `at_once`.
    """
    for watched in _watched:
        watched.require_alive(at_once)


def gpus() -> float:
    """How many GPUs the cluster has."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return float(resources.get("GPU", 0))


def cards() -> dict[str, int]:
    """The machines that have GPUs, by Ray's identifier, and how many."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    counts = {n["NodeID"]: int(n["Resources"].get("GPU", 0)) for n in nodes if n["Alive"]}
    return {node: count for node, count in counts.items() if count}


def most_cpus() -> float:
    """The CPUs of the machine that has most of them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return max((n["Resources"].get("CPU", 0.0) for n in nodes if n["Alive"]), default=0.0)


def places(cpus_per_trial: float, gpus_per_trial: float) -> int:
    """How many trials fit on the cluster at a time, counted machine by machine."""
    total = 0
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    for node in nodes:
        if not node["Alive"]:
            continue
        resources = node["Resources"]
        fits = [resources.get("CPU", 0) / cpus_per_trial]
        if gpus_per_trial > 0:
            count = resources.get("GPU", 0)
            # A share lies on one GPU: three trials of 0.3 fit on each, not ten on three.
            if gpus_per_trial < 1:
                fits.append(count * int(1 / gpus_per_trial + 1e-9))
            else:
                fits.append(count / gpus_per_trial)
        total += int(min(fits) + 1e-9)
    return total


def _require_answer(address: str, told: str) -> None:
    # Ray itself keeps trying for minutes, and says so on stderr.
    host, _, port = address.rpartition(":")
    if "://" in address or not (host and port.isdecimal()):
        raise RequestError(
            f"a search cannot run through {told}, which is not HOST:PORT of a Ray cluster; run it "
            "on a machine of the cluster with the address 'auto' and without RAY_ADDRESS"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:  # UnicodeError: no name of a machine
        raise _no_answer(told, error) from None


def _require_connected(address: str) -> None:
    """Of what the caller has connected: that it is the cluster at this address."""
    connected = ray.get_runtime_context().gcs_address
    if _numbers(address).isdisjoint(_numbers(connected)):
        raise RequestError(
            f"this process has connected to the Ray cluster at {connected}, not to that at "
            f"{address}; call ray.shutdown() before, or leave the address out"
        )


def _numbers(address: str) -> set[tuple[str, str]]:
    """All that a machine and its port go by."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    found = {host}
    with contextlib.suppress(OSError, UnicodeError):
        found |= {str(place[0]) for *_, place in socket.getaddrinfo(host, None)}
    if found & {"127.0.0.1", "::1"}:
        found.add(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    return {(one, port) for one in found}


def _no_answer(told: str, error: Exception) -> RequestError:
    why = str(error).partition("\n")[0]
    return RequestError(
        f"no Ray cluster answers at {told}: {why}; start one with `ray start --head`, or leave the "
        "address out"
    )


def _provide_token() -> None:
    # Since 2.59 a cluster on this machine wants a token; older versions take no notice. Ray makes
    # one in ~/.ray. Ours lives in this process and its workers alone, and needs no writable home.
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    with contextlib.suppress(RuntimeError):  # there is no home directory at all
        if (Path.home() / ".ray" / "auth_token").exists():
            return
    os.environ["RAY_AUTH_TOKEN"] = uuid.uuid4().hex


@contextlib.contextmanager
def _logging_to(file: Path) -> Iterator[None]:
    # Ray comments on authentication and shared memory when it starts, and Tune logs each failed
    # trial as an error. What a user needs to know of that, we say.
    handler = logging.FileHandler(file, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_is_worth_a_line)
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "optuna")]
    before = [(one.level, one.handlers[:], one.propagate) for one in loggers]
    for one in loggers:
        # Ray sets levels and handlers of its own when it is imported.
        one.setLevel(logging.INFO)
        one.handlers[:] = [handler]
        one.propagate = False
    # Ray prints some messages, such as that a worker died, whatever its loggers are set to.
    worker: Any = ray._private.worker
    printing, worker.print_to_stdstream = worker.print_to_stdstream, _log_lines
    try:
        yield
    finally:
        worker.print_to_stdstream = printing
        for one, (level, handlers, propagate) in zip(loggers, before, strict=True):
            one.setLevel(level)
            one.handlers[:] = handlers
            one.propagate = propagate
        handler.close()


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    # Of each trial whose results Tune has not written itself, its analysis warns that it has none.
    return record.levelno >= logging.ERROR or not record.name.startswith("ray.tune.analysis")


def _log_lines(message: dict[str, Any], *_: Any, **__: Any) -> None:
    for line in message.get("lines", ()):
        logging.getLogger("ray").error(line)
