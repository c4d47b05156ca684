"""Keys are bytes: nobody tidies them up."""

import pytest

from harness.s3 import refusal

ODD = [
    "a//b",
    "//a",
    "/leading",
    "trailing/",
    ".",
    "..",
    "a/./b",
    "a/../b",
    "../up",
    "with space",
    " around ",
    "plus+sign",
    "per%cent",
    "per%20cent",
    "percent%2Fslash",
    "question?mark",
    "hash#mark",
    "amper&sand=equals",
    "semi;colon:colon@at",
    "quote'\"quote",
    "back\\slash",
    "angle<>bracket",
    "tilde~star*paren()",
    "brackets[]{}|^`",
    "ümläut",
    "日本語/キー",
    "emoji 🪨🌊",
    "e\u0301 is not \u00e9",
    "\u00e9 is not e\u0301",
    "new\nline",
    "tab\there",
    "k" * 1024,
    "ü" * 512,
]


def test_odd_keys_round_trip(s3, bucket):
    for number, key in enumerate(ODD):
        s3.put_object(Bucket=bucket, Key=key, Body=str(number).encode())
    for number, key in enumerate(ODD):
        got = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        assert got == str(number).encode(), f"key {key!r}"


def test_odd_keys_are_listed_as_they_are_in_order_of_their_bytes(s3, bucket):
    for key in ODD:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    listed = [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert listed == sorted(ODD, key=lambda key: key.encode())


def test_odd_keys_are_deleted_one_by_one_and_in_bulk(s3, bucket):
    for key in ODD:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    half = len(ODD) // 2
    for key in ODD[:half]:
        s3.delete_object(Bucket=bucket, Key=key)
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in ODD[half:]]})
    assert sorted(entry["Key"] for entry in answer["Deleted"]) == sorted(ODD[half:])
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("key", ["k" * 1025, "ü" * 513], ids=["ascii", "two-byte"])
def test_a_key_over_the_bound_is_refused(s3, bucket, key):
    assert refusal(s3.put_object, Bucket=bucket, Key=key, Body=b"") == ("KeyTooLongError", 400)


def test_an_unknown_key(s3, bucket):
    assert refusal(s3.get_object, Bucket=bucket, Key="none") == ("NoSuchKey", 404)
    assert refusal(s3.head_object, Bucket=bucket, Key="none") == ("404", 404)


def test_deleting_an_unknown_key_is_fine(s3, bucket):
    s3.delete_object(Bucket=bucket, Key="none")
