"""The store that fails fails as its seed says, and a client that tries again gets through."""

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.fault_proxy import KINDS, FaultProxy, faulty
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]


def client(proxy: FaultProxy, attempts: int) -> "boto3.client":
    return boto3.client(
        "s3",
        endpoint_url=proxy.endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(retries={"total_max_attempts": attempts, "mode": "standard"}),
    )


def test_who_tries_again_gets_through(s3_bucket: S3Bucket) -> None:
    kinds = ("503", "dropped before", "dropped after")
    with faulty(s3_bucket.endpoint, seed=3, share=0.3, kinds=kinds) as proxy:
        store = client(proxy, 10)
        for number in range(12):
            store.put_object(Bucket=s3_bucket.name, Key=f"k/{number}", Body=b"x" * number)
        found = store.list_objects_v2(Bucket=s3_bucket.name, Prefix="k/")["Contents"]
        assert sorted(one["Size"] for one in found) == list(range(12))
        assert store.head_object(Bucket=s3_bucket.name, Key="k/7")["ContentLength"] == 7
        assert store.get_object(Bucket=s3_bucket.name, Key="k/11")["Body"].read() == b"x" * 11
        assert sum(proxy.faults.values()) >= 3
        assert set(proxy.faults) <= set(kinds)


def test_a_write_whose_answer_is_lost_has_happened(s3_bucket: S3Bucket) -> None:
    for kind, there in (("dropped after", True), ("dropped before", False), ("500", False)):
        with faulty(s3_bucket.endpoint, seed=0, share=1.0, kinds=(kind,)) as proxy:
            with pytest.raises((BotoCoreError, ClientError)):
                client(proxy, 1).put_object(Bucket=s3_bucket.name, Key=kind, Body=b"x")
            assert proxy.faults == {kind: 1}
        listed = s3_bucket.client().list_objects_v2(Bucket=s3_bucket.name, Prefix=kind)
        assert (listed["KeyCount"] == 1) is there


def test_the_same_seed_gives_the_same_faults() -> None:
    def drawn(seed: int) -> list[str | None]:
        with faulty("http://127.0.0.1:1", seed=seed, share=0.4) as proxy:
            return [proxy.draw() for _ in range(40)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert {*KINDS, None} == set(drawn(1))
