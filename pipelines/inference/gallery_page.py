"""The page that shows a run: plain values in, one self-contained HTML text out.

Everything that came from a corpus or a model is escaped, and the page's own policy forbids scripts and network, so a
hostile file name or caption stays text. What this does *not* do: read tables or images (`gallery`).
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.page import counts as show_counts
from pipelines.page import page, reason_tag, table
from pipelines.pictures import image_tag

_STYLE = """
main{max-width:1500px}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(17rem,100%),1fr));gap:1.2rem;margin-top:1rem}
.grid figure{border-radius:14px;box-shadow:var(--shadow)}
.grid figure img{height:13rem}
.grid figcaption{padding:.9rem 1rem 1rem;display:flex;flex-direction:column;gap:.5rem;flex:1;font-size:1rem;
line-height:1.55;color:var(--ink)}
.grid figcaption p{margin:0;overflow-wrap:anywhere;max-height:12.4em;overflow:auto}
.facts{color:var(--soft);font-size:.8rem;margin-top:auto;overflow-wrap:anywhere}
td{overflow-wrap:anywhere}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One image and its reply."""

    name: str
    """Where it came from."""
    text: str
    """The reply."""
    facts: str
    """A short line of figures."""
    thumbnail: bytes | None
    """Small JPEG; None where the corpus could not give the image again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """One row without a reply."""

    name: str
    """Where it came from."""
    reason: str
    """Reason code."""
    detail: str
    """For people."""


def render_page(
    *,
    title: str,
    lead: str,
    note: str | None,
    counts: Mapping[str, int],
    cards: Sequence[Card],
    rejections: Sequence[Rejection],
) -> str:
    """Write the page.

    Args:
        title: heading of the page and of the cards, and the browser's title.
        lead: what was run, in a sentence.
        note: a warning that a reader must see first, if any.
        counts: label → figure, in the order shown; the label "rejected" is marked when it is not zero.
        cards: images with their replies, in the order shown.
        rejections: rows without a reply, in the order shown.

    Returns:
        HTML that needs no other file.
    """
    escape = html.escape
    shown = f"{escape(title)} ({len(cards):,} of {counts.get('ok', len(cards)):,} shown)"
    parts = [
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>',
        f'<p class="note">{escape(note)}</p>' if note else "",
        show_counts(counts, bad=("rejected",)),
        f'<h2>{shown}</h2><div class="grid">{"".join(map(_card, cards))}</div>' if cards else "",
        _rejected(rejections, counts.get("rejected", len(rejections))),
    ]
    return page(title, parts, style=_STYLE)


def _card(card: Card) -> str:
    name = html.escape(card.name)
    image = image_tag(card.thumbnail, card.name) if card.thumbnail else ""
    text = html.escape(card.text) or "<em>(nothing)</em>"
    facts = html.escape(card.facts)
    return f'<figure>{image}<figcaption><p>{text}</p><span class="facts">{name}<br>{facts}</span></figcaption></figure>'


def _rejected(rejections: Sequence[Rejection], total: int) -> str:
    if not rejections:
        return ""
    rows = [[reason_tag(row.reason), html.escape(row.name), html.escape(row.detail)] for row in rejections]
    heading = f"<h2>Rejected ({len(rejections):,} of {total:,} shown)</h2>"
    return heading + table(["Reason", "Where", "What was found"], rows)
