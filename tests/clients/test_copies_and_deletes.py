"""CopyObject, DeleteObject, DeleteObjects."""

import uuid

import pytest

from harness.bodies import KIB, MIB, body
from harness.s3 import refusal


@pytest.mark.parametrize("size", [0, 32 * KIB, 9 * MIB])
def test_a_copy_stands_alone(s3, bucket, size):
    data = body(size, size)
    s3.put_object(Bucket=bucket, Key="from", Body=data, Metadata={"a": "1"}, ContentType="text/a")
    answer = s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "from"})
    s3.delete_object(Bucket=bucket, Key="from")
    got = s3.get_object(Bucket=bucket, Key="to")
    assert got["Body"].read() == data
    assert got["ETag"] == answer["CopyObjectResult"]["ETag"]
    assert (got["Metadata"], got["ContentType"]) == ({"a": "1"}, "text/a")


def test_a_copy_with_new_metadata(s3, bucket):
    s3.put_object(Bucket=bucket, Key="from", Body=b"x", Metadata={"a": "1"}, ContentType="text/a")
    s3.copy_object(
        Bucket=bucket,
        Key="to",
        CopySource={"Bucket": bucket, "Key": "from"},
        MetadataDirective="REPLACE",
        Metadata={"b": "2"},
        ContentType="text/b",
    )
    head = s3.head_object(Bucket=bucket, Key="to")
    assert (head["Metadata"], head["ContentType"]) == ({"b": "2"}, "text/b")


def test_a_copy_onto_itself(s3, bucket):
    data = body(5 * MIB)
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    source = {"Bucket": bucket, "Key": "k"}
    assert refusal(s3.copy_object, Bucket=bucket, Key="k", CopySource=source) == ("InvalidRequest", 400)
    s3.copy_object(Bucket=bucket, Key="k", CopySource=source, MetadataDirective="REPLACE", Metadata={"n": "1"})
    got = s3.get_object(Bucket=bucket, Key="k")
    assert (got["Body"].read(), got["Metadata"]) == (data, {"n": "1"})


def test_a_copy_across_buckets_with_an_odd_key(s3, bucket):
    other = f"t-{uuid.uuid4().hex[:20]}"
    s3.create_bucket(Bucket=other)
    key = "a//b +%20ü?#🪨"
    s3.put_object(Bucket=bucket, Key=key, Body=b"odd")
    s3.copy_object(Bucket=other, Key=key, CopySource={"Bucket": bucket, "Key": key})
    assert s3.get_object(Bucket=other, Key=key)["Body"].read() == b"odd"


def test_a_copy_of_nothing(s3, bucket):
    source = {"Bucket": bucket, "Key": "none"}
    assert refusal(s3.copy_object, Bucket=bucket, Key="to", CopySource=source) == ("NoSuchKey", 404)
    source = {"Bucket": "no-such-bucket-here", "Key": "none"}
    assert refusal(s3.copy_object, Bucket=bucket, Key="to", CopySource=source) == ("NoSuchBucket", 404)


def test_a_thousand_keys_in_one_request(s3, bucket):
    keys = [f"{number:04}" for number in range(1000)]
    for key in keys[:50]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert len(answer["Deleted"]) == 1000 and "Errors" not in answer
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_more_than_a_thousand_are_refused(s3, bucket):
    objects = [{"Key": str(number)} for number in range(1001)]
    assert refusal(s3.delete_objects, Bucket=bucket, Delete={"Objects": objects}) == ("MalformedXML", 400)


def test_a_quiet_delete_says_nothing(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}], "Quiet": True})
    assert "Deleted" not in answer and "Errors" not in answer
    assert refusal(s3.head_object, Bucket=bucket, Key="k")[1] == 404
