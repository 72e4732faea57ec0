"""What goes into an engine and what comes out: requests, sampling, results.

One result for each request, in order, whatever happens: a request that cannot be served comes back with `error` set
and nothing else decided by it.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llava_core.config import check_at_least
from llava_core.errors import ConfigError
from llava_core.geometry import Size
from llava_core.tiled_image import TiledImage

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How tokens are chosen."""

    max_new_tokens: int = 256
    """Most tokens generated for one request."""
    temperature: float = 0.0
    """0 is greedy; above, logits are divided by it."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens whose probability reaches this."""
    top_k: int = 0
    """Only this many most likely tokens are drawn from; 0 for all."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens already generated (CTRL, arXiv 1909.05858)."""
    stop: tuple[str, ...] = ()
    """Generation ends at the first of these strings, which is left out of the text."""
    seed: int = 0
    """Of the random choices, when temperature is above 0; each request draws from its own generator."""
    n: int = 1
    """Samples of each request, drawn apart from each other; the prompt is encoded, and with images prefilled, once."""

    def __post_init__(self) -> None:
        check_at_least("sampling", "n", self.n, 1)
        if self.n > 1 and self.temperature == 0:
            raise ConfigError(
                f"sampling.n is {self.n} at temperature 0, where all samples are the same; raise the temperature"
            )
        check_at_least("sampling", "max_new_tokens", self.max_new_tokens, 1)
        check_at_least("sampling", "temperature", self.temperature, 0.0)
        check_at_least("sampling", "top_k", self.top_k, 0)
        if not 0 < self.top_p <= 1 or not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(
                f"sampling.top_p is {self.top_p}, repetition_penalty {self.repetition_penalty}; "
                "expected 0 < top_p <= 1 and a penalty above 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One prompt about zero or more images."""

    request_id: str
    """Comes back in the result; the caller's own."""
    prompt: str
    """The user's words, without template and without `<image>`; special tokens inside stay text."""
    images: tuple[bytes | NDArray[np.uint8] | TiledImage, ...] = ()
    """Encoded images, decoded ones as uint8[H, W, 3], or tiled ones."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How its tokens are chosen."""
    max_tiles: int | None = None
    """Bound on a grid's tiles for its images (base tile not counted); None leaves it to the model's config."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One of several replies to one request; fields as in `Result`."""

    text: str
    """Generated text."""
    token_ids: tuple[int, ...]
    """Generated ids."""
    finish_reason: FinishReason
    """Why it ended."""
    mean_logprob: float
    """Mean log-probability."""
    min_logprob: float
    """The least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of one request."""

    request_id: str
    """The request's."""
    text: str | None = None
    """Generated text, special tokens left out, stripped; None if refused."""
    token_ids: tuple[int, ...] = ()
    """Generated ids, the end token included."""
    finish_reason: FinishReason | None = None
    """"stop": the model ended; "length": `max_new_tokens` or the model's context did."""
    num_prompt_tokens: int = 0
    """Tokens of the whole prompt, image tokens included."""
    num_image_tokens: int = 0
    """Image tokens among them."""
    mean_logprob: float | None = None
    """Mean natural-log probability of the generated tokens."""
    min_logprob: float | None = None
    """The least of them."""
    yes_no_margin: float | None = None
    """log p(yes) − log p(no) of the first token, spellings summed; None where the vocabulary has no such tokens."""
    image_sizes: tuple[Size, ...] = ()
    """Decoded sizes of the images."""
    grids: tuple[Size, ...] = ()
    """Grid of tiles of each image; (0, 0) for a lone base tile. Less than asked for where memory ran out; of several
    samples, that of the one made from the fewest tiles."""
    samples: tuple[Sample, ...] = ()
    """Where several were asked for, all of them; the first is also the result's own text."""
    error: str | None = None
    """Reason code (`ImageReason`, `PromptReason`) if refused."""
    error_detail: str | None = None
    """For people."""
