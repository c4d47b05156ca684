"""The bucket in the host name, and requests that reach any node."""

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
