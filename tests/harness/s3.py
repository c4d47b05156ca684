"""boto3 clients for a site."""

import boto3
import botocore.exceptions
from botocore.config import Config


def client(endpoint, key_id, secret, region="us-east-1", attempts=3, verify=None, **config):
    """A client that shares nothing with other clients: no files, no session."""
    config.setdefault("connect_timeout", 5)
    config.setdefault("read_timeout", 60)
    # Presigned URLs would otherwise get the signature that S3 gave up in 2020.
    config.setdefault("signature_version", "s3v4")
    config.setdefault("s3", {"addressing_style": "path"})
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        region_name=region,
        # The file with the authority to trust; without, those of the system.
        verify=verify,
        config=Config(retries={"total_max_attempts": attempts, "mode": "standard"}, **config),
    )


def of(environment, **options):
    """A client from the variables of `skerry env`."""
    return client(
        options.pop("endpoint", environment["AWS_ENDPOINT_URL"]),
        environment["AWS_ACCESS_KEY_ID"],
        environment["AWS_SECRET_ACCESS_KEY"],
        environment["AWS_REGION"],
        verify=options.pop("verify", environment.get("AWS_CA_BUNDLE")),
        **options,
    )


def refusal(call, *args, **kwargs):
    """S3's code and the HTTP status with which a call is refused."""
    try:
        call(*args, **kwargs)
    except botocore.exceptions.ClientError as error:
        return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    raise AssertionError("the call was not refused")
