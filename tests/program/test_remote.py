"""Administration from another machine: `--endpoint`, over TLS, with an administrator's access key."""

import base64
import json

import botocore.exceptions
import pytest
import requests

from harness import command
from harness import s3 as clients
from harness.command import ANY_PORT, refused
from harness.wait import until

TIMEOUT = 30
WRONG_KEY = "the access key or its secret is wrong"
NO_ADMIN = "no administrator"


@pytest.fixture(scope="module")
def server(one_server, pair):
    return one_server.start(*pair.flags(), *ANY_PORT)


@pytest.fixture(scope="module")
def root(server):
    """The key that came with the site."""
    environment = server.environment()
    return environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]


class Elsewhere:
    """A machine that knows the server's URL, whom to trust, and a key; it has no data folder."""

    def __init__(self, server, authority, folder):
        self.binary, self.folder = server.binary, folder
        self.at = ["--endpoint", server.url("http"), "--ca", str(authority.certificate)]

    def json(self, key, *args):
        return json.loads(self.done(key, *args, "--output", "json"))

    def done(self, key, *args):
        return command.done(self.binary, *args, *self.at, given=variables(key), cwd=self.folder)

    def refused(self, key, *args):
        return refused(self.binary, *args, *self.at, given=variables(key), cwd=self.folder)

    def is_known(self, key):
        """Whether the server has heard of a key: new ones travel to it."""
        ended = command.run(self.binary, "user", "ls", *self.at, given=variables(key), cwd=self.folder)
        return WRONG_KEY not in ended.stderr


@pytest.fixture
def elsewhere(server, authority, tmp_path):
    return Elsewhere(server, authority, tmp_path)


def variables(key):
    return {"SKERRY_ACCESS_KEY": key[0], "SKERRY_SECRET_KEY": key[1]}


def key_of(made):
    return made["access_key"], made["secret_key"]


def names(server):
    return {user["name"] for user in server.json("user", "ls")["users"]}


def access_keys(server):
    return {key["access_key"] for key in server.json("key", "ls")["keys"]}


# What an administrator can do


def test_status(server, elsewhere, root):
    here, there = server.status(), elsewhere.json(root, "status")
    assert there["site"] == here["site"] and there["ready"]
    assert [node["pid"] for node in there["nodes"]] == [server.process.pid]
    assert "ready" in elsewhere.done(root, "status")


def test_commands_that_look(server, elsewhere, root):
    for words in [["node", "ls"], ["node", "describe", "1"], ["raft", "ls"], ["placement", "show"]]:
        assert elsewhere.json(root, *words).keys() == server.json(*words).keys()
    s3 = clients.of(server.environment(), verify=elsewhere.at[3])
    s3.create_bucket(Bucket="looked-at")
    s3.put_object(Bucket="looked-at", Key="k", Body=b"x")
    where = elsewhere.json(root, "object", "where", "looked-at/k")
    assert where == server.json("object", "where", "looked-at/k")


def test_users_and_keys(server, elsewhere, root):
    elsewhere.done(root, "user", "create", "ada", "--role", "reader", "--project", "default")
    (ada,) = [user for user in elsewhere.json(root, "user", "ls")["users"] if user["name"] == "ada"]
    assert (ada["role"], ada["project"]) == ("reader", "default")
    assert "engines" in elsewhere.refused(root, "user", "create", "bo", "--project", "engines")
    assert "ada" in elsewhere.done(root, "user", "ls")
    made = elsewhere.json(root, "key", "create", "--user", "ada", "--note", "for the till")
    (key,) = [key for key in elsewhere.json(root, "key", "ls")["keys"] if key["user"] == "ada"]
    assert (key["access_key"], key["note"]) == (made["access_key"], "for the till")
    # Its secret was shown once.
    assert "secret_key" not in key
    assert made["secret_key"] not in elsewhere.done(root, "key", "ls")
    elsewhere.done(root, "key", "rm", made["access_key"])
    assert made["access_key"] not in access_keys(server)
    elsewhere.done(root, "user", "rm", "ada")
    assert "ada" not in names(server)


def test_a_key_that_was_made_from_elsewhere_opens_s3_until_it_is_removed(server, elsewhere, root):
    elsewhere.done(root, "user", "create", "grace")
    made = key_of(elsewhere.json(root, "key", "create", "--user", "grace"))
    s3 = clients.client(server.url("s3"), *made, attempts=1, verify=elsewhere.at[3])

    def code():
        try:
            s3.list_buckets()
        except botocore.exceptions.ClientError as error:
            return error.response["Error"]["Code"]
        return "none"

    until(lambda: code() == "none")
    elsewhere.done(root, "user", "rm", "grace")
    assert made[0] not in access_keys(server)
    until(lambda: code() == "InvalidAccessKeyId")


def test_another_administrator(server, elsewhere, root):
    elsewhere.done(root, "user", "create", "second", "--role", "admin")
    second = key_of(elsewhere.json(root, "key", "create", "--user", "second"))
    until(lambda: elsewhere.is_known(second))
    assert elsewhere.json(second, "status")["ready"]
    elsewhere.done(second, "user", "create", "by-second")
    assert "by-second" in names(server)
    # Administrators can be dismissed.
    elsewhere.done(root, "key", "rm", second[0])
    until(lambda: not elsewhere.is_known(second))
    assert WRONG_KEY in elsewhere.refused(second, "status")


def test_a_token_that_was_made_from_elsewhere(server, elsewhere, root, tmp_path):
    (tmp_path / "token").write_text(elsewhere.json(root, "token", "create")["token"])
    joined = tmp_path / "joined"
    words = ["join", "--token-file", tmp_path / "token", "--data", joined, "--no-start", *ANY_PORT]
    command.done(server.binary, *words)
    assert json.loads((joined / "node.json").read_text())["site"] == server.node()["site"]


def test_the_usual_variables_do_too_and_our_own_come_first(server, elsewhere, root):
    usual = {"AWS_ACCESS_KEY_ID": root[0], "AWS_SECRET_ACCESS_KEY": root[1]}
    command.done(server.binary, "status", *elsewhere.at, given=usual)
    # An empty variable says nothing.
    command.done(server.binary, "status", *elsewhere.at, given=usual | variables(["", ""]))
    line = refused(server.binary, "status", *elsewhere.at, given=usual | variables([root[0], "wrong"]))
    assert WRONG_KEY in line


# Who is refused


COMMANDS = [
    ["status"],
    ["raft", "ls"],
    ["placement", "show"],
    ["object", "where", "b/k"],
    ["token", "create"],
    ["user", "ls"],
    ["user", "create", "smuggled", "--role", "admin"],
    ["user", "rm", "root"],
    ["key", "ls"],
    ["key", "create"],
]


@pytest.mark.parametrize("role", ["member", "reader"])
def test_a_key_of_no_administrator_may_do_nothing(server, elsewhere, role):
    server.json("user", "create", f"a-{role}", "--role", role)
    key = key_of(server.json("key", "create", "--user", f"a-{role}"))
    until(lambda: elsewhere.is_known(key))
    before = names(server), access_keys(server)
    for words in [*COMMANDS, ["key", "rm", key[0]]]:
        assert NO_ADMIN in elsewhere.refused(key, *words), words
    assert (names(server), access_keys(server)) == before


def test_wrong_and_unknown_keys_are_refused_alike(server, elsewhere, root):
    before = names(server), access_keys(server)
    lines = {
        elsewhere.refused(key, *words)
        for key in [(root[0], "wrong"), (root[0], root[1][:-1]), ("SKNOBODY", root[1])]
        for words in COMMANDS
    }
    (line,) = lines
    assert WRONG_KEY in line
    assert (names(server), access_keys(server)) == before


def test_without_a_key_nothing_is_asked(server, elsewhere, root):
    for given in [{}, {"SKERRY_ACCESS_KEY": root[0]}, variables(["", ""])]:
        line = refused(server.binary, "status", *elsewhere.at, given=given)
        assert "SKERRY_" in line and "AWS_" in line


def test_the_api_itself_asks_for_a_key(server, authority, root):
    api = f"{server.url('http')}/admin/v1/users"
    options = {"verify": str(authority.certificate), "timeout": TIMEOUT}
    bare = requests.get(api, **options)
    assert bare.status_code == 401
    assert bare.headers["WWW-Authenticate"].startswith("Basic ")
    assert requests.get(api, auth=(root[0], "wrong"), **options).status_code == 401
    assert requests.get(api, auth=root, **options).status_code == 200
    assert requests.post(api, json={"name": "x", "role": "admin", "project": "y"}, **options).status_code == 401
    # The socket's API is nowhere else on this door.
    assert requests.get(f"{server.url('http')}/v1/users", auth=root, **options).status_code == 404


# Whom the command trusts


def test_another_authority_is_not_trusted(server, stranger, root, tmp_path):
    at = ["--endpoint", server.url("http")]
    other = str(stranger.certificate)
    given = variables(root)
    for line in [
        refused(server.binary, "status", *at, "--ca", other, given=given),
        refused(server.binary, "status", *at, given=given | {"SKERRY_CA": other}),
    ]:
        assert "is not trusted" in line and "--ca" in line
    line = refused(server.binary, "status", *at, "--ca", tmp_path / "none.pem", given=given)
    assert "none.pem" in line
    # The system's authorities did not sign it either, whether there are any or not.
    refused(server.binary, "status", *at, given=given)
    refused(server.binary, "status", *at, given=given | {"SKERRY_CA": ""})


def test_the_authority_by_a_variable(server, authority, root):
    given = variables(root) | {"SKERRY_CA": str(authority.certificate)}
    command.done(server.binary, "status", "--endpoint", server.url("http"), given=given)


def test_a_certificate_for_another_name_is_not_trusted(new_server, authority):
    server = new_server().start(*authority.issue("IP:127.0.0.1").flags(), *ANY_PORT)
    environment = server.environment()
    given = variables([environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]])
    trust = ["--ca", authority.certificate]
    command.done(server.binary, "status", "--endpoint", server.url("http"), *trust, given=given)
    named = server.url("http").replace("127.0.0.1", "localhost")
    assert "is not trusted" in refused(server.binary, "status", "--endpoint", named, *trust, given=given)


def test_secrets_go_to_another_machine_over_tls_only(new_server):
    server = new_server().start(*ANY_PORT)
    environment = server.environment()
    given = variables([environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]])
    # To this machine, plain HTTP is good enough.
    command.done(server.binary, "status", "--endpoint", server.url("http"), given=given)
    # The address of no machine: by our rules it is not loopback, but connections to it end here.
    other = server.url("http").replace("127.0.0.1", "0.0.0.0")
    line = refused(server.binary, "status", "--endpoint", other, given=given)
    assert "https://" in line and "--insecure-http" in line
    command.done(server.binary, "status", "--endpoint", other, "--insecure-http", given=given)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:7302", "ftp://127.0.0.1", "https://", "nonsense"])
def test_what_is_no_endpoint(binary, endpoint):
    line = refused(binary, "status", "--endpoint", endpoint, given=variables(["SKX", "x"]))
    assert "https://" in line or "no URL" in line


def test_nobody_listens(binary):
    at = ["--endpoint", "https://127.0.0.1:1", "--ca", "nowhere.pem"]
    assert "127.0.0.1:1" in refused(binary, "status", *at, given=variables(["SKX", "x"]))


def test_variables_for_s3_clients_are_not_those_of_another_site(server, elsewhere, root):
    """`skerry env` reads a folder: told to ask elsewhere, it must not print what it finds here."""
    ended = command.run(server.binary, "env", "--data", server.data, *elsewhere.at, given=variables(root))
    assert ended.returncode == 2 and ended.stdout == ""


def test_secrets_are_not_logged(server, elsewhere, root):
    elsewhere.done(root, "user", "create", "quiet")
    made = key_of(elsewhere.json(root, "key", "create", "--user", "quiet"))
    elsewhere.refused((root[0], "a-wrong-secret"), "status")
    basic = base64.b64encode(":".join(root).encode()).decode()
    for secret in [root[1], made[1], "a-wrong-secret", basic]:
        assert secret not in server.log_text()
