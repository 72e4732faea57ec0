"""Which samples share a row, and which worker runs it when: balanced by visual and text cost, known before decoding.

    samples of a step ─ as few rows as the token budget allows, a multiple of the workers ─▶ rows of like cost
    rows, dearest first ─▶ rounds of one row for each worker: all workers wait for the dearest of a round, not of a step

A row is run as one sequence of its own length: no token of it is padding. Costs are floating-point operations of a
forward pass; attention counts within samples only. Everything here is a pure function of the step's samples, so every
worker comes to the same plan by itself. What this does *not* do: choose samples (`data`), build tensors (`loader`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llava_core.config import ModelConfig
from llava_core.last_layer import runs_asked_rows
from pipelines.training.samples import Sample


@dataclass(frozen=True, slots=True)
class Cost:
    """Operations of a forward pass, as functions of what a sample holds."""

    per_tile: float
    """Tower and connector, of one tile."""
    per_token: float
    """Language model without attention scores, of one token."""
    per_pair: float
    """Attention scores and sums, of one pair of a token and one that it sees."""
    per_target: float
    """What the language model does for targets alone: most of its last layer, and the vocabulary's logits."""
    per_target_pair: float
    """Attention in that layer, of one pair of a target and a token that it sees."""

    def text(self, sample: Sample) -> float:
        """Operations of the language model on one sample."""
        tokens, targets = sample.num_tokens, sample.num_targets
        # As if all targets came last.
        seen = targets * (tokens - targets / 2)
        layers = self.per_token * tokens + self.per_pair * tokens * (tokens + 1) / 2
        return layers + self.per_target * targets + self.per_target_pair * seen

    def of(self, sample: Sample) -> float:
        """Operations of one sample."""
        return self.per_tile * sample.num_tiles + self.text(sample)


@dataclass(frozen=True, slots=True)
class Row:
    """Samples that run as one sequence."""

    samples: tuple[Sample, ...]
    """In order; may be empty, where a worker has nothing to do in a round."""
    cost: float
    """Of all of them."""

    @property
    def num_tokens(self) -> int:
        """Of all of them."""
        return sum(sample.num_tokens for sample in self.samples)

    @property
    def has_images(self) -> bool:
        """Whether the tower has to run."""
        return any(sample.num_tiles for sample in self.samples)


@dataclass(frozen=True, slots=True)
class Round:
    """One row for each worker."""

    rows: tuple[Row, ...]
    """By rank."""

    @property
    def has_images(self) -> bool:
        """Whether any worker has an image: if none has, all skip the tower together."""
        return any(row.has_images for row in self.rows)


def plan_rounds(samples: Sequence[Sample], world_size: int, row_tokens: int, cost: Cost) -> list[Round]:
    """Pack a step's samples and hand the rows out.

    Args:
        samples: of the step, each at most `row_tokens` long.
        world_size: workers.
        row_tokens: most tokens of a row.
        cost: of samples.

    Returns:
        Rounds, the dearest first; those without images last.
    """
    text = [sample for sample in samples if not sample.num_tiles]
    visual = [sample for sample in samples if sample.num_tiles]
    rows = _rows(visual + text, world_size, row_tokens, cost)
    rows.sort(key=lambda row: (not row.has_images, -row.cost))
    rows += [Row((), 0.0)] * (-len(rows) % world_size)
    rounds = []
    for number, start in enumerate(range(0, len(rows), world_size)):
        chosen = rows[start : start + world_size]
        # Turned round every time, so that no worker always has the dearest row.
        rounds.append(Round(tuple(chosen if number % 2 == 0 else reversed(chosen))))
    return rounds


def _rows(samples: Sequence[Sample], world_size: int, row_tokens: int, cost: Cost) -> list[Row]:
    """As few rows as hold the samples, a multiple of the workers, of costs as like as the budget allows."""
    total = sum(sample.num_tokens for sample in samples)
    count = max(-(-total // row_tokens), 1)
    count += -count % world_size
    while True:
        count = min(count, max(len(samples), 1))
        packed = _spread(samples, count, row_tokens, cost)
        if packed is not None:
            return [Row(tuple(row), sum(map(cost.of, row))) for row in packed if row]
        count += world_size


def _spread(samples: Sequence[Sample], count: int, row_tokens: int, cost: Cost) -> list[list[Sample]] | None:
    """Dearest sample first, each into the cheapest row that has room; None where one finds none."""
    rows: list[list[Sample]] = [[] for _ in range(count)]
    costs, tokens, shapes = [0.0] * count, [0] * count, [0] * count
    order = sorted(range(len(samples)), key=lambda i: (-cost.of(samples[i]), i))
    for sample in (samples[i] for i in order):
        # A row runs the tower once, as the other workers' rows of its round do: on images, or on videos of one length.
        shape = sample.num_frames or -min(sample.num_tiles, 1)
        room = [
            i
            for i in range(count)
            if tokens[i] + sample.num_tokens <= row_tokens and (not shape or shapes[i] in (0, shape))
        ]
        if not room:
            return None
        best = min(room, key=lambda i: (costs[i], i))
        rows[best].append(sample)
        costs[best] += cost.of(sample)
        tokens[best] += sample.num_tokens
        shapes[best] = shape or shapes[best]
    return rows


def cost_of(config: ModelConfig, tower_layers: int) -> Cost:
    """Operations of a model's forward pass; a multiply and an add are two.

    Args:
        config: of the model, with a language model.
        tower_layers: layers of the tower that run.

    Example:
        >>> from llava_core.checkpoints.untrained import untrained_config
        >>> cost = cost_of(untrained_config(), 1)
        >>> round(cost.per_pair), round(cost.per_target_pair), round(cost.per_tile / cost.per_token)
        (256, 256, 32)
    """
    text: dict[str, Any] = config.text or {}
    width, inner = int(text["hidden_size"]), int(text.get("intermediate_size") or 4 * text["hidden_size"])
    heads, layers = int(text["num_attention_heads"]), int(text["num_hidden_layers"])
    head = int(text.get("head_dim") or width // heads)
    keys = int(text.get("num_key_value_heads") or heads)
    apart = runs_asked_rows(str(text["model_type"]))
    whole = layers - 1 if apart else layers
    # Keys and values; query and output projections and three matrices of the gated MLP.
    key_value, rest = 2.0 * width * head * 2 * keys, 2.0 * (width * head * 2 * heads + 3 * width * inner)
    pair = 4.0 * heads * head
    return Cost(
        per_tile=_tile_cost(config, tower_layers),
        per_token=layers * key_value + whole * rest,
        per_pair=whole * pair,
        per_target=(layers - whole) * rest + 2.0 * config.text_dim * int(text["vocab_size"]),
        per_target_pair=(layers - whole) * pair,
    )


def _tile_cost(config: ModelConfig, layers: int) -> float:
    tower = config.vision.tower
    width, patches = config.vision.hidden_size, config.vision.patches_per_side**2
    inner = int(tower.get("intermediate_size") or 4 * width)
    per_patch = 2.0 * layers * (4 * width * width + 2 * width * inner) + 2 * 3 * int(tower["patch_size"]) ** 2 * width
    scores = 4.0 * layers * width * patches * patches
    projected = config.patches_per_side**2
    dims = [width, *[config.text_dim] * config.connector.num_layers]
    connector = sum(2.0 * a * b for a, b in pairwise(dims))
    return per_patch * patches + scores + connector * projected
