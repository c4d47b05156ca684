"""Configuration: what `skerry config show` says about each key, and that a server does what it is told."""

import json
import os
import re
from pathlib import Path

import pytest

from harness import command
from harness import s3 as clients
from harness.bodies import KIB, body
from harness.command import ANY_PORT, done, refused, run
from harness.site import Site

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "configuration.md"
LISTEN = "".join(f'{door} = "127.0.0.1:0"\n' for door in ["s3", "node", "http"])


@pytest.fixture
def file(tmp_path):
    return tmp_path / "skerry.toml"


def show(binary, *flags, given=None, cwd=None):
    """What `config show` says, by key."""
    shown = json.loads(done(binary, "config", "show", *flags, "--output", "json", given=given, cwd=cwd))
    assert shown["output_version"] == 1
    return {key.pop("key"): key for key in shown["keys"]}


def documented_keys():
    """Key, variable, flag and default of each row of the table in docs/configuration.md."""
    row = re.compile(r"\| `([a-z0-9_.]+)` \| `(SKERRY_\w+)` \| `(--[a-z0-9-]+)` \| ([^|]+) \|")
    rows = row.findall(DOCUMENTATION.read_text())
    return [(key, variable, flag, default.strip("`")) for key, variable, flag, default in rows]


# Where a value comes from


def test_every_documented_key_has_its_default(binary, file):
    file.write_text("")
    shown = show(binary, "--config", file)
    keys = documented_keys()
    assert len(keys) > 20
    assert list(shown) == [key for key, _, _, _ in keys]
    for key, _, _, default in keys:
        assert (shown[key]["origin"], shown[key]["from"]) == ("default", "default")
        if key != "data":
            assert shown[key]["value"] == (None if default == "none" else default), key


def test_the_default_data_folder_depends_on_who_asks(binary, tmp_path):
    homes = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "xdg")}
    expected = "/var/lib/skerry" if os.geteuid() == 0 else str(tmp_path / "xdg" / "skerry")
    assert show(binary, given=homes)["data"] == {"value": expected, "origin": "default", "from": "default"}


def test_every_key_has_its_variable_and_its_flag(binary):
    text = done(binary, "server", "--help")
    for key, variable, flag, default in documented_keys():
        assert f"  {flag}" in text and variable in text, key
    values = {"data": "/d", "tls.certificate": "/c", "tls.key": "/k", "log.file": "/l", "listen.advertise": "h:1",
              "otel.endpoint": "http://127.0.0.1:4318", "otel.headers_file": "/h"}
    values |= {"s3.domain": "s3.example.com", "insecure_http": "true"}
    for key, variable, flag, default in documented_keys():
        value = values.get(key, default)
        by_variable = show(binary, given={variable: value})[key]
        assert by_variable == {"value": value, "origin": "env", "from": f"env {variable}"}
        words = [flag] if key == "insecure_http" else [flag, value]
        by_flag = show(binary, *words)[key]
        assert by_flag == {"value": value, "origin": "flag", "from": f"flag {flag}"}


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(binary, file):
    file.write_text('[site]\nname = "by file"\n')
    in_file, variable, flag = ["--config", file], {"SKERRY_SITE_NAME": "by variable"}, ["--site-name", "by flag"]
    cases = [
        (show(binary), "site", "default", "default"),
        (show(binary, *in_file), "by file", "file", f"file {file}"),
        (show(binary, *in_file, given=variable), "by variable", "env", "env SKERRY_SITE_NAME"),
        (show(binary, *in_file, *flag, given=variable), "by flag", "flag", "flag --site-name"),
        (show(binary, *in_file, *flag), "by flag", "flag", "flag --site-name"),
        (show(binary, *flag, given=variable), "by flag", "flag", "flag --site-name"),
        # An empty variable says nothing.
        (show(binary, *in_file, given={"SKERRY_SITE_NAME": ""}), "by file", "file", f"file {file}"),
    ]
    for shown, value, origin, origin_text in cases:
        assert shown["site.name"] == {"value": value, "origin": origin, "from": origin_text}
        assert shown["site.groups"]["origin"] == "default"


def test_the_table_for_people(binary, file):
    file.write_text('[site]\nname = "north"\n')
    text = done(binary, "config", "show", "--config", file, "--s3-domain", "s3.lan", given={"SKERRY_LOG": "debug"})
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()}
    assert rows["site.name"] == ["north", "file", str(file)]
    assert rows["s3.domain"] == ["s3.lan", "flag", "--s3-domain"]
    assert rows["log.level"] == ["debug", "env", "SKERRY_LOG"]
    assert rows["listen.s3"] == ["127.0.0.1:7300", "default"]
    assert rows["tls.key"] == ["-", "default"]


# The file


def test_the_documented_file_is_understood(binary, file):
    (text,) = re.findall(r"```toml\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    file.write_text(text)
    shown = show(binary, "--config", file)
    assert shown["listen.advertise"]["value"] == "node1.lan:7301"
    assert shown["data"]["value"] == "/srv/skerry"
    # Relative paths are relative to the file's folder.
    assert shown["tls.certificate"]["value"] == str(file.parent / "door.pem")


def test_which_file_is_read(binary, file, tmp_path):
    file.write_text('[site]\nname = "first"\n')
    second = tmp_path / "second.toml"
    second.write_text('[site]\nname = "second"\n')
    by_variable = {"SKERRY_CONFIG": str(file)}
    assert show(binary, given=by_variable)["site.name"]["value"] == "first"
    assert show(binary, "--config", second, given=by_variable)["site.name"]["value"] == "second"
    away = tmp_path / "away.toml"
    for verb in [["config", "show"], ["server", "--data", tmp_path / "data"]]:
        assert str(away) in refused(binary, *verb, "--config", away)
        assert str(away) in refused(binary, *verb, given={"SKERRY_CONFIG": str(away)})
    assert not (tmp_path / "data").exists()


def test_an_empty_variable_names_no_file(binary):
    ended = run(binary, "config", "show", given={"SKERRY_CONFIG": ""})
    assert ended.returncode == 0, ended.stderr


FILES_THAT_ARE_WRONG = {
    "[objects]\nblocksize = '1MiB'\n": ["unknown key `objects.blocksize`", "did you mean `objects.block_size`?"],
    "block_size = '1MiB'\n": ["unknown key `block_size`", "did you mean `objects.block_size`?"],
    "[objetcs]\nblock_size = '1MiB'\n": ["unknown key `objetcs`", "did you mean `objects`?"],
    "insecure-http = true\n": ["unknown key `insecure-http`", "did you mean `insecure_http`?"],
    "colour = 'red'\n": ["unknown key `colour`", "skerry config show"],
    "tls = 'door.pem'\n": ["`tls` is a section"],
    "[objects]\nblock_size = '4MB'\n": ["objects.block_size", "4MB", "expected a size from 64KiB to 64MiB"],
    "[objects]\nblock_size = 1\n": ["objects.block_size", "expected a size from 64KiB to 64MiB"],
    "[site]\ngroups = 0\n": ["site.groups", "expected a number from 1 to 256"],
    "insecure_http = 'yes'\n": ["insecure_http", "expected true or false"],
    "[identity]\ncache_ttl = '5 min'\n": ["identity.cache_ttl", "expected a time from 1m to 30d"],
    "data = 'a'\ndata = = 'b'\n": ["line 2"],
    "[objects]\ncollect_after = '0s'\n": ["objects.collect_after", "expected a time from 1s to 1h"],
    "[log]\nlevel = 'debgu'\n": ["log.level", "debgu"],
}


@pytest.mark.parametrize("text", FILES_THAT_ARE_WRONG)
def test_a_file_that_is_wrong(binary, file, tmp_path, text):
    file.write_text(text)
    for verb in [["config", "show"], ["server", "--data", tmp_path / "data"]]:
        line = refused(binary, *verb, "--config", file)
        for words in [str(file), *FILES_THAT_ARE_WRONG[text]]:
            assert words in line
    assert not (tmp_path / "data").exists()


def test_a_value_that_cannot_be_used_is_an_error_also_where_another_place_wins(binary, file):
    size = "expected a size from 64KiB to 64MiB"
    good = ["--objects-block-size", "1MiB"]
    variable = {"SKERRY_OBJECTS_BLOCK_SIZE": "huge"}
    line = refused(binary, "config", "show", *good, given=variable)
    assert "SKERRY_OBJECTS_BLOCK_SIZE" in line and "huge" in line and size in line
    file.write_text("[objects]\nblock_size = 'vast'\n")
    line = refused(binary, "config", "show", "--config", file, *good)
    assert str(file) in line and "objects.block_size" in line and "vast" in line and size in line
    line = refused(binary, "config", "show", "--objects-block-size", "tiny")
    assert "--objects-block-size" in line and "tiny" in line and size in line


def test_keys_that_do_not_fit_together(binary, tmp_path):
    sizes = ["--objects-inline-max", "128KiB", "--objects-block-size", "64KiB"]
    line = refused(binary, "server", "--data", tmp_path / "data", *sizes)
    assert "objects.inline_max" in line and "objects.block_size" in line
    assert not (tmp_path / "data").exists()


# What a server makes of it


@pytest.fixture
def configured(new_server, file):
    """A server that is told everything by a file, its data folder too."""
    server = new_server()
    server.place = ["--config", str(file)]

    def write(text):
        file.write_text(f'data = "{server.data.name}"\n[listen]\n{LISTEN}{text}')
        return server

    return server, write


def blocks(server, key):
    """The sizes of an object's blocks; `None` when it lies in the metadata."""
    where = server.json("object", "where", f"sizes/{key}")
    return None if where["inline"] else [block["len"] for block in where["blocks"]]


def test_a_server_does_what_its_file_says(configured, tmp_path):
    _, write = configured
    server = write(
        '[site]\nname = "north"\ngroups = 3\n'
        '[objects]\ninline_max = "1KiB"\nblock_size = "64KiB"\n'
        '[s3]\ndomain = "s3.skerry.test"\n'
        '[log]\nformat = "json"\nlevel = "debug"\nfile = "logs/node.log"\n'
    )
    server.start()
    assert [group["group"] for group in server.json("placement", "show")["groups"]] == [1, 2, 3]
    s3 = clients.of(server.environment())
    s3.create_bucket(Bucket="sizes")
    for key, size in {"inline": 1 * KIB, "one": 2 * KIB, "three": 150 * KIB}.items():
        s3.put_object(Bucket="sizes", Key=key, Body=body(size))
        assert s3.get_object(Bucket="sizes", Key=key)["Body"].read() == body(size)
    assert blocks(server, "inline") is None
    assert blocks(server, "one") == [2 * KIB]
    assert blocks(server, "three") == [64 * KIB, 64 * KIB, 22 * KIB]
    assert server.stop() == 0
    # Beside the file, not where the server was started; and nothing of it on stderr.
    lines = (tmp_path / "logs" / "node.log").read_text().splitlines()
    assert "DEBUG" in {json.loads(line)["level"] for line in lines}
    assert "DEBUG" not in server.log_text()


def test_a_server_takes_flags_before_variables_before_its_file(configured):
    _, write = configured
    server = write('[objects]\ninline_max = "1KiB"\nblock_size = "64KiB"\n')
    variable, flag = {"SKERRY_OBJECTS_BLOCK_SIZE": "128KiB"}, ["--objects-block-size", "256KiB"]
    starts = [("file", [], {}, 64), ("variable", [], variable, 128), ("flag", flag, variable, 256)]
    for key, flags, given, size in starts:
        server.start(*flags, given=given)
        s3 = clients.of(server.environment())
        if key == "file":
            s3.create_bucket(Bucket="sizes")
        s3.put_object(Bucket="sizes", Key=key, Body=body(300 * KIB))
        assert blocks(server, key)[0] == size * KIB
        # What was stored stays as it is.
        assert blocks(server, "file")[0] == 64 * KIB
        assert s3.get_object(Bucket="sizes", Key="file")["Body"].read() == body(300 * KIB)
        assert server.stop() == 0


def test_a_folder_keeps_its_addresses_until_others_are_set(new_server):
    server = new_server().start(*ANY_PORT)
    first = server.node()["listen"]
    assert ":0" not in json.dumps(first)
    assert server.stop() == 0
    server.start()
    assert server.node()["listen"] == first
    assert server.url("s3") == f"http://{first['s3']}"
    assert server.stop() == 0
    server.start("--http-listen", "127.0.0.1:0")
    second = server.node()["listen"]
    assert (second["s3"], second["node"]) == (first["s3"], first["node"])
    assert second["http"] != first["http"]
    assert server.url("http") == f"http://{second['http']}"


def test_what_counts_only_for_a_new_site(new_server):
    server = new_server().start(*ANY_PORT, "--site-groups", "2")
    assert len(server.json("placement", "show")["groups"]) == 2
    assert server.stop() == 0
    server.start("--site-groups", "5", "--site-name", "other")
    assert len(server.json("placement", "show")["groups"]) == 2


def test_a_log_file_that_cannot_be_written(binary, tmp_path):
    (tmp_path / "taken").write_text("")
    path = tmp_path / "taken" / "node.log"
    line = refused(binary, "server", "--data", tmp_path / "data", *ANY_PORT, "--log-file", path)
    assert str(path) in line
    assert not (tmp_path / "data").exists()


# Commands that ask a node


def test_commands_use_the_folder_that_is_configured(configured):
    _, write = configured
    server = write("").start()
    by_file = {"SKERRY_CONFIG": server.place[1]}
    by_variable = {"SKERRY_DATA": str(server.data)}
    # An empty variable says nothing, so the file is asked.
    empty = by_file | {"SKERRY_DATA": "", "SKERRY_CA": ""}
    for verb in [["status"], ["env"], ["user", "ls"], ["bucket", "ls"]]:
        for given in [by_variable, by_file, empty]:
            ended = run(server.binary, *verb, given=given)
            assert ended.returncode == 0, f"{verb} with {given}: {ended.stderr}"


def test_up_reads_no_file_and_no_variable_but_its_own(binary, process_lock, tmp_path):
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("colour = 'red'\n")
    site = Site(binary, tmp_path / "data", nodes=1)
    given = {"SKERRY_CONFIG": str(wrong), "SKERRY_S3_LISTEN": "nonsense", "SKERRY_LOG": "debug"}
    given["SKERRY_OBJECTS_BLOCK_SIZE"] = "64KiB"
    site.variables = command.variables(given)
    try:
        s3 = clients.of(site.start().environment())
        s3.create_bucket(Bucket="sizes")
        s3.put_object(Bucket="sizes", Key="two", Body=body(100 * KIB))
        assert blocks(site, "two") == [64 * KIB, 36 * KIB]
        assert site.stop() == 0
    finally:
        site.stop()
    written = site.log_text() + "".join(path.read_text(errors="replace") for path in site.data.rglob("*.log"))
    assert "DEBUG" in written


def test_up_refuses_a_variable_that_cannot_be_used(binary, tmp_path):
    given = {"SKERRY_OBJECTS_BLOCK_SIZE": "huge"}
    for nodes in [1, 3]:
        line = refused(binary, "up", "--nodes", nodes, "--data", tmp_path / "data", given=given)
        assert "SKERRY_OBJECTS_BLOCK_SIZE" in line and "expected a size" in line
    assert not (tmp_path / "data").exists()
