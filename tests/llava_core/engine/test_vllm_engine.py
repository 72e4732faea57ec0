"""What vLLM is asked and what is made of its answers, with a stand-in of the names and shapes of vllm 0.33.0."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llava_core.checkpoints import resolve_model
from llava_core.engine import Request, SamplingConfig
from llava_core.engine.vllm_engine import VllmEngine
from llava_core.errors import ImageReason
from llava_core.processor import LLaVAProcessor
from llava_core.prompts import ask

PROCESSOR = LLaVAProcessor.from_pretrained(resolve_model("tiny"))
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 130, 3), np.uint8)


@dataclasses.dataclass
class Params:
    """Fields of `vllm.SamplingParams` that are used, with its defaults."""

    max_tokens: int | None = 16
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    logprobs: int | None = None
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


class Stand:
    """In place of `vllm.LLM`: says the number of the request, in three tokens."""

    def __init__(self, **values: Any) -> None:
        self.values, self.steps = values, 0
        self.llm_engine = SimpleNamespace(step=self._step)
        self.asked: list[tuple[dict[str, Any], Params]] = []

    def _step(self) -> None:
        self.steps += 1

    def generate(self, prompts: list[dict[str, Any]], params: list[Params], *, use_tqdm: bool) -> list[Any]:
        self.asked += zip(prompts, params, strict=True)
        self.llm_engine.step()
        return [self._output(number, prompt) for number, prompt in enumerate(prompts)]

    def _output(self, number: int, prompt: dict[str, Any]) -> Any:
        ids = [10 + number, 11, 2]
        logprobs = [{token: SimpleNamespace(logprob=-0.5 * place)} for place, token in enumerate(ids)]
        made = SimpleNamespace(text=f" reply {number} ", token_ids=ids, logprobs=logprobs, finish_reason="stop")
        return SimpleNamespace(outputs=[made], prompt_token_ids=[0] * (100 + number))


def engine_of(beats: list[int]) -> tuple[VllmEngine, Stand]:
    made: list[Stand] = []

    def llm(**values: Any) -> Stand:
        made.append(Stand(**values))
        return made[0]

    engine = VllmEngine(
        "folder", PROCESSOR, batch_size=5, beat=lambda: beats.append(1), llm=llm, sampling_params=Params
    )
    return engine, made[0]


def test_requests_become_prompts_and_outputs_results() -> None:
    beats: list[int] = []
    engine, stand = engine_of(beats)
    assert (stand.values["model"], stand.values["max_num_seqs"]) == ("folder", 5)
    greedy = SamplingConfig(max_new_tokens=7, stop=("!",), repetition_penalty=1.5)
    drawn = SamplingConfig(max_new_tokens=9, temperature=0.5, top_k=4, top_p=0.9, seed=3, n=2)
    results = engine.generate(
        [
            Request(request_id="a", prompt="What?", images=(IMAGE, IMAGE[:, :50]), sampling=greedy),
            Request(request_id="bad", prompt="What?", images=(b"<html>",)),
            Request(request_id="b", prompt="Why?", sampling=drawn),
        ]
    )
    assert [(one.request_id, one.error, one.text) for one in results] == [
        ("a", None, "reply 0"),
        ("bad", ImageReason.NOT_IMAGE, None),
        ("b", None, "reply 1"),
    ]
    first, _, third = results
    assert (first.token_ids, first.mean_logprob, first.min_logprob) == ((10, 11, 2), -0.5, -1.0)
    media = PROCESSOR.load_media((IMAGE, IMAGE[:, :50]), (), None)
    assert (first.image_sizes, first.grids) == (((40, 130), (40, 50)), media.grids)
    assert (first.num_prompt_tokens, first.num_image_tokens) == (100, sum(media.image_tokens))
    assert [one.text for one in third.samples] == ["reply 1", "reply 2"]
    assert beats == [1] and stand.steps == 1

    (prompt, params), (text_only, other), (_, again) = stand.asked
    ids = prompt["prompt_token_ids"]
    # one place for each image, in the words of the processor's own template
    image = PROCESSOR.config.image_token_id
    assert ids.count(image) == 2
    whole = PROCESSOR.encode(ask("What?", num_images=2), (IMAGE, IMAGE[:, :50])).input_ids.tolist()
    assert [one for one in ids if one != image] == [one for one in whole if one != image]
    assert [one.size for one in prompt["multi_modal_data"]["image"]] == [(130, 40), (50, 40)]
    assert "multi_modal_data" not in text_only
    stops = sorted(PROCESSOR.stop_token_ids)
    assert params == Params(7, 0.0, 1.5, ["!"], stops, 0)
    assert other == Params(9, 0.5, 1.0, None, stops, 0, 0.9, 4, 3)
    assert again.seed not in (3, None)


@pytest.mark.parametrize("reason", ["abort", "length"])
def test_no_room_is_refused_and_what_vllm_gives_up_is_an_error(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    engine, _ = engine_of([])
    output = Stand._output

    def ended(self: Stand, number: int, prompt: dict[str, Any]) -> Any:
        found = output(self, number, prompt)
        found.outputs[0].finish_reason, found.outputs[0].token_ids = reason, []
        return found

    monkeypatch.setattr(Stand, "_output", ended)
    request = Request(request_id="a", prompt="What?")
    if reason == "abort":
        with pytest.raises(RuntimeError, match="vLLM ended request a by itself: abort"):
            engine.generate([request])
    else:
        (result,) = engine.generate([request])
        assert (result.error, result.error_detail) == ("TOO_LONG", "it leaves vLLM no room for a reply")
