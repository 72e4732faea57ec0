"""`gallery.html`: a sample of a run, to look at the result.

Replies are read back from the table, images from the corpus they came from; which ones is decided by hashes, so the
same table gives the same page. What this does *not* do: run on the driver (`finish` sends it to a worker), decode in
its process (`thumbnails`), or draw the page (`gallery_page`).
"""

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.dataset as ds

from pipelines.accounts import Counts
from pipelines.inference.gallery_page import Card, Rejection, render_page
from pipelines.inference.stage import StageSpec
from pipelines.inference.thumbnails import read_thumbnails
from pipelines.inference.work import Work, total_rows
from pipelines.storage import write_bytes
from pipelines.tables import dataset, open_table

MAX_REPLIES, MAX_REJECTIONS = 200, 100
MAX_FRAGMENTS = 25
"""Images come from at most this many fragments, so that a large corpus is not read again."""
_COLUMNS = [
    *("uid", "uri", "fragment_id", "num_image_tokens", "num_output_tokens", "mean_logprob"),
    *("grid_rows", "grid_cols", "image_height", "image_width"),
]


def write_gallery(uri: str, works: Sequence[Work], spec: StageSpec, counts: Counts, *, trained: bool) -> None:
    """Draw the page of a run and write it.

    Args:
        uri: of the page.
        works: all of the run.
        spec: of the run's stage.
        counts: of the run.
        trained: False puts a warning on top.
    """
    settings, inquiry = spec.settings, spec.inquiry
    chosen = {one.work_id: one.fragment for one in heapq.nsmallest(MAX_FRAGMENTS, works, key=_work_order)}
    replies = _sample(spec, "ok", [*_COLUMNS, *inquiry.shown_columns], set(chosen), MAX_REPLIES)
    names = {one.work_id for one in works}
    rejected = _sample(spec, "rejected", ["uid", "uri", "fragment_id", "error", "error_detail"], names, MAX_REJECTIONS)
    thumbnails = read_thumbnails(replies, chosen, spec)
    page = render_page(
        title=inquiry.title,
        lead=f"{inquiry.lead} asked of {settings.model} (revision {settings.model_revision}); "
        f"run {settings.run_id} in {spec.table_uri}",
        note=None if trained else "This model is not trained: its weights are random, and its replies are noise.",
        counts={
            "rows in": max(counts.rows, total_rows(works)),
            "ok": counts.ok,
            "rejected": sum(counts.rejected.values()),
        },
        cards=[
            Card(name=row["uri"], text=inquiry.show(row), facts=_facts(row), thumbnail=thumbnails.get(row["uid"]))
            for row in replies
        ],
        rejections=[
            Rejection(name=row["uri"], reason=row["error"], detail=row["error_detail"] or "") for row in rejected
        ],
    )
    write_bytes(uri, page.encode(), spec.storage_options)


def _sample(spec: StageSpec, status: str, columns: list[str], fragments: set[str], most: int) -> list[dict[str, Any]]:
    """The run's rows of some fragments with the least hashes, sorted by uri; flat in memory."""
    rows = _rows(spec, status, columns, fragments)
    return sorted(heapq.nsmallest(most, rows, key=lambda row: _hash(row["uid"])), key=lambda row: str(row["uri"]))


def _rows(spec: StageSpec, status: str, columns: list[str], fragments: set[str]) -> Iterator[dict[str, Any]]:
    table = open_table(spec.table_uri, spec.storage_options)
    if table is None:
        return
    mine = (ds.field("run_id") == spec.settings.run_id) & (ds.field("status") == status)
    wanted = mine & ds.field("fragment_id").isin(sorted(fragments))
    for batch in dataset(table).to_batches(columns=columns, filter=wanted):
        yield from batch.to_pylist()


def _facts(row: dict[str, Any]) -> str:
    grid = f"{row['grid_rows']}×{row['grid_cols']} tiles" if row["grid_rows"] else "base tile alone"
    size = f"{row['image_width']} px wide, {row['image_height']} high"
    tokens = f"{row['num_image_tokens']:,} image tokens, {row['num_output_tokens']:,} generated"
    return f"{size}, {grid}, {tokens}, mean logprob {row['mean_logprob']:.2f}"


def _work_order(work: Work) -> bytes:
    return _hash(work.work_id)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
