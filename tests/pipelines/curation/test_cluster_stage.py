"""The stage between tables: here or on Ray Data the same rows, and semantic duplicates where embeddings are."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipelines import tables
from pipelines.curation.cluster_stage import ClusterWork, _references, cluster_stage
from pipelines.curation.dedupe import DedupeConfig
from pipelines.curation.select_stage import read_rows
from pipelines.curation.semantic import SemanticConfig
from pipelines.parts import write_fragment
from schemas.cluster import CLUSTER
from schemas.score import SCORE

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def score(number: int, phash: int, embedding: list[float] | None) -> dict[str, Any]:
    name = f"{number:03d}"
    return {
        "uid": name, "uri": f"/c/{name}", "fragment_id": "f", "row_index": number, "run_id": "r", "status": "ok",
        "source": "web", "content_hash": name.encode() * 5, "pixel_hash": name.encode()[::-1] * 5, "phash": phash,
        "low_information": False, "width": 100 + number, "height": 90, "quality": 0.5, "embedding": embedding,
    }  # fmt: skip


def work(folder: Path, rows: list[dict[str, Any]], local_rows: int) -> ClusterWork:
    """`scores` of some rows, cut into fragments of 7, and what the stage is to make of them."""
    uri = str(folder / "scores")
    receipts = []
    for at in range(0, len(rows), 7):
        own = [row | {"fragment_id": f"f{at:03d}"} for row in rows[at : at + 7]]
        table = pa.Table.from_pylist(own, schema=SCORE)
        receipts.append(write_fragment(table, SCORE, table_uri=uri, fragment_id=f"f{at:03d}", run_id="r"))
    tables.commit(uri, receipts, run_id="r", schema=SCORE)
    config = DedupeConfig(semantic=SemanticConfig(epsilon=0.01, clusters=1), local_rows=local_rows)
    return ClusterWork(
        scores_uri=uri,
        scores_run="r",
        clusters_uri=str(folder / "clusters"),
        config=config,
        references=(),
        vetoes=frozenset(),
        storage_options={},
    )


def clusters(given: ClusterWork) -> list[dict[str, Any]]:
    run_id = cluster_stage(given).run_id
    return list(read_rows(given.clusters_uri, CLUSTER.names, run_id=run_id).sort_by("uid").to_pylist())


def test_here_and_on_ray_data_clusters_are_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    hashes = [int(value) for value in rng.integers(-(2**63), 2**63, 60)]
    # 6 near-duplicates, 2 bits from others, and three rows in one direction, 12 degrees from the next
    hashes[40:46] = [value ^ 0b101 for value in hashes[10:16]]
    angles = {number: np.radians(number * 12) for number in range(20, 30)} | {31: np.radians(240), 33: np.radians(240)}
    vectors = {number: [float(np.cos(angle)), float(np.sin(angle))] for number, angle in angles.items()}
    rows = [score(number, hashes[number], vectors.get(number)) for number in range(60)]
    here = clusters(work(tmp_path / "here", rows, 1000))
    there = clusters(work(tmp_path / "there", rows[::-1], 0))
    assert here == there
    kinds = {row["uid"]: (row["kind"], row["survivor_uid"]) for row in here if row["kind"]}
    assert {uid: kind for uid, (kind, _) in kinds.items() if kind == "near"} == dict.fromkeys(
        [f"{number:03d}" for number in range(10, 16)], "near"
    ), "the wider of each pair survives"
    semantic = {uid for uid, (kind, _) in kinds.items() if kind == "semantic"}
    assert len(semantic) == 2, "20, 31 and 33 point the same way; one of them is left"
    assert semantic < {"020", "031", "033"}


def test_evaluation_images_that_were_probed_twice_count_once(tmp_path: Path) -> None:
    hashes = [int(value) for value in np.random.default_rng(5).integers(-(2**63), 2**63, 100)]
    given = work(tmp_path, [score(number, hashes[number], None) for number in range(1, 9)], 1000)
    other = work(tmp_path / "set", [score(number, hashes[number], None) for number in (3, 91)], 1000)
    again = pa.Table.from_pylist([score(3, hashes[3], None) | {"run_id": "r2"}], schema=SCORE)
    receipt = write_fragment(again, SCORE, table_uri=other.scores_uri, fragment_id="f", run_id="r2")
    tables.commit(other.scores_uri, [receipt], run_id="r2", schema=SCORE)
    sets = [(other.scores_uri, "r"), (other.scores_uri, "r2")]
    against = _references(dataclasses.replace(given, references=sets))
    assert against is not None and sorted(against["uid"].to_pylist()) == ["003", "091"]
    found = clusters(dataclasses.replace(given, references=sets))
    assert [row["uid"] for row in found if row["role"] == "contaminated"] == ["003"]


def test_evaluation_images_of_a_table_that_somebody_else_made(tmp_path: Path) -> None:
    hashes = [int(value) for value in np.random.default_rng(6).integers(-(2**63), 2**63, 100)]
    given = work(tmp_path, [score(number, hashes[number], None) for number in range(1, 9)], 1000)
    probed = work(tmp_path / "set", [score(number, hashes[number], None) for number in (5, 91)], 1000)
    names = ["uid", "status", "run_id", "content_hash", "pixel_hash", "phash", "low_information"]
    foreign = [{name: score(number, hashes[number] ^ 1, None)[name] for name in names} for number in (3, 92)]
    foreign = [row | {"uid": f"x{row['uid']}", "content_hash": b"c", "pixel_hash": b"p"} for row in foreign]
    write_deltalake(tmp_path / "hashes", pa.Table.from_pylist(foreign), partition_by=["status"])
    sets = [(probed.scores_uri, "r"), (str(tmp_path / "hashes"), "r")]
    found = clusters(dataclasses.replace(given, references=sets))
    seen = [(row["uid"], row["survivor_uid"], row["kind"]) for row in found if row["role"] == "contaminated"]
    assert seen == [("003", "x003", "near"), ("005", "005", "exact_content")]


def test_where_it_is_done_is_no_reason_to_do_it_again_and_embeddings_start_all_over(tmp_path: Path) -> None:
    rows = [score(number, number << 40 | number << 20 | number, None) for number in range(1, 30)]
    given = work(tmp_path, rows, 1000)
    first = cluster_stage(given)
    assert first.fresh == 29
    elsewhere = dataclasses.replace(given, config=dataclasses.replace(given.config, local_rows=0))
    assert cluster_stage(elsewhere).fresh == 0
    table = pa.Table.from_pylist([score(90, -5, [1.0, 0.5]) | {"fragment_id": "new"}], schema=SCORE)
    receipt = write_fragment(table, SCORE, table_uri=given.scores_uri, fragment_id="new", run_id="r")
    tables.commit(given.scores_uri, [receipt], run_id="r", schema=SCORE)
    grown = cluster_stage(given)
    assert (grown.incremental, grown.fresh) == (False, 30)
