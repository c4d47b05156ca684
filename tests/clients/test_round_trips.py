"""What is put is got: every size at which the store changes its mind."""

from io import BufferedReader

import pytest
from boto3.s3.transfer import TransferConfig

from harness.bodies import GIB, KIB, MIB, Reader, body, digest, pieces

INLINE = 32 * KIB
BLOCK = 4 * MIB

SIZES = [0, 1, INLINE - 1, INLINE, INLINE + 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 9 * MIB + 7]


@pytest.mark.parametrize("size", SIZES)
def test_put_then_get(s3, bucket, size):
    sent = body(size, seed=size)
    put = s3.put_object(Bucket=bucket, Key="thing", Body=sent)
    got = s3.get_object(Bucket=bucket, Key="thing")
    assert got["ContentLength"] == size
    assert got["ETag"] == put["ETag"]
    assert got["Body"].read() == sent
    head = s3.head_object(Bucket=bucket, Key="thing")
    assert (head["ContentLength"], head["ETag"]) == (size, put["ETag"])
    assert head["LastModified"] == got["LastModified"]


def test_etag_is_the_md5_of_the_body(s3, bucket):
    put = s3.put_object(Bucket=bucket, Key="greeting", Body=b"hello")
    assert put["ETag"] == '"5d41402abc4b2a76b9719d911017c592"'


def test_an_overwrite_replaces_everything(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=body(BLOCK + 1), Metadata={"old": "yes"}, ContentType="text/old")
    s3.put_object(Bucket=bucket, Key="k", Body=b"new")
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"new"
    assert got["Metadata"] == {}
    assert got["ContentType"] == "binary/octet-stream"


def test_a_hundred_mib_in_one_put(s3, bucket):
    size = 100 * MIB
    s3.put_object(Bucket=bucket, Key="big", Body=body(size, 7))
    got = s3.get_object(Bucket=bucket, Key="big")
    assert digest(got["Body"].iter_chunks(MIB)) == digest(pieces(size, 7))


def test_a_hundred_mib_by_multipart(s3, bucket):
    size = 100 * MIB
    config = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB, max_concurrency=4)
    s3.upload_fileobj(BufferedReader(Reader(size, 8)), bucket, "big", Config=config)
    head = s3.head_object(Bucket=bucket, Key="big")
    assert head["ContentLength"] == size
    assert head["ETag"].endswith('-13"')
    got = s3.get_object(Bucket=bucket, Key="big")
    assert digest(got["Body"].iter_chunks(MIB)) == digest(pieces(size, 8))


@pytest.mark.long
def test_five_gib(s3, bucket):
    size = 5 * GIB
    config = TransferConfig(multipart_threshold=64 * MIB, multipart_chunksize=64 * MIB, max_concurrency=2)
    s3.upload_fileobj(BufferedReader(Reader(size, 9)), bucket, "huge", Config=config)
    got = s3.get_object(Bucket=bucket, Key="huge")
    assert got["ContentLength"] == size
    assert digest(got["Body"].iter_chunks(MIB)) == digest(pieces(size, 9))
    s3.delete_object(Bucket=bucket, Key="huge")
