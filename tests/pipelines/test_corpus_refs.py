"""References in rows: what they may reach, and that nothing else is opened."""

import base64
from pathlib import Path
from typing import Any

import pytest

from pipelines import corpus_sources
from pipelines.corpus_refs import load_image, looks_like_base64, resolve_ref
from pipelines.corpus_settings import CorpusSettings
from pipelines.fragments import CorpusRefused
from tests.pipelines.corpus_cases import image

SETTINGS = CorpusSettings(allowed_prefixes=("s3://other/pictures/",))


def _reason(ref: str, folder: str, settings: CorpusSettings = SETTINGS) -> str:
    with pytest.raises(CorpusRefused) as caught:
        load_image(ref, folder, settings, {}, "row")
    return caught.value.reason


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with a picture, beside a secret that nothing may open."""
    root = tmp_path / "corpus"
    (root / "img").mkdir(parents=True)
    (root / "img/1.jpg").write_bytes(image(1))
    (tmp_path / "secret").write_bytes(b"SECRET")
    (tmp_path / "corpus2").mkdir()
    (tmp_path / "corpus2/2.jpg").write_bytes(b"SECRET")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    return root


@pytest.mark.parametrize("ref", ["img/1.jpg", "./img/../img/1.jpg", "{root}/img/1.jpg"])
def test_paths_below_the_folder_are_read(corpus: Path, ref: str) -> None:
    data, uri = load_image(ref.format(root=corpus), str(corpus), SETTINGS, {}, "row")
    assert (data, uri) == (image(1), str(corpus / "img/1.jpg"))


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ("../secret", "PATH_TRAVERSAL"),
        ("../corpus2/2.jpg", "PATH_TRAVERSAL"),
        ("img/../../secret", "PATH_TRAVERSAL"),
        ("/etc/passwd", "PATH_TRAVERSAL"),
        ("link", "PATH_TRAVERSAL"),
        ("up/secret", "PATH_TRAVERSAL"),
        ("img/1.jpg\x00.png", "PATH_TRAVERSAL"),
        (".", "PATH_TRAVERSAL"),
        ("img", "NOT_FOUND"),
        ("img/2.jpg", "NOT_FOUND"),
        ("img/1.jpg/x", "UNREADABLE"),
        ("a" * 301, "BAD_BASE64"),
        ("x." + "a" * 300, "UNREADABLE"),
        ("\udcff.jpg", "NOT_FOUND"),
        ("", "NULL_FIELD"),
        (" ", "NULL_FIELD"),
        ("file:///etc/passwd", "SCHEME"),
        ("FILE:/etc/passwd", "SCHEME"),
        ("ftp://host/a.jpg", "SCHEME"),
        ("http://169.254.169.254/latest/meta-data", "SCHEME"),
        ("https://user:hunter2@host/a.jpg", "SCHEME"),
        ("gopher://x", "SCHEME"),
        ("s3://bucket/a.jpg", "SCHEME"),
        ("s3:bucket", "SCHEME"),
    ],
)
def test_what_a_local_corpus_may_not_reach(
    corpus: Path, ref: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(corpus_sources, "open", opened.append, raising=False)
    assert _reason(ref, str(corpus)) == reason
    assert opened == []


@pytest.mark.parametrize(
    ("ref", "uri"),
    [
        ("img/1.jpg", "s3://bucket/data/img/1.jpg"),
        ("s3://bucket/elsewhere/1.jpg", "s3://bucket/elsewhere/1.jpg"),
        ("s3://other/pictures/1.jpg", "s3://other/pictures/1.jpg"),
        ("img/./1.jpg", "s3://bucket/data/img/1.jpg"),
    ],
)
def test_what_a_corpus_on_s3_may_reach(ref: str, uri: str) -> None:
    assert resolve_ref(ref, "s3://bucket/data", SETTINGS) == uri


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ("../up.jpg", "PATH_TRAVERSAL"),
        ("a/../../up.jpg", "PATH_TRAVERSAL"),
        ("/abs.jpg", "PATH_TRAVERSAL"),
        ("s3://bucket/data/../../x", "PATH_TRAVERSAL"),
        ("s3://other/pictures2/1.jpg", "SCHEME"),
        ("s3://other/1.jpg", "SCHEME"),
        ("s3://bucket2/data/1.jpg", "SCHEME"),
        ("gs://bucket/data/1.jpg", "SCHEME"),
        ("s3://key:secret@bucket/1.jpg", "SCHEME"),
        ("file:///etc/passwd", "SCHEME"),
    ],
)
def test_what_a_corpus_on_s3_may_not_reach(ref: str, reason: str) -> None:
    assert _reason(ref, "s3://bucket/data") == reason


@pytest.mark.parametrize("ref", ["https://user:hunter2@host/a", "s3://user:hunter2@bucket/a", "ftp://user:hunter2@h/a"])
def test_credentials_are_not_repeated(ref: str) -> None:
    with pytest.raises(CorpusRefused) as caught:
        resolve_ref(ref, "s3://bucket/data", SETTINGS)
    assert "hunter2" not in str(caught.value)


def test_image_root_goes_before_the_folder(corpus: Path, tmp_path: Path) -> None:
    settings = CorpusSettings(image_root=str(corpus / "img"))
    assert load_image("1.jpg", str(tmp_path), settings, {}, "row")[0] == image(1)
    assert _reason("../1.jpg", str(tmp_path), settings) == "PATH_TRAVERSAL"


def test_a_root_for_images_is_the_driver_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "1.jpg").write_bytes(image(1))
    settings = CorpusSettings(image_root="img/", allowed_prefixes=("s3://other/x/",))
    assert settings.places == (str(tmp_path / "img"), "s3://other/x/")
    monkeypatch.chdir("/")
    assert load_image("1.jpg", "/nowhere", settings, {}, "row") == (image(1), str(tmp_path / "img" / "1.jpg"))


def _inline(ref: str, **settings: Any) -> tuple[bytes, str]:
    return load_image(ref, "/nowhere", CorpusSettings(**settings), {}, "row")


def test_images_within_text() -> None:
    data = bytes(range(256)) * 3
    plain = base64.b64encode(data).decode()
    wrapped = "\n".join(plain[i : i + 76] for i in range(0, len(plain), 76))
    for ref in (f"data:image/png;base64,{plain}", plain, wrapped, base64.urlsafe_b64encode(data).decode()):
        assert _inline(ref) == (data, "row")
    assert not looks_like_base64("a/" * 100 + "1.jpg")


@pytest.mark.parametrize("ref", ["data:image/png;base64,A", "data:;base64,AA*A", "data:image/png,AAAA", "data:x"])
def test_bad_base64(ref: str) -> None:
    assert _reason(ref, "/nowhere") == "BAD_BASE64"


def test_large_base64_is_not_decoded() -> None:
    with pytest.raises(CorpusRefused, match="TOO_LARGE"):
        _inline("data:;base64," + "A" * 1000, max_file_bytes=100)
    with pytest.raises(CorpusRefused, match="TOO_LARGE"):
        _inline("data:;base64," + base64.b64encode(b"x" * 101).decode(), max_file_bytes=100)
    assert _inline("data:;base64," + base64.b64encode(b"x" * 100).decode(), max_file_bytes=100)[0] == b"x" * 100
