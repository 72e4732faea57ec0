"""Stage 1: rows of a fragment in, one row of `scores` for each out.

    rows ─ images ─▶ sandbox: one decode, hashes, measures ┐
         ─ text ───▶ measures, turns checked, tokens ──────┼─▶ SCORE
         ─ sizes ──▶ tile plan of the model ───────────────┘

`probe_rows` is all of it and runs without Ray. What this does *not* do: commit (`flow`), decode in this process
(`sandbox`), judge what it measures (`select`).
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from llava_core.config import ModelConfig, plan_tiles
from llava_core.errors import ImageRefused, PromptRefused
from pipelines.corpus_listing import fixed_prefix
from pipelines.corpus_sources import normalise
from pipelines.curation.conversations import check_conversation
from pipelines.curation.hashes import HASH_BYTES
from pipelines.curation.look import ImageFacts, shallow
from pipelines.curation.looker import Looked, Looker
from pipelines.curation.scorers import EMBEDDING, Scorer
from pipelines.curation.text_measures import measure_text
from pipelines.fragments import CorpusRow, Fragment, printable
from pipelines.sandbox import SandboxSettings
from schemas.score import CARRIED, SCORE

STAGE_VERSION = 5
"""Part of a run's identity: raise it whenever a change here gives the same input another row."""
CHUNK_ROWS, CHUNK_BYTES = 64, 2**26
"""Rows, and bytes of their images, that are in memory at once."""
TEXT_CHARS = 200
"""Characters of a text that `scores` keeps for people."""
BYTES_PER_TOKEN = 4
"""Of UTF-8, about, where no tokenizer is at hand."""
_ALIASES: dict[str, tuple[str, ...]] = {
    "clip_score": ("clip_score", "clip_similarity", "similarity", "clip_b32_similarity_score"),
    "aesthetic": ("aesthetic", "aesthetic_score", "aesthetics", "aesthetic_score_laion_v2"),
    "nsfw": ("nsfw", "punsafe", "nsfw_score", "p_unsafe"),
    "watermark": ("watermark", "pwatermark", "watermark_score", "p_watermark"),
}

Quality = Literal["blockiness", "clip_score", "aesthetic"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSettings:
    """Everything that changes a row, resolved; travels to the workers."""

    run_id: str
    """Identity of the run, written into each row."""
    model: ModelConfig
    """Whose tiles and tokens are planned."""
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)
    """Limits of the decoder."""
    source_key: str = "source"
    """Metadata that names a row's source; else see `source_of`."""
    quality: Quality = "blockiness"
    """What decides between copies of equal size: least blocky, or a score that the corpus or a scorer gives."""
    flagged: frozenset[str] = frozenset()
    """Words of the user's list, case-folded."""


def probe_rows(
    rows: Iterable[CorpusRow],
    looker: Looker,
    settings: ProbeSettings,
    *,
    fragment_id: str,
    root: str,
    container: str | None = None,
    tokenizer: Tokenizer | None = None,
    scorers: Sequence[Scorer] = (),
) -> pa.Table:
    """Probe the rows of one fragment.

    Args:
        rows: the fragment's, in order; those that carry an error are passed on as rejected.
        looker: looks at images.
        settings: of the run.
        fragment_id: the fragment's, written into each row.
        root: of `input_root`; sources are named by what is below it.
        container: uri of the file that holds the rows; None where each is a file.
        tokenizer: of the model; None estimates the tokens of texts.
        scorers: models that score images; they get the squares of the looker.

    Returns:
        One row of `SCORE` for each input row, in the same order. A row never raises; it carries `error` instead.

    Raises:
        SandboxError: the decoder's process does not start.
    """
    records: list[dict[str, Any]] = []
    for chunk in _chunks(rows):
        probed = _looked(chunk, looker)
        for row, looked in zip(chunk, probed, strict=True):
            source = source_of(container or row.uri, root)
            records.append(_record(row, looked, settings, fragment_id, source, tokenizer))
        _add_scores(records[-len(chunk) :], chunk, probed, scorers, settings.quality)
    return pa.Table.from_pylist(records, schema=SCORE)


def _chunks(rows: Iterable[CorpusRow]) -> Iterator[list[CorpusRow]]:
    chunk: list[CorpusRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += sum(map(len, row.images))
        if len(chunk) == CHUNK_ROWS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _looked(chunk: Sequence[CorpusRow], looker: Looker) -> list[list[Looked] | ImageRefused]:
    """For each row what was found in its images, or why the first bad one was refused."""
    answers = iter(looker.look([data for row in chunk for data in row.images]))
    found: list[list[Looked] | ImageRefused] = []
    for row in chunk:
        own = [next(answers) for _ in row.images]
        refused = next((answer for answer in own if isinstance(answer, ImageRefused)), None)
        found.append(refused or [answer for answer in own if isinstance(answer, Looked)])
    return found


def _record(
    row: CorpusRow,
    looked: list[Looked] | ImageRefused,
    settings: ProbeSettings,
    fragment_id: str,
    source: str,
    tokenizer: Tokenizer | None,
) -> dict[str, Any]:
    """One row of `SCORE`; columns that are not named are null."""
    metadata = json.loads(row.metadata)
    named = metadata.get(settings.source_key)
    record: dict[str, Any] = {
        "uid": row.uid,
        "uri": row.uri,
        "fragment_id": fragment_id,
        "row_index": row.index,
        "run_id": settings.run_id,
        "status": "ok",
        "source": named.strip() if isinstance(named, str) and named.strip() else source,
    }
    if row.error is not None:
        return _rejected(record, row.error, row.error_detail)
    if isinstance(looked, ImageRefused):
        return _rejected(record, str(looked.reason), printable(looked.detail))
    try:
        found = _text_values(row, settings, tokenizer)
    except PromptRefused as refused:
        return _rejected(record, str(refused.reason), printable(refused.detail))
    facts = [one.facts for one in looked]
    carried = {name: _number(metadata, _ALIASES[name]) for name in CARRIED}
    record |= found | carried | image_values(facts, settings.model)
    record["quality"] = _quality(record, settings.quality)
    if row.embedding is not None:
        record[EMBEDDING] = list(row.embedding)
    return record


def _rejected(record: dict[str, Any], error: str, detail: str | None) -> dict[str, Any]:
    return record | {"status": "rejected", "error": error, "error_detail": detail}


def image_values(facts: Sequence[ImageFacts], model: ModelConfig) -> dict[str, Any]:
    """The columns of SCORE that say what a row's images are: see `schemas.score`.

    Args:
        facts: of each image, in order.
        model: whose tiles are planned.
    """
    if not facts:
        return {"num_images": 0, "n_tiles": 0, "n_image_tokens": 0, "file_bytes": 0}
    first = facts[0]
    plans = [plan_tiles(one.size, model, num_images=len(facts)) for one in facts]
    return {
        "content_hash": _joined([one.content_hash for one in facts]),
        "pixel_hash": _joined([one.pixel_hash for one in facts]),
        # Delta has no unsigned numbers: the same 64 bits, signed
        "phash": first.phash - (1 << 64 if first.phash >> 63 else 0) if len(facts) == 1 else None,
        "low_information": first.low_information if len(facts) == 1 else None,
        "num_images": len(facts),
        "file_bytes": sum(one.file_bytes for one in facts),
        "format": first.format,
        "width": first.size.width,
        "height": first.size.height,
        "aspect": max(first.size) / min(first.size),
        "probe_scale": first.scale,
        **shallow(first.measures),
        "grid_rows": plans[0].grid.height,
        "grid_cols": plans[0].grid.width,
        "canvas_h": plans[0].canvas.height,
        "canvas_w": plans[0].canvas.width,
        "n_tiles": sum(plan.num_tiles for plan in plans),
        "n_image_tokens": sum(plan.num_image_tokens for plan in plans),
    }


def _joined(hashes: Sequence[bytes]) -> bytes:
    return hashes[0] if len(hashes) == 1 else blake2b(b"".join(hashes), digest_size=HASH_BYTES).digest()


def _text_values(row: CorpusRow, settings: ProbeSettings, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Measures of the caption, or of the conversation, which must be one that the model can be trained on.

    Raises:
        PromptRefused: BAD_CONVERSATION, TOKEN_MISMATCH, EMPTY_TEXT.
    """
    text, turns = row.text or "", None
    if row.conversations is not None:
        messages = check_conversation(row.conversations, len(row.images), settings.model)
        text, turns = "\n".join(message.text.strip() for message in messages), len(messages)
    if tokenizer is None:
        tokens = math.ceil(len(text.encode()) / BYTES_PER_TOKEN)
    else:
        tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
    measures = shallow(measure_text(text, settings.flagged))
    said = row.text is not None or turns is not None
    return {"text": text[:TEXT_CHARS] if said else None, "num_turns": turns, "n_text_tokens": tokens, **measures}


def input_root(fragment: Fragment) -> str:
    """Return the folder or file that a fragment's input is; of a glob, the folders before its first wildcard."""
    named = normalise(fragment.source)
    first = fragment.container.uri if fragment.container else fragment.row_uri(0)
    # a folder may have a glob's brackets in its name
    return named if f"{first}/".startswith(f"{named.rstrip('/')}/") else fixed_prefix(named)


def source_of(uri: str, root: str) -> str:
    """Name the source of a row whose metadata does not: the first folder below its input, else the input's name.

    Args:
        uri: of the file that it is, or is in.
        root: of `input_root`.

    Example:
        >>> source_of("/d/web/a/1.jpg", "/d"), source_of("/d/1.jpg", "/d")
        ('web', 'd')
        >>> source_of("s3://b/x/part-0.parquet", "s3://b/x/part-0.parquet")
        'part-0.parquet'
    """
    root = root.rstrip("/")
    inside = uri.removeprefix(root).lstrip("/") if uri.startswith(root + "/") else ""
    folder, has_folder, _ = inside.partition("/")
    return folder if has_folder else root.rpartition("/")[2]


def _number(metadata: dict[str, Any], names: Sequence[str]) -> float | None:
    """The first of some values by name that is a finite number."""
    values = {name.lower(): value for name, value in metadata.items()}
    found = (values[name] for name in names if isinstance(values.get(name), int | float))
    return next((float(value) for value in found if not isinstance(value, bool) and math.isfinite(value)), None)


def _quality(record: dict[str, Any], quality: Quality) -> float | None:
    value = record.get(quality)
    return None if value is None else -float(value) if quality == "blockiness" else float(value)


def _add_scores(
    records: Sequence[dict[str, Any]],
    chunk: Sequence[CorpusRow],
    probed: Sequence[list[Looked] | ImageRefused],
    scorers: Sequence[Scorer],
    quality: Quality,
) -> None:
    """Let models score the first image of each row that is not rejected; a score that the corpus lacks is theirs."""
    places = [at for at, found in enumerate(probed) if records[at]["status"] == "ok" and found]
    squares = [found[0].square for at in places if isinstance(found := probed[at], list)]
    if not scorers or not squares:
        return
    texts = [chunk[at].text or records[at]["text"] or "" for at in places]
    stacked = np.stack([square for square in squares if square is not None])
    scores: dict[int, list[tuple[str, float | None]]] = {at: [] for at in places}
    for scorer in scorers:
        for name, values in scorer(stacked, texts).items():
            if name == EMBEDDING:
                for at, vector in zip(places, values, strict=True):
                    records[at].setdefault(name, [float(value) for value in vector])
                continue
            for at, value in zip(places, values, strict=True):
                scores[at].append((name, float(value) if math.isfinite(value) else None))
    for at, named in scores.items():
        records[at]["model_scores"] = named
        for column in CARRIED:
            if records[at][column] is None:
                records[at][column] = _number(dict(named), _ALIASES[column])
        records[at]["quality"] = _quality(records[at], quality)
