"""The simplest correct engine: transformers' `generate` on left-padded batches.

Requests are grouped by their sampling, ordered by length so that batches need little padding, and answered in the
order in which they came. It is the oracle that a faster engine is held to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llava_core.engine.requests import answer_tokens, end_token_ids, first_stop, not_finite
from llava_core.engine.results import refused, served
from llava_core.engine.samples import gather_samples, split_samples
from llava_core.engine.sampling import YesNo
from llava_core.engine.types import Request, Result, SamplingConfig
from llava_core.errors import ImageRefused, PromptRefused
from llava_core.language import context_tokens
from llava_core.model import LLaVANeXT
from llava_core.processor import Encoded, LLaVAProcessor
from llava_core.prompts import ask


class _LogprobRecorder(LogitsProcessor):
    """Keeps each chosen token's log-probability, without keeping each step's logits.

    `generate` shows it the logits of a step before the token is chosen, and the chosen token one step later.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None
        self._chosen: list[Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self._last is not None:
            self._chosen.append(self._last.gather(1, input_ids[:, -1:]))
        self._last = torch.log_softmax(scores.float(), dim=-1)
        # its row is refused in the end; drawn from as it is, it would end the whole batch, and a GPU's process
        return cast(torch.FloatTensor, torch.nan_to_num(scores))

    def logprobs(self, generated: Tensor) -> Tensor:
        """float32[B, T] of the generated ids int64[B, T]."""
        if self._last is None:
            return torch.zeros(generated.shape, dtype=torch.float32)
        return torch.cat([*self._chosen, self._last.gather(1, generated[:, -1:])], dim=1).cpu()


class _FirstScores(LogitsProcessor):
    """Keeps the logits of the first step, as the model gives them."""

    def __init__(self) -> None:
        self.logits: Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.logits = scores if self.logits is None else self.logits
        return scores


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A request that could be encoded, and its place in the results."""

    place: int
    request: Request
    """Asks for no more tokens than the model's context has room for."""
    encoded: Encoded


class ReferenceEngine:
    """Answers requests by transformers' own `generate`, in batches.

    Args:
        model: the model, with a language model; moved to `device` and set to evaluation.
        processor: the processor of the same checkpoint.
        batch_size: most requests in one `generate` call.
        device: where the model runs; None leaves it where it is.

    Raises:
        ValueError: the model has no language model, or `batch_size` is below 1.
    """

    def __init__(
        self,
        model: LLaVANeXT,
        processor: LLaVAProcessor,
        *,
        batch_size: int = 8,
        device: str | torch.device | None = None,
    ) -> None:
        if model.language_model is None:
            raise ValueError("an engine needs a model with a language model; this one was built without a text config")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        self.model = (model if device is None else model.to(device)).eval()
        self.processor = processor
        self.batch_size = batch_size
        self._yes_no = YesNo(processor.encode_words)
        self._end_token_ids = end_token_ids(model, processor)
        self._context = context_tokens(model.language_model.config.get_text_config())

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """Answer every request.

        Args:
            requests: any number, of any mixture of image counts and sampling.

        Returns:
            One result for each request, in the same order; a request that cannot be served has `error` set.
        """
        return gather_samples(requests, self._generate(split_samples(requests)))

    def _generate(self, requests: Sequence[Request]) -> list[Result]:
        """Answer requests for one sample each."""
        results: list[Result | None] = [None] * len(requests)
        admitted: list[_Admitted] = []
        for place, request in enumerate(requests):
            try:
                admitted.append(self._admit(place, request))
            except (ImageRefused, PromptRefused) as error:
                results[place] = refused(request, error)
        for sampling in dict.fromkeys(item.request.sampling for item in admitted):
            same = sorted(
                (item for item in admitted if item.request.sampling == sampling),
                key=lambda item: len(item.encoded.input_ids),
            )
            for start in range(0, len(same), self.batch_size):
                batch = same[start : start + self.batch_size]
                for item, result in zip(batch, self._run(batch, sampling), strict=True):
                    results[item.place] = result
        return [result for result in results if result is not None]

    def _admit(self, place: int, request: Request) -> _Admitted:
        conversation = ask(request.prompt, num_images=len(request.images))
        encoded = self.processor.encode(conversation, request.images, max_tiles=request.max_tiles)
        most = answer_tokens(len(encoded.input_ids), request.sampling.max_new_tokens, self._context)
        return _Admitted(place, replace(request, sampling=replace(request.sampling, max_new_tokens=most)), encoded)

    @torch.inference_mode()
    def _run(self, batch: list[_Admitted], sampling: SamplingConfig) -> list[Result]:
        inputs = self.processor.collate([item.encoded for item in batch])
        first, recorder = _FirstScores(), _LogprobRecorder()
        with torch.random.fork_rng(enabled=sampling.temperature > 0):
            if sampling.temperature > 0:
                torch.manual_seed(sampling.seed)
            generated = self.model.generate(
                **inputs.to(self.model.device),
                max_new_tokens=sampling.max_new_tokens,
                do_sample=sampling.temperature > 0,
                repetition_penalty=1.0,
                **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampling.temperature > 0 else {}),
                eos_token_id=sorted(self._end_token_ids),
                pad_token_id=self.processor.pad_token_id,
                # all that changes scores comes before the recorder, which sees what is chosen from
                logits_processor=LogitsProcessorList([first, *_warpers(sampling), recorder]),
            )
        logprobs = recorder.logprobs(generated)
        assert first.logits is not None
        rows = zip(batch, generated.tolist(), logprobs, self._yes_no.margins(first.logits), strict=True)
        return [self._result(*row) for row in rows]

    def _result(self, item: _Admitted, ids: list[int], logprobs: Tensor, margin: float | None) -> Result:
        stop = next((i for i, token in enumerate(ids) if token in self._end_token_ids), None)
        kept = ids if stop is None else ids[: stop + 1]
        words = (*item.request.sampling.stop, *self.processor.stop_strings)
        text, kept, found = self._until_stop(kept, words)
        finite = torch.isfinite(logprobs[: len(kept)])
        if not finite.all():
            return refused(item.request, not_finite(int(finite.int().argmin())))
        return served(
            item.request,
            text=text,
            token_ids=kept,
            logprobs=logprobs[: len(kept)].tolist(),
            finish_reason="stop" if found or stop is not None else "length",
            num_prompt_tokens=len(item.encoded.input_ids),
            num_image_tokens=item.encoded.num_image_tokens,
            image_sizes=item.encoded.image_sizes,
            grids=item.encoded.image_grids,
            yes_no_margin=margin,
        )

    def _until_stop(self, ids: list[int], stops: Sequence[str]) -> tuple[str, list[int], bool]:
        """Text before the first stop string, the ids it took to see it, and whether there is one.

        `generate` itself goes on to its end: what is said after a stop is thrown away.
        """
        for count in range(1, len(ids) + 1) if stops else ():
            text = self.processor.decode(ids[:count])
            if (found := first_stop(text, stops)) is not None:
                return text[:found], ids[:count], True
        return self.processor.decode(ids), ids, False


def _warpers(sampling: SamplingConfig) -> list[LogitsProcessor]:
    """What changes a request's scores, in transformers' order."""
    warpers: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1:
        # `generate`'s own leaves out as many generated tokens as the prompt has padding
        warpers.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature == 0:
        return warpers
    warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers
