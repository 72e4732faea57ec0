"""Results, made alike by every engine."""

import math
from collections.abc import Sequence

from llava_core.engine.types import FinishReason, Request, Result
from llava_core.errors import ImageRefused, PromptRefused
from llava_core.geometry import Size


def refused(request: Request, error: ImageRefused | PromptRefused) -> Result:
    """The result of a request that cannot be served."""
    return Result(request_id=request.request_id, error=str(error.reason), error_detail=error.detail)


def served(
    request: Request,
    *,
    text: str,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    finish_reason: FinishReason,
    num_prompt_tokens: int,
    num_image_tokens: int,
    image_sizes: Sequence[Size],
    grids: Sequence[Size],
    yes_no_margin: float | None = None,
) -> Result:
    """The result of a request that has been answered; `logprobs` are those of `token_ids`, at least one."""
    return Result(
        request_id=request.request_id,
        text=text.strip(),
        token_ids=tuple(token_ids),
        finish_reason=finish_reason,
        num_prompt_tokens=num_prompt_tokens,
        num_image_tokens=num_image_tokens,
        mean_logprob=math.fsum(logprobs) / len(logprobs),
        min_logprob=min(logprobs),
        image_sizes=tuple(image_sizes),
        grids=tuple(grids),
        yes_no_margin=yes_no_margin,
    )
