"""Stops a captioning job in the middle, goes on, repairs a broken file, and shows that no row was lost or doubled.

    python examples/resume_and_repair.py --photos out/resume/photos --captions out/resume/captions

It writes its own photos, one of them cut off. The how-to is `docs/how-to/resume.md`.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import tyro

from pipelines.synthetic.drawn import DrawnConfig, write_drawn


def main(photos: Path, captions: Path, count: int = 48) -> int:
    """Write photos; run, stop, run; repair, run; count.

    Args:
        photos: folder to make.
        captions: the table to write.
        count: photos.
    """
    write_drawn(photos, count, DrawnConfig(seed=7))
    broken = photos / "images" / "0000003.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    command = [sys.executable, "jobs/caption_corpus.py", "--input", str(photos / "images"), "--output", str(captions)]
    command += ["--rows-per-fragment", "4", "--batch-size", "2", "--max-new-tokens", "32"]
    with subprocess.Popen(command) as job:
        while job.poll() is None and not list(captions.glob("status=ok/*.parquet")):
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)
    print(f"stopped with exit code {job.returncode}; {rows(captions)[0]} of {count} rows are in the table", flush=True)
    subprocess.run(command, check=True)
    print(f"after the same command again: {rows(captions)}", flush=True)
    broken.write_bytes(whole)
    subprocess.run(command, check=True)
    found = rows(captions)
    print(f"after the file was mended: {found}", flush=True)
    return int(found != (count, count, 0))


def rows(captions: Path) -> tuple[int, int, int]:
    """Rows, different rows, and rejected rows of the table."""
    if not (captions / "_delta_log").is_dir():
        return 0, 0, 0
    table = pl.read_delta(str(captions), columns=["uid", "status"]).to_dicts()
    return len(table), len({row["uid"] for row in table}), sum(row["status"] == "rejected" for row in table)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
