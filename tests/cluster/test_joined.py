"""A cluster that others have started: when it counts as lost, and what that does to a search."""

import socket
import time

import pytest

from amatune.cluster import connection, joined
from amatune.cluster.joined import JoinedCluster
from amatune.cluster.processes import ClusterLost
from amatune.errors import ClusterLostError


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
    monkeypatch.setattr(connection, "_require_answer", lambda _: None)
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
def test_another_error_stays_what_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), connection.cluster("head:1", tmp_path / "log.txt"):
        raise ZeroDivisionError
