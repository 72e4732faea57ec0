"""What a change of thresholds does, before anybody has to believe it: rows that leave and rows that come, and why.

Two selections are compared row by row. `describe` says it in lines, `render_diff` in a page with pictures. What this
does *not* do: select (`select_stage`), read pictures (`thumbnails`).
"""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curation.balance import uid_fractions
from pipelines.curation.thumbnails import RowPlace
from pipelines.page import counts, heading, page, share, table
from pipelines.pictures import image_tag

Direction = Literal["dropped", "added"]
SAMPLES = 12
"""Rows shown for each reason of each direction."""
GONE, NEW = "NO LONGER IN THE CORPUS", "NEW IN THE CORPUS"
"""In place of a reason, for rows that only one of the selections has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Rows that one reason drops or lets in, of one source."""

    direction: Direction
    """"dropped": kept before and not after. "added": kept after and not before."""
    reason: str
    """Why a dropped row is dropped now; why an added row was dropped before; `NEW` or `GONE`."""
    source: str
    """Where the rows come from; "" where that is unknown."""
    rows: int
    """How many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One row that changed."""

    place: RowPlace
    """Where its picture is."""
    uri: str
    """For people."""
    direction: Direction
    """As in `Change`."""
    reason: str
    """As in `Change`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionDiff:
    """The difference of two selections."""

    kept_before: int
    """Rows kept before."""
    kept_after: int
    """Rows kept after."""
    changes: tuple[Change, ...]
    """Most rows first."""
    samples: tuple[Sample, ...]
    """At most `SAMPLES` for each reason and direction, chosen by hash, so always the same ones."""

    def rows(self, direction: Direction) -> int:
        """Rows that changed in one direction."""
        return sum(change.rows for change in self.changes if change.direction == direction)

    def by_reason(self, direction: Direction) -> list[tuple[str, int, dict[str, int]]]:
        """(reason, rows, rows by source) of one direction, most rows first."""
        found: dict[str, dict[str, int]] = {}
        for change in self.changes:
            if change.direction == direction:
                found.setdefault(change.reason, {})[change.source] = change.rows
        return sorted(((reason, sum(of.values()), of) for reason, of in found.items()), key=lambda item: -item[1])


def diff_selections(before: pa.Table, after: pa.Table) -> SelectionDiff:
    """Compare two selections.

    Args:
        before: SELECTION, in any order.
        after: SELECTION, in any order.

    Example:
        A row that was kept is blurred now, and one that was too small is let in:
        >>> from schemas.selection import SELECTION
        >>> def selection(*errors):
        ...     same = dict.fromkeys(["uri", "fragment_id", "run_id", "status", "source", "corpus_fragment"], "x")
        ...     rows = [{"uid": f"u{n}", "row_index": n, "failed": [], "error": e} for n, e in enumerate(errors)]
        ...     return pa.Table.from_pylist([same | row for row in rows], SELECTION)
        >>> diff = diff_selections(selection(None, "TOO_SMALL", None), selection("BLURRED", None, None))
        >>> [(change.direction, change.reason, change.rows) for change in diff.changes]
        [('added', 'TOO_SMALL', 1), ('dropped', 'BLURRED', 1)]
    """
    left = _changed(before, after, "dropped", GONE)
    came = _changed(after, before, "added", NEW)
    changes: list[Change] = []
    samples: list[Sample] = []
    both: tuple[tuple[pa.Table, Direction], ...] = ((left, "dropped"), (came, "added"))
    for rows, direction in both:
        grouped = rows.group_by(["reason", "source"], use_threads=False).aggregate([([], "count_all")])
        changes += [
            Change(direction=direction, reason=row["reason"], source=row["source"], rows=row["count_all"])
            for row in grouped.to_pylist()
        ]
        samples += _samples(rows, direction)
    changes.sort(key=lambda change: (-change.rows, change.direction, change.reason, change.source))
    return SelectionDiff(
        kept_before=pc.sum(pc.is_null(before["error"])).as_py() or 0,
        kept_after=pc.sum(pc.is_null(after["error"])).as_py() or 0,
        changes=tuple(changes),
        samples=tuple(samples),
    )


def describe(diff: SelectionDiff, most: int = 12) -> list[str]:
    """The difference as lines for people.

    Args:
        diff: the difference.
        most: lines for each direction.
    """
    lines = [f"kept {diff.kept_before:,} → {diff.kept_after:,}"]
    words: tuple[tuple[Direction, str, str], ...] = (("dropped", "drops", "more"), ("added", "lets in", "again"))
    for direction, verb, more in words:
        found = diff.by_reason(direction)
        for reason, rows, sources in found[:most]:
            source, part = max(sources.items(), key=lambda item: (item[1], item[0]))
            does = f"{reason}: {rows:,}" if reason in (NEW, GONE) else f"{reason} {verb} {rows:,} {more}"
            lines.append(f"{does}, {share(part, rows)} from {source or 'no source'}")
        if found[most:]:
            lines.append(f"… and {len(found) - most} more reasons")
    return lines if len(lines) > 1 else [*lines, "no row changes"]


def render_diff(diff: SelectionDiff, thumbnails: Mapping[str, bytes], *, title: str, lead: str) -> str:
    """Write the page.

    Args:
        diff: the difference.
        thumbnails: uid → JPEG, of as many samples as there are.
        title: heading, and the browser's title.
        lead: what is compared, in a sentence.
    """
    parts = [f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>']
    figures = {"kept before": diff.kept_before, "kept after": diff.kept_after}
    parts.append(counts(figures | {"dropped": diff.rows("dropped"), "added": diff.rows("added")}))
    directions: tuple[tuple[Direction, str, str], ...] = (
        ("dropped", "Dropped now", "Kept before and not any more, by the reason of now."),
        ("added", "Let in now", "Kept now and not before, by the reason of before."),
    )
    for direction, name, why in directions:
        found = diff.by_reason(direction)
        if not found:
            continue
        parts.append(heading(f"{name} ({diff.rows(direction):,})", why))
        rows = [
            [f'<span class="reason">{html.escape(reason)}</span>', f"{n:,}", _sources(of, n)] for reason, n, of in found
        ]
        parts.append(table(["Reason", "Rows", "From"], rows, numbers=[1]))
        for reason, _, _ in found:
            shown = [one for one in diff.samples if (one.direction, one.reason) == (direction, reason)]
            cards = "".join(_card(one, thumbnails.get(one.place.uid)) for one in shown)
            parts.append(f'<h3>{html.escape(reason)}</h3><div class="cards">{cards}</div>')
    return page(title, parts)


def _changed(kept_in: pa.Table, other: pa.Table, direction: Direction, absent: str) -> pa.Table:
    """Rows kept in one selection and not in the other, with the other's reason."""
    kept = kept_in.filter(pc.is_null(kept_in["error"]))
    place = pc.index_in(kept["uid"], value_set=other["uid"].combine_chunks())
    reason = pc.if_else(pc.is_null(place), absent, other["error"].take(place))
    rows = kept.select(["uid", "uri", "corpus_fragment", "row_index"])
    rows = rows.append_column("source", pc.fill_null(kept["source"], "")).append_column("reason", reason)
    return rows.filter(pc.is_valid(rows["reason"]))


def _samples(rows: pa.Table, direction: Direction) -> list[Sample]:
    found: list[Sample] = []
    for reason in sorted(rows["reason"].unique().to_pylist()):
        some = rows.filter(pc.equal(rows["reason"], reason))
        first = np.argsort(uid_fractions(some["uid"].to_pylist(), 0), kind="stable")[:SAMPLES]
        found += [_sample(row, direction) for row in some.take(pa.array(first)).to_pylist()]
    return found


def _sample(row: dict[str, Any], direction: Direction) -> Sample:
    place = RowPlace(uid=row["uid"], fragment=row["corpus_fragment"], index=row["row_index"])
    return Sample(place=place, uri=row["uri"], direction=direction, reason=row["reason"])


def _sources(of: Mapping[str, int], total: int) -> str:
    most = sorted(of.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{html.escape(source or 'no source')} {share(rows, total)}" for source, rows in most[:5])
    return shown + (f", {len(most) - 5} more" if len(most) > 5 else "")


def _card(sample: Sample, picture: bytes | None) -> str:
    name = html.escape(sample.uri.rpartition("/")[2] or sample.uri)
    return f"<figure>{image_tag(picture, sample.uri)}<figcaption>{name}</figcaption></figure>"
