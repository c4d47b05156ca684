"""Join tokens: each lets one machine in, once, for a while, at the site that made it."""

import json
import subprocess
import time

import pytest

from harness.command import ANY_PORT, done, misused, refused, run, variables
from harness.wait import until

WEEK_S = 7 * 24 * 3600


@pytest.fixture(scope="module")
def server(one_server):
    return one_server.start(*ANY_PORT)


@pytest.fixture
def token_file(server, tmp_path):
    """A file with a new token."""
    path = tmp_path / "token"
    path.write_text(new_token(server))
    return path


def new_token(server, *args):
    return server.json("token", "create", *args)["token"]


def joining(data, *args):
    """A machine that only joins; tests that start what joined say so."""
    return ["join", *args, "--data", data, "--no-start", *ANY_PORT]


def is_member(data):
    return (data / "node.json").exists()


def marker(data):
    return json.loads((data / "node.json").read_text())


# Making one


def test_a_token_is_one_word_and_says_when_it_ends(server):
    (word,) = server.run("token", "create").stdout.split()
    assert word.startswith("skj1.")
    # The clock of the server is ours.
    earliest = time.time_ns() // 1_000_000
    expires_ms = server.json("token", "create", "--ttl", "60")["expires_ms"]
    latest = time.time_ns() // 1_000_000
    assert earliest + 60_000 <= expires_ms <= latest + 60_000


def test_how_long_a_token_may_live(server):
    for seconds in [1, WEEK_S]:
        new_token(server, "--ttl", str(seconds))
    for seconds in [0, WEEK_S + 1]:
        line = refused(server.binary, "token", "create", "--ttl", seconds, "--data", server.data)
        assert str(WEEK_S) in line


def test_no_two_tokens_are_equal_and_none_is_logged(server):
    tokens = {new_token(server) for _ in range(5)}
    assert len(tokens) == 5
    assert not [token for token in tokens if token in server.log_text()]


# Using one


def test_a_token_works_once(server, binary, token_file, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    done(binary, *joining(first, "--token-file", token_file))
    assert is_member(first)
    line = refused(binary, *joining(second, "--token-file", token_file))
    assert "used" in line and "make a new one" in line
    assert not is_member(second)
    # Nor is it taken for a new site.
    assert "skerry join" in refused(binary, "server", "--data", second, *ANY_PORT)
    assert not is_member(second)
    # The folder is as good as new: with another token it joins.
    done(binary, *joining(second, "--token", new_token(server)))
    assert is_member(second)


def test_of_two_machines_with_one_token_one_is_let_in(binary, process_lock, token_file, tmp_path):
    folders = [tmp_path / str(number) for number in range(4)]
    machines = [
        subprocess.Popen(
            [str(word) for word in [binary, *joining(folder, "--token-file", token_file)]],
            env=variables(),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    said = [machine.communicate()[1] for machine in machines]
    assert sorted(machine.returncode for machine in machines) == [0, 1, 1, 1], said
    assert [is_member(folder) for folder in folders] == [machine.returncode == 0 for machine in machines]


def test_an_expired_token_is_refused(server, binary, tmp_path):
    made = server.json("token", "create", "--ttl", "1")
    until(lambda: time.time_ns() // 1_000_000 >= made["expires_ms"])
    line = refused(binary, *joining(tmp_path / "late", "--token", made["token"]))
    assert "expired" in line and "skerry token create" in line
    assert not is_member(tmp_path / "late")


def test_where_a_token_comes_from(server, binary, tmp_path):
    path = tmp_path / "token"
    path.write_text(f"\n  {new_token(server)} \n\n")
    done(binary, *joining(tmp_path / "file", "--token-file", path))
    done(binary, *joining(tmp_path / "stdin", "--token-file", "-"), text=f"{new_token(server)}\n")
    done(binary, *joining(tmp_path / "word", "--token", new_token(server)))
    nodes = [marker(tmp_path / name) for name in ["file", "stdin", "word"]]
    assert [node["site"] for node in nodes] == [server.node()["site"]] * 3
    assert len({node["node"] for node in nodes}) == 3


def test_no_token_or_two(binary, token_file, tmp_path):
    data = tmp_path / "data"
    assert "--token" in misused(binary, *joining(data))
    assert "--token-file" in misused(binary, *joining(data, "--token-file", token_file, "--token", "skj1.x"))
    assert "nowhere" in refused(binary, *joining(data, "--token-file", tmp_path / "nowhere"))
    (tmp_path / "empty").write_text("")
    assert "not a join token" in refused(binary, *joining(data, "--token-file", tmp_path / "empty"))
    assert not data.exists()


def test_text_that_is_no_good_token(server, binary, tmp_path):
    whole = new_token(server)
    other = "B" if whole[20] != "B" else "C"
    cases = {
        whole[:-1]: "not copied whole",
        whole[:40]: "not copied whole",
        whole[:20] + other + whole[21:]: "not copied whole",
        whole.replace("skj1.", "skj2."): "newer",
        whole.removeprefix("skj1."): "not a join token",
        "hello": "not a join token",
    }
    for text, words in cases.items():
        assert words in refused(binary, *joining(tmp_path / "data", "--token", text))
    assert not (tmp_path / "data").exists()
    # None of that used it up.
    done(binary, *joining(tmp_path / "data", "--token", whole))


# Which site, and which machine


def test_another_address_of_the_site(server, binary, token_file, tmp_path):
    address = server.status()["nodes"][0]["endpoints"]["node"]
    line = refused(binary, *joining(tmp_path / "nobody", "127.0.0.1:1", "--token-file", token_file))
    assert "127.0.0.1:1" in line
    done(binary, *joining(tmp_path / "data", address, "--token-file", token_file))
    assert is_member(tmp_path / "data")


def test_a_token_of_another_site(new_server, server, binary, token_file, tmp_path):
    """The machine notices before it says who it is: it talks to nobody but the token's site."""
    other = new_server("other").start(*ANY_PORT)
    address = other.status()["nodes"][0]["endpoints"]["node"]
    assert address in refused(binary, *joining(tmp_path / "data", address, "--token-file", token_file))
    assert not is_member(tmp_path / "data")
    assert "was not let in" not in other.log_text()
    # The token is still good where it belongs.
    done(binary, *joining(tmp_path / "data", "--token-file", token_file))


def test_a_machine_that_could_not_start_does_not_use_the_token_up(server, binary, token_file, tmp_path):
    token = ["--token-file", token_file]
    # The folder of a node, whether it runs or not; a folder of somebody's files; doors that must not be open.
    assert "in use" in refused(binary, *joining(server.data, *token))
    done(binary, *joining(tmp_path / "member", "--token", new_token(server)))
    before = marker(tmp_path / "member")
    assert "already" in refused(binary, *joining(tmp_path / "member", *token))
    assert marker(tmp_path / "member") == before
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"meow")
    assert str(photos) in refused(binary, *joining(photos, *token))
    assert [path.name for path in photos.iterdir()] == ["cat.jpg"]
    new = tmp_path / "new"
    open_door = ["--s3-listen", "0.0.0.0:0", "--http-listen", "127.0.0.1:0", "--node-listen", "127.0.0.1:0"]
    line = refused(binary, "join", *token, "--data", new, "--no-start", *open_door)
    assert "--insecure-http" in line
    assert not new.exists()
    done(binary, *joining(new, *token))


def test_a_machine_that_joined_is_a_server_from_then_on(new_server, token_file, tmp_path):
    """By a configuration file, as packages do it: joined once, started again without the token."""
    first = new_server("first").start(*ANY_PORT)
    token_file.write_text(new_token(first))
    file = tmp_path / "skerry.toml"
    listen = "".join(f'{door} = "127.0.0.1:0"\n' for door in ["s3", "node", "http"])
    file.write_text(f'data = "second"\n[listen]\n{listen}')
    second = new_server("second")
    second.place = ["--config", str(file)]
    second.join(token_file)

    def both_ready():
        assert second.process.poll() is None, second.tail()
        status = first.status()
        return status and status["ready"] and {node["pid"] for node in status["nodes"]} == pids()

    def pids():
        return {first.process.pid, second.process.pid}

    until(both_ready)
    before = second.node()
    assert second.stop() == 0
    # Neither the token nor addresses are needed again: the folder keeps where it listened.
    token_file.unlink()
    file.write_text('data = "second"\n')
    second.verb = ["server"]
    second.spawn()
    until(both_ready)
    after = second.node()
    assert after == before
    # The first finds all ready a moment before the second has heard who leads every group.
    until(lambda: run(second.binary, "status", "--data", second.data).returncode == 0)
