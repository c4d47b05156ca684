"""Ranges, user metadata, content headers and their overrides."""

import pytest

from harness.bodies import KIB, MIB, body
from harness.s3 import refusal

SIZES = [100, 40 * KIB, 9 * MIB]


@pytest.mark.parametrize("size", SIZES)
def test_ranges(s3, bucket, size):
    data = body(size, size)
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    block = 4 * MIB
    ranges = [(0, 0), (0, 9), (size - 1, size - 1), (10, size - 10), (size // 2, size + 99)]
    ranges += [(block - 1, block), (block - 5, 2 * block + 5)] if size > 2 * block else []
    for first, last in ranges:
        got = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={first}-{last}")
        end = min(last, size - 1)
        assert got["Body"].read() == data[first : last + 1], (first, last)
        assert got["ContentRange"] == f"bytes {first}-{end}/{size}"
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=7-")["Body"].read() == data[7:]
    assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=-7")["Body"].read() == data[-7:]
    assert s3.get_object(Bucket=bucket, Key="k", Range=f"bytes=-{size + 5}")["Body"].read() == data


def test_a_range_outside(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    for outside in ["bytes=10-", "bytes=10-12", "bytes=-0"]:
        assert refusal(s3.get_object, Bucket=bucket, Key="k", Range=outside) == ("InvalidRange", 416), outside


def test_a_range_of_nothing(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    assert refusal(s3.get_object, Bucket=bucket, Key="k", Range="bytes=0-0") == ("InvalidRange", 416)


def test_a_range_of_a_head(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    head = s3.head_object(Bucket=bucket, Key="k", Range="bytes=2-4")
    assert head["ContentLength"] == 3


def test_content_headers_come_back(s3, bucket):
    headers = {
        "ContentType": "text/plain; charset=utf-8",
        "CacheControl": "max-age=60",
        "ContentDisposition": 'attachment; filename="rock.txt"',
        "ContentEncoding": "gzip",
        "ContentLanguage": "nb",
    }
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", **headers)
    head = s3.head_object(Bucket=bucket, Key="k")
    assert {name: head[name] for name in headers} == headers


def test_user_metadata_comes_back(s3, bucket):
    metadata = {"colour": "grey", "with-dash": "a b", "empty": "", "long": "x" * 1000}
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata=metadata)
    assert s3.head_object(Bucket=bucket, Key="k")["Metadata"] == metadata


def test_too_much_metadata_is_refused(s3, bucket):
    refused = refusal(s3.put_object, Bucket=bucket, Key="k", Body=b"x", Metadata={"a": "x" * 2100})
    assert refused == ("MetadataTooLarge", 400)


def test_a_reader_may_override_headers(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="text/a")
    got = s3.get_object(
        Bucket=bucket, Key="k", ResponseContentType="text/b", ResponseContentDisposition="inline"
    )
    assert (got["ContentType"], got["ContentDisposition"]) == ("text/b", "inline")
