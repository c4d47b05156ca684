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
    s3.put_object(Bucket=bucket, Key="k", Body=b"2")
    s3.delete_object(Bucket=bucket, Key="k", IfMatch="*")
    assert refusal(s3.head_object, Bucket=bucket, Key="k")[1] == 404


def test_conditions_in_a_delete_of_many(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="a", Body=b"1")["ETag"]
    s3.put_object(Bucket=bucket, Key="b", Body=b"2")
    objects = [{"Key": "a", "ETag": etag}, {"Key": "b", "ETag": OTHER}]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})
    assert [entry["Key"] for entry in answer["Deleted"]] == ["a"]
    assert [(entry["Key"], entry["Code"]) for entry in answer["Errors"]] == [("b", "PreconditionFailed")]
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["b"]


def test_conditional_copy(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="from", Body=b"1")["ETag"]
    source = {"Bucket": bucket, "Key": "from"}
    assert refusal(s3.copy_object, Bucket=bucket, Key="to", CopySource=source, CopySourceIfMatch=OTHER) == FAILED
    assert refusal(s3.copy_object, Bucket=bucket, Key="to", CopySource=source, CopySourceIfNoneMatch=etag) == FAILED
    s3.copy_object(Bucket=bucket, Key="to", CopySource=source, CopySourceIfMatch=etag)


def test_conditional_copy_by_date(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="from", Body=b"1")["ETag"]
    now = datetime.now(timezone.utc)
    past, future = now - timedelta(hours=1), now + timedelta(hours=1)
    copy = {"Bucket": bucket, "Key": "to", "CopySource": {"Bucket": bucket, "Key": "from"}}
    date = s3.head_object(Bucket=bucket, Key="from")["LastModified"]
    assert refusal(s3.copy_object, **copy, CopySourceIfUnmodifiedSince=past) == FAILED
    assert refusal(s3.copy_object, **copy, CopySourceIfModifiedSince=date) == FAILED
    assert refusal(s3.head_object, Bucket=bucket, Key="to")[1] == 404
    s3.copy_object(**copy, CopySourceIfModifiedSince=past)
    s3.copy_object(**copy, CopySourceIfUnmodifiedSince=future)
    # S3 says which one counts when a tag and a date disagree.
    s3.copy_object(**copy, CopySourceIfMatch=etag, CopySourceIfUnmodifiedSince=past)
    tag_and_date = {"CopySourceIfNoneMatch": etag, "CopySourceIfModifiedSince": past}
    assert refusal(s3.copy_object, **copy, **tag_and_date) == FAILED


def test_conditional_part_copy(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="from", Body=b"1")["ETag"]
    upload = s3.create_multipart_upload(Bucket=bucket, Key="to")["UploadId"]
    part = {"Bucket": bucket, "Key": "to", "UploadId": upload, "PartNumber": 1}
    part["CopySource"] = {"Bucket": bucket, "Key": "from"}
    past = datetime.now(timezone.utc) - timedelta(hours=1)
    assert refusal(s3.upload_part_copy, **part, CopySourceIfMatch=OTHER) == FAILED
    assert refusal(s3.upload_part_copy, **part, CopySourceIfNoneMatch=etag) == FAILED
    assert refusal(s3.upload_part_copy, **part, CopySourceIfUnmodifiedSince=past) == FAILED
    s3.upload_part_copy(**part, CopySourceIfMatch=etag, CopySourceIfModifiedSince=past)


def test_conditions_on_what_a_copy_replaces(environment, s3, bucket):
    s3.put_object(Bucket=bucket, Key="from", Body=b"new")
    etag = s3.put_object(Bucket=bucket, Key="to", Body=b"old")["ETag"]

    def copy(to, **headers):
        # By hand: only newer versions of boto3 know these as parameters.
        client = clients.of(environment)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        client.meta.events.register("before-sign.s3.CopyObject", lambda request, **_: add(request, names))
        return client.copy_object(Bucket=bucket, Key=to, CopySource={"Bucket": bucket, "Key": "from"})

    def add(request, names):
        for name, value in names.items():
            request.headers[name] = value

    assert refusal(copy, "to", If_None_Match="*") == FAILED
    assert refusal(copy, "to", If_Match=OTHER) == FAILED
    assert refusal(copy, "none", If_Match=etag) == ("NoSuchKey", 404)
    assert s3.get_object(Bucket=bucket, Key="to")["Body"].read() == b"old"
    copy("to", If_Match=etag)
    assert s3.get_object(Bucket=bucket, Key="to")["Body"].read() == b"new"
    copy("free", If_None_Match="*")


def test_conditional_complete(s3, bucket):
    def upload():
        upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
        part = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, Body=b"part")
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        return {"Bucket": bucket, "Key": "k", "UploadId": upload_id, "MultipartUpload": parts}

    s3.complete_multipart_upload(**upload(), IfNoneMatch="*")
    assert refusal(s3.complete_multipart_upload, **upload(), IfNoneMatch="*") == FAILED
    assert refusal(s3.complete_multipart_upload, **upload(), IfMatch=OTHER) == FAILED
    etag = s3.head_object(Bucket=bucket, Key="k")["ETag"]
    s3.complete_multipart_upload(**upload(), IfMatch=etag)
    s3.delete_object(Bucket=bucket, Key="k")
    # With nothing there S3 says that there is nothing.
    assert refusal(s3.complete_multipart_upload, **upload(), IfMatch=etag) == ("NoSuchKey", 404)


def test_a_complete_that_was_refused_can_be_sent_again(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"there")
    names = {"Bucket": bucket, "Key": "k"}
    names["UploadId"] = s3.create_multipart_upload(**names)["UploadId"]
    etag = s3.upload_part(**names, PartNumber=1, Body=b"part")["ETag"]
    names["MultipartUpload"] = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    assert refusal(s3.complete_multipart_upload, **names, IfNoneMatch="*") == FAILED
    s3.complete_multipart_upload(**names)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"part"
