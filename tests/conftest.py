"""Fixtures of all tests that run the program: one site at a time, of one and of three nodes."""

import json
import os
import uuid
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest
from xdist import is_xdist_controller, is_xdist_worker

from harness import s3 as clients
from harness.lock import process_tests
from harness.site import Site

HERE = Path(__file__).parent
EXPECTED_FAILURES = HERE / "clients" / "expected_failures.json"
LOCK = pytest.StashKey()


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only in the long profile")


def pytest_collection_modifyitems(config, items):
    _leave_out_long(config, items)
    _expect_failures(items)


def _leave_out_long(config, items):
    if os.environ.get("SKERRY_TEST_LONG"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def _expect_failures(items):
    """A listed test must fail: when it passes, its line has to go, so the list only shrinks."""
    expected = json.loads(EXPECTED_FAILURES.read_text())
    for item in items:
        name = f"{item.path.stem}::{item.name}"
        bare = f"{item.path.stem}::{item.originalname}"
        if reason := expected.get(name) or expected.get(bare):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(scope="session")
def binary():
    path = os.environ.get("SKERRY_BIN")
    if not path:
        pytest.fail("SKERRY_BIN does not name the program; run these tests by `cargo xtask test`")
    return Path(path)


def pytest_sessionstart(session):
    """Who starts several workers holds the lock for all of them."""
    if is_xdist_controller(session):
        session.stash[LOCK] = ExitStack()
        session.stash[LOCK].enter_context(process_tests())


def pytest_sessionfinish(session):
    if LOCK in session.stash:
        session.stash[LOCK].close()


@pytest.fixture(scope="session")
def process_lock(request):
    with nullcontext() if is_xdist_worker(request) else process_tests():
        yield


@pytest.fixture(scope="session", params=[1, 3], ids=["one-node", "three-nodes"])
def site(request, binary, process_lock, tmp_path_factory):
    """A ready site that all tests of one size share; tests tell themselves apart by their bucket."""
    site = Site(binary, tmp_path_factory.mktemp("site") / "data", request.param)
    try:
        yield site.start()
    finally:
        code = site.stop()
    assert code == 0, f"`skerry up` ended with {code}\n{site.tail()}"


@pytest.fixture(scope="session")
def environment(site):
    return site.environment()


@pytest.fixture(scope="session")
def s3(environment):
    return clients.of(environment)


@pytest.fixture
def bucket(s3):
    name = f"t-{uuid.uuid4().hex[:20]}"
    s3.create_bucket(Bucket=name)
    return name
