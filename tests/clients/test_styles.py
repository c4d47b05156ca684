"""The bucket in the host name, and requests that reach any node."""

import socket
from urllib.parse import urlsplit

import pytest
import requests
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from harness import s3 as clients
from harness.bodies import MIB, body


@pytest.mark.parametrize("key", ["plain", "a//b c"])
def test_the_bucket_in_the_host_name(environment, s3, bucket, key):
    """`BUCKET.localhost` need not resolve: the request goes to the address and names the host."""
    s3.put_object(Bucket=bucket, Key=key, Body=b"hello")
    at = environment["AWS_ENDPOINT_URL"]
    host = f"{bucket}.localhost:{urlsplit(at).port}"
    request = AWSRequest("GET", f"{at}/{requests.utils.quote(key)}", headers={"Host": host})
    secret = Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    S3SigV4Auth(secret, "s3", environment["AWS_REGION"]).add_auth(request)
    got = requests.get(request.url, headers=dict(request.headers), timeout=30)
    assert (got.status_code, got.content) == (200, b"hello"), got.text


def test_boto3_with_the_bucket_in_the_host_name(environment, bucket, monkeypatch):
    """boto3 chooses the host itself; below `localhost` every name is this machine, known to the resolver or not."""
    real = socket.getaddrinfo
    asked = []

    def resolve(host, *args, **options):
        if str(host).endswith(".localhost"):
            asked.append(host)
            host = "127.0.0.1"
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    endpoint = f"http://localhost:{urlsplit(environment['AWS_ENDPOINT_URL']).port}"
    client = clients.of(environment, endpoint=endpoint, s3={"addressing_style": "virtual"})
    client.put_object(Bucket=bucket, Key="a//b ü", Body=b"hello")
    assert client.get_object(Bucket=bucket, Key="a//b ü")["Body"].read() == b"hello"
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a//b ü"]
    client.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "a//b ü"})
    names = [{"Key": key} for key in ["a//b ü", "copy"]]
    assert len(client.delete_objects(Bucket=bucket, Delete={"Objects": names})["Deleted"]) == 2
    url = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "signed"})
    assert requests.put(url, data=b"x", timeout=30).status_code == 200
    assert client.head_object(Bucket=bucket, Key="signed")["ContentLength"] == 1
    made = f"{bucket}-2"
    client.create_bucket(Bucket=made)
    client.delete_bucket(Bucket=made)
    assert set(asked) == {f"{bucket}.localhost", f"{made}.localhost"}


def test_every_node_answers_for_every_object(site, environment, bucket):
    each = [clients.of(environment, endpoint=endpoint) for endpoint in site.endpoints()]
    assert len(each) == site.nodes
    for number, writer in enumerate(each):
        for size in [10, 5 * MIB]:
            key = f"{number}-{size}"
            writer.put_object(Bucket=bucket, Key=key, Body=body(size, number))
            for reader in each:
                assert reader.get_object(Bucket=bucket, Key=key)["Body"].read() == body(size, number)
                keys = [entry["Key"] for entry in reader.list_objects_v2(Bucket=bucket)["Contents"]]
                assert key in keys
