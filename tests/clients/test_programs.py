"""Objects of every size that is stored in another way, up and down again by the programs that people have; and URLs.

A program takes all sizes in one go: some need seconds to start.
"""

import uuid
from pathlib import Path

import pytest
import requests

from harness.bodies import KIB, MIB, body
from test_folders import program, run

INLINE = 32 * KIB
BLOCK = 4 * MIB
SIZES = [0, 1, INLINE - 1, INLINE, INLINE + 1, BLOCK - 1, BLOCK, BLOCK + 1]
TIMEOUT = 30


class Aws:
    def __init__(self, environment, home):
        self.command = [program("aws")]
        config = home_file(home, ".aws/config", "[default]\ns3 =\n    signature_version = s3v4\n")
        own = {"AWS_DEFAULT_REGION": environment["AWS_REGION"], "AWS_CONFIG_FILE": str(config)}
        self.environment = environment | home | own

    def up(self, folder, bucket):
        self._run("s3", "cp", "--only-show-errors", "--recursive", folder, f"s3://{bucket}/up")

    def down(self, bucket, folder):
        self._run("s3", "cp", "--only-show-errors", "--recursive", f"s3://{bucket}/up", folder)

    def url(self, bucket, key):
        return self._run("s3", "presign", "--expires-in", "300", f"s3://{bucket}/{key}")

    def _run(self, *words):
        return run(*self.command, *words, environment=self.environment)


class Rclone:
    def __init__(self, environment, home):
        self.command = [program("rclone"), "--quiet", "--s3-no-check-bucket"]
        self.environment = home | {
            "RCLONE_CONFIG_SKERRY_TYPE": "s3",
            "RCLONE_CONFIG_SKERRY_PROVIDER": "Other",
            "RCLONE_CONFIG_SKERRY_ENDPOINT": environment["AWS_ENDPOINT_URL"],
            "RCLONE_CONFIG_SKERRY_ACCESS_KEY_ID": environment["AWS_ACCESS_KEY_ID"],
            "RCLONE_CONFIG_SKERRY_SECRET_ACCESS_KEY": environment["AWS_SECRET_ACCESS_KEY"],
            "RCLONE_CONFIG_SKERRY_REGION": environment["AWS_REGION"],
        }

    def up(self, folder, bucket):
        self._run("copy", folder, f"skerry:{bucket}/up")

    def down(self, bucket, folder):
        self._run("copy", f"skerry:{bucket}/up", folder)

    def url(self, bucket, key):
        return self._run("link", "--expire", "5m", f"skerry:{bucket}/{key}")

    def _run(self, *words):
        return run(*self.command, *words, environment=self.environment)


class S3cmd:
    def __init__(self, environment, home):
        at = environment["AWS_ENDPOINT_URL"].removeprefix("http://")
        config = home_file(
            home,
            "s3cfg",
            "[default]\n"
            f"access_key = {environment['AWS_ACCESS_KEY_ID']}\n"
            f"secret_key = {environment['AWS_SECRET_ACCESS_KEY']}\n"
            f"bucket_location = {environment['AWS_REGION']}\n"
            f"host_base = {at}\nhost_bucket = {at}\nuse_https = False\n",
        )
        self.command = [program("s3cmd"), "--config", config, "--no-progress"]
        self.environment = home

    def up(self, folder, bucket):
        self._run("put", "--recursive", f"{folder}/", f"s3://{bucket}/up/")

    def down(self, bucket, folder):
        self._run("get", "--recursive", f"s3://{bucket}/up/", f"{folder}/")

    def url(self, bucket, key):
        return self._run("signurl", f"s3://{bucket}/{key}", "+300")

    def _run(self, *words):
        return run(*self.command, *words, environment=self.environment)


def home_file(home, name, text):
    path = Path(home["HOME"]) / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture(scope="module", params=[Aws, Rclone, S3cmd], ids=["awscli", "rclone", "s3cmd"])
def client(request, environment, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return request.param(environment, {"HOME": str(home), "LC_ALL": "C.UTF-8"})


@pytest.fixture(scope="module")
def back(client, s3, tmp_path_factory):
    """A folder with a file of every size, after it went up and came down."""
    sent, back = tmp_path_factory.mktemp("sent"), tmp_path_factory.mktemp("back")
    for size in SIZES:
        (sent / name(size)).write_bytes(body(size, size))
    bucket = f"p-{uuid.uuid4().hex[:20]}"
    s3.create_bucket(Bucket=bucket)
    client.up(sent, bucket)
    listed = {entry["Key"]: entry["Size"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    assert listed == {f"up/{name(size)}": size for size in SIZES}
    client.down(bucket, back)
    return back


def name(size):
    return f"{size} ü+%.bin"


@pytest.mark.parametrize("size", SIZES)
def test_up_and_down(back, size):
    assert (back / name(size)).read_bytes() == body(size, size)


def test_a_url(client, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a b/ü+%", Body=b"hello")
    got = requests.get(client.url(bucket, "a b/ü+%").strip(), timeout=TIMEOUT)
    if isinstance(client, S3cmd):
        # s3cmd signs URLs by version 2 only, which S3 refuses in all regions made since 2014, and so do we.
        assert (got.status_code, code(got)) == (400, "InvalidRequest")
    else:
        assert (got.status_code, got.content) == (200, b"hello")


def code(response):
    return response.text.partition("<Code>")[2].partition("</Code>")[0]
