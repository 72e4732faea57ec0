"""Folders of images: what is a row, what lies beside one, what is not to be followed or read."""

import os
from pathlib import Path
from typing import Any

import pytest

from llava_core.errors import ConfigError
from pipelines import corpus_sources
from pipelines.corpus import plan_corpus, read_fragment, rows_table
from pipelines.corpus_settings import CorpusSettings
from pipelines.fragments import InputChanged
from schemas.corpus import CORPUS
from tests.pipelines.corpus_cases import image, member, read_all, write_tar


def _write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_every_file_is_a_row_but_side_files_and_hidden_ones(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "b/2.jpg": image(2),
            "a.png": image(1),
            "b/c/3": image(3),
            "not_an_image.exe": image(4),
            "LICENSE": b"x",
            "b/readme.MD": b"x",
            "meta.csv": b"x",
            ".hidden.jpg": b"x",
            "b/.cache/4.jpg": b"x",
            "_SUCCESS": b"",
        },
    )
    rows = read_all(root)
    assert [(Path(row.uri).relative_to(root).as_posix(), row.images) for row in rows] == [
        ("a.png", (image(1),)),
        ("b/2.jpg", (image(2),)),
        ("b/c/3", (image(3),)),
        ("not_an_image.exe", (image(4),)),
    ]
    assert all(row.image_uris == (row.uri,) and row.error is None for row in rows)


def test_captions_and_metadata_lie_beside(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "1.jpg": image(1),
            "1.txt": b" a red boat\r\n",
            "2.jpg": image(2),
            "2.json": b'{"caption": "cafe\xcc\x81", "width": 7, "tags": ["x"]}',
            "3.jpg": image(3),
            "3.txt": b"from txt",
            "3.json": b'{"caption": "from json"}',
            "4.jpg": image(4),
            "orphan.txt": b"no image",
        },
    )
    found = [(row.text, row.metadata) for row in read_all(root)]
    assert found == [
        ("a red boat", "{}"),
        ("café", '{"width":7}'),
        ("from txt", '{"caption":"from json"}'),
        (None, "{}"),
    ]
    plain = read_all(root, settings=CorpusSettings(sidecars=False))
    assert [row.text for row in plain] == [None] * 4
    assert [row.images for row in plain] == [(image(i),) for i in (1, 2, 3, 4)]


def test_a_bad_side_file_rejects_its_own_row_only(tmp_path: Path) -> None:
    files = {f"{i}.jpg": image(i) for i in range(4)}
    files |= {"1.txt": b"\xff\xfe", "2.json": b"[1]", "3.json": b'{"a": NaN}'}
    assert [row.error for row in read_all(_write(tmp_path, files))] == [None, "BAD_ENCODING", "BAD_JSON", "BAD_JSON"]


def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"SECRET")
    root = _write(tmp_path / "root", {"real/1.jpg": image(1)})
    (root / "inside.jpg").symlink_to(root / "real/1.jpg")
    (root / "outside.jpg").symlink_to(secret)
    (root / "outside_folder").symlink_to(tmp_path)
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "nowhere.jpg").symlink_to(root / "gone.jpg")
    rows = {Path(row.uri).name: row for row in read_all(root)}
    assert {name: row.error for name, row in rows.items()} == {
        "1.jpg": None,
        "inside.jpg": None,
        "loop.jpg": "NOT_FOUND",
        "nowhere.jpg": "NOT_FOUND",
        "outside.jpg": "PATH_TRAVERSAL",
        "outside_folder": "PATH_TRAVERSAL",
    }
    assert rows["inside.jpg"].images == (image(1),)
    assert not any(b"SECRET" in data for row in rows.values() for data in row.images)


def test_a_folder_reached_by_a_link_or_a_sibling_with_the_same_prefix(tmp_path: Path) -> None:
    root = _write(tmp_path / "root", {"1.jpg": image(1)})
    _write(tmp_path / "root2", {"2.jpg": b"SECRET"})
    (root / "2.jpg").symlink_to(tmp_path / "root2/2.jpg")
    (tmp_path / "alias").symlink_to(root)
    assert [row.error for row in read_all(tmp_path / "alias")] == [None, "PATH_TRAVERSAL"]


def test_pipes_are_never_opened(tmp_path: Path) -> None:
    root = _write(tmp_path, {"1.jpg": image(1)})
    os.mkfifo(root / "pipe.jpg")
    assert [Path(row.uri).name for row in read_all(root)] == ["1.jpg"]


def test_a_name_that_is_not_utf8_is_one_rejected_row(tmp_path: Path) -> None:
    _write(tmp_path, {"ok.jpg": image(1)})
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as handle:
        handle.write(image(2))
    rows = read_all(tmp_path)
    assert [(Path(row.uri).name, row.error) for row in rows] == [("\\xff.jpg", "BAD_ENCODING"), ("ok.jpg", None)]


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    root = _write(tmp_path, {"small.jpg": b"x" * 10})
    with open(root / "huge.jpg", "wb") as handle:
        handle.truncate(50 * 2**20 + 1)
    with open(root / "limit.jpg", "wb") as handle:
        handle.truncate(50 * 2**20)
    assert [(Path(row.uri).name, row.error) for row in read_all(root)] == [
        ("huge.jpg", "TOO_LARGE"),
        ("limit.jpg", None),
        ("small.jpg", None),
    ]


def test_a_file_that_vanishes_is_a_row_and_one_that_changes_stops(tmp_path: Path) -> None:
    root = _write(tmp_path, {"1.jpg": image(1), "2.jpg": image(2)})
    (fragment,) = plan_corpus([str(root)])
    (root / "1.jpg").unlink()
    assert [row.error for row in read_fragment(fragment)] == ["NOT_FOUND", None]
    status = (root / "2.jpg").stat()
    (root / "2.jpg").write_bytes(image(2)[::-1])
    os.utime(root / "2.jpg", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(InputChanged, match="changed since the plan"):
        list(read_fragment(fragment))
    os.utime(root / "2.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [row.error for row in read_fragment(fragment)] == ["NOT_FOUND", None]
    (root / "2.jpg").write_bytes(image(2) + b"x")
    os.utime(root / "2.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(InputChanged, match="bytes"):
        list(read_fragment(fragment))


def test_a_file_without_permission_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _write(tmp_path, {"1.jpg": image(1), "2.jpg": image(2)})

    def refuse(path: str, *args: object, **kwargs: object) -> object:
        if path.endswith("1.jpg"):
            raise PermissionError(13, "Permission denied")
        return open(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(corpus_sources, "open", refuse, raising=False)
    assert [row.error for row in read_all(root)] == ["UNREADABLE", None]


def test_a_folder_without_permission_is_a_row_and_as_input_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _write(tmp_path, {"a/1.jpg": image(1), "b/2.jpg": image(2), "c/3.jpg": image(3), "lost+found/4.jpg": b""})
    scan, stat = os.scandir, os.lstat

    def refuse(inner: Any, forbidden: str) -> Any:
        def call(path: str) -> Any:
            if path.endswith(forbidden):
                raise PermissionError(13, "Permission denied")
            return inner(path)

        return call

    monkeypatch.setattr(os, "scandir", refuse(scan, "/b"))
    monkeypatch.setattr(os, "lstat", refuse(stat, "/c/3.jpg"))
    expected = [("1.jpg", None), ("b", "UNREADABLE"), ("3.jpg", "UNREADABLE")]
    for pattern in (root, root / "[a-c]"):
        assert [(Path(row.uri).name, row.error) for row in read_all(pattern)] == expected
    monkeypatch.setattr(os, "access", lambda path, mode: not path.endswith("/b"))
    with pytest.raises(ConfigError, match="no permission to read the folder"):
        plan_corpus([str(root / "b")])


def _forbid(monkeypatch: pytest.MonkeyPatch, *folders: str) -> None:
    """Let folders whose paths end so be ones that may not be read, whoever runs the tests."""
    scan = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith(folders):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_without_permission_is_in_its_place_among_names_that_begin_as_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blank, "-" and "." sort before the slash, "0" after it; a name like a side file's hides no folder."""
    names = ("d/1.jpg", "d (1).jpg", "d-2/1.jpg", "d.jpg", "d0.jpg", "notes.txt/1.jpg")
    root = _write(tmp_path, {name: image(at) for at, name in enumerate(names)})
    _forbid(monkeypatch, "/d", "/notes.txt")
    expected = [
        ("d (1).jpg", None),
        ("d-2/1.jpg", None),
        ("d.jpg", None),
        ("d", "UNREADABLE"),
        ("d0.jpg", None),
        ("notes.txt", "UNREADABLE"),
    ]
    for pattern in (root, root / "*"):
        assert [(str(Path(row.uri).relative_to(root)), row.error) for row in read_all(pattern)] == expected


def test_a_folder_without_permission_is_a_row_whatever_the_files_around_it_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among tars; beside records, whose images it may hold; and alone."""
    _forbid(monkeypatch, "/closed", "/b.parquet")
    tars = _write(tmp_path / "tars", {"closed/2.tar": b""})
    write_tar(tars / "1.tar", [member("1.jpg", image(1))])
    assert [(Path(row.uri).name, row.error) for row in read_all(tars)] == [
        ("1.tar#1", None),
        ("closed", "UNREADABLE"),
    ]
    records = _write(tmp_path / "records", {"rows.jsonl": b'{"text": "a"}\n', "closed/1.jpg": image(1)})
    assert [row.error for row in read_all(records)] == ["UNREADABLE", "MISSING_PART"]
    alone = _write(tmp_path / "alone", {"b.parquet/0.parquet": b""})
    for pattern in (alone, alone / "*"):
        assert [row.error for row in read_all(pattern)] == ["UNREADABLE"]


def test_what_one_input_leaves_out_as_of_another_kind_the_next_one_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = _write(tmp_path, {f"images/{at}.jpg": image(at) for at in range(3)})
    _write(root, {"images/1.json": b'{"width": 7}', "images/2.txt": b"two", "images/all.json": b'[{"text": "b"}]'})
    write_tar(root / "x.tar", [member("9.jpg", image(9))])
    images = ["0.jpg", "1.jpg", "2.jpg"]
    for second in (root / "images", f"{root}/images/*.jpg", root / "images/../images"):
        caplog.clear()
        rows = read_all(root, second)
        assert [Path(row.uri).name for row in rows] == ["x.tar#9", *images]
        assert not [record for record in caplog.messages if "named before" in record]
    assert [row.metadata for row in read_all(root, root / "images")] == ["{}", "{}", '{"width":7}', "{}"]
    # the same input again is of the kind that it was, and what belongs to an image is no input of its own
    assert [Path(row.uri).name for row in read_all(root, root)] == ["x.tar#9"]
    assert [Path(row.uri).name for row in read_all(root / "images", root / "images/*.json")] == [*images, "all.json#0"]
    caplog.clear()
    assert [Path(row.uri).name for row in read_all(root / "images/1.jpg", root / "images")] == [
        "1.jpg",
        "0.jpg",
        "2.jpg",
    ]
    assert [record for record in caplog.messages if "1 files were named before" in record]


def test_inputs_may_be_globs_files_and_urls_and_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _write(tmp_path, {f"{i}.{kind}": image(i) for i, kind in enumerate(["jpg", "png", "jpg", "gif"])})
    names = [Path(row.uri).name for row in read_all(root / "*.jpg", f"file://{root}/1.png", root / "[0-2].*", root)]
    assert names == ["0.jpg", "2.jpg", "1.png", "3.gif"]
    monkeypatch.chdir(tmp_path)
    assert [row.uri for row in read_all("1.png")] == [str(root / "1.png")]
    nested = _write(tmp_path, {"deep/er/9.jpg": image(9)})
    assert [Path(row.uri).name for row in read_all(nested / "**/*.jpg")] == ["0.jpg", "2.jpg", "9.jpg"]
    assert [Path(row.uri).name for row in read_all(nested / "d*")] == ["9.jpg"]


def test_limit_cuts_the_plan(tmp_path: Path) -> None:
    root = _write(tmp_path, {f"{i}.jpg": image(i) for i in range(9)})
    settings = CorpusSettings(rows_per_fragment=2)
    for limit in (0, 1, 4, 8, 9, 50):
        rows = read_all(root, limit=limit, settings=settings)
        assert [Path(row.uri).stem for row in rows] == [str(i) for i in range(min(limit, 9))]


@pytest.mark.parametrize("inputs", [[], "photos", ["/nowhere/at/all"], ["http://host/a.jpg"], ["nosuch://a/b"]])
def test_wrong_inputs_are_refused_on_the_driver(inputs: list[str]) -> None:
    with pytest.raises(ConfigError):
        plan_corpus(inputs)


def test_an_empty_folder_has_no_rows(tmp_path: Path) -> None:
    assert plan_corpus([str(tmp_path)]) == []


def test_a_glob_has_to_match_a_file(tmp_path: Path) -> None:
    (tmp_path / "part-0").mkdir()
    with pytest.raises(ConfigError, match="matches nothing"):
        plan_corpus([str(tmp_path / "part-*")])


def test_a_delta_table_is_no_corpus_and_no_part_of_one(tmp_path: Path) -> None:
    root = _write(tmp_path, {"1.jpg": image(1), "out/_delta_log/0.json": b"{}", "out/a.parquet": b"PAR1"})
    assert [Path(row.uri).name for row in read_all(root)] == ["1.jpg"]
    with pytest.raises(ConfigError, match="Delta table"):
        plan_corpus([str(root / "out")])


def test_what_a_folder_holds_is_found_by_extension(tmp_path: Path) -> None:
    root = _write(tmp_path, {"1.jpg": image(1), "1.json": b'{"id": 7}', "all.json": b"[]"})
    assert [fragment.kind for fragment in plan_corpus([str(root)])] == ["files"]
    _write(root, {"x.tar": b""})
    assert [fragment.kind for fragment in plan_corpus([str(root)])] == ["tar"]
    _write(root, {"x.parquet": b""})
    assert [fragment.kind for fragment in plan_corpus([str(root)])] == ["parquet"]
    assert [f.kind for f in plan_corpus([str(root)], settings=CorpusSettings(kind="files"))] == ["files"]
    only = _write(tmp_path / "only", {"a.jsonl": b"{}\n", "b.json": b'[{"image": "x"}]'})
    assert [fragment.kind for fragment in plan_corpus([str(only)])] == ["jsonl", "json"]


def test_rows_become_a_table(tmp_path: Path) -> None:
    root = _write(tmp_path, {"1.jpg": image(1), "2.jpg": image(2), "2.txt": b"\xff"})
    table = rows_table(read_all(root))
    assert table.schema.equals(CORPUS)
    assert table.column("images").to_pylist() == [[image(1)], []]
    assert table.column("error").to_pylist() == [None, "BAD_ENCODING"]
