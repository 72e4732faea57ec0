"""Where a point of an image ends up, against the pixels and the packing themselves; what extra losses ask, of whom."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from llava_core.checkpoints.fresh import fresh_config, new_model, word_tokenizer
from llava_core.config import plan_tiles
from llava_core.errors import ConfigError
from llava_core.geometry import Size
from llava_core.losses import LossConfig
from llava_core.packing import pack_image
from llava_core.processor import LLaVAProcessor
from llava_core.stem_tower import StemNorm
from llava_core.tiling import tile_image
from pipelines.synthetic.source import Drawings
from pipelines.training import seeing
from pipelines.training.loader import MicroBatch, encode, micro_batch
from pipelines.training.module import TrainModule
from pipelines.training.places import in_base, in_grid, token_of
from pipelines.training.samples import Sampler
from pipelines.training.stages import Stage
from tests.pipelines.training.cases import write_model

CONFIG = fresh_config()
SIDE = CONFIG.tiles.tile_size


def batch_of(argument: str, count: int, **settings: Any) -> MicroBatch:
    processor = LLaVAProcessor(word_tokenizer(), CONFIG)
    sampler = Sampler(processor, Stage(name="x", learning_rates={"extra": 1.0}, batch_size=1, **settings))
    samples = [sampler(row) for row in Drawings(argument).read(0)[:count]]  # type: ignore[arg-type]
    return micro_batch([(s, encode(s, processor, settings.get("max_tiles"))) for s in samples], tower=True)  # type: ignore[arg-type,misc]


@pytest.mark.parametrize("size", [Size(200, 170), Size(330, 100), Size(90, 310), Size(150, 224), Size(70, 60)])
def test_a_point_is_where_the_tiles_show_it_and_its_token_holds_that_patch(size: Size) -> None:
    """Paint a blob; it must be brightest at the places that are computed, and in the feature that is computed."""
    plan = plan_tiles(size, CONFIG)
    for y, x in ((0.2, 0.7), (0.55, 0.35), (0.85, 0.9)):
        top, left = int(y * size.height), int(x * size.width)
        image = np.zeros((*size, 3), np.uint8)
        image[top : top + 4, left : left + 4] = 255
        tiles = torch.from_numpy(tile_image(image, plan, CONFIG.tiles))[:, 0].float()
        features = torch.nn.functional.avg_pool2d(tiles[:, None], 16).flatten(1)[..., None]
        packed = pack_image(features, plan, "spatial_unpad", torch.tensor([-1.0]))[:, 0]
        for place in (in_base(left + 2, top + 2, size, SIDE), in_grid(left + 2, top + 2, size, plan, SIDE)):
            assert place is not None
            shown = tiles[0] if place.tile == 0 else tiles[1:].amax(dim=0)
            assert tiles[place.tile, int(place.y), int(place.x)] > 0.4 * shown.max()
            token = token_of(place, plan, CONFIG)
            assert token is not None
            # A blob on a border between patches lies in two of them.
            whole = packed[:49] if place.tile == 0 else packed[49:]
            assert packed[token] > 0.2 * whole.max()


def test_without_a_grid_there_is_only_the_base_tile() -> None:
    plan = plan_tiles(Size(200, 170), CONFIG, max_tiles=0)
    assert in_grid(10, 10, Size(200, 170), plan, SIDE) is None
    assert token_of(in_base(169, 199, Size(200, 170), SIDE), plan, CONFIG) == 48


def test_every_character_has_a_slot_of_its_own_and_none_is_asked_of_the_base_tile() -> None:
    batch = batch_of("receipt;grid", 3)
    targets = seeing.Targets(batch, CONFIG)
    glyphs = [glyph for sample in batch.samples for glyph in sample.extra["glyphs"]]
    found = targets.slots[targets.slots > 0]
    assert sorted(found.tolist()) == sorted(seeing.CHARACTERS.index(char) + 1 for char, _, _ in glyphs)
    first = 0
    for _, _, _, plan in seeing.plans_of(batch, CONFIG):
        assert int((targets.slots[first] > 0).sum()) == 0 and int((targets.slots[first] == -100).sum()) > 20
        first += plan.num_tiles


def test_shapes_are_asked_of_base_and_grid() -> None:
    batch = batch_of("scene;grid", 4)
    targets = seeing.Targets(batch, CONFIG)
    things = [thing for sample in batch.samples for thing in sample.extra["things"]]
    assert int((targets.shapes > 0).sum()) == 2 * len(things)
    wanted = sorted(seeing.COLOURS.index(thing[1]) for thing in things for _ in range(2))
    assert sorted(targets.colours[targets.shapes > 0].tolist()) == wanted
    assert int((targets.colours[targets.shapes == 0] != -100).sum()) == 0


def test_cells_teach_the_tower_alone_and_its_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model()
    module = TrainModule(model, LossConfig(text_weight=0.0), {"cells": seeing.CellLoss(model)}).train()
    assert all(part.learn_statistics for part in model.modules() if isinstance(part, StemNorm))
    monkeypatch.setattr(model.language_model, "forward", lambda *_, **__: pytest.fail("the language model ran"))
    sums, counts = module(batch_of("receipt,scene;grid", 3))
    assert sums[:3].tolist() == [0, 0, 0] and counts[3] > 5
    sums[3].backward()
    moved = {
        name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert moved == {"image_processor"}


def test_the_cell_loss_falls_to_nothing_for_heads_that_know() -> None:
    """Logits made of the targets have a loss near 0, shifted ones do not: cells and patches mean the same places."""
    batch = batch_of("receipt;grid", 2)
    targets = seeing.Targets(batch, CONFIG)
    known = torch.nn.functional.one_hot(targets.slots.clamp(min=0), 44).float() * 40
    assert float(seeing.weighted(known, targets.slots)) < 1e-3
    assert float(seeing.weighted(known.roll(1, dims=1), targets.slots)) > 1000


def test_attention_is_shown_the_token_with_the_glyph_and_moves_only_what_comes_before_it() -> None:
    batch = batch_of("receipt;grid", 2)
    model = new_model()
    loss = seeing.AttentionLoss(model)
    for number, truth, size, plan in seeing.plans_of(batch, CONFIG):
        wanted = loss._wanted(batch, number, truth, size, plan, CONFIG)
        start, stop = batch.borders[number], batch.borders[number + 1]
        answered = [label for label in batch.labels[0, start:stop].tolist() if label not in (-100, loss._end)]
        fields = sum(len(seen) for seen in truth["seen"])
        assert len(wanted) == fields <= len(answered)
        image = batch.input_ids[0, start:stop].tolist().index(CONFIG.image_token_id)
        count = batch.samples[number].input_ids.count(CONFIG.image_token_id)
        assert all(image + 49 <= token < image + count for _, tokens in wanted for token in tokens)
        assert all(len(tokens) == 1 for _, tokens in wanted)
    module = TrainModule(model, LossConfig(), {"attention": loss}).train()
    sums, counts = module(batch)
    assert counts[3] > 20
    sums[3].backward()
    layers = model.language_model.model.layers
    assert all(layers[layer].self_attn.q_proj.weight.grad.abs().sum() > 0 for layer in (1, 2))
    assert not layers[2].self_attn.v_proj.weight.grad.any() and not layers[3].self_attn.q_proj.weight.grad.any()


def test_one_layer_looks_at_what_was_said_and_the_next_at_what_comes() -> None:
    loss = seeing.AttentionLoss(new_model())
    keys = torch.eye(6).expand(2, 6, 6) * 50
    queries = torch.zeros(2, 6, 6)
    # what is asked with the token at 4, which image token 2 shows, finds it; the token before knows nothing of it
    queries[:, 4, 2] = 50.0
    said, next_one = (loss._missed(queries, keys, [(4, [2])], loss.LAYERS[layer]) for layer in (1, 2))
    assert float(said) < 1e-3
    assert float(next_one) == pytest.approx(math.log(4))


def test_what_is_said_is_matched_with_the_question_that_asked() -> None:
    batch = batch_of("boxes;grid", 3)
    loss = seeing.AttentionLoss(new_model())
    matched = missing = 0
    for number, sample in enumerate(batch.samples):
        start, stop = batch.borders[number], batch.borders[number + 1]
        tokens = word_tokenizer().convert_ids_to_tokens(batch.input_ids[0, start:stop].tolist())
        opened = [place for place, token in enumerate(tokens) if token == "USER:"]
        for position, targets in loss._named(batch, number):
            word = tokens[position].strip("Ġ")
            begin = max(place for place in opened if place < position)
            end = begin + tokens[begin:].index("ASSISTANT:")
            assert end < position and word in (*seeing.COLOURS, *seeing.SHAPES)
            same = [place for place in range(begin, end) if tokens[place].strip("Ġs") == word.strip("s")]
            assert targets == (same or [0])
            matched += bool(same)
            missing += not same
        assert len(sample.row.turns) > 6  # type: ignore[attr-defined]
    assert matched > 20 and missing > 20


def test_shapes_and_values_are_looked_for_in_base_and_grid_alike() -> None:
    batch = batch_of("scene;grid", 3)
    loss = seeing.AttentionLoss(new_model())
    for number, truth, size, plan in seeing.plans_of(batch, CONFIG):
        wanted = loss._wanted(batch, number, truth, size, plan, CONFIG)
        # One in the base tile and one in the grid for each; how many there are is seen in all of them.
        assert {len(tokens) for _, tokens in wanted} <= {2 * count for count in range(1, 5)}
        assert max(len(tokens) for _, tokens in wanted) == 2 * len(truth["things"])


def test_losses_refuse_models_that_they_are_not_for(tmp_path: Any) -> None:
    from llava_core.checkpoints import load_model

    other = load_model(write_model(tmp_path))
    with pytest.raises(ConfigError, match="stem_vision_model"):
        seeing.CellLoss(other)
    with pytest.raises(ConfigError, match="vocabulary"):
        seeing.AttentionLoss(other)


def test_a_row_can_ask_for_fewer_tiles_than_its_stage() -> None:
    plain, dropped = batch_of("scene;grid", 8), batch_of("scene", 8)
    assert len(dropped.visual["pixel_values"]) < len(plain.visual["pixel_values"])
    assert all(sample.num_tiles in (1, 3, 5) or sample.num_tiles == 4 for sample in plain.samples)
    assert {1} < {sample.num_tiles for sample in dropped.samples}
    assert len(batch_of("scene;grid", 8, max_tiles=0).visual["pixel_values"]) == 8
