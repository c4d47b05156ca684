"""A site of real `skerry` processes on loopback, in a folder of its own.

Every process is started by `skerry up`, which is our child: if this test program dies, the kernel asks it to stop.
Waits are for values (`skerry status`), with a deadline and the last answer in the message.
"""

import ctypes
import json
import os
import signal
import subprocess
import time
from pathlib import Path

READY_SECONDS_MAX = 90
STOP_SECONDS_MAX = 60
PR_SET_PDEATHSIG = 1


class Site:
    """One to many nodes under one `skerry up`."""

    def __init__(self, binary, data, nodes):
        self.binary = str(binary)
        self.data = Path(data)
        self.nodes = nodes
        self.log = self.data.parent / f"{self.data.name}.log"
        self.process = None
        # Its environment variables; those of this program if there are none.
        self.variables = None
        # The words of a program that starts it.
        self.within = []

    def start(self):
        """Starts the site and waits until it is ready."""
        self.spawn()
        self.wait_ready()
        return self

    def spawn(self):
        """Starts the site."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.within, *self.command()],
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_stop_with_parent,
            )
        return self

    def command(self):
        return [self.binary, "up", "--nodes", str(self.nodes), "--data", str(self.data), "--ports", "random"]

    def stop(self):
        """Asks the site to drain and waits for its end; returns the exit code."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        if process.poll() is None:
            process.terminate()
        try:
            return process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.command()} did not stop in {STOP_SECONDS_MAX} s\n{self.tail()}") from None

    def run(self, *args, check=True):
        """Runs a command of the program on this site's folder."""
        command = [self.binary, *args, "--data", str(self.data)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(args)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def json(self, *args):
        """Runs a command and reads the JSON that it prints."""
        return json.loads(self.run(*args, "--output", "json").stdout)

    def status(self):
        """What `skerry status` says, whether the site is ready or not; None if it says nothing."""
        done = self.run("status", "--output", "json", check=False)
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError:
            return None

    def is_ready(self, without=()):
        """Whether status says ready, with every node alive in a process that is none of `without`."""
        done = self.run("status", "--output", "json", check=False)
        if done.returncode != 0:
            return False
        pids = [node["pid"] for node in json.loads(done.stdout)["nodes"]]
        return len(pids) == self.nodes and not set(pids) & {0, None, *without}

    def wait_ready(self, without=()):
        """Waits for the above."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not self.is_ready(without):
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"{self.command()} ended with {self.process.returncode}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not ready in {READY_SECONDS_MAX} s: {self.status()}\n{self.tail()}")
            time.sleep(0.1)

    def environment(self):
        """The variables of `skerry env`."""
        answer = self.json("env")
        answer = answer.get("env", answer)
        return {name: value for name, value in answer.items() if name.startswith("AWS_")}

    def node_pids(self):
        """The process ids of the nodes; each is checked to be ours before anybody may signal it."""
        pids = [int(node["pid"]) for node in self.status()["nodes"]]
        for pid in pids:
            assert pid == self.process.pid or _parent(pid) == self.process.pid, f"process {pid} is not ours"
        return pids

    def endpoints(self):
        """The S3 endpoint of every node."""
        return [_endpoint(node) for node in self.status()["nodes"]]

    def kill(self, pids):
        """Ends processes of this site at once, without a chance to write anything."""
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def log_text(self):
        """All that the site wrote."""
        return self.log.read_text(errors="replace")

    def tail(self, lines=60):
        """The end of what the site wrote."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""


def _endpoint(node):
    endpoints = node["endpoints"]
    value = endpoints["s3"] if isinstance(endpoints, dict) else endpoints[0]
    return value if "://" in value else f"http://{value}"


def _parent(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None
    return int(stat.rpartition(")")[2].split()[1])


def _stop_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
