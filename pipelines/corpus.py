"""The front of all readers: from the inputs that a caller names to fragments, from a fragment to rows.

`plan_corpus` runs once, on the driver, and opens no more than headers and indexes; `read_fragment` runs anywhere.
What this does *not* do: decode an image, or know a format (`corpus_files`, `_parquet`, `_tar`, `_json`).
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import PurePosixPath
from typing import assert_never

import pyarrow as pa

from llava_core.errors import ConfigError
from pipelines.corpus_entries import Entries, Entry
from pipelines.corpus_files import is_side_file, owned_json, plan_files, read_files
from pipelines.corpus_json import plan_json, read_json
from pipelines.corpus_listing import Listing, is_folder, list_source
from pipelines.corpus_parquet import plan_parquet, read_parquet
from pipelines.corpus_settings import DEFAULT_COLUMNS, DEFAULT_SETTINGS, CorpusColumns, CorpusKind, CorpusSettings
from pipelines.corpus_sources import StorageOptions, is_local
from pipelines.corpus_tar import plan_tar, read_tar
from pipelines.fragments import CorpusRow, Fragment
from schemas.corpus import CORPUS

logger = logging.getLogger(__name__)

_EXTENSIONS: dict[str, CorpusKind] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
_NAMED = 3
"""Files that a warning names."""


def plan_corpus(
    inputs: Sequence[str],
    *,
    limit: int | None = None,
    storage_options: StorageOptions = None,
    columns: CorpusColumns = DEFAULT_COLUMNS,
    settings: CorpusSettings = DEFAULT_SETTINGS,
) -> list[Fragment]:
    """Freeze the inputs into fragments: the same files give the same plan.

    Args:
        inputs: folders, files, prefixes or globs; local, `file://`, `s3://` or another store of fsspec. A file that
            two of them name is read once.
        limit: at most this many rows; the last fragment is cut, and so has another id than in the whole plan.
        storage_options: for fsspec; kept out of the fragments.

    Raises:
        ConfigError: nothing is there, the scheme is no store, or `inputs` is empty.
    """
    if isinstance(inputs, str) or not inputs:
        raise ConfigError(f"inputs is {inputs!r}; expected a list of at least one path or URI")
    plan = list(_planned(inputs, limit, storage_options, columns, settings))
    # the listings' memory, which Arrow would keep for the whole job: 160 MB of a million files
    pa.default_memory_pool().release_unused()
    return plan


def _planned(
    inputs: Sequence[str],
    limit: int | None,
    storage_options: StorageOptions,
    columns: CorpusColumns,
    settings: CorpusSettings,
) -> Iterator[Fragment]:
    left = limit
    seen: set[str] = set()
    for source in inputs:
        parts = _split_by_kind(list_source(source, storage_options), settings)
        if len(inputs) > 1:
            # only of what is read: what one input leaves out, as of another kind, the next one may name
            parts = [(kind, _without(part, seen)) for kind, part in parts]
        for fragment in _plan_parts(parts, columns, settings, storage_options, limit is not None):
            if left is not None and left <= 0:
                return
            cut = fragment if left is None else fragment.head(left)
            left = None if left is None else left - cut.num_rows
            if cut.num_rows:
                yield cut


def read_fragment(
    fragment: Fragment,
    *,
    storage_options: StorageOptions = None,
    columns: CorpusColumns = DEFAULT_COLUMNS,
    settings: CorpusSettings = DEFAULT_SETTINGS,
) -> Iterator[CorpusRow]:
    """Yield exactly `fragment.num_rows` rows, in order; a row that cannot be read carries `error` and no images.

    Args:
        columns, settings: as given to `plan_corpus`.

    Raises:
        InputChanged: an object is not what it was when the plan was made.
    """
    match fragment.kind:
        case "files":
            yield from read_files(fragment, settings, storage_options)
        case "parquet":
            yield from read_parquet(fragment, columns, settings, storage_options)
        case "tar":
            yield from read_tar(fragment, columns, settings, storage_options)
        case "jsonl" | "json":
            yield from read_json(fragment, columns, settings, storage_options)
        case unknown:
            assert_never(unknown)


def rows_table(rows: Iterable[CorpusRow]) -> pa.Table:
    """Return rows as a table of schema `CORPUS`."""
    taken = list(rows)
    return pa.Table.from_arrays(
        [pa.array([getattr(row, field.name) for row in taken], field.type) for field in CORPUS], schema=CORPUS
    )


def _without(listing: Listing, seen: set[str]) -> Listing:
    """Return the files that a reader gets without those of earlier inputs, and note them."""
    new = Entries(entry for entry in listing.entries if entry.ref.uri not in seen)
    if len(new) < len(listing.entries):
        logger.warning("%s: %d files were named before; read once", listing.source, len(listing.entries) - len(new))
    seen.update(entry.ref.uri for entry in new)
    return dataclasses.replace(listing, entries=new)


def file_kind(name: str) -> CorpusKind:
    """Return what a file is by its extension; "files" (an image) if it is no container.

    Example:
        >>> file_kind("a/part-0.PARQUET"), file_kind("b.tar.gz"), file_kind("c.jpg")
        ('parquet', 'tar', 'files')
    """
    lower = name.lower()
    return next((kind for extension, kind in _EXTENSIONS.items() if lower.endswith(extension)), "files")


def _plan_parts(
    parts: Iterable[tuple[CorpusKind, Listing]],
    columns: CorpusColumns,
    settings: CorpusSettings,
    options: StorageOptions,
    lazy: bool,
) -> Iterator[Fragment]:
    """Plan the files of one input, in order; remote containers several at once, unless only the first are needed."""
    for kind, part in parts:
        if kind == "files":
            yield from plan_files(part, settings)
        else:
            plan = partial(
                _plan_container, kind=kind, listing=part, columns=columns, settings=settings, options=options
            )
            if lazy or is_local(part.root):
                yield from chain.from_iterable(map(plan, part.entries))
                continue
            with ThreadPoolExecutor(settings.read_threads, thread_name_prefix="plan") as pool:
                yield from chain.from_iterable(pool.map(plan, part.entries))


def _plan_container(
    entry: Entry,
    *,
    kind: CorpusKind,
    listing: Listing,
    columns: CorpusColumns,
    settings: CorpusSettings,
    options: StorageOptions,
) -> list[Fragment]:
    match kind:
        case "parquet":
            return list(plan_parquet(entry, listing, columns, settings, options))
        case "tar":
            return list(plan_tar(entry, listing, settings, options))
        case _:
            return list(plan_json(entry, listing, settings, options))


def _split_by_kind(listing: Listing, settings: CorpusSettings) -> list[tuple[CorpusKind, Listing]]:
    """Decide which reader reads which of the files; one reader for a folder, by extension for named files."""
    some: dict[CorpusKind, list[str]] = {"parquet": [], "tar": [], "json": [], "files": []}
    counts: Counter[CorpusKind] = Counter()
    owned = owned_json(listing.entries)
    for name in listing.entries.names():
        kind = file_kind(name)
        is_side = name in owned or (kind == "files" and is_side_file(name) and not listing.explicit)
        if is_side or is_folder(name):
            continue
        counts[kind] += 1
        if counts[kind] <= _NAMED:
            some[kind].append(PurePosixPath(name).name)
    if settings.kind != "auto":
        wanted: list[CorpusKind] = [settings.kind]
    elif listing.explicit:
        wanted = [kind for kind in some if counts[kind]] or ["files"]
    else:
        order: tuple[CorpusKind, ...] = ("parquet", "tar", "files", "json")
        wanted = [next((kind for kind in order if counts[kind]), "files")]
    for kind, names in some.items():
        if names and kind not in wanted:
            message = "%s is read as %s; not read: %d of kind %s (%s…)"
            logger.warning(message, listing.source, wanted[0], counts[kind], kind, ", ".join(names))
    if wanted == ["files"] and counts.total() == counts["files"]:
        return [("files", listing)]
    return [(kind, _only(listing, kind, owned, folders=kind == wanted[0])) for kind in wanted]


def _only(listing: Listing, kind: CorpusKind, owned: frozenset[str], *, folders: bool) -> Listing:
    """Return the files of one reader, images with the side files around them, and folders that may not be read."""

    def is_mine(name: str) -> bool:
        if is_folder(name):
            return folders
        return ("files" if name in owned else file_kind(name)) == kind

    return dataclasses.replace(listing, entries=Entries(entry for entry in listing.entries if is_mine(entry.name)))
