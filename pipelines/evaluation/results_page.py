"""`results.html`: scores beside the published ones, where they come from, and the wrong items, worst first.

One page that needs no other file and runs no script. What this does *not* do: score (`scoring`).
"""

import html
import logging
from collections.abc import Mapping, Sequence

from pipelines.corpus_refs import load_image
from pipelines.corpus_settings import CorpusSettings
from pipelines.evaluation.hallucination import hallucination_section
from pipelines.evaluation.items import Judged
from pipelines.evaluation.output import UNTRAINED, Outcome, score_line
from pipelines.fragments import CorpusRefused
from pipelines.page import bar, counts, heading, page, reason_tag, share, table
from pipelines.pictures import image_tag, thumbnails

log = logging.getLogger(__name__)

MOST_WRONG, MOST_PLAIN, MOST_REFERENCES = 36, 200, 4
"""Wrong items with a picture, wrong items in the table after them, references shown of each."""


def render_results(
    outcomes: Sequence[Outcome], *, hallucination: bool = False, synonyms: Mapping[str, str] | None = None
) -> str:
    """Write the page of some benchmarks.

    Args:
        outcomes: in the order shown.
        hallucination: add what replies say that is not there.
        synonyms: name → object, to find objects in captions by.

    Returns:
        HTML that needs no other file.
    """
    names = ", ".join(outcome.benchmark.title for outcome in outcomes)
    model = next(
        (outcome.settings["model"] for outcome in outcomes if "model" in outcome.settings), "answers of a file"
    )
    parts = [f'<h1>Evaluation</h1><p class="lead">{html.escape(names)}; {html.escape(model)}</p>']
    for outcome in outcomes:
        parts += _benchmark(outcome)
        if hallucination:
            parts += hallucination_section(outcome.judged, synonyms)
        parts += _wrong(outcome)
    return page("Evaluation", parts)


def _benchmark(outcome: Outcome) -> list[str]:
    benchmark, result = outcome.benchmark, outcome.result
    figures: dict[str, int | str] = {
        name: f"{one.value:.1f}" for name, one in result.scores.items() if result.complete
    } | {"items": result.items, "with a reply": result.scored}
    notes = [] if result.complete else [score_line(result)]
    if (why := outcome.settings.get(UNTRAINED)) is not None:
        notes.append(f"The {UNTRAINED}: {why}.")
    lead = f"{outcome.split} split. {benchmark.note}".strip()
    return [
        heading(benchmark.title, lead),
        *(f'<p class="note">{html.escape(note)}</p>' for note in notes),
        counts(figures),
        *_beside(outcome),
        *_categories(outcome),
        *_settings(outcome),
        *_gaps(outcome),
    ]


def _beside(outcome: Outcome) -> list[str]:
    """The score beside the published ones and the best constant answer."""
    result = outcome.result
    if not result.scores:
        return []
    name, one = next(iter(result.scores.items()))
    ours = "this run" if result.complete else f"this run, only {result.scored:,} of {result.items:,} items"
    rows = [(f"<b>{ours}</b>", one.value, f"{one.low:.1f} to {one.high:.1f}")]
    if result.constant is not None:
        answer, score = result.constant
        rows.append((f"always {html.escape(repr(answer))}", score, ""))
    rows += [
        (f"LLaVA {html.escape(model)}", score, "published") for model, score in outcome.benchmark.published.items()
    ]
    most = max(100.0, *(score for _, score, _ in rows))
    cells = [[who, f"{score:.1f}", where, bar(max(0.0, score) / most)] for who, score, where in rows]
    return ["<h3>Beside others</h3>", table(["", name, "95 % interval", ""], cells, numbers=[1, 2])]


def _categories(outcome: Outcome) -> list[str]:
    found = outcome.result.categories
    if not found:
        return []
    most = max(100.0, *(score for _, score in found.values()))
    rows = [
        [html.escape(name) or "<em>none</em>", f"{count:,}", f"{score:.1f}", bar(max(0.0, score) / most)]
        for name, (count, score) in sorted(found.items(), key=lambda entry: entry[1][1])
        if score == score
    ]
    return ["<h3>By category, worst first</h3>", table(["Category", "Items", "Score", ""], rows, numbers=[1, 2])]


def _settings(outcome: Outcome) -> list[str]:
    rows = [[html.escape(name), html.escape(value)] for name, value in outcome.settings.items()]
    return ["<h3>What decides the number</h3>", table(["Setting", "Value"], rows)]


def _gaps(outcome: Outcome) -> list[str]:
    result = outcome.result
    rows = [[reason_tag(name), f"{count:,}", share(count, result.items)] for name, count in result.gaps.items()]
    rows += [[html.escape(what), "", html.escape(ids)] for what, ids in result.named.items()]
    if result.unread:
        rows.append(
            ["replies that give no answer, scored as wrong", f"{result.unread:,}", share(result.unread, result.items)]
        )
    return ["<h3>Trouble</h3>", table(["What", "Items", "Of all, or which"], rows, numbers=[1])] if rows else []


def lost_items(judged: Sequence[Judged]) -> list[Judged]:
    """Items that are not fully right, worst first.

    Scores that go beyond 1 are CIDEr's, which has no full marks: there a caption is right that equals a reference.
    """
    scored = [one for one in judged if one.values]
    if any(one.score > 1.0 for one in scored):
        lost = [one for one in scored if one.answer not in one.item.references]
    else:
        lost = [one for one in scored if one.score < 1.0]
    return sorted(lost, key=lambda one: one.score)


def _wrong(outcome: Outcome) -> list[str]:
    """Items that lost most, first those that lost all; with pictures as far as they can be had."""
    lost = lost_items(outcome.judged)
    if not lost:
        return []
    title = f"{outcome.benchmark.title}: items not fully right, worst first"
    why = f"{len(lost):,} of {len(outcome.judged):,}; the first {min(len(lost), MOST_WRONG)} with their picture."
    shown = lost[:MOST_WRONG]
    cards = "".join(map(_card, shown, _pictures([one.item.image for one in shown], outcome.image_root)))
    rows = [
        [
            f'<span class="code">{html.escape(one.item.item_id)}</span>',
            html.escape(one.item.question),
            html.escape(_answered(one)),
            html.escape(_references(one)),
            f"{one.score:.2f}",
        ]
        for one in lost[MOST_WRONG:MOST_PLAIN]
    ]
    rest = table(["Item", "Question", "Answer", "References", "Score"], rows, numbers=[4]) if rows else ""
    return [heading(title, why), f'<div class="cards">{cards}</div>', rest]


def _card(one: Judged, picture: bytes | None) -> str:
    return (
        f"<figure>{image_tag(picture, one.item.item_id)}<figcaption><b>{html.escape(one.item.question)}</b><br>"
        f"answer: <b>{html.escape(_answered(one))}</b><br>wanted: {html.escape(_references(one))}<br>"
        f"score {one.score:.2f} · {html.escape(one.item.item_id)}</figcaption></figure>"
    )


def _answered(one: Judged) -> str:
    return one.answer if one.answer is not None else f"none, in: {one.reply[:200]}"


def _references(one: Judged) -> str:
    distinct = list(dict.fromkeys(one.item.references))
    more = f" … ({len(distinct)})" if distinct[MOST_REFERENCES:] else ""
    return " | ".join(distinct[:MOST_REFERENCES]) + more


def _pictures(images: Sequence[str], root: str) -> list[bytes | None]:
    """A thumbnail of each; None where the picture cannot be had, with a line in the log."""
    files: dict[int, bytes] = {}
    for place, image in enumerate(images):
        try:
            files[place], _ = load_image(image, root, CorpusSettings(), None, "")
        except (CorpusRefused, OSError) as error:
            log.warning("no picture of %s: %s", image[:80], error)
    made = dict(zip(files, thumbnails(list(files.values())), strict=True))
    return [made.get(place) for place in range(len(images))]
