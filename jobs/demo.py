"""Captions drawn documents and real photos, two broken files among them, by the same flow as `caption_corpus`.

    python jobs/demo.py

Nothing is downloaded. Everything lands in out/demo.
"""

import functools
import sys
from pathlib import Path

import polars as pl

from pipelines import cli
from pipelines.inference import recipes
from pipelines.inference.flow import run_job
from pipelines.inference.job import freeze
from pipelines.synthetic.showcase import drawings, photos

ROOT = Path("out/demo")


def main() -> int:
    """Write the images, caption them, show the captions of drawings, and return the exit code."""
    say = functools.partial(print, flush=True)
    folder = ROOT / "images"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = drawings()
    for name, data in {**drawn, **photos()}.items():
        # a file that is touched is a changed file: it would be captioned again
        if not (folder / name).exists() or (folder / name).read_bytes() != data:
            (folder / name).write_bytes(data)
    config = recipes.demo(images=str(folder), output=str(ROOT / "captions"))
    if code := cli.run(lambda: run_job(config, say)):
        return code
    captions = pl.read_delta(str(ROOT / "captions"), columns=["uri", "text", "status", "run_id"])
    # of this run alone: a model that has changed since leaves another's captions in the table
    for row in captions.filter(pl.col("run_id") == freeze(config).run_id).sort("uri").to_dicts():
        if row["status"] == "ok" and Path(row["uri"]).name in drawn:
            say(f"{Path(row['uri']).name:14} {' '.join(row['text'].split())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
