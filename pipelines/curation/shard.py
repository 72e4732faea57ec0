"""Stage 4, kept rows → shards: the bytes read again from the corpus, checked, planned, and written as they were found.

    ShardPlan ─ pieces ─▶ read_fragment ─▶ CorpusRow ─ shard_row ─▶ row ─ ShardFile ─▶ status=ok/part-….parquet

Nothing is encoded again, and without `pixels="tiles"` nothing is decoded: sizes come from headers. A row that cannot be
trained on becomes a rejected row. What this does *not* do: choose rows (`select`), cut shards (`shard_plan`), run on
Ray or commit (`shard_stage`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llava_core.config import ModelConfig, check_choice, plan_tiles
from llava_core.errors import ConfigError, ImageRefused, PromptRefused
from llava_core.geometry import Size, TilePlan
from llava_core.image_headers import DEFAULT_LIMITS, DecodeLimits, read_header
from llava_core.images import decode_image
from llava_core.tiling import tile_image
from pipelines.corpus import read_fragment
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.curation.conversations import check_conversation
from pipelines.curation.shard_file import ShardFile
from pipelines.curation.shard_plan import Piece, ShardSize
from pipelines.fragments import CorpusRow, InputChanged
from pipelines.parts import Receipt
from pipelines.storage import StorageOptions, corpus_options

Pixels = Literal["encoded", "tiles"]
_NOTHING = ("text", "conversations", "n_tiles", "n_image_tokens", "n_text_tokens", "tile_size", "tiles")
_LISTS = ("images", "image_uris", "heights", "widths", "grid_rows", "grid_cols", "canvas_h", "canvas_w")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSettings:
    """Everything that changes a shard's bytes, but for its rows."""

    run_id: str
    """Of the shards."""
    model: dict[str, Any]
    """The model's config as plain values (`ModelConfig.to_dict`): its tiles are planned."""
    pixels: Pixels = "encoded"
    """"encoded": the bytes as found. "tiles": uint8 tiles beside them, for clusters short of CPU; 6 × the size."""
    size: ShardSize = field(default_factory=ShardSize)
    """Of shards and row groups."""
    limits: DecodeLimits = DEFAULT_LIMITS
    """What is refused before decoding."""

    def __post_init__(self) -> None:
        check_choice("shard", "pixels", self.pixels, ("encoded", "tiles"))

    @property
    def tile_bytes(self) -> int:
        """Bytes that one tile adds to a row: 3 · S² where tiles are stored."""
        return 3 * int(self.model["tiles"]["tile_size"]) ** 2 if self.pixels == "tiles" else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardWork:
    """One shard, as a worker gets it."""

    shard_id: str
    """Names the shard."""
    pieces: tuple[Piece, ...]
    """What to read, in order."""
    source: tuple[str | None, ...]
    """Of each row."""
    n_image_tokens: tuple[int | None, ...]
    """Of each row, as the probe planned them."""
    n_text_tokens: tuple[int | None, ...]
    """Of each row, as the probe counted them."""

    def __post_init__(self) -> None:
        rows = sum(len(piece.uids) for piece in self.pieces)
        if {len(self.source), len(self.n_image_tokens), len(self.n_text_tokens)} != {rows}:
            raise ConfigError(f"shard {self.shard_id}: {rows} rows to read, {len(self.source)} described")


def write_shard(
    work: ShardWork,
    settings: ShardSettings,
    *,
    table_uri: str,
    storage_options: StorageOptions | None,
    columns: CorpusColumns,
    corpus: CorpusSettings,
    scratch: str | None = None,
) -> Receipt:
    """Read a shard's rows, and write its files.

    Args:
        work: the shard.
        settings: everything else that changes its bytes.
        table_uri: the table.
        storage_options: see `storage.storage_options`; None reads the environment.
        columns: where rows keep their images and texts.
        corpus: how the corpus is read.
        scratch: local folder for files that grow.

    Returns:
        The receipt that `tables.commit` takes.

    Raises:
        InputChanged: the corpus is not what it was when it was probed.
    """
    model = ModelConfig.from_dict(settings.model)
    reasons: Counter[str] = Counter()
    given = zip(work.source, work.n_image_tokens, work.n_text_tokens, strict=True)
    with ShardFile(settings.size, scratch) as kept, ShardFile(settings.size, scratch) as rejected:
        for row, (source, image_tokens, text_tokens) in zip(
            read_pieces(work.pieces, storage_options, columns, corpus), given, strict=True
        ):
            values = shard_row(row, settings, model) | {"source": source, "fragment_id": work.shard_id}
            if values["error"]:
                reasons[values["error"]] += 1
                rejected.add(values)
                continue
            if image_tokens is not None and image_tokens != values["n_image_tokens"]:
                raise InputChanged(
                    f"{row.uri}: {values['n_image_tokens']} image tokens, and the probe planned {image_tokens} for the "
                    "same model, so an image that it names has changed since. Change the file that names it (touch it, "
                    "if it is local): then its rows are probed again"
                )
            kept.add(values | {"n_text_tokens": text_tokens})
        placed = [
            file.place(table_uri, work.shard_id, status, storage_options)
            for file, status in ((kept, "ok"), (rejected, "rejected"))
        ]
        return Receipt(
            fragment_id=work.shard_id,
            run_id=settings.run_id,
            files=tuple(file for file in placed if file is not None),
            ok=kept.num_rows,
            rejected=dict(sorted(reasons.items())),
        )


def shard_row(row: CorpusRow, settings: ShardSettings, model: ModelConfig) -> dict[str, Any]:
    """Turn a row of the corpus into a row of a shard, rejected if it cannot be trained on.

    Args:
        row: as the reader gives it.
        settings: of the shards.
        model: `settings.model`, read.

    Returns:
        Values by column of `SHARD_FILE`; `source`, `fragment_id` and `n_text_tokens` are left to the caller.
    """
    values = _blank(row, settings)
    if row.error is not None:
        return values | {"error": row.error, "error_detail": row.error_detail}
    try:
        plans = [
            (size, plan_tiles(size, model, num_images=len(row.images)))
            for size in (read_header(image, limits=settings.limits).size for image in row.images)
        ]
        if row.conversations is not None:
            check_conversation(row.conversations, len(row.images), model)
        tiles = _tiles(row.images, plans, model, settings.limits) if settings.pixels == "tiles" else None
    except (ImageRefused, PromptRefused) as refusal:
        return values | {"error": str(refusal.reason), "error_detail": refusal.detail}
    return values | {
        "images": list(row.images),
        "image_uris": list(row.image_uris),
        "text": row.text,
        "conversations": row.conversations,
        "heights": [size.height for size, _ in plans],
        "widths": [size.width for size, _ in plans],
        "grid_rows": [plan.grid.height for _, plan in plans],
        "grid_cols": [plan.grid.width for _, plan in plans],
        "canvas_h": [plan.canvas.height for _, plan in plans],
        "canvas_w": [plan.canvas.width for _, plan in plans],
        "n_tiles": sum(plan.num_tiles for _, plan in plans),
        "n_image_tokens": sum(plan.num_image_tokens for _, plan in plans),
        "tile_size": model.tiles.tile_size if tiles is not None else None,
        "tiles": tiles,
    }


def _blank(row: CorpusRow, settings: ShardSettings) -> dict[str, Any]:
    """A row without what it is about."""
    return {
        "uid": row.uid,
        "uri": row.uri,
        "run_id": settings.run_id,
        "metadata": row.metadata,
        "error": None,
        "error_detail": None,
        **dict.fromkeys(_NOTHING),
        **{name: [] for name in _LISTS},
    }


def _tiles(
    images: Sequence[bytes], plans: Sequence[tuple[Size, TilePlan]], model: ModelConfig, limits: DecodeLimits
) -> bytes:
    """uint8[N, 3, S, S] of all images, as bytes in C order."""
    parts = [
        tile_image(decode_image(data, limits=limits), plan, model.tiles)
        for data, (_, plan) in zip(images, plans, strict=True)
    ]
    return b"".join(part.tobytes() for part in parts)


def read_pieces(
    pieces: Iterable[Piece], storage_options: StorageOptions | None, columns: CorpusColumns, corpus: CorpusSettings
) -> Iterator[CorpusRow]:
    """Read the wanted rows of each piece, in order, and hold them to their uids.

    Args:
        pieces: what to read.
        storage_options: see `storage.storage_options`; None reads the environment.
        columns: where rows keep their images and texts.
        corpus: how the corpus is read.

    Raises:
        InputChanged: another row is where one was when the corpus was probed.
    """
    for piece in pieces:
        wanted = dict(zip(piece.indices, piece.uids, strict=True))
        options = corpus_options(piece.fragment.root, storage_options, *corpus.places)
        rows = read_fragment(piece.fragment, storage_options=options, columns=columns, settings=corpus)
        for index, row in enumerate(rows):
            if index not in wanted:
                continue
            # A refused row may lack the column that names it.
            if row.uid != wanted[index] and row.error is None:
                raise InputChanged(f"{row.uri} was row {wanted[index]} when it was probed and is {row.uid} now")
            yield row
