"""A cluster that others have started: when it counts as lost, and what that does to a search."""

import re
import socket
import time
from types import SimpleNamespace

import pytest
from ray.exceptions import AuthenticationError

from amatune.cluster import connection, joined
from amatune.cluster.joined import JoinedCluster
from amatune.cluster.processes import ClusterLost
from amatune.errors import ClusterLostError, RequestError

VERSIONS = """Version mismatch: The cluster was started with:
    Ray: 2.59.0
    Python: 3.11.2
This process on node 10.0.0.2 was started with:
    Ray: 2.60.0
    Python: 3.11.2
"""


@pytest.fixture
def service():
    """Something that answers at a port, until it is closed."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


@pytest.fixture
def cluster(service, tmp_path, monkeypatch):
    """A cluster whose node service is a Unix socket, looked at without pauses."""
    monkeypatch.setattr(joined, "LOOK_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)  # the paths of such sockets are short
    with socket.socket(socket.AF_UNIX) as node:
        node.bind("node")
        node.listen(100)
        yield JoinedCluster({"its control service": service.getsockname(), "its node": "node"})


def test_it_is_lost_once_it_has_been_silent_for_long(cluster, service, monkeypatch):
    cluster.look()
    service.close()
    monkeypatch.setattr(joined, "LOST_SECONDS", 60.0)
    cluster.look()
    cluster.require_alive()  # it may come back
    with pytest.raises(ClusterLost, match="its control service does not answer"):
        cluster.require_alive(at_once=True)  # but what fails now, fails for that
    monkeypatch.setattr(joined, "LOST_SECONDS", 0.0)
    for _ in range(2):
        with pytest.raises(ClusterLost, match="its control service has not answered for 0 s"):
            cluster.look()
    with pytest.raises(ClusterLost):
        cluster.require_alive()


def test_a_pause_is_no_loss(cluster, monkeypatch):
    monkeypatch.setattr(joined, "LOST_SECONDS", 60.0)
    with monkeypatch.context() as patch:
        patch.setattr(joined, "_answers", lambda _: False)
        cluster.look()
    cluster.look()
    monkeypatch.setattr(joined, "LOST_SECONDS", 0.0)
    cluster.look()
    cluster.require_alive(at_once=True)


def test_the_node_service_is_watched_too(cluster, monkeypatch, tmp_path):
    """It is on this machine: when it is silent it is dead."""
    monkeypatch.setattr(joined, "DEAD_SECONDS", 0.0)
    (tmp_path / "node").unlink()
    with pytest.raises(ClusterLost, match="its node has not answered"):
        cluster.look()


@pytest.fixture
def connected(cluster, monkeypatch):
    """In the place of Ray: an address whose cluster is that one, lost at once when silent."""
    monkeypatch.setattr(connection, "_require_answer", lambda *_: None)
    # Other tests of the same process may have left a cluster connected.
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(connection.ray, "init", lambda **_: None)
    monkeypatch.setattr(connection.ray, "shutdown", lambda: None)
    monkeypatch.setattr(JoinedCluster, "connected", lambda: cluster)
    monkeypatch.setattr(joined, "LOST_SECONDS", 0.0)


@pytest.mark.usefixtures("connected")
def test_the_work_on_it_ends_with_its_loss(service, tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "WATCH_SECONDS", 0.01)
    limit = time.monotonic() + 20

    def work():
        with connection.cluster("head:1", tmp_path / "log.txt"):
            connection.require_alive()
            service.close()
            while time.monotonic() < limit:  # as Tune asks all the time
                connection.require_alive()
                time.sleep(0.01)

    with pytest.raises(ClusterLostError, match="its control service has not answered"):
        work()
    connection.require_alive()  # nothing is watched any more


@pytest.mark.usefixtures("connected")
def test_an_error_of_ray_that_comes_of_the_loss_is_told_as_such(service, tmp_path):
    def work():
        with connection.cluster("head:1", tmp_path / "log.txt"):
            service.close()
            raise ConnectionError("of Ray")

    with pytest.raises(ClusterLostError, match=r"does not answer|has not answered"):
        work()


@pytest.mark.usefixtures("connected", "service")
@pytest.mark.parametrize("error", [ZeroDivisionError, ValueError, RuntimeError])
def test_another_error_stays_what_it_is(tmp_path, error):
    with pytest.raises(error), connection.cluster("head:1", tmp_path / "log.txt"):
        raise error


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError(VERSIONS),
            "the Ray cluster at 'head:1' cannot be joined: Version mismatch: The cluster was "
            "started with: Ray: 2.59.0 Python: 3.11.2 This process on node 10.0.0.2 was started "
            "with: Ray: 2.60.0 Python: 3.11.2; see that this machine has the cluster's Ray",
        ),
        (AuthenticationError("no token was found"), "cannot be joined: no token was found"),
        (ValueError("no such address"), "cannot be joined: no such address; see that"),
        (ConnectionError("of Ray\nat length"), "no Ray cluster answers at 'head:1': of Ray; start"),
    ],
)
def test_a_cluster_that_cannot_be_joined(tmp_path, monkeypatch, error, told):
    left = []

    def init(**_):
        raise error

    monkeypatch.setattr(connection.ray, "init", init)
    monkeypatch.setattr(connection.ray, "shutdown", lambda: left.append(True))
    with pytest.raises(RequestError) as refused, connection.cluster("head:1", tmp_path / "log.txt"):
        pass
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert left == [True]


@pytest.fixture
def joins(cluster, monkeypatch):
    """The addresses that Ray is told to join, which it does."""
    addresses = []
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(connection.ray, "init", lambda address, **_: addresses.append(address))
    monkeypatch.setattr(connection.ray, "shutdown", lambda: None)
    monkeypatch.setattr(JoinedCluster, "connected", lambda: cluster)
    return addresses


def test_a_connection_is_used_for_its_own_address_alone(joins, tmp_path, monkeypatch):
    """One of the caller's, as in a notebook: a search elsewhere would run here without a word."""
    own = SimpleNamespace(gcs_address="127.0.0.1:6379")
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(connection.ray, "get_runtime_context", lambda: own)
    for same in (None, "auto", own.gcs_address, "localhost:6379"):
        with connection.cluster(same, tmp_path / "log.txt"):
            pass
    for other in ("127.0.0.1:6380", "192.0.2.77:6379", "nobody.invalid:6379"):
        told = f"cluster at 127.0.0.1:6379, not to that at {other}; call ray.shutdown"
        with (
            pytest.raises(RequestError, match=re.escape(told)),
            connection.cluster(other, tmp_path / "log.txt"),
        ):
            pass
    assert not joins


def test_auto_is_the_cluster_that_the_environment_names(service, joins, tmp_path, monkeypatch):
    named = "{}:{}".format(*service.getsockname())
    for value in (named, "auto", ""):
        monkeypatch.setenv("RAY_ADDRESS", value)
        with connection.cluster("auto", tmp_path / "log.txt"):
            pass
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with connection.cluster(named, tmp_path / "log.txt"):  # it says nothing about another one
        pass
    assert joins == [named, "auto", "auto", named]


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("ray://head:10001", "cannot run through 'ray://head:10001' (from RAY_ADDRESS), which is"),
        ("http://127.0.0.1:8265", "cannot run through 'http://127.0.0.1:8265' (from RAY_ADDRESS)"),
        ("local", "cannot run through 'local' (from RAY_ADDRESS), which is not HOST:PORT"),
        ("127.0.0.1:1", "no Ray cluster answers at '127.0.0.1:1' (from RAY_ADDRESS): "),
        ("127.0.0.1:99999", "no Ray cluster answers at '127.0.0.1:99999' (from RAY_ADDRESS): "),
    ],
)
def test_what_the_environment_names_is_refused_at_once(joins, tmp_path, monkeypatch, named, told):
    monkeypatch.setenv("RAY_ADDRESS", named)
    with pytest.raises(RequestError) as refused, connection.cluster("auto", tmp_path / "log.txt"):
        pass
    assert told in str(refused.value)
    assert joins == []


def test_the_address_of_a_dashboard_is_refused(joins, tmp_path):
    place = "http://127.0.0.1:8265"
    with (
        pytest.raises(RequestError, match=f"a search cannot run through '{place}', which is not"),
        connection.cluster(place, tmp_path / "log.txt"),
    ):
        pass
    assert joins == []
