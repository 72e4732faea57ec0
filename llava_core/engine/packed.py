"""The packed engine: transformers' layers and weights, our scheduling, and no padding anywhere.

    requests ─ group by image ─▶ encode ─ admit (rows, tokens, bytes) ─▶ tower, dense tiles ─▶ prefill, packed in a row
             ─▶ decode whichever are alive; those that end make room, and waiting ones enter ─▶ results, in order

Requests about the same images share them: the tower sees the images once, the prompt up to where the requests differ
is prefilled once, and each request's own part attends to that prefix (`attention`).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llava_core.config import check_at_least
from llava_core.engine.attention import Span, Step, packed
from llava_core.engine.features import FeatureCache, image_features
from llava_core.engine.kv import KVBudget, KVShape, SequenceCache
from llava_core.engine.requests import Group, Running, encode_request, group_requests, share_prefix
from llava_core.engine.results import refused, served
from llava_core.engine.sampling import choose
from llava_core.engine.types import Request, Result
from llava_core.errors import ConfigError, ImageRefused, PromptReason, PromptRefused
from llava_core.model import LLaVANeXT
from llava_core.processor import LLaVAProcessor

PROVEN = ("llama", "mistral", "qwen2")
"""Language models whose attention is fully described by what `packed_attention` takes, and which tests compare."""
LEAST_SHARED_TOKENS = 16
"""A shorter common prefix costs more to merge than to prefill again."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One sequence's tokens in a forward pass."""

    ids: list[int]
    cache: SequenceCache
    prefix: SequenceCache | None = None
    features: tuple[Tensor, ...] = ()


class PackedEngine:
    """Answers requests on one device, without padding, sharing what they have in common.

    Args:
        model: the model, with a language model; set to evaluation, moved to `device`.
        processor: the processor of the same checkpoint.
        batch_size: most requests that decode together.
        device: where the model runs; None leaves it where it is.
        tile_budget: most tiles in one pass of the tower.
        prefill_tokens: prompts are prefilled together until they are so many tokens.
        kv_bytes: most bytes of keys and values at any time; requests wait for room.
        feature_cache_bytes: image features kept for images that come again.
        share_prefixes: whether requests about the same images share the beginning of their prompts.

    Raises:
        ConfigError: a budget is below 1, or the model has no language model or one that is not `PROVEN`.
    """

    def __init__(
        self,
        model: LLaVANeXT,
        processor: LLaVAProcessor,
        *,
        batch_size: int = 16,
        device: str | torch.device | None = None,
        tile_budget: int = 16,
        prefill_tokens: int = 4096,
        kv_bytes: int = 4 << 30,
        feature_cache_bytes: int = 256 << 20,
        share_prefixes: bool = True,
    ) -> None:
        if model.language_model is None:
            raise ConfigError("an engine needs a model with a language model; this one was built without a text config")
        kind = model.language_model.config.model_type
        if kind not in PROVEN:
            raise ConfigError(f"packed attention is proven for {', '.join(PROVEN)}, not {kind}; use ReferenceEngine")
        budgets = {"batch_size": batch_size, "tile_budget": tile_budget, "prefill_tokens": prefill_tokens}
        for name, value in (budgets | {"kv_bytes": kv_bytes}).items():
            check_at_least("engine", name, value, 1)
        self.model = (model if device is None else model.to(device)).eval()
        self.processor = processor
        self.batch_size = batch_size
        self.tile_budget = tile_budget
        self.prefill_tokens = prefill_tokens
        self.share_prefixes = share_prefixes
        self.budget = KVBudget(KVShape.of(model.language_model), kv_bytes)
        self.features = FeatureCache(feature_cache_bytes)

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """Answer every request.

        Args:
            requests: any number, of any mixture of images, lengths and sampling.

        Returns:
            One result for each request, in the same order; a request that cannot be served has `error` set.
        """
        results: dict[int, Result] = {}
        waiting = deque(group_requests(requests))
        running: list[Running] = []
        with packed(self.model.language_model):
            while waiting or running:
                admitted = self._admit(waiting, len(running), results)
                if admitted:
                    self._prefill(admitted)
                    running = self._retire(running + admitted, results)
                if running:
                    self._decode(running)
                    running = self._retire(running, results)
        return [results[place] for place in range(len(requests))]

    def _admit(self, waiting: deque[Group], num_running: int, results: dict[int, Result]) -> list[Running]:
        """Take requests from the front of the queue while rows, tokens and bytes allow."""
        admitted: list[Running] = []
        tokens = 0
        while waiting and num_running + len(admitted) < self.batch_size and tokens < self.prefill_tokens:
            group = waiting[0]
            self._open(group, results)
            if not group.sequences:
                waiting.popleft()
                continue
            sequence = group.sequences[0]
            empty = num_running == 0 and not admitted
            if not self._reserve(sequence):
                if not empty:
                    break
                results[sequence.place] = refused(sequence.request, self._too_long(sequence))
                self._drop_prefix(sequence)
            else:
                new_prefix = sequence.prefix is not None and not sequence.prefix.filled
                tokens += len(sequence.own_ids) + (len(sequence.prefix.ids) if new_prefix and sequence.prefix else 0)
                admitted.append(sequence)
            group.sequences.popleft()
        return admitted

    def _open(self, group: Group, results: dict[int, Result]) -> None:
        """Decode, tile and tokenise a group when it comes to the front, and let its requests share what they can."""
        if not group.requests:
            return
        requests, group.requests = group.requests, []
        try:
            images, max_tiles = requests[0][1].images, requests[0][1].max_tiles
            media = self.processor.load_media(images, (), max_tiles)
        except ImageRefused as error:
            results.update({place: refused(request, error) for place, request in requests})
            return
        for place, request in requests:
            try:
                group.sequences.append(encode_request(place, request, group.key, self.processor, media))
            except PromptRefused as error:
                results[place] = refused(request, error)
        if self.share_prefixes and len(group.sequences) > 1:
            share_prefix(group.sequences, LEAST_SHARED_TOKENS)

    def _reserve(self, sequence: Running) -> bool:
        """Allocate the caches of a request; False if it has to wait for room."""
        prefix = sequence.prefix
        new_prefix = prefix is not None and prefix.cache is None
        if not self.budget.fits(sequence.capacity + (len(prefix.ids) if prefix and new_prefix else 0)):
            return False
        if prefix is not None and prefix.cache is None:
            prefix.cache = self.budget.allocate(len(prefix.ids), self.model.device)
        sequence.cache = self.budget.allocate(sequence.capacity, self.model.device)
        return True

    def _too_long(self, sequence: Running) -> PromptRefused:
        """Why a request is refused that finds no room although nothing else runs."""
        needed = sequence.capacity + (len(sequence.prefix.ids) if sequence.prefix else 0)
        room = self.budget.limit_bytes // self.budget.shape.bytes_per_token
        return PromptRefused(
            PromptReason.TOO_LONG, f"needs room for {needed} tokens; the engine's kv_bytes hold {room}"
        )

    def _prefill(self, sequences: list[Running]) -> None:
        """Fill the caches of new requests, prefixes first, and choose the first token of each."""
        features = image_features(sequences, self.model, self.features, self.tile_budget)
        whole = [sequence for sequence in sequences if sequence.prefix is None]
        sharing = [sequence for sequence in sequences if sequence.prefix is not None]
        rows = []
        for sequence in sharing:
            prefix = sequence.prefix
            if prefix is not None and prefix.cache is not None and not prefix.filled:
                rows.append(_Row(prefix.ids, prefix.cache, features=tuple(features.get(sequence.key, ()))))
                prefix.filled = True
        num_prefixes = len(rows)
        for sequence in whole:
            rows.append(_Row(sequence.own_ids, _cache(sequence), features=tuple(features.get(sequence.key, ()))))
        self._take(whole, self._forward(rows, first_kept=num_prefixes))
        own = [_Row(s.own_ids, _cache(s), None if s.prefix is None else s.prefix.cache) for s in sharing]
        self._take(sharing, self._forward(own))

    def _decode(self, running: list[Running]) -> None:
        """Choose one more token for each running request."""
        rows = [_Row(s.generated[-1:], _cache(s), None if s.prefix is None else s.prefix.cache) for s in running]
        self._take(running, self._forward(rows))

    def _forward(self, rows: Sequence[_Row], first_kept: int = 0) -> Tensor:
        """Run the language model over packed rows, and return float[len(rows) - first_kept, V] of their last tokens."""
        device = self.model.device
        if not rows:
            return torch.empty(0, device=device)
        spans, at = [], 0
        for row in rows:
            spans.append(Span(at, at := at + len(row.ids), row.cache, row.prefix))
        step = Step(tuple(spans))
        ids = torch.tensor([token for row in rows for token in row.ids], device=device)
        features = [feature for row in rows for feature in row.features]
        # What is kept may be nothing: a step that only fills prefixes still needs its layers run.
        kept = torch.tensor([span.stop - 1 for span in spans[first_kept:]], dtype=torch.long, device=device)
        logits: Tensor = self.model.language_model(
            inputs_embeds=self.model.place_features(ids[None], features),
            position_ids=step.position_ids(device),
            use_cache=False,
            logits_to_keep=kept,
            step=step,
        ).logits
        step.advance()
        return logits[0]

    def _take(self, sequences: list[Running], logits: Tensor) -> None:
        """Append the next token of each sequence."""
        if not sequences:
            return
        tokens, logprobs = choose(
            logits,
            [sequence.request.sampling for sequence in sequences],
            [sequence.generated for sequence in sequences],
            [sequence.generator for sequence in sequences],
        )
        for sequence, token, logprob in zip(sequences, tokens, logprobs, strict=True):
            sequence.append(token, logprob, self.processor)

    def _retire(self, running: list[Running], results: dict[int, Result]) -> list[Running]:
        """Take out what has ended, and free its room."""
        alive = []
        for sequence in running:
            if sequence.finish_reason is None:
                alive.append(sequence)
                continue
            results[sequence.place] = self._result(sequence)
            self.budget.release(_cache(sequence))
            self._drop_prefix(sequence)
        return alive

    def _result(self, sequence: Running) -> Result:
        assert sequence.finish_reason is not None
        prefix = 0 if sequence.prefix is None else len(sequence.prefix.ids)
        return served(
            sequence.request,
            text=self.processor.decode(sequence.generated)[: sequence.stop_at],
            token_ids=sequence.generated,
            logprobs=sequence.logprobs,
            finish_reason=sequence.finish_reason,
            num_prompt_tokens=prefix + len(sequence.own_ids),
            num_image_tokens=sum(sequence.media.image_tokens),
            image_sizes=sequence.media.sizes,
            grids=sequence.media.grids,
        )

    def _drop_prefix(self, sequence: Running) -> None:
        """Free a shared prefix when the last request that uses it is done."""
        prefix = sequence.prefix
        if prefix is not None:
            prefix.num_users -= 1
            if prefix.num_users == 0 and prefix.cache is not None:
                self.budget.release(prefix.cache)
                prefix.cache = None


def _cache(sequence: Running) -> SequenceCache:
    """The cache of an admitted sequence."""
    assert sequence.cache is not None
    return sequence.cache
