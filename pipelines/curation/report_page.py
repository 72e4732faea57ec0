"""`report.html`: a curation on one page that needs no other file.

The page runs one script of its own, by which a person marks copies that are none and saves the override file; the
page's policy names it by its hash and forbids every other. What this does *not* do: count (`report`).
"""

import html
import json
import math
from collections.abc import Mapping, Sequence

from pipelines.curation.overrides import Overrides
from pipelines.curation.report import Cluster, Forecast, Grid, Histogram, Member, Part, Report
from pipelines.curation.select import NO_OVERRIDES
from pipelines.page import bar, counts, heading, page, reason_tag, share, table
from pipelines.pictures import image_tag
from pipelines.plots import Mark, figure
from pipelines.plots import histogram as draw
from schemas.cluster import ClusterRole

_MOST_PARTS = 24

_SCRIPT = """
const save = document.getElementById("save");
if (save) {
  const known = JSON.parse(save.dataset.overrides);
  const text = () => {
    const spared = new Set(known.not_duplicate);
    for (const box of document.querySelectorAll("input[data-uid]")) {
      if (box.checked) spared.add(box.dataset.uid); else spared.delete(box.dataset.uid);
    }
    return JSON.stringify({...known, not_duplicate: [...spared].sort()}, null, 2);
  };
  const show = () => { document.getElementById("overrides").textContent = text(); };
  document.addEventListener("change", show);
  save.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text() + "\\n"], {type: "application/json"}));
    link.download = "overrides.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  show();
}
"""


def render_report(
    report: Report,
    thumbnails: Mapping[str, bytes],
    *,
    title: str,
    lead: str,
    forecast: Forecast | None = None,
    overrides: Overrides = NO_OVERRIDES,
) -> str:
    """Write the page.

    Args:
        report: what to show.
        thumbnails: uid → JPEG, for as many members of clusters as there are.
        title: heading, and the browser's title.
        lead: what was curated, in a sentence.
        forecast: how GPU-hours are estimated; the defaults if left out.
        overrides: decisions that stand already.

    Returns:
        HTML that needs no other file.
    """
    forecast = forecast or Forecast()
    parts = report.compositions.get("source", ())
    tokens = sum(part.image_tokens + part.text_tokens for part in parts)
    figures: dict[str, int | str] = {
        "rows in": report.rows,
        "kept": report.kept,
        "of them": share(report.kept, report.rows),
        "tokens kept": tokens,
        "GPU-hours, estimated": _hours(forecast.gpu_hours(tokens)),
    }
    sections = [
        f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>',
        counts(figures),
        *_funnel(report),
        *_histograms(report),
        *_compositions(report),
        *_grids(report),
        *_forecast(parts, forecast),
        *_clusters(report, thumbnails, overrides),
    ]
    return page(title, sections, _SCRIPT)


def _funnel(report: Report) -> list[str]:
    rows = [
        [reason_tag(reason), f"{gone:,}", share(gone, report.rows), f"{left:,}", _funnel_bar(left, gone, report.rows)]
        for reason, gone, left in report.steps
    ]
    start = ["<b>rows in</b>", "", "", f"<b>{report.rows:,}</b>", _funnel_bar(report.rows, 0, report.rows)]
    why = "A row counts for the first reason that holds, in this order; its other reasons are in the table."
    head = ["Reason", "Dropped", "Of all", "Left", "Left, and dropped in this step"]
    return [heading("From rows in to rows kept", why), table(head, [start, *rows], numbers=[1, 2, 3])]


def _funnel_bar(left: int, gone: int, total: int) -> str:
    return bar(left / total, gone / total) if total else bar(0)


def _histograms(report: Report) -> list[str]:
    why = (
        "Green: kept. Red: dropped, for whatever reason. The line is the threshold, with the side that passes. The "
        "outermost bins hold what lies beyond."
    )
    plots = "".join(map(plot, report.histograms))
    return [heading("Measures and thresholds", why), f'<div class="plots">{plots}</div>'] if plots else []


def plot(shown: Histogram) -> str:
    """One histogram as SVG, kept below dropped, its thresholds drawn in."""
    marks = [
        *_marks(shown, "≥", [rule.least for rule in shown.rules]),
        *_marks(shown, "≤", [r.most for r in shown.rules]),
    ]
    wanted = "; ".join(rule.wanted for rule in shown.rules) or "no threshold"
    missing = f", {shown.missing:,} rows without a value" if shown.missing else ""
    scale = ", logarithmic" if shown.log else ""
    ends = shown.edges[0], shown.edges[-1]
    return draw(shown.measure, f"{wanted}{scale}{missing}", shown.kept, ends, bad=shown.dropped, marks=marks)


def _marks(shown: Histogram, sign: str, limits: Sequence[float | None]) -> list[Mark]:
    return [Mark(_place(shown, limit), f"{sign} {figure(limit)}") for limit in limits if limit is not None]


def _place(shown: Histogram, limit: float) -> float:
    edges = shown.edges
    if shown.log:
        return math.log(max(limit, edges[0]) / edges[0]) / math.log(edges[-1] / edges[0])
    return (limit - edges[0]) / (edges[-1] - edges[0])


def _compositions(report: Report) -> list[str]:
    why = "How much of each part the selection keeps, and what it is made of before and after."
    out = [heading("Composition, before and after", why)]
    for name, parts in report.compositions.items():
        rows = [_composition(part, report) for part in parts[:_MOST_PARTS]]
        more = f'<p class="why">… and {len(parts) - _MOST_PARTS:,} more</p>' if parts[_MOST_PARTS:] else ""
        head = [name, "Rows in", "Of all", "Kept", "Of the kept", "Kept of these", ""]
        out += [f"<h3>By {html.escape(name)}</h3>", table(head, rows, numbers=[1, 2, 3, 4, 5]), more]
    return out


def _composition(part: Part, report: Report) -> list[str]:
    left = bar(part.kept / part.rows, 1 - part.kept / part.rows) if part.rows else bar(0)
    return [
        html.escape(part.name) or "<em>unknown</em>",
        f"{part.rows:,}",
        share(part.rows, report.rows),
        f"{part.kept:,}",
        share(part.kept, report.kept),
        share(part.kept, part.rows),
        left,
    ]


def _grids(report: Report) -> list[str]:
    if not report.grids:
        return []
    most = max(grid.count for grid in report.grids)
    rows = [
        [
            _grid_name(grid),
            f"{grid.count:,}",
            share(grid.count, report.kept),
            f"{grid.image_tokens:,}",
            f"{grid.image_tokens / grid.count:,.0f}",
            bar(grid.count / most),
        ]
        for grid in report.grids
    ]
    why = "Tiles (rows × columns) of kept images beside the base tile, and the image tokens that they become."
    head = ["Grid", "Rows", "Of the kept", "Image tokens", "Each", ""]
    return [heading("Tile grids", why), table(head, rows, numbers=[1, 2, 3, 4])]


def _grid_name(grid: Grid) -> str:
    return f"{grid.rows} × {grid.cols}" if grid.rows else "base tile alone"


def _forecast(parts: tuple[Part, ...], forecast: Forecast) -> list[str]:
    sums = [sum(getattr(part, name) for part in parts) for name in ("kept", "image_tokens", "text_tokens")]
    rows = [_tokens(html.escape(part.name) or "<em>unknown</em>", part, forecast, sums) for part in parts[:_MOST_PARTS]]
    total = Part(name="", rows=0, kept=sums[0], image_tokens=sums[1], text_tokens=sums[2])
    rows.append(_tokens("<b>all</b>", total, forecast, sums))
    head = ["Source", "Rows", "Image tokens", "Text tokens", "Of all tokens", "GPU-hours"]
    return [heading("Token forecast", forecast.formula), table(head, rows, numbers=[1, 2, 3, 4, 5])]


def _tokens(name: str, part: Part, forecast: Forecast, sums: list[int]) -> list[str]:
    tokens = part.image_tokens + part.text_tokens
    figures = [f"{part.kept:,}", f"{part.image_tokens:,}", f"{part.text_tokens:,}"]
    return [name, *figures, share(tokens, sums[1] + sums[2]), _hours(forecast.gpu_hours(tokens))]


def _clusters(report: Report, thumbnails: Mapping[str, bytes], overrides: Overrides) -> list[str]:
    if not report.clusters:
        return []
    why = (
        f"{len(report.clusters):,} of {report.num_clusters:,} clusters, half of them those with the greatest distance "
        f"within. The survivor is first. {report.policy}"
    )
    blocks = [_cluster(one, thumbnails, overrides) for one in report.clusters]
    known = html.escape(json.dumps(overrides.to_json()))
    save = (
        f'<div class="save"><button id="save" data-overrides="{known}">Save overrides.json</button> '
        "Tick what is no duplicate, save, and name the file in the next run (--overrides): it honours it."
        '<details><summary>what will be saved</summary><pre id="overrides"></pre></details></div>'
    )
    # The button stays in sight within its section only.
    return ["<section>", heading("Duplicates", why), *blocks, save, "</section>"]


def _cluster(cluster: Cluster, thumbnails: Mapping[str, bytes], overrides: Overrides) -> str:
    hidden = cluster.size - len(cluster.members)
    more = f", {hidden:,} not shown" if hidden > 0 else ""
    figures = "".join(_member(member, thumbnails, overrides) for member in cluster.members)
    return f'<div class="cluster"><p>{cluster.size:,} rows{more}</p><div class="row">{figures}</div></div>'


def _member(member: Member, thumbnails: Mapping[str, bytes], overrides: Overrides) -> str:
    best = member.kind is None
    uid = html.escape(member.uid)
    name = html.escape(member.uri.rpartition("/")[2] or member.uri)
    flags = html.escape(", ".join(member.flags))
    state = html.escape(member.role if best else _relation(member))
    lines = [f"<b>{state}</b>", name, html.escape(member.facts), flags, f'<span class="code">{uid}</span>']
    if not best:
        ticked = " checked" if member.uid in overrides.not_duplicate else ""
        lines.append(f'<label><input type="checkbox" data-uid="{uid}"{ticked}> no duplicate</label>')
    picture = image_tag(thumbnails.get(member.uid), member.uri if member.place else "not of this corpus")
    text = "<br>".join(line for line in lines if line).replace("<br><label>", "<label>")
    return f'<figure class="{"best" if best else "copy"}">{picture}<figcaption>{text}</figcaption></figure>'


def _relation(member: Member) -> str:
    words = (member.kind or "").replace("_", " ")
    if member.role != ClusterRole.DUPLICATE:
        words = f"{member.role}, {words}"
    if member.distance is None or (member.kind or "").startswith("exact"):
        return words
    return f"{words}, distance {member.distance:.3g}"


def _hours(hours: float) -> str:
    """GPU-hours for people.

    >>> _hours(12345.6), _hours(0.0421), _hours(0.000098), _hours(0)
    ('12,346', '0.042', '< 0.01', '0')
    """
    if 0 < hours < 0.01:
        return "< 0.01"
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"
