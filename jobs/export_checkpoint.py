"""Writes a checkpoint of any layout in another one.

python jobs/export_checkpoint.py --model llava-hf/llava-v1.6-mistral-7b-hf --output out/original --layout original
"""

import sys
from dataclasses import dataclass
from typing import Literal

from llava_core.checkpoints import export_checkpoint
from pipelines import cli
from pipelines.models import local_model
from pipelines.storage import local_path


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Write a checkpoint of any layout in the chosen one."""

    model: str
    """"tiny", a folder, local or in a store, or a hub name (`owner/model@revision`), in any layout."""
    output: str
    """Local folder to write; made if absent."""
    layout: Literal["own", "hf", "original"] = "hf"
    """What to write: ours, the hub's for transformers, or the original LLaVA's; "tiny" fits only ours."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Cast to this; by default tensors stay as stored."""
    vision_tower: str | None = None
    """Folder or hub name of the vision tower, for originals without its weights."""
    axis_order: Literal["original", "hf"] | None = None
    """How pinpoints are read; "original" for published `llava-hf` conversions, to keep what they were trained with."""
    allow_bin: bool = False
    """Read `.bin` weights through torch's weights-only loader where there is no safetensors."""


def export(config: ExportConfig) -> None:
    """Export, and say what was written."""
    folder = local_path(config.output)
    with local_model(config.model) as source:
        model = export_checkpoint(
            source,
            folder,
            config.layout,
            dtype=config.dtype,
            vision_tower=config.vision_tower,
            axis_order=config.axis_order,
            allow_bin=config.allow_bin,
        )
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    print(f"{folder}: {model.config.family}, layout {config.layout}, {size / 2**20:,.1f} MiB of tensors")


def main() -> int:
    """Run the job that the command line describes, and return its exit code."""
    config = cli.parse(ExportConfig)
    return cli.run(lambda: export(config))


if __name__ == "__main__":
    sys.exit(main())
