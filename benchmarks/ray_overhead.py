"""What do Ray, decoders, the engine's own process and the table cost? Images/s of the job over the bare engine's.

    python benchmarks/ray_overhead.py [IMAGES]

The same checkpoint (`models.py`), the same JPEGs of mixed sizes, the same prompt, batch and number of new tokens. Bare:
`llava_core.Engine` in this process, its images decoded in it, read from memory. The job: bytes in a folder to rows in a
Delta table by the stage on Ray, from the first receipt to the last, with one worker, so that both sides have the whole
machine. The two take turns, and the ratio is that of their sums.
"""

import dataclasses
import sys
import tempfile
import time
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

IMAGES, ROUNDS, NEW_TOKENS, FRAGMENT = 72, 2, 32, 24
BATCH = 8


def main() -> int:
    """Measure both sides in turn and print the claim."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    _, _, model, processor = models.build()
    files = models.photos(count)
    with tempfile.TemporaryDirectory() as temp:
        checkpoint, photos = Path(temp) / "model", Path(temp) / "photos"
        model.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
        photos.mkdir()
        for number, data in enumerate(files):
            (photos / f"{number:04d}.jpg").write_bytes(data)
        config = CaptionConfig(
            input=(str(photos),),
            output=str(Path(temp) / "out"),
            model=str(checkpoint),
            max_new_tokens=NEW_TOKENS,
            batch_size=BATCH,
            resolution="high",
            corpus=CorpusSettings(rows_per_fragment=FRAGMENT),
        )
        job = freeze(config)
        nodes = runtime.start_ray("local")
        workers = dataclasses.replace(runtime.plan_workers(1, nodes), threads=torch.get_num_threads())
        engine = Engine(model, processor, batch_size=BATCH)
        sampling = SamplingConfig(max_new_tokens=NEW_TOKENS)
        requests = [
            Request(request_id=str(at), prompt=config.prompt, images=(data,), sampling=sampling)
            for at, data in enumerate(files)
        ]
        engine.generate(requests[:BATCH])
        bare, staged, rows = 0.0, 0.0, 0
        for _ in range(ROUNDS):
            started = time.perf_counter()
            for at in range(0, count, FRAGMENT):
                engine.generate(requests[at : at + FRAGMENT])
            bare += (time.perf_counter() - started) / count
            first, found = 0.0, 0
            for number, receipt in enumerate(stream_inferred(job.works, job.spec, workers)):
                if number == 0:
                    # the first receipt also waits for the model to load
                    first = time.perf_counter()
                else:
                    found += receipt.ok
            staged += (time.perf_counter() - first) / found
            rows += found
    print(f"bare engine {ROUNDS / bare:.2f} images/s, job on Ray {ROUNDS / staged:.2f}, {rows} rows counted")
    claim = "captioning on Ray, bytes in to table out, against the bare engine"
    return int(report(claim, 100 * bare / staged, "% of images/s", ">= 90", "llava_core.Engine alone") is False)


if __name__ == "__main__":
    sys.exit(main())
