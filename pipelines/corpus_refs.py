"""Images that rows point to: where a reference may lead, and what it must not reach.

A row's text is written by strangers. So a relative path starts from the folder of the file that holds it (or
`image_root`) and has to end below it, links resolved; a remote URI has to lie in the corpus' own bucket or below an
allowed prefix; `file://`, `ftp://` and `http(s)://` are refused. `data:` URIs and base64 hold the image themselves.
What this does *not* do: fetch from the web.
"""

import base64
import binascii
import os
import posixpath
import re
from pathlib import Path

from llava_core.errors import ImageReason
from pipelines.corpus_settings import CorpusSettings
from pipelines.corpus_sources import (
    StorageOptions,
    filesystem,
    is_local,
    local_path,
    local_ref,
    read_object,
    remote_ref,
    split_scheme,
)
from pipelines.fragments import CorpusRefused
from pipelines.row_refs import ObjectRef
from schemas.reasons import CorpusReason

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "memory"})
_BASE64 = re.compile(r"[A-Za-z0-9+/\-_\s]{256,}={0,2}\s*\Z")


def decode_base64(text: str, max_bytes: int) -> bytes:
    """Return the bytes of base64 text, standard or URL-safe, white space allowed.

    Raises:
        CorpusRefused: BAD_BASE64, or TOO_LARGE before anything is decoded.

    Example:
        >>> decode_base64("AAH/\\n", 10)
        b'\\x00\\x01\\xff'
    """
    if len(text) > max_bytes * 3 // 2 + 4:
        raise CorpusRefused(CorpusReason.TOO_LARGE, f"base64 of {len(text)} characters; at most {max_bytes} bytes")
    compact = "".join(text.split()).translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CorpusRefused(ImageReason.BAD_BASE64, str(error)) from error


def looks_like_base64(text: str) -> bool:
    """Whether a string can only be base64: hundreds of its letters and nothing else; paths have dots."""
    return _BASE64.match(text) is not None


def resolve_ref(ref: str, folder: str, settings: CorpusSettings) -> str:
    """Return the URI of the object that a row's reference names.

    Args:
        ref: as the row has it; neither `data:` nor base64.
        folder: URI of the folder that relative references start from, and must stay in.

    Raises:
        CorpusRefused: PATH_TRAVERSAL, SCHEME, BAD_ENCODING, or NULL_FIELD for an empty one.

    Example:
        >>> resolve_ref("img/1.jpg", "s3://bucket/data", CorpusSettings())
        's3://bucket/data/img/1.jpg'
    """
    if not ref.strip():
        raise CorpusRefused(CorpusReason.NULL_FIELD, "the image's reference is empty")
    if "\x00" in ref:
        raise CorpusRefused(CorpusReason.PATH_TRAVERSAL, "NUL in a path")
    scheme = _SCHEME.match(ref)
    if scheme and (scheme[1].lower() in _STORES or "://" in ref or scheme[1].lower() in ("file", "data")):
        return _resolve_remote(ref, scheme[1].lower(), folder, settings)
    return _resolve_local(ref, folder) if is_local(folder) else _resolve_key(ref, folder)


def _resolve_local(ref: str, folder: str) -> str:
    root = os.path.realpath(local_path(folder))
    try:
        target = os.path.realpath(Path(root) / ref)
    except (OSError, ValueError) as error:
        raise CorpusRefused(CorpusReason.PATH_TRAVERSAL, f"a path that cannot be resolved: {error}") from error
    if target == root or os.path.commonpath([target, root]) != root:
        raise CorpusRefused(CorpusReason.PATH_TRAVERSAL, f"{ref[:200]!r} leads out of {folder}")
    return target


def _resolve_key(ref: str, folder: str) -> str:
    scheme, root = split_scheme(folder)
    path = posixpath.normpath(posixpath.join(root, ref))
    if ".." in ref.split("/") or not path.startswith(root.rstrip("/") + "/"):
        raise CorpusRefused(CorpusReason.PATH_TRAVERSAL, f"{ref[:200]!r} leads out of {folder}")
    return f"{scheme}://{path}"


def _resolve_remote(ref: str, scheme: str, folder: str, settings: CorpusSettings) -> str:
    """Check a URI with a scheme; what it says is not repeated in full, since it may hold credentials."""
    if scheme in ("http", "https"):
        raise CorpusRefused(CorpusReason.SCHEME, f"{scheme}:// images are not fetched; download them first")
    if scheme not in _STORES or "://" not in ref:
        raise CorpusRefused(CorpusReason.SCHEME, f"{scheme}: is not allowed in rows")
    rest = split_scheme(ref)[1]
    bucket = rest.partition("/")[0]
    if "@" in bucket or ":" in bucket:
        raise CorpusRefused(CorpusReason.SCHEME, f"credentials in a {scheme}:// URI")
    if ".." in rest.split("/"):
        raise CorpusRefused(CorpusReason.PATH_TRAVERSAL, f"'..' in a {scheme}:// URI")
    uri = f"{scheme}://{rest}"
    own = split_scheme(folder)
    same_bucket = own[0] == scheme and own[1].partition("/")[0] == bucket
    if not same_bucket and not any(uri.startswith(prefix.rstrip("/") + "/") for prefix in settings.allowed_prefixes):
        detail = f"{scheme}://{bucket}/… is neither the corpus' bucket nor below an allowed prefix"
        raise CorpusRefused(CorpusReason.SCHEME, detail)
    return uri


def load_image(
    ref: str, folder: str, settings: CorpusSettings, options: StorageOptions, inline_uri: str
) -> tuple[bytes, str]:
    """Return an image's encoded bytes and where they came from.

    Args:
        ref: path, URI, `data:` URI or base64, as the row has it.
        folder: see `resolve_ref`; `settings.image_root` goes before it.
        inline_uri: what to call an image that the row itself holds.

    Raises:
        CorpusRefused: for whatever is wrong with it.
    """
    if ref[:5].lower() == "data:":
        header, comma, body = ref.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise CorpusRefused(ImageReason.BAD_BASE64, "a data: URI that is not base64")
        return _capped(decode_base64(body, settings.max_file_bytes), settings), inline_uri
    if looks_like_base64(ref):
        return _capped(decode_base64(ref, settings.max_file_bytes), settings), inline_uri
    uri = resolve_ref(ref, settings.image_root or folder, settings)
    return read_object(_stat(uri, options), settings.max_file_bytes, options), uri


def _capped(data: bytes, settings: CorpusSettings) -> bytes:
    check_size(len(data), settings)
    return data


def check_size(size: int, settings: CorpusSettings) -> None:
    """Raise `CorpusRefused` TOO_LARGE for an image above `max_file_bytes`."""
    if size > settings.max_file_bytes:
        raise CorpusRefused(CorpusReason.TOO_LARGE, f"{size} bytes; at most {settings.max_file_bytes} are read")


def _stat(uri: str, options: StorageOptions) -> ObjectRef:
    """Return what an object is now; it was in no listing."""
    try:
        if is_local(uri):
            return _stat_local(uri)
        store, path = filesystem(uri, options)
        info = store.info(path)
    except FileNotFoundError as error:
        raise CorpusRefused(CorpusReason.NOT_FOUND, f"{uri} does not exist") from error
    if info["type"] != "file":
        raise CorpusRefused(CorpusReason.NOT_FOUND, f"{uri} is a folder")
    return remote_ref(uri, info)


def _stat_local(uri: str) -> ObjectRef:
    try:
        path = Path(uri)
        status = path.stat()
        uri.encode()
    except FileNotFoundError:
        raise
    except UnicodeEncodeError as error:
        raise CorpusRefused(CorpusReason.BAD_ENCODING, "a path that is not UTF-8") from error
    except OSError as error:
        raise CorpusRefused(CorpusReason.UNREADABLE, f"{uri[:200]}: {error.strerror}") from error
    if not path.is_file():
        raise CorpusRefused(CorpusReason.NOT_FOUND, f"{uri} is not a file")
    return local_ref(uri, status)
