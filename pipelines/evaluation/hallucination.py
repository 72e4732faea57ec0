"""What replies say that is not there: the lean towards "yes", and objects that captions invent.

Both come from a scored run, nothing is asked again. What this does *not* do: change a score.
"""

import html
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.evaluation.captions import chair, named_objects
from pipelines.evaluation.items import Judged
from pipelines.page import heading, share, table

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
    """Count yes and no by category; nothing where the references are not yes or no (or true or false).

    Example:
        >>> from pipelines.evaluation.items import Item
        >>> item = Item(item_id="1", image="a", question="Is it?", prompt="Is it?", references=("no",), category="c")
        >>> yes_biases([Judged(item=item, reply="Yes", answer="yes", values=(0.0,))])
        [YesBias(category='c', asked=1, said_yes=1, is_yes=0, false_yes=1, false_no=0)]
    """
    closed = [one for one in judged if one.item.references and _side(one.item.references[0]) is not None]
    found = []
    for category in sorted({one.item.category for one in closed}):
        own = [one for one in closed if one.item.category == category]
        pairs = [(_side(one.answer or ""), _side(one.item.references[0])) for one in own]
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


def _side(word: str) -> bool | None:
    return {"yes": True, "true": True, "no": False, "false": False}.get(word.strip().lower())


def invented_objects(judged: Sequence[Judged]) -> tuple[float, float, Counter[str], int] | None:
    """CHAIR-i, CHAIR-s, the invented objects and how often, and captions looked at; None without objects.

    An object is named by its own name or the plural of it; the synonym list of the paper is not part of this project,
    so figures are not those of papers.
    """
    known = [one for one in judged if "objects" in one.item.facts]
    if not known:
        return None
    vocabulary = {name: name for name in json.loads(known[0].item.facts["vocabulary"])}
    truths = [set(json.loads(one.item.facts["objects"])) for one in known]
    captions = [one.reply for one in known]
    invented: Counter[str] = Counter()
    for caption, truth in zip(captions, truths, strict=True):
        invented.update(name for name in named_objects(caption, vocabulary) if name not in truth)
    by_object, by_caption = chair(captions, truths, vocabulary)
    return by_object, by_caption, invented, len(known)


def hallucination_section(judged: Sequence[Judged]) -> list[str]:
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
    found = invented_objects(judged)
    if found is not None:
        by_object, by_caption, invented, looked_at = found
        rows = [[html.escape(name), f"{count:,}"] for name, count in invented.most_common(MOST)]
        parts += [
            f"<h3>Objects in captions</h3><p>Of the objects named in {looked_at:,} captions, {100 * by_object:.1f} % "
            f"are not there (CHAIR-i); {100 * by_caption:.1f} % of the captions name any such (CHAIR-s). Objects are "
            "found by their own names, without a list of synonyms.</p>",
            table(["Invented", "Captions"], rows, numbers=[1]) if rows else "",
        ]
    if not biases and found is None:
        parts.append("<p>This benchmark has neither questions of yes or no nor objects to look for.</p>")
    return parts
