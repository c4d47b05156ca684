"""Fixtures of tests that start nodes of their own."""

import pytest

from harness.certificates import Authority
from harness.server import Server


@pytest.fixture
def new_server(binary, process_lock, tmp_path):
    """Makes servers that are stopped at the end, however the test ends."""
    servers = []

    def make(name="data"):
        server = Server(binary, tmp_path / name)
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def one_server(binary, process_lock, tmp_path_factory):
    """A server for all tests of a file, which starts it as it needs it."""
    server = Server(binary, tmp_path_factory.mktemp("server") / "data")
    yield server
    code = server.stop()
    assert code in (0, None), f"`skerry server` ended with {code}\n{server.tail()}"


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """Whom clients of the tests trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory):
    """Whom they don't trust."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="session")
def pair(authority):
    """A certificate for this machine, and its key."""
    return authority.issue("DNS:localhost", "IP:127.0.0.1")
