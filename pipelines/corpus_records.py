"""One record, whatever held it (a Parquet row or a JSON object), to one `CorpusRow`.

Names decide what a field is, unless `CorpusColumns` says it; `corpus_columns` does the same for whole Parquet schemas.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines.corpus_refs import check_size, decode_base64, load_image
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.corpus_sources import StorageOptions
from pipelines.corpus_text import clean_text, parse_conversation, scalars_json
from pipelines.fragments import CorpusRefused, CorpusRow, Fragment, rejected_row
from schemas.reasons import CorpusReason

IMAGE_NAMES = ("image", "images", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "image_base64", "base64", "img")
"""Names of fields that hold images, the likeliest first; compared without case."""
URI_NAMES = ("uri", "url", "path", "image_path", "image_uri", "image_url", "file_name", "filename", "filepath", "file")
"""Names of fields that point to images, the likeliest first."""
TEXT_NAMES = ("caption", "text", "txt")
"""Names of captions."""
CONVERSATION_NAMES = ("conversations", "conversation", "messages")
"""Names of conversations."""
_BASE64_NAMES = frozenset({"bytes", "image_bytes", "image_base64", "base64"})


def find_name(names: list[str], wanted: tuple[str, ...]) -> str | None:
    """Return the first of the wanted names that occurs, in the spelling it occurs in.

    Example:
        >>> find_name(["URL", "TEXT"], TEXT_NAMES)
        'TEXT'
    """
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in wanted if name in lower), None)


def name_fields(names: list[str], columns: CorpusColumns) -> CorpusColumns:
    """Return which fields of a JSON object hold what; None for what it lacks."""
    return CorpusColumns(
        image=columns.image or find_name(names, IMAGE_NAMES + URI_NAMES),
        text=columns.text or find_name(names, TEXT_NAMES),
        conversations=columns.conversations or find_name(names, CONVERSATION_NAMES),
        embedding=columns.embedding,
        uid=columns.uid,
    )


def record_row(
    fragment: Fragment,
    index: int,
    record: Mapping[str, Any],
    fields: CorpusColumns,
    settings: CorpusSettings,
    options: StorageOptions,
) -> CorpusRow:
    """Return the row of one record; a rejected one for whatever is wrong with it.

    Args:
        record: field name → value.
        fields: which of them hold what.
    """
    uid = fragment.row_uid(index)
    try:
        if fields.uid is not None:
            uid = _named_uid(record, fields.uid, settings)
        text = record.get(fields.text) if fields.text else None
        turns = record.get(fields.conversations) if fields.conversations else None
        conversation, referred = parse_conversation(turns, settings.max_text_bytes) if turns is not None else (None, [])
        value = record.get(fields.image) if fields.image else None
        value = referred if fields.image is None or (value is None and referred) else value
        loaded = _load_images(fragment, index, value, fields, settings, options)
        named = (fields.image, fields.text, fields.conversations, fields.embedding, fields.uid)
        used = frozenset(name for name in named if name)
        return CorpusRow(
            uid=uid,
            uri=fragment.row_uri(index),
            index=index,
            images=tuple(data for data, _ in loaded),
            image_uris=tuple(uri for _, uri in loaded),
            text=None if text is None else clean_text(_as_text(text), settings.max_text_bytes),
            conversations=conversation,
            metadata=scalars_json(record, used, settings.max_text_bytes),
            embedding=_embedding(record.get(fields.embedding)) if fields.embedding else None,
        )
    except CorpusRefused as refusal:
        return replace(rejected_row(fragment, index, refusal.reason, refusal.detail), uid=uid)


def _named_uid(record: Mapping[str, Any], name: str, settings: CorpusSettings) -> str:
    value = record.get(name)
    if value is None or value == "":
        raise CorpusRefused(CorpusReason.NULL_FIELD, f"{name}, named as uid, is empty")
    return clean_text(str(value), settings.max_text_bytes)


def _embedding(value: object) -> tuple[float, ...] | None:
    """Return an embedding: finite numbers, not all nought, or None.

    Example:
        >>> _embedding([3, 4.5]), _embedding(None)
        ((3.0, 4.5), None)
    """
    if value is None:
        return None
    numbers = value if isinstance(value, list) else []
    plain = all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in numbers)
    if not plain or not any(numbers):
        raise CorpusRefused(CorpusReason.SCHEMA, "the embedding is no list of finite numbers, or all of them are 0")
    return tuple(float(one) for one in numbers)


def _as_text(value: object) -> str:
    """Return a caption: a string, or the first of several."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str):
        raise CorpusRefused(CorpusReason.SCHEMA, f"the text is {type(value).__name__}, expected a string")
    return value


def _load_images(
    fragment: Fragment,
    index: int,
    value: object,
    fields: CorpusColumns,
    settings: CorpusSettings,
    options: StorageOptions,
) -> list[tuple[bytes, str]]:
    """Return every image of a record with where it came from."""
    values = value if isinstance(value, list) else [value]
    if settings.require_images and not values:
        raise CorpusRefused(CorpusReason.MISSING_PART, "the record has no image")
    if not settings.require_images and value is None:
        return []
    encoded = fields.image is not None and fields.image.lower() in _BASE64_NAMES
    uri = fragment.row_uri(index)
    return [_load_one(one, fragment.root, encoded, settings, options, uri) for one in values]


def _load_one(
    value: object, folder: str, encoded: bool, settings: CorpusSettings, options: StorageOptions, uri: str
) -> tuple[bytes, str]:
    if isinstance(value, Mapping):
        content = value.get("bytes")
        place = next((value[key] for key in ("path", "url", "uri") if value.get(key)), None)
        value, encoded = (content, True) if content is not None else (place, False)
    if value is None:
        raise CorpusRefused(CorpusReason.NULL_FIELD, "the image is null")
    if isinstance(value, bytes):
        check_size(len(value), settings)
        return value, uri
    if not isinstance(value, str):
        raise CorpusRefused(CorpusReason.SCHEMA, f"an image is {type(value).__name__}, expected bytes or text")
    if encoded and value[:5].lower() != "data:":
        data = decode_base64(value, settings.max_file_bytes)
        check_size(len(data), settings)
        return data, uri
    return load_image(value, folder, settings, options, uri)
