"""Parquet: columns found by name and type, ranges that keep to row groups, hostile files that never run anything."""

import base64
import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import corpus_parquet, fragments
from pipelines.corpus import plan_corpus, read_fragment
from pipelines.corpus_columns import check_footer, choose_columns
from pipelines.corpus_parquet import cut_by_groups
from pipelines.corpus_settings import DEFAULT_COLUMNS, CorpusColumns, CorpusSettings
from pipelines.fragments import CorpusRefused, InputChanged
from tests.pipelines.corpus_cases import image, read_all


def _write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        pa.binary(),
        pa.large_binary(),
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        pa.list_(pa.binary()),
        pa.large_list(pa.struct({"path": pa.string(), "bytes": pa.large_binary()})),
    ],
    ids=str,
)
def test_bytes_in_every_form(tmp_path: Path, kind: pa.DataType) -> None:
    def wrap(data: bytes) -> Any:
        value: Any = {"bytes": data, "path": "ignored.jpg"} if "struct" in str(kind) else data
        return [value, value] if "list" in str(kind) else value

    path = _write(tmp_path / "a.parquet", {"n": [5, 6], "image": pa.array([wrap(image(1)), wrap(image(2))], kind)})
    rows = read_all(path)
    count = 2 if "list" in str(kind) else 1
    assert [row.images for row in rows] == [(image(1),) * count, (image(2),) * count]
    assert [row.uri for row in rows] == [f"{path}#0", f"{path}#1"]
    assert rows[1].metadata == '{"n":6}'


def test_uris_and_nulls(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img/1.jpg").write_bytes(image(1))
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    values = [
        {"bytes": None, "path": "img/1.jpg"},
        {"bytes": None, "path": None},
        None,
        {"bytes": None, "path": "../x"},
        {"bytes": b"", "path": "img/1.jpg"},
    ]
    path = _write(tmp_path / "a.parquet", {"image": pa.array(values, struct)})
    rows = read_all(path)
    assert [row.error for row in rows] == [None, "NULL_FIELD", "NULL_FIELD", "PATH_TRAVERSAL", None]
    assert (rows[0].images, rows[0].image_uris) == ((image(1),), (str(tmp_path / "img/1.jpg"),))
    assert rows[4].images == (b"",)
    links = {"URL": ["img/1.jpg", "http://h/a.jpg", "file:///etc/passwd"], "TEXT": ["a", None, "b"]}
    rows = read_all(_write(tmp_path / "b.parquet", links))
    assert [(row.error, row.text) for row in rows] == [(None, "a"), ("SCHEME", None), ("SCHEME", None)]


def test_text_conversations_and_metadata(tmp_path: Path) -> None:
    turns = [[{"from": "human", "value": "q"}], [{"from": "gpt", "value": "a\x00"}], None]
    columns = {
        "jpg": [image(1), image(2), image(3)],
        "caption": pa.array(["x", None, "e\u0301"], pa.large_string()).dictionary_encode(),
        "conversations": turns,
        "score": [0.5, float("nan"), None],
        "when": [datetime.date(2026, 1, 2)] * 3,
        "mask": [b"no", b"no", b"no"],
        "box": [[1], [2], [3]],
    }
    rows = read_all(_write(tmp_path / "a.parquet", columns))
    assert [row.text for row in rows] == ["x", None, "é"]
    assert rows[0].conversations == '[{"from":"human","value":"q"}]'
    assert [row.conversations for row in rows[1:]] == ['[{"from":"gpt","value":"a"}]', None]
    assert rows[0].metadata == '{"score":0.5,"when":"2026-01-02"}'
    assert rows[1].metadata == '{"score":null,"when":"2026-01-02"}'


def test_several_captions_are_a_list_and_the_first_one_counts(tmp_path: Path) -> None:
    rows = read_all(_write(tmp_path / "a.parquet", {"image": [image(1)], "text": [["first", "second"]]}))
    assert rows[0].text == "first"


def test_columns_can_be_named(tmp_path: Path) -> None:
    table = {"image": ["x.jpg", "y.jpg"], "thumb": [image(1), image(2)], "words": ["a", "b"], "key": [7, 8]}
    path = _write(tmp_path / "a.parquet", table)
    rows = read_all(path, columns=CorpusColumns(image="thumb", text="words", uid="key"))
    assert [(row.uid, row.images, row.text) for row in rows] == [("7", (image(1),), "a"), ("8", (image(2),), "b")]
    assert rows[0].metadata == '{"image":"x.jpg"}'


@pytest.mark.parametrize(
    ("groups", "target", "cut"),
    [
        ([], 256, []),
        ([5], 256, [(0, 5)]),
        ([100] * 6, 256, [(0, 300), (300, 600)]),
        ([1024, 1024], 256, [(0, 1024), (1024, 2048)]),
        ([200, 1000], 256, [(0, 200), (200, 1200)]),
        ([10, 1025, 3], 256, [(0, 10), (10, 523), (523, 1035), (1035, 1038)]),
        ([0, 3, 0], 256, [(0, 3)]),
    ],
)
def test_fragments_keep_to_row_groups(groups: list[int], target: int, cut: list[tuple[int, int]]) -> None:
    assert [(run.start, run.stop) for run in cut_by_groups(groups, target)] == cut


def test_ranges_read_their_own_rows(tmp_path: Path) -> None:
    values = [image(i % 50) + b"%d" % i for i in range(3000)]
    path = _write(tmp_path / "a.parquet", {"image": values}, row_group_size=1300)
    plan = plan_corpus([str(path)])
    assert [(fragment.start, fragment.stop) for fragment in plan] == [
        *((0, 650), (650, 1300), (1300, 1950), (1950, 2600), (2600, 3000)),
    ]
    rows = read_all(path)
    assert [row.images[0] for row in rows] == values
    assert [row.uri for row in rows] == [f"{path}#{i}" for i in range(3000)]
    assert len(read_all(path, limit=700)) == 700


def test_a_large_row_group_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fragments, "_REREAD_BYTES", 2**19)
    pictures = pa.array([bytes([number % 256]) * 200 for number in range(6000)], pa.binary())
    for size, name in ((1024, "many"), (6000, "one")):
        path = _write(tmp_path / f"{name}.parquet", {"image": pictures}, row_group_size=size, use_dictionary=False)
        assert sum(fragment.num_rows for fragment in plan_corpus([str(path)])) == 6000
    (said,) = (record.getMessage() for record in caplog.records)
    assert "one.parquet has 1 MB and is read from its start by each of its 6 fragments; write the file with" in said


def test_zero_rows_are_fine(tmp_path: Path) -> None:
    assert read_all(_write(tmp_path / "a.parquet", {"image": pa.array([], pa.binary())})) == []


def _only_error(path: Path, columns: CorpusColumns = DEFAULT_COLUMNS) -> str | None:
    (row,) = read_all(path, columns=columns)
    assert row.uri == str(path)
    return row.error


@pytest.mark.parametrize("cut", [0, 3, 11, 200, -1, -4, -9])
def test_a_cut_file_is_one_row(tmp_path: Path, cut: int) -> None:
    path = _write(tmp_path / "a.parquet", {"image": [image(i) for i in range(30)]})
    path.write_bytes(path.read_bytes()[:cut])
    assert _only_error(path) == "CORRUPT"


def test_a_damaged_footer_is_one_row(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.parquet", {"image": [image(i) for i in range(30)]})
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    for bad in (
        data[: -8 - length] + b"\xff" * length + data[-8:],
        data[:-8] + b"\xff\xff\xff\x7f" + data[-4:],
        data[:-4] + b"PARE",
    ):
        path.write_bytes(bad)
        assert _only_error(path) == "CORRUPT"


@pytest.mark.parametrize(
    "table", [{"score": [1.5]}, {"caption": ["x"]}, {"image": [1.5]}, {"blob_a": [b"x"], "blob_b": [b"y"]}], ids=str
)
def test_columns_that_are_no_corpus(tmp_path: Path, table: dict[str, Any]) -> None:
    assert _only_error(_write(tmp_path / "a.parquet", table)) == "SCHEMA"


def test_doubled_and_missing_columns(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([b"x"]), pa.array([b"y"])], names=["image", "image"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert _only_error(tmp_path / "a.parquet") == "SCHEMA"
    with pytest.raises(CorpusRefused, match="no column 'nope' for text"):
        choose_columns(pa.schema({"image": pa.binary()}), CorpusColumns(text="nope"))
    with pytest.raises(CorpusRefused, match="no column 'nope' for uid"):
        choose_columns(pa.schema({"image": pa.binary()}), CorpusColumns(uid="nope"))


def test_claims_that_the_file_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = _write(tmp_path / "a.parquet", {"image": pa.nulls(1_000_001, pa.binary())})
    assert many.stat().st_size < 1_000_000
    assert _only_error(many) == "MEMORY"
    fine = _write(tmp_path / "b.parquet", {"image": [b"x" * 4000]})
    monkeypatch.setattr(corpus_parquet, "_MAX_GROUP_BYTES", 2000)
    assert _only_error(fine) == "MEMORY"


def test_embeddings_are_read_where_they_are_named(tmp_path: Path) -> None:
    kinds = (pa.list_(pa.float32()), pa.list_(pa.float64(), 3), pa.large_list(pa.float16()))
    for number, kind in enumerate(kinds):
        values = pa.array([[0.5, -2, 7], None, [0, 0, 0], [1, float("nan"), 1]], pa.list_(pa.float32())).cast(kind)
        path = _write(tmp_path / f"{number}.parquet", {"image": [image(i) for i in range(4)], "vector": values})
        rows = read_all(path, columns=CorpusColumns(embedding="vector"))
        assert [row.embedding for row in rows] == [(0.5, -2.0, 7.0), None, None, None]
        assert [row.error for row in rows] == [None, None, "SCHEMA", "SCHEMA"]
        assert [row.embedding for row in read_all(path)] == [None] * 4
    assert _only_error(path, CorpusColumns(embedding="score")) == "SCHEMA"
    words = _write(tmp_path / "words.parquet", {"image": [image(1)], "vector": ["0.5"]})
    assert _only_error(words, CorpusColumns(embedding="vector")) == "SCHEMA"


@pytest.mark.parametrize("checksum", [True, False])
def test_a_damaged_page_rejects_the_rows_of_its_group_only(tmp_path: Path, checksum: bool) -> None:
    values = [image(i) for i in range(60)]
    options = {"row_group_size": 20, "use_dictionary": False, "write_page_checksum": checksum}
    path = _write(tmp_path / "a.parquet", {"image": values}, **options)
    data = bytearray(path.read_bytes())
    offset = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    # With checksums one flipped bit of content is enough; without, only a broken page header can be seen.
    data[offset + (200 if checksum else 1)] ^= 0xFF
    path.write_bytes(data)
    rows = read_all(path)
    assert [row.error for row in rows] == [None] * 20 + ["CORRUPT"] * 20 + [None] * 20
    assert [row.images[0] for row in rows if row.images] == values[:20] + values[40:]


@pytest.mark.parametrize(
    ("kind", "value", "odd"),
    [
        (pa.timestamp("us"), 7, 2**61),
        (pa.timestamp("us", tz="Foo/Bar"), None, 7),
        (pa.date32(), 7, 10**8),
        (pa.duration("s"), 7, 2**62),
    ],
    ids=str,
)
def test_metadata_that_python_cannot_hold_is_left_out_of_its_row(
    tmp_path: Path, kind: pa.DataType, value: int | None, odd: int
) -> None:
    def column(*values: int | None) -> pa.Array:
        return pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)

    images = [image(number) for number in range(3)]
    path = _write(
        tmp_path / "a.parquet", {"image": images, "n": [5, 6, 7], "odd": column(value, odd, value and value + 1)}
    )
    rows = read_all(path)
    assert [row.images for row in rows] == [(data,) for data in images]
    assert [sorted(json.loads(row.metadata)) for row in rows] == [["n", "odd"], ["n"], ["n", "odd"]]
    # as a uid it is missed
    named = read_all(path, columns=CorpusColumns(uid="odd"))
    assert named[1].error == "CORRUPT" and (named[1].error_detail or "").startswith("odd: ")
    assert len({row.error for row in named}) == 2


def test_text_that_is_not_utf8_rejects_one_row(tmp_path: Path) -> None:
    good = pa.array(["ab", "cd", "ef"])
    bad = pa.Array.from_buffers(pa.string(), 3, [None, good.buffers()[1], pa.py_buffer(b"ab\xff\xfeef")])
    path = _write(tmp_path / "a.parquet", {"image": [image(i) for i in range(3)], "caption": bad}, store_schema=False)
    rows = read_all(path)
    assert [(row.error, row.text) for row in rows] == [(None, "ab"), ("BAD_ENCODING", None), (None, "ef")]


FIRED: list[bytes] = []


class _Canary(pa.ExtensionType):  # type: ignore[misc]
    """A type that says so when Arrow rebuilds it."""

    def __init__(self, name: str) -> None:
        super().__init__(pa.binary(), name)

    def __arrow_ext_serialize__(self) -> bytes:
        return b"payload"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> "_Canary":
        FIRED.append(serialized)
        return cls("ray.data.arrow_canary")


@pytest.mark.parametrize("column", ["image", "other"])
def test_extension_types_of_ray_are_refused_before_arrow_sees_them(tmp_path: Path, column: str) -> None:
    canary = _Canary("ray.data.arrow_canary")
    storage = pa.ExtensionArray.from_storage(canary, pa.array([b"x"]))
    table = {"image": pa.array([b"y"]), column: storage}
    path = _write(tmp_path / "a.parquet", table)
    pa.register_extension_type(canary)
    try:
        FIRED.clear()
        assert _only_error(path) == "UNSAFE_TYPE"
        assert FIRED == []
        pq.read_schema(path)
        assert b"payload" in FIRED, "the canary is able to fire"
    finally:
        pa.unregister_extension_type("ray.data.arrow_canary")


def test_another_extension_type_is_refused_where_it_would_be_read(tmp_path: Path) -> None:
    canary = _Canary("someone.elses")
    storage = pa.ExtensionArray.from_storage(canary, pa.array([b"x"]))
    assert _only_error(_write(tmp_path / "a.parquet", {"image": storage})) == "UNSAFE_TYPE"
    rows = read_all(_write(tmp_path / "b.parquet", {"image": [b"y"], "other": storage}))
    assert [(row.error, row.metadata) for row in rows] == [(None, "{}")]


@pytest.mark.parametrize("before", [b"", b"A", b"AB", b"ABC", b"\x18\xd8\x05", b"\n "])
@pytest.mark.parametrize("name", [b"ray.data.arrow_pickled_object", b"arrow.py_extension_type"])
def test_names_are_found_at_every_alignment(before: bytes, name: bytes) -> None:
    for lead in range(3):
        blob = before + base64.b64encode(b"z" * (40 + lead) + name + b"tail")
        with pytest.raises(CorpusRefused, match="UNSAFE_TYPE"):
            check_footer(blob)
    check_footer(before + base64.b64encode(b"z" * 50 + b"huggingface"))


def test_a_changed_file_stops_and_a_vanished_one_is_rows(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.parquet", {"image": [image(1), image(2)]})
    (fragment,) = plan_corpus([str(path)])
    _write(path, {"image": [image(1), image(2), image(3)]})
    with pytest.raises(InputChanged):
        list(read_fragment(fragment))
    path.unlink()
    assert [row.error for row in read_fragment(fragment)] == ["NOT_FOUND"] * 2


def test_large_images_and_null_without_need(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.parquet", {"image": [b"x" * 100, b"x" * 101, None]})
    assert [row.error for row in read_all(path, settings=CorpusSettings(max_file_bytes=100))] == [
        *(None, "TOO_LARGE", "NULL_FIELD"),
    ]
    kept = read_all(path, settings=CorpusSettings(require_images=False))
    assert [(row.error, len(row.images)) for row in kept] == [(None, 1), (None, 1), (None, 0)]
