"""Tars: samples by key, every hostile member refused by its header, nothing extracted, nothing lost in silence."""

import gzip
import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from pipelines import corpus_tar_index, fragments
from pipelines.corpus import plan_corpus, read_fragment, rows_table
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.corpus_tar import split_key
from pipelines.corpus_tar_index import GzipReader
from pipelines.fragments import InputChanged
from tests.pipelines.corpus_cases import image, member, read_all, tar_bytes, write_tar


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_samples_are_rows(tmp_path: Path, name: str, form: int) -> None:
    long = "n" * 90 if form == tarfile.USTAR_FORMAT else "é" * 150
    members = [member("dir", kind=tarfile.DIRTYPE)]
    for number in range(7):
        members += [
            member(f"dir/{number}.jpg", image(number)),
            member(f"dir/{number}.txt", f"caption {number}\n".encode()),
            member(f"dir/{number}.json", b'{"width": %d, "caption": "no"}' % number),
            member(f"dir/{number}.seg.png", b"mask"),
            member(f"dir/{number}.wav", b"sound"),
        ]
    members += [member(f"{long}.0.png", image(8)), member(f"{long}.1.png", image(9)), member("README", b"x")]
    path = write_tar(tmp_path / name, members, form)
    rows = read_all(path, settings=CorpusSettings(rows_per_fragment=3))
    assert [row.images for row in rows] == [*((image(i),) for i in range(7)), (image(8), image(9))]
    assert [row.text for row in rows] == [*(f"caption {i}" for i in range(7)), None]
    assert rows[6].metadata == '{"caption":"no","width":6}'
    assert [row.uri for row in rows] == [*(f"{path}#dir/{i}" for i in range(7)), f"{path}#{long}"]


def test_conversations_and_captions_from_json(tmp_path: Path) -> None:
    turns = b'{"conversations": [{"from": "human", "value": "q"}], "caption": "c", "id": 5, "image": "../../etc"}'
    path = write_tar(tmp_path / "a.tar", [member("1.jpg", image(1)), member("1.json", turns)])
    (row,) = read_all(path, columns=CorpusColumns(uid="id"))
    assert (row.uid, row.text, row.conversations) == ("5", "c", '[{"from":"human","value":"q"}]')
    assert (row.images, row.metadata) == ((image(1),), '{"image":"../../etc"}')


def test_keys() -> None:
    assert split_key("a.b/c.d/7.seg.PNG") == ("a.b/c.d/7", "seg.png")
    assert split_key("e\u0301.jpg") == ("é", "jpg")
    assert split_key("\udcff.jpg") == ("\\xff", "jpg")
    assert [split_key(name) for name in ("7", ".jpg", "a/.x.jpg", "__MACOSX/7.jpg", "7.jpg/")] == [None] * 5


PICKLE = pickle.dumps({"a": 1})
HOSTILE = {
    "parent": ([member("../1.jpg", image(1))], "PATH_TRAVERSAL"),
    "inner_parent": ([member("a/../../1.jpg", image(1))], "PATH_TRAVERSAL"),
    "absolute": ([member("/tmp/1.jpg", image(1))], "PATH_TRAVERSAL"),
    "backslash": ([member("..\\1.jpg", image(1))], "PATH_TRAVERSAL"),
    "symlink": ([member("1.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd")], "SPECIAL_MEMBER"),
    "hardlink": ([member("1.jpg", kind=tarfile.LNKTYPE, link="0.jpg")], "SPECIAL_MEMBER"),
    "device": ([member("1.jpg", kind=tarfile.CHRTYPE)], "SPECIAL_MEMBER"),
    "pipe": ([member("1.jpg", kind=tarfile.FIFOTYPE)], "SPECIAL_MEMBER"),
    "nameless_link": ([member("link", kind=tarfile.SYMTYPE, link="/etc")], "SPECIAL_MEMBER"),
    "pickle": ([member("1.jpg", image(1)), member("1.pkl", PICKLE)], "UNSAFE_TYPE"),
    "torch": ([member("1.jpg", image(1)), member("1.features.pt", PICKLE)], "UNSAFE_TYPE"),
    "array": ([member("1.npy", PICKLE), member("1.jpg", image(1))], "UNSAFE_TYPE"),
    "nested": ([member("1.jpg", image(1)), member("1.tar", b"x")], "NESTED_ARCHIVE"),
    "zip": ([member("1.zip", b"x")], "NESTED_ARCHIVE"),
    "text_only": ([member("1.txt", b"x")], "MISSING_PART"),
    "unknown_only": ([member("1.xyz", b"x")], "MISSING_PART"),
    "bad_text": ([member("1.jpg", image(1)), member("1.txt", b"\xff")], "BAD_ENCODING"),
    "bad_json": ([member("1.jpg", image(1)), member("1.json", b"{'a'}")], "BAD_JSON"),
    "list_json": ([member("1.jpg", image(1)), member("1.json", b"[]")], "BAD_JSON"),
    "large": ([member("1.jpg", b"x" * 1001)], "TOO_LARGE"),
    "long_text": ([member("1.jpg", image(1)), member("1.txt", b"x" * 501)], "TOO_LONG"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_hostile_sample_is_one_rejected_row(
    tmp_path: Path, case: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fire(*_args: object) -> None:
        raise AssertionError("something was unpickled or extracted")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, fire)
    for name in ("extract", "extractall", "extractfile"):
        monkeypatch.setattr(tarfile.TarFile, name, fire)
    bad, reason = HOSTILE[case]
    path = write_tar(tmp_path / f"a{suffix}", [member("0.jpg", image(0)), *bad, member("2.jpg", image(2))])
    rows = read_all(path, settings=CorpusSettings(max_file_bytes=1000, max_text_bytes=500))
    assert [row.error for row in rows] == [None, reason, None]
    assert [row.images for row in rows] == [(image(0),), (), (image(2),)]
    assert rows_table(rows).num_rows == 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_with_nul_is_refused(tmp_path: Path) -> None:
    info, data = member("1.jpg", image(1))
    info.pax_headers = {"path": "1\x00/../../x.jpg"}
    rows = read_all(write_tar(tmp_path / "a.tar", [(info, data), member("2.jpg", image(2))]))
    assert [row.error for row in rows] == ["PATH_TRAVERSAL", None]
    assert "\x00" not in rows[0].uri + (rows[0].error_detail or "")


def test_doubled_keys_first_wins(tmp_path: Path) -> None:
    members = [
        *(member("1.jpg", image(1)), member("1.txt", b"one"), member("1.jpg", image(7)), member("1.txt", b"again")),
        *(member("e\u0301.jpg", image(2)), member("3.jpg", image(3))),
        *(member("\u00e9.jpg", image(8)), member("1.png", image(9))),
    ]
    rows = read_all(write_tar(tmp_path / "a.tar", members))
    assert [(row.error, row.images, row.text) for row in rows] == [
        (None, (image(1),), "one"),
        ("DUP_KEY", (), None),
        (None, (image(2),), None),
        (None, (image(3),), None),
        ("DUP_KEY", (), None),
        ("DUP_KEY", (), None),
    ]


def _whole(name: str, data: bytes, tmp_path: Path) -> list[tuple[str, str | None]]:
    path = tmp_path / name
    path.write_bytes(data)
    return [(row.uri.removeprefix(str(tmp_path)), row.error) for row in read_all(path)]


def test_a_truncated_archive_is_one_row_wherever_it_is_cut(tmp_path: Path) -> None:
    data = tar_bytes([member("1.jpg", b"x" * 700), member("2.jpg", b"y" * 512), member("\u00e9" * 99 + ".jpg", b"z")])
    content = data.rstrip(b"\x00")
    cuts = {0, 100, 512, 600, 1300, *range(512, len(content), 512), len(content) - 3}
    for cut in sorted(cuts):
        assert _whole("a.tar", data[:cut], tmp_path) == [("/a.tar", "TRUNCATED_ARCHIVE")], cut
    packed = gzip.compress(os.urandom(1000) + data)
    packed = gzip.compress(data, compresslevel=0)
    for cut in (20, 1000, len(packed) - 9, len(packed) - 4):
        assert _whole("a.tar.gz", packed[:cut], tmp_path)[0][1] == "TRUNCATED_ARCHIVE", cut


def test_an_empty_archive_has_no_rows(tmp_path: Path) -> None:
    assert _whole("a.tar", tar_bytes([]), tmp_path) == []
    assert _whole("b.tar", b"\x00" * 512, tmp_path) == []


def test_a_header_damaged_in_the_middle_is_not_the_end(tmp_path: Path) -> None:
    data = bytearray(tar_bytes([member("1.jpg", b"x"), member("2.jpg", b"y"), member("3.jpg", b"z")]))
    data[1024 + 150] ^= 1
    assert _whole("a.tar", bytes(data), tmp_path) == [("/a.tar", "CORRUPT")]


def test_joined_archives_are_not_read_by_half(tmp_path: Path) -> None:
    one, two = tar_bytes([member("1.jpg", b"x")]), tar_bytes([member("2.jpg", b"y")])
    assert _whole("a.tar", one + two, tmp_path) == [("/a.tar", "CORRUPT")]
    assert _whole("b.tar.gz", gzip.compress(one) + gzip.compress(two), tmp_path) == [("/b.tar.gz", "CORRUPT")]
    halves = gzip.compress(one[:700]) + gzip.compress(one[700:]) + b"\x00" * 100
    assert _whole("c.tar.gz", halves, tmp_path) == [("/c.tar.gz#1", None)]


@pytest.mark.parametrize("data", [b"", b"x" * 600, b"PK\x03\x04" + b"x" * 600, b"\x1f\x8b" + b"x" * 600])
def test_what_is_no_tar(tmp_path: Path, data: bytes) -> None:
    ((uri, error),) = _whole("a.tar", data, tmp_path)
    assert (uri, error) == ("/a.tar", "CORRUPT" if data else "TRUNCATED_ARCHIVE")


def test_huge_claims_are_refused_unread(tmp_path: Path) -> None:
    info, _ = member("1.jpg")
    info.size = 8 * 2**60
    assert _whole("a.tar", info.tobuf(tarfile.GNU_FORMAT) + b"\x00" * 2048, tmp_path)[0][1] == "TOO_LARGE"
    info.size, info.type = 8 * 2**60, b"L"
    assert _whole("b.tar", info.tobuf(tarfile.GNU_FORMAT) + b"\x00" * 2048, tmp_path)[0][1] == "TOO_LARGE"


def test_sparse_members_are_special(tmp_path: Path) -> None:
    info, _ = member("1.jpg")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[482] = 1
    block[148:156] = b"        "
    block[148:156] = b"%06o\x00 " % sum(block)
    more, last = bytearray(512), bytearray(512)
    more[504] = 1
    data = bytes(block + more + last) + tar_bytes([member("2.jpg", image(2))])
    assert _whole("a.tar", data, tmp_path) == [("/a.tar#1", "SPECIAL_MEMBER"), ("/a.tar#2", None)]


def test_a_packed_archive_of_many_fragments_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fragments, "_REREAD_BYTES", 1000)
    members = [member(f"{number}.jpg", os.urandom(100)) for number in range(11)]
    for name, rows in (("a.tar", 2), ("b.tar.gz", 3), ("c.tar.gz", 2)):
        path = write_tar(tmp_path / name, members)
        assert len(plan_corpus([str(path)], settings=CorpusSettings(rows_per_fragment=rows))) == -(-11 // rows)
    (said,) = (record.getMessage() for record in caplog.records)
    assert "c.tar.gz has 0 MB and is read from its start by each of its 6 fragments; unpack it" in said


def test_gzip_bombs_are_refused_by_ratio_and_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_tar_index, "_FREE_BYTES", 2**20)
    path = write_tar(tmp_path / "a.tar.gz", [member("1.jpg", bytes(3 * 2**20))])
    assert [row.error for row in read_all(path)] == ["BOMB"]
    assert [row.error for row in read_all(path, settings=CorpusSettings(max_archive_ratio=2000))] == [None]
    few = CorpusSettings(max_archive_ratio=2000, max_archive_bytes=2**21)
    assert [row.error for row in read_all(path, settings=few)] == ["BOMB"]


def test_unpacking_a_bomb_stays_small() -> None:
    packed = gzip.compress(bytes(200 * 2**20), compresslevel=1)
    reader = GzipReader(io.BytesIO(packed), CorpusSettings(max_archive_ratio=10))
    with pytest.raises(Exception, match="BOMB"):
        reader.skip_to(200 * 2**20)
    assert reader.unpacked <= 66 * 2**20
    assert len(reader._buffer) <= 2 * 2**20


def test_a_changed_archive_stops(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [member("1.jpg", image(1))])
    (fragment,) = plan_corpus([str(path)])
    write_tar(path, [member("1.jpg", image(1)), member("2.jpg", bytes(9000))])
    with pytest.raises(InputChanged):
        list(read_fragment(fragment))
    path.unlink()
    assert [row.error for row in read_fragment(fragment)] == ["NOT_FOUND"]
