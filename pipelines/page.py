"""What pages share: one file without scripts of others, in the same dress, everything escaped.

What this does *not* do: know what a page is about.
"""

import base64
import hashlib
import html
from collections.abc import Collection, Iterable, Mapping, Sequence

STYLE = """
:root{color-scheme:light dark;--bg:#f6f5f1;--card:#fff;--ink:#1d1f23;--soft:#666a73;--line:#e3e1da;--accent:#0f766e;
--fill:#5fb3a8;--bad:#b42318;--badfill:#e29a90;--badbg:#fdf0ee;--shadow:0 1px 2px #0001,0 4px 16px #0000000d}
@media(prefers-color-scheme:dark){:root{--bg:#14161a;--card:#1d2026;--ink:#e9eaec;--soft:#9aa0ab;--line:#2c3038;
--accent:#5eead4;--fill:#2f8377;--bad:#ff9c8f;--badfill:#8d4038;--badbg:#2a1d1d;--shadow:none}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1280px;margin:0 auto;padding:clamp(1rem,3vw,3rem)}
h1{font-size:clamp(1.5rem,3vw,2.2rem);line-height:1.2;margin:0 0 .3rem;letter-spacing:-.02em}
h2{font-size:1.25rem;margin:3rem 0 .3rem}
h3{font-size:1rem;margin:1.6rem 0 .6rem}
p{max-width:80ch;margin:.2rem 0 1rem}
.lead,.why{color:var(--soft);overflow-wrap:anywhere}
.note{padding:.7rem 1rem;border-radius:10px;background:var(--badbg);color:var(--bad);max-width:none}
.counts{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.5rem 0 0}
.count{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:.7rem 1.1rem;min-width:8rem}
.count b{display:block;font-size:1.5rem;line-height:1.2;font-variant-numeric:tabular-nums}
.count span{color:var(--soft);font-size:.85rem}
.count.bad b{color:var(--bad)}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:14px}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.5rem 1rem;border-bottom:1px solid var(--line);vertical-align:middle}
tr:last-child td{border-bottom:0}
th{color:var(--soft);font-weight:600;font-size:.8rem;vertical-align:bottom}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.code{font-family:ui-monospace,monospace;font-size:.82rem;overflow-wrap:anywhere}
td .code{display:inline-block;min-width:12ch}
.reason{color:var(--bad);font-weight:600;font-family:ui-monospace,monospace;font-size:.82rem;white-space:nowrap}
.bar{display:flex;height:1.05rem;min-width:9rem;border-radius:4px;overflow:hidden;background:var(--line)}
.bar i{display:block;height:100%;background:var(--fill)}
.bar i.bad{background:var(--badfill)}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(22rem,100%),1fr));gap:1.2rem}
.plot{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:.9rem 1rem .7rem}
.plot h3{margin:0}
.plot p{margin:0;font-size:.8rem}
.plot svg{width:100%;height:auto;display:block;margin-top:.4rem}
.plots figure{padding:.9rem 1rem .7rem;border-radius:14px}
.plots figcaption{padding:0;font-size:1rem;font-weight:600;color:var(--ink)}
.plots figure svg{width:100%;height:auto;margin-top:.4rem}
.plots .key{font-weight:400;margin-left:.8rem}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}
svg .good{fill:var(--fill)} svg .bad{fill:var(--badfill)} svg .line{stroke:var(--bad);stroke-width:1.5}
svg text.mark{fill:var(--bad);font-weight:600}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(11rem,100%),1fr));gap:.9rem}
.cluster{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:1rem;margin:0 0 1rem;
box-shadow:var(--shadow)}
.cluster>p{margin:0 0 .7rem;max-width:none}
.row{display:flex;flex-wrap:wrap;gap:.8rem}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:12px;overflow:hidden;display:flex;
flex-direction:column}
.row figure{width:13rem}
.row figure.best{outline:2px solid var(--accent)}
figure img,.noimage{width:100%;height:9rem;object-fit:contain;
background:color-mix(in srgb,var(--bg) 70%,var(--line));display:block}
.noimage{color:var(--soft);font-size:.75rem;padding:.7rem;overflow:hidden;overflow-wrap:anywhere}
figcaption{padding:.55rem .7rem .7rem;font-size:.78rem;line-height:1.45;overflow-wrap:anywhere;color:var(--soft)}
figcaption b{color:var(--ink)}
figcaption label{display:block;margin-top:.35rem;color:var(--ink);cursor:pointer}
.save{position:sticky;bottom:0;background:var(--card);border:1px solid var(--line);border-radius:14px;
padding:.8rem 1rem;margin-top:1.2rem;box-shadow:var(--shadow)}
.save summary{cursor:pointer;color:var(--soft);font-size:.85rem;margin-top:.3rem}
.save pre{margin:.5rem 0 0;max-height:9rem;overflow:auto;font-size:.78rem;white-space:pre-wrap}
button{font:inherit;padding:.35rem .9rem;border-radius:8px;border:1px solid var(--accent);color:var(--accent);
background:none;cursor:pointer}
"""


def page(title: str, parts: Iterable[str], script: str = "", style: str = "") -> str:
    """Put parts into one self-contained page whose policy allows no other script and no network.

    Args:
        title: of the browser's tab; escaped here.
        parts: HTML, escaped already.
        script: this project's own; allowed by its hash, so that none in a caption can run.
        style: CSS beside what all pages share.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"; script-src 'sha256-{digest}'" if script else ""
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{allowed}"
    head = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}{style}</style></head>',
        "<body><main>",
    ]
    end = [f"<script>{script}</script>" if script else "", "</main></body></html>"]
    return "\n".join(part for part in [*head, *parts, *end] if part)


def counts(figures: Mapping[str, int | str], bad: Collection[str] = ()) -> str:
    """Figures in large print, label below; those of `bad` labels are marked unless they are 0."""
    cells = []
    for label, value in figures.items():
        mark = " bad" if value and label in bad else ""
        large = f"{value:,}" if isinstance(value, int) else html.escape(value)
        cells.append(f'<div class="count{mark}"><b>{large}</b><span>{html.escape(label)}</span></div>')
    return f'<div class="counts">{"".join(cells)}</div>'


def heading(title: str, why: str) -> str:
    """A section's title, and what it shows."""
    return f'<h2>{html.escape(title)}</h2><p class="why">{html.escape(why)}</p>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of cells that are HTML already.

    Args:
        columns: heads, escaped here.
        rows: cells, escaped already.
        numbers: columns that hold figures, set flush right.
    """
    right = set(numbers)

    def cells(tag: str, row: Sequence[str]) -> str:
        classes = (' class="n"' if place in right else "" for place in range(len(row)))
        return "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in zip(classes, row, strict=True))

    head = cells("th", [html.escape(name) for name in columns])
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def bar(good: float, bad: float = 0.0) -> str:
    """A bar of two shares of its length, each 0 to 1."""
    parts = [f'<i style="width:{100 * good:.2f}%"></i>', f'<i class="bad" style="width:{100 * bad:.2f}%"></i>']
    return f'<div class="bar">{"".join(parts)}</div>'


def share(part: float, whole: float) -> str:
    """A share as percent, "–" of nothing.

    >>> share(1, 8), share(0, 0)
    ('12.5 %', '–')
    """
    return f"{100 * part / whole:.1f} %" if whole else "–"


def reason_tag(reason: str) -> str:
    """A reason's code as a page shows it."""
    return f'<span class="reason">{html.escape(reason)}</span>'
