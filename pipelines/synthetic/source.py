"""Drawings as training reads them, drawn as they are asked for: `pipelines.synthetic.source:Drawings=receipt;seed=1`.

What this does *not* do: know what training does with them; it gives what a source must have (see `TrainRow` there).
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast, get_args

from PIL import Image

from llava_core.errors import ConfigError
from llava_core.geometry import Size
from pipelines.synthetic.drawing import Drawing, Kind
from pipelines.synthetic.drawn import DrawnConfig, draw_one

VERSION = 8
"""Raised when the same seed gives other drawings."""
ROWS_PER_UNIT = 32
COUNT = 400_000
"""Drawings of an epoch."""
BASE_ONLY = {"scene": 0.7, "receipt": 0.05, "sign": 0.1, "chart": 0.1, "boxes": 0.0}
"""Share of each kind that is trained on through the base tile alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnRow:
    """One drawing: a training row in all but name."""

    uid: str
    """Names it in messages."""
    turns: Any
    """`conversations` of LLaVA JSON."""
    sizes: tuple[Size, ...]
    """(height, width) of its image, pixels."""
    load: Callable[[], Sequence[bytes]]
    """Draws it again, as PNG."""
    text: None = None
    """No caption beside the conversation."""
    max_tiles: int | None = None
    """0 where it is to be seen through the base tile alone."""
    error: None = None
    """Nothing is wrong with a drawing."""
    detail: str = ""
    """For people."""
    extra: dict[str, Any] = field(default_factory=dict)
    """The truth: glyphs, things, and where each answer is seen."""


class Drawings:
    """A source of drawings of the split "train".

    Args:
        argument: kinds by comma, each as `kind` or `kind:weight`; then, after semicolons, `seed=N`, `count=N`,
            `grid` (never through the base tile alone), and `noise=SHARE` of drawings whose answers are another's.

    Raises:
        ConfigError: the argument says something else.

    Example:
        >>> source = Drawings("receipt,sign:2;seed=3;count=64")
        >>> list(source.units), source.config.weights["sign"], len(source.read(1))
        ([32, 32], 2.0, 32)
    """

    def __init__(self, argument: str = "scene,receipt,sign,chart") -> None:
        kinds, *options = argument.split(";")
        values = dict(one.partition("=")[::2] for one in options)
        try:
            weights = {name: float(weight or 1) for name, _, weight in (one.partition(":") for one in kinds.split(","))}
            seed, count = int(values.pop("seed", 0)), int(values.pop("count", COUNT))
            self.noise = float(values.pop("noise", 0))
        except ValueError as error:
            raise ConfigError(f"drawings {argument!r}: {error}; expected kind:weight,…;seed=N;count=N") from error
        self.grid = values.pop("grid", None) is not None
        if values or not weights.keys() <= set(get_args(Kind)) or count < ROWS_PER_UNIT:
            raise ConfigError(
                f"drawings {argument!r}: expected kinds of {get_args(Kind)}, then seed=N, count=N (at least "
                f"{ROWS_PER_UNIT}), noise=SHARE and grid, by semicolons"
            )
        names = {"scene": "scenes", "receipt": "receipts", "sign": "signs", "chart": "charts", "boxes": "boxes"}
        given: Any = {field_name: weights.get(kind, 0.0) for kind, field_name in names.items()}
        self.config = DrawnConfig(seed=seed, **given)
        self.fingerprint = f"drawings v{VERSION} {argument}"
        self.units = [ROWS_PER_UNIT] * (count // ROWS_PER_UNIT)

    def read(self, unit: int) -> list[DrawnRow]:
        """Conversations, sizes and truths of a unit; pictures are drawn again when they are loaded."""
        return [self._row(unit * ROWS_PER_UNIT + place) for place in range(ROWS_PER_UNIT)]

    def _row(self, index: int) -> DrawnRow:
        drawing = draw_one(index, self.config)
        record = drawing.record("")
        if Random(f"noise {index}").random() < self.noise:
            self._mislead(record, drawing, index)
        height, width = drawing.pixels.shape[:2]
        base_only = not self.grid and Random(index).random() < BASE_ONLY[drawing.kind]
        return DrawnRow(
            uid=f"drawn {self.config.seed} {index}",
            turns=record["conversations"],
            sizes=(Size(height, width),),
            load=lambda: [_png(index, self.config)],
            max_tiles=0 if base_only else None,
            extra=cast(dict[str, Any], record["truth"]),
        )

    def _mislead(self, record: dict[str, Any], drawing: Drawing, index: int) -> None:
        """Put the answers of another drawing of the kind in place of a drawing's own, where it was asked the same."""
        other = draw_one(COUNT + index, self.config, drawing.kind)
        answers = {(turn.task, turn.key): turn.answer for turn in other.turns}
        for place, turn in enumerate(drawing.turns):
            wrong = record["conversations"][2 * place + 1]
            wrong["value"] = answers.get((turn.task, turn.key), turn.answer)
        record["truth"]["seen"] = [[] for _ in drawing.turns]


def _png(index: int, config: DrawnConfig) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw_one(index, config).pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
