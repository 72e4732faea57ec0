"""What a drawn picture is: its pixels, everything on it with its place, and the conversation that is true of it.

    Drawing ─▶ pixels uint8[H, W, 3], glyphs and things with their centres, turns (question, answer, where it is seen)

Places are pixels of the picture, (x, y) from its upper left corner. What this does *not* do: draw (`scenes`,
`receipts`, `signs`, `charts`), write files (`drawn`).
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "held_out"]
"""Held-out drawings have words and layouts that no drawing of the other split has."""
Kind = Literal["scene", "receipt", "sign", "chart", "boxes"]
Task = Literal[
    "caption", "field", "word", "presence", "relation", "count", "colour", "values", "value", "transcript", "statement"
]


class Point(NamedTuple):
    """A place, pixels."""

    x: float
    y: float


class Glyph(NamedTuple):
    """One drawn character."""

    char: str
    """Which: a capital letter, a digit or a mark; never a space."""
    x: float
    """Of its centre, pixels."""
    y: float
    """Of its centre, pixels: halfway up a capital letter of its line."""


class Thing(NamedTuple):
    """One shape of a scene, or one bar or point of a chart."""

    shape: str
    """"circle", …; "bar" or "dot" in charts."""
    colour: str
    """Its name."""
    size: str
    """"small" or "large"; empty in charts."""
    x: float
    """Of its centre; for a bar, of the middle of its top edge."""
    y: float
    """Likewise."""


class Seen(NamedTuple):
    """Where a part of an answer can be seen."""

    start: int
    """First character of the part."""
    stop: int
    """Character after its last."""
    x: float
    """Where it is drawn, pixels."""
    y: float
    """Likewise."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its true answer."""

    task: Task
    """What it asks for."""
    question: str
    """In words."""
    answer: str
    """Short; drawn text is quoted in capitals, as drawn."""
    seen: tuple[Seen, ...] = ()
    """Where the answer's parts are, in the answer's order; a part that is seen in several places has one for each."""
    key: str = ""
    """Which field, for results by field: "total", "date", …"""


@dataclass(frozen=True, slots=True)
class Drawing:
    """One picture and the truth about it."""

    kind: Kind
    """What is drawn."""
    pixels: NDArray[np.uint8]
    """uint8[H, W, 3], RGB."""
    glyphs: tuple[Glyph, ...]
    """Every character."""
    things: tuple[Thing, ...]
    """Every shape, bar or point, from left to right."""
    turns: tuple[Turn, ...]
    """A conversation of one or several rounds."""
    scale: float = 1.0
    """Of a chart: its axis's range, from 0."""

    def record(self, image: str) -> dict[str, Any]:
        """The drawing as a LLaVA JSON record, the truth under keys of its own.

        Args:
            image: path of its file.

        Returns:
            `image` and `conversations`, as the released training data has them, and `truth`.
        """
        turns: list[dict[str, str]] = []
        for index, turn in enumerate(self.turns):
            before = "" if index else "<image>\n"
            turns += [{"from": "human", "value": before + turn.question}, {"from": "gpt", "value": turn.answer}]
        truth = {
            "kind": self.kind,
            "glyphs": [[glyph.char, round(glyph.x, 1), round(glyph.y, 1)] for glyph in self.glyphs],
            "things": [[*thing[:3], round(thing.x, 1), round(thing.y, 1)] for thing in self.things],
            "tasks": [turn.task for turn in self.turns],
            "keys": [turn.key for turn in self.turns],
            "seen": [[[*s[:2], round(s.x, 1), round(s.y, 1)] for s in turn.seen] for turn in self.turns],
            "scale": self.scale,
        }
        return {"image": image, "conversations": turns, "truth": truth}
