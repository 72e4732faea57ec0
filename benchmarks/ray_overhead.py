"""What do Ray, decoders, the engine's own process and the table cost? Images/s of the job over the bare engine's.

    python benchmarks/ray_overhead.py [IMAGES]

The same checkpoint (`models.py`), the same JPEGs of mixed sizes, the same prompt, batch and number of new tokens. Bare:
`llava_core.Engine` in this process, asked once about all images, which it decodes, read from memory. The job: bytes in
a folder to the rows of a committed Delta table and the pages beside it, with one worker, so that both sides have the
whole machine. It runs twice, over the first `FEW` images and over all, and the difference is what the others took: what
it costs to start and to load the model is in both. Bare runs between the two, over those others alone, and makes as
many tokens.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import models
import pyarrow as pa
from deltalake import DeltaTable
from report import report

from llava_core import Engine
from llava_core.engine import Request, SamplingConfig
from pipelines import runtime
from pipelines.inference import flow
from pipelines.inference.config import CaptionConfig

FEW, IMAGES, NEW_TOKENS, BATCH = 16, 64, 32, 8
PROMPT = "Describe this image."


def run_job(files: Sequence[bytes], checkpoint: Path, output: Path) -> tuple[float, int]:
    """Seconds of captioning files, from their listing to the last page, and the tokens that were made.

    Raises:
        AssertionError: not every image got a caption.
    """
    photos, captions = output / "photos", output / "captions"
    photos.mkdir(parents=True)
    for number, data in enumerate(files):
        (photos / f"{number:04d}.jpg").write_bytes(data)
    config = CaptionConfig(
        input=(str(photos),),
        output=str(captions),
        model=str(checkpoint),
        prompt=PROMPT,
        max_new_tokens=NEW_TOKENS,
        batch_size=BATCH,
        num_workers=1,
        resolution="high",
    )
    started = time.perf_counter()
    flow.run_job(config, lambda line: None)
    seconds = time.perf_counter() - started
    rows = pa.table(DeltaTable(captions).to_pyarrow_dataset().to_table(columns=["status", "num_output_tokens"]))
    assert rows["status"].to_pylist() == ["ok"] * len(files), "not every image has a caption"
    return seconds, sum(rows["num_output_tokens"].to_pylist())


def run_bare(engine: Engine, files: Sequence[bytes]) -> tuple[float, int]:
    """Seconds of the same by an engine in this process, and the tokens that were made."""
    sampling = SamplingConfig(max_new_tokens=NEW_TOKENS)
    requests = [
        Request(request_id=str(at), prompt=PROMPT, images=(data,), sampling=sampling) for at, data in enumerate(files)
    ]
    started = time.perf_counter()
    results = engine.generate(requests)
    return time.perf_counter() - started, sum(len(one.token_ids) for one in results)


def main() -> int:
    """Measure both sides and print the claim."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    _, _, model, processor = models.build()
    files = models.photos(count)
    with tempfile.TemporaryDirectory() as temp:
        checkpoint = Path(temp) / "model"
        model.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
        runtime.start_ray("local")
        engine = Engine(model, processor, batch_size=BATCH)
        run_bare(engine, files[:1])
        few, few_tokens = run_job(files[:FEW], checkpoint, Path(temp) / "few")
        bare, tokens = run_bare(engine, files[FEW:])
        many, many_tokens = run_job(files, checkpoint, Path(temp) / "many")
    assert many_tokens - few_tokens == tokens, "the sides made other numbers of tokens"
    rest = count - FEW
    print(f"job: {FEW} images {few:.1f} s, {count} images {many:.1f} s; bare engine: {rest} images {bare:.1f} s")
    claim = "captioning on Ray, bytes in to table out, against the bare engine"
    return int(report(claim, 100 * bare / (many - few), "% of images/s", ">= 90", "llava_core.Engine alone") is False)


if __name__ == "__main__":
    sys.exit(main())
