"""Lists against a model: the sorted keys, cut by prefix, delimiter, start and page."""

import itertools
import uuid

import pytest

from harness.bodies import body

NAMES = ["a", "b", "é", "z", "🪨"]
KEYS = sorted(
    {f"{x}/{y}/{n}" for x, y, n in itertools.product(NAMES, NAMES, range(3))}
    | {f"{x}-{n:02}" for x, n in itertools.product(NAMES, range(12))}
    | {"a/", "a//", "a//b", "top", "A", "~", "a b", "a+b", "a%2Fb"},
    key=lambda key: key.encode(),
)

PREFIXES = ["", "a", "a/", "a/b/", "é/", "none", "a-0"]
DELIMITERS = [None, "/", "-", "/b/"]
PAGES = [1, 7, 1000]


@pytest.fixture(scope="module")
def filled(s3):
    name = f"list-{uuid.uuid4().hex[:20]}"
    s3.create_bucket(Bucket=name)
    for key in KEYS:
        s3.put_object(Bucket=name, Key=key, Body=key.encode())
    return name


def model(prefix="", delimiter=None, after=""):
    """Keys and common prefixes in the order in which they are listed."""
    out = []
    for key in KEYS:
        if not key.startswith(prefix) or key.encode() <= after.encode():
            continue
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            entry = ("prefix", prefix + rest[: rest.index(delimiter) + len(delimiter)])
        else:
            entry = ("key", key)
        if entry not in out[-1:]:
            out.append(entry)
    return out


def entries(page):
    keys = [("key", entry["Key"]) for entry in page.get("Contents", [])]
    prefixes = [("prefix", entry["Prefix"]) for entry in page.get("CommonPrefixes", [])]
    return sorted(keys + prefixes, key=lambda entry: entry[1].encode())


def walk_v2(s3, bucket, size, **options):
    token = {}
    while True:
        page = s3.list_objects_v2(Bucket=bucket, MaxKeys=size, **options, **token)
        found = entries(page)
        assert page["KeyCount"] == len(found) <= size
        yield from found
        if not page["IsTruncated"]:
            return
        assert len(found) == size
        token = {"ContinuationToken": page["NextContinuationToken"]}


def walk_v1(s3, bucket, size, **options):
    while True:
        page = s3.list_objects(Bucket=bucket, MaxKeys=size, **options)
        found = entries(page)
        assert len(found) <= size
        yield from found
        if not page["IsTruncated"]:
            return
        assert len(found) == size
        # S3 names the next marker only when there is a delimiter.
        options["Marker"] = page.get("NextMarker") or found[-1][1]


@pytest.mark.parametrize("walk", [walk_v1, walk_v2], ids=["v1", "v2"])
@pytest.mark.parametrize("size", PAGES)
@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_pages_add_up_to_the_model(s3, filled, walk, size, delimiter):
    prefixes = ["", "a/"] if size == 1 else PREFIXES
    for prefix in prefixes:
        options = {"Prefix": prefix} | ({"Delimiter": delimiter} if delimiter else {})
        assert list(walk(s3, filled, size, **options)) == model(prefix, delimiter), f"prefix {prefix!r}"


@pytest.mark.parametrize("after", ["", "a", "a/b", "a/b/1", "top", "zzz", "🪨🪨", "\U0010ffff"])
def test_start_after(s3, filled, after):
    assert list(walk_v2(s3, filled, 9, StartAfter=after)) == model(after=after)
    assert list(walk_v1(s3, filled, 9, Marker=after)) == model(after=after)


@pytest.mark.parametrize("after", ["", "a", "a/", "a/b", "a/b/1", "b/", "b/a/0", "top", "🪨🪨"])
def test_start_after_with_a_delimiter(s3, filled, after):
    """A common prefix is an entry like a key: listed if it comes after the start itself, not if only its keys do."""
    for prefix in ["", "a/"]:
        for size in [1, 7]:
            options = {"Prefix": prefix, "Delimiter": "/"}
            found = list(walk_v2(s3, filled, size, StartAfter=after, **options))
            expected = [entry for entry in model(prefix, "/") if entry[1].encode() > after.encode()]
            assert found == expected, f"prefix {prefix!r}, {size} at a time"


def test_the_fields_of_an_entry(s3, filled):
    page = s3.list_objects_v2(Bucket=filled, Prefix="top", FetchOwner=True)
    (entry,) = page["Contents"]
    head = s3.head_object(Bucket=filled, Key="top")
    assert entry["Size"] == 3
    assert entry["ETag"] == head["ETag"]
    assert entry["LastModified"].replace(microsecond=0) == head["LastModified"].replace(microsecond=0)
    assert entry["StorageClass"] == "STANDARD"
    assert entry["Owner"]["ID"]
    assert "Owner" not in s3.list_objects_v2(Bucket=filled, Prefix="top")["Contents"][0]


def test_names_are_encoded_when_asked(s3, filled):
    page = s3.list_objects_v2(Bucket=filled, Prefix="a b", EncodingType="url")
    assert page["EncodingType"] == "url"
    assert page["Contents"][0]["Key"] in ("a+b", "a%20b")
    page = s3.list_objects_v2(Bucket=filled, Prefix="é/é/", EncodingType="url")
    assert page["Contents"][0]["Key"] == "%C3%A9/%C3%A9/0"


def test_an_empty_page_is_asked_for(s3, filled):
    page = s3.list_objects_v2(Bucket=filled, MaxKeys=0)
    assert (page["KeyCount"], page["IsTruncated"]) == (0, False)


def test_a_page_has_at_most_a_thousand(s3, bucket):
    for number in range(1005):
        s3.put_object(Bucket=bucket, Key=f"{number:04}", Body=b"")
    first = s3.list_objects_v2(Bucket=bucket, MaxKeys=5000)
    assert (first["KeyCount"], first["IsTruncated"]) == (1000, True)
    rest = s3.list_objects_v2(Bucket=bucket, ContinuationToken=first["NextContinuationToken"])
    assert [entry["Key"] for entry in rest["Contents"]] == [f"{number:04}" for number in range(1000, 1005)]


def test_versions_of_a_bucket_without_versioning(s3, filled):
    found = []
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=filled, PaginationConfig={"PageSize": 50})
    for page in pages:
        found += page.get("Versions", [])
        assert not page.get("DeleteMarkers")
    assert [entry["Key"] for entry in found] == KEYS
    assert all(entry["IsLatest"] and entry["VersionId"] == "null" for entry in found)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("delimiter", [None, "/", "-"])
def test_versions_by_prefix_and_delimiter(s3, filled, prefix, delimiter):
    options = {"Prefix": prefix} | ({"Delimiter": delimiter} if delimiter else {})
    found, marker = [], {}
    while True:
        page = s3.list_object_versions(Bucket=filled, MaxKeys=9, **options, **marker)
        keys = [("key", entry["Key"]) for entry in page.get("Versions", [])]
        prefixes = [("prefix", entry["Prefix"]) for entry in page.get("CommonPrefixes", [])]
        found += sorted(keys + prefixes, key=lambda entry: entry[1].encode())
        if not page["IsTruncated"]:
            break
        assert len(keys) + len(prefixes) == 9
        marker = {"KeyMarker": page["NextKeyMarker"]}
        if version := page.get("NextVersionIdMarker"):
            marker["VersionIdMarker"] = version
    assert found == model(prefix, delimiter)


def test_a_list_follows_every_write(s3, bucket):
    for number in range(20):
        s3.put_object(Bucket=bucket, Key=f"k{number:02}", Body=body(number))
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == number + 1
    for number in range(20):
        s3.delete_object(Bucket=bucket, Key=f"k{number:02}")
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 19 - number
