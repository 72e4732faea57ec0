"""Selecting, sharding, exporting and reporting with every table in an object store."""

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import tables
from pipelines.corpus import plan_corpus
from pipelines.corpus_settings import DEFAULT_COLUMNS, DEFAULT_SETTINGS
from pipelines.curation.export import ExportConfig, export_corpus, row_groups, shard_paths
from pipelines.curation.report_stage import ReportWork, write_report
from pipelines.curation.rules import RulesConfig
from pipelines.curation.select import SelectConfig
from pipelines.curation.select_stage import read_selection, select_stage
from pipelines.curation.shard import write_shard
from pipelines.curation.shard_plan import plan_shards
from pipelines.curation.shard_stage import shard_work
from pipelines.parts import write_fragment
from pipelines.storage import corpus_options, join_uri, read_bytes
from schemas.cluster import CLUSTER
from schemas.score import SCORE
from schemas.shard import SHARD
from tests.pipelines.curation.score_cases import clusters, scores
from tests.pipelines.curation.shard_cases import SETTINGS, SIZE, photo
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]

STAMPS = {"fragment_id": "part0", "run_id": "dedupe", "status": "ok", "error": None, "error_detail": None}


def put_tables(root: str, table: pa.Table, options: dict[str, str]) -> None:
    """Commit `scores` and `clusters`."""
    for name in table["fragment_id"].unique().to_pylist():
        part = table.filter(pc.equal(table["fragment_id"], name))
        where: dict[str, Any] = {"table_uri": f"{root}/scores", "storage_options": options}
        receipt = write_fragment(part, SCORE, fragment_id=name, run_id="probe", **where)
        tables.commit(f"{root}/scores", [receipt], run_id="probe", schema=SCORE, storage_options=options)
    schema = pa.schema([*CLUSTER, *(SCORE.field(name) for name in STAMPS)])
    rows = pa.Table.from_pylist([row | STAMPS for row in clusters(table).to_pylist()], schema)
    where = {"table_uri": f"{root}/clusters", "storage_options": options}
    receipt = write_fragment(rows, schema, fragment_id="part0", run_id="dedupe", **where)
    tables.commit(f"{root}/clusters", [receipt], run_id="dedupe", schema=schema, storage_options=options)


def test_from_scores_to_tars_in_a_bucket(s3_bucket: S3Bucket) -> None:
    options, root = s3_bucket.delta_options, f"{s3_bucket.uri}/out"
    photos = {f"{number}.jpg": photo(20 + number, 33, number) for number in range(5)}
    for name, data in photos.items():
        s3_bucket.put(f"photos/{name}", data)
    fragments = plan_corpus([f"{s3_bucket.uri}/photos"], storage_options=corpus_options(root, options))
    rows = [
        {"uid": one.row_uid(index), "uri": one.row_uri(index), "fragment_id": one.fragment_id, "row_index": index}
        for one in fragments
        for index in range(one.num_rows)
    ]
    table = scores(*[row | {"blur": 10.0 * place, "n_image_tokens": None} for place, row in enumerate(rows)])
    for name in (name for name in SCORE.names if name not in table.column_names):
        values = pa.repeat("probe", 5) if name == "run_id" else pa.nulls(5, SCORE.field(name).type)
        table = table.append_column(name, values)
    put_tables(root, table.select(SCORE.names).cast(SCORE), options)
    config = SelectConfig(rules=RulesConfig(min_blur=20))
    places = [join_uri(root, name) for name in ("scores", "clusters", "selection")]
    runs = {"scores_run": "probe", "clusters_run": "dedupe"}
    selected = select_stage(*places, config, **runs, storage_options=options)
    assert selected.table["error"].to_pylist().count(None) == 3
    assert selected.table.equals(read_selection(places[2], storage_options=options))
    kept = selected.table.filter(pc.equal(selected.table["status"], "ok"))
    receipts = [
        write_shard(
            shard_work(plan, {one.fragment_id: one for one in fragments}),
            SETTINGS,
            table_uri=f"{root}/shards",
            storage_options=options,
            columns=DEFAULT_COLUMNS,
            corpus=DEFAULT_SETTINGS,
        )
        for plan in plan_shards(kept, fragments, SIZE)
    ]
    tables.commit(f"{root}/shards", receipts, run_id=SETTINGS.run_id, schema=SHARD, storage_options=options)
    export = ExportConfig(input=f"{root}/shards", output=f"{root}/tars")
    stored = [
        row
        for path in shard_paths(export, options)
        for group in row_groups(join_uri(export.input, path), options)
        for row in group.to_pylist()
    ]
    assert {row["uri"].rpartition("/")[2]: row["images"][0] for row in stored}.items() < photos.items()
    assert len(stored) == 3
    assert export_corpus(export, options)["rows"] == 3
    work = ReportWork(output=root, **runs, fragments=tuple(fragments), config=config, storage_options=options)
    assert b"BLURRED" in read_bytes(write_report(work), options)
    for receipt in receipts:
        for file in receipt.files:
            data = read_bytes(join_uri(export.input, file.path), options)
            assert hashlib.sha256(data).hexdigest()[:12] in file.path
