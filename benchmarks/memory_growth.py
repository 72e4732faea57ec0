"""Do the jobs stay small? Memory of the driver and of the workers' actors: 100,000 images against 10,000.

    python benchmarks/memory_growth.py [FEW MANY [caption|curate]]

The whole job from files to Delta tables with their pages, each size in a process of its own with a Ray of its own. When
captioning, in place of the model stands an engine that says how large each image is, because neither the driver nor an
actor ever holds the model: it lives in a process apart, whose memory does not depend on the corpus. Resident memory is
sampled five times a second; the largest sample counts. Beside it, the driver's growth from its start (imports done) on;
of curation, beside what its hashes of so many rows take.
"""

import functools
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
from report import report
from simplejpeg import encode_jpeg

from pipelines.curation.config import CurateConfig
from pipelines.curation.flow import curate_corpus
from pipelines.inference import flow
from pipelines.inference.config import CaptionConfig
from pipelines.inference.job import InferenceJob, freeze

FEW, MANY = 10_000, 100_000
ACTOR = "ray::MapWorker"
BAR_MB = 300
HASH_BYTES_OF_A_ROW = 16 + 16 + 8 + 32
"""Content hash, pixel hash, pHash and uid, of which the near-duplicate search makes arrays."""


def write_images(folder: Path, count: int) -> None:
    """Write small JPEGs, each different, a thousand to a folder; large enough that curation keeps them."""
    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        if number % 1000 == 0:
            place.parent.mkdir(parents=True)
        place.write_bytes(encode_jpeg(generator.integers(0, 256, (36, 48, 3), np.uint8), quality=60))


def resident_mb(process: str = "self") -> float:
    """Resident memory of a process, MB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def actors() -> list[str]:
    """Ids of the processes that hold an actor of the stage, in this process' session."""
    found = []
    own = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[3]
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command, stat = (path / "cmdline").read_text(), (path / "stat").read_text()
        except OSError:
            continue
        if command.startswith(ACTOR) and stat.rpartition(")")[2].split()[3] == own:
            found.append(path.name)
    return found


def caption(photos: Path, output: Path) -> None:
    """Caption a folder with the engine that says sizes."""
    freezing = freeze

    def light(config: CaptionConfig) -> InferenceJob:
        job = freezing(config)
        return replace(job, spec=replace(job.spec, engine_factory="benchmarks.sizes_engine:engine"))

    flow.freeze = light  # type: ignore[assignment]
    config = CaptionConfig(input=(str(photos),), output=str(output), resolution="low", batch_size=64)
    flow.run_job(config, functools.partial(print, flush=True))


def curate(photos: Path, output: Path) -> None:
    """Curate a folder: probe, dedupe, select, shard, report."""
    curate_corpus(CurateConfig(input=(str(photos),), output=str(output)), functools.partial(print, flush=True))


JOBS = {"caption": caption, "curate": curate}


def measure(count: int, name: str) -> None:
    """Run a job over so many images, and print MB: the driver's at its start, its most, an actor's most."""
    with tempfile.TemporaryDirectory() as temp:
        photos = Path(temp) / "photos"
        write_images(photos, count)
        start = driver = resident_mb()
        actor = 0.0
        done = threading.Event()

        def watch() -> None:
            nonlocal driver, actor
            while not done.wait(0.2):
                driver = max(driver, resident_mb())
                actor = max([actor, *map(resident_mb, actors())])

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            JOBS[name](photos, Path(temp) / "out")
        finally:
            done.set()
            watcher.join()
    print(f"{start} {driver} {actor}")


def main(few: int = FEW, many: int = MANY, name: str = "caption") -> int:
    """Run both sizes and print the claims."""
    found = {}
    for count in (few, many):
        command = [sys.executable, __file__, "--one", str(count), name]
        # a session of its own, so that its actors are told from others'
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, start_new_session=True)
        found[count] = [float(word) for word in process.stdout.splitlines()[-1].split()]
        print(
            "{:,} images: driver {:.0f} MB at its start and {:.0f} MB at most, actor {:.0f} MB at most".format(
                count, *found[count]
            )
        )
    (start, driver, actor), (_, small_driver, small_actor) = found[many], found[few]
    peer = f"{few:,} images, the same job"
    claim = f"{name}: resident memory over {{:,}} images, the {{}}'s"
    if name == "curate":
        grown = driver - small_driver
        hashes = HASH_BYTES_OF_A_ROW * (many - few) / 2**20
        print(f"the driver grew by {grown:.0f} MB; hashes of so many more rows take {hashes:.0f} MB")
        return int(
            report(claim.format(many, "driver") + " beyond hashes", grown - hashes, "MB", f"<= {BAR_MB}", peer) is False
        )
    growth = report(
        f"growth of the driver's memory over {many:,} images",
        driver - start,
        "MB",
        f"<= {BAR_MB}",
        "its own at its start",
    )
    holds = [
        report(claim.format(many, "driver"), driver / small_driver, "x", "<= 1.15", peer),
        report(claim.format(many, "actor"), actor / small_actor, "x", "<= 1.15", peer),
    ]
    return int(False in (growth, *holds))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(int(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(main(*map(int, sys.argv[1:3]), *sys.argv[3:]))
