"""`train_report.html`: the curves of every stage and what was rejected, as one page without scripts or other files.

What this does *not* do: measure (`watch`).
"""

import html
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.progress import duration
from pipelines.storage import StorageOptions, join_uri, read_bytes, write_bytes
from pipelines.training.watch import METRICS, REJECTED

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 460, 190, 58, 24, 8
_MOST_POINTS = 600
_COLORS = ("#2563eb", "#d97706", "#059669", "#b91c1c", "#7c3aed")
_STYLE = """body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1000px;padding:0 1rem;color:#1f2937}
h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2.2rem;border-top:1px solid #e5e7eb;padding-top:1rem}
figure{margin:0}figcaption{font-weight:600;margin:.6rem 0 .2rem}.charts{display:grid;gap:.6rem 2rem;
grid-template-columns:repeat(auto-fit,minmax(420px,1fr))}svg{width:100%;height:auto;background:#fff}
table{border-collapse:collapse}td,th{padding:.15rem 1rem .15rem 0;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}svg text{font:11px system-ui,sans-serif;fill:#4b5563}
.key{font-weight:400;margin-left:.8rem}"""


@dataclass(frozen=True, slots=True)
class Curve:
    """One chart."""

    title: str
    """What it shows, with its unit."""
    series: Mapping[str, Sequence[tuple[float, float]]]
    """Name → points (step, value)."""
    from_zero: bool = True
    """The axis begins at 0."""


def write_report(
    output: str, stages: Mapping[str, str], settings: Mapping[str, Any], options: StorageOptions | None = None
) -> str:
    """Write the page of a run.

    Args:
        output: folder of the run.
        stages: name → folder that has its metrics, in order.
        settings: of each stage, as JSON values.
        options: of the store.

    Returns:
        Where the page is.
    """
    parts = []
    for name, folder in stages.items():
        lines = _lines(join_uri(folder, METRICS), options)
        if lines:
            parts.append(stage_html(name, lines, _lines(join_uri(folder, REJECTED), options), settings.get(name, {})))
    title = f"Training: {html.escape(output)}"
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    page += f"<h1>{title}</h1>" + ("".join(parts) or "<p>No step has been taken yet.</p>") + "</html>\n"
    uri = join_uri(output, "train_report.html")
    write_bytes(uri, page.encode(), options)
    return uri


def stage_html(
    name: str, lines: Sequence[Mapping[str, Any]], rejected: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> str:
    """One stage: a table of what it came to, and its curves."""
    last = lines[-1]
    seconds = sum(line["seconds"] for line in lines)
    reasons = Counter(str(line["reason"]) for line in rejected)
    rows = {
        "steps": f"{last['step']:,}",
        "samples trained on": f"{last['samples']:,}",
        "rejected": ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common()) or "none",
        "loss, first and last tenth": f"{_part_mean(lines, 'loss', True):.4g} → {_part_mean(lines, 'loss', False):.4g}",
        "time in steps": duration(seconds),
        "tokens/s": f"{_mean(lines, 'tokens_per_s'):,.0f}",
        "images/s": f"{_mean(lines, 'images_per_s'):,.1f}",
        "non-padding tokens": f"{100 * _mean(lines, 'non_padding'):.1f} %",
        "waiting for data": f"{100 * sum(line['data_wait'] * line['seconds'] for line in lines) / seconds:.2f} %",
        "TFLOP/s": f"{_mean(lines, 'tflops'):.4g}",
        "learning rates": json.dumps(settings.get("learning_rates", {})),
    }
    if "mfu" in last:
        rows["MFU"] = f"{100 * _mean(lines, 'mfu'):.1f} %"
    table = "".join(f"<tr><th>{label}<td>{html.escape(value)}" for label, value in rows.items())
    charts = "".join(chart(curve) for curve in curves(lines))
    return f"<h2>{html.escape(name)}</h2><table>{table}</table><div class=charts>{charts}</div>"


def curves(lines: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """What is drawn of a stage."""

    def series(*names: str) -> dict[str, list[tuple[float, float]]]:
        return {
            name.partition("/")[2] or name: [(line["step"], line[name]) for line in lines if name in line]
            for name in names
        }

    losses = [name for name in lines[-1] if name.startswith("loss/") and any(line[name] for line in lines)]
    rates = [name for name in lines[-1] if name.startswith("lr/")]
    found = [
        Curve("Loss", series("loss", *(losses if len(losses) > 1 else []))),
        Curve("Learning rate", series(*rates)),
        Curve("Norm of the gradients", series("grad_norm")),
        Curve("Tokens a second", series("tokens_per_s")),
        Curve("Images a second", series("images_per_s")),
        Curve("Share of non-padding tokens, and of time waiting for data", series("non_padding", "data_wait")),
    ]
    return [*found, Curve("MFU", series("mfu"))] if "mfu" in lines[-1] else found


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
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.6g}</text>')
    for x, anchor in ((left, "start"), (right, "end")):
        parts.append(f'<text x="{place(x, low)[0]:.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">step {x:,.0f}</text>')
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


def _lines(uri: str, options: StorageOptions | None) -> list[dict[str, Any]]:
    try:
        text = read_bytes(uri, options).decode()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def _mean(lines: Sequence[Mapping[str, Any]], name: str) -> float:
    """Over time: steps count by their length."""
    seconds = sum(line["seconds"] for line in lines)
    return float(sum(line[name] * line["seconds"] for line in lines) / seconds)


def _part_mean(lines: Sequence[Mapping[str, Any]], name: str, first: bool) -> float:
    count = max(len(lines) // 10, 1)
    chosen = lines[:count] if first else lines[-count:]
    return float(sum(line[name] for line in chosen) / count)
