"""The packed engine: transformers' layers and weights, our scheduling, and no padding anywhere.

    requests ─ group by image ─▶ encode ─ admit (rows, tokens, bytes) ─▶ tower, dense tiles ─▶ prefill, packed in a row
             ─▶ decode whichever are alive; those that end make room, and waiting ones enter ─▶ results, in order

Requests about the same images share them: the tower sees the images once, the prompt up to where the requests differ
is prefilled once, and each request's own part attends to that prefix (`attention`).

Where memory runs out, the step is undone and tried again smaller (`ladder`), down to one request alone, then to fewer
tiles of its images (the result's grids say so). Where base tiles find none either, `MemoryError` ends the call: whether
that request is at fault, or the device is full for now or for good, is for whoever holds the engine to find out.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from llava_core.config import check_at_least
from llava_core.engine.attention import packed
from llava_core.engine.budgets import kv_bytes_for, tiles_per_pass, tokens_per_pass
from llava_core.engine.choice import check_packable
from llava_core.engine.features import FeatureCache
from llava_core.engine.few_rows import speed_up_few_rows
from llava_core.engine.kv import KVBudget, KVShape
from llava_core.engine.ladder import Budgets, Ladder
from llava_core.engine.lanes import Lanes
from llava_core.engine.requests import (
    Group,
    Running,
    SharedPrefix,
    encode_request,
    group_requests,
    media_key,
    share_prefix,
)
from llava_core.engine.results import refused, served
from llava_core.engine.runner import Runner
from llava_core.engine.samples import gather_samples, split_samples
from llava_core.engine.types import Request, Result
from llava_core.errors import ConfigError, ImageRefused, PromptReason, PromptRefused
from llava_core.language import context_tokens
from llava_core.model import LLaVANeXT
from llava_core.processor import LLaVAProcessor

log = logging.getLogger(__name__)

PASSES_PER_LANE = 2
"""How many passes over prompts are admitted at once, so that lanes end at about the same time."""
ENTERING_SHARE = 4
"""New requests wait for each other until one in so many places of a batch is empty, and no longer."""
OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
"""What torch's allocator for the CPU, the CUDA driver, and cuBLAS and its kin say, by no class of their own."""
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
        kv_bytes: most bytes of keys and values at any time, for which requests wait; None likewise, and one request
            alone may then be as long as the language model takes.
        feature_cache_bytes: image features kept for images that come again.
        share_prefixes: whether requests about the same images share the beginning of their prompts.
        deterministic: a result does not depend on what else is asked, to the last bit: every request runs alone and
            shares nothing, because a matrix product rounds differently for another number of rows, and even for
            another row. Slower.

    Raises:
        ConfigError: a budget is below 1, or the model is one that `check_engine` refuses.
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
        kv_bytes: int | None = None,
        feature_cache_bytes: int = 256 << 20,
        share_prefixes: bool = True,
        deterministic: bool = False,
    ) -> None:
        if model.language_model is None:
            raise ConfigError("an engine needs a model with a language model; this one was built without a text config")
        check_packable(model.config)
        self.model = (model if device is None else model.to(device)).eval()
        speed_up_few_rows(model.language_model)
        text = model.language_model.config.get_text_config()
        shape = KVShape.of(model.language_model)
        self.context = context_tokens(text)
        if tile_budget is None:
            tile_budget = tiles_per_pass(model.config, model.device, model.dtype)
        if prefill_tokens is None:
            prefill_tokens = tokens_per_pass(text.intermediate_size, model.device, model.dtype)
        alone_bytes = 0
        if kv_bytes is None:
            kv_bytes, alone_bytes = kv_bytes_for(model.device), (self.context or 0) * shape.bytes_per_token
        budgets = {"batch_size": batch_size, "tile_budget": tile_budget, "prefill_tokens": prefill_tokens}
        for name, value in (budgets | {"kv_bytes": kv_bytes}).items():
            check_at_least("engine", name, value, 1)
        self.processor = processor
        self.ladder = Ladder(Budgets(1 if deterministic else batch_size, tile_budget, prefill_tokens))
        self.share_prefixes = share_prefixes and not deterministic
        self.budget = KVBudget(shape, kv_bytes, alone_bytes)
        self.features = FeatureCache(feature_cache_bytes)
        self._lanes = Lanes(self.model.device)
        self._runner = Runner(self.model, processor, self.features, self._lanes)

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """Answer every request.

        Args:
            requests: any number, of any mixture of images, lengths and sampling.

        Returns:
            One result for each request, in the same order; a request that cannot be served has `error` set.

        Raises:
            MemoryError: the device has no memory for a request alone, with the fewest tiles.
        """
        return gather_samples(requests, self._generate(split_samples(requests)))

    @torch.inference_mode()
    def _generate(self, requests: Sequence[Request]) -> list[Result]:
        """Answer requests for one sample each."""
        results: dict[int, Result] = {}
        waiting = deque(group_requests(requests))
        running: list[Running] = []
        # an earlier call may have ended in an error
        self.budget.clear()
        self.ladder.begin()
        with packed(self.model.language_model):
            while waiting or running:
                running = self._turn(waiting, running, results)
        return [results[place] for place in range(len(requests))]

    def _turn(self, waiting: deque[Group], running: list[Running], results: dict[int, Result]) -> list[Running]:
        """Let requests enter as there is room, choose one more token for all, and return those that run on."""
        admitted = self._admit(waiting, len(running), results)
        now = self.ladder.now
        if admitted:
            if not fits(lambda: self._runner.prefill(admitted, now.tile_budget, now.prefill_tokens)):
                self._step_down(admitted, running, waiting, prefill=True)
                return running
            running = self._retire(running + admitted, results)
        if not running or fits(lambda: self._runner.decode(running)):
            return self._retire(running, results)
        # The later half starts again when there is room; equal seeds give it equal tokens.
        keep = len(running) // 2
        self._step_down(running[keep:], running[:keep], waiting, prefill=False)
        return running[:keep]

    def _admit(self, waiting: deque[Group], num_running: int, results: dict[int, Result]) -> list[Running]:
        """Take requests from the front of the queue while rows, tokens and bytes allow."""
        admitted: list[Running] = []
        batch_size = self.ladder.now.batch_size
        tokens, most_tokens = 0, self.ladder.now.prefill_tokens * self._lanes.count * PASSES_PER_LANE
        # prompts come in as many at once as there are lanes to prefill them, but a batch does not run empty for it
        together = min(self._lanes.count, max(1, batch_size // ENTERING_SHARE))
        if num_running and batch_size - num_running < together:
            return admitted
        while waiting and num_running + len(admitted) < batch_size and tokens < most_tokens:
            group = waiting[0]
            self._open(group, results)
            if not group.sequences:
                waiting.popleft()
                continue
            sequence = group.sequences[0]
            if self._reserve(sequence):
                new_prefix = sequence.prefix is not None and not sequence.prefix.filled
                tokens += len(sequence.own_ids) + (len(sequence.prefix.ids) if new_prefix and sequence.prefix else 0)
                admitted.append(sequence)
            elif num_running or admitted:
                break
            elif not self._make_room(sequence, waiting):
                group.sequences.popleft()
                self._turn_away(sequence, waiting, results)
                break
            else:
                continue
            group.sequences.popleft()
        return admitted

    def _make_room(self, sequence: Running, waiting: deque[Group]) -> bool:
        """Where nothing runs, free the prefixes of requests that wait; False if there are none, or it would not do."""
        idle = [one.prefix for group in waiting for one in group.sequences if one.prefix and one.prefix.cache]
        for prefix in idle:
            self._free_prefix(prefix)
        return bool(idle) and self.budget.ever_fits(sequence.needed_tokens)

    def _turn_away(self, sequence: Running, waiting: deque[Group], results: dict[int, Result]) -> None:
        """Deal with a request that finds no room although nothing else runs."""
        if self.budget.ever_fits(sequence.needed_tokens):
            self._shrink(sequence, waiting)  # the budget has room for it, the device has not
            return
        room = self.budget.alone_bytes // self.budget.shape.bytes_per_token
        detail = f"needs room for {sequence.needed_tokens} tokens; the engine's kv_bytes hold {room}"
        self._undo(sequence)
        self._settle(sequence.place, refused(sequence.request, PromptRefused(PromptReason.TOO_LONG, detail)), results)

    def _open(self, group: Group, results: dict[int, Result]) -> None:
        """Decode, tile and tokenise a group when it comes to the front, and let its requests share what they can."""
        if not group.requests:
            return
        requests, group.requests = group.requests, []
        try:
            images, max_tiles = requests[0][1].images, requests[0][1].max_tiles
            media = self.processor.load_media(images, (), max_tiles)
        except (ImageRefused, PromptRefused) as error:
            for place, request in requests:
                self._settle(place, refused(request, error), results)
            return
        for place, request in requests:
            try:
                group.sequences.append(encode_request(place, request, group.key, self.processor, media, self.context))
            except PromptRefused as error:
                self._settle(place, refused(request, error), results)
        if self.share_prefixes and len(group.sequences) > 1:
            share_prefix(group.sequences, LEAST_SHARED_TOKENS)

    def _reserve(self, sequence: Running) -> bool:
        """Allocate the caches of a request; False if it has to wait for room."""
        if not self.budget.fits(sequence.missing_tokens):
            return False
        if fits(lambda: self._allocate(sequence)):
            return True
        self.budget.learn()
        return False

    def _allocate(self, sequence: Running) -> None:
        """Both caches of a request, or, where memory runs out, none."""
        prefix, device = sequence.prefix, self.model.device
        if prefix is not None and prefix.cache is None:
            prefix.cache, sequence.cache = self.budget.allocate((len(prefix.ids), sequence.capacity), device)
        else:
            (sequence.cache,) = self.budget.allocate((sequence.capacity,), device)

    def _retire(self, running: list[Running], results: dict[int, Result]) -> list[Running]:
        """Take out what has ended, and free its room."""
        alive = []
        for sequence in running:
            if sequence.finish_reason is None and sequence.refusal is None:
                alive.append(sequence)
                continue
            self._undo(sequence)
            self._settle(sequence.place, self._result(sequence), results)
        return alive

    def _settle(self, place: int, result: Result, results: dict[int, Result]) -> None:
        results[place] = result
        self.ladder.settle(place)

    def _result(self, sequence: Running) -> Result:
        if sequence.refusal is not None:
            return refused(sequence.request, sequence.refusal)
        assert sequence.finish_reason is not None
        return served(
            sequence.request,
            text=self.processor.decode(sequence.generated)[: sequence.stop_at],
            token_ids=sequence.generated,
            logprobs=sequence.logprobs,
            finish_reason=sequence.finish_reason,
            num_prompt_tokens=sequence.num_prompt_tokens,
            num_image_tokens=sequence.num_image_tokens,
            image_sizes=sequence.media.sizes,
            grids=sequence.media.grids,
            yes_no_margin=sequence.yes_no_margin,
        )

    def _step_down(
        self, undone: list[Running], running: list[Running], waiting: deque[Group], *, prefill: bool
    ) -> None:
        """Put requests whose step ran out of memory back in the queue, and make the next step smaller."""
        if len(undone) == 1 and not running and not (prefill and not self.ladder.now.smallest):
            self._shrink(undone[0], waiting)
            return
        self.ladder.step_down([sequence.place for sequence in undone], len(running), prefill=prefill)
        for sequence in reversed(undone):
            self._put_back(sequence, sequence.request, waiting)

    def _shrink(self, sequence: Running, waiting: deque[Group]) -> None:
        """Put a request back with fewer tiles: there was no memory for it although nothing else runs."""
        self.ladder.blame(sequence.place)
        lowered = fewer_tiles(sequence)
        if lowered is None:
            name = sequence.request.request_id
            raise MemoryError(f"no memory for request {name}, alone on the device and with the fewest tiles")
        self._put_back(sequence, lowered, waiting)

    def _put_back(self, sequence: Running, request: Request, waiting: deque[Group]) -> None:
        """Let a request begin again, alone in its group, so that it shares nothing with requests that did fit."""
        self._undo(sequence)
        waiting.appendleft(Group(media_key(request), [(sequence.place, request)]))

    def _undo(self, sequence: Running) -> None:
        """Free what a request holds, and a shared prefix with its last user, or if filling it came to nothing."""
        if sequence.cache is not None:
            self.budget.release(sequence.cache)
            sequence.cache = None
        prefix = sequence.prefix
        if prefix is None:
            return
        prefix.num_users -= 1
        if prefix.num_users == 0 or not prefix.filled:
            self._free_prefix(prefix)

    def _free_prefix(self, prefix: SharedPrefix) -> None:
        if prefix.cache is not None:
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
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        log.warning("out of memory, the step is tried again smaller: %s", error)
    else:
        return True
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
