"""`skerry up` as a person uses it: start, stop, start again, and everything that it must refuse."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from harness import s3 as clients
from harness.site import READY_SECONDS_MAX, Site
from harness.wait import until

REFUSAL_SECONDS_MAX = 60
# Where the second node of a site on one machine listens for others, unless told otherwise.
SECOND_NODE_PORT = 7311
PORTS_LOCK = Path(tempfile.gettempdir()) / "skerry-documented-ports.lock"


@pytest.fixture
def new_site(binary, process_lock, tmp_path):
    """Makes sites that are stopped at the end, however the test ends."""
    sites = []

    def make(nodes, name="data"):
        site = Site(binary, tmp_path / name, nodes)
        sites.append(site)
        return site

    yield make
    for site in sites:
        site.stop()


def refused(binary, *args):
    """Runs a command that must fail: with one line that says why, and soon."""
    done = subprocess.run(
        [str(binary), *map(str, args)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=REFUSAL_SECONDS_MAX,
    )
    assert done.returncode not in (0, 101), done
    lines = [line for line in done.stderr.splitlines() if line.startswith("skerry: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("nodes", [1, 3])
def test_started_again_it_is_the_same_site(new_site, nodes):
    site = new_site(nodes).start()
    before, environment = site.status(), site.environment()
    s3 = clients.of(environment)
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="small", Body=b"small")
    s3.put_object(Bucket="kept", Key="large", Body=bytes(5 << 20))
    assert site.stop() == 0
    site.start()
    after = site.status()
    assert after["site"] == before["site"]
    assert site.environment() == environment
    assert [node["endpoints"] for node in after["nodes"]] == [node["endpoints"] for node in before["nodes"]]
    s3 = clients.of(environment)
    assert s3.get_object(Bucket="kept", Key="small")["Body"].read() == b"small"
    assert s3.get_object(Bucket="kept", Key="large")["Body"].read() == bytes(5 << 20)


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_all_when_asked(new_site, nodes, how):
    site = new_site(nodes).start()
    pids = site.node_pids()
    site.process.send_signal(how)
    assert site.process.wait(REFUSAL_SECONDS_MAX) == 0, site.tail()
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def test_a_process_that_dies_is_started_again_and_said_so(new_site):
    site = new_site(3).start()
    victim = site.node_pids()[1]
    site.kill([victim])
    site.wait_ready(without=[victim])
    assert "starting it again" in site.log.read_text()


def test_a_process_that_dies_during_the_first_start_is_started_again(new_site):
    site = new_site(3).spawn()
    victims = until(lambda: processes_of(site.data / "node-2"))
    site.kill(victims)
    site.wait_ready(without=victims)
    assert "starting it again" in site.log_text()


@pytest.mark.parametrize("nodes", [1, 3])
def test_killed_during_its_start_it_leaves_no_process(new_site, nodes):
    site = new_site(nodes).spawn()
    if nodes == 1:
        until((site.data / "node-1" / "lock").exists)
    else:
        until(lambda: processes_of(site.data / "node-2"))
    site.kill([site.process.pid])
    site.process.wait()
    until(lambda: not processes_of(site.data))
    site.start()


@pytest.mark.parametrize("nodes", [1, 3])
def test_asked_to_stop_during_its_start(new_site, nodes):
    site = new_site(nodes).spawn()
    until((site.data / "node-1" / "lock").exists)
    assert site.stop() == 0
    assert not processes_of(site.data)
    site.start()


def processes_of(folder):
    """The processes that were started with this folder, or one below it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word == os.fsencode(folder) or word.startswith(os.fsencode(folder) + b"/") for word in words):
            found.append(int(process.name))
    return found


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_slow_put_is_finished_before_the_site_stops(new_site, nodes):
    site = new_site(nodes).start()
    environment, endpoints = site.environment(), site.endpoints()
    clients.of(environment).create_bucket(Bucket="kept")
    s3 = clients.of(environment, endpoint=endpoints[-1])
    body = os.urandom(1 << 20)
    url = urlsplit(s3.generate_presigned_url("put_object", Params={"Bucket": "kept", "Key": "slow"}))
    head = [f"PUT {url.path}?{url.query} HTTP/1.1", f"Host: {url.netloc}", f"Content-Length: {len(body)}"]
    head += ["Expect: 100-continue", "", ""]
    with socket.create_connection((url.hostname, url.port), timeout=60) as connection:
        connection.sendall("\r\n".join(head).encode())
        answer = connection.makefile("rb")
        # The request is under way when the door wants its body.
        assert b" 100 " in answer.readline()
        assert answer.readline() == b"\r\n"
        half = len(body) // 2
        connection.sendall(body[:half])
        site.process.terminate()
        until(lambda: all(is_closed(endpoint) for endpoint in endpoints))
        # A client on a thin line: processes that have nothing to do have the time to go, and must not.
        for at in range(half, len(body), half // 32):
            connection.sendall(body[at : at + half // 32])
            time.sleep(0.1)
        assert b" 200 " in answer.readline()
    assert site.stop() == 0
    site.start()
    assert clients.of(environment).get_object(Bucket="kept", Key="slow")["Body"].read() == body


def is_closed(endpoint):
    """Whether nobody listens there."""
    url = urlsplit(endpoint)
    try:
        socket.create_connection((url.hostname, url.port), timeout=10).close()
    except ConnectionRefusedError:
        return True
    return False


def test_one_node_says_that_it_is_up_when_it_is_ready(new_site):
    site = new_site(1).spawn()
    until(lambda: "is up" in site.log_text())
    assert site.is_ready()


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_commands_that_it_prints_can_be_pasted_into_a_shell(new_site, tmp_path, nodes):
    site = new_site(nodes, name="it's mine").start()
    until(lambda: "object ls first" in site.log_text())
    lines = site.log_text().partition("try:\n")[2].splitlines()[:3]
    assert len(lines) == 3
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    for line in lines:
        done = subprocess.run(["sh", "-c", line], env=variables, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    # The last one lists what the one before it stored.
    assert len(done.stdout.splitlines()) == 1, done.stdout


def test_status_says_by_its_exit_code_whether_the_site_is_ready(new_site, binary):
    site = new_site(1)
    assert site.run("status", check=False).returncode != 0
    site.start()
    done = site.run("status", "--output", "json")
    status = json.loads(done.stdout)
    assert status["output_version"] == 1 and status["ready"]
    (node,) = status["nodes"]
    assert node["pid"] == site.process.pid
    assert str(site.data) in node["data"]
    # One server keeps one copy, and must say so.
    assert any("one" in notice for notice in status["notices"])
    site.stop()
    assert site.run("status", check=False).returncode != 0


def test_env_is_for_a_shell(new_site):
    site = new_site(1).start()
    done = site.run("env")
    script = f"{done.stdout}\nprintf %s \"$AWS_ENDPOINT_URL $AWS_ACCESS_KEY_ID $AWS_SECRET_ACCESS_KEY $AWS_REGION\""
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env={}).stdout
    environment = site.environment()
    names = ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"]
    assert shown.split() == [environment[name] for name in names]


def test_a_secret_is_not_written_to_what_is_no_terminal(new_site):
    site = new_site(1).start()
    secret = site.environment()["AWS_SECRET_ACCESS_KEY"]
    assert secret not in site.log.read_text()
    for log in site.data.rglob("*.log"):
        assert secret not in log.read_text(errors="replace")


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_data_folder_is_private(new_site, nodes):
    site = new_site(nodes).start()
    logs = list((site.data / "logs").iterdir())
    assert len(logs) == nodes
    for path in [site.data, site.data / "lock", site.data / "logs", *logs]:
        assert path.stat().st_mode & 0o077 == 0, path
    for node in site.data.glob("node-*"):
        assert node.stat().st_mode & 0o077 == 0, node
        for path in (node / "secrets").rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_data_folder_that_others_could_enter_is_closed(new_site, nodes):
    site = new_site(nodes)
    site.data.mkdir()
    site.data.chmod(0o755)
    site.start()
    assert site.data.stat().st_mode & 0o777 == 0o700
    assert f"{site.data} was open to other users" in site.log_text()


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_second_start_on_the_same_folder(new_site, binary, nodes):
    site = new_site(nodes).start()
    pids, logs = site.node_pids(), sorted((site.data / "logs").iterdir())
    for wanted in [1, 3]:
        line = refused(binary, "up", "--nodes", wanted, "--data", site.data)
        assert f"{site.data} is in use" in line
    until(site.is_ready)
    assert site.node_pids() == pids
    assert sorted((site.data / "logs").iterdir()) == logs


def test_a_server_in_the_folder_of_a_site(new_site, binary):
    site = new_site(1).start()
    site.stop()
    before = contents(site.data)
    assert "skerry up" in refused(binary, "server", "--data", site.data)
    assert contents(site.data) == before


def test_a_folder_with_other_files(binary, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"meow")
    for command in ["up", "server"]:
        assert str(folder) in refused(binary, command, "--data", folder)
        assert contents(folder) == {"cat.jpg": b"meow"}


@pytest.mark.parametrize("kind", ["damaged", "newer"])
def test_a_folder_that_cannot_be_understood(new_site, binary, kind):
    site = new_site(1).start()
    site.stop()
    marker = site.data / "node-1" / "node.json"
    if kind == "newer":
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format": 1_000_000}))
    else:
        marker.write_text(marker.read_text()[:20])
    before = contents(site.data)
    line = refused(binary, "up", "--data", site.data)
    assert "node-1" in line
    assert contents(site.data) == before


def test_a_site_starts_with_a_majority_of_its_nodes_and_with_less_says_why_not(new_site, binary):
    site = new_site(3).start()
    environment = site.environment()
    clients.of(environment).create_bucket(Bucket="kept")
    site.stop()
    damage(site.data / "node-3" / "node.json")
    site.spawn()
    until(lambda: "node 3 does not start" in site.log_text())
    s3 = clients.of(environment)
    s3.put_object(Bucket="kept", Key="small", Body=b"small")
    assert s3.get_object(Bucket="kept", Key="small")["Body"].read() == b"small"
    assert site.stop() == 0
    damage(site.data / "node-2" / "node.json")
    line = refused(binary, "up", "--nodes", 3, "--data", site.data)
    assert str(site.data / "node-2") in line and "damaged" in line
    assert not processes_of(site.data)


def damage(file):
    file.write_text(file.read_text()[:20])


def test_a_new_node_that_cannot_start(binary, process_lock, tmp_path):
    folder = tmp_path / "data" / "node-1"
    folder.mkdir(parents=True)
    (folder / "cat.jpg").write_bytes(b"meow")
    line = refused(binary, "up", "--nodes", 3, "--ports", "random", "--data", tmp_path / "data")
    assert str(folder) in line and "other files" in line
    assert contents(tmp_path) == {"data/node-1/cat.jpg": b"meow"}
    assert not processes_of(tmp_path / "data")


def test_a_damaged_log_stops_the_node_instead_of_losing_records(new_site, binary):
    site = new_site(1).start()
    s3 = clients.of(site.environment())
    s3.create_bucket(Bucket="kept")
    for number in range(50):
        s3.put_object(Bucket="kept", Key=str(number), Body=bytes(1000))
    site.stop()
    segment = sorted((site.data / "node-1" / "wal").iterdir())[0]
    data = bytearray(segment.read_bytes())
    # Well inside of what was synced: in front of records that are whole.
    at = len(bytes(data).rstrip(b"\0")) // 3
    data[at] ^= 0xFF
    segment.write_bytes(data)
    line = refused(binary, "up", "--data", site.data)
    assert "damage" in line.lower()
    assert segment.read_bytes() == bytes(data)


def test_a_taken_port(binary, process_lock, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        listen = ["--node-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--s3-listen", address]
        line = refused(binary, "server", "--data", tmp_path / "data", *listen)
        assert address in line


@contextmanager
def taken(port):
    """Somebody listens on this port: this test, or who does so already."""
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError:
        yield
        return
    with listener:
        yield


@pytest.fixture
def second_is_taken():
    """Somebody has a documented port of the second node. One test at a time goes near those ports."""
    with open(PORTS_LOCK, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with taken(SECOND_NODE_PORT):
            yield


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_a_taken_port_of_one_node_leaves_nothing_of_any(binary, process_lock, second_is_taken, tmp_path, folder):
    data = tmp_path / "site" / "data"
    if folder == "empty":
        data.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    line = refused(binary, "up", "--nodes", 3, "--data", data)
    # The documented ports of the first node may be taken as well, by somebody else on this machine.
    assert re.search(r"node [12] can't start: can't listen on 127\.0\.0\.1:73[01][012] ", line), line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_site_that_can_not_grow_stays_as_it_was(new_site, binary, second_is_taken):
    site = new_site(1).start()
    assert site.stop() == 0
    before = contents(site.data)
    line = refused(binary, "up", "--nodes", 3, "--data", site.data)
    assert "node 2 can't start" in line and f"127.0.0.1:{SECOND_NODE_PORT} " in line
    assert contents(site.data) == before
    assert not (site.data / "node-2").exists()


def test_a_taken_port_of_a_node_that_ran_before(new_site, binary):
    site = new_site(1).start()
    address = site.status()["nodes"][0]["endpoints"]["node"]
    assert site.stop() == 0
    before = contents(site.data)
    with taken(int(address.rpartition(":")[2])):
        assert f"{address} " in refused(binary, "up", "--data", site.data)
    assert contents(site.data) == before
    site.start()


def test_a_path_that_is_too_long_leaves_nothing(binary, process_lock, tmp_path):
    data = tmp_path / ("x" * 100)
    assert "too long" in refused(binary, "up", "--ports", "random", "--data", data)
    assert not list(tmp_path.iterdir())


def test_a_damaged_volume_of_one_node_is_a_notice(new_site):
    site = new_site(3).start()
    s3 = clients.of(site.environment())
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="large", Body=bytes(5 << 20))
    # The third copy may come late.
    volumes = until(lambda: list((site.data / "node-2" / "blocks").glob("vol-*")))
    until(lambda: volumes[0].stat().st_size > 1 << 20)
    assert site.stop() == 0
    volumes[0].write_bytes(b"\xa5" * volumes[0].stat().st_size)
    site.start()
    (notice,) = until(lambda: [text for text in site.status()["notices"] if "can't be read" in text])
    assert notice.startswith("node 2: ")
    for endpoint in site.endpoints():
        s3 = clients.of(site.environment(), endpoint=endpoint)
        assert s3.get_object(Bucket="kept", Key="large")["Body"].read() == bytes(5 << 20)


def test_health_and_metrics(new_site):
    import requests

    site = new_site(3).start()
    for node in site.status()["nodes"]:
        http = node["endpoints"]["http"]
        assert requests.get(f"{http}/healthz", timeout=10).status_code == 200
        # A busy machine may elect another leader, and is not ready while it does.
        until(lambda: requests.get(f"{http}/readyz", timeout=10).status_code == 200)
        metrics = requests.get(f"{http}/metrics", timeout=10)
        assert metrics.status_code == 200
        assert any(line.startswith("# TYPE skerry_") for line in metrics.text.splitlines())


def test_a_machine_joins_with_a_token_that_works_once(new_site, binary, tmp_path):
    site = new_site(1).start()
    s3 = clients.of(site.environment())
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="small", Body=b"before")
    s3.put_object(Bucket="kept", Key="large", Body=bytes(9 << 20))
    token = site.json("token", "create")["token"]
    joined = Server(binary, tmp_path / "second", token)
    try:
        joined.wait_for(site, nodes=2)
        other = clients.of(site.environment(), endpoint=joined.endpoint(site))
        assert other.get_object(Bucket="kept", Key="small")["Body"].read() == b"before"
        assert other.get_object(Bucket="kept", Key="large")["Body"].read() == bytes(9 << 20)
        # The token is used up: another machine is refused and gets no data folder that could start.
        third = tmp_path / "third"
        (tmp_path / "token").write_text(token)
        refused(binary, "join", "--token-file", tmp_path / "token", "--data", third, "--no-start", *ANY_PORT)
        assert not (third / "node.json").exists()
    finally:
        joined.stop()


ANY_PORT = ["--node-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--s3-listen", "127.0.0.1:0"]


class Server:
    """A machine that joins by itself, outside of `skerry up`."""

    def __init__(self, binary, data, token):
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        command = [str(binary), "join", "--token-file", "-", "--data", str(data), *ANY_PORT]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        self.process.stdin.write(token.encode())
        self.process.stdin.close()

    def wait_for(self, site, nodes):
        deadline = time.monotonic() + READY_SECONDS_MAX
        while True:
            assert self.process.poll() is None, self.log.read_text()
            status = site.status()
            if status and status["ready"] and len(status["nodes"]) == nodes:
                return
            assert time.monotonic() < deadline, f"{status}\n{self.log.read_text()}"
            time.sleep(0.1)

    def endpoint(self, site):
        (mine,) = [node for node in site.status()["nodes"] if node["pid"] == self.process.pid]
        return mine["endpoints"]["s3"]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
