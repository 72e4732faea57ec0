"""Compares settings of a captioning job on a sample of the corpus: what a run of each would take.

    python examples/tune_throughput.py --photos out/demo/images

Nothing is written. The how-to is `docs/how-to/throughput.md`.
"""

import functools
import sys
from dataclasses import replace

import tyro

from pipelines import cli
from pipelines.inference import recipes
from pipelines.inference.config import CaptionConfig
from pipelines.inference.flow import run_job


def main(photos: str, model: str = "tiny", max_new_tokens: int = 16, batch_sizes: tuple[int, ...] = (4, 16)) -> int:
    """Plan with each batch size, and with each trade-off between quality and speed.

    Args:
        photos: folder, file or URI of images.
        model: "tiny", a checkpoint folder, or a hub name.
        max_new_tokens: most tokens of a caption.
        batch_sizes: requests that an engine decodes together.
    """
    say = functools.partial(print, flush=True)
    plain = CaptionConfig(
        input=(photos,), output="out/never_written", model=model, max_new_tokens=max_new_tokens, plan=True
    )
    tried = {f"batch size {size}": replace(plain, batch_size=size) for size in batch_sizes}
    tried |= {"fast": recipes.fast(plain), "high quality": recipes.high_quality(plain)}
    for name, config in tried.items():
        lines: list[str] = []
        if code := cli.run(lambda now=config, to=lines.append: run_job(now, to)):  # type: ignore[misc]
            return code
        rates = [" ".join(line.split()) for line in lines[-1].splitlines() if "/s" in line.split(maxsplit=1)[0]]
        say(f"{name}: {', '.join(rates)}")
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
