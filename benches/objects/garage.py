"""Three nodes of Garage on loopback that promise what Skerry promises: three copies, everything synced.

Everything else is Garage's default. Its requests are not logged, as Skerry's are not.
"""

import json
import os
import secrets
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

from waiting import end, stop_with_parent, until

BUCKET = "bench"
NODES = 3
CAPACITY = "100GB"
REGION = "us-east-1"
COMMAND_SECONDS_MAX = 60
READY_SECONDS_MAX = 120

CONFIG = """\
metadata_dir = "{folder}/meta"
data_dir = "{folder}/data"
db_engine = "lmdb"
metadata_fsync = true
data_fsync = true
replication_factor = {nodes}

rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{secret}"

[s3_api]
api_bind_addr = "127.0.0.1:{s3}"
s3_region = "{region}"
"""


class Garage:
    """One cluster in a folder of its own."""

    name = "garage"

    def __init__(self, binary, folder):
        self.binary = str(binary)
        self.folder = Path(folder)
        self.processes = []
        self.endpoints = []
        self.keys = {}

    def start(self):
        """Starts the nodes, makes them a cluster, waits until all of it is settled, makes key and bucket."""
        self._configure()
        for number in range(NODES):
            self._spawn(number)
        ids = [until(f"id of garage node {n}", lambda n=n: self._id(n), READY_SECONDS_MAX) for n in range(NODES)]
        until("garage answers", lambda: self._json(0, "GetClusterHealth"), READY_SECONDS_MAX)
        for other in ids[1:]:
            self._cli(0, "node", "connect", other)
        until("garage nodes see each other", lambda: self._all_health("connectedNodes", NODES), READY_SECONDS_MAX)
        nodes = [one.partition("@")[0] for one in ids]
        self._cli(0, "layout", "assign", "--zone", "here", "--capacity", CAPACITY, *nodes)
        self._cli(0, "layout", "apply", "--version", "1")
        until("garage knows its layout", lambda: self._all_health("storageNodesUp", NODES), READY_SECONDS_MAX)
        until("garage is healthy", lambda: self._all_health("status", "healthy"), READY_SECONDS_MAX)
        until("garage has settled its layout", self._settled, READY_SECONDS_MAX, pause=0.5)
        self._make_bucket()
        return self

    def stop(self):
        """Asks the nodes to stop and waits for their end."""
        processes, self.processes = self.processes, []
        return end(processes)

    def pids(self):
        """The processes of the nodes."""
        for process in self.processes:
            if process.poll() is not None:
                raise RuntimeError(f"a garage node ended with {process.returncode}\n{self.tail()}")
        return [process.pid for process in self.processes]

    def tail(self):
        """The end of the logs."""
        logs = [log for n in range(NODES) if (log := self._node(n) / "log").exists()]
        return "\n".join(line for log in logs for line in log.read_text(errors="replace").splitlines()[-7:])

    def _node(self, number):
        return self.folder / f"node-{number + 1}"

    def _configure(self):
        ports, secret = free_ports(2 * NODES), secrets.token_hex(32)
        for number in range(NODES):
            folder = self._node(number)
            (folder / "data").mkdir(parents=True)
            (folder / "meta").mkdir(mode=0o700)
            rpc, s3 = ports[2 * number : 2 * number + 2]
            text = CONFIG.format(folder=folder, nodes=NODES, rpc=rpc, s3=s3, secret=secret, region=REGION)
            (folder / "garage.toml").write_text(text)
            (folder / "garage.toml").chmod(0o600)
            self.endpoints.append(f"http://127.0.0.1:{s3}")

    def _spawn(self, number):
        folder = self._node(number)
        environment = {**os.environ, "RUST_LOG": "netapp=warn,garage=warn"}
        command = [self.binary, "--config", str(folder / "garage.toml"), "server"]
        with open(folder / "log", "ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                preexec_fn=stop_with_parent,
            )
        self.processes.append(process)

    def _attempt(self, number, *words):
        self.pids()
        command = [self.binary, "--config", str(self._node(number) / "garage.toml"), *words]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX
        )

    def _cli(self, number, *words):
        done = self._attempt(number, *words)
        if done.returncode != 0:
            raise RuntimeError(f"garage {' '.join(words[:2])}: {done.stderr.strip()}\n{self.tail()}")
        return done.stdout

    def _json(self, number, call, payload=None):
        """An answer of the admin API; None when there is none (yet)."""
        words = ["json-api", call] + ([] if payload is None else [json.dumps(payload)])
        done = self._attempt(number, *words)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def _id(self, number):
        done = self._attempt(number, "node", "id", "--quiet")
        return done.stdout.strip() if done.returncode == 0 else None

    def _all_health(self, name, value):
        health = [self._json(number, "GetClusterHealth") for number in range(NODES)]
        return all(one is not None and one[name] == value for one in health)

    def _settled(self):
        """Nobody works with the empty layout from before any more."""
        history = [self._json(number, "GetClusterLayoutHistory") for number in range(NODES)]
        return all(one is not None and one["updateTrackers"] is None for one in history)

    def _make_bucket(self):
        made = self._json(0, "CreateKey", {"name": "bench"})
        if made is None:
            raise RuntimeError(f"garage made no key\n{self.tail()}")
        key = made["accessKeyId"]
        self._cli(0, "bucket", "create", BUCKET)
        self._cli(0, "bucket", "allow", "--read", "--write", "--owner", "--key", key, BUCKET)
        until("all garage nodes know the key", lambda: self._know(key), READY_SECONDS_MAX)
        self.keys = {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": made["secretAccessKey"],
            "AWS_REGION": REGION,
        }

    def _know(self, key):
        """Each node keeps keys and buckets itself, and hears of them a moment later."""
        buckets = [self._json(number, "GetBucketInfo", {"search": BUCKET}) for number in range(NODES)]
        keys = [self._json(number, "GetKeyInfo", {"id": key, "showSecretKey": False}) for number in range(NODES)]
        if None in buckets or None in keys:
            return False
        held = [one for bucket in buckets for one in bucket["keys"] if one["accessKeyId"] == key]
        return len(held) == NODES and all(one["permissions"]["write"] for one in held)


def free_ports(count):
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
