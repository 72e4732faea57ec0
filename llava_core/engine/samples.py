"""Several samples of one request: asked for one by one, put together again.

What this does *not* do: share the prompt between them; engines do that for requests about the same images.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from llava_core.engine.types import Request, Result, Sample


def split_samples(requests: Sequence[Request]) -> list[Request]:
    """Turn requests for several samples into that many for one, side by side."""
    return [single for request in requests for single in _singles(request)]


def gather_samples(requests: Sequence[Request], results: Sequence[Result]) -> list[Result]:
    """Put the results of `split_samples` together again.

    Args:
        requests: as they were before.
        results: of the single samples, in order.

    Returns:
        One result for each request; refused if one of its samples was.
    """
    waiting = iter(results)
    return [_gathered([next(waiting) for _ in range(request.sampling.n)]) for request in requests]


def sample_seed(seed: int, number: int) -> int:
    """The seed of one sample: the request's own for the first, so that it is what a request for one sample gets.

    Example:
        >>> sample_seed(7, 0), sample_seed(7, 1) == sample_seed(8, 0)
        (7, False)
    """
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:7], "big")


def _singles(request: Request) -> Iterator[Request]:
    sampling = request.sampling
    if sampling.n == 1:
        yield request
        return
    for number in range(sampling.n):
        yield replace(request, sampling=replace(sampling, n=1, seed=sample_seed(sampling.seed, number)))


def _gathered(results: Sequence[Result]) -> Result:
    refused = next((result for result in results if result.error is not None), None)
    if len(results) == 1 or refused is not None:
        return refused or results[0]
    # Where memory ran out, some were made from fewer tiles than others.
    least = min(results, key=lambda result: sum(grid.height * grid.width for grid in result.grids))
    return replace(
        results[0],
        grids=least.grids,
        num_image_tokens=least.num_image_tokens,
        num_prompt_tokens=least.num_prompt_tokens,
        samples=tuple(map(_sample, results)),
    )


def _sample(result: Result) -> Sample:
    assert result.text is not None and result.finish_reason is not None
    assert result.mean_logprob is not None and result.min_logprob is not None
    return Sample(
        text=result.text,
        token_ids=result.token_ids,
        finish_reason=result.finish_reason,
        mean_logprob=result.mean_logprob,
        min_logprob=result.min_logprob,
    )
