"""What happens to rows before an engine sees them.

    rows ─ window ─ asked, repeats found ─ tiles chosen ─ longest first ─▶ chunks ─ tiled elsewhere ─▶ requests

Rows are read a window at a time. In it they are ordered by the tokens that their headers promise, so that requests of
one length are prefilled and decoded together; the table has them in their own order again (`rows`). What this does
*not* do: run an engine (`rows`), decode in this process (`pipelines.sandbox`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from llava_core.config import ModelConfig, plan_tiles
from llava_core.engine.types import Request, Result, SamplingConfig
from llava_core.errors import ImageRefused
from llava_core.geometry import Size, TilePlan
from llava_core.images import read_header
from llava_core.resolution import Resolution, tile_bound
from pipelines.fragments import CorpusRow
from pipelines.inference.budget import Look, spend
from pipelines.inference.inquiry import Asked, Inquiry
from pipelines.inference.questions import Question
from pipelines.inference.replies import Key, Replies, Reply, content_hash, key_of
from pipelines.inference.tiles import Tiled, Wish
from pipelines.inference.work import Work
from schemas.reasons import CorpusReason

WINDOW_ROWS, WINDOW_BYTES = 256, 2**28
"""Rows, and bytes of their encoded images, that are ordered among themselves: 64 photos of 4 MB."""
CHUNK_BYTES = 2**28
"""Bytes of a chunk's images and of their tiles: where a photo has 4 and 1.7 MB of them, 47 are in one."""

T = TypeVar("T")


class Decoder(Protocol):
    """What decodes images in processes that may die (`decoders.Decoders`)."""

    def tile(self, files: Sequence[bytes], wishes: Sequence[Wish]) -> Sequence[Tiled | ImageRefused]:
        """For each image, in order, its tiles and the bound of the wish that was taken, or why it was refused."""
        ...

    def details(self, files: Sequence[bytes]) -> Sequence[int | None]:
        """For each image, in order, `lost_detail`; None for one that is refused."""
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
    visual_budget: int | None
    """Image tokens of an image, on average; None leaves it to the resolution."""
    config: ModelConfig
    """The model's."""
    chunk_rows: int
    """Rows whose images are in memory at once."""


@dataclass(slots=True)
class Prepared:
    """One row of the table, before its reply."""

    place: int
    """Among the rows of the table that its work gives."""
    row: CorpusRow
    """The row of the corpus."""
    asked: Asked
    """What is asked."""
    key: Key | None = None
    """Of its reply; None for what cannot be asked."""
    bound: int | None = None
    """On the tiles of its images, where it is asked of the engine."""
    request: Request | None = None
    """What is asked of the engine; None where it is asked by another row, or cannot be."""
    refused: Result | None = None
    """Why it cannot be asked."""


@dataclass(slots=True)
class _Row:
    """One row of the corpus in a window."""

    row: CorpusRow
    prepared: list[Prepared]
    sizes: tuple[Size, ...]
    bound: int | None = None
    tiled: list[Tiled] = field(default_factory=list)
    refused: ImageRefused | None = None


def prepare_chunks(
    rows: Iterable[CorpusRow],
    decoder: Decoder,
    settings: RunSettings,
    inquiry: Inquiry,
    work: Work,
    replies: Replies,
) -> Iterator[list[Prepared]]:
    """Make requests of rows, a chunk at a time; rows are read only as they are asked for.

    Args:
        rows: of one fragment, in order.
        decoder: of their images.
        settings: of the run.
        inquiry: what is asked.
        work: that the rows are of.
        replies: what is known already; told what is on its way.

    Yields:
        What the table's rows come of; `place` says where each belongs.
    """
    questions: dict[int | None, list[Question]] = {}
    for question in work.questions:
        questions.setdefault(question.row, []).append(question)
    place = 0
    for window in _cut(rows, WINDOW_ROWS, WINDOW_BYTES, lambda row: sum(map(len, row.images))):
        found: list[_Row] = []
        for row in window:
            asked = inquiry.ask(row, [*questions.get(None, ()), *questions.get(row.index, ())])
            kept = _wanted(asked, work.wanted(row.uri))
            own = [Prepared(place + number, row, one) for number, one in enumerate(kept)]
            place += len(own)
            found.append(_Row(row, own, _sizes(row) if own else ()))
        _choose_tiles(found, decoder, settings)
        ordered = sorted(found, key=lambda one: (-_predict(one, settings), one.row.index))
        for chunk in _cut(ordered, settings.chunk_rows, CHUNK_BYTES, lambda one: _held_bytes(one, settings)):
            yield _prepare(chunk, decoder, settings, replies)


def _wanted(asked: list[Asked], questions: frozenset[str] | None) -> list[Asked]:
    """Leave out what is not to be made; see `Work.wanted`."""
    if questions is None or "" in questions:
        return asked
    if asked and asked[0].columns.get("question_id") == "":
        # the row can no longer be read: each of its questions is rejected again, as many as there were
        return [replace(asked[0], columns={**asked[0].columns, "question_id": one}) for one in sorted(questions)]
    return [one for one in asked if one.columns.get("question_id") in questions]


def _cut(items: Iterable[T], most: int, room: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Lists of at most `most` items whose sizes are `room` together, or one item that is larger."""
    part: list[T] = []
    left = room
    for item in items:
        need = size(item)
        if part and (need > left or len(part) == most):
            yield part
            part, left = [], room
        part.append(item)
        left -= need
    if part:
        yield part


def _sizes(row: CorpusRow) -> tuple[Size, ...]:
    """Sizes of a row's images by their headers; none if it cannot be asked about."""
    if row.error is not None:
        return ()
    try:
        return tuple(read_header(data).size for data in row.images)
    except ImageRefused:
        return ()


def _plans(one: _Row, settings: RunSettings) -> list[TilePlan]:
    """Of a row's images, with the most tiles that they may have."""
    bound = one.bound if settings.visual_budget else _settled(settings)
    return [plan_tiles(size, settings.config, num_images=len(one.sizes), max_tiles=bound) for size in one.sizes]


def _held_bytes(one: _Row, settings: RunSettings) -> int:
    tile_bytes = 3 * settings.config.tiles.tile_size**2
    return sum(map(len, one.row.images)) + tile_bytes * sum(plan.num_tiles for plan in _plans(one, settings))


def _predict(one: _Row, settings: RunSettings) -> int:
    """Prompt tokens of a row, about."""
    words = max((len(own.asked.prompt or "") for own in one.prepared), default=0)
    return sum(plan.num_image_tokens for plan in _plans(one, settings)) + words // 4


def _settled(settings: RunSettings) -> int | None:
    """The bound before an image is looked at."""
    return tile_bound("high" if settings.resolution == "auto" else settings.resolution, settings.max_tiles)


def _choose_tiles(window: Sequence[_Row], decoder: Decoder, settings: RunSettings) -> None:
    """Spend the visual budget on a window, if there is one."""
    if settings.visual_budget is None:
        return
    files = [data for one in window if one.sizes for data in one.row.images]
    details = iter(decoder.details(files))
    looks = []
    for one in window:
        own = [next(details) for _ in one.sizes]
        if None in own:
            # the row will be rejected, and what it does not spend is not for others to
            looks.append(Look((), 0))
            continue
        # detail is a mean over pixels: an image of twice the area has twice as much of it to lose
        areas = (size.height * size.width for size in one.sizes)
        looks.append(
            Look(one.sizes, sum((detail or 0) * area // 1000 for detail, area in zip(own, areas, strict=True)))
        )
    bounds = spend(looks, settings.config, settings.visual_budget, _settled(settings))
    for one, bound in zip(window, bounds, strict=True):
        one.bound = bound


def _prepare(chunk: Sequence[_Row], decoder: Decoder, settings: RunSettings, replies: Replies) -> list[Prepared]:
    """Make requests of a chunk, with the images of those that nobody has asked about yet."""
    leaders: set[int] = set()
    for one in chunk:
        hashes = [content_hash(data) for data in one.row.images] if one.prepared else []
        for own in one.prepared:
            if own.asked.prompt is None or _fault(one.row) is not None:
                continue
            own.key = key_of(hashes, own.asked.prompt, one.bound)
            if not replies.expect(own.key):
                leaders.add(id(own))
    wanted = [one for one in chunk if any(id(own) in leaders for own in one.prepared)]
    _tile(wanted, decoder, settings)
    for one in chunk:
        _ask(one, leaders, settings, replies)
        # the request has what it needs of them; the row stays as long as its window
        one.tiled = []
    return [own for one in chunk for own in one.prepared]


def _tile(rows: Sequence[_Row], decoder: Decoder, settings: RunSettings) -> None:
    """Tile the images of rows; those of one row share a bound: where one asks for the higher, all of them get it."""
    wishes = [_wish(one, settings) for one in rows]
    _tile_each(rows, wishes, decoder)
    torn = [at for at, one in enumerate(rows) if len({bound for _, bound in one.tiled}) > 1]
    _tile_each([rows[at] for at in torn], [replace(wishes[at], plain=wishes[at].detailed) for at in torn], decoder)


def _wish(one: _Row, settings: RunSettings) -> Wish:
    """What tiles of its images a row asks for, by the budget, the settings, or what they show."""
    low = high = one.bound
    if settings.visual_budget is None:
        low = high = _settled(settings)
        if settings.resolution == "auto":
            low = tile_bound("medium", settings.max_tiles)
    return Wish(len(one.row.images), low, high)


def _tile_each(rows: Sequence[_Row], wishes: Sequence[Wish], decoder: Decoder) -> None:
    files = [data for one in rows for data in one.row.images]
    each = [wish for one, wish in zip(rows, wishes, strict=True) for _ in one.row.images]
    answers = iter(decoder.tile(files, each) if files else ())
    for one in rows:
        found = [next(answers) for _ in one.row.images]
        one.refused = next((answer for answer in found if isinstance(answer, ImageRefused)), None)
        one.tiled = [] if one.refused else [answer for answer in found if not isinstance(answer, ImageRefused)]


def _ask(one: _Row, leaders: set[int], settings: RunSettings, replies: Replies) -> None:
    """Complete what is asked about one row."""
    fault, bad = _fault(one.row), one.refused
    bound = one.tiled[0][1] if one.tiled else None
    for own in one.prepared:
        request_id = f"{one.row.uid}/{own.asked.columns.get('question_id', 0)}"
        if fault is None and own.asked.prompt is None:
            assert own.asked.refusal is not None, "what has no prompt has a reason"
            fault_of = own.asked.refusal.reason, own.asked.refusal.detail
            own.refused = Result(request_id=request_id, error=fault_of[0], error_detail=fault_of[1])
        elif fault is not None:
            own.refused = Result(request_id=request_id, error=fault[0], error_detail=fault[1])
        elif id(own) in leaders and own.key is not None and own.asked.prompt is not None:
            own.bound = bound
            if bad is not None:
                result = Result(request_id=request_id, error=str(bad.reason), error_detail=bad.detail)
                replies.add(own.key, Reply(result, bound))
                continue
            own.request = Request(
                request_id=request_id,
                prompt=own.asked.prompt,
                images=tuple(image for image, _ in one.tiled),
                sampling=settings.sampling,
                max_tiles=bound,
            )


def _fault(row: CorpusRow) -> tuple[str, str | None] | None:
    """Why nothing can be asked about a row, before its images are decoded: the reader's reason, or no image."""
    if row.error is not None:
        return row.error, row.error_detail
    return None if row.images else (str(CorpusReason.MISSING_PART), "the row has no image")
