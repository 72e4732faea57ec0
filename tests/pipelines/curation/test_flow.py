"""What curation decides before and between its stages: names of runs, thresholds over a recipe, growth of clusters."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from llava_core.errors import ConfigError
from pipelines.cli import parse
from pipelines.corpus_settings import CorpusSettings
from pipelines.curation.balance import BalanceConfig
from pipelines.curation.cluster_stage import grow, still_there
from pipelines.curation.config import CurateConfig
from pipelines.curation.dedupe import DedupeConfig, dedupe_table
from pipelines.curation.job import CurateJob, _storage_options, freeze
from pipelines.curation.recipes import datacomp_basic, llava_highres
from pipelines.curation.rules import RulesConfig
from tests.pipelines.curation.cases import table
from tests.pipelines.curation.job_cases import config, three_images
from tests.pipelines.curation.pictures import encoded, scene


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three images."""
    return three_images(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": ()}, "input is empty"),
        ({"output": " "}, "output is empty"),
        ({"recipe": "best"}, "expected one of 'permissive'"),
        ({"quality": "beauty"}, "'blockiness'"),
        ({"pixels": "floats"}, "'encoded'"),
        ({"limit": 0}, "limit is 0"),
        ({"num_workers": 0}, "num_workers is 0"),
        ({"stall_timeout": 0}, "more than 0 seconds"),
    ],
)
def test_wrong_settings_say_what_was_expected(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **changes)


def test_the_command_line() -> None:
    words = "--input a s3://b/c --output o --recipe datacomp_basic --min-blur 80 --formats JPEG PNG --limit 5 --plan"
    words += " --against eval --overrides v.json --dedupe.near.max-distance 2 --rows-per-fragment 9 --model tiny"
    found = parse(CurateConfig, words.split())
    assert (found.input, found.against, found.overrides, found.plan) == (("a", "s3://b/c"), ("eval",), "v.json", True)
    assert found.dedupe.near.max_distance == 2
    assert found.corpus == CorpusSettings(rows_per_fragment=9)
    expected = dataclasses.replace(datacomp_basic().rules, min_blur=80, formats=("JPEG", "PNG"))
    assert found.select.rules == expected


def test_a_recipe_keeps_what_is_not_changed(tmp_path: Path) -> None:
    changed = config(tmp_path, recipe="datacomp_basic", rules=RulesConfig(min_side=100)).select
    assert (changed.rules.min_side, changed.rules.max_aspect) == (100, 3)
    assert not changed.balance.active
    assert config(tmp_path, balance=BalanceConfig(total=7)).select.balance.total == 7


def test_a_threshold_of_a_recipe_can_be_taken_off(tmp_path: Path) -> None:
    words = "--input a --output o --recipe llava_highres --without min-blur max_nsfw --min-side 400"
    found = parse(CurateConfig, words.split()).select.rules
    assert found == dataclasses.replace(llava_highres().rules, min_blur=None, max_nsfw=None, min_side=400)
    assert config(tmp_path, recipe="datacomp_basic", without=("scripts",)).select.rules.scripts == ()
    with pytest.raises(ConfigError, match="min_clip_score, which is not in the recipe; datacomp_basic has min_side, "):
        config(tmp_path, recipe="datacomp_basic", without=("min_clip_score",))
    with pytest.raises(ConfigError, match="min_side, which is given a value too"):
        config(tmp_path, recipe="datacomp_basic", without=("min_side",), rules=RulesConfig(min_side=5))


HASHED: dict[str, object] = {
    "uid": "e", "status": "ok", "run_id": "r", "content_hash": b"c", "pixel_hash": b"p", "phash": 1,
    "low_information": False,
}  # fmt: skip
"""A row of a table of evaluation images."""


def test_workers_in_another_folder_find_a_relative_table_of_evaluation_images(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_deltalake(tmp_path / "hashes", pa.Table.from_pylist([HASHED]), partition_by=["status"])
    monkeypatch.chdir(tmp_path)
    assert freeze(config(corpus, against=("hashes",))).reference_tables == ((str(tmp_path / "hashes"), "r"),)


def test_a_table_of_evaluation_images_that_grew_is_another_state(corpus: Path, tmp_path: Path) -> None:
    jobs = []
    for uid in ("e", "f"):
        write_deltalake(tmp_path / "hashes", pa.Table.from_pylist([HASHED | {"uid": uid}]), mode="append")
        jobs.append(freeze(config(corpus, against=(str(tmp_path / "hashes"),))))
    assert jobs[0].state != jobs[1].state
    assert jobs[0].state == dataclasses.replace(jobs[1], reference_digests=jobs[0].reference_digests).state
    # the table is as it was when the job was frozen, whatever becomes of it meanwhile
    assert len(jobs[1].reference_tables) == 1


PROBED: list[dict[str, Any]] = [
    {"model": "tiny"},
    {"quality": "aesthetic"},
    {"source_key": "from"},
    {"decoder_seconds": 3.0},
    {"decoder_bytes": 2**29},
    {"limit": 2},
    {"corpus": CorpusSettings(sidecars=False)},
]
SELECTED: list[dict[str, Any]] = [
    {"recipe": "llava_highres"},
    {"rules": RulesConfig(min_blur=3)},
    {"balance": BalanceConfig(total=2)},
]
PASSING: list[dict[str, Any]] = [
    {"num_workers": 2},
    {"plan": True},
    {"diff": True},
    {"stall_timeout": 5.0},
    {"retry_rejected": True},
    {"corpus": CorpusSettings(read_threads=32)},
]


def test_the_probe_is_named_by_what_it_measures_and_the_state_by_all(corpus: Path) -> None:
    base = freeze(config(corpus))
    probed = [freeze(config(corpus, **change)) for change in PROBED]
    assert len({base.run_id, *(job.run_id for job in probed)}) == 1 + len(PROBED)
    selected = [freeze(config(corpus, **change)) for change in SELECTED]
    assert {job.run_id for job in selected} == {base.run_id}
    assert len({base.state, *(job.state for job in [*selected, *probed])}) == 1 + len(SELECTED) + len(PROBED)
    passing = [freeze(config(corpus, **change)) for change in PASSING]
    names = {(job.run_id, job.state, job.shard.settings.run_id) for job in passing}
    assert names == {(base.run_id, base.state, base.shard.settings.run_id)}


def test_the_state_follows_files_and_their_run_does_not(corpus: Path) -> None:
    jobs: list[CurateJob] = [freeze(config(corpus))]
    (corpus / "3.jpg").write_bytes(encoded(scene(3)))
    jobs.append(freeze(config(corpus)))
    words, decisions = corpus.parent / "words.txt", corpus.parent / "v.json"
    for text in ("foo", "bar"):
        words.write_text(text)
        jobs.append(freeze(config(corpus, flagged_words=str(words))))
    for uid in ("a", "b"):
        decisions.write_text(json.dumps({"drop": [uid]}))
        jobs.append(freeze(config(corpus, overrides=str(decisions))))
    jobs.append(freeze(config(corpus, against=(str(corpus),))))
    assert len({job.state for job in jobs}) == len(jobs)
    assert jobs[0].run_id == jobs[1].run_id == jobs[-1].run_id
    assert len({jobs[0].run_id, jobs[2].run_id, jobs[3].run_id}) == 3
    assert jobs[-1].references == jobs[-1].fragments
    assert jobs[-1].reference_probe.settings.run_id != jobs[-1].run_id


def test_the_same_files_of_another_input_are_other_rows_because_their_source_is(corpus: Path) -> None:
    (corpus / "web").mkdir()
    (corpus / "web" / "9.jpg").write_bytes(encoded(scene(9)))
    inner, outer, slash = (
        freeze(config(corpus, input=(uri,))).fragments for uri in (f"{corpus}/web", str(corpus), f"{corpus}/")
    )
    assert {one.mark for one in outer} == {one.mark for one in slash} != {one.mark for one in inner}
    assert outer == tuple(dataclasses.replace(one, source=str(corpus)) for one in slash), "however it is spelled"
    (alone,) = inner
    root = alone.rows[0]
    assert [row for one in outer for row in one.rows if row == root] == [root]


def test_a_glob_of_a_folders_folders_names_the_rows_that_the_folder_names(corpus: Path) -> None:
    for place in ("web/9.jpg", "docs/8.jpg"):
        (corpus / place).parent.mkdir()
        (corpus / place).write_bytes(encoded(scene(9)))
    whole, matched, inner = (
        freeze(config(corpus, input=(uri,))).fragments for uri in (str(corpus), f"{corpus}/*", f"{corpus}/we*/*")
    )
    assert [one.fragment_id for one in whole] == [one.fragment_id for one in matched]
    assert {one.mark for one in inner} == {one.mark for one in whole}


@pytest.mark.parametrize(
    ("given", "place"),
    [("against", ("s3://b/eval",)), ("overrides", "s3://b/v.json"), ("flagged_words", "s3://b/w.txt")],
)
def test_the_keys_of_a_store_are_found_whatever_alone_is_in_it(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, given: str, place: Any
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    asked = config(corpus, **{given: place})
    assert _storage_options(asked, asked.output)["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9"
    assert _storage_options(config(corpus), asked.output) == {}


@pytest.mark.parametrize("place", ["memory://exam/img?.jpg", "memory://exam/a#1", "{folder}/exam%20set"])
def test_evaluation_images_may_have_names_that_tables_may_not(corpus: Path, place: str) -> None:
    store = fsspec.filesystem("memory")
    local = corpus.parent / "exam%20set"
    local.mkdir()
    for uri in ("/exam/img1.jpg", "/exam/a#1/img1.jpg"):
        store.pipe_file(uri, encoded(scene(7)))
    (local / "img1.jpg").write_bytes(encoded(scene(7)))
    uri = place.format(folder=corpus.parent)
    (found,) = freeze(config(corpus, against=(uri,))).references
    assert (found.num_rows, found.row_uri(0).endswith("/img1.jpg")) == (1, True)


def test_a_table_of_evaluation_images_may_not_lie_where_delta_looks_elsewhere(corpus: Path) -> None:
    table = corpus.parent / "exam%20set"
    (table / "_delta_log").mkdir(parents=True)
    with pytest.raises(ConfigError, match="'%20' in it, which Delta reads"):
        freeze(config(corpus, against=(str(table),)))


def test_all_runs_of_a_compacted_table_of_evaluation_images_are_held_against(corpus: Path) -> None:
    table = str(corpus.parent / "hashes")
    for run in ("r", "s", "t"):
        write_deltalake(table, pa.Table.from_pylist([HASHED | {"run_id": run}]), mode="append")
    DeltaTable(table).optimize.compact()
    assert freeze(config(corpus, against=(table,))).reference_tables == ((table, "r"), (table, "s"), (table, "t"))


@pytest.mark.parametrize(
    "change", [{"phash": "beef"}, {"pixel_hash": None}, {"low_information": None}, {"run_id": None}]
)
def test_a_table_that_cannot_be_matched_is_refused_before_any_work(corpus: Path, change: dict[str, Any]) -> None:
    row = {name: value for name, value in (HASHED | change).items() if value is not None}
    write_deltalake(corpus.parent / "hashes", pa.Table.from_pylist([row]))
    with pytest.raises(ConfigError, match=f"is a table without {next(iter(change))} as the probe writes"):
        freeze(config(corpus, against=(str(corpus.parent / "hashes"),)))


def clustered(rows: pa.Table) -> pa.Table:
    clusters, _ = dedupe_table(rows, DedupeConfig())
    place = [rows["uid"].to_pylist().index(uid) for uid in clusters["uid"].to_pylist()]
    return clusters.append_column("content_hash", rows["content_hash"].take(pa.array(place)))


A: Mapping[str, object] = {"uid": "a", "phash": 0b1111_0000, "width": 20}
B: Mapping[str, object] = {"uid": "b", "phash": 0b1111_0001}
C: Mapping[str, object] = {"uid": "c"}
D: Mapping[str, object] = {"uid": "d", "phash": 0b1111_0000, "width": 90}


def survivors(clusters: pa.Table) -> dict[str, str]:
    return {row["uid"]: row["survivor_uid"] for row in clusters.to_pylist()}


def test_new_rows_meet_the_index_whose_survivors_stay() -> None:
    earlier = clustered(table(dict(A), dict(B), dict(C)))
    rows = table(dict(A), dict(B), dict(C), dict(D))
    kept = still_there(earlier, rows)
    assert kept is not None
    grown, fresh = grow(kept, rows, DedupeConfig(), None, frozenset())
    assert fresh == 1
    # all at once, the larger "d" would survive
    assert survivors(grown) == {"a": "a", "b": "a", "c": "c", "d": "a"}
    assert survivors(clustered(rows))["a"] == "d"
    assert grown["uid"].to_pylist() == ["a", "b", "c", "d"]
    assert grow(kept, rows.slice(0, 3), DedupeConfig(), None, frozenset())[1] == 0


def test_rows_that_changed_or_went_leave_and_orphans_start_all_over() -> None:
    rows = table(dict(A), dict(B), dict(C))
    earlier = clustered(rows)
    without_copy = still_there(earlier, table(dict(A), dict(C)))
    assert without_copy is not None
    assert survivors(without_copy) == {"a": "a", "c": "c"}
    assert still_there(earlier, table(dict(B), dict(C))) is None
    changed = {**C, "content_hash": b"other bytes"}
    kept = still_there(earlier, table(dict(A), dict(B), changed))
    assert kept is not None
    assert survivors(kept) == {"a": "a", "b": "a"}
    assert still_there(earlier, table({**A, "content_hash": b"other"}, dict(B), dict(C))) is None
