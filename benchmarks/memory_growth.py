"""Does the driver of the captioning job stay small? Its resident memory over 10,000 images, against that at its start.

    python benchmarks/memory_growth.py [IMAGES]

The whole job as a user runs it: files, the embedded model on a local Ray, a Delta table, the gallery. One generated
token each, because the driver never sees what a caption costs. Memory is sampled ten times a second from before Ray is
started (imports done) to the end; the largest sample counts.
"""

import functools
import io
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from PIL import Image
from report import report

from pipelines.inference.config import CaptionConfig
from pipelines.inference.flow import run_job

IMAGES = 10_000
BAR_MB = 300


def write_images(folder: Path, count: int) -> None:
    """Write small JPEGs, each different, a thousand to a folder."""
    generator = np.random.default_rng(0)
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (24, 32, 3), np.uint8)).save(file, "JPEG", quality=60)
        place = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.getvalue())


def resident_mb() -> float:
    """Resident memory of this process, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> int:
    """Run the job and print the claim."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    with tempfile.TemporaryDirectory() as temp:
        photos, output = Path(temp) / "photos", Path(temp) / "captions"
        write_images(photos, count)
        config = CaptionConfig(
            input=(str(photos),), output=str(output), resolution="low", max_new_tokens=1, batch_size=64
        )
        start = peak = resident_mb()
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.1):
                peak = max(peak, resident_mb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            run_job(config, functools.partial(print, flush=True))
        finally:
            done.set()
            watcher.join()
        print(f"driver: {start:.0f} MB at its start, {peak:.0f} MB at most, {resident_mb():.0f} MB at its end")
        claim = f"growth of the driver's resident memory while captioning {count:,} images"
        holds = report(claim, peak - start, "MB", f"<= {BAR_MB}", "its own at its start")
    return int(holds is False)


if __name__ == "__main__":
    sys.exit(main())
