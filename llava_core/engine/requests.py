"""Requests on their way through the packed engine: grouped by image, encoded, waiting, running.

What this does *not* do: run the model, allocate caches (`packed` does both).
"""

import hashlib
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from llava_core.engine.kv import SequenceCache
from llava_core.engine.types import FinishReason, Request
from llava_core.errors import PromptReason, PromptRefused
from llava_core.prompts import ask
from llava_core.tiled_image import TiledImage

if TYPE_CHECKING:
    from llava_core.media import Media
    from llava_core.model import LLaVANeXT
    from llava_core.processor import LLaVAProcessor

MediaKey = tuple[str | int | None, ...]
"""Equal for requests whose images, and the tiles made of them, are equal; empty without images."""


@dataclass(slots=True, eq=False)
class SharedPrefix:
    """The beginning of a prompt that several requests have in common, image tokens included."""

    ids: list[int]
    """Its tokens."""
    num_users: int
    """Requests that have not ended yet."""
    cache: SequenceCache | None = None
    """Keys and values, once admitted."""
    filled: bool = False
    """Whether it has been prefilled."""


@dataclass(slots=True, eq=False)
class Running:
    """One request that has been encoded."""

    place: int
    """Of its result."""
    request: Request
    """As it came."""
    key: MediaKey
    """Of its images."""
    media: "Media"
    """Its images' tiles."""
    num_prompt_tokens: int
    """Of the whole prompt."""
    own_ids: list[int]
    """Prompt tokens beyond the shared prefix."""
    max_new_tokens: int
    """Of its answer; fewer than asked for where the model's context ends before."""
    prefix: SharedPrefix | None = None
    """What it shares with others."""
    cache: SequenceCache | None = None
    """Keys and values of its own part, once admitted."""
    generated: list[int] = field(default_factory=list)
    """Ids chosen so far."""
    logprobs: list[float] = field(default_factory=list)
    """Of each of them."""
    finish_reason: FinishReason | None = None
    """None while it runs."""
    refusal: PromptRefused | None = None
    """Why it cannot run on."""
    yes_no_margin: float | None = None
    """Of the first token."""
    stop_at: int | None = None
    """Characters of its text before a stop string."""
    generator: torch.Generator | None = None
    """Of a request that draws."""

    @property
    def capacity(self) -> int:
        """Tokens that its own cache must hold; the last one chosen is never fed back."""
        return len(self.own_ids) + self.max_new_tokens - 1

    @property
    def needed_tokens(self) -> int:
        """Tokens that its cache and its prefix's must hold."""
        return self.capacity + (len(self.prefix.ids) if self.prefix else 0)

    @property
    def missing_tokens(self) -> int:
        """The same, without a prefix that is there already."""
        return self.capacity if self.prefix and self.prefix.cache else self.needed_tokens

    @property
    def num_image_tokens(self) -> int:
        """Image tokens of the prompt."""
        return sum(self.media.image_tokens)

    @property
    def needs_features(self) -> bool:
        """Whether image features are still to be written into a cache for it."""
        return bool(self.key) and (self.prefix is None or not self.prefix.filled)

    def append(self, token: int, logprob: float, stops: frozenset[int], processor: "LLaVAProcessor") -> None:
        """Take the next token, and see whether it is the last."""
        if not math.isfinite(logprob):
            self.refusal = not_finite(len(self.generated))
            return
        words = (*self.request.sampling.stop, *processor.stop_strings)
        self.generated.append(token)
        self.logprobs.append(logprob)
        if token in stops:
            self.finish_reason = "stop"
        elif words and (found := first_stop(processor.decode(self.generated), words)) is not None:
            self.finish_reason, self.stop_at = "stop", found
        elif len(self.generated) == self.max_new_tokens:
            self.finish_reason = "length"


@dataclass(slots=True, eq=False)
class Group:
    """Requests about the same images."""

    key: MediaKey
    """Of their images."""
    requests: list[tuple[int, Request]]
    """Not encoded yet, with the place of each result."""
    sequences: deque[Running] = field(default_factory=deque)
    """Encoded, waiting for room."""


def group_requests(requests: Sequence[Request]) -> list[Group]:
    """Group requests by their images, in the order in which each image first comes; image-free ones stay apart."""
    groups: dict[MediaKey, Group] = {}
    for place, request in enumerate(requests):
        key = media_key(request)
        # Requests without images share nothing that is worth waiting for.
        groups.setdefault(key or (place,), Group(key, [])).requests.append((place, request))
    return list(groups.values())


def media_key(request: Request) -> MediaKey:
    """Hash a request's images, with what decides their tiles."""
    if not request.images:
        return ()
    return (*map(content_key, request.images), request.max_tiles)


def content_key(image: bytes | NDArray[np.uint8] | TiledImage) -> str:
    """Hash an image by its file, or else by its pixels; equal only for equal bytes and, of pixels, equal shape."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(image, bytes | TiledImage):
        digest.update(image if isinstance(image, bytes) else image.file)
        return digest.hexdigest()
    digest.update(np.ascontiguousarray(image).tobytes())
    return f"{digest.hexdigest()}/{'x'.join(map(str, image.shape))}"


def encode_request(
    place: int, request: Request, key: MediaKey, processor: "LLaVAProcessor", media: "Media", context: int | None
) -> Running:
    """Tokenise a request whose images have been loaded.

    Raises:
        PromptRefused: its text cannot be a prompt, or leaves no room for an answer in the model's context.
    """
    conversation = ask(request.prompt, num_images=len(request.images))
    encoded = processor.encode(conversation, request.images, media=media)
    ids = encoded.input_ids.tolist()
    generator = None
    if request.sampling.temperature > 0:
        generator = torch.Generator().manual_seed(request.sampling.seed)
    max_new_tokens = answer_tokens(len(ids), request.sampling.max_new_tokens, context)
    return Running(place, request, key, media, len(ids), ids, max_new_tokens, generator=generator)


def answer_tokens(num_prompt_tokens: int, max_new_tokens: int, context: int | None) -> int:
    """Most tokens of an answer: what was asked for, or what the prompt leaves of the language model's context.

    Raises:
        PromptRefused: `TOO_LONG`: it leaves nothing.

    Example:
        >>> answer_tokens(4090, 256, 4096), answer_tokens(4090, 256, None)
        (6, 256)
    """
    if context is None:
        return max_new_tokens
    if num_prompt_tokens >= context:
        detail = f"a prompt of {num_prompt_tokens} tokens leaves no room for an answer in the model's {context}"
        raise PromptRefused(PromptReason.TOO_LONG, detail)
    return min(max_new_tokens, context - num_prompt_tokens)


def share_prefix(sequences: Sequence[Running], least: int) -> None:
    """Let sequences share the beginning that their prompts have in common, if it is `least` tokens or more."""
    length = common_prefix([sequence.own_ids for sequence in sequences])
    if len(sequences) < 2 or length < least:
        return
    prefix = SharedPrefix(sequences[0].own_ids[:length], len(sequences))
    for sequence in sequences:
        sequence.prefix = prefix
        sequence.own_ids = sequence.own_ids[length:]


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with; each keeps at least one of its own.

    Example:
        >>> common_prefix([[1, 2, 3, 4], [1, 2, 3, 9, 9], [1, 2, 3]])
        2
    """
    shortest = min(map(len, rows)) - 1
    return sum(
        1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*(row[:shortest] for row in rows), strict=True))
    )


def end_token_ids(model: "LLaVANeXT", processor: "LLaVAProcessor") -> frozenset[int]:
    """Ids that end an answer: the processor's, and those of the generation config that are no words.

    Where a checkpoint names none the config has its class's default, which is a word of another vocabulary.
    """
    named = model.language_model.generation_config.eos_token_id
    more = named if isinstance(named, list) else [] if named is None else [named]
    added = processor.tokenizer.added_tokens_decoder
    return processor.stop_token_ids.union(int(token) for token in more if int(token) in added)


def not_finite(num_tokens: int) -> PromptRefused:
    """The refusal of a request for which the model's scores were no numbers after some tokens."""
    detail = f"the model's scores are not finite after {num_tokens} tokens of its answer; a wider dtype may help"
    return PromptRefused(PromptReason.NOT_FINITE, detail)


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins in a text; None where there is none.

    Example:
        >>> first_stop("yes. No.", ["No", "."])
        3
    """
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)
