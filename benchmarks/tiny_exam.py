"""The small model's exam on held-out drawings: what `tiny_model.py` and `tiny_ablations.py` have in common."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_core.checkpoints import load_model
from llava_core.engine import PackedEngine, Request, SamplingConfig
from llava_core.processor import LLaVAProcessor
from pipelines.synthetic.drawing import Kind, Task
from pipelines.synthetic.scoring import Asked, exam, share, wilson, yes_f1

CHUNK = 100
"""Drawings whose questions are asked at once."""
MOST_TOKENS = 96
"""Of a reply; the longest true one, a count aloud over three full boxes, has 76 in a thousand drawings."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One result."""

    value: float
    """0..1."""
    count: int
    """Out of how many."""

    def __str__(self) -> str:
        low, high = wilson(self.value, self.count)
        return f"{100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {self.count:,}"


class Examiner:
    """Asks a model, and says how it went.

    Args:
        path: of the model.
        num: drawings of each task.
    """

    def __init__(self, path: str | Path, num: int) -> None:
        model = load_model(path)
        self.trained, self.num = model.config.trained, num
        self.engine = PackedEngine(model, LLaVAProcessor.from_pretrained(path), batch_size=64)

    def replies(self, kind: Kind, tasks: Sequence[Task], max_tiles: int | None = None) -> list[tuple[Asked, str]]:
        """Ask all questions of some tasks."""
        began = time.perf_counter()
        asked = exam(kind, tasks, self.num)
        said: list[str] = []
        step = max(1, CHUNK * len(asked) // max(self.num, 1))
        for start in range(0, len(asked), step):
            requests = [
                Request(
                    request_id=str(start + place),
                    prompt=one.turn.question,
                    images=(one.drawing.pixels,),
                    sampling=SamplingConfig(max_new_tokens=MOST_TOKENS),
                    max_tiles=max_tiles,
                )
                for place, one in enumerate(asked[start : start + step])
            ]
            said += [result.text or "" for result in self.engine.generate(requests)]
        seconds = time.perf_counter() - began
        for one, reply in list(zip(asked, said, strict=True))[:2]:
            print(f"  {one.turn.question} {reply!r}, truly {one.turn.answer!r}", flush=True)
        print(f"{kind}: {len(asked):,} questions about {self.num:,} images in {seconds:.0f} s", flush=True)
        return list(zip(asked, said, strict=True))

    def figures(self) -> dict[str, Figure]:
        """All results, by name."""
        return {
            **self.receipts(),
            **self.signs(),
            "scene captions": self.captions(),
            "chart values": Figure(*share(self.replies("chart", ("values",)))),
            "yes/no F1": self.presence(),
            "statements about boxes": Figure(*share(self.replies("boxes", ("statement",)))),
        }

    def receipts(self) -> dict[str, Figure]:
        """Receipts' fields, and the total among them, with tiles and from the base view alone."""
        anyres, base = self.replies("receipt", ("field",)), self.replies("receipt", ("field",), max_tiles=0)
        totals = [[one for one in replies if one[0].turn.key == "total"] for replies in (anyres, base)]
        return {
            "receipt total, any-res": Figure(*share(totals[0])),
            "receipt total, base view": Figure(*share(totals[1])),
            "receipt fields, any-res": Figure(*share(anyres)),
            "receipt fields, base view": Figure(*share(base)),
        }

    def signs(self) -> dict[str, Figure]:
        """Words of signs."""
        return {"sign words": Figure(*share(self.replies("sign", ("word",))))}

    def captions(self) -> Figure:
        """Scenes of which every object and colour is named right."""
        return Figure(*share(self.replies("scene", ("caption",))))

    def presence(self) -> Figure:
        """F1 of "yes" where objects are asked for that may be absent."""
        asked = self.replies("scene", ("presence",))
        return Figure(yes_f1(asked), len(asked))
