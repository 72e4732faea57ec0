"""What a tensor is called in each layout: one table, read in both directions.

    ours                          original                                     hf (hub files)
    image_processor.encoder.*     model.vision_tower.vision_tower.vision_model.*   vision_tower.vision_model.*
    projector.projector.{0,2}.*   model.mm_projector.{0,2}.*                   multi_modal_projector.linear_{1,2}.*
    image_newline                 model.image_newline                          image_newline
    language_model.model.*        model.*                                      language_model.model.*
    language_model.lm_head.*      lm_head.*                                    language_model.lm_head.*

Other spellings of hf: "hf_hybrid" is what transformers 5 saves from a model built from its config, "hf_452" and
"hf_56" are the names in memory since 4.52 and 5.6. Written is only the hub's, which every version reads.
What this does *not* do: read files, or judge whether the names are complete.

Source: `convert_llava_next_weights_to_hf.py` and `conversion_mapping.py` of transformers; released files.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from llava_core.errors import CheckpointReason, CheckpointRefused

Layout = Literal["own", "hf", "original"]
Naming = Literal["own", "original", "hf_hub", "hf_hybrid", "hf_452", "hf_56"]

ENCODER, PROJECTOR, NEWLINE = "image_processor.encoder.", "projector.projector.", "image_newline"
TEXT, HEAD = "language_model.model.", "language_model.lm_head."
EMBED_WEIGHT, HEAD_WEIGHT = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
SUPPLIED_TOWER = "vision_model."

DERIVED = (".embeddings.position_ids", ".rotary_emb.inv_freq")
"""Buffers that older files store and that follow from the config: ignored wherever they end a name."""

Table = tuple[tuple[str, str], ...]

_HF_PROJECTOR: Table = ((PROJECTOR + "0.", "linear_1."), (PROJECTOR + "2.", "linear_2."))

_TABLES: dict[Naming, Table] = {
    "own": (("", ""),),
    "original": (
        (ENCODER, "model.vision_tower.vision_tower.vision_model."),
        (PROJECTOR, "model.mm_projector."),
        (NEWLINE, "model.image_newline"),
        (HEAD, "lm_head."),
        (TEXT, "model."),
    ),
    "hf_hub": (
        (ENCODER, "vision_tower.vision_model."),
        *((ours, "multi_modal_projector." + theirs) for ours, theirs in _HF_PROJECTOR),
        (NEWLINE, "image_newline"),
        (HEAD, "language_model.lm_head."),
        (TEXT, "language_model.model."),
    ),
    "hf_452": (
        (ENCODER, "model.vision_tower.vision_model."),
        *((ours, "model.multi_modal_projector." + theirs) for ours, theirs in _HF_PROJECTOR),
        (NEWLINE, "model.image_newline"),
        (HEAD, "lm_head."),
        (TEXT, "model.language_model."),
    ),
}
_TABLES["hf_hybrid"] = ((ENCODER, "vision_tower."), *_TABLES["hf_hub"][1:])
_TABLES["hf_56"] = ((ENCODER, "model.vision_tower."), *_TABLES["hf_452"][1:])


def table_for(naming: Naming, *, linear: bool = False) -> Table:
    """Prefix pairs (ours, theirs), the more specific first.

    Args:
        naming: whose names.
        linear: the connector is LLaVA 1.0's single layer, which the original layout stores without an index.
    """
    table = _TABLES[naming]
    if naming == "original" and linear:
        return ((PROJECTOR + "0.", "model.mm_projector."), *table)
    return table


def is_derived(name: str) -> bool:
    """Whether a stored tensor follows from the config and is left out.

    Example:
        >>> is_derived("vision_tower.vision_model.embeddings.position_ids"), is_derived("lm_head.weight")
        (True, False)
    """
    return name.endswith(DERIVED)


def to_theirs(name: str, table: Table) -> str | None:
    """Our tensor's name in another layout, or None where it has none.

    Example:
        >>> to_theirs("projector.projector.2.bias", table_for("hf_hub"))
        'multi_modal_projector.linear_2.bias'
        >>> to_theirs("projector.projector.4.bias", table_for("hf_hub")) is None
        True
    """
    return _renamed(name, table)


def to_ours(name: str, table: Table) -> str | None:
    """The inverse of `to_theirs`.

    Example:
        >>> to_ours("model.layers.0.mlp.up_proj.weight", table_for("original"))
        'language_model.model.layers.0.mlp.up_proj.weight'
    """
    return _renamed(name, tuple((theirs, ours) for ours, theirs in table))


def _renamed(name: str, pairs: Table) -> str | None:
    for before, after in pairs:
        if name.startswith(before):
            return after + name[len(before) :]
    return None


def naming_of(layout: Layout, names: Iterable[str]) -> Naming:
    """Tell which spelling of a layout a folder's tensor names have.

    Example:
        >>> naming_of("hf", ["model.language_model.norm.weight", "model.vision_tower.vision_model.post_layernorm.bias"])
        'hf_452'
    """
    if layout != "hf":
        return layout
    known = list(names)
    nested = any(".vision_tower.vision_model." in f".{name}" for name in known)
    if any(name.startswith("model.language_model.") for name in known):
        return "hf_452" if nested else "hf_56"
    return "hf_hub" if nested else "hf_hybrid"


def name_all(names: Iterable[str], naming: Naming) -> dict[str, str]:
    """Map our names to the stored ones; derived buffers are left out.

    Args:
        names: tensor names as stored.
        naming: whose spelling they have.

    Returns:
        ours → theirs.

    Raises:
        CheckpointRefused: UNEXPECTED_TENSORS for a name that belongs nowhere.
    """
    stored = [name for name in names if not is_derived(name)]
    table = table_for(naming, linear="model.mm_projector.weight" in stored)
    ours = {name: to_ours(name, table) for name in stored}
    strangers = sorted(name for name, known in ours.items() if known is None)
    if strangers:
        raise CheckpointRefused(
            CheckpointReason.UNEXPECTED_TENSORS,
            f"{len(strangers)} tensors are no part of a LLaVA model named as {naming}: {shorten(strangers)}",
        )
    return {known: name for name, known in ours.items() if known is not None}


def name_written(names: Iterable[str], layout: Layout, *, linear: bool) -> Mapping[str, str]:
    """Map our names to those that a layout stores.

    Args:
        names: our names.
        layout: what is written.
        linear: the connector has one layer.

    Returns:
        ours → theirs.

    Raises:
        CheckpointRefused: NOT_EXPRESSIBLE, naming the tensors that the layout has no place for.
    """
    table = table_for("hf_hub" if layout == "hf" else layout, linear=linear)
    theirs = {name: to_theirs(name, table) for name in names}
    homeless = sorted(name for name, known in theirs.items() if known is None)
    if homeless:
        raise CheckpointRefused(
            CheckpointReason.NOT_EXPRESSIBLE,
            f'layout "{layout}" has no place for {shorten(homeless)}; write layout "own" to keep them',
        )
    return {name: known for name, known in theirs.items() if known is not None}


def shorten(names: Iterable[str], most: int = 5) -> str:
    """The first few names, and how many more.

    Example:
        >>> shorten(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    listed = list(names)
    text = ", ".join(listed[:most])
    return text if len(listed) <= most else f"{text} and {len(listed) - most} more"
