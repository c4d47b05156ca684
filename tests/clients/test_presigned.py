"""URLs that carry their own signature."""

import requests
from botocore.exceptions import ClientError

from harness import s3 as clients

TIMEOUT = 30


def sign(s3, operation, seconds=300, **params):
    return s3.generate_presigned_url(operation, Params=params, ExpiresIn=seconds)


def code(response):
    return response.text.partition("<Code>")[2].partition("</Code>")[0]


def test_put_and_get(s3, bucket):
    key = "a b/ü+%🪨"
    put = requests.put(sign(s3, "put_object", Bucket=bucket, Key=key), data=b"hello", timeout=TIMEOUT)
    assert put.status_code == 200, put.text
    got = requests.get(sign(s3, "get_object", Bucket=bucket, Key=key), timeout=TIMEOUT)
    assert (got.status_code, got.content) == (200, b"hello")
    head = requests.head(sign(s3, "head_object", Bucket=bucket, Key=key), timeout=TIMEOUT)
    assert head.headers["content-length"] == "5"
    gone = requests.delete(sign(s3, "delete_object", Bucket=bucket, Key=key), timeout=TIMEOUT)
    assert gone.status_code == 204


def test_a_range_of_a_presigned_get(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    url = sign(s3, "get_object", Bucket=bucket, Key="k")
    got = requests.get(url, headers={"Range": "bytes=2-4"}, timeout=TIMEOUT)
    assert (got.status_code, got.content) == (206, b"234")


def test_an_expired_url(environment, bucket, monkeypatch):
    url = signed_in_the_past(environment, monkeypatch, minutes=10, seconds=60, Bucket=bucket, Key="k")
    response = requests.get(url, timeout=TIMEOUT)
    assert (response.status_code, code(response)) == (403, "AccessDenied")
    assert "expired" in response.text.lower()


def test_a_url_that_is_still_good(environment, s3, bucket, monkeypatch):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    # Older than the skew that a signed request may have; a URL lives as long as it says.
    url = signed_in_the_past(environment, monkeypatch, minutes=60, seconds=7200, Bucket=bucket, Key="k")
    assert requests.get(url, timeout=TIMEOUT).status_code == 200


def test_a_changed_url(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    url = sign(s3, "get_object", Bucket=bucket, Key="k")
    response = requests.get(url.replace("/k?", "/other?"), timeout=TIMEOUT)
    assert (response.status_code, code(response)) == (403, "SignatureDoesNotMatch")
    response = requests.delete(url, timeout=TIMEOUT)
    assert (response.status_code, code(response)) == (403, "SignatureDoesNotMatch")


def test_a_url_may_live_a_week_at_most(s3, bucket):
    url = sign(s3, "get_object", seconds=604_801, Bucket=bucket, Key="k")
    response = requests.get(url, timeout=TIMEOUT)
    assert (response.status_code, code(response)) == (400, "AuthorizationQueryParametersError")


def signed_in_the_past(environment, monkeypatch, minutes, seconds, **params):
    import datetime

    import botocore.auth

    shift = datetime.timedelta(minutes=minutes)
    real = botocore.auth.get_current_datetime
    with monkeypatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda *args, **kw: real(*args, **kw) - shift)
        return sign(clients.of(environment), "get_object", seconds, **params)


def test_a_url_of_an_unknown_key(environment, bucket):
    stranger = clients.of(environment | {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"})
    response = requests.get(sign(stranger, "get_object", Bucket=bucket, Key="k"), timeout=TIMEOUT)
    assert (response.status_code, code(response)) == (403, "InvalidAccessKeyId")
    try:
        stranger.get_object(Bucket=bucket, Key="k")
        raise AssertionError("a stranger was served")
    except ClientError as error:
        assert error.response["Error"]["Code"] == "InvalidAccessKeyId"
