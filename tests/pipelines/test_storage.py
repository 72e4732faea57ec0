"""Files by URI, the same on a local disk and on S3: whole or absent, once when asked, never outside their folder."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_core.errors import ConfigError
from pipelines import corpus_sources, storage
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """A folder's URI and the options to reach it."""
    if request.param == "local":
        return str(tmp_path / "new" / "folder"), {}
    bucket: S3Bucket = request.getfixturevalue("s3_bucket")
    return f"{bucket.uri}/new/folder", bucket.delta_options


def test_write_read_and_overwrite(place: tuple[str, dict[str, str]]) -> None:
    folder, options = place
    uri = storage.join_uri(folder, "_run", "a.json")
    assert not storage.exists(uri, options)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(uri, options)
    storage.write_json(uri, {"b": [1, None], "a": "é"}, options)
    assert storage.exists(uri, options)
    assert storage.read_json(uri, options) == {"a": "é", "b": [1, None]}
    storage.write_bytes(uri, b"0123456789", options)
    with storage.open_uri(uri, options) as file:
        file.seek(4)
        assert file.read(3) == b"456"


@pytest.mark.parametrize("uri", ["s3://b/a#1", "s3://b/what?x", "s3://b/50%25off", "/data/50%2foff", "file:///a/%C3"])
def test_a_name_that_delta_reads_as_a_url_is_no_place_for_a_table(uri: str) -> None:
    with pytest.raises(ConfigError, match="which Delta reads as a part of a URL"):
        storage.absolute_uri(uri)


@pytest.mark.parametrize("uri", ["s3://b/100% new/é+", "/data/a#1", "/data/what?x", "/data/100%"])
def test_other_signs_are_plain(uri: str) -> None:
    assert storage.absolute_uri(uri) == uri


@pytest.mark.parametrize("filesystem", [storage.filesystem, corpus_sources.filesystem])
def test_a_store_that_is_not_installed_is_a_wrong_setting(
    filesystem: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(
        ConfigError, match=r"no store for gs://: .*gcsfs.* extra gcs .*pip install -c constraints\.txt -e '\.\[gcs\]'"
    ):
        filesystem("gs://bucket/photos", {})
    with pytest.raises(ConfigError, match=r"no store for nfs9://: Protocol not known: nfs9$"):
        filesystem("nfs9://bucket/photos", {})


def test_a_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert storage.absolute_uri("~/captions") == "/home/somebody/captions"


def test_write_once_keeps_the_first(place: tuple[str, dict[str, str]]) -> None:
    folder, options = place
    uri = storage.join_uri(folder, "plan.json")
    assert storage.write_json_once(uri, {"n": 1}, options) is True
    assert storage.write_json_once(uri, {"n": 2}, options) is False
    assert storage.read_json(uri, options) == {"n": 1}


def test_of_many_writers_at_once_one_wins(tmp_path: Path) -> None:
    uri = str(tmp_path / "once")
    barrier = threading.Barrier(8)
    won: list[int] = []

    def write(number: int) -> None:
        barrier.wait()
        if storage.write_once(uri, bytes([number]) * 1000):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read_bytes(uri) == bytes(won) * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["once"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "file")
    storage.write_bytes(uri, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        storage.write_bytes(uri, b"new")
    assert Path(uri).read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("part", ["../x", "a/../../x", "/x"])
def test_names_that_leave_the_folder_are_refused(part: str) -> None:
    with pytest.raises(ConfigError, match="leaves the folder"):
        storage.join_uri("/data/out", part)


def test_local_uris() -> None:
    assert storage.local_path("file:///data/out") == Path("/data/out")
    assert storage.local_path("out") == Path.cwd() / "out"
    assert storage.is_local("/data") and storage.is_local("file:///data") and not storage.is_local("s3://b/k")
    with pytest.raises(ConfigError, match="not on a local disk"):
        storage.local_path("s3://bucket/out")


def test_both_clients_get_the_same_credentials_from_one_source() -> None:
    environment = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "token",
        "AWS_DEFAULT_REGION": "eu-north-1",
        "HOME": "/root",
    }
    delta = storage.storage_options("s3://b/k", environment)
    assert delta == {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "token",
        "AWS_REGION": "eu-north-1",
        "AWS_ALLOW_HTTP": "true",
    }
    ours = storage.fsspec_options("s3://b/k", delta)
    assert (ours["key"], ours["secret"], ours["token"]) == ("id", "secret", "token")
    assert ours["client_kwargs"] == {"endpoint_url": "http://127.0.0.1:9000", "region_name": "eu-north-1"}
    assert storage.storage_options("/data", environment) == storage.fsspec_options("/data", delta) == {}
    secure = storage.storage_options("s3://b/k", {"AWS_ENDPOINT_URL": "https://store"})
    assert secure == {"AWS_ENDPOINT_URL": "https://store", "AWS_FORCE_CREDENTIAL_LOAD": "true"}
