"""Corpus of plain files: a nested folder, a prefix or a glob; each image is a row, side files belong to it.

A side file is no row: known text and table extensions, licences and read-mes. `a.txt` beside `a.jpg` is its caption,
`a.json` its metadata (and its caption where there is no `a.txt`, under "caption" or "text"). Anything else is a row,
whatever its extension: the decoder goes by content.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pipelines.corpus_entries import NO_ENTRIES, Entries, Entry
from pipelines.corpus_listing import Listing
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
_SIDES = (".txt", ".json")
"""What may belong to an image, in this order."""
_CAPTION_KEYS = ("caption", "text")


def is_side_file(name: str) -> bool:
    """Whether a file among images is known not to be one, by its name.

    Example:
        >>> is_side_file("a/b.TXT"), is_side_file("LICENSE"), is_side_file("a/b.jpg"), is_side_file("0af3")
        (True, True, False, False)
    """
    return (suffix_of(name) or name.rpartition("/")[2]).lower() in SIDE_NAMES


def suffix_of(name: str) -> str:
    """The extension of a file, with its dot: `PurePosixPath.suffix`, at a tenth of the time.

    Example:
        >>> [suffix_of(name) for name in ("a/b.tar.gz", "a.b/c", ".txt", "a.")]
        ['.gz', '', '', '']
    """
    dot = name.rfind(".")
    return name[dot:] if name.rfind("/") + 1 < dot < len(name) - 1 else ""


def owned_json(entries: Entries) -> frozenset[str]:
    """The `.json` files of a listing that belong to an image of the same stem, by name."""
    given = {name for name in entries.names() if name.endswith(".json")}
    if not given:
        return frozenset()
    images = (name for name in entries.names() if not is_side_file(name))
    return frozenset(given.intersection(name.removesuffix(suffix_of(name)) + ".json" for name in images))


def plan_files(listing: Listing, settings: CorpusSettings) -> Iterator[Fragment]:
    """Cut the images of a listing into fragments whose borders depend on names alone; see `cut_by_content`."""
    has_sides = settings.sidecars and any(name.endswith(_SIDES) for name in listing.entries.names())
    sides = listing.entries if has_sides else NO_ENTRIES
    run: list[Entry] = []
    for _ in cut_by_content(_names(listing.entries, run), settings.rows_per_fragment):
        rows = tuple(_plan_row(image, sides) for image in run)
        run.clear()
        yield make_fragment(kind="files", source=listing.source, root=listing.root, rows=rows)


def _names(entries: Entries, taken: list[Entry]) -> Iterator[str]:
    """Yield the names of images, and add each image to those taken."""
    for entry in entries:
        if not is_side_file(entry.name):
            taken.append(entry)
            yield entry.name


def _plan_row(image: Entry, sides: Entries) -> RowRef:
    stem = image.name.removesuffix(suffix_of(image.name))
    own = [found for suffix in _SIDES if (found := sides.find(stem + suffix)) is not None]
    refused = next((one for one in (image, *own) if one.error), image)
    return RowRef(
        objects=(image.ref, *(side.ref for side in own)), error=refused.error, error_detail=refused.error_detail
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
