"""Fragments: ids from what is read and nothing else, borders that a new file does not shift."""

import hashlib
import json
from pathlib import Path

import pytest

from llava_core.errors import ConfigError
from pipelines.corpus import plan_corpus
from pipelines.fragments import (
    Fragment,
    cut_by_content,
    cut_evenly,
    make_fragment,
    make_uid,
    refused_fragment,
    rejected_row,
)
from pipelines.row_refs import Member, ObjectRef, RowRef
from schemas.reasons import CorpusReason

TAR = ObjectRef(uri="s3://bucket/ä.tar", size=9000, version="e7")


def test_the_id_is_the_hash_of_uri_size_version_and_rows() -> None:
    rows = (RowRef(key="a", members=(Member(name="jpg", offset=512, size=3),)), RowRef(key="b", error="DUP_KEY"))
    fragment = make_fragment(kind="tar", source="s3://bucket", root="s3://bucket", container=TAR, start=5, rows=rows)
    text = '["tar",[["s3://bucket/ä.tar",9000,"e7"]],[5,7],[[1,"DUP_KEY"]]]'
    assert fragment.fragment_id == hashlib.sha256(text.encode()).hexdigest()[:20]
    assert (fragment.num_rows, fragment.stop) == (2, 7)


def test_the_id_of_files_lists_every_file_in_order() -> None:
    one, two = (ObjectRef(uri=f"/d/{name}", size=4, version="1") for name in ("a.jpg", "a.txt"))
    fragment = make_fragment(kind="files", source="/d", root="/d", rows=(RowRef(objects=(one, two)),))
    text = '["files",[["/d/a.jpg",4,"1"],["/d/a.txt",4,"1"]],[0,1],[]]'
    assert fragment.fragment_id == hashlib.sha256(text.encode()).hexdigest()[:20]


@pytest.mark.parametrize("change", [{"uri": "/e"}, {"size": 11}, {"version": "8"}])
def test_another_object_is_another_fragment(change: dict[str, object]) -> None:
    first = ObjectRef(uri="/d", size=10, version="7")
    other = ObjectRef(**{"uri": "/d", "size": 10, "version": "7", **change})  # type: ignore[arg-type]
    ids = {
        make_fragment(kind="parquet", source="x", root="y", container=ref, start=start, num_rows=rows).fragment_id
        for ref in (first, other)
        for start, rows in ((0, 2), (0, 3), (1, 2))
    }
    assert len(ids) == 6


def test_spelling_of_the_input_is_no_part_of_the_id() -> None:
    ids = {
        make_fragment(kind="parquet", source=source, root=source, container=TAR, num_rows=2).fragment_id
        for source in ("s3://bucket", "s3://bucket/*.tar")
    }
    assert len(ids) == 1


def test_a_fragment_is_plain_json_and_comes_back() -> None:
    first = RowRef(key="a", members=(Member(name="jpg", offset=512, size=3),))
    rows = (first, RowRef(key="b", error="X", error_detail="y"))
    fragment = make_fragment(kind="tar", source="s", root="r", container=TAR, rows=rows)
    assert Fragment.from_json(json.loads(json.dumps(fragment.to_json()))) == fragment
    files = make_fragment(kind="files", source="s", root="r", rows=(RowRef(objects=(TAR,)),))
    assert Fragment.from_json(json.loads(json.dumps(files.to_json()))) == files


def test_too_many_rows_are_a_mistake_of_the_planner() -> None:
    with pytest.raises(ConfigError, match="1025"):
        make_fragment(kind="parquet", source="s", root="r", container=TAR, num_rows=1025)


def test_uids_name_places() -> None:
    fragment = make_fragment(kind="parquet", source="s", root="r", container=TAR, start=40, num_rows=3)
    assert fragment.row_uri(2) == "s3://bucket/ä.tar#42"
    assert fragment.row_uid(2) == hashlib.sha256("s3://bucket/ä.tar#42".encode()).hexdigest()[:32]
    assert make_uid("/d/a.jpg", "") == hashlib.sha256(b"/d/a.jpg#").hexdigest()[:32]


def test_a_refused_file_is_one_row_under_its_own_uri() -> None:
    fragment = refused_fragment(
        kind="tar", source="s", root="r", container=TAR, reason=CorpusReason.TRUNCATED_ARCHIVE, detail="d"
    )
    row = rejected_row(fragment, 0, fragment.rows[0].error or "", fragment.rows[0].error_detail)
    assert (fragment.num_rows, row.uri, row.error, row.error_detail) == (1, TAR.uri, "TRUNCATED_ARCHIVE", "d")


def test_head_keeps_the_first_rows_under_another_id() -> None:
    rows = tuple(RowRef(key=str(i)) for i in range(5))
    fragment = make_fragment(kind="tar", source="s", root="r", container=TAR, start=10, rows=rows)
    head = fragment.head(2)
    assert (head.start, head.stop, [row.key for row in head.rows]) == (10, 12, ["0", "1"])
    assert head.fragment_id != fragment.fragment_id
    assert fragment.head(5) is fragment


def test_runs_cover_everything_in_order_and_keep_the_limit() -> None:
    names = [f"{i:05d}.jpg" for i in range(6000)]
    runs = list(cut_by_content(names, 256))
    assert [position for run in runs for position in run] == list(range(6000))
    assert max(map(len, runs)) <= 1024
    assert 10 < len(runs) < 60
    # 1 in 10**9 never ends a run by itself, so the limit does.
    assert [len(run) for run in cut_by_content(names[:2500], 10**9)] == [1024, 1024, 452]
    assert list(cut_evenly(0, 10)) == []


@pytest.mark.parametrize("added", ["00000.aaa", "01777x.jpg", "zzz.jpg"])
def test_a_new_file_changes_only_the_run_it_falls_into(added: str) -> None:
    names = [f"{i:05d}.jpg" for i in range(4000)]
    before = {tuple(names[i] for i in run) for run in cut_by_content(names, 64)}
    more = sorted([*names, added])
    after = {tuple(more[i] for i in run) for run in cut_by_content(more, 64)}
    assert 1 <= len(after - before) <= 2
    assert len(before - after) <= 1
    assert len(before) > 40


def test_a_new_file_in_a_folder_leaves_other_fragments_as_they_are(tmp_path: Path) -> None:
    for number in range(900):
        (tmp_path / f"{number:04d}.jpg").write_bytes(bytes([number % 251]))
    before = plan_corpus([str(tmp_path)])
    (tmp_path / "0450b.jpg").write_bytes(b"new")
    after = plan_corpus([str(tmp_path)])
    ids_before, ids_after = ({fragment.fragment_id for fragment in plan} for plan in (before, after))
    assert len(ids_before) >= 3
    assert len(ids_after - ids_before) <= 2
    assert sum(fragment.num_rows for fragment in after) == 901
    assert plan_corpus([str(tmp_path)]) == after
