"""Checksums that clients send, that servers keep, and that must not fit by luck."""

import base64
import hashlib
import zlib

import pytest

from harness.bodies import KIB, MIB, body
from harness.s3 import refusal

ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]
# botocore computes these without a native library.
OWN = ["CRC32", "SHA1", "SHA256"]
# The checksums of `123456789` that the algorithms' papers give.
CHECK = b"123456789"
KNOWN = {
    "CRC32": "y/Q5Jg==",
    "CRC32C": "4waSgw==",
    "CRC64NVME": "rosUhgp5mIg=",
    "SHA1": base64.b64encode(hashlib.sha1(CHECK).digest()).decode(),
    "SHA256": base64.b64encode(hashlib.sha256(CHECK).digest()).decode(),
}
WRONG = {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA1": 20, "SHA256": 32}


def field(algorithm):
    return f"Checksum{algorithm}"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_right_checksum_is_kept(s3, bucket, algorithm):
    s3.put_object(Bucket=bucket, Key="k", Body=CHECK, **{field(algorithm): KNOWN[algorithm]})
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head[field(algorithm)] == KNOWN[algorithm]
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got[field(algorithm)] == KNOWN[algorithm]
    assert got["Body"].read() == CHECK


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [10, 5 * MIB])
def test_a_wrong_checksum_is_refused(s3, bucket, algorithm, size):
    wrong = base64.b64encode(bytes(WRONG[algorithm])).decode()
    refused = refusal(s3.put_object, Bucket=bucket, Key="k", Body=body(size), **{field(algorithm): wrong})
    assert refused == ("BadDigest", 400)
    assert refusal(s3.head_object, Bucket=bucket, Key="k")[1] == 404


@pytest.mark.parametrize("algorithm", OWN)
@pytest.mark.parametrize("size", [0, 64 * KIB + 1, 5 * MIB])
def test_a_checksum_in_the_trailer(s3, bucket, algorithm, size):
    class Stream:
        """Without a length that boto3 could rewind for: it then signs a trailer."""

        def __init__(self):
            self.data, self.at = body(size), 0

        def read(self, count=-1):
            end = len(self.data) if count is None or count < 0 else self.at + count
            piece, self.at = self.data[self.at : end], min(end, len(self.data))
            return piece

        def __len__(self):
            return len(self.data)

        def tell(self):
            return self.at

        def seek(self, to, whence=0):
            self.at = to + (0, self.at, len(self.data))[whence]
            return self.at

    put = s3.put_object(Bucket=bucket, Key="k", Body=Stream(), ChecksumAlgorithm=algorithm)
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head[field(algorithm)] == put[field(algorithm)]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body(size)


def test_content_md5(s3, bucket):
    right = base64.b64encode(hashlib.md5(CHECK).digest()).decode()
    wrong = base64.b64encode(bytes(16)).decode()
    s3.put_object(Bucket=bucket, Key="k", Body=CHECK, ContentMD5=right)
    assert refusal(s3.put_object, Bucket=bucket, Key="k", Body=CHECK, ContentMD5=wrong) == ("BadDigest", 400)
    assert refusal(s3.put_object, Bucket=bucket, Key="k", Body=CHECK, ContentMD5="short")[0] == "InvalidDigest"


@pytest.mark.parametrize("algorithm", OWN)
def test_checksums_of_parts(s3, bucket, algorithm):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm)
    names = {"Bucket": bucket, "Key": "k", "UploadId": upload["UploadId"]}
    parts = []
    for number, data in enumerate([body(5 * MIB, 1), b"last"], 1):
        part = s3.upload_part(**names, PartNumber=number, Body=data, ChecksumAlgorithm=algorithm)
        parts.append({"PartNumber": number, "ETag": part["ETag"], field(algorithm): part[field(algorithm)]})
    done = s3.complete_multipart_upload(**names, MultipartUpload={"Parts": parts})
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head[field(algorithm)] == done[field(algorithm)]
    assert head[field(algorithm)].endswith("-2")


def test_a_checksum_of_the_whole_multipart_object(s3, bucket):
    data = [body(5 * MIB, 1), b"last"]
    upload = s3.create_multipart_upload(
        Bucket=bucket, Key="k", ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT"
    )
    names = {"Bucket": bucket, "Key": "k", "UploadId": upload["UploadId"]}
    parts = []
    for number, piece in enumerate(data, 1):
        part = s3.upload_part(**names, PartNumber=number, Body=piece, ChecksumAlgorithm="CRC32")
        parts.append({"PartNumber": number, "ETag": part["ETag"], "ChecksumCRC32": part["ChecksumCRC32"]})
    s3.complete_multipart_upload(**names, MultipartUpload={"Parts": parts}, ChecksumType="FULL_OBJECT")
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    whole = zlib.crc32(b"".join(data)).to_bytes(4, "big")
    assert head["ChecksumCRC32"] == base64.b64encode(whole).decode()
