"""The program's command line, run without what this shell or this machine happens to have configured."""

import os
import subprocess

SECONDS_MAX = 120
ANY_PORT = ["--s3-listen", "127.0.0.1:0", "--node-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]


def variables(more=None):
    """This program's variables without those that configure Skerry or S3 clients, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SKERRY_", "AWS_"))}
    # An empty file, so that the machine's own is not read.
    return kept | {"SKERRY_CONFIG": os.devnull} | (more or {})


def run(binary, *args, given=None, cwd=None, text=""):
    """Runs a command to its end; `given` are variables, `text` is what it reads."""
    return subprocess.run(
        [str(word) for word in (binary, *args)],
        env=variables(given),
        cwd=cwd,
        input=text,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )


def done(binary, *args, **options):
    """Runs a command that must succeed; returns what it printed."""
    ended = run(binary, *args, **options)
    assert ended.returncode == 0, f"{args}: exit code {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def refused(binary, *args, **options):
    """Runs a command that must fail, and say why in one line; returns that line."""
    ended = run(binary, *args, **options)
    assert ended.returncode == 1, f"{args}: exit code {ended.returncode}\n{ended.stdout}{ended.stderr}"
    (line,) = ended.stderr.splitlines()
    assert line.startswith("skerry: "), line
    assert ended.stdout == ""
    return line


def misused(binary, *args, **options):
    """Runs a command that nobody can mean; returns what it says about that."""
    ended = run(binary, *args, **options)
    assert ended.returncode == 2, f"{args}: exit code {ended.returncode}\n{ended.stdout}{ended.stderr}"
    assert ended.stdout == ""
    return ended.stderr
