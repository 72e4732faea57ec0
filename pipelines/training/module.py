"""What runs in a step: the model on one packed row, and the sums of its losses, as one module that FSDP wraps whole.

    MicroBatch ─▶ tower (or not) ─▶ embeddings ─▶ language model, block-diagonal ─▶ logits of targets alone ─▶ sums

Losses come as sums with the counts that normalise them, because the step's counts are known only over all rows and
workers. The last layer runs, and logits are made, for targets alone, which saves most of that work. Legend: T tokens,
D text width.

What this does *not* do: step, average over workers (`loop`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_core.attention import BLOCKS
from llava_core.labels import IGNORE_INDEX
from llava_core.last_layer import run_asked_rows, runs_asked_rows
from llava_core.losses import LossConfig, alignment_loss
from llava_core.model import LLaVANeXT
from pipelines.training.loader import MicroBatch
from pipelines.training.sources import find_class
from pipelines.training.stages import Normalisation, Stage

PARTS = ("text", "visual", "alignment")
"""Losses that the document names, in the order in which they are reported; extra ones follow by their names."""


_IMAGES = ("pixel_values", "image_sizes", "image_grids", "num_images_per_sample")


class ExtraLoss(Protocol):
    """A loss of others' making: an `nn.Module` made as `Class(model)`, its parameters trained as part "extra".

    It is called in training after the model ran, and may have put hooks into the model when it was made. It is not
    exported.
    """

    name: str

    def __call__(self, model: LLaVANeXT, batch: MicroBatch, output: Any) -> tuple[Tensor, int]:
        """Return the sum of the loss, weighted, and the count to divide it by.

        Args:
            model: in training.
            batch: the row; `batch.samples[i].extra` is what the source said of each sample.
            output: what the model returned.
        """
        ...


class TrainModule(nn.Module):
    """The model and its extra losses.

    Args:
        model: with a language model.
        losses: weights of the document's losses.
        extra: losses of others' making, by name.
        normalisation: of the language loss; "square" makes its sums and counts weighted ones.
    """

    def __init__(
        self,
        model: LLaVANeXT,
        losses: LossConfig,
        extra: Mapping[str, nn.Module] | None = None,
        normalisation: Normalisation = "global",
    ) -> None:
        super().__init__()
        self.model = model
        self.losses = losses
        self.square = normalisation == "square"
        self.extra = nn.ModuleDict(dict(extra or {}))
        text = model.language_model.config.get_text_config()
        text._attn_implementation = BLOCKS
        self.asks_rows = runs_asked_rows(text.model_type)
        if self.asks_rows:
            run_asked_rows(model.language_model)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all losses, in the order in which `forward` gives them."""
        return (*PARTS, *self.extra)

    def counts(self, batch: MicroBatch) -> Tensor:
        """float64[parts]: what each loss of a row is divided by, as far as the row alone says it."""
        aligned = len(aligned_samples(batch)) if self.losses.alignment_weight else 0
        described = int((description_labels(batch) != IGNORE_INDEX).sum()) if self.losses.visual_weight else 0
        answered = float(answer_weights(batch.labels[0]).sum()) if self.square else batch.num_targets
        return torch.tensor([answered, described, aligned], dtype=torch.float64)

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Run a row.

        Args:
            batch: the row, on the model's device.

        Returns:
            float32[parts]: sums of the losses before weighting (extra ones as they come), with gradients; and
            float64[parts]: their counts.
        """
        model = self.model
        model.always_run_tower = batch.tower
        if not self.speaks:
            return self._see(batch)
        targets = batch.labels[0] != IGNORE_INDEX
        at = targets.nonzero()[:, 0]
        # A row without targets still runs, because other workers wait for its gradients; its sum is 0.
        keep = (at - 1) if len(at) else torch.zeros(1, dtype=torch.int64, device=at.device)
        output = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            borders=batch.borders,
            use_cache=False,
            **({"asked_rows": keep} if self.asks_rows else {"logits_to_keep": keep}),
            **batch.visual,
        )
        logits = output.logits[0].float()
        wanted = batch.labels[0, at] if len(at) else torch.full_like(keep, IGNORE_INDEX)
        each = F.cross_entropy(logits, wanted, ignore_index=IGNORE_INDEX, reduction="none")
        weighted = each[: len(at)] * answer_weights(batch.labels[0]) if self.square else each
        sums = [weighted.sum(), each.new_zeros(()), each.new_zeros(())]
        if self.losses.visual_weight:
            described = (description_labels(batch)[0].to(at.device) != IGNORE_INDEX)[at]
            sums[1] = each[: len(at)][described].sum()
        if self.losses.alignment_weight:
            sums[2] = self._alignment(batch, output.visual_features)
        counts = self.counts(batch).tolist()
        for loss in self.extra.values():
            total, count = loss(model, batch, output)
            sums.append(total.float())
            counts.append(float(count))
        return torch.stack(sums), torch.tensor(counts, dtype=torch.float64)

    @property
    def speaks(self) -> bool:
        """Whether any loss needs the language model; where all the document's weigh 0, only tower and projector run."""
        losses = self.losses
        return bool(losses.text_weight or losses.visual_weight or losses.alignment_weight)

    def _see(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Run tower and projector for extra losses alone."""
        visual = {name: value for name, value in batch.visual.items() if name in _IMAGES}
        features = self.model.encode_images(**visual) if visual else [self.model.empty_features()]
        made = [loss(self.model, batch, features) for loss in self.extra.values()]
        # Some parameters have no part in this, but every one that trains has a gradient.
        rest = torch.stack([feature.sum() for feature in features]).sum() * 0.0 + self.model.visual_zero()
        sums = torch.stack([rest, rest, rest, *(total.float() for total, _ in made)])
        return sums, torch.tensor([0.0, 0.0, 0.0, *(float(count) for _, count in made)], dtype=torch.float64)

    def weights(self) -> Tensor:
        """float32[parts]: of each loss in the total; extra losses weigh themselves."""
        losses = self.losses
        own = [losses.text_weight, losses.visual_weight, losses.alignment_weight]
        return torch.tensor(own + [1.0] * len(self.extra))

    def _alignment(self, batch: MicroBatch, features: Sequence[Tensor]) -> Tensor:
        """Sum over samples with images of the distance between mean feature and mean caption embedding."""
        chosen = aligned_samples(batch)
        if not chosen:
            return torch.zeros((), device=batch.labels.device)
        embed = self.model.language_model.get_input_embeddings()
        images = iter(features)
        visual, captions = [], []
        for index, sample in enumerate(batch.samples):
            own = [next(images) for _ in sample.row.sizes] if not sample.num_frames else []
            if index not in chosen:
                continue
            row = slice(batch.borders[index], batch.borders[index + 1])
            labels = batch.labels[0, row]
            visual.append(torch.cat(own))
            captions.append(embed(labels[labels != IGNORE_INDEX]))
        return alignment_loss(visual, captions) * len(chosen)


def extra_losses(model: LLaVANeXT, stage: Stage) -> dict[str, Any]:
    """A stage's extra losses, made for a model."""
    made = [find_class(place, f"stage {stage.name}")(model) for place in stage.extra_losses]
    return {loss.name: loss for loss in made}


def aligned_samples(batch: MicroBatch) -> list[int]:
    """Samples of a row that the alignment loss compares: those with images and an answer."""
    return [index for index, sample in enumerate(batch.samples) if sample.num_tiles and not sample.num_frames]


def answer_weights(labels: Tensor) -> Tensor:
    """Weight of each target: 1/√n in an answer of n tokens.

    Args:
        labels: int64[T], `IGNORE_INDEX` between answers.

    Returns:
        float32[targets], in order.

    Source: InternVL 2.5 (arXiv 2412.05271), "square averaging", there for a sample, here for each of its answers.

    Example:
        >>> answer_weights(torch.tensor([-100, 7, -100, -100, 1, 2, 3, 4]))
        tensor([1.0000, 0.5000, 0.5000, 0.5000, 0.5000])
    """
    targets = labels != IGNORE_INDEX
    begins = targets.clone()
    begins[1:] &= ~targets[:-1]
    answer = begins.cumsum(0)[targets] - 1
    return torch.bincount(answer)[answer].float().rsqrt()


def description_labels(batch: MicroBatch) -> Tensor:
    """int64[1, T]: labels of the samples that are captions, `IGNORE_INDEX` elsewhere."""
    labels = torch.full_like(batch.labels, IGNORE_INDEX)
    for index, sample in enumerate(batch.samples):
        if sample.is_caption:
            row = slice(batch.borders[index], batch.borders[index + 1])
            labels[0, row] = batch.labels[0, row]
    return labels
