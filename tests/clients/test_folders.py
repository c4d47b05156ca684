"""A folder of 1,000 files, up and down again, by the clients that people have."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.bodies import body

COUNT = 1000
TIMEOUT = 900


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Small files in nested folders, a few odd names, a few larger ones."""
    root = tmp_path_factory.mktemp("folder")
    for number in range(COUNT - 5):
        write(root / f"d{number % 10}" / f"e{number % 7}" / f"file-{number:04}.bin", body(number * 3, number))
    write(root / "with space" / "a+b%20c.txt", b"odd")
    write(root / "ünïcode" / "🪨.txt", b"rock")
    write(root / "empty", b"")
    write(root / "inline-bound", body(32 * 1024 + 1))
    write(root / "blocks", body(9 << 20))
    return root


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def run(*command, environment, cwd=None):
    done = subprocess.run(
        [str(word) for word in command],
        env={name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def program(name):
    """A client from beside our Python, or from the system."""
    own = Path(sys.executable).parent / name
    found = str(own) if own.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def home(tmp_path):
    """An empty home, so that nobody's configuration is read or written."""
    home = tmp_path / "home"
    home.mkdir()
    return {"HOME": str(home), "LC_ALL": "C.UTF-8"}


def test_aws_sync(environment, bucket, folder, home, tmp_path):
    aws = [program("aws"), "s3", "sync", "--only-show-errors"]
    env = environment | home | {"AWS_DEFAULT_REGION": environment["AWS_REGION"]}
    run(*aws, folder, f"s3://{bucket}/up", environment=env)
    run(*aws, f"s3://{bucket}/up", tmp_path / "down", environment=env)
    assert tree(tmp_path / "down") == tree(folder)
    # Nothing changed, so nothing is sent.
    assert run(*aws, "--dryrun", folder, f"s3://{bucket}/up", environment=env) == ""
    (tmp_path / "down" / "empty").unlink()
    run(*aws, "--delete", tmp_path / "down", f"s3://{bucket}/up", environment=env)
    listed = run(program("aws"), "s3", "ls", "--recursive", f"s3://{bucket}/up/", environment=env)
    assert len(listed.splitlines()) == COUNT - 1


def test_aws_copies_by_multipart(environment, bucket, home, tmp_path):
    aws = [program("aws"), "s3", "cp", "--only-show-errors"]
    env = environment | home | {"AWS_DEFAULT_REGION": environment["AWS_REGION"]}
    (tmp_path / "big").write_bytes(body(25 << 20, 5))
    run(*aws, tmp_path / "big", f"s3://{bucket}/big", environment=env)
    run(*aws, f"s3://{bucket}/big", f"s3://{bucket}/copy", environment=env)
    run(*aws, f"s3://{bucket}/copy", tmp_path / "back", environment=env)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()


def test_rclone(environment, bucket, folder, home, tmp_path):
    rclone = [program("rclone"), "--quiet", "--transfers", "8", "--checkers", "8"]
    env = home | {
        "RCLONE_CONFIG_SKERRY_TYPE": "s3",
        "RCLONE_CONFIG_SKERRY_PROVIDER": "Other",
        "RCLONE_CONFIG_SKERRY_ENDPOINT": environment["AWS_ENDPOINT_URL"],
        "RCLONE_CONFIG_SKERRY_ACCESS_KEY_ID": environment["AWS_ACCESS_KEY_ID"],
        "RCLONE_CONFIG_SKERRY_SECRET_ACCESS_KEY": environment["AWS_SECRET_ACCESS_KEY"],
        "RCLONE_CONFIG_SKERRY_REGION": environment["AWS_REGION"],
    }
    remote = f"skerry:{bucket}/up"
    run(*rclone, "sync", folder, remote, environment=env)
    run(*rclone, "check", "--download", folder, remote, environment=env)
    run(*rclone, "copy", remote, tmp_path / "down", environment=env)
    assert tree(tmp_path / "down") == tree(folder)
    run(*rclone, "moveto", f"{remote}/blocks", f"{remote}/moved", environment=env)
    assert "moved" in run(*rclone, "lsf", remote, environment=env).splitlines()
    run(*rclone, "purge", remote, environment=env)
    assert run(*rclone, "lsf", f"skerry:{bucket}", environment=env) == ""


def test_s3cmd(environment, bucket, folder, home, tmp_path):
    at = environment["AWS_ENDPOINT_URL"].removeprefix("http://")
    config = tmp_path / "s3cfg"
    config.write_text(
        "[default]\n"
        f"access_key = {environment['AWS_ACCESS_KEY_ID']}\n"
        f"secret_key = {environment['AWS_SECRET_ACCESS_KEY']}\n"
        f"bucket_location = {environment['AWS_REGION']}\n"
        f"host_base = {at}\nhost_bucket = {at}\nuse_https = False\n"
    )
    s3cmd = [program("s3cmd"), "--config", config, "--no-progress", "--quiet"]
    run(*s3cmd, "sync", f"{folder}/", f"s3://{bucket}/up/", environment=home)
    (tmp_path / "down").mkdir()
    run(*s3cmd, "sync", f"s3://{bucket}/up/", f"{tmp_path / 'down'}/", environment=home)
    assert tree(tmp_path / "down") == tree(folder)
    run(*s3cmd, "del", "--recursive", "--force", f"s3://{bucket}/up/", environment=home)
    assert run(*s3cmd, "ls", f"s3://{bucket}", environment=home) == ""
