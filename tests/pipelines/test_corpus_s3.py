"""Every form of corpus from S3: the same rows as from the disk, no secret in a plan, no read of what has changed."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_core.errors import ConfigError
from pipelines.corpus import plan_corpus, read_fragment
from pipelines.corpus_settings import CorpusSettings
from pipelines.fragments import InputChanged
from tests.pipelines.corpus_cases import image, member, read_all, tar_bytes
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]


@pytest.fixture
def options(s3_bucket: S3Bucket) -> dict[str, Any]:
    """How fsspec reaches the bucket."""
    return s3_bucket.fsspec_options


def test_a_prefix_of_images(s3_bucket: S3Bucket, options: dict[str, Any]) -> None:
    for number in range(23):
        s3_bucket.put(f"photos/{number % 3}/{number:02d}.jpg", image(number))
    s3_bucket.put("photos/0/00.txt", b"a caption")
    s3_bucket.put("photos/0/.hidden.jpg", b"x")
    s3_bucket.put("photos/out/_delta_log/0.json", b"{}")
    s3_bucket.put("photos/out/a.parquet", b"x")
    s3_bucket.put("photos2/x.jpg", b"neighbour")
    rows = read_all(f"{s3_bucket.uri}/photos", options=options, settings=CorpusSettings(read_threads=4))
    expected = sorted(range(23), key=lambda number: (number % 3, number))
    assert [row.images for row in rows] == [(image(number),) for number in expected]
    assert (rows[0].uri, rows[0].text) == (f"{s3_bucket.uri}/photos/0/00.jpg", "a caption")
    some = read_all(f"{s3_bucket.uri}/photos/1/*.jpg", f"{s3_bucket.uri}/photos2/x.jpg", options=options)
    assert [row.images[0] for row in some] == [*(image(number) for number in range(1, 23, 3)), b"neighbour"]


def test_markers_of_folders_are_no_rows(s3_bucket: S3Bucket, options: dict[str, Any]) -> None:
    for key in ("in/", "in/sub/", "in/sub/deeper/"):
        s3_bucket.put(key, b"")
    s3_bucket.put("in/sub/a.jpg", image(3))
    rows = read_all(f"{s3_bucket.uri}/in/", options=options)
    assert [(row.uri, row.images) for row in rows] == [(f"{s3_bucket.uri}/in/sub/a.jpg", (image(3),))]


def test_globs_match_folders_and_a_name_goes_before_a_glob(s3_bucket: S3Bucket, options: dict[str, Any]) -> None:
    keys = ("part-0/a.jpg", "part-0/sub/b.jpg", "part-1/c.jpg", "part-2.jpg", "set[1]/d.jpg", "set1/e.jpg", "f[1].jpg")
    for number, key in enumerate((*keys, "_temporary/g.jpg", "part-3/_delta_log/0.json", "part-3/h.parquet")):
        s3_bucket.put(key, image(number))
    found = {
        pattern: [
            row.uri.removeprefix(f"{s3_bucket.uri}/") for row in read_all(f"{s3_bucket.uri}/{pattern}", options=options)
        ]
        for pattern in ("part-*", "part-?", "*-0/*", "set[1]", "f[1].jpg", "part-1*/**")
    }
    assert found == {
        "part-*": ["part-0/a.jpg", "part-0/sub/b.jpg", "part-1/c.jpg", "part-2.jpg"],
        "part-?": ["part-0/a.jpg", "part-0/sub/b.jpg", "part-1/c.jpg"],
        "*-0/*": ["part-0/a.jpg", "part-0/sub/b.jpg"],
        "set[1]": ["set[1]/d.jpg"],
        "f[1].jpg": ["f[1].jpg"],
        "part-1*/**": ["part-1/c.jpg"],
    }


def test_plans_hold_no_secret_and_the_etag(s3_bucket: S3Bucket, options: dict[str, Any]) -> None:
    s3_bucket.put("a/1.jpg", b"one")
    secret = {**options, "key": "AKIA-CANARY", "secret": "hunter2-canary"}
    plan = plan_corpus([f"{s3_bucket.uri}/a"], storage_options=secret)
    text = json.dumps([fragment.to_json() for fragment in plan])
    assert "canary" not in text.lower()
    # The md5 of b"one", which S3 gives as ETag of a simple upload.
    assert plan[0].rows[0].objects[0].version == "f97c5d29941bfb1b2fdab0874906ab82"


def test_changed_objects_stop_and_vanished_ones_are_rows(s3_bucket: S3Bucket, options: dict[str, Any]) -> None:
    for name in ("1", "2"):
        s3_bucket.put(f"a/{name}.jpg", b"same size")
    (fragment,) = plan_corpus([f"{s3_bucket.uri}/a"], storage_options=options)
    s3_bucket.client().delete_object(Bucket=s3_bucket.name, Key="a/1.jpg")
    assert [row.error for row in read_fragment(fragment, storage_options=options)] == ["NOT_FOUND", None]
    s3_bucket.put("a/2.jpg", b"size same")
    with pytest.raises(InputChanged, match="changed since"):
        list(read_fragment(fragment, storage_options=options))


def test_containers_and_the_images_they_point_to(s3_bucket: S3Bucket, options: dict[str, Any]) -> None:
    s3_bucket.put("data/img/1.jpg", image(1))
    s3_bucket.put("elsewhere/2.jpg", image(2))
    records = [
        {"image": "img/1.jpg"},
        {"image": f"{s3_bucket.uri}/elsewhere/2.jpg"},
        {"image": "../elsewhere/2.jpg"},
        {"image": "img/3.jpg"},
        {"image": "s3://other-bucket/1.jpg"},
        {"image": "/etc/passwd"},
    ]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), stream)
    s3_bucket.put("data/a.parquet", stream.getvalue())
    s3_bucket.put("data/b.jsonl", "\n".join(map(json.dumps, records)).encode())
    s3_bucket.put("data/c.json", json.dumps(records).encode())
    s3_bucket.put("data/d.tar", tar_bytes([member(f"{i}.jpg", image(i)) for i in range(30)]))
    for name in ("a.parquet", "b.jsonl", "c.json"):
        rows = read_all(f"{s3_bucket.uri}/data/{name}", options=options)
        assert [row.images for row in rows[:2]] == [(image(1),), (image(2),)], name
        assert [row.error for row in rows[2:]] == ["PATH_TRAVERSAL", "NOT_FOUND", "SCHEME", "PATH_TRAVERSAL"], name
    rows = read_all(f"{s3_bucket.uri}/data/d.tar", options=options, settings=CorpusSettings(rows_per_fragment=7))
    assert [row.images for row in rows] == [(image(i),) for i in range(30)]
    assert rows[29].uri == f"{s3_bucket.uri}/data/d.tar#29"


def test_many_containers_keep_their_order(s3_bucket: S3Bucket, options: dict[str, Any]) -> None:
    for number in range(12):
        s3_bucket.put(f"t/{number:02d}.tar", tar_bytes([member("k.jpg", image(number))]))
    rows = read_all(f"{s3_bucket.uri}/t", options=options)
    assert [row.images for row in rows] == [(image(number),) for number in range(12)]
    assert len(read_all(f"{s3_bucket.uri}/t", options=options, limit=5)) == 5


def test_nothing_there_is_said_on_the_driver(s3_bucket: S3Bucket, options: dict[str, Any]) -> None:
    s3_bucket.put("empty/", b"")
    for nothing in ("nope", "nope*", "empty"):
        with pytest.raises(ConfigError, match="nothing there"):
            plan_corpus([f"{s3_bucket.uri}/{nothing}"], storage_options=options)
    for unlisted in ("s3://no-such-bucket-of-ours/in", "s3://"):
        with pytest.raises(ConfigError, match=f"input '{unlisted}' cannot be listed"):
            plan_corpus([unlisted], storage_options=options)
    s3_bucket.put("t/_delta_log/0.json", b"{}")
    with pytest.raises(ConfigError, match="Delta table"):
        plan_corpus([f"{s3_bucket.uri}/t"], storage_options=options)
