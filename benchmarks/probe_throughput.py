"""The probe on ImageNet-like JPEGs (500×375, quality 90): images a second on one core, and on Ray with both.

    python benchmarks/probe_throughput.py

1. `look`, everything that the probe does to an image, on one core: processor time, turn and turn about with
   `imagededup`'s `PHash` on the same files, as its users run it (`encode_images(image_dir=...)`) with one worker, its
   pool included. Theirs does less: it decodes and hashes. Its package also imports a neural network at start, of which
   PHash uses nothing; a stand-in takes that import's place, so that its torchvision is not needed here:
   `pip install --no-deps imagededup scikit-learn joblib threadpoolctl matplotlib …`.
   Beside it the bound: the exact decode that both begin with, alone.
2. The stage as the job runs it (Ray actors, a decoding process behind each, rows, tables, receipts) against a bare
   multiprocessing pool over `look` on the same files with as many processes; wall time. The stage runs twice, over the
   first `FEW_FILES` and over all, and the difference is what the others took: what it costs to start actors is in
   both, and receipts come when an actor likes.

All of it runs with the environment of the decoding process (memory kept between images), the peers too.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from report import keep_cores, report
from skimage import data

from llava_core.images import decode_image
from pipelines import runtime
from pipelines.corpus import plan_corpus
from pipelines.curation.config import CurateConfig
from pipelines.curation.job import freeze
from pipelines.curation.look import look
from pipelines.curation.probe_stage import stream_probed
from pipelines.sandbox import DECODER_ENVIRONMENT

FILES, FEW_FILES, STAGE_FILES, PASSES = 200, 1024, 5120, 5
HEIGHT, WIDTH, QUALITY = 375, 500, 90
CORES = 2


def make_files(folder: Path, count: int) -> list[Path]:
    """Crops of photos at many scales, with the grain that real photos have, about 100 kB each."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in (data.astronaut(), data.coffee(), data.rocket(), data.chelsea())]
    places = []
    for number in range(count):
        photo = photos[number % len(photos)]
        width = int(min(photo.width, photo.height * WIDTH / HEIGHT) * rng.uniform(0.6, 1))
        height = width * HEIGHT // WIDTH
        left, top = int(rng.integers(photo.width - width + 1)), int(rng.integers(photo.height - height + 1))
        box = (left, top, left + width, top + height)
        pixels = np.asarray(photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box))
        grain = rng.normal(0, 4, (HEIGHT, WIDTH, 1))
        place = folder / f"{number:05d}.jpg"
        Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(place, quality=QUALITY)
        places.append(place)
    return places


def ours(place: Path) -> int:
    """All that the probe finds out about one image."""
    return look(place.read_bytes())[0].phash


def peer() -> Callable[[Path], object] | None:
    """`imagededup`'s own pHashes of a folder; None where the package is not installed."""
    for name, attribute in (("imagededup.methods.cnn", "CNN"), ("imagededup.utils.models", "CustomModel")):
        stand_in: Any = types.ModuleType(name)
        setattr(stand_in, attribute, type(attribute, (), {}))
        stand_in.__getattr__ = lambda _: type("Unused", (), {})
        sys.modules[name] = stand_in
    try:
        from imagededup.methods import PHash
    except ImportError as error:
        print(f"no imagededup: {error}")
        return None
    method = PHash(verbose=False)
    return lambda folder: method.encode_images(image_dir=str(folder), num_enc_workers=1)


def seconds(run: Callable[[], object]) -> float:
    """Processor seconds of this process and of those that it starts and ends."""
    started = sum(os.times()[:4])
    run()
    return sum(os.times()[:4]) - started


def one_core(folder: Path, places: list[Path]) -> list[bool | None]:
    """Claims 1."""
    theirs = peer()
    runs: dict[str, Callable[[], object]] = {
        "look": lambda: [ours(place) for place in places],
        "decode": lambda: [decode_image(place.read_bytes()) for place in places],
    }
    if theirs is not None:
        runs["peer"] = lambda: theirs(folder)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(PASSES):
        for name, run in runs.items():
            taken[name].append(seconds(run))
    each = {name: 1000 * statistics.median(times) / len(places) for name, times in taken.items()}
    for name, times in taken.items():
        print(f"{name:<7}{each[name]:.2f} ms an image, {PASSES} passes of {min(times):.2f}-{max(times):.2f} s")
    claims = [report("probe of ImageNet-like JPEGs, one core", 1000 / each["look"], "images/s", ">= 250", "processor")]
    words = "PHash().encode_images(image_dir), same files, processor time"
    ratio = (
        None if theirs is None else statistics.median(b / a for a, b in zip(taken["look"], taken["peer"], strict=True))
    )
    why = words if theirs else "imagededup is not installed"
    claims.append(report("probe against imagededup's pHash alone", ratio, "x", ">= 3", why))
    bound = each["peer"] / each["decode"] if theirs else None
    what = "the most that the ratio above could be if all but the exact decode cost nothing"
    report("imagededup's pHash against an exact decode alone", bound, "x", "", what)
    return claims


def pool_rate(places: list[Path]) -> float:
    """Images a second of a bare pool, once it is warm."""
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        pool.map(ours, places[: 20 * CORES], chunksize=10)
        started = time.monotonic()
        for _ in pool.imap_unordered(ours, places, chunksize=32):
            pass
        return len(places) / (time.monotonic() - started)


def stage_seconds(folder: Path, output: Path) -> float:
    """Seconds of the stage on Ray, from the listing to the last receipt."""
    job = freeze(CurateConfig(input=(str(folder),), output=str(output)))
    workers = runtime.plan_workers(CORES, runtime.start_ray("local", num_cpus=CORES))
    started = time.monotonic()
    fragments = plan_corpus([str(folder)])
    for _ in stream_probed(fragments, job.probe, workers):
        pass
    return time.monotonic() - started


def linked(folder: Path, places: list[Path], count: int) -> Path:
    """A folder with so many links to files, in turn."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05d}.jpg").hardlink_to(places[number % len(places)])
    return folder


def main() -> int:
    """Run both, in a process with the decoder's environment."""
    if not DECODER_ENVIRONMENT.items() <= os.environ.items():
        return subprocess.run([sys.executable, *sys.argv], env=os.environ | DECODER_ENVIRONMENT, check=False).returncode
    keep_cores(CORES)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        places = make_files(folder, FILES)
        print(f"{FILES} files of {sum(place.stat().st_size for place in places) / FILES / 1e3:.0f} kB")
        holds = one_core(folder, places)
        few = linked(Path(scratch) / "few", places, FEW_FILES)
        many = linked(Path(scratch) / "many", places, STAGE_FILES)
        bare = [pool_rate(sorted(many.iterdir()))]
        seconds_of = [stage_seconds(folder, Path(scratch) / f"of-{folder.name}") for folder in (few, many)]
        bare.append(pool_rate(sorted(many.iterdir())))
        stage = (STAGE_FILES - FEW_FILES) / (seconds_of[1] - seconds_of[0])
        print(f"bare pool {bare[0]:.0f} and {bare[1]:.0f} images/s before and after, stage on Ray {stage:.0f}")
        share = 100 * stage / statistics.mean(bare)
        words = f"multiprocessing pool of {CORES} over the same function, before and after"
        holds.append(report("probe on Ray, rows and tables included", share, "% of a bare loop", ">= 80", words))
    return int(not all(one is not False for one in holds))


if __name__ == "__main__":
    sys.exit(main())
