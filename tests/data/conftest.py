"""A data folder of its own for each test, and published sets in it that a test fakes."""

import pytest
from fake_sets import FAKES, Server, install

from amatune.data.places import DATA


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """An empty data folder, and no way out."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(DATA, str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def fake(request, monkeypatch):
    """The fake of the set that the test names, not in the data folder yet."""
    made = FAKES[request.param]()
    install(monkeypatch, request.param, made)
    return made


@pytest.fixture
def serve(monkeypatch):
    servers = []

    def start(name, fake):
        server = Server({file: content for file, (content, _) in fake.archives.items()})
        servers.append(server)
        install(monkeypatch, name, fake, server.url)
        return server

    yield start
    for server in servers:
        server.close()
