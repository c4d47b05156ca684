"""The command line itself: exit codes, versioned JSON, where secrets are shown, completions and the manual."""

import json
import os
import pty
import re
import signal
import subprocess

import pytest

from harness.command import ANY_PORT, done, misused, refused, run, variables
from harness.wait import until

HEX_ID = re.compile(r"[0-9a-f]{32}")
STOP_SECONDS_MAX = 60
# Commands that print no JSON, each with the reason.
WITHOUT_JSON = {
    "up": "runs",
    "server": "runs",
    "join": "runs",
    "object cat": "prints the object",
    "completions": "prints a script",
    "man": "prints a page",
}


@pytest.fixture(scope="module")
def server(one_server):
    return one_server.start(*ANY_PORT)


def manual(binary, folder):
    """The pages that `man --out` writes: their texts by command."""
    done(binary, "man", "--out", folder)
    pages = {path.stem.replace("skerry", "", 1).strip("-").replace("-", " "): path for path in folder.iterdir()}
    return {name: path.read_text() for name, path in pages.items()}


def leaves(names):
    """The commands that have no commands of their own."""
    return {name for name in names if name and not any(other.startswith(f"{name} ") for other in names)}


# JSON


def versioned(server, *words):
    value = server.json(*words)
    assert value["output_version"] == 1, words
    return value


def test_every_command_prints_versioned_json(server, binary, tmp_path):
    (tmp_path / "f").write_bytes(bytes(100_000))
    seen = set()

    def asked(*words, command=None):
        seen.add(command or " ".join(words[:2]))
        return versioned(server, *map(str, words))

    for word in ["env", "status"]:
        asked(word)
    for words in ["node ls", "node describe 1", "raft ls", "placement show", "token create"]:
        asked(*words.split())
    asked("user", "create", "ada")
    key = asked("key", "create", "--user", "ada")["access_key"]
    asked("user", "ls")
    asked("key", "ls")
    assert asked("key", "rm", key)["key"] == key
    assert asked("user", "rm", "ada")["user"] == "ada"
    asked("bucket", "mb", "shop")
    asked("bucket", "ls")
    asked("object", "cp", tmp_path / "f", "s3://shop/f")
    asked("object", "ls", "shop")
    asked("object", "stat", "shop/f")
    asked("object", "where", "shop/f")
    asked("object", "rm", "shop/f")
    asked("bucket", "rm", "shop")
    few = ["--mode", "get", "--duration", "1s", "--warm-up", "0s", "--objects", "4", "--concurrency", "1"]
    asked("bench", "object", *few)
    asked("config", "show")
    known = leaves(manual(binary, tmp_path / "manual"))
    assert seen | WITHOUT_JSON.keys() == known


def test_ids_in_json_are_the_text_that_people_see(server, tmp_path):
    assert HEX_ID.fullmatch(server.status()["site"])
    assert server.status()["site"] in server.run("status").stdout
    (tmp_path / "f").write_bytes(bytes(100_000))
    server.run("bucket", "mb", "ids")
    server.run("object", "cp", str(tmp_path / "f"), "s3://ids/f")
    where, text = server.json("object", "where", "ids/f"), server.run("object", "where", "ids/f").stdout
    assert HEX_ID.fullmatch(where["bucket"]) and where["bucket"] in text
    for block in where["blocks"]:
        assert HEX_ID.fullmatch(block["block"]["segment"]) and block["block"]["segment"] in text
    assert where["blocks"]


def test_where_takes_an_address_as_its_siblings_do(server, tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    server.run("bucket", "mb", "places")
    server.run("object", "cp", str(tmp_path / "f"), "s3://places/a/f")
    assert server.json("object", "where", "s3://places/a/f") == server.json("object", "where", "places/a/f")
    at = ["--data", server.data]
    assert "BUCKET/KEY" in refused(server.binary, "object", "where", "s3://places", *at)
    assert "BUCKET/KEY" in misused(server.binary, "object", "where", "s3://", *at)


# Exit codes


def test_exit_codes(server, binary, tmp_path):
    assert run(binary, "status", "--data", server.data).returncode == 0
    assert run(binary, "status", "--data", tmp_path / "nowhere").returncode == 1
    for words in [["stauts"], ["status", "--nope"], ["up", "--nodes", "0"]]:
        misused(binary, *words)


def test_a_site_that_is_not_ready_has_its_own_exit_code(new_server, tmp_path):
    first, second = new_server("first").start(*ANY_PORT), new_server("second")
    token = tmp_path / "token"
    token.write_text(first.json("token", "create")["token"])
    second.join(token, *ANY_PORT)

    def both_ready():
        status = first.status()
        return status and status["ready"] and len(status["nodes"]) == 2

    until(both_ready)
    second.stop()
    until(lambda: first.run("status", check=False).returncode == 3)
    assert first.status()["ready"] is False


def test_exit_codes_are_in_help_and_in_the_manual(binary, tmp_path):
    pages = manual(binary, tmp_path / "manual")
    for text in [done(binary, "--help"), pages[""], done(binary, "man")]:
        assert "Exit codes" in text and "not ready" in text


# What is shown where


def shown_by_up(binary, data, log, on_terminal):
    """What `up` writes to a terminal and to a file; `on_terminal` is the stream that is the terminal."""
    ours, theirs = pty.openpty()
    with open(log, "wb") as file:
        streams = {"stdout": file, "stderr": file, on_terminal: theirs}
        words = [str(binary), "up", "--data", str(data), "--ports", "random"]
        process = subprocess.Popen(words, env=variables(), stdin=subprocess.DEVNULL, **streams)
    os.close(theirs)
    os.set_blocking(ours, False)
    said = b""

    def terminal():
        nonlocal said
        try:
            said += os.read(ours, 1 << 16)
        except OSError:
            # Nothing yet, or nobody writes any more.
            pass
        return said

    try:
        until(lambda: process.poll() is not None or b"try:" in terminal() + log.read_bytes())
        assert process.poll() is None, log.read_text()
        secret = json.loads(done(binary, "env", "--data", data, "--output", "json"))["env"]["AWS_SECRET_ACCESS_KEY"]
        return terminal().decode(), log.read_text(), secret
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS_MAX)
        os.close(ours)


@pytest.mark.parametrize("on_terminal", ["stdout", "stderr"])
def test_a_secret_is_shown_only_where_a_person_reads(binary, process_lock, tmp_path, on_terminal):
    terminal, log, secret = shown_by_up(binary, tmp_path / "data", tmp_path / "log", on_terminal)
    assert secret not in log
    assert (secret in terminal) == (on_terminal == "stderr")


def test_all_that_a_server_says_in_json_is_json(new_server):
    server = new_server().start(*ANY_PORT, "--log-format", "json")
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log_text().splitlines()]
    assert lines
    for line in lines:
        assert line.keys() >= {"timestamp", "level", "node", "fields"} and line["fields"]["message"], line


# Colours


ESCAPE = "\x1b"
# A terminal that has colours, whatever is said of the one that this test runs in.
COLOURFUL = {"TERM": "xterm", "NO_COLOR": "", "CLICOLOR": "1", "CLICOLOR_FORCE": ""}


def on_terminal(binary, *words, given):
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    streams = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen([str(word) for word in (binary, *words)], env=variables(given), **streams)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 1 << 16):
            said += piece
    except OSError:
        # So ends a terminal that nobody writes to any more.
        pass
    os.close(ours)
    process.wait(STOP_SECONDS_MAX)
    return said.decode()


@pytest.mark.parametrize("word", ["--help", "stauts"])
def test_colours_are_for_terminals_and_end_with_no_color(binary, word):
    assert ESCAPE in on_terminal(binary, word, given=COLOURFUL)
    assert ESCAPE not in on_terminal(binary, word, given=COLOURFUL | {"NO_COLOR": "1"})
    ended = run(binary, word, given=COLOURFUL)
    assert ESCAPE not in ended.stdout + ended.stderr


def test_answers_have_no_colours(server, binary, tmp_path):
    (tmp_path / "f").write_bytes(bytes(100_000))
    at = ["--data", server.data]
    for words in [["status"], ["node", "ls"], ["raft", "ls"], ["bucket", "mb", "plain"]]:
        assert ESCAPE not in on_terminal(binary, *words, *at, given=COLOURFUL), words
    # The line that shows how far a copy is comes and goes on terminals only.
    ended = run(binary, "object", "cp", tmp_path / "f", "s3://plain/f", *at, given=COLOURFUL)
    assert ended.returncode == 0, ended.stderr
    assert ESCAPE not in ended.stdout + ended.stderr + server.log_text()


# Scripts and the manual


@pytest.mark.parametrize("words", [["completions", "bash"], ["man"]])
def test_a_reader_that_has_enough_is_no_failure(binary, words):
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([str(binary), *words], stdout=writer, stderr=subprocess.PIPE, env=variables(), timeout=60)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_there_is_a_page_for_each_command(binary, tmp_path):
    pages = manual(binary, tmp_path / "deep" / "man1")
    assert {"", "up", "join", "object", "object cp", "config show"} <= pages.keys()
    assert not [name for name in pages if "help" in name]
    for name in leaves(pages):
        page = pages[name]
        assert page.count("\n.SH ") >= 3 and "Examples:" in page, name
    assert done(binary, "man") == pages[""]


def test_a_manual_that_cannot_be_written(binary, tmp_path):
    (tmp_path / "taken").write_text("")
    assert str(tmp_path / "taken") in refused(binary, "man", "--out", tmp_path / "taken")


# What is said to people


def test_join_without_a_token_names_both_ways_to_give_one(binary, tmp_path):
    said = misused(binary, "join", "--data", tmp_path / "data", "--no-start")
    assert "--token <" in said and "--token-file <" in said


@pytest.mark.parametrize("words", [["status"], ["user", "ls"], ["object", "where"]])
def test_help_says_which_door_an_administrator_means(binary, words):
    text = " ".join(done(binary, *words, "--help").split())
    assert "HTTP door (port 7302" in text


@pytest.mark.parametrize("words", [["bucket", "ls"], ["object", "stat"]])
def test_help_says_which_door_an_s3_client_means(binary, words):
    text = " ".join(done(binary, *words, "--help").split())
    assert "S3 door" in text and "port 7300" in text


def test_config_show_knows_what_a_used_folder_keeps(server, binary, tmp_path):
    def listen(*flags):
        shown = json.loads(done(binary, "config", "show", *flags, "--output", "json"))["keys"]
        return {key["key"]: (key["value"], key["origin"]) for key in shown if key["key"].startswith("listen.")}

    kept = server.node()["listen"]
    at = ["--data", server.data]
    shown = listen(*at)
    for door in ["s3", "node", "http"]:
        assert shown[f"listen.{door}"] == (kept[door], "folder")
    assert shown["listen.advertise"] == (None, "default")
    # What is set comes first, and a new folder keeps nothing.
    assert listen(*at, "--s3-listen", "127.0.0.1:1")["listen.s3"] == ("127.0.0.1:1", "flag")
    assert listen("--data", tmp_path / "new")["listen.s3"] == ("127.0.0.1:7300", "default")
    assert str(server.data) in done(binary, "config", "show", *at)
