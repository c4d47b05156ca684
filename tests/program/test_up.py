"""`skerry up` as a person uses it: start, stop, start again, and everything that it must refuse."""

import json
import os
import signal
import socket
import subprocess
import time

import pytest

from harness import s3 as clients
from harness.site import READY_SECONDS_MAX, Site

REFUSAL_SECONDS_MAX = 60


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


def test_the_data_folder_is_private(new_site):
    site = new_site(1).start()
    for node in site.data.glob("node-*"):
        assert node.stat().st_mode & 0o077 == 0, node
        for path in (node / "secrets").rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_second_start_on_the_same_folder(new_site, binary):
    site = new_site(1).start()
    line = refused(binary, "up", "--data", site.data)
    assert "in use" in line
    assert site.is_ready()


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
    before = without_logs(contents(site.data))
    line = refused(binary, "up", "--data", site.data)
    assert "node-1" in line
    assert without_logs(contents(site.data)) == before


def without_logs(files):
    return {name: data for name, data in files.items() if not name.startswith("logs/")}


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


def test_plain_http_does_not_leave_the_machine_unasked(binary, tmp_path):
    listen = ["--node-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--s3-listen", "0.0.0.0:0"]
    assert "--insecure-http" in refused(binary, "server", "--data", tmp_path / "data", *listen)
    assert not (tmp_path / "data").exists()


def test_health_and_metrics(new_site):
    import requests

    site = new_site(3).start()
    for node in site.status()["nodes"]:
        http = node["endpoints"]["http"]
        assert requests.get(f"{http}/healthz", timeout=10).status_code == 200
        assert requests.get(f"{http}/readyz", timeout=10).status_code == 200
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
