"""The data folder: what a refused start leaves, what a start makes of a damaged one, and servers whose address changes."""

import os
import shutil
import socket
import subprocess

import botocore.exceptions
import pytest
import requests

from harness import s3 as clients
from harness.bodies import body
from harness.command import ANY_PORT, SECONDS_MAX, refused, variables
from harness.wait import until

DOORS = ["s3", "node", "http"]
LARGE = body(5 << 20)
NOBODY = 65534


def tree(folder):
    """Every folder, and every file with what it says; sockets come and go."""
    paths = [path for path in folder.rglob("*") if path.is_dir() or path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def refusal(binary, *args):
    """The one line with which a start is refused; logs may stand beside it."""
    ended = subprocess.run(
        [str(word) for word in (binary, *args)],
        env=variables(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )
    assert ended.returncode == 1, f"exit code {ended.returncode}\n{ended.stderr}"
    assert "panicked" not in ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("skerry: ")]
    return line


def new_token(server, path):
    path.write_text(server.json("token", "create")["token"])
    return path


def both_ready(first, second):
    """Whether the site is ready and consists of these two processes."""
    assert second.process.poll() is None, second.tail()
    status = first.status()
    pids = {first.process.pid, second.process.pid}
    return status and status["ready"] and {node["pid"] for node in status["nodes"]} == pids


def start_again(server, *flags):
    """Stops a server that joined and starts it as a member."""
    assert server.stop() == 0, server.tail()
    server.verb, server.flags = ["server"], list(flags)
    server.spawn()


# A first start that is refused


@pytest.fixture
def taken():
    """An address that somebody uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_a_taken_port_leaves_nothing(binary, process_lock, new_server, tmp_path, taken, door, folder):
    data = tmp_path / "site" / "data"
    if folder == "empty":
        data.mkdir(parents=True)
    before = tree(tmp_path)
    flags = [f"--{door}-listen" for door in DOORS]
    listen = [word for flag in flags for word in (flag, taken if flag == f"--{door}-listen" else "127.0.0.1:0")]
    assert taken in refused(binary, "server", "--data", data, *listen)
    assert tree(tmp_path) == before
    # Nor does the folder keep the taken port.
    server = new_server("site/data")
    server.data.parent.mkdir(exist_ok=True)
    server.start(*ANY_PORT)
    assert taken not in server.node()["listen"].values()


def test_a_taken_port_does_not_use_a_token_up(new_server, binary, tmp_path, taken):
    first = new_server("first").start(*ANY_PORT)
    token = new_token(first, tmp_path / "token")
    second = tmp_path / "second"
    join = ["join", "--token-file", token, "--data", second, "--no-start"]
    assert taken in refused(binary, *join, *ANY_PORT[:-2], "--http-listen", taken)
    assert not second.exists()
    other = new_server("second").join(token, *ANY_PORT)
    until(lambda: both_ready(first, other))


def test_a_path_that_is_too_long_is_refused_before_anything_is_made(binary, process_lock, tmp_path):
    data = tmp_path / ("x" * 100)
    assert "too long" in refused(binary, "server", "--data", data, *ANY_PORT)
    assert tree(tmp_path) == {}


# Other users


def test_a_folder_that_others_could_enter_is_closed(new_server):
    server = new_server()
    server.data.mkdir()
    server.data.chmod(0o755)
    server.start(*ANY_PORT)
    assert server.data.stat().st_mode & 0o777 == 0o700
    assert "the data folder was open to other users" in server.log_text()
    assert server.stop() == 0
    server.data.chmod(0o750)
    server.start()
    assert server.data.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("command", [["server", *ANY_PORT], ["up", "--ports", "random"]])
def test_a_folder_of_another_user_is_refused(binary, process_lock, tmp_path, command):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    line = refused(binary, *command, "--data", data)
    assert f"{data} belongs to another user" in line
    assert tree(tmp_path) == {"data": None}


# Damage

FILES = [
    "node.json",
    "lock",
    "doors.json",
    "topology.json",
    "heard.json",
    "secrets/site-key",
    "secrets/node-key.der",
    "secrets/node-chain.json",
    "secrets/site-authority",
    "secrets/root.json",
    "wal/wal-*.seg",
    "state/groups.redb",
]
NEEDED = {"node.json", "secrets/site-key", "secrets/node-key.der", "secrets/node-chain.json"}
NEEDED |= {"wal/wal-*.seg", "state/groups.redb"}


@pytest.fixture(scope="module")
def kept(one_server):
    """The folder of a node that was stopped, and who may read there."""
    one_server.start(*ANY_PORT)
    environment = one_server.environment()
    s3 = clients.of(environment)
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="small", Body=b"small")
    s3.put_object(Bucket="kept", Key="large", Body=LARGE)
    assert one_server.stop() == 0
    return one_server.data, environment


@pytest.fixture
def copy(kept, new_server):
    """A server on a copy of that folder."""
    server = new_server("copy")
    shutil.copytree(kept[0], server.data, ignore=shutil.ignore_patterns("admin.sock"))
    return server


def check_works(server, environment):
    """A node either does all its work, or does not start."""
    server.start()
    s3 = clients.of(environment | {"AWS_ENDPOINT_URL": server.url("s3")})
    assert s3.get_object(Bucket="kept", Key="small")["Body"].read() == b"small"
    assert s3.get_object(Bucket="kept", Key="large")["Body"].read() == LARGE
    s3.put_object(Bucket="kept", Key="new", Body=LARGE)
    assert s3.get_object(Bucket="kept", Key="new")["Body"].read() == LARGE
    assert server.stop() == 0, server.tail()


def damage(path, how):
    if how == "removed":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:5])
    else:
        path.write_bytes(b"\xa5" * max(64, path.stat().st_size))


@pytest.mark.parametrize("how", ["truncated", "garbage", "removed"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file(binary, kept, copy, name, how):
    path = sorted(copy.data.glob(name))[0]
    damage(path, how)
    # What can be made anew may be gone; what is there and can't be read is never taken for what is gone.
    if name not in NEEDED and not (name == "topology.json" and how != "removed"):
        check_works(copy, kept[1])
        return
    before = tree(copy.data)
    line = refusal(binary, "server", "--data", copy.data)
    named = str(path.parent) if name.startswith("wal/") and how == "removed" else path.name
    assert named in line, line
    assert str(copy.data) in line or name.startswith("wal/"), line
    after = tree(copy.data)
    if name.startswith("state/"):
        # The log was opened before; that it lost nothing shows when the file is back.
        shutil.copy(kept[0] / name, path)
        check_works(copy, kept[1])
        return
    assert after == before


@pytest.mark.parametrize("name", ["wal", "state", "blocks"])
def test_a_missing_part(binary, copy, name):
    shutil.rmtree(copy.data / name)
    before = tree(copy.data)
    assert str(copy.data / name) in refusal(binary, "server", "--data", copy.data)
    assert tree(copy.data) == before


def test_a_damaged_volume_is_said_and_the_rest_works(kept, copy):
    volume = sorted(copy.data.glob("blocks/vol-*"))[0]
    damage(volume, "garbage")
    before = volume.read_bytes()
    copy.spawn()
    # Nobody else has what was in it: the site is not ready.
    number = volume.name.removeprefix("vol-")
    until(lambda: [number in reason for reason in reasons(copy)] == [True])
    http = copy.url("http")
    assert requests.get(f"{http}/readyz", timeout=10).status_code == 503
    assert "\nskerry_block_volumes_damaged 1\n" in requests.get(f"{http}/metrics", timeout=10).text
    s3 = clients.of(kept[1] | {"AWS_ENDPOINT_URL": copy.url("s3")}, attempts=1)
    assert s3.get_object(Bucket="kept", Key="small")["Body"].read() == b"small"
    with pytest.raises((botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)):
        s3.get_object(Bucket="kept", Key="large")["Body"].read()
    s3.put_object(Bucket="kept", Key="new", Body=LARGE)
    assert s3.get_object(Bucket="kept", Key="new")["Body"].read() == LARGE
    assert copy.stop() == 0, copy.tail()
    assert volume.read_bytes() == before


def reasons(server):
    """Why the node of this process is not ready."""
    status = server.status()
    return status["nodes"][0]["reasons"] if status else []


def test_a_member_that_never_started_needs_no_parts(new_server, tmp_path):
    first = new_server("first").start(*ANY_PORT)
    second = new_server("second").join(new_token(first, tmp_path / "token"), "--no-start", *ANY_PORT)
    assert second.process.wait(SECONDS_MAX) == 0
    assert not (second.data / "wal").exists()
    start_again(second)
    until(lambda: both_ready(first, second))


# Addresses


def test_nothing_is_placed_on_a_newcomer_that_can_not_be_reached(new_server, tmp_path):
    first = new_server("first").start(*ANY_PORT)
    s3 = clients.of(first.environment())
    s3.create_bucket(Bucket="kept")
    second = new_server("second").join(
        new_token(first, tmp_path / "token"), *ANY_PORT, "--advertise", "127.0.0.1:1"
    )
    until(lambda: "does not answer at the address" in first.log_text())
    assert first.status()["epoch"] == 1
    s3.put_object(Bucket="kept", Key="large", Body=LARGE)
    assert s3.get_object(Bucket="kept", Key="large")["Body"].read() == LARGE
    # The wrong address is kept, until another one is named.
    assert second.node()["advertise"] == "127.0.0.1:1"
    start_again(second, "--advertise", second.node()["listen"]["node"])
    until(lambda: both_ready(first, second))
    assert first.status()["epoch"] == 2
    assert s3.get_object(Bucket="kept", Key="large")["Body"].read() == LARGE


def test_a_loopback_address_is_not_announced_to_other_machines(new_server, binary, tmp_path):
    first = new_server("first").start(*ANY_PORT, "--advertise", "node1.invalid:7301")
    token = new_token(first, tmp_path / "token")
    address = first.node()["listen"]["node"]
    data = tmp_path / "second"
    line = refusal(binary, "join", address, "--token-file", token, "--data", data, *ANY_PORT)
    assert "--advertise" in line and "node1.invalid:7301" in line
    status = first.status()
    assert status["epoch"] == 1 and len(status["nodes"]) == 1


def test_a_server_of_two_comes_back_at_another_address(new_server, tmp_path):
    first = new_server("first").start(*ANY_PORT)
    second = new_server("second").join(new_token(first, tmp_path / "token"), *ANY_PORT)
    until(lambda: both_ready(first, second))
    before = second.node()["listen"]["node"]
    # While it is away, somebody else may have its port: another one is picked.
    start_again(second, *ANY_PORT)
    until(lambda: both_ready(first, second))
    assert second.node()["listen"]["node"] != before
    s3 = clients.of(first.environment())
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="large", Body=LARGE)
    assert s3.get_object(Bucket="kept", Key="large")["Body"].read() == LARGE
