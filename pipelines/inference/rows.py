"""The arithmetic of the stage: rows of a corpus in, rows of a table out. Runs without Ray and without a model.

    rows ─ prepare ─▶ requests ─ engine ─▶ results ─ inquiry.read ─▶ rows of the table, in their own order
           (one chunk ahead of the engine, in a thread)

All requests about one image reach the engine in one call, side by side, so that it can encode the image once. What this
does *not* do: know what is asked (`inquiry`), write the table (`stage`).
"""

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from pipelines.fragments import CorpusRow
from pipelines.inference.engine_process import Generator
from pipelines.inference.inquiry import Inquiry
from pipelines.inference.prepare import Decoder, Prepared, RunSettings, prepare_chunks
from pipelines.inference.replies import Replies, Reply
from pipelines.inference.work import Work
from pipelines.progress import ahead


def generate_rows(
    rows: Iterable[CorpusRow],
    engine: Generator,
    decoder: Decoder,
    settings: RunSettings,
    inquiry: Inquiry,
    work: Work,
    replies: Replies | None = None,
    note: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Ask an engine about the rows of one fragment.

    Args:
        rows: the fragment's, in order; those that carry an error are passed on as rejected.
        engine: answers requests in order, refusing those that it cannot serve.
        decoder: of the images.
        settings: of the run.
        inquiry: what is asked.
        work: that the rows are of.
        replies: what the worker remembers of earlier fragments; of nothing by default.
        note: told after each chunk how many rows it made, and how many tokens, of prompts and replies, they took.

    Returns:
        The rows of `inquiry.schema` that the work asks for, those of one corpus row together and in order. A row never
        raises; it carries `error` instead.
    """
    replies = replies or Replies()
    replies.begin()
    records: list[tuple[int, dict[str, Any]]] = []
    for prepared in ahead(prepare_chunks(rows, decoder, settings, inquiry, work, replies)):
        leaders = [one for one in prepared if one.request is not None]
        results = engine.generate([one.request for one in leaders if one.request is not None])
        for one, result in zip(leaders, results, strict=True):
            assert one.key is not None, "what is asked has a key"
            replies.add(one.key, Reply(result, one.bound))
        for one in prepared:
            if one.refused is not None:
                reply = Reply(one.refused, None)
            else:
                assert one.key is not None, "what is neither asked nor refused does not exist"
                reply = replies.of(one.key)
            records.append((one.place, _record(one, reply, settings, inquiry, work.work_id)))
        if note is not None:
            note(len(prepared), sum(one.num_prompt_tokens + len(one.token_ids) for one in results))
    ordered = [record for _, record in sorted(records, key=lambda pair: pair[0])]
    return pa.Table.from_pylist(ordered, schema=inquiry.schema)


def _record(one: Prepared, reply: Reply, settings: RunSettings, inquiry: Inquiry, work_id: str) -> dict[str, Any]:
    """One row of the table; columns that are not named are null."""
    result = reply.result
    record: dict[str, Any] = {
        "uid": one.row.uid,
        "uri": one.row.uri,
        "fragment_id": work_id,
        "run_id": settings.run_id,
        "status": "ok" if result.error is None else "rejected",
        "model": settings.model,
        "model_revision": settings.model_revision,
        "error": result.error,
        "error_detail": result.error_detail,
        **one.asked.columns,
    }
    if result.error is not None:
        return record
    size, grid = result.image_sizes[0], result.grids[0]
    return record | {
        "text": result.text,
        "finish_reason": result.finish_reason,
        "num_prompt_tokens": result.num_prompt_tokens,
        "num_image_tokens": result.num_image_tokens,
        "num_output_tokens": len(result.token_ids),
        "mean_logprob": result.mean_logprob,
        "min_logprob": result.min_logprob,
        "max_tiles": reply.bound,
        "grid_rows": grid.height,
        "grid_cols": grid.width,
        "image_height": size.height,
        "image_width": size.width,
        **inquiry.read(one.asked, result),
    }
