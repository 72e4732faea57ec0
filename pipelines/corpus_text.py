"""Untrusted text: strict JSON, clean captions, conversations in one form.

The standard library's JSON is lenient where files are hostile: it takes doubled keys, NaN, 1e999 and lone surrogates.
Here each of these is refused. What this does *not* do: count image tokens or check the order of roles, which depends
on what the text is for (`llava_core.prompts`).
"""

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pipelines.fragments import CorpusRefused
from schemas.reasons import CorpusReason

MAX_METADATA_CHARS = 4096
"""Longer strings are content, not metadata, and are left out of it."""

# C0 and C1 controls but tab and newline; bidirectional controls; zero-width space, word joiner, byte-order mark.
# The zero-width joiner and non-joiner stay: Persian, Indic scripts and emoji are spelled with them.
_STRIPPED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)
_LINE_ENDS = re.compile("\r\n?")
_ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}


def clean_text(text: str, max_bytes: int) -> str:
    """Return a text in NFC, without control, bidirectional-control and zero-width characters.

    Raises:
        CorpusRefused: TOO_LONG above `max_bytes` of UTF-8; BAD_ENCODING for a lone surrogate.

    Example:
        >>> clean_text("cafe\\u0301\\x00 \\u202eon\\r\\nme", 100)
        'café on\\nme'
    """
    size = len(_encode(text))
    if size > max_bytes:
        raise CorpusRefused(CorpusReason.TOO_LONG, f"a text of {size} bytes; at most {max_bytes} are taken")
    return unicodedata.normalize("NFC", _STRIPPED.sub("", _LINE_ENDS.sub("\n", text)))


def decode_utf8(data: bytes) -> str:
    """Return UTF-8 text without its byte-order mark; raise `CorpusRefused` BAD_ENCODING for anything else."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusRefused(CorpusReason.BAD_ENCODING, f"not UTF-8: {error.reason} at byte {error.start}") from error


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise CorpusRefused(CorpusReason.BAD_ENCODING, f"a lone surrogate at character {error.start}") from error


def parse_json(data: bytes) -> Any:
    """Parse strict JSON.

    Args:
        data: UTF-8, a byte-order mark is fine.

    Raises:
        CorpusRefused: BAD_JSON (syntax, doubled keys, NaN, infinities, numbers out of a float's range, nesting beyond
            what Python takes), BAD_ENCODING (not UTF-8, lone surrogates).

    Example:
        >>> parse_json(b'{"a": [1, 2.5, null]}')
        {'a': [1, 2.5, None]}
    """
    text = decode_utf8(data)
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer
        )
        if "\\u" in text:
            _encode(canonical_json(value))
    except RecursionError as error:
        raise CorpusRefused(CorpusReason.BAD_JSON, "nested too deeply") from error
    except ValueError as error:
        raise CorpusRefused(CorpusReason.BAD_JSON, str(error)) from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {doubled[:80]!r} occurs twice")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is out of range")
    return number


def _integer(digits: str) -> int:
    # whoever reads a number may make a float of it
    _finite(digits)
    return int(digits)


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys, no spaces, and characters as they are: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def scalars_json(values: Mapping[str, Any], used: frozenset[str], max_bytes: int) -> str:
    """Return a row's metadata: its scalars other than the used ones, as a canonical JSON object.

    Strings are cleaned, and left out above `MAX_METADATA_CHARS`; bytes, lists and objects are left out; NaN becomes
    null; what is neither (dates, decimals) is written as text.

    Example:
        >>> scalars_json({"image": "a.jpg", "id": 7, "score": float("nan"), "box": [1]}, frozenset({"image"}), 1000)
        '{"id":7,"score":null}'
    """
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if name in used or isinstance(value, bytes | bytearray | memoryview | Mapping | list | tuple):
            continue
        if isinstance(value, float) and not math.isfinite(value):
            kept[name] = None
        elif value is None or isinstance(value, bool | int | float):
            kept[name] = value
        elif len(text := str(value)) <= MAX_METADATA_CHARS:
            kept[name] = clean_text(text, max_bytes)
    return canonical_json(kept)


def parse_conversation(turns: object, max_bytes: int) -> tuple[str, list[str]]:
    """Bring a conversation into LLaVA's form.

    Args:
        turns: a list of `{"from", "value"}` or `{"role", "content"}`; content may be a list of parts, of which text
            and image parts are known. A JSON string of such a list is fine.

    Returns:
        Canonical JSON list of `{"from": "system"|"human"|"gpt", "value": text}`, with `<image>` where an image part
        stood; and the image references of those parts, in order.

    Raises:
        CorpusRefused: BAD_CONVERSATION, TOO_LONG, BAD_ENCODING, BAD_JSON.

    Example:
        >>> parse_conversation([{"role": "user", "content": [{"type": "image", "image": "a.jpg"},
        ...                                                  {"type": "text", "text": "What?"}]}], 100)
        ('[{"from":"human","value":"<image>What?"}]', ['a.jpg'])
    """
    if isinstance(turns, str):
        turns = parse_json(_encode(turns))
    if not isinstance(turns, Sequence) or not turns:
        raise CorpusRefused(CorpusReason.BAD_CONVERSATION, f"expected a list of turns, got {type(turns).__name__}")
    images: list[str] = []
    parsed = [_parse_turn(turn, images, max_bytes) for turn in turns]
    text = canonical_json(parsed)
    if len(text.encode()) > max_bytes:
        raise CorpusRefused(CorpusReason.TOO_LONG, f"a conversation above {max_bytes} bytes")
    return text, images


def _parse_turn(turn: object, images: list[str], max_bytes: int) -> dict[str, str]:
    if not isinstance(turn, Mapping):
        raise CorpusRefused(CorpusReason.BAD_CONVERSATION, f"a turn is {type(turn).__name__}, expected an object")
    role = turn.get("from", turn.get("role"))
    content = turn.get("value", turn.get("content"))
    if not isinstance(role, str) or role not in _ROLES:
        raise CorpusRefused(CorpusReason.BAD_CONVERSATION, f"role {str(role)[:40]!r}; expected {', '.join(_ROLES)}")
    if isinstance(content, list):
        content = "".join(_parse_part(part, images) for part in content)
    if not isinstance(content, str):
        raise CorpusRefused(CorpusReason.BAD_CONVERSATION, f"a turn's text is {type(content).__name__}")
    return {"from": _ROLES[role], "value": clean_text(content, max_bytes)}


def _parse_part(part: object, images: list[str]) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind in ("text", "image", "image_url"):
        value = next((part[name] for name in ("value", kind, "url", "path") if part.get(name) is not None), None)
        if isinstance(value, Mapping):
            value = value.get("url")
        if kind == "image" and value is None:
            return "<image>"
        if isinstance(value, str):
            if kind == "text":
                return value
            images.append(value)
            return "<image>"
    raise CorpusRefused(CorpusReason.BAD_CONVERSATION, f"a content part of type {str(kind)[:40]!r} in no known form")
