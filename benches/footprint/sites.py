"""Sites that `skerry up` doesn't make: with many groups, or whose way to readiness is timed closely."""

import os
import subprocess
import time

from harness.site import Site
from waiting import end, stop_with_parent, until

ANY_PORTS = [word for door in ("s3", "node", "http") for word in (f"--{door}-listen", "127.0.0.1:0")]
#: No file may say anything; `skerry up` reads none either.
NO_FILE = ["--config", os.devnull]
START_SECONDS_MAX = 600
LOOK_EVERY = 0.01
ASK_EVERY = 0.1
ASKING_MAX = 20


class GroupedSite(Site):
    """Nodes as on machines of their own: the first founds a site with so many groups, the others join with tokens."""

    def __init__(self, binary, data, nodes, groups):
        super().__init__(binary, data, nodes)
        self.groups = groups
        self.servers = []

    def start(self):
        """Starts node after node and waits until the site is ready."""
        self.data.mkdir()
        self._serve(1, "--site-groups", str(self.groups), *ANY_PORTS)
        for number in range(2, self.nodes + 1):
            made = until("a join token", self._token, START_SECONDS_MAX)
            token = self.data.parent / f"token-{number}"
            token.write_text(made)
            self._join(number, token)
            self._serve(number)
        until(f"a site of {self.groups} groups is ready", self._is_ready, START_SECONDS_MAX)
        return self

    def stop(self):
        """Asks all nodes to stop; returns how many had to be killed."""
        servers, self.servers = self.servers, []
        return end(servers)

    def node_pids(self):
        """The processes of the nodes: all of them our children."""
        self._check()
        return [server.pid for server in self.servers]

    def _folder(self, number):
        return str(self.data / f"node-{number}")

    def _serve(self, number, *words):
        command = [self.binary, "server", "--data", self._folder(number), *NO_FILE, *words]
        with open(self.log, "ab") as log:
            server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=stop_with_parent
            )
        self.servers.append(server)

    def _join(self, number, token):
        words = ["join", "--no-start", "--token-file", str(token), "--data", self._folder(number)]
        done = subprocess.run(
            [self.binary, *words, *NO_FILE, *ANY_PORTS],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS_MAX,
        )
        if done.returncode != 0:
            raise RuntimeError(f"node {number} can't join: {done.stderr}\n{self.tail()}")

    def _token(self):
        self._check()
        done = self.run("token", "create", check=False)
        return done.stdout.split()[0] if done.returncode == 0 else None

    def _is_ready(self):
        self._check()
        return self.is_ready()

    def _check(self):
        for server in self.servers:
            if server.poll() is not None:
                raise RuntimeError(f"a node ended with {server.returncode}\n{self.tail()}")


class TimedSite(Site):
    """Asks whether it is ready again and again without waiting for earlier answers: a node that is not there yet
    can hold up one answer for seconds."""

    def start(self):
        """Starts the site; `seconds_to_ready` is the time from there to the first `skerry status` that says ready."""
        self.started = time.monotonic()
        return super().start()

    def wait_ready(self, without=()):
        """Waits for the first answer that says ready; the rest is asked in vain."""
        asking = []
        try:
            self.seconds_to_ready = until("ready", lambda: self._ask(asking), START_SECONDS_MAX, LOOK_EVERY)
        finally:
            end(asking)
        until("all nodes are ready", lambda: self.is_ready(without), START_SECONDS_MAX)

    def crash(self):
        """Ends all processes of the site at once, without a chance to write anything."""
        pids = self.node_pids()
        # First the one that would start the nodes again.
        self.process.kill()
        self.process.wait()
        self.process = None
        self.kill(pids)
        until("the nodes are gone", lambda: not any(map(_runs, pids)), START_SECONDS_MAX, LOOK_EVERY)

    def _ask(self, asking):
        if self.process.poll() is not None:
            raise RuntimeError(f"`skerry up` ended with {self.process.returncode}\n{self.tail()}")
        for one in [one for one in asking if one.poll() is not None]:
            if one.returncode == 0:
                return time.monotonic() - self.started
            asking.remove(one)
        now = time.monotonic()
        if len(asking) < ASKING_MAX and now - getattr(self, "asked", 0) > ASK_EVERY:
            self.asked = now
            command = [self.binary, "status", "--data", str(self.data)]
            asking.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
        return None


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
