"""Listing of inputs: every file below a path, folder, prefix or glob, sorted, with what refuses it if anything does.

Hidden files and folders (".name"), folders that are Delta tables, and markers such as `_SUCCESS` are no input. A link
is followed only to a file below the listed folder. A folder that may not be read is one refused file. What this does
*not* do: open files, or know formats.
"""

import glob
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_core.errors import ConfigError
from pipelines.corpus_entries import Entries, Entry
from pipelines.corpus_sources import (
    StorageOptions,
    filesystem,
    is_local,
    local_ref,
    normalise,
    remote_ref,
    split_scheme,
)
from pipelines.fragments import CorpusRefused
from pipelines.row_refs import ObjectRef
from schemas.reasons import CorpusReason

logger = logging.getLogger(__name__)

DELTA_LOG = "_delta_log"
_MARKERS = frozenset({"_SUCCESS", "_temporary", "Thumbs.db", "desktop.ini", "__MACOSX", "lost+found"})
_MAGIC = frozenset("*?[")


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The files of one input."""

    source: str
    """The input, as the caller spelled it."""
    root: str
    """Folder that contains all of them."""
    entries: Entries
    """Sorted by name."""
    explicit: bool
    """Whether the caller named the files (one file, or a glob) and not a folder."""


def list_source(source: str, options: StorageOptions = None) -> Listing:
    """List one input.

    Raises:
        ConfigError: nothing is there, the scheme is not a store, or the folder is a Delta table.
    """
    uri = normalise(source)
    listing = _list_local(source, uri) if is_local(uri) else _list_remote(source, uri, options)
    if any(name.startswith(f"{DELTA_LOG}/") for name in listing.entries.names()):
        raise ConfigError(f"input {source!r} is a Delta table; its folder also holds files that its log has removed")
    return listing


def is_folder(name: str) -> bool:
    """Whether an entry stands for a folder that may not be read; all others are files.

    Example:
        >>> is_folder("a/images/"), is_folder("a/images")
        (True, False)
    """
    return name.endswith("/")


def check_entry(entry: Entry) -> None:
    """Raise `CorpusRefused` for what the listing found wrong with a file."""
    if entry.error:
        raise CorpusRefused(entry.error, entry.error_detail or "")


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _MARKERS


def _list_local(source: str, path: str) -> Listing:
    if os.path.isdir(path):  # noqa: PTH112  (os.path beside scandir, in one style)
        if not os.access(path, os.R_OK | os.X_OK):
            raise ConfigError(f"input {source!r}: no permission to read the folder {path}")
        return Listing(source=source, root=path, entries=Entries(_walk(path, path)), explicit=False)
    if os.path.lexists(path):
        entry = _named_file(path)
        return Listing(source=source, root=str(Path(path).parent), entries=Entries((entry,)), explicit=True)
    if not _MAGIC & set(path):
        raise ConfigError(f"input {source!r}: no such file or folder ({path})")
    root = fixed_prefix(path)
    found = glob.glob(path, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute pattern)
    matches = [match for match in found if not _hidden(Path(match).name)]
    entries: list[Entry] = []
    for match in matches:
        if os.path.isdir(match):  # noqa: PTH112
            entries += [] if "**" in path else _walk(match, root)
        else:
            entries += _local_entry(match, root, os.path.realpath(root))
    if not entries:
        raise ConfigError(f"input {source!r} matches nothing")
    return Listing(source=source, root=root, entries=_in_order(entries), explicit=True)


def _named_file(path: str) -> Entry:
    """Return the entry of a file that the caller named: its own link, if it is one, is meant."""
    try:
        return Entry(ref=local_ref(path, os.stat(path)), name=Path(path).name)  # noqa: PTH116
    except FileNotFoundError:
        return _refused(path, Path(path).name, CorpusReason.NOT_FOUND, "a link to nothing")


def fixed_prefix(path: str) -> str:
    """Return the folders of a glob that come before its first wildcard; all of a path without one.

    Example:
        >>> fixed_prefix("/data/a/*/b.jpg"), fixed_prefix("s3://bucket/x*.tar"), fixed_prefix("/data/a")
        ('/data/a', 's3://bucket', '/data/a')
    """
    parts = path.split("/")
    fixed = next((index for index, part in enumerate(parts) if _MAGIC & set(part)), len(parts))
    return "/".join(parts[:fixed]) or "/"


def _in_order(entries: list[Entry]) -> Entries:
    return Entries(sorted(entries, key=lambda entry: entry.name))


def _walk(folder: str, root: str) -> Iterator[Entry]:
    """Yield the files below a folder in the order of their names."""
    real_root = os.path.realpath(root)
    open_folders = [iter((folder.rstrip("/") + "/",))]
    while open_folders:
        child = next(open_folders[-1], None)
        if child is None:
            open_folders.pop()
        elif child.endswith("/"):
            try:
                open_folders.append(_children(child[:-1], root))
            except PermissionError as error:
                yield _unreadable(child, root, error)
        else:
            yield from _local_entry(child, root, real_root)


def _children(folder: str, root: str) -> Iterator[str]:
    """Paths of what is in a folder, folders with a slash: with it they sort as the paths of their files do.

    Raises:
        PermissionError: the folder may not be read.
    """
    with os.scandir(folder) as found:
        children = [
            child.name + ("/" if child.is_dir(follow_symlinks=False) else "")
            for child in found
            if not _hidden(child.name)
        ]
    if folder != root and any(child.rstrip("/") == DELTA_LOG for child in children):
        logger.info("%s is a Delta table and no part of the corpus around it", folder)
        return iter(())
    children.sort(key=_printable)
    return (f"{folder.rstrip('/')}/{child}" for child in children)


def _local_entry(path: str, root: str, real_root: str) -> Iterator[Entry]:
    """Yield a file's entry; nothing for what is neither a file nor a link to one."""
    name = path.removeprefix(root.rstrip("/") + "/")
    try:
        status = os.lstat(path)
    except PermissionError as error:
        yield _unreadable(path, root, error)
        return
    if stat.S_ISLNK(status.st_mode):
        target = os.path.realpath(path)
        if os.path.commonpath([target, real_root]) != real_root:
            yield _refused(path, name, CorpusReason.PATH_TRAVERSAL, "a link that leaves the corpus' folder")
            return
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            yield _refused(path, name, CorpusReason.NOT_FOUND, f"a link that cannot be followed: {error.strerror}")
            return
    if not stat.S_ISREG(status.st_mode):
        logger.warning("%s is neither a file nor a folder; not read", _printable(path))
    elif path != _printable(path):
        yield _refused(path, name, CorpusReason.BAD_ENCODING, "the file's name is not UTF-8")
    else:
        yield Entry(ref=local_ref(path, status), name=name)


def _unreadable(path: str, root: str, error: OSError) -> Entry:
    """Return the entry of what may not be read; a folder's name keeps its slash, with which it is in its place."""
    logger.warning("%s may not be read: %s", _printable(path), error.strerror)
    name = path.removeprefix(root.rstrip("/") + "/")
    return _refused(path.rstrip("/"), name, CorpusReason.UNREADABLE, f"{_printable(path)}: {error.strerror}")


def _printable(path: str) -> str:
    """Return a path whose bytes are all UTF-8, the others written as `\\xNN`."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "backslashreplace")


def _refused(path: str, name: str, reason: str, detail: str) -> Entry:
    ref = ObjectRef(uri=_printable(path), size=0, version="")
    return Entry(ref=ref, name=_printable(name), error=str(reason), error_detail=detail)


def _list_remote(source: str, uri: str, options: StorageOptions) -> Listing:
    store, path = filesystem(uri, options)
    try:
        root, explicit, found = _find_remote(store, path, uri)
    except (FileNotFoundError, PermissionError, ValueError) as error:
        # a bucket that is not there or not ours, or none named; a missing prefix is merely empty
        raise ConfigError(f"input {source!r} cannot be listed: {error}") from error
    scheme = split_scheme(uri)[0]
    prefix = split_scheme(root)[1].strip("/") + "/"
    tables = {name.partition(f"/{DELTA_LOG}/")[0] + "/" for name in found if f"/{DELTA_LOG}/" in name} - {prefix}
    entries = []
    for name, info in found.items():
        relative = name.lstrip("/").removeprefix(prefix)
        inside_table = any(name.startswith(table) for table in tables)
        # an empty object whose name ends in a slash is how consoles and Hadoop make a folder
        is_file = info["type"] == "file" and not name.endswith("/")
        if is_file and not inside_table and not any(_hidden(part) for part in relative.split("/")):
            entries.append(Entry(ref=remote_ref(f"{scheme}://{name.lstrip('/')}", info), name=relative))
    if not entries:
        raise ConfigError(f"input {source!r}: nothing there")
    return Listing(source=source, root=root, entries=_in_order(entries), explicit=explicit)


def _find_remote(store: Any, path: str, uri: str) -> tuple[str, bool, dict[str, Any]]:
    """Find the root of an input, whether it names its files, and what is there; a literal name goes before a glob."""
    if store.isfile(path):
        return uri.rpartition("/")[0], True, {path: store.info(path)}
    if not _MAGIC & set(path) or store.isdir(path):
        return uri, False, store.find(path, detail=True)
    found: dict[str, Any] = store.glob(path, detail=True)
    folders = [] if "**" in path else [name for name, info in found.items() if info["type"] == "directory"]
    for folder in folders:
        if not _hidden(folder.rstrip("/").rpartition("/")[2]):
            found |= store.find(folder, detail=True)
    return fixed_prefix(uri), True, found
