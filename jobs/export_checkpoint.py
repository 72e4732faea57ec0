"""Writes a checkpoint of any layout in another one.

python jobs/export_checkpoint.py --model llava-hf/llava-v1.6-mistral-7b-hf --output out/original --layout original
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from llava_core.checkpoints import export_checkpoint
from llava_core.errors import TesseraError


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Write a checkpoint of any layout in the chosen one."""

    output: Path
    """Folder to write; made if absent."""
    model: str = "tiny"
    """"tiny", a local folder, or a hub name (`owner/model@revision`), in any layout."""
    layout: Literal["own", "hf", "original"] = "hf"
    """What to write: ours, the hub's for transformers, or the original LLaVA's."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Cast to this; by default tensors stay as stored."""
    vision_tower: str | None = None
    """Folder or hub name of the vision tower, for originals without its weights."""
    axis_order: Literal["original", "hf"] | None = None
    """How pinpoints are read; "original" for published `llava-hf` conversions, to keep what they were trained with."""
    allow_bin: bool = False
    """Read `.bin` weights through torch's weights-only loader where there is no safetensors."""


def main(config: ExportConfig) -> None:
    """Export, and say what was written."""
    model = export_checkpoint(
        config.model,
        config.output,
        config.layout,
        dtype=config.dtype,
        vision_tower=config.vision_tower,
        axis_order=config.axis_order,
        allow_bin=config.allow_bin,
    )
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    print(f"{config.output}: {model.config.family}, layout {config.layout}, {size / 2**20:,.1f} MiB of tensors")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        main(tyro.cli(ExportConfig, description=__doc__))
    except TesseraError as error:
        raise SystemExit(f"export_checkpoint: {error}") from error
