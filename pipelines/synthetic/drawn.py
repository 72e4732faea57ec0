"""Drawings from a seed, and the same as LLaVA JSON beside PNG files.

Drawing i of a split is a function of the seed, the split and i; drawings of "train" and "held_out" share no word and no
receipt's layout. What this does *not* do: feed training (`source`).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import get_args

from PIL import Image

from llava_core.config import check_at_least, check_choice
from llava_core.errors import ConfigError
from pipelines.synthetic.boxes import draw_boxes
from pipelines.synthetic.charts import draw_chart
from pipelines.synthetic.drawing import Drawing, Kind, Split
from pipelines.synthetic.receipts import draw_receipt
from pipelines.synthetic.scenes import draw_scene
from pipelines.synthetic.signs import draw_sign


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnConfig:
    """Which drawings."""

    seed: int = 0
    """Of everything."""
    split: Split = "train"
    """"held_out" has other words and layouts."""
    scenes: float = 1.0
    """Weight of scenes in the mixture."""
    receipts: float = 1.0
    """Weight of receipts."""
    signs: float = 1.0
    """Weight of signs."""
    charts: float = 1.0
    """Weight of charts."""
    boxes: float = 0.0
    """Weight of boxes with statements, as NLVR has them."""

    def __post_init__(self) -> None:
        check_choice("drawn", "split", self.split, get_args(Split))
        for name in ("scenes", "receipts", "signs", "charts", "boxes"):
            check_at_least("drawn", name, getattr(self, name), 0.0)
        if not sum(self.weights.values()) > 0:
            raise ConfigError("drawn.scenes, receipts, signs, charts and boxes are all 0; give at least one a weight")

    @property
    def weights(self) -> dict[Kind, float]:
        """Kind → weight."""
        return {
            "scene": self.scenes,
            "receipt": self.receipts,
            "sign": self.signs,
            "chart": self.charts,
            "boxes": self.boxes,
        }


def draw_one(index: int, config: DrawnConfig, kind: Kind | None = None) -> Drawing:
    """Draw picture `index` of a seed and split.

    Args:
        index: which, ≥ 0.
        config: seed, split and mixture.
        kind: what to draw; None lets the mixture decide.

    Example:
        >>> one, again = (draw_one(7, DrawnConfig(seed=3)) for _ in range(2))
        >>> one.kind == again.kind and one.turns == again.turns and (one.pixels == again.pixels).all()
        np.True_
    """
    draw = Random(f"{config.seed} {config.split} {index}")
    kinds = config.weights
    chosen = draw.choices(list(kinds), list(kinds.values()))[0]
    match kind or chosen:
        case "scene":
            return draw_scene(draw)
        case "receipt":
            return draw_receipt(draw, config.split)
        case "sign":
            return draw_sign(draw, config.split)
        case "chart":
            return draw_chart(draw, config.split)
        case "boxes":
            return draw_boxes(draw)


def draw_many(count: int, config: DrawnConfig, *, first: int = 0) -> Iterator[Drawing]:
    """Draw pictures `first` to `first + count`, one at a time."""
    for index in range(first, first + count):
        yield draw_one(index, config)


def write_drawn(folder: Path, count: int, config: DrawnConfig) -> Path:
    """Write drawings as PNG files and one LLaVA JSON file.

    Args:
        folder: gets `images/0000012.png` and, last, `drawn.jsonl`.
        count: how many.
        config: which.

    Returns:
        The JSON file: a record a line, `image` relative to it, with `truth` beside `conversations`.
    """
    listing = folder / "drawn.jsonl"
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, drawing in enumerate(draw_many(count, config)):
        name = f"images/{index:07d}.png"
        Image.fromarray(drawing.pixels).save(folder / name, compress_level=1)
        lines.append(json.dumps({"id": f"{index:07d}", **drawing.record(name)}) + "\n")
    listing.write_text("".join(lines), encoding="utf-8")
    return listing
