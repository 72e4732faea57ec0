"""`train_report.html`: the curves of every stage and what was rejected, as one page without scripts or other files.

What this does *not* do: measure (`watch`).
"""

import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.page import page, table
from pipelines.plots import Curve, chart
from pipelines.progress import duration
from pipelines.storage import StorageOptions, join_uri, read_bytes, write_bytes
from pipelines.training.watch import METRICS, REJECTED


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
    title = f"Training: {output}"
    text = page(title, [f"<h1>{html.escape(title)}</h1>", *(parts or ["<p>No step has been taken yet.</p>"])])
    uri = join_uri(output, "train_report.html")
    write_bytes(uri, text.encode(), options)
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
    figures = table(("of the stage", ""), ((label, html.escape(value)) for label, value in rows.items()))
    charts = "".join(chart(curve) for curve in curves(lines))
    return f'<h2>{html.escape(name)}</h2>{figures}<div class="plots">{charts}</div>'


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
