"""The same requests through vLLM: an alternative on GPUs, in an environment whose torch and transformers are vLLM's.

vLLM tiles images by itself, by the checkpoint's own settings, so a request cannot bound its tiles; log-probabilities
are those before temperature and penalties; a repetition penalty counts the prompt's tokens too; it says nothing of yes
and no. What this does *not* do: recover from what vLLM raises over one request, which ends all of a call: whoever holds
the engine splits the call and tries again.

Source: vllm 0.33.0, `entrypoints/llm.py`, `sampling_params.py`, `outputs.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_core.config import plan_tiles
from llava_core.engine.results import refused, served
from llava_core.engine.samples import gather_samples, split_samples
from llava_core.engine.types import Request, Result, SamplingConfig
from llava_core.errors import ImageRefused, PromptReason, PromptRefused
from llava_core.geometry import Size
from llava_core.media_inputs import load_image
from llava_core.prompts import ask

if TYPE_CHECKING:
    from llava_core.processor import LLaVAProcessor


class VllmEngine:
    """Answers requests by vLLM.

    Args:
        folder: a checkpoint in transformers' layout, which is the one that vLLM reads.
        processor: of the same checkpoint.
        batch_size: most requests that decode together.
        dtype: of the weights, by vLLM's names.
        beat: called at each step of vLLM's scheduler.
        llm: makes the engine; `vllm.LLM` by default.
        sampling_params: makes sampling parameters; `vllm.SamplingParams` by default.
    """

    def __init__(
        self,
        folder: str | Path,
        processor: "LLaVAProcessor",
        *,
        batch_size: int,
        dtype: str = "auto",
        beat: Callable[[], None] = lambda: None,
        llm: Callable[..., Any] | None = None,
        sampling_params: Callable[..., Any] | None = None,
    ) -> None:
        if llm is None or sampling_params is None:
            import vllm

            llm, sampling_params = vllm.LLM, vllm.SamplingParams
        self.processor = processor
        self._params = sampling_params
        most = processor.config.tiles.max_images or 16
        self._llm = llm(
            model=str(folder), dtype=dtype, max_num_seqs=batch_size, limit_mm_per_prompt={"image": most}, seed=0
        )
        step = self._llm.llm_engine.step

        def beating() -> Any:
            beat()
            return step()

        self._llm.llm_engine.step = beating

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """Answer every request.

        Args:
            requests: any number; their `max_tiles` must leave the tiles to the checkpoint's settings.

        Returns:
            One result for each request, in the same order; a request that cannot be served has `error` set.
        """
        return gather_samples(requests, self._generate(split_samples(requests)))

    def _generate(self, requests: Sequence[Request]) -> list[Result]:
        results: dict[int, Result] = {}
        prompts, sizes = {}, {}
        for place, request in enumerate(requests):
            try:
                prompts[place], sizes[place] = self._prompt(request)
            except (ImageRefused, PromptRefused) as error:
                results[place] = refused(request, error)
        params = [self._sampling(requests[place].sampling) for place in prompts]
        outputs = self._llm.generate(list(prompts.values()), params, use_tqdm=False) if prompts else []
        for place, output in zip(prompts, outputs, strict=True):
            results[place] = self._result(requests[place], sizes[place], output)
        return [results[place] for place in range(len(requests))]

    def _prompt(self, request: Request) -> tuple[dict[str, Any], list[Size]]:
        """What vLLM takes: ids with one image token for each image, which it makes as many of as there are features."""
        from PIL import Image

        pixels = [load_image(image) for image in request.images]
        conversation = ask(request.prompt, num_images=len(pixels))
        tokens = self.processor.tokenise(conversation, [1] * len(pixels), add_generation_prompt=True)
        prompt: dict[str, Any] = {"prompt_token_ids": list(tokens.input_ids)}
        if pixels:
            prompt["multi_modal_data"] = {"image": [Image.fromarray(one) for one in pixels]}
        return prompt, [Size(*one.shape[:2]) for one in pixels]

    def _sampling(self, sampling: SamplingConfig) -> Any:
        values: dict[str, Any] = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "repetition_penalty": sampling.repetition_penalty,
            "stop": [*sampling.stop, *self.processor.stop_strings] or None,
            "stop_token_ids": sorted(self.processor.stop_token_ids),
            "logprobs": 0,
        }
        if sampling.temperature > 0:
            values |= {"top_p": sampling.top_p, "top_k": sampling.top_k, "seed": sampling.seed}
        return self._params(**values)

    def _result(self, request: Request, sizes: Sequence[Size], output: Any) -> Result:
        (made,) = output.outputs
        if made.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended request {request.request_id} by itself: {made.finish_reason}")
        if not made.token_ids:
            return refused(request, PromptRefused(PromptReason.TOO_LONG, "it leaves vLLM no room for a reply"))
        ids = list(made.token_ids)
        plans = [plan_tiles(size, self.processor.config, num_images=len(sizes)) for size in sizes]
        return served(
            request,
            text=made.text,
            token_ids=ids,
            logprobs=[_chosen(found, token) for found, token in zip(made.logprobs, ids, strict=True)],
            finish_reason=made.finish_reason,
            num_prompt_tokens=len(output.prompt_token_ids),
            num_image_tokens=sum(plan.num_image_tokens for plan in plans),
            image_sizes=sizes,
            grids=[plan.grid for plan in plans],
        )


def _chosen(found: Mapping[int, Any], token: int) -> float:
    return float(found[token].logprob)
