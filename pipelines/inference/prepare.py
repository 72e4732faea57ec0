"""What happens to rows before an engine sees them: cut into chunks, asked about, their images decoded elsewhere.

What this does *not* do: run an engine (`rows`), decode in this process (`pipelines.sandbox`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llava_core.engine.types import Request, Result, SamplingConfig
from llava_core.errors import ImageRefused
from llava_core.images import read_header
from llava_core.resolution import Resolution, image_resolution, tile_bound
from pipelines.fragments import CorpusRow
from pipelines.inference.inquiry import Asked, Inquiry
from pipelines.inference.questions import Question
from pipelines.inference.work import Work
from schemas.reasons import CorpusReason

CHUNK_BYTES = 2**28
"""Decoded bytes of a chunk's images: of photos of 12 megapixels 7 are in one, of small ones as many as a chunk has."""

Pixels = NDArray[np.uint8]


class Decoder(Protocol):
    """What decodes images (`pipelines.sandbox.Sandbox`)."""

    def decode(self, files: Sequence[bytes]) -> Sequence[Pixels | ImageRefused]:
        """For each image, in order, uint8[H, W, 3] or why it was refused."""
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
class Prepared:
    """One row of the table, before its reply."""

    row: CorpusRow
    """The row of the corpus."""
    asked: Asked
    """What is asked."""
    request: Request | Result
    """The request, or the result of what cannot become one."""


def prepare_chunks(
    rows: Iterable[CorpusRow], decoder: Decoder, settings: RunSettings, inquiry: Inquiry, work: Work
) -> Iterator[list[Prepared]]:
    """Make requests of rows, a chunk at a time; rows are read only as they are asked for.

    Args:
        rows: of one fragment, in order.
        decoder: of their images.
        settings: of the run.
        inquiry: what is asked.
        work: that the rows are of.

    Yields:
        What the table's rows come of, in order.
    """
    questions: dict[int | None, list[Question]] = {}
    for question in work.questions:
        questions.setdefault(question.row, []).append(question)
    for chunk in _chunks(rows, settings.chunk_rows):
        asked = [inquiry.ask(row, [*questions.get(None, ()), *questions.get(row.index, ())]) for row in chunk]
        # of rows that nothing is asked of, and of those that are refused, no image is looked at
        wanted = [row.images if any(one.prompt is not None for one in own) else () for row, own in _pairs(chunk, asked)]
        answers = iter(decoder.decode([image for images in wanted for image in images]))
        decoded = [[next(answers) for _ in images] for images in wanted]
        yield [
            one
            for (row, own), images in zip(_pairs(chunk, asked), decoded, strict=True)
            for one in _prepare(row, own, images, settings)
        ]


def _chunks(rows: Iterable[CorpusRow], size: int) -> Iterator[list[CorpusRow]]:
    """Lists of at most `size` rows and `CHUNK_BYTES` of pixels, or one row that has more."""
    chunk: list[CorpusRow] = []
    room = CHUNK_BYTES
    for row in rows:
        need = sum(map(_decoded_bytes, row.images))
        if chunk and need > room:
            yield chunk
            chunk, room = [], CHUNK_BYTES
        chunk.append(row)
        room -= need
        if len(chunk) == size:
            yield chunk
            chunk, room = [], CHUNK_BYTES
    if chunk:
        yield chunk


def _decoded_bytes(data: bytes) -> int:
    """Bytes of an image's pixels, by its header; 0 for one that will be refused."""
    try:
        size = read_header(data).size
    except ImageRefused:
        return 0
    return 3 * size.height * size.width


def _pairs(rows: Sequence[CorpusRow], asked: Sequence[Sequence[Asked]]) -> Iterator[tuple[CorpusRow, Sequence[Asked]]]:
    return zip(rows, asked, strict=True)


def _prepare(
    row: CorpusRow, asked: Sequence[Asked], images: Sequence[Pixels | ImageRefused], settings: RunSettings
) -> Iterator[Prepared]:
    """Yield what is asked about one row."""
    refused = _fault(row, images)
    pixels = tuple(image for image in images if not isinstance(image, ImageRefused))
    bound = None if refused else _bound(pixels, settings)
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
                request_id=request_id, prompt=one.prompt, images=pixels, sampling=settings.sampling, max_tiles=bound
            )
        yield Prepared(row=row, asked=one, request=request)


def _fault(row: CorpusRow, images: Sequence[Pixels | ImageRefused]) -> tuple[str, str | None] | None:
    """Why nothing can be asked about a row: the reader's reason, no image, or the first bad one."""
    if row.error is not None:
        return row.error, row.error_detail
    if not row.images:
        return str(CorpusReason.MISSING_PART), "the row has no image"
    return next(((str(one.reason), one.detail) for one in images if isinstance(one, ImageRefused)), None)


def _bound(images: Sequence[Pixels], settings: RunSettings) -> int | None:
    """The bound on tiles of a row's images."""
    resolution = settings.resolution
    if resolution == "auto":
        wanted = {image_resolution(image, settings.tile_side) for image in images}
        resolution = "high" if "high" in wanted else "medium"
    return tile_bound(resolution, settings.max_tiles)
