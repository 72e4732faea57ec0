"""Index of a tar: its headers read in order, its contents skipped, nothing ever extracted.

`tarfile` takes a damaged header in the middle for the end of the archive, so rows would be lost in silence; here the
blocks are walked one by one and each header is parsed by `tarfile.TarInfo.frombuf`. A plain tar is walked by seeking;
a `.tar.gz` by unpacking it as a stream, under caps. Legend: *block* 512 bytes.

What this does *not* do: group members into samples (`corpus_tar`).
"""

import contextlib
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from pipelines.corpus_settings import CorpusSettings
from pipelines.fragments import CorpusRefused
from schemas.reasons import CorpusReason

BLOCK = tarfile.BLOCKSIZE
_MAX_HEADER = 2**20
_FREE_BYTES = 64 * 2**20
_CHUNK = 2**20
_END_BYTES = 2**20
_MAX_CLAIM = 2**40
_HEADER_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K")


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """One member of an archive."""

    name: str
    """As stored; bytes that are not UTF-8 as surrogates."""
    offset: int
    """First byte of its content in the unpacked stream."""
    size: int
    """Bytes of content."""
    regular: bool
    """Whether it is a plain file."""
    folder: bool
    """Whether it is a folder."""


class ForwardReader(Protocol):
    """What the index needs of an archive: reading, and going forward."""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; fewer only at the end."""

    def skip_to(self, offset: int) -> bool:
        """Go forward; False if the archive ends before."""


class PlainReader:
    """A tar that is not compressed: going forward costs nothing."""

    def __init__(self, handle: BinaryIO, size: int) -> None:
        self.handle = handle
        self.size = size

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        return self.handle.read(size)

    def skip_to(self, offset: int) -> bool:
        """Seek; False beyond the end."""
        if offset > self.size:
            return False
        self.handle.seek(offset)
        return True


class GzipReader:
    """A tar in gzip: unpacked as it is read, refused as a bomb by ratio or by bytes.

    Args:
        handle: the compressed file, at its start.
        settings: `max_archive_ratio`, `max_archive_bytes`.
    """

    def __init__(self, handle: BinaryIO, settings: CorpusSettings) -> None:
        self.handle = handle
        self.settings = settings
        self.unpacked = 0
        self._packed = 0
        self._pending = b""
        self._buffer = bytearray()
        self._inflater = zlib.decompressobj(wbits=31)

    def _read_packed(self) -> bytes:
        data = self.handle.read(_CHUNK)
        self._packed += len(data)
        return data

    def _fill(self) -> bool:
        """Unpack a little more; False at the end."""
        if self._inflater.eof:
            rest = self._inflater.unused_data or self._read_packed()
            # Zero bytes may pad the end of a gzip; another stream may follow it.
            if not rest.strip(b"\x00"):
                return False
            self._inflater, self._pending = zlib.decompressobj(wbits=31), rest
        if not self._pending:
            self._pending = self._read_packed()
            if not self._pending:
                raise CorpusRefused(CorpusReason.TRUNCATED_ARCHIVE, "the gzip stream ends early")
        try:
            data = self._inflater.decompress(self._pending, _CHUNK)
        except zlib.error as error:
            raise CorpusRefused(CorpusReason.CORRUPT, f"not gzip: {error}") from error
        self._pending = self._inflater.unconsumed_tail
        self.unpacked += len(data)
        self._buffer += data
        allowed = max(_FREE_BYTES, self.settings.max_archive_ratio * self._packed)
        if self.unpacked > min(allowed, self.settings.max_archive_bytes):
            detail = f"{self._packed} bytes unpack to more than {self.unpacked}"
            raise CorpusRefused(CorpusReason.BOMB, detail)
        return True

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, fewer only at the end."""
        while len(self._buffer) < size and self._fill():
            pass
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def skip_to(self, offset: int) -> bool:
        """Unpack and drop; False if the stream ends before."""
        left = offset - (self.unpacked - len(self._buffer))
        while left > 0:
            if not self._buffer and not self._fill():
                return False
            step = min(left, len(self._buffer))
            del self._buffer[:step]
            left -= step
        return True


def open_tar(handle: BinaryIO, size: int, settings: CorpusSettings) -> ForwardReader:
    """Return a reader of the unpacked archive, by its first bytes and not by its name.

    Raises:
        CorpusRefused: CORRUPT for a zip and the like, which no rename makes a tar.
    """
    head = handle.read(6)
    handle.seek(0)
    if head[:2] == b"\x1f\x8b":
        return GzipReader(handle, settings)
    if head[:4] in (b"PK\x03\x04", b"\x28\xb5\x2f\xfd") or head[:3] == b"BZh" or head == b"\xfd7zXZ\x00":
        raise CorpusRefused(CorpusReason.CORRUPT, "a zip, zst, bz2 or xz; expected .tar or .tar.gz")
    return PlainReader(handle, size)


def walk_members(reader: ForwardReader) -> Iterator[TarMember]:
    """Yield every member in order.

    Raises:
        CorpusRefused: TRUNCATED_ARCHIVE (ends within a member, or without its end marker), CORRUPT (a header that is
            none, or something after the end marker), TOO_LARGE (a name or size beyond all bounds).
    """
    offset = 0
    extended: dict[str, str] = {}
    while True:
        block = reader.read(BLOCK)
        if len(block) < BLOCK:
            raise CorpusRefused(CorpusReason.TRUNCATED_ARCHIVE, f"no end marker; the file stops at byte {offset}")
        if not any(block):
            _check_end(reader)
            return
        info = _parse_header(block, offset)
        offset += BLOCK + _skip_sparse_map(reader, info, block)
        if info.type in _HEADER_TYPES:
            size = info.size
            extended.update(_read_extension(reader, info))
        else:
            size = _content_size(extended, info)
            yield _member(info, extended, offset, size)
            extended = {}
        offset += -(-size // BLOCK) * BLOCK
        if not reader.skip_to(offset):
            raise CorpusRefused(CorpusReason.TRUNCATED_ARCHIVE, f"the file stops within {info.name[:200]!r}")


def _check_end(reader: ForwardReader) -> None:
    """Refuse what follows the end marker: in joined archives, samples that nobody would ever see."""
    if reader.read(_END_BYTES).strip(b"\x00"):
        raise CorpusRefused(CorpusReason.CORRUPT, "something follows the end marker; joined archives are not read")


def _skip_sparse_map(reader: ForwardReader, info: tarfile.TarInfo, block: bytes) -> int:
    """Pass the blocks by which GNU's old sparse form lengthens its header; return their bytes."""
    passed = 0
    more = info.type == tarfile.GNUTYPE_SPARSE and block[482] != 0
    while more:
        block = reader.read(BLOCK)
        passed += BLOCK
        more = len(block) == BLOCK and block[504] != 0
    return passed


def _parse_header(block: bytes, offset: int) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise CorpusRefused(CorpusReason.CORRUPT, f"byte {offset} is no tar header: {error}") from error
    if info.size < 0:
        raise CorpusRefused(CorpusReason.CORRUPT, f"byte {offset}: a negative size")
    return info


def _content_size(extended: dict[str, str], info: tarfile.TarInfo) -> int:
    text = extended.get("size", str(info.size))
    if not text.isascii() or not text.isdigit() or len(text) > 30:
        raise CorpusRefused(CorpusReason.CORRUPT, f"the size {text[:40]!r} of {info.name[:200]!r}")
    if int(text) > _MAX_CLAIM:
        raise CorpusRefused(CorpusReason.TOO_LARGE, f"{info.name[:200]!r} claims {text} bytes")
    # Links and devices have no content, whatever size they claim; unknown types are read past like files.
    return int(text) if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES else 0


def _member(info: tarfile.TarInfo, extended: dict[str, str], offset: int, size: int) -> TarMember:
    sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in extended)
    return TarMember(
        name=extended.get("path", info.name),
        offset=offset,
        size=size,
        regular=info.type in tarfile.REGULAR_TYPES and not sparse,
        folder=info.isdir(),
    )


def _read_extension(reader: ForwardReader, info: tarfile.TarInfo) -> dict[str, str]:
    """Read a header that says something about the next member: a long name, or PAX records."""
    if info.size > _MAX_HEADER:
        raise CorpusRefused(CorpusReason.TOO_LARGE, f"a tar header of {info.size} bytes")
    data = reader.read(info.size)
    if len(data) < info.size:
        raise CorpusRefused(CorpusReason.TRUNCATED_ARCHIVE, "the file stops within a header")
    if info.type == b"L":
        return {"path": data.rstrip(b"\x00").decode("utf-8", "surrogateescape")}
    if info.type == b"K":
        return {}
    records = dict(_pax_records(data))
    if info.type != tarfile.XGLTYPE:
        return records
    if "path" in records or "size" in records:
        raise CorpusRefused(CorpusReason.CORRUPT, "a global header that names every member")
    return {}


def _pax_records(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the `length key=value\\n` records of a PAX header."""
    position = 0
    while position < len(data) and data[position] != 0:
        space = data.find(b" ", position, position + 20)
        length = 0
        with contextlib.suppress(ValueError):
            length = int(data[position:space]) if space > 0 else 0
        record = data[space + 1 : position + length]
        if length <= 0 or not record.endswith(b"\n") or b"=" not in record:
            raise CorpusRefused(CorpusReason.CORRUPT, "a PAX header that is none")
        key, _, value = record[:-1].partition(b"=")
        yield key.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")
        position += length
