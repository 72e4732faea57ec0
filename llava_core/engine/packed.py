"""The packed engine: transformers' layers and weights, our scheduling, and no padding anywhere.

    requests ─ group by image ─▶ encode ─ admit (rows, tokens, bytes) ─▶ tower, dense tiles ─▶ prefill, packed in a row
             ─▶ decode whichever are alive; those that end make room, and waiting ones enter ─▶ results, in order

Requests about the same images share them: the tower sees the images once, the prompt up to where the requests differ
is prefilled once, and each request's own part attends to that prefix (`attention`).

Where memory runs out, the step is undone and tried again smaller: half the budgets, down to the request alone in the
smallest passes, then fewer tiles of its images (the result's grids say so), and only then is it refused. What was
found to fit is remembered.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from llava_core.config import check_at_least
from llava_core.engine.attention import packed
from llava_core.engine.budgets import tiles_per_pass, tokens_per_pass
from llava_core.engine.choice import check_proven
from llava_core.engine.features import FeatureCache
from llava_core.engine.few_rows import speed_up_few_rows
from llava_core.engine.kv import KVBudget, KVShape
from llava_core.engine.lanes import Lanes
from llava_core.engine.requests import Group, Running, encode_request, group_requests, media_key, share_prefix
from llava_core.engine.results import refused, served
from llava_core.engine.runner import Runner, cache_of
from llava_core.engine.samples import gather_samples, split_samples
from llava_core.engine.types import Request, Result
from llava_core.errors import ConfigError, ImageReason, ImageRefused, PromptReason, PromptRefused
from llava_core.model import LLaVANeXT
from llava_core.processor import LLaVAProcessor

log = logging.getLogger(__name__)

PASSES_PER_LANE = 2
"""How many passes over prompts are admitted at once, so that lanes end at about the same time."""
LEAST_PASS_TOKENS = 64
"""Where memory runs out, passes are not made shorter than this."""
LEAST_SHARED_TOKENS = 16
"""A shorter common prefix costs more to merge than to prefill again."""


class PackedEngine:
    """Answers requests on one device, without padding, sharing what they have in common.

    Args:
        model: the model, with a language model; set to evaluation, moved to `device`.
        processor: the processor of the same checkpoint.
        batch_size: most requests that decode together.
        device: where the model runs; None leaves it where it is.
        tile_budget: most tiles in one pass of the tower; None for what suits the device (`budgets`).
        prefill_tokens: most tokens in one pass over prompts, a longer one taking several; None likewise.
        kv_bytes: most bytes of keys and values at any time; requests wait for room.
        feature_cache_bytes: image features kept for images that come again.
        share_prefixes: whether requests about the same images share the beginning of their prompts.
        deterministic: a result does not depend on what else is asked, to the last bit: every request runs alone and
            shares nothing, because a matrix product rounds differently for another number of rows, and even for
            another row. Slower.

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
        tile_budget: int | None = None,
        prefill_tokens: int | None = None,
        kv_bytes: int = 4 << 30,
        feature_cache_bytes: int = 256 << 20,
        share_prefixes: bool = True,
        deterministic: bool = False,
    ) -> None:
        if model.language_model is None:
            raise ConfigError("an engine needs a model with a language model; this one was built without a text config")
        check_proven(model.language_model.config.model_type)
        self.model = (model if device is None else model.to(device)).eval()
        speed_up_few_rows(model.language_model)
        if tile_budget is None:
            tile_budget = tiles_per_pass(model.config, model.device, model.dtype)
        if prefill_tokens is None:
            text = model.language_model.config.get_text_config()
            prefill_tokens = tokens_per_pass(text.intermediate_size, model.device, model.dtype)
        budgets = {"batch_size": batch_size, "tile_budget": tile_budget, "prefill_tokens": prefill_tokens}
        for name, value in (budgets | {"kv_bytes": kv_bytes}).items():
            check_at_least("engine", name, value, 1)
        self.processor = processor
        self.batch_size = 1 if deterministic else batch_size
        self.tile_budget = tile_budget
        self.prefill_tokens = prefill_tokens
        self.share_prefixes = share_prefixes and not deterministic
        self.budget = KVBudget(KVShape.of(model.language_model), kv_bytes)
        self.features = FeatureCache(feature_cache_bytes)
        self._lanes = Lanes(self.model.device)
        self._runner = Runner(self.model, processor, self.features, self._lanes)

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """Answer every request.

        Args:
            requests: any number, of any mixture of images, lengths and sampling.

        Returns:
            One result for each request, in the same order; a request that cannot be served has `error` set.
        """
        return gather_samples(requests, self._generate(split_samples(requests)))

    @torch.inference_mode()
    def _generate(self, requests: Sequence[Request]) -> list[Result]:
        """Answer requests for one sample each."""
        results: dict[int, Result] = {}
        waiting = deque(group_requests(requests))
        running: list[Running] = []
        with packed(self.model.language_model):
            while waiting or running:
                admitted = self._admit(waiting, len(running), results)
                if admitted:
                    if fits(lambda new=admitted: self._prefill(new)):  # type: ignore[misc]
                        running = self._retire(running + admitted, results)
                    else:
                        self._step_down(admitted, running, waiting, results)
                        continue
                if running:
                    if fits(lambda alive=running: self._runner.decode(alive)):  # type: ignore[misc]
                        running = self._retire(running, results)
                    else:
                        # The later half starts again when there is room; equal seeds give it equal tokens.
                        keep = len(running) // 2
                        self._step_down(running[keep:], running[:keep], waiting, results)
                        running = running[:keep]
        return [results[place] for place in range(len(requests))]

    def _prefill(self, admitted: Sequence[Running]) -> None:
        self._runner.prefill(admitted, self.tile_budget, self.prefill_tokens)

    def _admit(self, waiting: deque[Group], num_running: int, results: dict[int, Result]) -> list[Running]:
        """Take requests from the front of the queue while rows, tokens and bytes allow."""
        admitted: list[Running] = []
        tokens, most_tokens = 0, self.prefill_tokens * self._lanes.count * PASSES_PER_LANE
        if num_running and self.batch_size - num_running < self._lanes.count:
            return admitted  # prompts come in as many at once as there are lanes to prefill them
        while waiting and num_running + len(admitted) < self.batch_size and tokens < most_tokens:
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

    def _retire(self, running: list[Running], results: dict[int, Result]) -> list[Running]:
        """Take out what has ended, and free its room."""
        alive = []
        for sequence in running:
            if sequence.finish_reason is None:
                alive.append(sequence)
                continue
            results[sequence.place] = self._result(sequence)
            self.budget.release(cache_of(sequence))
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
            yes_no_margin=sequence.yes_no_margin,
        )

    def _step_down(
        self, undone: list[Running], running: list[Running], waiting: deque[Group], results: dict[int, Result]
    ) -> None:
        """Put requests whose step ran out of memory back in the queue, and make the next step smaller."""
        for sequence in undone:
            self.budget.release(cache_of(sequence))
            self._drop_prefix(sequence)
        smallest = self.tile_budget == 1 and self.prefill_tokens <= LEAST_PASS_TOKENS
        alone = len(undone) == 1 and not running and smallest
        for sequence in reversed(undone):
            request = sequence.request
            if alone:
                lowered = fewer_tiles(sequence)
                if lowered is None:
                    error = ImageRefused(ImageReason.MEMORY, "out of memory alone on the device, with the fewest tiles")
                    results[sequence.place] = refused(request, error)
                    continue
                request = lowered
            # Alone in its group, so that it shares nothing with requests that did fit.
            waiting.appendleft(Group(media_key(request), [(sequence.place, request)]))
        self.batch_size = max(1, min((len(undone) + len(running)) // 2, self.batch_size))
        self.prefill_tokens = max(min(self.prefill_tokens, LEAST_PASS_TOKENS), self.prefill_tokens // 2)
        self.tile_budget = max(1, self.tile_budget // 2)

    def _drop_prefix(self, sequence: Running) -> None:
        """Free a shared prefix when the last request that uses it is done, or when filling it came to nothing."""
        prefix = sequence.prefix
        if prefix is None:
            return
        prefix.num_users -= 1
        if prefix.cache is not None and (prefix.num_users == 0 or not prefix.filled):
            self.budget.release(prefix.cache)
            prefix.cache, prefix.filled = None, False


def fewer_tiles(sequence: Running) -> Request | None:
    """The same request with half the tiles in its largest grid; None where its images are base tiles already."""
    most = max((grid.height * grid.width for grid in sequence.media.grids), default=0)
    return replace(sequence.request, max_tiles=most // 2) if most else None


def fits(step: Callable[[], None]) -> bool:
    """Run a step; False if memory ran out, whose traceback, and the tensors that it holds, are gone by then."""
    try:
        step()
    except (RuntimeError, MemoryError) as error:
        # What torch's allocator for the CPU raises has no class of its own.
        known = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if not known:
            raise
        log.warning("out of memory, the step is tried again smaller: %s", error)
    else:
        return True
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
