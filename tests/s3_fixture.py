"""A private S3 for tests: moto's server on a free port, with one empty bucket for each test that asks.

Import `s3_server` and `s3_bucket` into a test module (both names) and ask for `s3_bucket`.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

_numbers = itertools.count()


@functools.cache
def _client(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


@dataclass(frozen=True)
class S3Bucket:
    """Where a test may write."""

    name: str
    """The bucket's name; `uri` with the scheme."""
    endpoint: str
    """http://127.0.0.1:port of the server."""

    @property
    def uri(self) -> str:
        """`s3://name`, without a slash at the end."""
        return f"s3://{self.name}"

    @property
    def fsspec_options(self) -> dict[str, Any]:
        """`storage_options` for fsspec and s3fs."""
        return {"key": "testing", "secret": "testing", "client_kwargs": {"endpoint_url": self.endpoint}}

    @property
    def delta_options(self) -> dict[str, str]:
        """`storage_options` for deltalake."""
        return {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
        }

    def client(self) -> Any:
        """A boto3 client of the server."""
        return _client(self.endpoint)

    def put(self, key: str, body: bytes) -> str:
        """Store an object and return its uri."""
        self.client().put_object(Bucket=self.name, Key=key, Body=body)
        return f"{self.uri}/{key}"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """The address of a moto server that lives as long as the test module."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server: str) -> S3Bucket:
    """A new, empty bucket."""
    bucket = S3Bucket(name=f"tessera-test-{next(_numbers)}", endpoint=s3_server)
    bucket.client().create_bucket(Bucket=bucket.name)
    return bucket
