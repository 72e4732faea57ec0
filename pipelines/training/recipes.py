"""Recipes: the stages that belong together, each a function that returns all of them.

document    the document's three stages: `align`, `instruct`, `highres`
llava_next  LLaVA-NeXT as its reproduction has it: the tower tunes in the last stage, at a tenth of the rate
onevision   LLaVA-OneVision 7B: one image first, then several and video
tiny        the embedded model from nothing, on drawings; brings its own data and its own beginning

What this does *not* do: name data or models, but for `tiny`; both come with the job.
Source: the document; `scripts/train` of LLaVA-VL/LLaVA-NeXT@df17966, `scripts` of xiaoachen98/Open-LLaVA-NeXT@a4dfe53
and arXiv 2408.03326v3, table 1.
"""

from collections.abc import Callable
from typing import Any, Literal

from llava_core.losses import LossConfig
from pipelines.training.stages import Stage

Recipe = tuple[Stage, ...]
RecipeName = Literal["document", "llava_next", "onevision", "tiny"]

_SEEING = "pipelines.training.seeing:"
_DRAWINGS = "pipelines.synthetic.source:Drawings="


def document() -> Recipe:
    """The document's hyper-parameters; `newline` trains with the projector in stage 1, for grids to be legible."""
    return (
        Stage(
            name="align",
            learning_rates={"projector": 1e-3, "newline": 1e-3},
            batch_size=256,
            warmup_steps=2000,
            max_tiles=0,
        ),
        Stage(
            name="instruct",
            learning_rates={"projector": 2e-5, "newline": 2e-5, "language_model": 2e-5},
            batch_size=128,
            max_tiles=0,
            activation_checkpointing=True,
        ),
        Stage(
            name="highres",
            learning_rates={"vision_tower": 2e-5, "projector": 2e-5, "newline": 2e-5, "language_model": 2e-5},
            # 64 samples twice accumulated, as the document writes it.
            batch_size=128,
            row_tokens=8192,
            activation_checkpointing=True,
        ),
    )


def llava_next() -> Recipe:
    """LLaVA-NeXT (1.6): captions with the plain template, then everything at 2e-5, the tower at 2e-6."""
    everything = {"vision_tower": 2e-6, "projector": 2e-5, "newline": 2e-5, "language_model": 2e-5}
    return (
        Stage(
            name="align",
            learning_rates={"projector": 1e-3},
            batch_size=256,
            template="plain",
            normalisation="device",
        ),
        Stage(
            name="highres",
            learning_rates=everything,  # type: ignore[arg-type]
            batch_size=128,
            normalisation="device",
            activation_checkpointing=True,
        ),
    )


def onevision() -> Recipe:
    """LLaVA-OneVision 7B: base tiles, then all parts on up to 5, 10 and 10 views; frames as the model samples them."""
    everything = {"vision_tower": 2e-6, "projector": 1e-5, "newline": 1e-5, "language_model": 1e-5}
    common = {"learning_rates": everything, "batch_size": 256, "row_tokens": 32768, "activation_checkpointing": True}
    return (
        Stage(
            name="align",
            learning_rates={"projector": 1e-3},
            batch_size=512,
            row_tokens=8192,
            max_tiles=0,
            template="plain",
        ),
        Stage(name="knowledge", max_tiles=4, **common),  # type: ignore[arg-type]
        Stage(name="single_image", max_tiles=9, **common),  # type: ignore[arg-type]
        Stage(name="onevision", max_tiles=9, **common),  # type: ignore[arg-type]
    )


def tiny() -> Recipe:
    """The embedded model from nothing, in float32 on two CPU cores; lengths are chosen for hours, not days.

    Nothing at this scale is pretrained, so a stage 0 makes what the document's stages begin with: `see` teaches the
    tower what is drawn in each patch, letters of signs above all, which are few in a picture and of many sizes. `align`
    then teaches the projector to hand that on; `instruct` the language model to find and say it, through any-resolution
    tiles from the start, with attention heads shown where it has just read and where to look next; `highres` trains
    everything on the language loss, attention still guided, most on what is hardest.
    """
    silent = LossConfig(text_weight=0.0)
    common: dict[str, Any] = {
        "precision": "float32",
        "optimizer": "muon",
        "weight_decay": 0.01,
        "betas": (0.9, 0.98),
        "normalisation": "square",
    }
    return (
        Stage(
            name="see",
            learning_rates={"vision_tower": 3e-3, "extra": 3e-3},
            batch_size=8,
            max_steps=3600,
            losses=silent,
            extra_losses=(_SEEING + "CellLoss",),
            inputs=(_DRAWINGS + "receipt,sign:3,chart,scene:0.5,boxes:0.5;grid",),
            **common,
        ),
        Stage(
            name="align",
            learning_rates={"projector": 2e-3, "extra": 3e-3},
            batch_size=8,
            max_steps=200,
            losses=silent,
            extra_losses=(_SEEING + "FeatureLoss",),
            inputs=(_DRAWINGS + "receipt,sign:2,chart,scene:0.5,boxes:0.5;grid;seed=1",),
            **common,
        ),
        Stage(
            name="instruct",
            learning_rates={"projector": 2e-3, "newline": 2e-3, "language_model": 3e-3},
            batch_size=6,
            max_steps=7200,
            extra_losses=(_SEEING + "AttentionLoss",),
            inputs=(_DRAWINGS + "receipt:2,sign:2.5,chart:2.5,scene:2.5,boxes:1;seed=2",),
            **common,
        ),
        Stage(
            name="highres",
            learning_rates={"vision_tower": 5e-4, "projector": 1.5e-3, "newline": 1.5e-3, "language_model": 2e-3},
            batch_size=8,
            max_steps=1700,
            extra_losses=(_SEEING + "AttentionLoss",),
            inputs=(_DRAWINGS + "receipt:2.5,sign:2,chart:1.5,scene:3,boxes:2;seed=3",),
            **common,
        ),
    )


RECIPES: dict[RecipeName, Callable[[], Recipe]] = {
    "document": document,
    "llava_next": llava_next,
    "onevision": onevision,
    "tiny": tiny,
}

FRESH = "fresh"
"""What `tiny` begins with: a new small model (`llava_core.checkpoints.fresh`), made from the run's seed."""
