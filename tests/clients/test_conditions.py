"""Conditional requests: exact, and by the newest state."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest
from botocore.exceptions import ClientError

from harness import s3 as clients
from harness.bodies import MIB, body
from harness.s3 import refusal

FAILED = ("PreconditionFailed", 412)
OTHER = '"00000000000000000000000000000000"'


def test_create_only(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")
    assert refusal(s3.put_object, Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*") == FAILED
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1"
    s3.delete_object(Bucket=bucket, Key="k")
    s3.put_object(Bucket=bucket, Key="k", Body=b"3", IfNoneMatch="*")


def test_replace_only_what_was_seen(s3, bucket):
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    assert refusal(s3.put_object, Bucket=bucket, Key="k", Body=b"2", IfMatch=OTHER) == FAILED
    second = s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch=first)["ETag"]
    assert refusal(s3.put_object, Bucket=bucket, Key="k", Body=b"3", IfMatch=first) == FAILED
    assert s3.head_object(Bucket=bucket, Key="k")["ETag"] == second


def test_replacing_what_is_not_there(s3, bucket):
    assert refusal(s3.put_object, Bucket=bucket, Key="k", Body=b"1", IfMatch=OTHER) == ("NoSuchKey", 404)


def test_large_bodies_obey_conditions_too(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    assert refusal(s3.put_object, Bucket=bucket, Key="k", Body=body(5 * MIB), IfNoneMatch="*") == FAILED
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1"


def test_one_of_many_creators_wins(environment, bucket):
    def create(number):
        client = clients.of(environment, attempts=1)
        try:
            client.put_object(Bucket=bucket, Key="once", Body=str(number).encode(), IfNoneMatch="*")
            return number
        except ClientError as error:
            assert error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict")
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(8)) if number is not None]
    assert len(winners) == 1
    assert clients.of(environment).get_object(Bucket=bucket, Key="once")["Body"].read() == str(winners[0]).encode()


def test_no_increment_is_lost(environment, bucket):
    clients.of(environment).put_object(Bucket=bucket, Key="count", Body=b"0")

    def increment(times):
        client = clients.of(environment, attempts=1)
        while times:
            got = client.get_object(Bucket=bucket, Key="count")
            more = str(int(got["Body"].read()) + 1).encode()
            try:
                client.put_object(Bucket=bucket, Key="count", Body=more, IfMatch=got["ETag"])
                times -= 1
            except ClientError as error:
                assert error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increment, [10] * 4))
    assert clients.of(environment).get_object(Bucket=bucket, Key="count")["Body"].read() == b"40"


@pytest.mark.parametrize("operation", ["get_object", "head_object"])
def test_reads_by_etag(s3, bucket, operation):
    read = getattr(s3, operation)
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    assert read(Bucket=bucket, Key="k", IfMatch=etag)["ETag"] == etag
    assert read(Bucket=bucket, Key="k", IfNoneMatch=OTHER)["ETag"] == etag
    assert refusal(read, Bucket=bucket, Key="k", IfMatch=OTHER)[1] == 412
    assert refusal(read, Bucket=bucket, Key="k", IfNoneMatch=etag)[1] == 304


@pytest.mark.parametrize("operation", ["get_object", "head_object"])
def test_reads_by_date(s3, bucket, operation):
    read = getattr(s3, operation)
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    now = datetime.now(timezone.utc)
    past, future = now - timedelta(hours=1), now + timedelta(hours=1)
    read(Bucket=bucket, Key="k", IfModifiedSince=past)
    read(Bucket=bucket, Key="k", IfUnmodifiedSince=future)
    assert refusal(read, Bucket=bucket, Key="k", IfUnmodifiedSince=past)[1] == 412
    date = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    assert refusal(read, Bucket=bucket, Key="k", IfModifiedSince=date)[1] == 304


def test_an_etag_outranks_a_date(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    past = datetime.now(timezone.utc) - timedelta(hours=1)
    s3.get_object(Bucket=bucket, Key="k", IfMatch=etag, IfUnmodifiedSince=past)
    assert refusal(s3.get_object, Bucket=bucket, Key="k", IfNoneMatch=etag, IfModifiedSince=past)[1] == 304


def test_conditional_delete(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    assert refusal(s3.delete_object, Bucket=bucket, Key="k", IfMatch=OTHER) == FAILED
    s3.delete_object(Bucket=bucket, Key="k", IfMatch=etag)
    assert refusal(s3.head_object, Bucket=bucket, Key="k")[1] == 404


def test_conditional_copy(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="from", Body=b"1")["ETag"]
    source = {"Bucket": bucket, "Key": "from"}
    assert refusal(s3.copy_object, Bucket=bucket, Key="to", CopySource=source, CopySourceIfMatch=OTHER) == FAILED
    assert refusal(s3.copy_object, Bucket=bucket, Key="to", CopySource=source, CopySourceIfNoneMatch=etag) == FAILED
    s3.copy_object(Bucket=bucket, Key="to", CopySource=source, CopySourceIfMatch=etag)


def test_conditional_complete(s3, bucket):
    def upload():
        upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
        part = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, Body=b"part")
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        return {"Bucket": bucket, "Key": "k", "UploadId": upload_id, "MultipartUpload": parts}

    s3.complete_multipart_upload(**upload(), IfNoneMatch="*")
    assert refusal(s3.complete_multipart_upload, **upload(), IfNoneMatch="*") == FAILED
