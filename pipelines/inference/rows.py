"""The arithmetic of the stage: rows of a corpus in, rows of a table out. Runs without Ray and without a model.

    row ─ inquiry.ask ─▶ prompts ─ images once ─▶ requests ─ engine ─▶ results ─ inquiry.read ─▶ rows of the table

All requests about one image reach the engine in one call, side by side, so that it can encode the image once. What this
does *not* do: know what is asked (`inquiry`), write the table (`stage`).
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from llava_core.engine.types import Request, Result, SamplingConfig
from llava_core.errors import ImageRefused
from llava_core.images import decode_image
from llava_core.resolution import Resolution, image_resolution, tile_bound
from pipelines.fragments import CorpusRow
from pipelines.inference.inquiry import Asked, Inquiry
from pipelines.inference.questions import Question
from pipelines.inference.work import Work
from schemas.reasons import CorpusReason


class Generator(Protocol):
    """What the stage needs of an engine (`llava_core.Engine`)."""

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request, in order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """Everything that changes a row beside what is asked, resolved; travels to the workers."""

    run_id: str
    """Identity of the run, written into each row."""
    model: str
    """As the user named it."""
    model_revision: str
    """Content hash of the checkpoint."""
    sampling: SamplingConfig
    """How tokens are chosen."""
    resolution: Resolution
    """Settled for all rows, or "auto": each image decides."""
    max_tiles: int | None
    """The user's bound on tiles beyond the base tile."""
    tile_side: int
    """Side of the model's tiles, pixels."""
    chunk_rows: int
    """Rows whose images are in memory at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    """One row of the table, before its reply."""

    row: CorpusRow
    """The row of the corpus."""
    asked: Asked
    """What is asked."""
    request: Request | Result
    """The request, or the result of what cannot become one."""


def generate_rows(
    rows: Iterable[CorpusRow], engine: Generator, settings: RunSettings, inquiry: Inquiry, work: Work
) -> pa.Table:
    """Ask an engine about the rows of one fragment.

    Args:
        rows: the fragment's, in order; those that carry an error are passed on as rejected.
        engine: answers requests in order, refusing those that it cannot serve.
        settings: of the run.
        inquiry: what is asked.
        work: that the rows are of.

    Returns:
        The rows of `inquiry.schema` that the work asks for, those of one corpus row together and in order. A row never
        raises; it carries `error` instead.
    """
    questions: dict[int | None, list[Question]] = {}
    for question in work.questions:
        questions.setdefault(question.row, []).append(question)
    records: list[dict[str, Any]] = []
    for chunk in _chunks(rows, settings.chunk_rows):
        prepared = [
            one
            for row in chunk
            for one in _prepare(row, [*questions.get(None, ()), *questions.get(row.index, ())], settings, inquiry)
        ]
        replies = iter(engine.generate([one.request for one in prepared if isinstance(one.request, Request)]))
        for one in prepared:
            result = next(replies) if isinstance(one.request, Request) else one.request
            records.append(_record(one, result, settings, inquiry, work.work_id))
    return pa.Table.from_pylist(records, schema=inquiry.schema)


def _chunks(rows: Iterable[CorpusRow], size: int) -> Iterator[list[CorpusRow]]:
    """Lists of at most `size` rows, read only as they are asked for."""
    source = iter(rows)
    while chunk := list(itertools.islice(source, size)):
        yield chunk


def _prepare(
    row: CorpusRow, questions: Sequence[Question], settings: RunSettings, inquiry: Inquiry
) -> Iterator[_Prepared]:
    """Yield what is asked about one row; its images are looked at once, and only if anything is."""
    asked = inquiry.ask(row, questions)
    if not asked:
        return
    images, bound, refused = _look(row, settings)
    for number, one in enumerate(asked):
        request_id = f"{row.uid}/{number}"
        request: Request | Result
        if refused is not None:
            request = Result(request_id=request_id, error=refused[0], error_detail=refused[1])
        elif one.prompt is None:
            assert one.refusal is not None, "what has no prompt has a reason"
            request = Result(request_id=request_id, error=one.refusal.reason, error_detail=one.refusal.detail)
        else:
            request = Request(
                request_id=request_id, prompt=one.prompt, images=images, sampling=settings.sampling, max_tiles=bound
            )
        yield _Prepared(row=row, asked=one, request=request)


def _look(row: CorpusRow, settings: RunSettings) -> tuple[tuple[Any, ...], int | None, tuple[str, str | None] | None]:
    """A row's images as the engine takes them, the bound on their tiles, and why there are none."""
    if row.error is not None:
        return (), None, (row.error, row.error_detail)
    if not row.images:
        return (), None, (str(CorpusReason.MISSING_PART), "the row has no image")
    images: tuple[Any, ...] = row.images
    resolution = settings.resolution
    if resolution == "auto":
        try:
            images = tuple(decode_image(data) for data in row.images)
        except ImageRefused as refused:
            return (), None, (str(refused.reason), refused.detail)
        wanted = {image_resolution(image, settings.tile_side) for image in images}
        resolution = "high" if "high" in wanted else "medium"
    return images, tile_bound(resolution, settings.max_tiles), None


def _record(one: _Prepared, result: Result, settings: RunSettings, inquiry: Inquiry, work_id: str) -> dict[str, Any]:
    """One row of the table; columns that are not named are null."""
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
        "grid_rows": grid.height,
        "grid_cols": grid.width,
        "image_height": size.height,
        "image_width": size.width,
        **inquiry.read(one.asked, result),
    }
