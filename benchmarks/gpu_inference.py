"""The packed engine at 7B shapes on one GPU, against `generate` at its best batch: CLIP-L and Mistral-7B, bfloat16.

    python benchmarks/gpu_inference.py [--rehearse]

Photos of five tiles (about 2,350 prompt tokens), 128 new tokens each, random weights; encoded bytes in, text out. The
same requests with one new token give the prefill (MFU: operations of tower, connector and language model over seconds
and the device's dense 16-bit peak); the difference of both gives decoding (weights once a pass, each sequence's keys
and values once a token, over seconds and the device's memory bandwidth). What is measured is kept in
`benchmarks/results`. Without a GPU it says so; `--rehearse` runs the same on a CPU at small shapes, and claims nothing.
"""

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path

import torch
from models import REAL_TEXT, REAL_TOWER, TEXT, TOWER, five_tiles, write_model
from PIL import Image
from report import keep, report
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

from llava_core.checkpoints import load_model
from llava_core.engine import PackedEngine, Request, SamplingConfig
from llava_core.model import LLaVANeXT
from llava_core.processor import LLaVAProcessor
from pipelines.training.packing import cost_of
from pipelines.training.watch import peak_flops

BANDWIDTH = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.0e12}
"""Bytes a second of memory, from NVIDIA's data sheets, by a word of the device's name."""
PROMPT = "Describe this image in detail."
CLAIM = "images/s at 7B shapes, five tiles, 128 new tokens, bfloat16"


class Bench:
    """Both sides on one device.

    Args:
        folder: of the model.
        theirs: transformers' side of it.
        processor: its processor.
        device: "cuda" or "cpu".
        images: encoded.
        batch_size: sequences that our side decodes at once.
    """

    def __init__(
        self,
        folder: Path,
        theirs: LlavaNextForConditionalGeneration,
        processor: LlavaNextProcessor,
        device: str,
        images: list[bytes],
        batch_size: int,
    ) -> None:
        self.device, self.images, self.batch_size = device, images, batch_size
        self.theirs, self.hf_processor = theirs.eval(), processor
        self.processor = LLaVAProcessor.from_pretrained(folder)
        self.model: LLaVANeXT = load_model(folder).to(device=device, dtype=torch.bfloat16)

    def ours(self, new_tokens: int) -> tuple[float, int, int]:
        """Seconds, prompt tokens and new tokens of all images; the engine sees each for the first time."""
        engine = PackedEngine(self.model, self.processor, device=self.device, batch_size=self.batch_size)
        sampling = SamplingConfig(max_new_tokens=new_tokens)
        requests = [
            Request(request_id=str(number), prompt=PROMPT, images=(image,), sampling=sampling)
            for number, image in enumerate(self.images)
        ]
        began = time.perf_counter()
        results = list(engine.generate(requests))
        self._wait()
        seconds = time.perf_counter() - began
        if any(result.error is not None for result in results):
            raise RuntimeError(f"a request failed: {next(result.error for result in results if result.error)}")
        return seconds, sum(r.num_prompt_tokens for r in results), sum(len(r.token_ids) for r in results)

    def generate(self, new_tokens: int, batch: int) -> float:
        """Images a second of transformers, over two batches."""
        chosen = self.images[: 2 * batch]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
        )
        began = time.perf_counter()
        for start in range(0, len(chosen), batch):
            part = [Image.open(io.BytesIO(image)) for image in chosen[start : start + batch]]
            inputs = self.hf_processor(images=part, text=[str(text)] * len(part), return_tensors="pt", padding=True)
            inputs = inputs.to(self.device, torch.bfloat16)
            with torch.inference_mode():
                self.theirs.generate(**inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
        self._wait()
        return len(chosen) / (time.perf_counter() - began)

    def prefill_flops(self, prompt_tokens: int) -> float:
        """Operations that all images' tower passes and prompts need, of which only the last token has logits."""
        cost = cost_of(self.model.config, self.model.image_processor.num_layers_run)
        each = prompt_tokens / len(self.images)
        pairs = cost.per_pair * each * (each + 1) / 2 + cost.per_target_pair * each
        return len(self.images) * (cost.per_tile * 5 + cost.per_token * each + pairs + cost.per_target)

    def decode_bytes(self, prompt_tokens: int, new_tokens: int) -> float:
        """Bytes that decoding reads: the language model's weights once a pass, caches once a token."""
        text = self.model.language_model.config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * head * 2
        weights = 2 * sum(parameter.numel() for parameter in self.model.language_model.parameters())
        steps = new_tokens / len(self.images) - 1
        passes = steps * -(-len(self.images) // self.batch_size)
        each = prompt_tokens / len(self.images) + steps / 2
        return weights * passes + len(self.images) * steps * each * per_token

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def measure(bench: Bench, new_tokens: int, batches: tuple[int, ...], *, claims: bool) -> bool:
    """Run both sides, and report."""
    bench.ours(2)
    bench.generate(2, 1)
    prefill, prompt_tokens, _ = bench.ours(1)
    whole, _, made = bench.ours(new_tokens)
    rates = {batch: bench.generate(new_tokens, batch) for batch in batches}
    best = max(rates, key=rates.__getitem__)
    rate = len(bench.images) / whole
    flops, read = bench.prefill_flops(prompt_tokens), bench.decode_bytes(prompt_tokens, made)
    speed, bytes_per_s = flops / prefill, read / (whole - prefill)
    print(f"{prompt_tokens / len(bench.images):.0f} prompt tokens each; ours {rate:.2f} images/s, {whole:.2f} s in all")
    print(f"prefill {prefill:.2f} s, {speed / 1e12:.3f} TFLOP/s; decoding {bytes_per_s / 1e9:.1f} GB/s")
    print("generate, images/s:", ", ".join(f"{value:.2f} at batch {batch}" for batch, value in rates.items()))
    if not claims:
        return True
    name = torch.cuda.get_device_name(0)
    peak, bandwidth = peak_flops(torch.device("cuda")), next((v for k, v in BANDWIDTH.items() if k in name), None)
    unknown = f"the peak of {name} is not known"
    share = None if bandwidth is None else 100 * bytes_per_s / bandwidth
    mfu = None if peak is None else 100 * speed / peak
    holds = [
        report(CLAIM, rate, "images/s", ">= 8", "no peer"),
        report(f"{CLAIM}, against generate", rate / rates[best], "x", "", f"generate at its best batch, {best}"),
        report("decoding at 7B shapes", share, "%", ">= 60", unknown if share is None else "memory bandwidth"),
        report("prefill at 7B shapes", mfu, "%", ">= 45", unknown if mfu is None else "the dense 16-bit peak"),
    ]
    print(f"kept in {keep('gpu_inference')}")
    return all(hold is not False for hold in holds)


def main() -> int:
    """Measure where there is a GPU, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="small shapes on the CPU; nothing is claimed")
    rehearse = parser.parse_args().rehearse
    if not rehearse and not torch.cuda.is_available():
        report(CLAIM, None, "images/s", ">= 8", "needs a CUDA device; torch sees none here")
        return 0
    device = "cpu" if rehearse else "cuda"
    tower, text, tile = (TOWER, TEXT, 112) if rehearse else (REAL_TOWER, REAL_TEXT, 336)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        theirs, processor = write_model(folder, tower, text, tile, device=device, dtype=torch.bfloat16)
        images = five_tiles(4 if rehearse else 128, tile)
        bench = Bench(folder, theirs, processor, device, images, batch_size=2 if rehearse else 64)
        held = measure(bench, 8 if rehearse else 128, (1, 2) if rehearse else (1, 8, 16, 32), claims=not rehearse)
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
