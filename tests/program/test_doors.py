"""The doors for clients (S3; health, metrics and administration): with TLS, and on other addresses than loopback."""

import http.client
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import botocore.exceptions
import pytest
import requests
import urllib3

from harness import s3 as clients
from harness.bodies import body
from harness.certificates import KEYS, Pair, openssl, replace, served
from harness.command import ANY_PORT, refused, run, variables
from harness.wait import until

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "configuration.md"
CANNOT_BE_USED = "the doors' new certificate can't be used"
TIMEOUT = 30
DOORS = ["s3", "http"]


@pytest.fixture(scope="module")
def secured(one_server, pair):
    """A server whose doors speak TLS, for tests that leave its certificate alone."""
    return one_server.start(*pair.flags(), *ANY_PORT)


@pytest.fixture
def own(new_server, authority, tmp_path):
    """A server whose doors speak TLS with files of the test's own, and those files."""
    mine = Pair(tmp_path, "mine")
    mine.become(authority.issue("DNS:localhost", "IP:127.0.0.1"))
    return new_server().start(*mine.flags(), *ANY_PORT), mine


def get(server, path, trusted, **options):
    return requests.get(f"{server.url('http')}{path}", verify=str(trusted), timeout=TIMEOUT, **options)


# Clients


def test_an_s3_client_that_verifies(secured, authority):
    environment = secured.environment()
    assert environment["AWS_ENDPOINT_URL"].startswith("https://127.0.0.1:")
    s3 = clients.of(environment, verify=str(authority.certificate))
    s3.create_bucket(Bucket="verified")
    for key, data in {"small": b"small", "large": body(9 << 20)}.items():
        s3.put_object(Bucket="verified", Key=key, Body=data)
        assert s3.get_object(Bucket="verified", Key=key)["Body"].read() == data
    link = s3.generate_presigned_url("get_object", Params={"Bucket": "verified", "Key": "small"})
    assert link.startswith("https://")
    assert requests.get(link, verify=str(authority.certificate), timeout=TIMEOUT).content == b"small"


def test_an_s3_client_that_trusts_another_authority(secured, stranger):
    s3 = clients.of(secured.environment(), verify=str(stranger.certificate), attempts=1)
    with pytest.raises(botocore.exceptions.SSLError):
        s3.list_buckets()


def test_health_and_metrics_over_tls(secured, authority, stranger):
    assert secured.url("http").startswith("https://")
    assert get(secured, "/healthz", authority.certificate).status_code == 200
    assert get(secured, "/readyz", authority.certificate).status_code == 200
    metrics = get(secured, "/metrics", authority.certificate)
    assert metrics.status_code == 200
    assert any(line.startswith("# TYPE skerry_") for line in metrics.text.splitlines())
    with pytest.raises(requests.exceptions.SSLError):
        get(secured, "/healthz", stranger.certificate)


@pytest.mark.parametrize("door", DOORS)
def test_a_door_with_tls_does_not_answer_plain_http(secured, door):
    with socket.create_connection(("127.0.0.1", secured.port(door)), timeout=TIMEOUT) as plain:
        plain.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        try:
            while piece := plain.recv(4096):
                answer += piece
        except ConnectionResetError:
            pass
    assert b"HTTP/" not in answer and b"skerry" not in answer


@pytest.mark.parametrize("door", DOORS)
def test_a_certificate_is_for_its_names(secured, authority, door):
    trusted = ssl.create_default_context(cafile=str(authority.certificate))
    for name in ["localhost", "127.0.0.1"]:
        with socket.create_connection(("127.0.0.1", secured.port(door)), timeout=TIMEOUT) as plain:
            trusted.wrap_socket(plain, server_hostname=name).close()
    with socket.create_connection(("127.0.0.1", secured.port(door)), timeout=TIMEOUT) as plain:
        with pytest.raises(ssl.SSLCertVerificationError):
            trusted.wrap_socket(plain, server_hostname="elsewhere.test")


def test_a_bucket_in_the_host_name_over_tls(new_server, authority):
    domain = "s3.skerry.test"
    pair = authority.issue(f"DNS:{domain}", f"DNS:*.{domain}", "IP:127.0.0.1")
    server = new_server().start(*pair.flags(), "--s3-domain", domain, *ANY_PORT)
    environment = server.environment()
    port = server.port("s3")
    # A certificate is for names, so the door is found by its name.
    assert environment["AWS_ENDPOINT_URL"] == f"https://{domain}:{port}"
    trusted = str(authority.certificate)
    here = clients.of(environment, endpoint=f"https://127.0.0.1:{port}", verify=trusted)
    here.create_bucket(Bucket="photos")
    here.put_object(Bucket="photos", Key="cat", Body=b"meow")
    named = clients.of(environment, verify=trusted, s3={"addressing_style": "virtual"})
    link = urllib3.util.parse_url(
        named.generate_presigned_url("get_object", Params={"Bucket": "photos", "Key": "cat"})
    )
    assert link.host == f"photos.{domain}"
    # The names need not resolve: the request goes to the address, the certificate is checked for the name.
    names = {"server_hostname": link.host, "assert_hostname": link.host}
    with urllib3.HTTPSConnectionPool("127.0.0.1", port, ca_certs=trusted, **names) as pool:
        got = pool.request("GET", link.request_uri, headers={"Host": link.netloc}, timeout=TIMEOUT)
    assert (got.status, got.data) == (200, b"meow")


# What is said to clients


def documented_certificate(folder):
    """The certificate that docs/configuration.md tells people to make, with names of this machine."""
    text = DOCUMENTATION.read_text()
    start = text.index("openssl req -x509")
    script = text[start : text.index("```", start)]
    assert "node1.lan" in script and "192.0.2.7" in script
    openssl("version")
    script = script.replace("node1.lan", "localhost").replace("192.0.2.7", "127.0.0.1")
    subprocess.run(["sh", "-ec", script], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return Pair(folder, "door")


def test_the_documented_certificate_and_the_variables_for_it(new_server, tmp_path):
    made = documented_certificate(tmp_path)
    server = new_server().start(*made.flags(), *ANY_PORT)
    environment = server.environment()
    assert environment["AWS_CA_BUNDLE"] == str(made.certificate)
    clients.of(environment).create_bucket(Bucket="photos")
    # Our own commands know whom to trust without being told.
    assert "photos" in server.run("bucket", "ls").stdout
    (tmp_path / "cat.jpg").write_bytes(b"meow")
    script = 'eval "$("$SKERRY" env --data "$DATA")"; "$AWS" s3 cp --only-show-errors cat.jpg s3://photos/up/'
    aws = Path(sys.executable).parent / "aws"
    given = {"SKERRY": server.binary, "DATA": str(server.data), "AWS": str(aws), "HOME": str(tmp_path)}
    shell = ["sh", "-ec", script]
    done = subprocess.run(shell, cwd=tmp_path, env=variables(given), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert server.run("object", "cat", "s3://photos/up/cat.jpg").stdout == "meow"


def test_who_signed_is_named_to_clients_only_when_the_file_holds_it(secured, new_server, authority):
    assert "AWS_CA_BUNDLE" not in secured.environment()
    whole = authority.issue("IP:127.0.0.1", with_issuer=True)
    server = new_server().start(*whole.flags(), *ANY_PORT)
    environment = server.environment()
    assert environment["AWS_CA_BUNDLE"] == str(whole.certificate)
    assert clients.of(environment).list_buckets()["Buckets"] == []


# Files that change


def test_new_files_are_used_for_new_connections(own, authority):
    server, mine = own
    pid, ports = server.process.pid, [server.port(door) for door in DOORS]
    assert [served(port) for port in ports] == [mine.der()] * 2
    for kind in KEYS:
        mine.become(authority.issue("DNS:localhost", "IP:127.0.0.1", key=kind))
        until(lambda: [served(port) for port in ports] == [mine.der()] * 2)
        assert get(server, "/healthz", authority.certificate).status_code == 200
        s3 = clients.of(server.environment(), verify=str(authority.certificate))
        assert s3.list_buckets()["Buckets"] == []
    (node,) = server.status()["nodes"]
    assert node["pid"] == pid


def test_connections_outlive_the_certificate_that_they_began_with(own, authority):
    server, mine = own
    trusted = ssl.create_default_context(cafile=str(authority.certificate))
    kept = http.client.HTTPSConnection("127.0.0.1", server.port("http"), context=trusted, timeout=TIMEOUT)

    def answers():
        kept.request("GET", "/healthz")
        answer = kept.getresponse()
        answer.read()
        return answer.status

    assert answers() == 200
    first = kept.sock
    mine.become(authority.issue("DNS:localhost", "IP:127.0.0.1"))

    def is_new():
        # Asked in between, so that it is never idle for long.
        assert answers() == 200
        return served(server.port("http")) == mine.der()

    until(is_new)
    assert answers() == 200
    assert kept.sock is first, "the connection was opened anew"
    kept.close()


def test_new_files_that_cannot_be_used_leave_the_old_certificate(own, authority):
    server, mine = own
    old, old_key = mine.der(), mine.key.read_bytes()
    new = authority.issue("DNS:localhost", "IP:127.0.0.1")
    half = new.key.read_bytes()[:60]
    bad = [("no certificate with its key", new.key.read_bytes()), ("no private key", half), ("no private key", b"")]
    for count, (why, data) in enumerate(bad, 1):
        replace(mine.key, data)
        until(lambda: server.log_text().count(CANNOT_BE_USED) >= count)
        line = [line for line in server.log_text().splitlines() if CANNOT_BE_USED in line][-1]
        assert str(mine.key) in line and why in line
        assert "PRIVATE KEY" not in line
        assert [served(server.port(door)) for door in DOORS] == [old, old]
    mine.key.unlink()
    until(lambda: server.log_text().count(CANNOT_BE_USED) > len(bad))
    # Whole again: what belongs together is taken, first the old pair, then the new one.
    replace(mine.key, old_key)
    mine.become(new)
    until(lambda: [served(server.port(door)) for door in DOORS] == [new.der()] * 2)
    assert get(server, "/healthz", authority.certificate).status_code == 200
    # Each state was complained about once, however often it was looked at; replacing two files may be seen halfway.
    assert server.log_text().count(CANNOT_BE_USED) <= len(bad) + 2


# What is refused at the start


def nothing_else(pair, stranger):
    """Files that can't be used, and what must be said about each."""
    folder = pair.key.parent
    foreign, missing, empty, swapped = (Pair(folder, name) for name in ["foreign", "missing", "empty", "swapped"])
    shutil.copy(pair.certificate, foreign.certificate)
    shutil.copy(stranger.issue("IP:127.0.0.1").key, foreign.key)
    shutil.copy(pair.certificate, missing.certificate)
    shutil.copy(pair.key, empty.key)
    empty.certificate.write_bytes(b"")
    swapped.certificate, swapped.key = pair.key, pair.certificate
    return [
        (foreign, ["foreign.pem", "foreign.key", "are no certificate with its key"]),
        (missing, ["missing.key", "can't read"]),
        (empty, ["empty.pem", "no certificate"]),
        (swapped, [pair.key.name, "no certificate"]),
    ]


def test_a_pair_that_cannot_be_used_is_refused_at_the_start(binary, authority, stranger, tmp_path):
    pair = authority.issue("IP:127.0.0.1")
    for bad, words in nothing_else(pair, stranger):
        line = refused(binary, "server", "--data", tmp_path / "data", *bad.flags(), *ANY_PORT)
        for word in words:
            assert word in line
    assert not (tmp_path / "data").exists()


def test_a_certificate_without_its_key_is_refused(binary, pair, tmp_path):
    data = ["--data", tmp_path / "data"]
    line = refused(binary, "server", *data, "--tls-certificate", pair.certificate, *ANY_PORT)
    assert "tls.key" in line
    line = refused(binary, "server", *data, *ANY_PORT, given={"SKERRY_TLS_KEY": str(pair.key)})
    assert "tls.certificate" in line
    assert not (tmp_path / "data").exists()


# Other addresses than loopback; all connections of these tests stay on loopback


def listen(**doors):
    """Flags for any free port on loopback, except for the doors that are named."""
    flags = {"s3": "127.0.0.1:0", "node": "127.0.0.1:0", "http": "127.0.0.1:0"} | doors
    return [word for door, address in flags.items() for word in (f"--{door}-listen", address)]


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
@pytest.mark.parametrize("door", DOORS)
def test_plain_http_is_refused_on_other_addresses(binary, tmp_path, door, address):
    line = refused(binary, "server", "--data", tmp_path / "data", *listen(**{door: address}))
    for word in [f"listen.{door}", address, "tls.certificate", "tls.key", "--insecure-http"]:
        assert word in line
    assert not (tmp_path / "data").exists()


def test_an_address_that_was_kept_is_judged_again(new_server):
    server = new_server().start("--insecure-http", *listen(http="0.0.0.0:0"))
    assert server.node()["listen"]["http"].startswith("0.0.0.0:")
    assert server.stop() == 0
    # Nothing is said about addresses now, so they are those of the last start.
    line = refused(server.binary, "server", "--data", server.data)
    assert "listen.http" in line and "--insecure-http" in line


@pytest.mark.parametrize("given", [{}, {"SKERRY_INSECURE_HTTP": "true"}], ids=["flag", "variable"])
def test_plain_http_on_other_addresses_when_asked_for(new_server, given):
    flags = [] if given else ["--insecure-http"]
    server = new_server().start(*flags, *listen(s3="0.0.0.0:0", http="0.0.0.0:0"), given=given)
    environment = server.environment()
    assert environment["AWS_ENDPOINT_URL"] == f"http://127.0.0.1:{server.port('s3')}"
    assert clients.of(environment).list_buckets()["Buckets"] == []
    assert requests.get(f"{server.url('http')}/metrics", timeout=TIMEOUT).status_code == 200


def test_tls_on_other_addresses(new_server, authority, pair):
    flags = [*listen(s3="0.0.0.0:0", http="0.0.0.0:0"), "--advertise", "localhost:1"]
    server = new_server().start(*pair.flags(), *flags)
    environment = server.environment()
    # The host that others are told is the one that clients are told.
    assert environment["AWS_ENDPOINT_URL"] == f"https://localhost:{server.port('s3')}"
    s3 = clients.of(environment, verify=str(authority.certificate))
    assert s3.list_buckets()["Buckets"] == []
    assert get(server, "/metrics", authority.certificate).status_code == 200


def test_loopback_needs_no_permission(new_server):
    server = new_server().start(*listen(s3="localhost:0", http="127.0.0.2:0"))
    assert server.url("http").startswith("http://127.0.0.2:")
    assert requests.get(f"{server.url('http')}/healthz", timeout=TIMEOUT).status_code == 200
    ended = run(server.binary, "status", "--data", server.data)
    assert ended.returncode == 0
