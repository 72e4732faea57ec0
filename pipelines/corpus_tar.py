"""Corpus of tars in WebDataset's manner: members that share a key are one sample, one row.

The key is a member's path up to the first dot of its last part; what follows names the part (`a/7.jpg`, `a/7.txt`).
The driver indexes headers (`corpus_tar_index`), workers read byte ranges; nothing is extracted, so a member's name is
never more than text. A sample with one member that must not be read is refused as a whole.
What this does *not* do: take pickles or arrays, or look into archives within the archive.
"""

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from pipelines.corpus_entries import Entry
from pipelines.corpus_listing import Listing, check_entry
from pipelines.corpus_records import name_fields, record_row
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.corpus_sources import StorageOptions, open_object
from pipelines.corpus_tar_index import ForwardReader, TarMember, open_tar, walk_members
from pipelines.corpus_text import decode_utf8, parse_json
from pipelines.fragments import (
    CorpusRefused,
    CorpusRow,
    Fragment,
    cut_evenly,
    make_fragment,
    refused_fragment,
    rejected_row,
    warn_of_rereading,
)
from pipelines.row_refs import Member, RowRef
from schemas.reasons import CorpusReason

logger = logging.getLogger(__name__)

_IMAGE_WORDS = "jpg jpeg jpe jfif png webp gif bmp tif tiff avif heic heif jp2 jxl ppm pgm img"
IMAGE_EXTENSIONS = frozenset(_IMAGE_WORDS.split())
"""Parts that are taken for images; the decoder says which of them are any."""
TEXT_EXTENSIONS = ("txt", "text", "caption")
_UNSAFE = frozenset(["pkl", "pickle", "pt", "pth", "npy", "npz", "joblib", "dill", "pyd", "ten"])
_ARCHIVES = frozenset(["tar", "tgz", "gz", "zip", "bz2", "xz", "7z", "rar", "zst", "lz4"])
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_IMAGE, _TEXT = "\x00image", "\x00text"


def plan_tar(entry: Entry, listing: Listing, settings: CorpusSettings, options: StorageOptions) -> Iterator[Fragment]:
    """Cut the samples of one archive into fragments of `rows_per_fragment`; an unreadable one is one refused row."""
    root = entry.ref.uri.rpartition("/")[0]
    try:
        check_entry(entry)
        with open_object(entry.ref, options) as handle:
            members = walk_members(open_tar(handle, entry.ref.size, settings))
            rows = list(group_samples(members, settings))
    except CorpusRefused as refusal:
        yield refused_fragment(
            kind="tar",
            source=listing.source,
            root=root,
            container=entry.ref,
            reason=refusal.reason,
            detail=refusal.detail,
        )
        return
    if entry.name.lower().endswith((".gz", ".tgz")):
        parts = -(-len(rows) // settings.rows_per_fragment)
        warn_of_rereading(entry.ref.uri, entry.ref.size, parts, "unpack it to a .tar, which is read anywhere")
    for run in cut_evenly(len(rows), settings.rows_per_fragment):
        part = tuple(rows[run.start : run.stop])
        yield make_fragment(
            kind="tar", source=listing.source, root=root, container=entry.ref, start=run.start, rows=part
        )


def split_key(name: str) -> tuple[str, str] | None:
    """Split a member's name into key and part, both canonical (NFC, printable); None if it is in no sample.

    Example:
        >>> split_key("a.b/7.seg.PNG"), split_key("./7.jpg"), split_key("7"), split_key("a/.hidden")
        (('a.b/7', 'seg.png'), ('7', 'jpg'), None, None)
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", unicodedata.normalize("NFC", text))
    folder, slash, last = text.removeprefix("./").rpartition("/")
    stem, dot, part = last.partition(".")
    if not stem or not dot or "__MACOSX" in folder.split("/"):
        return None
    return f"{folder}{slash}{stem}", part.lower()


def _member_fault(member: TarMember, part: str, settings: CorpusSettings) -> tuple[CorpusReason, str] | None:
    """Say why a member must not be read, by its header alone."""
    extension = part.rpartition(".")[2]
    shown = repr(member.name[:200])
    if member.name.startswith("/") or "\x00" in member.name or ".." in re.split(r"[/\\]", member.name):
        return CorpusReason.PATH_TRAVERSAL, f"the name {shown} leads out of the archive"
    if not member.regular:
        return CorpusReason.SPECIAL_MEMBER, f"{shown} is a link, device, pipe or sparse file"
    if extension in _UNSAFE:
        return CorpusReason.UNSAFE_TYPE, f"{shown} may run code when it is read"
    if extension in _ARCHIVES:
        return CorpusReason.NESTED_ARCHIVE, f"{shown} is an archive"
    if member.size > settings.max_file_bytes and (extension in IMAGE_EXTENSIONS or part in (*TEXT_EXTENSIONS, "json")):
        return CorpusReason.TOO_LARGE, f"{shown} has {member.size} bytes; at most {settings.max_file_bytes} are read"
    return None


def group_samples(members: Iterable[TarMember], settings: CorpusSettings) -> Iterator[RowRef]:
    """Group members into samples: neighbours that share a key, each part once.

    A key, or a part of the sample at hand, that comes again starts a second sample under a taken key: DUP_KEY.
    """
    taken: set[str] = set()
    key, parts, fault = "", dict[str, TarMember](), None
    for member in members:
        if member.folder:
            continue
        split = split_key(member.name)
        bad_name = split is None and _member_fault(member, "", settings)
        if split is None and not bad_name:
            logger.warning("%r belongs to no sample (no key, or no extension); not read", member.name[:200])
            continue
        new_key, part = split or (_shown(member.name), "")
        if (new_key != key or part in parts) and parts:
            yield _sample(key, parts, fault, taken, settings)
            parts, fault = {}, None
        key = new_key
        parts[part] = member
        fault = fault or _member_fault(member, part, settings)
    if parts:
        yield _sample(key, parts, fault, taken, settings)


def _shown(name: str) -> str:
    return _CONTROL.sub("?", name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def _sample(
    key: str,
    parts: dict[str, TarMember],
    fault: tuple[CorpusReason, str] | None,
    taken: set[str],
    settings: CorpusSettings,
) -> RowRef:
    """Return the row of one sample, refused if anything in it is."""
    first = next(iter(parts.values()))
    if key in taken:
        fault = fault or (CorpusReason.DUP_KEY, f"the key {key[:200]!r} was taken by an earlier sample")
        key = f"{key}@{first.offset}"
    taken.add(key)
    members = tuple(Member(name=part, offset=found.offset, size=found.size) for part, found in parts.items())
    if not fault and settings.require_images and not any(_extension(part) in IMAGE_EXTENSIONS for part in parts):
        fault = CorpusReason.MISSING_PART, f"no image among {', '.join(sorted(parts))[:200]}"
    if not fault:
        return RowRef(key=key, members=members)
    return RowRef(key=key, members=members, error=str(fault[0]), error_detail=_shown(fault[1]))


def _extension(part: str) -> str:
    return part.rpartition(".")[2]


def _wanted(members: tuple[Member, ...]) -> tuple[list[Member], Member | None, Member | None]:
    """Return which members are images, caption and JSON.

    A part that is nothing but an image's extension ("jpg") is the sample's image, and what else looks like one
    ("seg.png") is not; without such a part, all that look like images are ("0.jpg", "1.jpg").
    """
    plain = [member for member in members if member.name in IMAGE_EXTENSIONS][:1]
    images = plain or [member for member in members if _extension(member.name) in IMAGE_EXTENSIONS]
    by_name = {member.name: member for member in members}
    text = next((by_name[name] for name in TEXT_EXTENSIONS if name in by_name), None)
    return images, text, by_name.get("json")


def read_tar(
    fragment: Fragment, columns: CorpusColumns, settings: CorpusSettings, options: StorageOptions = None
) -> Iterator[CorpusRow]:
    """Yield a fragment's rows in order.

    Raises:
        InputChanged: the archive is not what it was when the plan was made.
    """
    assert fragment.container is not None, "a fragment of a tar has a container"
    done = 0
    try:
        if any(not row.error for row in fragment.rows):
            with open_object(fragment.container, options) as handle:
                reader = open_tar(handle, fragment.container.size, settings)
                while done < fragment.num_rows:
                    yield _read_row(reader, fragment, done, columns, settings, options)
                    done += 1
        refusal = CorpusRefused(CorpusReason.CORRUPT)
    except CorpusRefused as raised:
        refusal = raised
    for index in range(done, fragment.num_rows):
        row = fragment.rows[index]
        yield rejected_row(fragment, index, row.error or refusal.reason, row.error_detail or refusal.detail)


def _read_row(
    reader: ForwardReader,
    fragment: Fragment,
    index: int,
    columns: CorpusColumns,
    settings: CorpusSettings,
    options: StorageOptions,
) -> CorpusRow:
    row = fragment.rows[index]
    if row.error:
        return rejected_row(fragment, index, row.error, row.error_detail)
    images, text, meta = _wanted(row.members)
    wanted = sorted((*images, *(one for one in (text, meta) if one)), key=lambda member: member.offset)
    data = {member.name: _read_member(reader, member) for member in wanted}
    try:
        record: dict[str, Any] = parse_json(data[meta.name]) if meta else {}
        if not isinstance(record, dict):
            raise CorpusRefused(CorpusReason.BAD_JSON, f"{meta.name if meta else ''}: expected an object")
        named = name_fields(list(record), columns)
        fields = CorpusColumns(
            image=_IMAGE,
            text=_TEXT if text else named.text,
            conversations=named.conversations,
            uid=named.uid,
        )
        record[_IMAGE] = [data[member.name] for member in images]
        if text:
            record[_TEXT] = decode_utf8(data[text.name]).strip()
    except CorpusRefused as refusal:
        return rejected_row(fragment, index, refusal.reason, refusal.detail)
    return record_row(fragment, index, record, fields, settings, options)


def _read_member(reader: ForwardReader, member: Member) -> bytes:
    data = reader.read(member.size) if reader.skip_to(member.offset) else b""
    if len(data) != member.size:
        raise CorpusRefused(CorpusReason.TRUNCATED_ARCHIVE, f"the archive stops before byte {member.offset}")
    return data
