"""Losses: language modelling on answers, on image descriptions, and the alignment of stage 1.

    L = β·L_text + α·L_visual + γ·L_align        released recipes: β = 1, α = γ = 0

Legend: B batch, T tokens, D text width, V vocabulary. Labels are token ids, −100 where nothing is to be learned; the
label at position t is what position t − 1 must predict.

What this does *not* do: make labels (`processor`), average over devices (`pipelines/training`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from llava_core.config import check_at_least
from llava_core.labels import IGNORE_INDEX


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the parts."""

    text_weight: float = 1.0
    """β: of the language loss on answer tokens."""
    visual_weight: float = 0.0
    """α: of the same loss on the spans that describe the image; the document: "often ignore"."""
    alignment_weight: float = 0.0
    """γ: of the distance between mean image feature and mean caption embedding; stage 1 only."""

    def __post_init__(self) -> None:
        for name in ("text_weight", "visual_weight", "alignment_weight"):
            check_at_least("loss", name, getattr(self, name), 0.0)


@dataclass(frozen=True, slots=True)
class Losses:
    """The total, and its parts before weighting."""

    total: Tensor
    """float32[]: the weighted sum, to be differentiated."""
    text: Tensor
    """float32[]: L_text."""
    visual: Tensor | None
    """float32[]: L_visual, or None where its weight is 0."""
    alignment: Tensor | None
    """float32[]: L_align, or None where its weight is 0."""


def language_loss(logits: Tensor, labels: Tensor, num_targets: int | Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood of the labelled tokens.

    Args:
        logits: float[B, T, V].
        labels: int64[B, T], −100 where nothing is to be learned.
        num_targets: divide by this instead of the batch's own count, as when several batches make one step.

    Returns:
        float32[]; 0, with a gradient of 0, where nothing is labelled (transformers: NaN).

    Source: `ForCausalLMLoss` of transformers.

    Example:
        >>> logits = torch.zeros(1, 3, 4)
        >>> round(language_loss(logits, torch.tensor([[-100, 2, -100]])).item(), 4)  # ln 4
        1.3863
    """
    targets = labels[:, 1:].to(logits.device)
    flat = F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    count = (targets != IGNORE_INDEX).sum().clamp(min=1) if num_targets is None else num_targets
    return flat / count


def alignment_loss(visual: Sequence[Tensor], captions: Sequence[Tensor]) -> Tensor:
    """Mean squared distance between each sample's mean image feature and its caption's mean embedding.

    Args:
        visual: float[T_i, D] of each sample, after the connector.
        captions: float[L_i, D] of each sample: embeddings of its caption's tokens; any number, at least one.

    Returns:
        float32[].

    Raises:
        ValueError: different numbers of samples, none at all, or a sample without features or caption.

    Source: the document's L_align; its tensors have different lengths as written, so means are compared (decision 7).

    Example:
        >>> visual, caption = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
        >>> alignment_loss([visual], [caption])  # means (2, 0) and (0, 4): (4 + 16) / 2
        tensor(10.)
    """
    if len(visual) != len(captions) or not visual:
        raise ValueError(f"{len(visual)} samples have image features, but {len(captions)} have captions")
    if any(part.shape[0] == 0 for part in (*visual, *captions)):
        raise ValueError("a sample has no image features or an empty caption; leave it out of the alignment loss")
    seen = torch.stack([part.float().mean(dim=0) for part in visual])
    said = torch.stack([part.float().mean(dim=0) for part in captions])
    return F.mse_loss(seen, said)


def combine_losses(
    logits: Tensor,
    labels: Tensor,
    config: LossConfig,
    *,
    description_labels: Tensor | None = None,
    visual: Sequence[Tensor] = (),
    captions: Sequence[Tensor] = (),
) -> Losses:
    """All parts whose weight is not 0, and their weighted sum.

    Args:
        logits: float[B, T, V].
        labels: int64[B, T], answer tokens; −100 elsewhere.
        config: weights.
        description_labels: int64[B, T], the spans that describe the image; needed where α > 0.
        visual: image features of each sample, as `alignment_loss` takes them; needed where γ > 0.
        captions: caption embeddings of each sample; needed where γ > 0.

    Returns:
        The total and its parts.

    Raises:
        ValueError: a part has a weight, but not what it is made of.
    """
    text = language_loss(logits, labels)
    total, described, aligned = config.text_weight * text, None, None
    if config.visual_weight > 0:
        if description_labels is None:
            raise ValueError(f"loss.visual_weight is {config.visual_weight}, but description_labels are missing")
        described = language_loss(logits, description_labels)
        total = total + config.visual_weight * described
    if config.alignment_weight > 0:
        aligned = alignment_loss(visual, captions)
        total = total + config.alignment_weight * aligned
    return Losses(total=total, text=text, visual=described, alignment=aligned)
