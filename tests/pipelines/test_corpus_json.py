"""JSON corpora: records found by scanning alone, each parsed strictly, a bad one never its neighbours' fault."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.corpus import plan_corpus, read_fragment, rows_table
from pipelines.corpus_json import scan_lines, scan_list
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.fragments import InputChanged
from tests.pipelines.corpus_cases import image, read_all

_MARK = b"\xef\xbb\xbf"
_VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a"\\[]{},:\n é', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('k"\\]', max_size=3), inner, max_size=3),
    max_leaves=12,
)


def _cut(data: bytes, step: int) -> Iterator[tuple[int, bytes]]:
    return ((start, data[start : start + step]) for start in range(0, len(data), step))


@settings(max_examples=150, deadline=None)
@given(st.lists(_VALUES, max_size=5), st.integers(1, 9), st.sampled_from([None, 2]), st.sampled_from([b"", _MARK]))
def test_a_list_is_cut_into_its_elements_wherever_chunks_end(
    values: list[object], step: int, indent: int | None, mark: bytes
) -> None:
    data = mark + json.dumps(values, indent=indent, ensure_ascii=False).encode() + b" \n"
    spans = list(scan_list(_cut(data, step)))
    assert [fault for _, _, fault in spans] == [None] * len(values)
    assert [json.loads(data[start:stop]) for start, stop, _ in spans] == values


@settings(max_examples=80, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=9), max_size=2), max_size=5), st.integers(1, 9))
def test_lines_are_found_wherever_chunks_end(values: list[object], step: int) -> None:
    data = "\n \r\n".join(json.dumps(value) for value in values).encode()
    spans = list(scan_lines(_cut(data, step)))
    assert [json.loads(data[start:stop]) for start, stop, _ in spans] == values


@pytest.mark.parametrize(
    ("data", "good", "faults"),
    [
        (b'[{"a": 1}, {"b": 2', 1, 1),
        (b'[{"a": 1},', 1, 1),
        (b"[", 0, 1),
        (b'[{"a": "', 0, 1),
        (b"[]", 0, 0),
        (b'[{"a": 1}, ]', 1, 0),
        (b'[,{"a": 1}]', 1, 1),
        (b'[{"a": 1}] [{"b": 2}]', 1, 1),
        (b'[{"a": 1}]]', 1, 1),
        (b'[{"a": 1}, {"b": 2}}, [{"c": 3}]', 2, 0),
        (b'[{"a": 1}, }, [{"c": 3}, {"d": 4}]]', 3, 1),
    ],
)
def test_cut_and_broken_lists_lose_nothing(data: bytes, good: int, faults: int) -> None:
    for step in (1, 3, 100):
        found = [fault for _, _, fault in scan_list(_cut(data, step))]
        assert (found.count(None), len(found) - found.count(None)) == (good, faults)


def _pictures(root: Path, count: int) -> None:
    (root / "img").mkdir()
    for number in range(count):
        (root / f"img/{number}.jpg").write_bytes(image(number))


def test_llava_records(tmp_path: Path) -> None:
    _pictures(tmp_path, 3)
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    records = [
        {"id": "007", "image": "img/1.jpg", "conversations": turns},
        {"id": "007", "image": ["img/2.jpg", "img/0.jpg"], "conversations": turns, "source": "x", "box": [1, 2]},
        {"id": "9", "image": "img/1.jpg", "caption": "one\x00 two"},
    ]
    path = tmp_path / "llava.json"
    path.write_text(json.dumps(records, indent=1))
    rows = read_all(path)
    assert [row.images for row in rows] == [(image(1),), (image(2), image(0)), (image(1),)]
    assert rows[1].image_uris == (str(tmp_path / "img/2.jpg"), str(tmp_path / "img/0.jpg"))
    assert rows[0].conversations == json.dumps(turns, separators=(",", ":"))
    assert (rows[1].metadata, rows[2].text, rows[2].conversations) == ('{"id":"007","source":"x"}', "one two", None)
    assert [row.uri for row in rows] == [f"{path}#{i}" for i in range(3)]


def test_every_bad_line_is_one_row(tmp_path: Path) -> None:
    _pictures(tmp_path, 2)
    good = b'{"image": "img/1.jpg"}'
    lines = {
        b"\xef\xbb\xbf" + good: None,
        b'{"image": "img/0.jpg", "image": "img/1.jpg"}': "BAD_JSON",
        b'{"image": "img/1.jpg", "score": NaN}': "BAD_JSON",
        b'{"image": "img/1.jpg", "score": 1e999}': "BAD_JSON",
        b'{"image": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": "BAD_JSON",
        b'{"image": "img/1.jpg", "n": ' + b"7" * 5000 + b"}": "BAD_JSON",
        b'["img/1.jpg"]': "BAD_JSON",
        b"7": "BAD_JSON",
        b'{"image": "img/1.jpg", "text": "\xff"}': "BAD_ENCODING",
        b'{"image": "img/1.jpg", "text": "\\ud800"}': "BAD_ENCODING",
        b'{"image": "img/1.jpg", "text": "' + b"x" * 1_000_001 + b'"}': "TOO_LONG",
        b'{"image": "img/1.jpg", "text": 7}': "SCHEMA",
        b'{"image": 7}': "SCHEMA",
        b'{"image": null}': "NULL_FIELD",
        b'{"image": []}': "MISSING_PART",
        b'{"text": "no image"}': "MISSING_PART",
        b'{"image": "img/9.jpg"}': "NOT_FOUND",
        b'{"image": "../x"}': "PATH_TRAVERSAL",
        b'{"image": "http://h/a.jpg"}': "SCHEME",
        b'{"image": "data:image/png;base64,***"}': "BAD_BASE64",
        b'{"image_base64": "A"}': "BAD_BASE64",
        b'{"image": "img/1.jpg", "conversations": [{"from": "x"}]}': "BAD_CONVERSATION",
        good + b"\r": None,
        b'{"image": "img/1.jpg"': "BAD_JSON",
    }
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    rows = read_all(path, settings=CorpusSettings(rows_per_fragment=5))
    assert [row.error for row in rows] == list(lines.values())
    assert rows[0].images == rows[22].images == (image(1),)
    assert rows_table(rows).num_rows == len(lines)


def test_embeddings_are_lists_of_finite_numbers(tmp_path: Path) -> None:
    _pictures(tmp_path, 2)
    values = ["[1, 2.5]", "null", "[]", "[true, 1]", '"1, 2"', "[0, 0.0]", "[[1], 2]"]
    lines = [f'{{"image": "img/1.jpg", "v": {value}}}' for value in values] + ['{"image": "img/1.jpg"}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    rows = read_all(tmp_path / "rows.jsonl", columns=CorpusColumns(embedding="v"))
    assert [row.embedding for row in rows] == [(1.0, 2.5), *[None] * 7]
    assert [row.error for row in rows] == [None, None, *["SCHEMA"] * 5, None]
    assert rows[0].metadata == "{}"


def test_images_within_records(tmp_path: Path) -> None:
    text = base64.b64encode(image(5)).decode()
    lines = [
        {"image_base64": text},
        {"image": {"bytes": text}},
        {"image": {"path": f"data:image/jpeg;base64,{text}"}},
        {"images": [{"url": f"data:image/jpeg;base64,{text}"}] * 2},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": f"data:;base64,{text}"}]}]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    rows = read_all(path)
    assert [row.images for row in rows] == [(image(5),)] * 3 + [(image(5),) * 2, (image(5),)]
    assert rows[4].conversations == '[{"from":"human","value":"<image>"}]'


def test_a_cut_file_keeps_what_came_before(tmp_path: Path) -> None:
    _pictures(tmp_path, 3)
    whole = json.dumps([{"image": f"img/{i}.jpg"} for i in range(3)]).encode()
    path = tmp_path / "rows.json"
    path.write_bytes(whole[:-4])
    assert [(row.error, row.images) for row in read_all(path)] == [
        (None, (image(0),)),
        (None, (image(1),)),
        ("BAD_JSON", ()),
    ]


def test_columns_can_be_named_and_text_only_rows_kept(tmp_path: Path) -> None:
    _pictures(tmp_path, 2)
    path = tmp_path / "rows.ndjson"
    first = '{"key": "a", "pic": "img/1.jpg", "image": 3}'
    path.write_text(first + '\n{"key": "b"}\n{"pic": "img/0.jpg"}\n{"key": "c", "pic": 7}')
    rows = read_all(path, columns=CorpusColumns(image="pic", uid="key"), settings=CorpusSettings(require_images=False))
    assert [(row.uid, row.error, row.images) for row in rows if row.uid in "abc"] == [
        ("a", None, (image(1),)),
        ("b", None, ()),
        ("c", "SCHEMA", ()),
    ]
    assert (rows[2].error, len(rows[2].uid)) == ("NULL_FIELD", 32)


def test_rows_are_cut_and_a_changed_file_stops(tmp_path: Path) -> None:
    _pictures(tmp_path, 1)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": "img/0.jpg"}\n' * 7)
    plan = plan_corpus([str(path)], settings=CorpusSettings(rows_per_fragment=3))
    assert [(fragment.start, fragment.stop) for fragment in plan] == [(0, 3), (3, 6), (6, 7)]
    path.write_text('{"image": "img/0.jpg"}\n' * 8)
    with pytest.raises(InputChanged):
        list(read_fragment(plan[1]))


def test_a_large_record_is_not_read(tmp_path: Path) -> None:
    _pictures(tmp_path, 1)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": "img/0.jpg"}\n{"image": "img/0.jpg", "x": 1}')
    rows = read_all(path, settings=CorpusSettings(max_record_bytes=25))
    assert [row.error for row in rows] == [None, "TOO_LARGE"]


def test_one_object_over_several_lines_is_not_taken_for_rows(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": [{"id": 1}], "annotations": []}, indent=1))
    assert {row.error for row in read_all(path)} == {"BAD_JSON"}
