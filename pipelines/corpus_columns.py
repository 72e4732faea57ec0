"""Which columns of a Parquet file hold what, and which make it unsafe to open at all.

What this does *not* do: read rows (`corpus_parquet`).
"""

import base64
import binascii
import dataclasses
import re

import pyarrow as pa
import pyarrow.types as pat

from pipelines.corpus_records import CONVERSATION_NAMES, IMAGE_NAMES, TEXT_NAMES, URI_NAMES, find_name
from pipelines.corpus_settings import CorpusColumns
from pipelines.fragments import CorpusRefused
from schemas.reasons import CorpusReason

_UNSAFE_NAMES = (b"ray.data.", b"arrow.py_extension_type")
_BASE64_RUN = re.compile(rb"[A-Za-z0-9+/]{40,}={0,2}")


def check_footer(footer: bytes) -> None:
    """Refuse a Parquet footer that names a type whose reading unpickles, before Arrow has seen it.

    Arrow rebuilds extension types while it opens a file, from a schema that lies in the footer as base64; a type
    that is registered in the process runs its own code there. So the names are looked for in the bytes.

    Args:
        footer: the file's metadata block, Thrift, as it lies in the file.

    Raises:
        CorpusRefused: UNSAFE_TYPE.

    Example:
        >>> check_footer(base64.b64encode(b"ARROW:extension:name ray.data.arrow_pickled_object, padded"))
        Traceback (most recent call last):
        ...
        pipelines.fragments.CorpusRefused: UNSAFE_TYPE: the schema names ray.data., which may run code when it is read
    """
    blocks = [footer]
    for found in _BASE64_RUN.finditer(footer):
        run = found[0].rstrip(b"=")
        # A length that base64 cannot have, and every alignment: what stands before may look like base64 as well.
        for shift in range(4):
            body = run[shift:]
            try:
                blocks.append(base64.b64decode(body[: len(body) // 4 * 4]))
            except binascii.Error:
                continue
    for block in blocks:
        for name in _UNSAFE_NAMES:
            if name in block:
                detail = f"the schema names {name.decode()}, which may run code when it is read"
                raise CorpusRefused(CorpusReason.UNSAFE_TYPE, detail)


def choose_columns(schema: pa.Schema, columns: CorpusColumns) -> CorpusColumns:
    """Return the names of the columns that hold image, text, conversations and uid.

    Raises:
        CorpusRefused: SCHEMA (a named column is missing, a name is doubled, a type does not fit, no column can be the
            image), UNSAFE_TYPE (one of them is an extension type).
    """
    names: list[str] = schema.names
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise CorpusRefused(CorpusReason.SCHEMA, f"doubled columns: {', '.join(doubled)[:200]}")
    for field in dataclasses.fields(columns):
        name = getattr(columns, field.name)
        if name is not None and name not in names:
            raise CorpusRefused(CorpusReason.SCHEMA, f"no column {name!r} for {field.name}; there are {_listed(names)}")
    text = columns.text or find_name(_typed(schema, is_text), TEXT_NAMES)
    conversations = columns.conversations or find_name(_typed(schema, _is_turns), CONVERSATION_NAMES)
    chosen = CorpusColumns(
        image=columns.image or _find_image(schema),
        text=text,
        conversations=conversations,
        embedding=columns.embedding,
        uid=columns.uid,
    )
    types = ((chosen.image, is_image), (text, is_text), (conversations, _is_turns), (chosen.embedding, _is_numbers))
    for name, fits in types:
        if name is not None:
            _check_type(schema.field(name), fits(schema.field(name).type))
    return chosen


def _find_image(schema: pa.Schema) -> str:
    """Return the column that holds images, else the one that points to them, else the only one with bytes."""
    encoded = _typed(schema, is_encoded)
    found = find_name(encoded, IMAGE_NAMES) or find_name(_typed(schema, is_image), IMAGE_NAMES + URI_NAMES)
    if found is None and len(encoded) == 1:
        found = encoded[0]
    if found is None:
        detail = f"no column of images or of their URIs among {_listed(schema.names)}; name one"
        raise CorpusRefused(CorpusReason.SCHEMA, detail)
    return found


def _check_type(field: pa.Field, fits: bool) -> None:
    if isinstance(field.type, pa.BaseExtensionType) or b"ARROW:extension:name" in (field.metadata or {}):
        raise CorpusRefused(CorpusReason.UNSAFE_TYPE, f"{field.name} has the extension type {field.type}")
    if not fits:
        raise CorpusRefused(CorpusReason.SCHEMA, f"{field.name} is {field.type}, which cannot be read as such"[:300])


def _typed(schema: pa.Schema, fits: object) -> list[str]:
    assert callable(fits), "a predicate on types"
    return [field.name for field in schema if fits(field.type)]


def _listed(names: list[str]) -> str:
    return ", ".join(names)[:200]


def _is_list(kind: pa.DataType) -> bool:
    return bool(pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column can be a caption: strings, dictionaries of them, lists of them."""
    if pat.is_dictionary(kind):
        return is_text(kind.value_type)
    if _is_list(kind):
        return is_text(kind.value_type)
    return bool(pat.is_string(kind) or pat.is_large_string(kind) or pat.is_string_view(kind))


def is_encoded(kind: pa.DataType) -> bool:
    """Whether a column can hold encoded images: bytes, `struct{bytes, …}`, or lists of these."""
    if _is_list(kind):
        return is_encoded(kind.value_type)
    if pat.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and is_encoded(kind.field("bytes").type)
    return bool(pat.is_binary(kind) or pat.is_large_binary(kind) or pat.is_binary_view(kind))


def is_image(kind: pa.DataType) -> bool:
    """Whether a column can hold images or their URIs."""
    return is_encoded(kind) or is_text(kind)


def _is_numbers(kind: pa.DataType) -> bool:
    """Whether a column can be an embedding: a list of numbers."""
    return _is_list(kind) and bool(pat.is_floating(kind.value_type) or pat.is_integer(kind.value_type))


def _is_turns(kind: pa.DataType) -> bool:
    """Whether a column can be a conversation: a JSON string, or a list of structs."""
    return is_text(kind) or (_is_list(kind) and pat.is_struct(kind.value_type))
