"""Drawings of figures for pages, as SVG: curves over something that runs, and histograms.

No script and no other file; colours that are seen on light and dark pages. What this does *not* do: count.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 460, 190, 58, 24, 8
_MOST_POINTS = 600
_COLORS = ("#2563eb", "#d97706", "#059669", "#b91c1c", "#7c3aed")
BARS_WIDTH, BARS_HEIGHT, _FOOT = 360, 132, 18
"""Of a histogram, in units of its view box."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One chart."""

    title: str
    """What it shows, with its unit."""
    series: Mapping[str, Sequence[tuple[float, float]]]
    """Name → points (where, value)."""
    from_zero: bool = True
    """The axis begins at 0."""
    ends: tuple[str, str] | None = None
    """What the first and the last place are called; "step N" by default."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across a histogram."""

    place: float
    """Where, 0 to 1 of its width."""
    label: str
    """What is written beside it."""


def chart(curve: Curve) -> str:
    """A chart as SVG: one line for each series, axes with round numbers."""
    points = [point for one in curve.series.values() for point in one if math.isfinite(point[1])]
    if not points:
        return ""
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low = 0.0 if curve.from_zero else min(y for _, y in points)
    ticks = round_ticks(min(low, min(y for _, y in points)), max(y for _, y in points))
    low, high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / max(right - left, 1)
        up = (y - low) / (high - low)
        return _LEFT + across * (_WIDTH - _LEFT - 8), _HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - _TOP)

    parts = []
    for tick in ticks:
        y = place(left, tick)[1]
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="#88888844"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.6g}</text>')
    ends = curve.ends or (f"step {left:,.0f}", f"step {right:,.0f}")
    for x, anchor, words in ((left, "start", ends[0]), (right, "end", ends[1])):
        at = place(x, low)[0] if right > left or anchor == "start" else _WIDTH - 8
        parts.append(f'<text x="{at:.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{html.escape(words)}</text>')
    keys = ""
    for (name, one), color in zip(curve.series.items(), _COLORS * 3, strict=False):
        drawn = " ".join(
            f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in thin(one) if math.isfinite(point[1]))
        )
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        if len(curve.series) > 1:
            keys += f'<span class=key style="color:{color}">{html.escape(name)}</span>'
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(curve.title)}">'
    return f"<figure><figcaption>{html.escape(curve.title)}{keys}</figcaption>{svg}{''.join(parts)}</svg></figure>"


def round_ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers from at most `low` to at least `high`.

    >>> round_ticks(0, 4.6), round_ticks(0, 0.00098)
    ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 0.0002, 0.0004, 0.0006, 0.0008, 0.001])
    """
    span = max(high - low, abs(high) * 1e-3, 1e-12)
    unit = 10.0 ** math.floor(math.log10(span / 4))
    step = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), math.floor(low / step + 1e-9) + 1)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most some hundred points: means of neighbours, the ends among them."""
    width = -(-len(points) // _MOST_POINTS)
    if width <= 1:
        return list(points)
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def histogram(
    name: str,
    note: str,
    good: Sequence[int],
    ends: tuple[float, float],
    *,
    bad: Sequence[int] = (),
    marks: Sequence[Mark] = (),
) -> str:
    """One histogram as SVG, with its name and a line under it.

    Args:
        name: what is counted; escaped here.
        note: the line under it; escaped here.
        good: how many are in each bin.
        ends: where the first bin begins and the last one ends.
        bad: how many more are in each bin, drawn above the others in another colour; none if empty.
        marks: lines across.
    """
    bad = bad or [0] * len(good)
    most = max((low + high for low, high in zip(good, bad, strict=True)), default=0) or 1
    step, room = BARS_WIDTH / len(good), BARS_HEIGHT - _FOOT - 14
    bars = []
    for place, counts in enumerate(zip(good, bad, strict=True)):
        top = float(BARS_HEIGHT - _FOOT)
        for count, kind in zip(counts, ("good", "bad"), strict=True):
            height = room * count / most
            top -= height
            if count:
                box = f'x="{place * step:.1f}" y="{top:.1f}" width="{step - 1:.1f}" height="{max(height, 0.6):.1f}"'
                bars.append(f'<rect class="{kind}" {box}/>')
    lines = "".join(map(_mark, marks))
    foot = (
        f'<text x="0" y="{BARS_HEIGHT - 4}">{figure(ends[0])}</text>'
        f'<text x="{BARS_WIDTH}" y="{BARS_HEIGHT - 4}" text-anchor="end">{figure(ends[1])}</text>'
    )
    title, label = html.escape(name), html.escape(note)
    return (
        f'<div class="plot"><h3>{title}</h3><p class="why">{label}</p><svg viewBox="0 0 {BARS_WIDTH} {BARS_HEIGHT}" '
        f'role="img" aria-label="{title}: {label}">{"".join(bars)}{lines}{foot}</svg></div>'
    )


def _mark(mark: Mark) -> str:
    x = min(max(mark.place * BARS_WIDTH, 1), BARS_WIDTH - 1)
    anchor, shift = ("start", 4) if x < BARS_WIDTH / 2 else ("end", -4)
    return (
        f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{BARS_HEIGHT - _FOOT}"/>'
        f'<text class="mark" x="{x + shift:.1f}" y="11" text-anchor="{anchor}">{html.escape(mark.label)}</text>'
    )


def figure(value: float) -> str:
    """A number for an axis.

    >>> figure(12345.6), figure(0.0421), figure(336)
    ('12,346', '0.0421', '336')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
