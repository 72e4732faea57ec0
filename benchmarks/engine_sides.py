"""Both sides of the engine benchmarks: our packed engine, and transformers' `generate` on padded batches.

Both get the same JPEG bytes, weights, prompts and precision (fp32), and the same number of new tokens for each request.
Transformers' side is `LlavaNextProcessor` with its PIL image processor, left padding, then `generate`; a request that
ends early is ended by a stopping criterion, and its row is carried on until its batch ends, as `generate` does.
"""

import io
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from models import build, size_in_millions
from PIL import Image
from report import report
from transformers import StoppingCriteria, StoppingCriteriaList

from llava_core.engine import PackedEngine, Request, SamplingConfig
from llava_core.engine.features import FeatureCache

BATCHES = (1, 2, 4, 8)
Tokens = list[tuple[int, ...]]


@dataclass(frozen=True)
class Ask:
    """One request, for both sides."""

    image: bytes
    """Encoded."""
    prompt: str
    """The question, without template."""
    num_tokens: int
    """New tokens, exactly so many."""


class _EndRows(StoppingCriteria):
    """Ends each row of a batch at its own number of new tokens."""

    def __init__(self, prompt_tokens: int, lengths: Sequence[int]) -> None:
        self.ends = torch.tensor(lengths) + prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        return input_ids.shape[1] >= self.ends


class Sides:
    """The two sides, loaded once."""

    def __init__(self) -> None:
        self.theirs, self.hf_processor, model, self.processor = build()
        self.engine = PackedEngine(model, self.processor)
        print(f"{size_in_millions(model):.0f} M parameters, {torch.get_num_threads()} threads")

    def ours(self, asks: Sequence[Ask]) -> Tokens:
        """Tokens of each request; images are seen for the first time."""
        self.engine.features = self.engine._runner.features = FeatureCache(256 << 20)
        requests = [
            Request(
                request_id=str(i),
                prompt=ask.prompt,
                images=(ask.image,),
                sampling=SamplingConfig(max_new_tokens=ask.num_tokens),
            )
            for i, ask in enumerate(asks)
        ]
        return [result.token_ids for result in self.engine.generate(requests)]

    def generate(self, asks: Sequence[Ask], batch: int) -> Tokens:
        """The same by transformers."""
        made: Tokens = []
        for start in range(0, len(asks), batch):
            part = asks[start : start + batch]
            images = [Image.open(io.BytesIO(ask.image)) for ask in part]
            text = [self._prompt(ask.prompt) for ask in part]
            inputs = self.hf_processor(images=images, text=text, return_tensors="pt", padding=True, padding_side="left")
            length = inputs["input_ids"].shape[1]
            ends = _EndRows(length, [ask.num_tokens for ask in part])
            with torch.inference_mode():
                out = self.theirs.generate(
                    **inputs,
                    max_new_tokens=max(ask.num_tokens for ask in part),
                    do_sample=False,
                    stopping_criteria=StoppingCriteriaList([ends]),
                )
            made += [tuple(row[: ask.num_tokens]) for row, ask in zip(out[:, length:].tolist(), part, strict=True)]
        return made

    def _prompt(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return str(self.processor.apply_chat_template([{"role": "user", "content": content}]))


def compare(claim: str, asks: Sequence[Ask], rounds: int, bars: dict[str, str]) -> int:
    """Measure ours and every batch size in turn, and report ratios of rates.

    Args:
        claim: what is claimed.
        asks: the requests.
        rounds: times that every side runs; medians are compared.
        bars: "best" and, if claimed, "batch 8", each with its bar.

    Returns:
        Exit code: 1 if a bar is missed or a token differs from `generate` at batch 1.
    """
    sides = Sides()
    runs: dict[str, Callable[[], Tokens]] = {"ours": lambda: sides.ours(asks)}
    for batch in BATCHES:
        runs[f"batch {batch}"] = lambda batch=batch: sides.generate(asks, batch)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    tokens: dict[str, Tokens] = {}
    sides.ours(asks[:1])
    sides.generate(asks[:1], 1)
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            tokens[name] = run()
            seconds[name].append(time.perf_counter() - start)
            print(f"{name:8} {len(asks) / seconds[name][-1]:.3f} requests/s", flush=True)
    rates = {name: len(asks) / statistics.median(times) for name, times in seconds.items()}
    same = sum(mine == other for mine, other in zip(tokens["ours"], tokens["batch 1"], strict=True))
    print(f"tokens equal to generate's at batch 1 in {same} of {len(asks)} requests")
    best = max((name for name in rates if name != "ours"), key=rates.__getitem__)
    holds = [report(claim, rates["ours"] / rates[best], "x", bars["best"], f"transformers generate, best: {best}")]
    if "batch 8" in bars:
        ratio = rates["ours"] / rates["batch 8"]
        holds.append(report(claim, ratio, "x", bars["batch 8"], "transformers generate, batch 8"))
    return int(same != len(asks) or not all(holds))
