"""Requests that must be refused, each with S3's own code: by hand, since clients don't send them."""

import datetime

import pytest
import requests
from botocore.auth import S3SigV4Auth, UNSIGNED_PAYLOAD
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from harness import s3 as clients
from harness.s3 import refusal

TIMEOUT = 30


@pytest.fixture
def send(environment):
    """Sends a signed request that the test may have changed first."""

    def send(method, path, data=b"", headers=None, before=None, after=None):
        request = AWSRequest(method, environment["AWS_ENDPOINT_URL"] + path, headers=headers or {}, data=data)
        secret = Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
        signer = S3SigV4Auth(secret, "s3", environment["AWS_REGION"])
        if before:
            before(request, signer)
        signer.add_auth(request)
        prepared = request.prepare()
        if after:
            after(prepared)
        return requests.request(
            prepared.method, prepared.url, data=prepared.body, headers=dict(prepared.headers), timeout=TIMEOUT
        )

    return send


def answer(response):
    code = response.text.partition("<Code>")[2].partition("</Code>")[0]
    return code, response.status_code


def test_the_way_of_sending_works(send, bucket):
    assert send("PUT", f"/{bucket}/k", b"hello").status_code == 200
    got = send("GET", f"/{bucket}/k")
    assert (got.status_code, got.content) == (200, b"hello")
    assert got.headers["x-amz-request-id"]


def test_a_wrong_secret(environment, bucket):
    wrong = clients.of(environment | {"AWS_SECRET_ACCESS_KEY": "x" * 40})
    assert refusal(wrong.list_objects_v2, Bucket=bucket) == ("SignatureDoesNotMatch", 403)
    assert refusal(wrong.put_object, Bucket=bucket, Key="k", Body=b"x") == ("SignatureDoesNotMatch", 403)


def test_an_unknown_key_id(environment):
    wrong = clients.of(environment | {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"})
    assert refusal(wrong.list_buckets) == ("InvalidAccessKeyId", 403)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_nobody(environment, bucket, method):
    response = requests.request(method, f"{environment['AWS_ENDPOINT_URL']}/{bucket}/k", timeout=TIMEOUT)
    assert answer(response) == ("AccessDenied", 403)


def test_nobody_may_list(environment, bucket):
    for path in ["/", f"/{bucket}", f"/{bucket}?list-type=2"]:
        assert answer(requests.get(environment["AWS_ENDPOINT_URL"] + path, timeout=TIMEOUT)) == ("AccessDenied", 403)


@pytest.mark.parametrize("minutes", [-30, 30])
def test_a_clock_that_is_wrong(environment, bucket, monkeypatch, minutes):
    import botocore.auth

    shift = datetime.timedelta(minutes=minutes)
    real = botocore.auth.get_current_datetime
    # One attempt: boto3 would learn the right time from the answer and try again.
    client = clients.of(environment, attempts=1)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *args, **kw: real(*args, **kw) + shift)
    assert refusal(client.list_objects_v2, Bucket=bucket) == ("RequestTimeTooSkewed", 403)


def test_a_body_that_was_changed(send, bucket):
    def change(prepared):
        prepared.body = b"evil!"

    response = send("PUT", f"/{bucket}/k", b"hello", after=change)
    assert answer(response) == ("XAmzContentSHA256Mismatch", 400)
    assert send("GET", f"/{bucket}/k").status_code == 404


def test_a_header_that_was_changed(send, bucket):
    def change(prepared):
        prepared.headers["x-amz-meta-a"] = "2"

    response = send("PUT", f"/{bucket}/k", b"x", headers={"x-amz-meta-a": "1"}, after=change)
    assert answer(response) == ("SignatureDoesNotMatch", 403)


def test_a_header_that_was_slipped_in(send, bucket):
    def slip_in(prepared):
        prepared.headers["x-amz-meta-a"] = "1"

    assert send("PUT", f"/{bucket}/k", b"x", after=slip_in).status_code == 403


def test_an_unsigned_body_is_taken(send, bucket):
    def unsigned(request, signer):
        request.headers["x-amz-content-sha256"] = UNSIGNED_PAYLOAD
        signer.payload = lambda _request: UNSIGNED_PAYLOAD

    assert send("PUT", f"/{bucket}/k", b"hello", before=unsigned).status_code == 200
    assert send("GET", f"/{bucket}/k").content == b"hello"


def test_another_region(environment, bucket):
    wrong = clients.of(environment | {"AWS_REGION": "somewhere-else-9"}, attempts=1)
    assert refusal(wrong.list_objects_v2, Bucket=bucket)[0] == "AuthorizationHeaderMalformed"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("AWS4-HMAC-SHA256", "AuthorizationHeaderMalformed"),
        ("AWS4-HMAC-SHA256 Credential=x", "AuthorizationHeaderMalformed"),
        ("Basic eDp5", "InvalidArgument"),
        ("nonsense", "InvalidArgument"),
    ],
    ids=["only the mechanism", "half a credential", "basic", "nonsense"],
)
def test_broken_authorization(environment, bucket, value, code):
    headers = {"Authorization": value}
    response = requests.get(f"{environment['AWS_ENDPOINT_URL']}/{bucket}", headers=headers, timeout=TIMEOUT)
    assert answer(response) == (code, 400), response.text


def test_the_old_signature_is_refused(environment, bucket):
    old = clients.of(environment, signature_version="s3")
    assert refusal(old.list_objects_v2, Bucket=bucket) == ("InvalidRequest", 400)


def test_broken_xml(send, bucket):
    import base64
    import hashlib

    for data in [b"<Delete><Object>", b"", b"<Other/>"]:
        md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
        response = send("POST", f"/{bucket}?delete", data, headers={"content-md5": md5})
        assert answer(response)[0] in ("MalformedXML", "MissingRequestBodyError"), (data, response.text)


@pytest.mark.parametrize("query", ["max-keys=-1", "max-keys=many"])
def test_broken_queries(send, bucket, query):
    assert answer(send("GET", f"/{bucket}?list-type=2&{query}")) == ("InvalidArgument", 400)


def test_a_token_that_nobody_gave(send, bucket):
    response = send("GET", f"/{bucket}?list-type=2&continuation-token=made-up")
    assert answer(response) == ("InvalidArgument", 400)


@pytest.mark.parametrize(
    ("query", "xml"),
    [
        ("website", "<WebsiteConfiguration/>"),
        ("logging", "<BucketLoggingStatus/>"),
        (
            "replication",
            "<ReplicationConfiguration><Role>r</Role><Rule><Status>Enabled</Status>"
            "<Destination><Bucket>b</Bucket></Destination></Rule></ReplicationConfiguration>",
        ),
    ],
    ids=["website", "logging", "replication"],
)
def test_an_unknown_operation_is_said_to_be_unknown(send, bucket, query, xml):
    response = send("PUT", f"/{bucket}?{query}", xml.encode())
    assert answer(response) == ("NotImplemented", 501), response.text


def test_headers_without_end(send, bucket):
    response = send("PUT", f"/{bucket}/k", b"x", headers={"x-amz-meta-a": "x" * 200_000})
    assert 400 <= response.status_code < 500


def test_a_body_over_the_bound(send, bucket):
    """Announced, not sent: the server must refuse by the length that is named."""
    import socket
    from urllib.parse import urlsplit

    def unsigned(request, signer):
        request.headers["x-amz-content-sha256"] = UNSIGNED_PAYLOAD
        signer.payload = lambda _request: UNSIGNED_PAYLOAD

    prepared = {}

    class Stop(Exception):
        pass

    def take(request):
        prepared["request"] = request
        raise Stop

    with pytest.raises(Stop):
        send("PUT", f"/{bucket}/k", before=unsigned, after=take)
    request = prepared["request"]
    at = urlsplit(request.url)
    lines = [f"PUT {at.path} HTTP/1.1", f"Host: {at.netloc}", f"Content-Length: {6 << 30}"]
    lines += [f"{name}: {_text(value)}" for name, value in request.headers.items() if name.lower() != "content-length"]
    with socket.create_connection((at.hostname, at.port), timeout=TIMEOUT) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        reply = connection.recv(65536).decode(errors="replace")
        while "</Error>" not in reply and (more := connection.recv(65536)):
            reply += more.decode(errors="replace")
    assert reply.startswith("HTTP/1.1 400") and "<Code>EntityTooLarge</Code>" in reply, reply


def _text(value):
    return value.decode() if isinstance(value, bytes) else value
