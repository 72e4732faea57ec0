"""What a reply about a drawing is worth: exact fields and words, captions by what they name, values by their distance.

    exam(split, num) ─▶ questions about drawings ─ any model ─▶ replies ─ grade ─▶ right or wrong, by task

What this does *not* do: run a model (`benchmarks/tiny_model.py` does).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.synthetic.drawing import Drawing, Kind, Task, Turn
from pipelines.synthetic.drawn import DrawnConfig, draw_one
from pipelines.synthetic.scenes import COLOURS, SHAPES

TOLERANCE = 0.05
"""Of a chart's axis, within which a value counts as read."""
_PAIR = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b")


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of an exam."""

    drawing: Drawing
    """What it is about."""
    turn: Turn
    """Question and true answer."""


def exam(kind: Kind, tasks: Sequence[Task], num: int, seed: int = 1_000) -> list[Asked]:
    """Questions about held-out drawings of one kind.

    Args:
        kind: what is drawn.
        tasks: which of its questions are asked.
        num: drawings.
        seed: of them; never one that training draws with, which has another split anyway.
    """
    config = DrawnConfig(seed=seed, split="held_out")
    drawings = (draw_one(index, config, kind) for index in range(num))
    return [Asked(drawing, turn) for drawing in drawings for turn in drawing.turns if turn.task in tasks]


def named(text: str) -> Counter[tuple[str, str]]:
    """The shapes that a caption names, with their colours.

    Example:
        >>> sorted(named("A small red star, a large blue cross and a small red star.").items())
        [(('blue', 'cross'), 1), (('red', 'star'), 2)]
    """
    return Counter(_PAIR.findall(text.lower()))


def values_right(reply: str, answer: str, scale: float) -> tuple[int, int]:
    """How many of a list's values are within the tolerance, and how many there are.

    Example:
        >>> values_right("10, 52, 3", "12, 50, 90", 100.0)
        (2, 3)
        >>> values_right("10, 52", "12, 50, 90", 100.0)  # another number of values: nobody knows which is which
        (0, 3)
    """
    wanted = [float(one) for one in answer.split(", ")]
    said = [float(one) for one in re.findall(r"\d+(?:\.\d+)?", reply)]
    if len(said) != len(wanted):
        return 0, len(wanted)
    near = [abs(one - other) <= TOLERANCE * scale for one, other in zip(said, wanted, strict=True)]
    return sum(near), len(wanted)


def grade(asked: Asked, reply: str) -> tuple[int, int]:
    """What is right of a reply, and out of how much: 1 but for lists of values."""
    turn = asked.turn
    match turn.task:
        case "caption" if asked.drawing.kind == "scene":
            truth = Counter((thing.colour, thing.shape) for thing in asked.drawing.things)
            return int(named(reply) == truth), 1
        case "values" | "value":
            return values_right(reply, turn.answer, asked.drawing.scale)
        case "statement":
            # The counting aloud that comes before the verdict is not asked for.
            return int(reply.strip().rpartition(" ")[2] == turn.answer.rpartition(" ")[2]), 1
        case _:
            return int(reply.strip() == turn.answer), 1


def share(exams: Iterable[tuple[Asked, str]]) -> tuple[float, int]:
    """Share of what is right, 0..1, and out of how much."""
    marks = [grade(asked, reply) for asked, reply in exams]
    total = sum(most for _, most in marks)
    return sum(right for right, _ in marks) / max(total, 1), total


def yes_f1(exams: Iterable[tuple[Asked, str]]) -> float:
    """F1 of the answer "yes", as POPE has it.

    Example:
        >>> turns = [Turn("presence", "?", answer) for answer in ("yes", "yes", "no", "no")]
        >>> asked = [Asked(None, turn) for turn in turns]
        >>> yes_f1(zip(asked, ("yes", "no", "yes", "no")))  # 1 hit, 1 miss, 1 false alarm
        0.5
    """
    hits = misses = alarms = 0
    for asked, reply in exams:
        said, true = reply.strip().lower().startswith("yes"), asked.turn.answer == "yes"
        hits += said and true
        misses += true and not said
        alarms += said and not true
    return 2 * hits / max(2 * hits + misses + alarms, 1)


def wilson(part: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share.

    Source: E. B. Wilson, JASA 22 (1927).

    Example:
        >>> [round(end, 3) for end in wilson(0.5, 100)], [round(end, 3) for end in wilson(0.0, 10)]
        ([0.404, 0.596], [0.0, 0.278])
    """
    if not count:
        return 0.0, 1.0
    middle = (part + z * z / (2 * count)) / (1 + z * z / count)
    reach = z * math.sqrt(part * (1 - part) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)
