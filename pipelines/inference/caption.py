"""The stage that captions: rows of a fragment in, one row of the `captions` table for each out.

`caption_rows` is all of its arithmetic and runs without Ray; `CaptionStage` is what an actor holds: one engine, loaded
once. What this does *not* do: commit (`collect`), or choose which fragments are still missing (`flow`).
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from llava_core.engine.types import Request, Result, SamplingConfig
from llava_core.errors import ImageRefused
from llava_core.images import decode_image
from pipelines.fragments import CorpusRow
from pipelines.inference.resolution import Resolution, image_resolution, tile_bound
from schemas.caption import CAPTION
from schemas.reasons import CorpusReason

STAGE_VERSION = 1
"""Part of a run's identity: raise it whenever a change here gives the same input another row."""


class Captioner(Protocol):
    """What the stage needs of an engine (`llava_core.Engine`)."""

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request, in order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionSettings:
    """Everything that changes a row, resolved; travels to the workers."""

    run_id: str
    """Identity of the run, written into each row."""
    model: str
    """As the user named it."""
    model_revision: str
    """Content hash of the checkpoint."""
    prompt: str
    """What the model is asked about each image."""
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


def caption_rows(
    rows: Iterable[CorpusRow], engine: Captioner, settings: CaptionSettings, *, fragment_id: str
) -> pa.Table:
    """Caption the rows of one fragment.

    Args:
        rows: the fragment's, in order; those that carry an error are passed on as rejected.
        engine: answers requests in order, refusing those that it cannot serve.
        settings: of the run.
        fragment_id: the fragment's, written into each row.

    Returns:
        One row of `CAPTION` for each input row, in the same order. A row never raises; it carries `error` instead.
    """
    records: list[dict[str, Any]] = []
    for chunk in _chunks(rows, settings.chunk_rows):
        requests = [_request(row, settings) for row in chunk]
        admitted = [request for request in requests if isinstance(request, Request)]
        answers = iter(engine.generate(admitted))
        for row, request in zip(chunk, requests, strict=True):
            result = next(answers) if isinstance(request, Request) else request
            records.append(_record(row, result, settings, fragment_id))
    return pa.Table.from_pylist(records, schema=CAPTION)


def _chunks(rows: Iterable[CorpusRow], size: int) -> Iterator[list[CorpusRow]]:
    """Lists of at most `size` rows, read only as they are asked for."""
    source = iter(rows)
    while chunk := list(itertools.islice(source, size)):
        yield chunk


def _request(row: CorpusRow, settings: CaptionSettings) -> Request | Result:
    """A row's request, or the result of a row that cannot become one."""
    if row.error is not None:
        return Result(request_id=row.uid, error=row.error, error_detail=row.error_detail)
    if not row.images:
        return Result(
            request_id=row.uid, error=str(CorpusReason.MISSING_PART), error_detail="the row has no image to caption"
        )
    images: tuple[Any, ...] = row.images
    resolution = settings.resolution
    if resolution == "auto":
        try:
            images = tuple(decode_image(data) for data in row.images)
        except ImageRefused as refused:
            return Result(request_id=row.uid, error=str(refused.reason), error_detail=refused.detail)
        wanted = {image_resolution(image, settings.tile_side) for image in images}
        resolution = "high" if "high" in wanted else "medium"
    return Request(
        request_id=row.uid,
        prompt=settings.prompt,
        images=images,
        sampling=settings.sampling,
        max_tiles=tile_bound(resolution, settings.max_tiles),
    )


def _record(row: CorpusRow, result: Result, settings: CaptionSettings, fragment_id: str) -> dict[str, Any]:
    """One row of `CAPTION`; columns that are not named are null."""
    record: dict[str, Any] = {
        "uid": row.uid,
        "uri": row.uri,
        "fragment_id": fragment_id,
        "run_id": settings.run_id,
        "status": "ok" if result.error is None else "rejected",
        "prompt": settings.prompt,
        "model": settings.model,
        "model_revision": settings.model_revision,
        "error": result.error,
        "error_detail": result.error_detail,
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
    }
