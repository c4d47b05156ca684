"""Multipart uploads, as their own calls and as clients use them."""

import hashlib

import pytest

from harness.bodies import MIB, body
from harness.s3 import refusal

PART = 5 * MIB


@pytest.fixture
def upload(s3, bucket):
    return Upload(s3, bucket, "k")


class Upload:
    """One upload and the parts that it was given."""

    def __init__(self, s3, bucket, key, **options):
        self.s3 = s3
        answer = s3.create_multipart_upload(Bucket=bucket, Key=key, **options)
        self.names = {"Bucket": bucket, "Key": key, "UploadId": answer["UploadId"]}
        self.parts = {}

    def put(self, number, data, **options):
        part = self.s3.upload_part(**self.names, PartNumber=number, Body=data, **options)
        self.parts[number] = part["ETag"]
        return part

    def complete(self, parts=None):
        parts = sorted(self.parts.items()) if parts is None else parts
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
        return self.s3.complete_multipart_upload(**self.names, MultipartUpload={"Parts": listed})


def test_parts_become_one_object(s3, bucket):
    upload = Upload(s3, bucket, "k", Metadata={"colour": "grey"}, ContentType="text/rock")
    sent = [body(PART, 1), body(PART + 1, 2), body(17, 3)]
    for number, data in zip([2, 5, 9], sent):
        upload.put(number, data)
    done = upload.complete()
    md5s = b"".join(hashlib.md5(data).digest() for data in sent)
    assert done["ETag"] == f'"{hashlib.md5(md5s).hexdigest()}-3"'
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"".join(sent)
    assert (got["Metadata"], got["ContentType"]) == ({"colour": "grey"}, "text/rock")


def test_nothing_is_seen_before_the_end(s3, bucket, upload):
    upload.put(1, body(PART))
    assert refusal(s3.get_object, Bucket=bucket, Key="k") == ("NoSuchKey", 404)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_one_small_part_is_enough(s3, bucket, upload):
    upload.put(1, b"tiny")
    assert upload.complete()["ETag"].endswith('-1"')
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"tiny"


def test_a_part_sent_again_replaces_the_first(s3, bucket, upload):
    upload.put(1, body(PART, 1))
    upload.put(1, b"second")
    upload.complete()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"second"


def test_parts_that_are_not_listed_are_dropped(s3, bucket, upload):
    for number in range(1, 4):
        upload.put(number, body(PART, number))
    upload.complete([(1, upload.parts[1]), (3, upload.parts[3])])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body(PART, 1) + body(PART, 3)


def test_refusals_at_the_end(upload):
    upload.put(1, body(PART, 1))
    upload.put(2, b"last")
    one, two = upload.parts[1], upload.parts[2]
    assert refusal(upload.complete, [(1, one), (3, two)]) == ("InvalidPart", 400)
    assert refusal(upload.complete, [(1, two)]) == ("InvalidPart", 400)
    assert refusal(upload.complete, [(2, two), (1, one)]) == ("InvalidPartOrder", 400)
    assert refusal(upload.complete, []) == ("MalformedXML", 400)
    upload.complete()


def test_a_small_part_before_the_last_is_refused(upload):
    upload.put(1, b"small")
    upload.put(2, b"last")
    assert refusal(upload.complete) == ("EntityTooSmall", 400)


def test_an_upload_that_is_over(s3, upload):
    upload.put(1, b"x")
    s3.abort_multipart_upload(**upload.names)
    assert refusal(upload.put, 2, b"y") == ("NoSuchUpload", 404)
    assert refusal(upload.complete) == ("NoSuchUpload", 404)
    assert refusal(s3.list_parts, **upload.names) == ("NoSuchUpload", 404)


@pytest.mark.parametrize("number", [0, 10_001])
def test_part_numbers_have_bounds(upload, number):
    assert refusal(upload.put, number, b"x") == ("InvalidArgument", 400)


def test_parts_are_listed_page_by_page(s3, upload):
    for number in range(1, 8):
        upload.put(number, bytes(number))
    found, marker = [], 0
    while True:
        page = s3.list_parts(**upload.names, MaxParts=3, PartNumberMarker=marker)
        found += [(part["PartNumber"], part["Size"], part["ETag"]) for part in page["Parts"]]
        if not page["IsTruncated"]:
            break
        assert len(page["Parts"]) == 3
        marker = page["NextPartNumberMarker"]
    assert found == [(number, number, upload.parts[number]) for number in range(1, 8)]


def test_uploads_are_listed(s3, bucket):
    made = [(key, Upload(s3, bucket, key).names["UploadId"]) for key in ["b", "a", "dir/x", "dir/y", "a"]]
    listed = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert sorted((entry["Key"], entry["UploadId"]) for entry in listed) == sorted(made)
    assert [entry["Key"] for entry in listed] == ["a", "a", "b", "dir/x", "dir/y"]
    page = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [entry["Prefix"] for entry in page["CommonPrefixes"]] == ["dir/"]
    first = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=2)
    assert first["IsTruncated"]
    markers = {"KeyMarker": first["NextKeyMarker"], "UploadIdMarker": first["NextUploadIdMarker"]}
    rest = s3.list_multipart_uploads(Bucket=bucket, **markers)
    both = first["Uploads"] + rest["Uploads"]
    assert [entry["UploadId"] for entry in both] == [entry["UploadId"] for entry in listed]


def test_parts_copied_from_an_object(s3, bucket, upload):
    data = body(2 * PART, 4)
    s3.put_object(Bucket=bucket, Key="source", Body=data)
    source = {"Bucket": bucket, "Key": "source"}
    ranges = [f"bytes=0-{PART - 1}", f"bytes={PART}-{PART + 99}"]
    for number, part in enumerate(ranges, 1):
        copied = s3.upload_part_copy(**upload.names, PartNumber=number, CopySource=source, CopySourceRange=part)
        upload.parts[number] = copied["CopyPartResult"]["ETag"]
    upload.complete()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data[: PART + 100]


def test_single_parts_can_be_read(s3, bucket, upload):
    upload.put(1, body(PART, 1))
    upload.put(2, b"last")
    upload.complete()
    got = s3.get_object(Bucket=bucket, Key="k", PartNumber=2)
    assert got["Body"].read() == b"last"
    assert got["PartsCount"] == 2
