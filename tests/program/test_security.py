"""What SECURITY.md promises of a site as a whole: secrets stay where they belong, and nothing phones home."""

import base64
import contextlib
import ipaddress
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from harness.bodies import KIB, MIB, body
from harness.command import done, run
from harness.site import Site

NODES = ["node-1", "node-2", "node-3"]
SECRET_FILES = {"site-key", "site-authority", "node-key.der", "node-chain.json"}
# Starts a command in a network that ends at this machine, and whose counters are those of this command.
ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "alone"]
STRAY = "import socket; socket.create_connection(('192.0.2.1', 80))"


class Life:
    """A site of three nodes that was used and stopped: what it was trusted with, what it left, whom it talked to."""

    def __init__(self, binary, folder):
        self.site = Site(binary, folder / "data", len(NODES))
        self.has_own_network = _may_have_own_network()
        self.site.within = ALONE if self.has_own_network else []
        try:
            self.site.start()
            self._use(folder)
            pids = {self.site.process.pid, *self.site.node_pids()}
            self.sockets = [socket for pid in pids for socket in sockets(pid)]
            if self.has_own_network:
                self._look_at_network()
        finally:
            code = self.site.stop()
        assert code == 0, self.site.tail()

    def _use(self, folder):
        self.root = self.site.environment()
        self.site.json("user", "create", "ada")
        self.key, self.removed = (self.site.json("key", "create", "--user", "ada") for _ in range(2))
        self.site.run("key", "rm", self.removed["access_key"])
        self.token = self.site.json("token", "create")["token"]
        skerry, at = self._inside(self.site.binary), ["--data", self.site.data]
        done(*skerry, "bucket", "mb", "kept", *at)
        for name, size in {"small": KIB, "large": 5 * MIB}.items():
            (folder / name).write_bytes(body(size))
            done(*skerry, "object", "cp", folder / name, f"s3://kept/{name}", *at)

    def _look_at_network(self):
        self.strays = strays(self.site.process.pid)
        run(*self._inside(sys.executable), "-c", STRAY)
        self.strays_after_one = strays(self.site.process.pid)

    def _inside(self, program):
        """The words that start a program where the site's addresses are."""
        enter = ["nsenter", f"--net=/proc/{self.site.process.pid}/ns/net"] if self.has_own_network else []
        return [*enter, program]


def _may_have_own_network():
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run([*ALONE, "true"], capture_output=True).returncode == 0
    return False


@pytest.fixture(scope="module")
def life(binary, process_lock, tmp_path_factory):
    return Life(binary, tmp_path_factory.mktemp("life"))


# Secrets


def places(life, texts):
    """In which files of the site each of these lies."""
    found = {text: set() for text in texts}
    for path in [life.site.log, *life.site.data.rglob("*")]:
        if path.is_file():
            data = path.read_bytes()
            for text in texts:
                if text in data:
                    found[text].add(str(path.relative_to(life.site.data.parent)))
    return found


def halves(token):
    """The id of a join token, by which the registry names it, and the secret; see crates/identity/src/token.rs."""
    record = base64.urlsafe_b64decode(token.removeprefix("skj1.") + "==")
    # Before them come the version, the site, the fingerprint of its authority, and the role.
    start = 1 + 16 + 32 + 1
    return record[start : start + 8], record[start + 8 : start + 24]


def in_each(name):
    return {f"data/{node}/secrets/{name}" for node in NODES}


def test_secrets_lie_in_their_files_and_nowhere_else(life):
    token_id, token_secret = halves(life.token)
    site_key = (life.site.data / "node-1" / "secrets" / "site-key").read_text().strip()
    expected = {
        life.root["AWS_SECRET_ACCESS_KEY"].encode(): {"data/node-1/secrets/root.json"},
        life.key["secret_key"].encode(): set(),
        life.removed["secret_key"].encode(): set(),
        life.token.encode(): set(),
        token_secret: set(),
        site_key.encode(): in_each("site-key"),
        bytes.fromhex(site_key): set(),
    }
    for own in in_each("node-key.der"):
        expected[(life.site.data.parent / own).read_bytes()] = {own}
    # What is no secret is found where the secrets would be.
    public = [life.key["access_key"].encode(), token_id.hex().encode()]
    found = places(life, [*expected, *public])
    assert {secret: found[secret] for secret in expected} == expected
    for text in public:
        assert any(place.endswith("groups.redb") for place in found[text]), found[text]
        assert any("/wal/" in place for place in found[text]), found[text]


def test_files_with_secrets_are_their_owners(life):
    for node in NODES:
        files = list((life.site.data / node / "secrets").iterdir())
        first = {"root.json"} if node == "node-1" else set()
        assert {path.name for path in files} <= SECRET_FILES | first
        for path in files:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


# Silence


def sockets(pid):
    """Of each socket by which a process talks to a network: the protocol, its own address, and the other one."""
    held = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.add(os.readlink(file))
    for protocol in ["tcp", "tcp6", "udp", "udp6"]:
        table = Path(f"/proc/{pid}/net/{protocol}")
        rows = table.read_text().splitlines()[1:] if table.exists() else []
        for fields in map(str.split, rows):
            if f"socket:[{fields[9]}]" in held:
                yield protocol, address(fields[1]), address(fields[2])


def address(text):
    """An address as the kernel writes it: in words of this machine's order, before a port."""
    digits = text.partition(":")[0]
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    ip = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    return getattr(ip, "ipv4_mapped", None) or ip


def strays(pid):
    """Datagrams that were sent in a process' network, and packets for elsewhere, for which it has no way."""
    rows = [row.split() for row in Path(f"/proc/{pid}/net/snmp").read_text().splitlines()]
    counters = {}
    for names, values in zip(rows[::2], rows[1::2]):
        counters |= {names[0] + name: int(value) for name, value in zip(names[1:], values[1:])}
    six = Path(f"/proc/{pid}/net/snmp6")
    if six.exists():
        counters |= {name: int(value) for name, value in map(str.split, six.read_text().splitlines())}
    wanted = ["Udp:OutDatagrams", "Ip:OutNoRoutes", "Udp6OutDatagrams", "Ip6OutNoRoutes"]
    return sum(counters.get(name, 0) for name in wanted)


def test_every_socket_ends_at_this_machine(life):
    listening = [own for _, own, other in life.sockets if other.is_unspecified]
    assert len(listening) >= 3 * len(NODES)
    for protocol, own, other in life.sockets:
        assert own.is_loopback and (other.is_loopback or other.is_unspecified), (protocol, own, other)
        # By datagrams, names are asked for.
        assert protocol.startswith("tcp"), (protocol, own, other)


def test_nobody_elsewhere_is_asked_for_anything(life):
    if not life.has_own_network:
        pytest.skip("only root can give a site a network of its own")
    assert life.strays == 0
    assert life.strays_after_one > 0, "an attempt would have been seen"
