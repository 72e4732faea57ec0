"""Corpus of plain files: a nested folder, a prefix or a glob; each image is a row, side files belong to it.

A side file is no row: known text and table extensions, licences and read-mes. `a.txt` beside `a.jpg` is its caption,
`a.json` its metadata (and its caption where there is no `a.txt`, under "caption" or "text"). Anything else is a row,
whatever its extension: the decoder goes by content.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath

from pipelines.corpus_listing import Entry, Listing
from pipelines.corpus_settings import CorpusSettings
from pipelines.corpus_sources import StorageOptions, is_local, read_object
from pipelines.corpus_text import clean_text, decode_utf8, parse_json, scalars_json
from pipelines.fragments import CorpusRefused, CorpusRow, Fragment, cut_by_content, make_fragment, rejected_row
from pipelines.row_refs import RowRef
from schemas.reasons import CorpusReason

_SIDE_WORDS = """
.txt .json .jsonl .ndjson .csv .tsv .md .rst .parquet .pq .arrow .feather .npy .npz .html .htm .xml .yaml .yml .log
.tar .tgz .gz .zip .zst .bz2 .xz .7z .rar .lock .crc .idx .index .toml .ini .cfg .py .sh .pkl .pt .safetensors .db
license licence readme notice copying authors changelog makefile checksums manifest
"""
SIDE_NAMES = frozenset(_SIDE_WORDS.split())
"""What lies among images without being one: extensions, and names that have none; lower case."""
_CAPTION_KEYS = ("caption", "text")


def is_side_file(name: str) -> bool:
    """Whether a file among images is known not to be one, by its name.

    Example:
        >>> is_side_file("a/b.TXT"), is_side_file("LICENSE"), is_side_file("a/b.jpg"), is_side_file("0af3")
        (True, True, False, False)
    """
    path = PurePosixPath(name)
    return (path.suffix or path.name).lower() in SIDE_NAMES


def side_names(names: Iterable[str]) -> frozenset[str]:
    """Return the `.txt` and `.json` names that an image of the same stem could own."""
    stems = {name.removesuffix(PurePosixPath(name).suffix) for name in names}
    return frozenset(stem + suffix for stem in stems for suffix in (".txt", ".json"))


def plan_files(listing: Listing, settings: CorpusSettings) -> Iterator[Fragment]:
    """Cut the images of a listing into fragments whose borders depend on names alone; see `cut_by_content`."""
    by_name = {entry.name: entry for entry in listing.entries}
    images = [entry for entry in listing.entries if not is_side_file(entry.name)]
    for run in cut_by_content([entry.name for entry in images], settings.rows_per_fragment):
        rows = tuple(_plan_row(images[position], by_name, settings) for position in run)
        yield make_fragment(kind="files", source=listing.source, root=listing.root, rows=rows)


def _plan_row(entry: Entry, by_name: dict[str, Entry], settings: CorpusSettings) -> RowRef:
    stem = entry.name.removesuffix(PurePosixPath(entry.name).suffix)
    beside = [by_name.get(stem + suffix) for suffix in (".txt", ".json")] if settings.sidecars else []
    sides = [side for side in beside if side is not None]
    refused = next((one for one in (entry, *sides) if one.error), entry)
    return RowRef(
        objects=(entry.ref, *(side.ref for side in sides)),
        error=refused.error,
        error_detail=refused.error_detail,
    )


def read_files(fragment: Fragment, settings: CorpusSettings, options: StorageOptions = None) -> Iterator[CorpusRow]:
    """Yield a fragment's rows in order; remote files are fetched a few ahead by a small pool of threads.

    Raises:
        InputChanged: a file is not what it was when the plan was made.
    """
    if all(is_local(row.objects[0].uri) for row in fragment.rows):
        for index in range(fragment.num_rows):
            yield _read_row(fragment, index, settings, options)
        return
    pool = ThreadPoolExecutor(settings.read_threads, thread_name_prefix="corpus")
    try:
        ahead: list[Future[CorpusRow]] = []
        for index in range(fragment.num_rows):
            ahead.append(pool.submit(_read_row, fragment, index, settings, options))
            if len(ahead) > settings.read_threads:
                yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_row(fragment: Fragment, index: int, settings: CorpusSettings, options: StorageOptions) -> CorpusRow:
    row = fragment.rows[index]
    if row.error:
        return rejected_row(fragment, index, row.error, row.error_detail)
    try:
        return _read_accepted(fragment, index, row, settings, options)
    except CorpusRefused as refusal:
        return rejected_row(fragment, index, refusal.reason, refusal.detail)


def _read_accepted(
    fragment: Fragment, index: int, row: RowRef, settings: CorpusSettings, options: StorageOptions
) -> CorpusRow:
    image, *sides = row.objects
    data = read_object(image, settings.max_file_bytes, options)
    text, metadata = None, "{}"
    for side in sides:
        content = read_object(side, settings.max_file_bytes, options)
        if side.uri.endswith(".txt"):
            text = clean_text(decode_utf8(content), settings.max_text_bytes).strip()
            continue
        values = parse_json(content)
        if not isinstance(values, dict):
            raise CorpusRefused(CorpusReason.BAD_JSON, f"{side.uri}: expected an object")
        key = next((key for key in _CAPTION_KEYS if text is None and isinstance(values.get(key), str)), None)
        text = clean_text(values[key], settings.max_text_bytes).strip() if key else text
        metadata = scalars_json(values, frozenset({key} if key else ()), settings.max_text_bytes)
    return CorpusRow(
        uid=fragment.row_uid(index),
        uri=image.uri,
        index=index,
        images=(data,),
        image_uris=(image.uri,),
        text=text,
        metadata=metadata,
    )
