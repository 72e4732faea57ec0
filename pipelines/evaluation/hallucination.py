"""What replies say that is not there: the lean towards "yes", and objects that captions invent.

Both come from a scored run, nothing is asked again. What this does *not* do: change a score.
"""

import html
import json
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.evaluation.items import Judged
from pipelines.evaluation.objects import chair, mentions
from pipelines.page import counts, heading, share, table

MOST = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class YesBias:
    """How a model answers questions of yes or no."""

    category: str
    """Of the questions."""
    asked: int
    """Questions."""
    said_yes: int
    """Answers that are yes."""
    is_yes: int
    """Questions whose answer is yes."""
    false_yes: int
    """Yes where it is no: what is not there was seen."""
    false_no: int
    """No where it is yes: what is there was missed."""


def yes_biases(judged: Sequence[Judged]) -> list[YesBias]:
    """Count yes and no by category; nothing where most references are neither yes nor no (nor true nor false).

    Example:
        >>> from pipelines.evaluation.items import Item
        >>> item = Item(item_id="1", image="a", question="Is it?", prompt="Is it?", references=("no",), category="c")
        >>> yes_biases([Judged(item=item, reply="Yes", answer="yes", values=(0.0,))])
        [YesBias(category='c', asked=1, said_yes=1, is_yes=0, false_yes=1, false_no=0)]
    """
    closed = [one for one in judged if _truth(one) is not None]
    found = []
    for category in sorted({one.item.category for one in closed}):
        own = [one for one in closed if one.item.category == category]
        pairs = [(_side(one.answer or ""), _truth(one)) for one in own]
        found.append(
            YesBias(
                category=category,
                asked=len(own),
                said_yes=sum(said is True for said, _ in pairs),
                is_yes=sum(is_so is True for _, is_so in pairs),
                false_yes=sum(said is True and is_so is False for said, is_so in pairs),
                false_no=sum(said is False and is_so is True for said, is_so in pairs),
            )
        )
    return found


def _truth(one: Judged) -> bool | None:
    """What most annotators say."""
    said = Counter(map(_side, one.item.references)).most_common(1)
    return said[0][0] if said else None


def _side(text: str) -> bool | None:
    word = text.strip(string.punctuation + string.whitespace).lower()
    return {"yes": True, "true": True, "no": False, "false": False}.get(word)


@dataclass(frozen=True, kw_only=True, slots=True)
class Invented:
    """What captions name that is not there."""

    by_mention: float
    """CHAIR-i: share of the mentions of objects."""
    by_caption: float
    """CHAIR-s: share of the captions."""
    objects: Counter[str]
    """Invented object → mentions."""
    captions: int
    """Captions that were looked at."""
    worst: tuple[tuple[str, str, tuple[str, ...]], ...]
    """(item, caption, what it invents), most inventions first; `MOST` at most."""


def invented_objects(judged: Sequence[Judged], synonyms: Mapping[str, str] | None = None) -> Invented | None:
    """CHAIR of a scored run; None without objects.

    An object is there if the set says so, or a reference caption names it.

    Args:
        judged: items with their captions.
        synonyms: name → object; None knows objects by their own names only, and its figures are not those of papers.
    """
    known = [one for one in judged if "objects" in one.item.facts]
    if not known:
        return None
    given = dict(synonyms or {})
    names = {name: name for name in json.loads(known[0].item.facts["vocabulary"])} | given
    truths = [
        {given.get(name, name) for name in json.loads(one.item.facts["objects"])}
        | {name for text in one.item.references for name in mentions(text, names)}
        for one in known
    ]
    captions = [one.reply for one in known]
    invented = [
        tuple(name for name in mentions(caption, names) if name not in truth)
        for caption, truth in zip(captions, truths, strict=True)
    ]
    by_mention, by_caption = chair(captions, truths, names)
    cases = [(one.item.item_id, one.reply, found) for one, found in zip(known, invented, strict=True) if found]
    return Invented(
        by_mention=by_mention,
        by_caption=by_caption,
        objects=Counter(name for found in invented for name in found),
        captions=len(known),
        worst=tuple(sorted(cases, key=lambda case: -len(case[2]))[:MOST]),
    )


def hallucination_section(judged: Sequence[Judged], synonyms: Mapping[str, str] | None = None) -> list[str]:
    """The report as parts of a page; says so where a benchmark has nothing to look at."""
    biases = yes_biases(judged)
    parts = [heading("Hallucination", "What replies say that is not there.")]
    if biases:
        rows = [
            [
                html.escape(one.category) or "<em>all</em>",
                f"{one.asked:,}",
                share(one.said_yes, one.asked),
                share(one.is_yes, one.asked),
                share(one.false_yes, one.asked - one.is_yes),
                share(one.false_no, one.is_yes),
            ]
            for one in biases
        ]
        head = ["Category", "Asked", "Said yes", "Is yes", "Yes where it is no", "No where it is yes"]
        parts += ["<h3>Yes and no</h3>", table(head, rows, numbers=range(1, 6))]
    found = invented_objects(judged, synonyms)
    if found is not None:
        parts += _objects_part(found, synonyms)
    if not biases and found is None:
        parts.append("<p>This benchmark has neither questions of yes or no nor objects to look for.</p>")
    return parts


def _objects_part(found: Invented, synonyms: Mapping[str, str] | None) -> list[str]:
    if synonyms:
        how = f"by a list of {len(synonyms):,} names for {len(set(synonyms.values())):,} objects, and by their own"
    else:
        how = "by their own names, without a list of synonyms (--synonyms)"
    figures: dict[str, int | str] = {
        "CHAIR-i: of all mentions of objects, not there": f"{100 * found.by_mention:.1f} %",
        "CHAIR-s: of the captions, with any such": f"{100 * found.by_caption:.1f} %",
        "captions with known objects": found.captions,
    }
    rows = [[html.escape(name), f"{count:,}"] for name, count in found.objects.most_common(MOST)]
    cases = [
        [f'<span class="code">{html.escape(name)}</span>', html.escape(caption), html.escape(", ".join(objects))]
        for name, caption, objects in found.worst
    ]
    return [
        f"<h3>Objects in captions</h3><p>Objects are found {how}; one that a reference caption names is there.</p>",
        counts(figures),
        *(["<h3>Invented most often</h3>", table(["Object", "Mentions"], rows, numbers=[1])] if rows else []),
        *(["<h3>Captions that invent most</h3>", table(["Item", "Caption", "Invented"], cases)] if cases else []),
    ]
