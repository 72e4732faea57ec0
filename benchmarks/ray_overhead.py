"""What do Ray, decoders, the engine's own process and the table cost? Images/s of the job over the bare engine's.

    python benchmarks/ray_overhead.py [IMAGES]

The same checkpoint (`models.py`), the same JPEGs of mixed sizes, the same prompt, batch and number of new tokens. Bare:
`llava_core.Engine` in this process, its images decoded in it, read from memory. The job: bytes in a folder to rows of a
Delta table's files by the stage on Ray, with one worker, so that both sides have the whole machine. It runs twice, over
the first `FEW` images and over all, and the difference is what the others took: what it costs to start a worker and to
load the model is in both, and receipts come when a worker likes. Bare runs between the two, over those others alone.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import models
import torch
from report import report

from llava_core import Engine
from llava_core.engine import Request, SamplingConfig
from pipelines import runtime
from pipelines.corpus_settings import CorpusSettings
from pipelines.inference.config import CaptionConfig
from pipelines.inference.job import freeze
from pipelines.inference.stage import stream_inferred

FEW, IMAGES, NEW_TOKENS, FRAGMENT, BATCH = 16, 64, 32, 24, 8
PROMPT = "Describe this image."


def run_job(files: Sequence[bytes], checkpoint: Path, output: Path) -> float:
    """Seconds of captioning files, from their listing to the last receipt.

    Raises:
        AssertionError: not every image got a caption.
    """
    photos = output / "photos"
    photos.mkdir(parents=True)
    for number, data in enumerate(files):
        (photos / f"{number:04d}.jpg").write_bytes(data)
    config = CaptionConfig(
        input=(str(photos),),
        output=str(output / "captions"),
        model=str(checkpoint),
        prompt=PROMPT,
        max_new_tokens=NEW_TOKENS,
        batch_size=BATCH,
        resolution="high",
        corpus=CorpusSettings(rows_per_fragment=FRAGMENT),
    )
    started = time.perf_counter()
    job = freeze(config)
    workers = dataclasses.replace(runtime.plan_workers(1, runtime.start_ray("local")), threads=torch.get_num_threads())
    rows = sum(receipt.ok for receipt in stream_inferred(job.works, job.spec, workers))
    seconds = time.perf_counter() - started
    assert rows == len(files), f"{rows} of {len(files)} images have a caption"
    return seconds


def run_bare(engine: Engine, files: Sequence[bytes]) -> float:
    """Seconds of the same by an engine in this process."""
    sampling = SamplingConfig(max_new_tokens=NEW_TOKENS)
    requests = [
        Request(request_id=str(at), prompt=PROMPT, images=(data,), sampling=sampling) for at, data in enumerate(files)
    ]
    started = time.perf_counter()
    for at in range(0, len(files), FRAGMENT):
        engine.generate(requests[at : at + FRAGMENT])
    return time.perf_counter() - started


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
        few = run_job(files[:FEW], checkpoint, Path(temp) / "few")
        bare = run_bare(engine, files[FEW:])
        many = run_job(files, checkpoint, Path(temp) / "many")
    rest = count - FEW
    print(f"job: {FEW} images {few:.1f} s, {count} images {many:.1f} s; bare engine: {rest} images {bare:.1f} s")
    claim = "captioning on Ray, bytes in to the files of a table out, against the bare engine"
    return int(report(claim, 100 * bare / (many - few), "% of images/s", ">= 90", "llava_core.Engine alone") is False)


if __name__ == "__main__":
    sys.exit(main())
