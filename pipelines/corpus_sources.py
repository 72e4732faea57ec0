"""Where corpora lie: listing inputs, and reading an object only while it is what the listing saw.

Local paths and `file://` go through the operating system (nanosecond times, links seen); everything else (`s3://`,
`gs://`, `memory://`) through fsspec, with `storage_options` that are passed along and never kept.

What this does *not* do: know formats, or judge URIs that rows contain (`corpus_refs`).
"""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
import fsspec.utils

from llava_core.errors import ConfigError
from pipelines.fragments import CorpusRefused, InputChanged
from pipelines.row_refs import ObjectRef
from pipelines.storage import no_store
from schemas.reasons import CorpusReason

StorageOptions = Mapping[str, Any] | None
_REFUSED_SCHEMES = ("http", "https", "ftp", "sftp", "data")
_READ_AHEAD = 4 * 2**20
_STORES: dict[tuple[int, str, str], Any] = {}
_STORES_LOCK = threading.Lock()


def split_scheme(uri: str) -> tuple[str, str]:
    """Split a URI into scheme and the rest; a plain path has the scheme "".

    Example:
        >>> split_scheme("s3://bucket/a"), split_scheme("/data/a"), split_scheme("file:///data/a")
        (('s3', 'bucket/a'), ('', '/data/a'), ('file', '/data/a'))
    """
    scheme, separator, rest = uri.partition("://")
    return (scheme.lower(), rest) if separator and scheme.isascii() and scheme.isalnum() else ("", uri)


def is_local(uri: str) -> bool:
    """Whether a URI names a file of this machine."""
    return split_scheme(uri)[0] in ("", "file")


def local_path(uri: str) -> str:
    """Return the absolute path of a local URI, links left as they are."""
    return os.path.abspath(Path(split_scheme(uri)[1]).expanduser())  # noqa: PTH100  (Path.resolve follows links)


def normalise(uri: str) -> str:
    """Return the one spelling of an input: an absolute path, or `scheme://…` without a slash at the end.

    Raises:
        ConfigError: the scheme is not a store.
    """
    scheme, rest = split_scheme(uri)
    if scheme in _REFUSED_SCHEMES:
        raise ConfigError(f"input {scheme}://…: expected a local path, file://, s3:// or another store of fsspec")
    return local_path(uri) if is_local(uri) else f"{scheme}://{rest.rstrip('/')}"


def filesystem(uri: str, options: StorageOptions) -> tuple[Any, str]:
    """Return the fsspec filesystem of a remote URI, without its listing cache, and the path in it."""
    scheme, rest = split_scheme(uri)
    values = dict(options or {})
    key = (os.getpid(), scheme, fsspec.utils.tokenize(values))
    # fsspec keeps one instance for each thread, and one costs a client of its own; the stores are safe to share.
    with _STORES_LOCK:
        if key not in _STORES:
            try:
                _STORES[key] = fsspec.filesystem(scheme, use_listings_cache=False, **values)
            except (ValueError, ImportError) as error:
                raise no_store(scheme, error) from error
        return _STORES[key], rest


def remote_ref(uri: str, info: Mapping[str, Any]) -> ObjectRef:
    """Return the reference of a remote object from what its store says."""
    keys = ("ETag", "etag", "generation", "md5Hash", "mtime", "LastModified", "last_modified", "created")
    version = next((str(info[key]) for key in keys if info.get(key) is not None), "")
    return ObjectRef(uri=uri, size=int(info["size"] or 0), version=version.strip('"'))


def local_ref(path: str, status: os.stat_result) -> ObjectRef:
    """Return the reference of a local file from its status."""
    return ObjectRef(uri=path, size=status.st_size, version=str(status.st_mtime_ns))


@contextlib.contextmanager
def open_object(ref: ObjectRef, options: StorageOptions = None) -> Iterator[BinaryIO]:
    """Open an object for reading and seeking.

    Raises:
        InputChanged: size or version are not those of the reference.
        CorpusRefused: NOT_FOUND, or UNREADABLE for a local file without permission. A store that denies access
            raises its own error instead, since that is most often a lapsed credential and not the object's fault.
    """
    with contextlib.ExitStack() as stack:
        try:
            handle = stack.enter_context(_open_local(ref) if is_local(ref.uri) else _open_remote(ref, options))
        except FileNotFoundError as error:
            raise CorpusRefused(CorpusReason.NOT_FOUND, f"{ref.uri} is gone since it was listed") from error
        yield handle


def _open_local(ref: ObjectRef) -> BinaryIO:
    try:
        handle = open(ref.uri, "rb", buffering=2**18)  # noqa: SIM115  (the caller's stack closes it)
    except PermissionError as error:
        raise CorpusRefused(CorpusReason.UNREADABLE, f"{ref.uri}: {error.strerror}") from error
    found = local_ref(ref.uri, os.fstat(handle.fileno()))
    if found != ref:
        handle.close()
        raise InputChanged(_changed(ref, found))
    return handle


def _open_remote(ref: ObjectRef, options: StorageOptions) -> BinaryIO:
    store, path = filesystem(ref.uri, options)
    handle = store.open(path, "rb", block_size=_READ_AHEAD, cache_type="readahead")
    # An S3 handle has asked once, and reads on condition of that ETag: one question and one answer for an image.
    found = remote_ref(ref.uri, getattr(handle, "details", None) or store.info(path))
    if found != ref:
        handle.close()
        raise InputChanged(_changed(ref, found))
    return cast(BinaryIO, handle)


def _changed(planned: ObjectRef, found: ObjectRef) -> str:
    return (
        f"{planned.uri} changed since the plan was made: planned {planned.size} bytes, version {planned.version}; "
        f"found {found.size} bytes, version {found.version}. Run the job again to plan anew."
    )


def read_object(ref: ObjectRef, max_bytes: int, options: StorageOptions = None) -> bytes:
    """Return an object's bytes.

    Raises:
        CorpusRefused: TOO_LARGE (nothing is read), NOT_FOUND, UNREADABLE.
        InputChanged: see `open_object`; also if it shrinks while it is read.
    """
    if ref.size > max_bytes:
        raise CorpusRefused(CorpusReason.TOO_LARGE, f"{ref.size} bytes; at most {max_bytes} are read")
    with open_object(ref, options) as handle:
        data = handle.read(ref.size)
    if len(data) != ref.size:
        raise InputChanged(f"{ref.uri}: planned with {ref.size} bytes, {len(data)} could be read")
    return data
