"""Buckets: made, seen, listed, refused by name, removed only when empty."""

import uuid

import pytest

from harness.s3 import refusal


def test_a_bucket_is_made_listed_and_removed(s3):
    name = f"b-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    s3.head_bucket(Bucket=name)
    listed = {bucket["Name"]: bucket["CreationDate"] for bucket in s3.list_buckets()["Buckets"]}
    assert name in listed
    s3.delete_bucket(Bucket=name)
    assert refusal(s3.head_bucket, Bucket=name) == ("404", 404)
    assert name not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}


def test_the_location_is_the_region(s3, bucket):
    # S3 spells its first region as an empty answer.
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] in (None, "", s3.meta.region_name)


def test_a_bucket_made_twice_is_said_to_be_yours(s3, bucket):
    # In the first region S3 forgives the repetition; both answers are S3's own.
    try:
        s3.create_bucket(Bucket=bucket)
    except s3.exceptions.ClientError as error:
        assert error.response["Error"]["Code"] == "BucketAlreadyOwnedByYou"


def test_a_full_bucket_stays(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    assert refusal(s3.delete_bucket, Bucket=bucket) == ("BucketNotEmpty", 409)
    s3.delete_object(Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)


def test_a_bucket_made_again_is_a_new_one(s3):
    name = f"b-{uuid.uuid4().hex}"
    for _ in range(3):
        s3.create_bucket(Bucket=name)
        assert s3.list_objects_v2(Bucket=name)["KeyCount"] == 0
        s3.put_object(Bucket=name, Key="k", Body=b"x")
        s3.delete_object(Bucket=name, Key="k")
        s3.delete_bucket(Bucket=name)


@pytest.mark.parametrize("name", ["ab", "a" * 64, "Has-Capitals", "under_score", "-dash", "dash-", "a..b", "192.168.0.1"])
def test_bad_names_are_refused(s3, name):
    # boto3 itself refuses some of them; what it lets through must be refused by the server.
    s3.meta.events.unregister("before-parameter-build.s3", _boto_name_check())
    assert refusal(s3.create_bucket, Bucket=name) == ("InvalidBucketName", 400)


@pytest.mark.parametrize("operation", ["list_objects_v2", "list_objects", "list_multipart_uploads", "delete_bucket"])
def test_an_unknown_bucket(s3, operation):
    assert refusal(getattr(s3, operation), Bucket="no-such-bucket-here") == ("NoSuchBucket", 404)


def _boto_name_check():
    from botocore.handlers import validate_bucket_name

    return validate_bucket_name
