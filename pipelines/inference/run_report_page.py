"""The page of `run_report`: figures in, one self-contained HTML text out.

What this does *not* do: count (`run_report`), or run on the driver (`finish` sends it to a worker).
"""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipelines.accounts import Counts
from pipelines.inference.faults import Fault
from pipelines.inference.run_report import COUNTED, Moment, RunFigures, bins_of, collect_figures, median
from pipelines.inference.stage import StageSpec
from pipelines.inference.thumbnails import read_thumbnails
from pipelines.inference.work import Work
from pipelines.page import bar, counts, heading, page, reason_tag, share, table
from pipelines.pictures import SIDE, image_tag
from pipelines.plots import Curve, chart, histogram
from pipelines.progress import duration
from pipelines.storage import write_bytes

_WHY: Mapping[Fault, str] = {
    Fault.EMPTY: "No letter and no digit.",
    Fault.CUT_OFF: "The bound on new tokens ended it, not the model.",
    Fault.REPEATED: "At least two fifths of its word triples have come before in it.",
    Fault.REFUSED: "It says that it cannot or will not.",
    Fault.UNREAD: "It has not the form that was asked for.",
}
MOST_FRAGMENTS = 40
"""Pictures come from at most this many fragments, so that a large corpus is not read again."""
Show = Callable[[Mapping[str, Any]], str]


def write_run_report(
    uri: str, works: Sequence[Work], spec: StageSpec, totals: Counts, *, trained: bool, started: str
) -> None:
    """Count a run, draw its page and write it.

    Args:
        uri: of the page.
        works: all of the run.
        spec: of the run's stage.
        totals: rows by outcome.
        trained: False puts a warning on top.
        started: when the run's last start was, ISO 8601.
    """
    settings, inquiry = spec.settings, spec.inquiry
    figures = collect_figures(spec, [work.work_id for work in works], started)
    fragments = {work.work_id: work.fragment for work in works}
    used = list(dict.fromkeys(row["fragment_id"] for row in figures.shown))[:MOST_FRAGMENTS]
    thumbnails = read_thumbnails(figures.shown, {name: fragments[name] for name in used}, spec, side=SIDE)
    text = render_run_report(
        figures,
        totals,
        thumbnails,
        title=f"{inquiry.title}: how the run went",
        lead=f"{inquiry.lead} asked of {settings.model} (revision {settings.model_revision}); run {settings.run_id} in "
        f"{spec.table_uri}",
        note=None if trained else "This model is not trained: its weights are random, and its replies are noise.",
        unit=inquiry.unit,
        show=inquiry.show,
    )
    write_bytes(uri, text.encode(), spec.storage_options)


def render_run_report(
    figures: RunFigures,
    totals: Counts,
    thumbnails: Mapping[str, bytes],
    *,
    title: str,
    lead: str,
    note: str | None,
    unit: str,
    show: Show,
) -> str:
    """Write the page.

    Args:
        figures: of the run.
        totals: rows by outcome.
        thumbnails: uid → JPEG, for as many rows as there are.
        title: heading, and the browser's title.
        lead: what was run, in a sentence.
        note: a warning that a reader must see first, if any.
        unit: what a row is, for people.
        show: a reply as one text.

    Returns:
        HTML that needs no other file.
    """
    large: dict[str, int | str] = {
        "rows in": totals.rows,
        "ok": totals.ok,
        "rejected": totals.rows - totals.ok,
        "look wrong": figures.faulty,
        "prompt tokens": _total(figures, "num_prompt_tokens"),
        "tokens generated": _total(figures, "num_output_tokens"),
    }
    sections = [
        f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>',
        f'<p class="note">{html.escape(note)}</p>' if note else "",
        counts(large, bad=("rejected", "look wrong")),
        *_throughput(figures.moments, unit),
        *_histograms(figures),
        *_faults(figures, thumbnails, show),
        *_rejected(figures, totals, thumbnails),
    ]
    return page(title, sections)


def _total(figures: RunFigures, name: str) -> int:
    return sum(value * rows for value, rows in figures.counted[name].items())


def _throughput(moments: tuple[Moment, ...], unit: str) -> list[str]:
    if not moments:
        return []
    ends = "0s", duration(moments[-1].seconds + moments[0].seconds)

    def curve(name: str, value: Callable[[Moment], float]) -> str:
        drawn = [(one.seconds, value(one)) for one in moments]
        # one stretch is a level line, not a point
        drawn = drawn if len(drawn) > 1 else [(0.0, drawn[0][1]), (2 * drawn[0][0], drawn[0][1])]
        return chart(Curve(name, {name: drawn}, ends=ends))

    plots = [
        curve(f"{unit} a second", lambda one: one.rows),
        curve("tokens generated a second", lambda one: one.new_tokens),
        curve("prompt tokens a second", lambda one: one.prompt_tokens),
    ]
    why = (
        "By the times of the commits: work counts when it came into the table. A stretch without commits is a stop or "
        "a slow fragment."
    )
    return [heading("Throughput over time", why), f'<div class="plots">{"".join(plots)}</div>']


def _histograms(figures: RunFigures) -> list[str]:
    plots = []
    for name, words in COUNTED.items():
        counted = figures.counted[name]
        if counted:
            bins, ends = bins_of(counted)
            mean = _total(figures, name) / figures.ok
            note = f"median {median(counted):,}, mean {mean:,.1f}, most {max(counted):,}"
            plots.append(histogram(words, note, bins, ends))
    why = "Of the rows that have a reply."
    return [heading("Tokens and lengths", why), f'<div class="plots">{"".join(plots)}</div>'] if plots else []


def _faults(figures: RunFigures, thumbnails: Mapping[str, bytes], show: Show) -> list[str]:
    if not figures.ok:
        return []
    rows = [
        [
            html.escape(str(fault)),
            f"{figures.faults[fault]:,}",
            share(figures.faults[fault], figures.ok),
            bar(0, figures.faults[fault] / figures.ok),
            html.escape(_WHY[fault]),
        ]
        for fault in Fault
        if figures.faults[fault] or fault != Fault.UNREAD
    ]
    why = (
        f"{figures.faulty:,} of {figures.ok:,} replies have a sign of being wrong; a reply may have several. Signs are "
        "not verdicts: these are the ones to look at first."
    )
    head = ["Sign", "Replies", "Of all", "", "What it means"]
    parts = [heading("Replies that look wrong", why), table(head, rows, numbers=[1, 2])]
    for fault, sample in sorted(figures.samples.items(), key=lambda pair: list(Fault).index(pair[0])):
        shown = sample.ordered()
        words = f"{str(fault).capitalize()}: {len(shown):,} of {figures.faults[fault]:,}"
        parts += [f"<h3>{html.escape(words)}</h3>", _cards(shown, thumbnails, show)]
    unsure = figures.unsure.ordered()
    if unsure:
        parts += ["<h3>Lowest confidence: mean log-probability</h3>", _cards(unsure, thumbnails, show)]
    return parts


def _cards(rows: Iterable[Mapping[str, Any]], thumbnails: Mapping[str, bytes], show: Show) -> str:
    cards = []
    for row in rows:
        text = html.escape(show(row)) if (row["text"] or "").strip() else f"{html.escape(show(row))}<em>(nothing)</em>"
        sure = "" if row["mean_logprob"] is None else f", mean logprob {row['mean_logprob']:.2f}"
        facts = html.escape(f"{row['num_output_tokens']:,} tokens, {row['finish_reason']}{sure}")
        cards.append(_card(row, thumbnails, f"<b>{text}</b><br>{facts}"))
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(row: Mapping[str, Any], thumbnails: Mapping[str, bytes], words: str) -> str:
    name = str(row["uri"])
    data = thumbnails.get(row["uid"])
    picture = image_tag(data, name if data else "no picture can be had")
    return f"<figure>{picture}<figcaption>{words}<br>{html.escape(name)}</figcaption></figure>"


def _rejected(figures: RunFigures, totals: Counts, thumbnails: Mapping[str, bytes]) -> list[str]:
    if not totals.rejected:
        return []
    most = max(totals.rejected.values())
    rows = [
        [reason_tag(reason), f"{number:,}", share(number, totals.rows), bar(0, number / most)]
        for reason, number in totals.rejected.items()
    ]
    why = "Rows without a reply, by reason; the same command with --retry-rejected makes them again."
    parts = [heading("Rejected rows", why), table(["Reason", "Rows", "Of all", ""], rows, numbers=[1, 2])]
    for reason in totals.rejected:
        shown = figures.rejected[reason].ordered() if reason in figures.rejected else []
        if shown:
            cards = [_card(row, thumbnails, f"<b>{html.escape(row['error_detail'] or '')}</b>") for row in shown]
            title = f"<h3>{reason_tag(reason)} {len(shown):,} of {totals.rejected[reason]:,}</h3>"
            parts += [title, f'<div class="cards">{"".join(cards)}</div>']
    return parts
