"""The page that shows a run: plain values in, one self-contained HTML text out.

Everything that came from a corpus or a model is escaped, and the page's own policy forbids scripts and network, so a
hostile file name or caption stays text. What this does *not* do: read tables or images (`gallery`).
"""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_STYLE = """
:root{color-scheme:light dark;--bg:#f6f5f1;--card:#fff;--ink:#1d1f23;--soft:#666a73;--line:#e3e1da;--accent:#0f766e;
--bad:#b42318;--badbg:#fdf0ee;--shadow:0 1px 2px #0001,0 4px 16px #0000000d}
@media(prefers-color-scheme:dark){:root{--bg:#14161a;--card:#1d2026;--ink:#e9eaec;--soft:#9aa0ab;--line:#2c3038;
--accent:#5eead4;--bad:#ff9c8f;--badbg:#2a1d1d;--shadow:none}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1500px;margin:0 auto;padding:clamp(1rem,3vw,3rem)}
h1{font-size:clamp(1.5rem,3vw,2.2rem);line-height:1.2;margin:0 0 .3rem;letter-spacing:-.02em}
h2{font-size:1.15rem;margin:2.5rem 0 1rem}
.lead{color:var(--soft);margin:0;max-width:75ch;overflow-wrap:anywhere}
.note{margin:1.2rem 0 0;padding:.7rem 1rem;border-radius:10px;background:var(--badbg);color:var(--bad)}
.counts{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.5rem 0 0}
.count{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:.7rem 1.1rem;min-width:8rem}
.count b{display:block;font-size:1.5rem;line-height:1.2;font-variant-numeric:tabular-nums}
.count span{color:var(--soft);font-size:.85rem}
.count.bad b{color:var(--bad)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(17rem,100%),1fr));gap:1.2rem}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:14px;overflow:hidden;
box-shadow:var(--shadow);display:flex;flex-direction:column}
figure img{width:100%;height:13rem;object-fit:contain;background:color-mix(in srgb,var(--bg) 70%,var(--line))}
figcaption{padding:.9rem 1rem 1rem;display:flex;flex-direction:column;gap:.5rem;flex:1}
figcaption p{margin:0;overflow-wrap:anywhere;max-height:12.4em;overflow:auto}
.facts{color:var(--soft);font-size:.8rem;margin-top:auto;overflow-wrap:anywhere}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:14px}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.6rem 1rem;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
tr:last-child td{border-bottom:0}
th{color:var(--soft);font-weight:600;font-size:.8rem}
td:first-child{white-space:nowrap}
.reason{color:var(--bad);font-weight:600;font-size:.82rem;font-family:ui-monospace,monospace}
"""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


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
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>',
        "<body><main>",
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>',
        f'<p class="note">{escape(note)}</p>' if note else "",
        f'<div class="counts">{"".join(_count(label, figure) for label, figure in counts.items())}</div>',
        f'<h2>{shown}</h2><div class="grid">{"".join(map(_card, cards))}</div>' if cards else "",
        _rejected(rejections, counts.get("rejected", len(rejections))),
        "</main></body></html>",
    ]
    return "\n".join(part for part in parts if part)


def _count(label: str, figure: int) -> str:
    mark = " bad" if label == "rejected" and figure else ""
    return f'<div class="count{mark}"><b>{figure:,}</b><span>{html.escape(label)}</span></div>'


def _card(card: Card) -> str:
    name = html.escape(card.name)
    source = base64.b64encode(card.thumbnail).decode() if card.thumbnail else ""
    image = f'<img loading="lazy" alt="{name}" src="data:image/jpeg;base64,{source}">' if source else ""
    text = html.escape(card.text) or "<em>(nothing)</em>"
    facts = html.escape(card.facts)
    return f'<figure>{image}<figcaption><p>{text}</p><span class="facts">{name}<br>{facts}</span></figcaption></figure>'


def _rejected(rejections: Sequence[Rejection], total: int) -> str:
    if not rejections:
        return ""
    rows = "".join(
        f'<tr><td class="reason">{html.escape(row.reason)}</td><td>{html.escape(row.name)}</td>'
        f"<td>{html.escape(row.detail)}</td></tr>"
        for row in rejections
    )
    heading = f"Rejected ({len(rejections):,} of {total:,} shown)"
    return (
        f'<h2>{heading}</h2><div class="scroll"><table><tr><th>Reason</th><th>Where</th><th>What was found</th></tr>'
        f"{rows}</table></div>"
    )
