"""Several users: a bucket has an owner, others are refused."""

import uuid

import botocore.exceptions
import pytest

from harness import s3 as clients
from harness.s3 import refusal
from harness.wait import until

DENIED = ("AccessDenied", 403)


@pytest.fixture(scope="module")
def other(site, environment):
    """A user beside the one of `skerry env`, with a key of its own."""
    return as_user(site, environment, new_user(site))


def new_user(site):
    name = f"user-{uuid.uuid4().hex[:12]}"
    site.json("user", "create", name)
    return name


def new_key(site, user):
    """A new access key: its id and secret."""
    answer = site.json("key", "create", "--user", user)
    return find(answer, "access_key"), find(answer, "secret_key")


def find(answer, name):
    """The value of a field, at whatever depth it is."""
    if isinstance(answer, dict):
        if name in answer:
            return answer[name]
        answer = list(answer.values())
    if isinstance(answer, list):
        return next((value for value in (find(part, name) for part in answer) if value is not None), None)
    return None


def as_user(site, environment, user):
    key_id, secret = new_key(site, user)
    return clients.of(environment | {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret})


@pytest.fixture
def others_bucket(other):
    name = f"o-{uuid.uuid4().hex[:20]}"
    other.create_bucket(Bucket=name)
    other.put_object(Bucket=name, Key="k", Body=b"mine")
    return name


def test_a_user_sees_only_its_own_buckets(site, environment, others_bucket, other):
    third = as_user(site, environment, new_user(site))
    assert others_bucket in {bucket["Name"] for bucket in other.list_buckets()["Buckets"]}
    assert third.list_buckets()["Buckets"] == []


def test_a_user_may_not_touch_anothers_bucket(site, environment, others_bucket):
    third = as_user(site, environment, new_user(site))
    bucket = {"Bucket": others_bucket}
    key = bucket | {"Key": "k"}
    assert refusal(third.list_objects_v2, **bucket) == DENIED
    assert refusal(third.list_object_versions, **bucket) == DENIED
    assert refusal(third.list_multipart_uploads, **bucket) == DENIED
    assert refusal(third.get_object, **key) == DENIED
    assert refusal(third.put_object, **key, Body=b"x") == DENIED
    assert refusal(third.delete_object, **key) == DENIED
    assert refusal(third.create_multipart_upload, **key) == DENIED
    assert refusal(third.delete_bucket, **bucket) == DENIED
    assert refusal(third.head_bucket, **bucket)[1] == 403
    assert refusal(third.head_object, **key)[1] == 403
    assert refusal(third.create_bucket, **bucket) == ("BucketAlreadyExists", 409)


def test_a_user_may_not_copy_out_of_anothers_bucket(site, environment, others_bucket):
    third = as_user(site, environment, new_user(site))
    own = f"o-{uuid.uuid4().hex[:20]}"
    third.create_bucket(Bucket=own)
    source = {"Bucket": others_bucket, "Key": "k"}
    assert refusal(third.copy_object, Bucket=own, Key="k", CopySource=source) == DENIED
    upload = third.create_multipart_upload(Bucket=own, Key="k")["UploadId"]
    part = {"Bucket": own, "Key": "k", "UploadId": upload, "PartNumber": 1}
    assert refusal(third.upload_part_copy, **part, CopySource=source) == DENIED


def test_several_keys_of_one_user_are_that_user(site, environment):
    user = new_user(site)
    first, second = as_user(site, environment, user), as_user(site, environment, user)
    bucket = f"o-{uuid.uuid4().hex[:20]}"
    first.create_bucket(Bucket=bucket)
    second.put_object(Bucket=bucket, Key="k", Body=b"both")
    assert first.get_object(Bucket=bucket, Key="k")["Body"].read() == b"both"


@pytest.mark.parametrize("removed", ["key", "user"])
def test_a_removed_key_is_refused_by_every_node(site, environment, removed):
    user = new_user(site)
    key_id, secret = new_key(site, user)
    endpoints = site.endpoints()
    keys = {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret}
    each = [clients.of(environment | keys, endpoint=endpoint, attempts=1) for endpoint in endpoints]
    for client in each:
        until(lambda: code(client) is None)
    # A user's keys go with it.
    site.run(removed, "rm", {"key": key_id, "user": user}[removed])
    for client in each:
        until(lambda: code(client) == "InvalidAccessKeyId")


def code(client):
    """The code with which a client is refused; None if it is not."""
    try:
        client.list_buckets()
    except botocore.exceptions.ClientError as error:
        return error.response["Error"]["Code"]
    return None
