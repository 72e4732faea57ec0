"""Rows of a plan: where each is to be read from, held packed, because a plan of millions of files stays in memory.

    RowRef, … ─ pack_rows ─▶ RowRefs (less than 30 bytes a row) ─ [index] ─▶ RowRef

What this does *not* do: know formats or fragments (`fragments`).
"""

import base64
import functools
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self, overload


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectRef:
    """One object of a store, as the listing saw it."""

    uri: str
    """Absolute local path, or `scheme://…`; never credentials."""
    size: int
    """Bytes."""
    version: str
    """ETag, generation or modification time (ns) as text: whatever changes when the content does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A byte range of a container that belongs to one row."""

    name: str
    """What follows the key in a tar member's name, lower case ("jpg", "seg.png"); empty for a JSON record."""
    offset: int
    """First byte, counted in the unpacked stream of a compressed container."""
    size: int
    """Bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRef:
    """Where one row is to be read from, or why it cannot be."""

    key: str = ""
    """Names the row within its container; empty for a file that is a row."""
    objects: tuple[ObjectRef, ...] = ()
    """Kind "files": the image, then what lies beside it (`.txt`, `.json`)."""
    members: tuple[Member, ...] = ()
    """Other kinds: parts of the row within the fragment's container, in order of their place."""
    error: str | None = None
    """Reason code, if planning has already found that the row cannot be read."""
    error_detail: str | None = None
    """For people."""


class RowRefs(Sequence[RowRef]):
    """Rows in order, unpacked as they are asked for.

    Args:
        packed: what `pack_rows` made; base64 of deflated JSON, so that it can travel as it is.
        length: rows in it.
    """

    __slots__ = ("_length", "packed")

    def __init__(self, packed: str, length: int) -> None:
        self.packed, self._length = packed, length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> RowRef: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RowRef, ...]: ...
    def __getitem__(self, index: int | slice) -> RowRef | tuple[RowRef, ...]:
        return _unpack(self.packed)[index]

    def __iter__(self) -> Iterator[RowRef]:
        return iter(_unpack(self.packed))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowRefs) and self.packed == other.packed

    def __hash__(self) -> int:
        return hash(self.packed)

    def __repr__(self) -> str:
        return f"RowRefs of {self._length}"

    def __reduce__(self) -> tuple[type[Self], tuple[str, int]]:
        return type(self), (self.packed, self._length)


NO_ROWS = RowRefs("", 0)


def pack_rows(rows: Iterable[RowRef]) -> RowRefs:
    """Pack rows; equal rows are packed equally.

    Example:
        >>> rows = [RowRef(objects=(ObjectRef(uri=f"/photos/{n}.jpg", size=10, version="7"),)) for n in range(500)]
        >>> packed = pack_rows(rows)
        >>> packed[7].objects[0].uri, list(packed) == rows, len(packed.packed) < 30 * 500
        ('/photos/7.jpg', True, True)
    """
    if isinstance(rows, RowRefs):
        return rows
    plain = [
        [
            row.key,
            [[ref.uri, ref.size, ref.version] for ref in row.objects],
            [[member.name, member.offset, member.size] for member in row.members],
            row.error,
            row.error_detail,
        ]
        for row in rows
    ]
    if not plain:
        return NO_ROWS
    text = json.dumps(plain, separators=(",", ":"))
    return RowRefs(base64.b64encode(zlib.compress(text.encode(), 1)).decode(), len(plain))


@functools.lru_cache(maxsize=2)
def _unpack(packed: str) -> tuple[RowRef, ...]:
    if not packed:
        return ()
    return tuple(
        RowRef(
            key=key,
            objects=tuple(ObjectRef(uri=uri, size=size, version=version) for uri, size, version in objects),
            members=tuple(Member(name=name, offset=offset, size=size) for name, offset, size in members),
            error=error,
            error_detail=detail,
        )
        for key, objects, members, error, detail in json.loads(zlib.decompress(base64.b64decode(packed)))
    )
