"""Captions a bucket of images and reads the captions back, rejected rows by reason.

    python examples/caption_s3.py --photos s3://my-bucket/photos --captions s3://my-bucket/captions

Any other store or a local folder does as well. The how-to is `docs/how-to/caption-s3.md`.
"""

import functools
import sys
from collections import Counter

import polars as pl
import tyro

from pipelines import cli
from pipelines.inference.config import CaptionConfig
from pipelines.inference.flow import run_job
from pipelines.storage import storage_options


def main(photos: str, captions: str, model: str = "tiny", max_new_tokens: int = 64) -> int:
    """Caption, then count.

    Args:
        photos: folder, file or URI of images.
        captions: the table to write.
        model: "tiny", a checkpoint folder, or a hub name.
        max_new_tokens: most tokens of a caption.
    """
    say = functools.partial(print, flush=True)
    config = CaptionConfig(input=(photos,), output=captions, model=model, max_new_tokens=max_new_tokens)
    code = cli.run(lambda: run_job(config, say))
    if code == 0:
        table = pl.read_delta(captions, columns=["uri", "text", "error"], storage_options=storage_options(captions))
        rows = table.to_dicts()
        for row in [row for row in rows if row["error"] is None][:3]:
            say(f"{row['uri']}: {row['text']!r}")
        say(f"rejected: {dict(Counter(row['error'] for row in rows if row['error']))}")
    return code


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
