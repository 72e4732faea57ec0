"""Brings a checkpoint of any layout: writes it in all three, and shows that each gives the same reply.

    python examples/bring_checkpoint.py --model FOLDER --image photo.jpg --folder out/checkpoints

The how-to is `docs/how-to/own-checkpoint.md`.
"""

import sys
from pathlib import Path
from typing import get_args

import tyro

from llava_core import Engine, LLaVANeXT, LLaVAProcessor
from llava_core.checkpoints import Layout, export_checkpoint, resolve_model
from llava_core.engine import Request, SamplingConfig


def main(model: str, image: Path, folder: Path, layouts: tuple[Layout, ...] = get_args(Layout)) -> int:
    """Write each layout, read it again, ask it.

    Args:
        model: a checkpoint folder, or a hub name.
        image: what is asked about.
        folder: gets a folder for each layout.
        layouts: what to write.
    """
    source, replies = resolve_model(model), set()
    for layout in layouts:
        export_checkpoint(source, folder / layout, layout)
        loaded = LLaVANeXT.from_pretrained(folder / layout)
        processor = LLaVAProcessor.from_pretrained(folder / layout)
        sampling = SamplingConfig(max_new_tokens=16)
        request = Request(request_id="1", prompt="What is it?", images=(image.read_bytes(),), sampling=sampling)
        (result,) = Engine(loaded, processor).generate([request])
        print(f"{layout}: {result.num_image_tokens} image tokens, {result.text!r}")
        replies.add(result.token_ids)
    return int(len(replies) != 1)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
