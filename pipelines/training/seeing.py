"""Extra losses from which a small model learns to see: what is drawn where, and where an answer is read from.

    CellLoss       tower      which character is in each eighth of a patch, from the stem's cells and from the tower's
                              patches; which shape, colour and size has its centre in a patch
    FeatureLoss    projector  the same, from what the language model will get
    AttentionLoss  language   before it says a character or a shape, two heads of one layer look at the image token that
                              shows it; two of the layer below look at the token that showed what was just said, its
                              other two at the same word in the question

They need the truth about each sample (`TrainRow.extra`, from `pipelines.synthetic.source`); samples without it do not
count. Small text is never asked of the base tile. Source: our own; a model of this size learned nothing in this time
from the language loss alone.

What this does *not* do: train by itself (`recipes`), or stay in the model: heads are dropped when a stage ends.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from llava_core.checkpoints.fresh import word_tokenizer
from llava_core.config import ModelConfig, plan_grid
from llava_core.errors import ConfigError
from llava_core.geometry import Size, TilePlan
from llava_core.labels import IGNORE_INDEX
from llava_core.model import LLaVANeXT
from llava_core.stem_tower import StemNorm, StemVisionModel
from pipelines.training.loader import MicroBatch
from pipelines.training.places import InTile, in_base, in_grid, token_of

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./-:$%#"
SHAPES = ("circle", "square", "triangle", "star", "cross", "bar", "dot")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black")
SIZES = ("small", "large")
SLOT_ROWS, SLOT_COLS = 2, 4
"""Slots of a patch: half a patch high, a quarter wide, so that no two characters share one."""
HEIGHTS = 4
"""Parts of a patch's height, for the tops of bars."""
NOTHING_WEIGHT = 0.1
"""Of slots and patches where nothing is, which are by far the most."""


def plans_of(batch: MicroBatch, config: ModelConfig) -> Iterator[tuple[int, Mapping[str, Any], Size, TilePlan]]:
    """Sample number, truth, size and plan of each image of a row; its first tile is the sum of the plans' before it."""
    if "image_sizes" not in batch.visual:
        return
    sizes, grids = batch.visual["image_sizes"].tolist(), batch.visual["image_grids"].tolist()
    at = 0
    for number, sample in enumerate(batch.samples):
        for _ in sample.row.sizes:
            size = Size(*sizes[at])
            yield number, sample.extra, size, plan_grid(size, Size(*grids[at]), config)
            at += 1


class Targets:
    """What is where on the tiles of one row.

    Args:
        batch: the row.
        config: of the model.

    `slots` int64[N, P², 8] is a character's number from 1, 0 for none, −100 where it is too small to be asked;
    `shapes`, `colours`, `sizes`, `heights` int64[N, P²] likewise, shapes from 1 and the others −100 where no shape is.
    """

    def __init__(self, batch: MicroBatch, config: ModelConfig) -> None:
        num_tiles, self.per_side = len(batch.visual["pixel_values"]), config.patches_per_side
        self.patch = config.tiles.tile_size / self.per_side
        patches = self.per_side**2
        self.slots = torch.zeros(num_tiles, patches, SLOT_ROWS * SLOT_COLS, dtype=torch.int64)
        self.shapes = torch.zeros(num_tiles, patches, dtype=torch.int64)
        self.colours, self.sizes, self.heights = (torch.full_like(self.shapes, IGNORE_INDEX) for _ in range(3))
        first = 0
        side = config.tiles.tile_size
        for _, truth, size, plan in plans_of(batch, config):
            for char, x, y in truth.get("glyphs", ()):
                self._glyph(first, in_base(x, y, size, side), IGNORE_INDEX)
                self._glyph(first, in_grid(x, y, size, plan, side), CHARACTERS.index(char) + 1)
            for thing in truth.get("things", ()):
                x, y = thing[3:]
                self._thing(first, in_base(x, y, size, side), thing)
                self._thing(first, in_grid(x, y, size, plan, side), thing)
            first += plan.num_tiles

    def _at(self, place: InTile) -> tuple[int, float, float]:
        """Patch, and place within it in parts of 1."""
        row, col = (min(int(offset // self.patch), self.per_side - 1) for offset in (place.y, place.x))
        return row * self.per_side + col, place.y / self.patch - row, place.x / self.patch - col

    def _glyph(self, first: int, place: InTile | None, value: int) -> None:
        if place is not None:
            patch, down, across = self._at(place)
            row, col = min(int(down * SLOT_ROWS), SLOT_ROWS - 1), min(int(across * SLOT_COLS), SLOT_COLS - 1)
            self.slots[first + place.tile, patch, row * SLOT_COLS + col] = value

    def _thing(self, first: int, place: InTile | None, thing: Sequence[Any]) -> None:
        if place is None:
            return
        patch, down, _ = self._at(place)
        at = (first + place.tile, patch)
        self.shapes[at] = SHAPES.index(thing[0]) + 1
        self.colours[at] = COLOURS.index(thing[1])
        self.sizes[at] = SIZES.index(thing[2]) if thing[2] else IGNORE_INDEX
        self.heights[at] = min(int(down * HEIGHTS), HEIGHTS - 1)


class PatchHeads(nn.Module):
    """What is in a patch, from its feature: one linear layer for everything.

    Args:
        width: of a feature.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.counts = [len(SHAPES) + 1, len(COLOURS), len(SIZES), HEIGHTS]
        self.slots = nn.Linear(width, SLOT_ROWS * SLOT_COLS * (len(CHARACTERS) + 1))
        self.things = nn.Linear(width, sum(self.counts))

    def forward(self, features: Tensor, targets: Targets) -> Tensor:
        """Sum over a row's patches of the losses of float[N, P², D] features."""
        slots = self.slots(features).unflatten(-1, (SLOT_ROWS * SLOT_COLS, -1))
        shapes, *others = self.things(features).split(self.counts, dim=-1)
        total = weighted(slots, targets.slots) + weighted(shapes, targets.shapes)
        for logits, wanted in zip(others, (targets.colours, targets.sizes, targets.heights), strict=True):
            total = total + F.cross_entropy(
                logits.flatten(0, 1).float(),
                wanted.flatten().to(logits.device),
                ignore_index=IGNORE_INDEX,
                reduction="sum",
            )
        return total


def weighted(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy summed over float[..., classes], where class 0 is nothing and weighs less."""
    weight = torch.ones(logits.shape[-1], device=logits.device)
    weight[0] = NOTHING_WEIGHT
    flat = logits.flatten(0, -2).float()
    return F.cross_entropy(
        flat, targets.flatten().to(logits.device), weight, ignore_index=IGNORE_INDEX, reduction="sum"
    )


class CellLoss(nn.Module):
    """Teaches a stem tower from nothing; its normalisation learns its statistics meanwhile.

    Each worker learns them from its own tiles, and those of the first are kept; in training they are not used.
    """

    name = "cells"

    def __init__(self, model: LLaVANeXT) -> None:
        super().__init__()
        tower = model.image_processor.encoder
        if not isinstance(tower, StemVisionModel):
            raise ConfigError("extra loss CellLoss needs the small tower of our own (stem_vision_model)")
        for part in tower.modules():
            if isinstance(part, StemNorm):
                part.learn_statistics = True
        width = tower.config.stem_widths[-1]
        # Of a cell, its left and its right half: two slots.
        self.cells = nn.Conv2d(width, 2 * (len(CHARACTERS) + 1), 1)
        self.patches = PatchHeads(tower.config.hidden_size)
        self._seen: list[Tensor] = []
        tower.embeddings.stem.register_forward_hook(lambda _, __, out: self._seen.append(out))
        model.image_processor.register_forward_hook(lambda _, __, out: self._seen.append(out))

    def forward(self, model: LLaVANeXT, batch: MicroBatch, output: Any) -> tuple[Tensor, int]:
        """The loss of a row, and its tiles."""
        seen, self._seen[:] = list(self._seen), []
        if not batch.visual:
            return next(self.parameters()).sum() * 0.0, 0
        cells, features = seen
        targets = Targets(batch, model.config)
        side = targets.per_side
        # int[N, P, P, 2 cells down, 2 cells across, 2 halves] to a map of cells
        wanted = targets.slots.view(-1, side, side, SLOT_ROWS, SLOT_COLS // 2, 2).permute(0, 1, 3, 2, 4, 5)
        logits = self.cells(cells).unflatten(1, (2, -1)).permute(0, 3, 4, 1, 2)
        total = weighted(logits, wanted.reshape(logits.shape[:-1])) + self.patches(features, targets)
        return total / 10, len(features)


class FeatureLoss(nn.Module):
    """Teaches the projector to hand on what the tower sees."""

    name = "features"

    def __init__(self, model: LLaVANeXT) -> None:
        super().__init__()
        self.heads = PatchHeads(model.config.text_dim)
        self._seen: list[Tensor] = []
        model.projector.projector.register_forward_hook(lambda _, __, out: self._seen.append(out))

    def forward(self, model: LLaVANeXT, batch: MicroBatch, output: Any) -> tuple[Tensor, int]:
        """The loss of a row, and its tiles."""
        seen, self._seen[:] = list(self._seen), []
        if not batch.visual:
            return next(self.parameters()).sum() * 0.0, 0
        return self.heads(seen[0], Targets(batch, model.config)) / 10, len(seen[0])


class AttentionLoss(nn.Module):
    """Teaches the language model where to look before it says what it sees, where it has just read, and what was asked.

    Heads of `NAMED_LAYER` that are not taught to look at the image learn to look from a shape, a colour or "block" that
    was just said to the same word in the question, so that what is listed is matched with what is asked for.
    """

    name = "attention"
    LAYERS: ClassVar = {1: 0, 2: 1}
    """Layer → how many tokens after a query its heads look: at what was said last, and at what comes next."""
    HEADS = 2
    NAMED_LAYER = 1
    WEIGHT = 0.3

    def __init__(self, model: LLaVANeXT) -> None:
        super().__init__()
        tokenizer = word_tokenizer()
        if len(tokenizer) != model.language_model.config.vocab_size:
            raise ConfigError("extra loss AttentionLoss needs the vocabulary of `checkpoints.fresh`")
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self._lengths = [len(token) for token in tokens]
        self._end = tokenizer.eos_token_id
        bare = [token.removeprefix("Ġ").removesuffix("s") for token in tokens]
        self._named_word = [word if word in {*COLOURS, *SHAPES, "block"} else "" for word in bare]
        # Nothing of its own is learned, but every extra loss has a device.
        self._held: dict[str, Any] = {}
        for layer in self.LAYERS:
            attention = model.language_model.model.layers[layer].self_attn
            for name in ("q_proj", "k_proj"):
                getattr(attention, name).register_forward_hook(self._keeper(f"{layer}.{name}"))
            attention.register_forward_pre_hook(self._keep_places, with_kwargs=True)

    def _keeper(self, name: str) -> Any:
        def keep(_: nn.Module, __: Any, out: Tensor) -> None:
            self._held[name] = out

        return keep

    def _keep_places(self, _: nn.Module, __: Any, options: dict[str, Any]) -> None:
        self._held["places"] = options["position_embeddings"]

    def forward(self, model: LLaVANeXT, batch: MicroBatch, output: Any) -> tuple[Tensor, int]:
        """The loss of a row, and the answer tokens that an image shows."""
        places = self._held.pop("places")
        asked = [
            (batch.borders[number], batch.borders[number + 1], wanted)
            for number, truth, size, plan in plans_of(batch, model.config)
            if (wanted := self._wanted(batch, number, truth, size, plan, model.config))
        ]
        named = [
            (batch.borders[number], batch.borders[number + 1], wanted)
            for number in range(len(batch.samples))
            if (wanted := self._named(batch, number))
        ]
        lessons = [(layer, slice(self.HEADS), ahead, asked) for layer, ahead in self.LAYERS.items()]
        lessons.append((self.NAMED_LAYER, slice(self.HEADS, None), 0, named))
        heads = {layer: self._of_layer(layer, model, places) for layer in self.LAYERS}
        total = torch.zeros((), device=places[0].device)
        for layer, taught, ahead, given in lessons:
            query, key = (of_heads[taught] for of_heads in heads[layer])
            total = total + query.sum() * 0.0
            for start, stop, wanted in given:
                total = total + self._missed(query[:, start:stop], key[:, start:stop], wanted, ahead)
        return self.WEIGHT * total, sum(len(wanted) for _, _, wanted in asked)

    def _of_layer(self, layer: int, model: LLaVANeXT, places: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Queries and keys of a layer, float[heads, T, width] each."""
        config = model.language_model.config
        heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        query, key = (
            self._held.pop(f"{layer}.{name}").view(1, -1, heads, width).transpose(1, 2) for name in ("q_proj", "k_proj")
        )
        query, key = apply_rotary_pos_emb(query, key, *places)
        return query[0], key[0]

    def _missed(self, query: Tensor, key: Tensor, wanted: list[tuple[int, list[int]]], ahead: int) -> Tensor:
        """Sum of the losses of one sample: how little its heads look at the tokens that they should look at."""
        rows = torch.tensor([position - ahead for position, _ in wanted], device=query.device)
        scores = query[:, rows] @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        later = torch.arange(key.shape[1], device=query.device) > rows[:, None]
        chances = scores.float().masked_fill(later, float("-inf")).softmax(dim=-1).mean(dim=0)
        shown = torch.zeros_like(chances)
        for index, (_, tokens) in enumerate(wanted):
            shown[index, tokens] = 1.0
        looked: Tensor = (chances * shown).sum(dim=-1)
        return -looked.clamp(min=1e-6).log().sum()

    def _wanted(
        self, batch: MicroBatch, number: int, truth: Mapping[str, Any], size: Size, plan: TilePlan, config: ModelConfig
    ) -> list[tuple[int, list[int]]]:
        """(answer token, image tokens that show it), both counted from the sample's first token."""
        start, stop = batch.borders[number], batch.borders[number + 1]
        ids, labels = batch.input_ids[0, start:stop].tolist(), batch.labels[0, start:stop].tolist()
        image = ids.index(config.image_token_id)
        found: list[tuple[int, list[int]]] = []
        for run, seen in zip(answers(labels), truth.get("seen", ()), strict=False):
            offset = 0
            for position in run:
                middle = offset + self._lengths[labels[position]] / 2
                offset += self._lengths[labels[position]]
                if labels[position] == self._end:
                    continue
                shown = [one for one in seen if one[0] <= middle < one[1] or one[0] <= middle - 0.5 < one[1]]
                # A token of two letters is shown by the first; what is seen in several places, by all of them.
                tokens = {
                    image + token
                    for first, last, x, y in shown
                    if (first, last) == tuple(shown[0][:2])
                    for token in self._tokens(x, y, size, plan, config, base=last - first > 1)
                }
                found += [(position, sorted(tokens))] if tokens else []
        return found

    def _named(self, batch: MicroBatch, number: int) -> list[tuple[int, list[int]]]:
        """(answer token, tokens of its question with the same word; the sample's first token where it has none)."""
        start, stop = batch.borders[number], batch.borders[number + 1]
        ids, labels = batch.input_ids[0, start:stop].tolist(), batch.labels[0, start:stop].tolist()
        words = [self._named_word[token] for token in ids]
        found: list[tuple[int, list[int]]] = []
        asked = 0
        for run in answers(labels):
            question = range(asked, run[0])
            if any(words[at] for at in question):
                for position in run:
                    if words[position]:
                        found.append((position, [at for at in question if words[at] == words[position]] or [0]))
            asked = run[-1] + 1
        return found

    def _tokens(self, x: float, y: float, size: Size, plan: TilePlan, config: ModelConfig, *, base: bool) -> list[int]:
        side = config.tiles.tile_size
        places = [in_grid(x, y, size, plan, side), in_base(x, y, size, side) if base else None]
        tokens = [token_of(place, plan, config) for place in places if place is not None]
        return [token for token in tokens if token is not None]


def answers(labels: Sequence[int]) -> list[list[int]]:
    """Positions of each answer's tokens.

    Example:
        >>> answers([-100, 5, 6, -100, -100, 7])
        [[1, 2], [5]]
    """
    runs: list[list[int]] = []
    for position, label in enumerate(labels):
        if label != IGNORE_INDEX:
            if position == 0 or labels[position - 1] == IGNORE_INDEX:
                runs.append([])
            runs[-1].append(position)
    return runs
