"""An engine without a model, for benchmarks of what surrounds one: it says how large each image is.

Imported in the engine's process, by its full name; so it imports nothing of the other benchmarks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llava_core.engine.types import Request, Result
from llava_core.geometry import Size


class Sizes:
    """An engine without a model."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self.beat = beat

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request, in order."""
        self.beat()
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Result:
        image: Any = request.images[0]
        height, width = image.shape[:2]
        return Result(
            request_id=request.request_id,
            text=f"{height} by {width}",
            token_ids=(height, width),
            finish_reason="stop",
            num_prompt_tokens=9,
            num_image_tokens=4,
            mean_logprob=-0.5,
            min_logprob=-1.0,
            image_sizes=(Size(height, width),),
            grids=(Size(0, 0),),
        )


def engine(spec: Mapping[str, Any], beat: Callable[[], None]) -> Sizes:
    """The factory, called in the engine's process."""
    return Sizes(beat)
