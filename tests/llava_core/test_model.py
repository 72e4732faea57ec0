"""The whole model: inputs it takes and refuses, generation, caches, checkpointing, compilation, the document's form."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from llava_core.config import ConnectorConfig, ModelConfig, TileConfig, VideoConfig, plan_tiles
from llava_core.document_form import concatenate, group_by_sample
from llava_core.errors import ConfigError
from llava_core.geometry import Size
from llava_core.model import LLaVANeXT, LLaVAOneVision, model_class
from llava_core.packing import pack_image
from tests.parity.transfer import twin_of
from tests.tiny_models import IMAGE_TOKEN, TILE, VIDEO_TOKEN, config_for, hf_next, hf_onevision

SIZES = [[40, 33], [90, 20]]
NEXT = config_for(hf_next())
ONEVISION = config_for(hf_onevision())


def build(config: ModelConfig = NEXT, seed: int = 0) -> LLaVANeXT:
    torch.manual_seed(seed)
    return model_class(config)(config).eval()


def tiles_for(config: ModelConfig, sizes: list[list[int]], num_images: int = 1) -> tuple[Tensor, list[int]]:
    """uint8 tiles of images of these sizes, every pixel different from its neighbours, and their token counts."""
    plans = [plan_tiles(Size(*size), config, num_images=num_images) for size in sizes]
    count = sum(plan.num_tiles for plan in plans)
    tiles = (torch.arange(count * 3 * TILE**2).view(count, 3, TILE, TILE) * 29 % 251).to(torch.uint8)
    return tiles, [plan.num_image_tokens for plan in plans]


def prompt(counts: list[int], tail: tuple[int, ...] = (20, 21)) -> Tensor:
    ids = [1, 5]
    for count in counts:
        ids += [IMAGE_TOKEN] * count + [9]
    return torch.tensor([[*ids, *tail]])


def inputs_for(config: ModelConfig = NEXT) -> dict[str, Any]:
    tiles, counts = tiles_for(config, SIZES)
    return {"input_ids": prompt(counts), "pixel_values": tiles, "image_sizes": SIZES}


def test_features_stand_where_placeholders_were_and_text_where_text_was() -> None:
    model, inputs = build(), inputs_for()
    embeds = model.embed_inputs(**inputs)
    features = model.encode_images(inputs["pixel_values"], SIZES)
    ids = inputs["input_ids"][0]
    assert torch.equal(embeds[0][ids == IMAGE_TOKEN], torch.cat(features))
    text = model.language_model.get_input_embeddings()(ids[ids != IMAGE_TOKEN])
    assert torch.equal(embeds[0][ids != IMAGE_TOKEN], text)


def test_images_of_a_batch_are_placed_in_order_whichever_rows_they_belong_to() -> None:
    model = build()
    tiles, (first, second) = tiles_for(NEXT, SIZES)
    rows = [prompt([first])[0], prompt([second])[0]]
    longest = max(map(len, rows))
    ids = torch.stack([torch.cat([torch.zeros(longest - len(row), dtype=torch.long), row]) for row in rows])
    mask = (ids != 0).long()
    batched = model(input_ids=ids, attention_mask=mask, pixel_values=tiles, image_sizes=SIZES).visual_features
    assert [len(part) for part in batched] == [first, second]
    alone = model.encode_images(tiles[5:], SIZES[1:])
    assert torch.allclose(batched[1], alone[0], atol=1e-6)  # measured 1.2e-7


def test_a_grid_that_was_given_replaces_the_policy() -> None:
    model = build()
    plan = model.plan_images([[40, 33]], [[1, 3]])[0]
    assert plan.num_tiles == 4
    tiles, _ = tiles_for(NEXT, SIZES)
    features = model.encode_images(tiles[:4], [[40, 33]], torch.tensor([[1, 3]]))
    assert features[0].shape[0] == plan.num_image_tokens


def test_text_alone_runs_and_matches_the_language_model() -> None:
    model, ids = build(), torch.tensor([[1, 5, 9, 20]])
    assert torch.equal(model(input_ids=ids).logits, model.language_model(ids).logits)
    assert model(input_ids=ids).visual_features == ()
    assert model.generate(input_ids=ids, max_new_tokens=3, do_sample=False, pad_token_id=0).shape == (1, 3)
    empty = torch.zeros(0, 3, TILE, TILE)
    assert torch.equal(model(input_ids=ids, pixel_values=empty, image_sizes=[]).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("delta", [-1, 1])
def test_placeholder_mismatch_names_both_counts(delta: int) -> None:
    model, inputs = build(), inputs_for()
    total = int((inputs["input_ids"] == IMAGE_TOKEN).sum())
    ids = prompt([total + delta])
    with pytest.raises(ValueError, match=f"{total + delta} image placeholders.*{total} features"):
        model(**(inputs | {"input_ids": ids}))
    with pytest.raises(ValueError, match=r"3 image placeholders.*0 features"):
        model(input_ids=prompt([3]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": torch.zeros(8, 3, TILE, TILE)}, "8 tiles, but image_sizes stand for 9"),
        ({"pixel_values": torch.zeros(2, 4, 3, TILE, TILE)}, "2 images of 4 tiles.*2 images of up to 5"),
        ({"image_sizes": None}, "without image_sizes"),
        ({"num_images_per_sample": [1]}, "adds up to 1, but image_sizes has 2"),
        ({"image_grids": [[1, 1]]}, "image_grids has 1 images, image_sizes has 2"),
        ({"labels": torch.zeros(1, 3, dtype=torch.long), "logits_to_keep": 1}, "leave logits_to_keep at 0"),
        ({"pixel_values_videos": torch.zeros(1, 2, 3, TILE, TILE)}, "Video encoding not enabled"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()(**(inputs_for() | change))


def test_constructor_refusals() -> None:
    with pytest.raises(ConfigError, match="got a config and also max_images"):
        LLaVANeXT(NEXT, max_images=3)
    with pytest.raises(ConfigError, match="vision_dim: not a keyword"):
        LLaVANeXT(vision_dim=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="num_visual_tokens is 500; expected a square"):
        LLaVANeXT(num_visual_tokens=500)
    with pytest.raises(ConfigError, match="'no_such_model'; expected a causal"):
        LLaVANeXT(dataclasses.replace(NEXT, text={"model_type": "no_such_model", "hidden_size": 48}))
    with pytest.raises(ValueError, match="without a language model"):
        build(dataclasses.replace(NEXT, text=None))(inputs_embeds=torch.zeros(1, 2, 48))


def test_a_placeholder_id_beyond_the_vocabulary_is_never_looked_up() -> None:
    config = dataclasses.replace(NEXT, image_token_id=99)
    near, far = build(), build(config)
    inputs = inputs_for()
    ids = torch.where(inputs["input_ids"] == IMAGE_TOKEN, 99, inputs["input_ids"])
    assert torch.equal(near(**inputs).logits, far(**(inputs | {"input_ids": ids})).logits)


def test_logits_to_keep() -> None:
    model, inputs = build(), inputs_for()
    whole, last = model(**inputs).logits, model(**inputs, logits_to_keep=2).logits
    assert torch.allclose(last, whole[:, -2:], atol=1e-6)
    assert last.shape[1] == 2


def test_several_images_share_a_sample_only_where_they_belong_together() -> None:
    connector = ConnectorConfig(image_newline=True, cross_image_attention=True)
    model = build(dataclasses.replace(NEXT, connector=connector))
    with torch.no_grad():
        model.projector.cross_image_attention.attention.out_proj.weight.normal_()
    tiles, _ = tiles_for(NEXT, SIZES)
    apart = model.encode_images(tiles, SIZES, None, [1, 1])
    together = model.encode_images(tiles, SIZES, None, [2])
    assert torch.equal(torch.cat(apart), torch.cat(model.encode_images(tiles, SIZES)))
    assert (apart[0] - together[0]).abs().max() > 1e-3


def test_multi_image_tiles_of_onevision_are_single() -> None:
    model = build(ONEVISION)
    plans = model.plan_images([[90, 61], [20, 30], [31, 77]], None, torch.tensor([1, 2]))
    assert [plan.num_tiles for plan in plans] == [7, 1, 1]


def test_video_with_every_option_of_the_document() -> None:
    video = VideoConfig(temporal_encoder=True, newline_position="frame", max_frames=4)
    model = build(dataclasses.replace(ONEVISION, video=video))
    frames = torch.randn(2, 3, 3, TILE, TILE)
    encoded = model.encode_videos(frames)
    assert [part.shape for part in encoded] == [(3 * (16 + 1), 48)] * 2
    swapped = model.encode_videos(frames[:, [1, 0, 2]])
    assert not torch.allclose(encoded[0].view(3, 17, 48)[1], swapped[0].view(3, 17, 48)[0], atol=1e-3)
    ids = torch.tensor([[1, *[VIDEO_TOKEN] * 51, 3]])
    assert model(input_ids=ids, pixel_values_videos=frames[:1]).logits.shape == (1, 53, 96)


@pytest.mark.parametrize("config", [ONEVISION, NEXT])
def test_frames_are_squashed_as_the_processor_does(config: ModelConfig) -> None:
    """OneVision pads an image that stands alone, but no frame."""
    frames = np.random.default_rng(3).integers(0, 256, (2, 3, 61, 90, 3), dtype=np.uint8)
    tiles = build(config).tile_frames(torch.from_numpy(frames).permute(0, 1, 4, 2, 3))
    assert tiles.shape == (2, 3, 3, TILE, TILE)
    expected = Image.fromarray(frames[1, 2]).resize((TILE, TILE), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(tiles[1, 2].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_connector_options_reach_the_features() -> None:
    connector = ConnectorConfig(image_newline=True, compression_ratio=2, position_embedding=True, num_layers=3)
    config = dataclasses.replace(NEXT, connector=connector)
    model = build(config)
    tiles, counts = tiles_for(config, SIZES)
    features = model.encode_images(tiles, SIZES)
    assert [len(part) for part in features] == counts
    assert features[0][:16].shape == (16, 48), "the base tile is 7 patches a side pooled to 4"
    plans = model.plan_images(SIZES)
    with torch.no_grad():
        by_hand = model.projector(model.image_processor(tiles[:5]), [plans[0].grid])
    expected = pack_image(by_hand, plans[0], "spatial_unpad", model.image_newline)
    assert torch.allclose(features[0], expected, atol=1e-6)  # measured 6.0e-8: 9 tiles at once against 5


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model, inputs = build().train(), inputs_for()
    inputs |= {"labels": inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE_TOKEN, -100)}
    runs: list[str] = []
    model.image_processor.encoder.encoder.layers[0].self_attn.register_forward_hook(lambda *_: runs.append("tower"))
    model.language_model.model.layers[0].self_attn.register_forward_hook(lambda *_: runs.append("text"))
    kept = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.zero_grad()
        runs.clear()
        model(**inputs, use_cache=False).loss.backward()
        kept.append(({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, sorted(runs)))
    assert kept[0][1] == ["text", "tower"]
    assert kept[1][1] == ["text", "text", "tower", "tower"], "layers should have run again"
    assert kept[0][0].keys() == kept[1][0].keys()
    assert all(torch.equal(kept[0][0][name], kept[1][0][name]) for name in kept[0][0])


def test_a_batch_without_images_can_still_give_every_visual_parameter_a_gradient() -> None:
    connector = ConnectorConfig(image_newline=True, position_embedding=True, cross_image_attention=True)
    config = dataclasses.replace(NEXT, connector=connector, video=VideoConfig(temporal_encoder=True))
    model, ids = build(config).train(), torch.tensor([[1, 5, 9, 20]])
    unused = {f"image_processor.{name}" for name, _ in model.image_processor.unused_parameters()}
    named = [(n, p) for n, p in model.named_parameters() if not n.startswith("language_model")]
    visual = [parameter for name, parameter in named if name not in unused]
    assert 0 < len(visual) < len(named)
    plain = model(input_ids=ids, labels=ids)
    plain.loss.backward()
    assert all(p.grad is None for p in visual)
    model.always_run_tower = True
    model.zero_grad()
    padded = model(input_ids=ids, labels=ids)
    padded.loss.backward()
    assert torch.equal(plain.logits, padded.logits)
    assert all(p.grad is not None and not p.grad.any() for p in visual)
    runs: list[int] = []
    model.image_processor.register_forward_hook(lambda *_: runs.append(1))
    model(input_ids=ids)
    assert len(runs) == 1, "sharded parameters are gathered by running"


def test_bfloat16() -> None:
    inputs = inputs_for()
    exact, rounded = build()(**inputs).logits, build().to(torch.bfloat16)(**inputs).logits
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.02  # measured 0.0050 on values up to 0.63


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.parametrize("plain_sizes", [True, False])
def test_compiled_model_gives_the_same_logits(plain_sizes: bool) -> None:
    """Sizes as plain numbers leave one graph; as a tensor they must be read, which breaks it."""
    model, inputs = build(), inputs_for()
    if not plain_sizes:
        inputs["image_sizes"] = torch.tensor(SIZES)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=plain_sizes)
    with torch.no_grad():
        assert torch.equal(compiled(**inputs, use_cache=False).logits, model(**inputs, use_cache=False).logits)


def test_chunks_of_tiles_give_what_one_pass_gives() -> None:
    model = build()
    tiles = tiles_for(NEXT, SIZES * 4)[0]
    whole = model.projector(model.image_processor(tiles))
    sequential = model.process_patches_sequential(tiles, max_memory_mb=1)
    assert model.image_processor.tiles_per_chunk(1) < tiles.shape[0]
    assert (sequential - whole).abs().max() < 1e-6  # measured 0.0
    assert not sequential.requires_grad


QUESTIONS = ([20, 21, 22, 3], [44], [60, 61, 62, 63, 64, 65, 66, 3], [13, 14])


@pytest.mark.parametrize("text", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_questions_on_one_cache_are_answered_as_alone(text: str, batch_size: int) -> None:
    model = twin_of(hf_next(text, seed=4))  # its weights are large enough that answers differ
    inputs = inputs_for()
    options = {"max_new_tokens": 7, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    runs: list[int] = []
    model.image_processor.register_forward_hook(lambda *_: runs.append(1))
    prefix = model.prefill(**inputs)
    answers = model.generate_with_cache(prefix, [torch.tensor(q) for q in QUESTIONS], batch_size=batch_size, **options)
    again = model.generate_with_cache(prefix, [torch.tensor(QUESTIONS[2])], **options)
    assert len(runs) == 1, "the image should be encoded once"
    assert prefix.length == inputs["input_ids"].shape[1]
    expected = []
    for question in QUESTIONS:
        ids = torch.cat([inputs["input_ids"], torch.tensor([question])], dim=1)
        expected.append(model.generate(**(inputs | {"input_ids": ids}), **options)[0].tolist())
    assert [answer.tolist() for answer in answers] == expected
    assert again[0].tolist() == expected[2], "the prefix should be as it was"
    assert len({tuple(answer) for answer in expected}) > 1


def test_a_prefix_is_one_sample_and_a_question_has_tokens() -> None:
    model = build()
    ids = torch.tensor([[1, 5], [1, 6]])
    with pytest.raises(ValueError, match="one sample without padding"):
        model.prefill(input_ids=ids)
    with pytest.raises(ValueError, match="one sample without padding"):
        model.prefill(input_ids=ids[:1], attention_mask=torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match="no tokens"):
        model.generate_with_cache(model.prefill(input_ids=ids[:1]), [torch.tensor([], dtype=torch.long)])


CONCATENATING = dataclasses.replace(
    NEXT,
    placement="concatenate",
    tiles=TileConfig(policy="grid", tile_size=TILE, max_tiles=4, max_images=5),
    connector=ConnectorConfig(position_embedding=True, max_grid=4),
)


def test_document_form_puts_start_features_end_text() -> None:
    model = build(CONCATENATING)
    images = torch.rand(1, 3, 30, 61)
    text = torch.randn(1, 4, 48)
    output = model(images=images, text_embeds=text, attention_mask=torch.tensor([[1, 1, 1, 0]]))
    count = plan_tiles(Size(30, 61), CONCATENATING).num_image_tokens
    assert output["visual_features"].shape == (1, count, 48)
    embeds = output["multimodal_embeds"]
    assert torch.equal(embeds[:, :1], model.image_start_token)
    assert torch.equal(embeds[:, 1 : count + 1], output["visual_features"])
    assert torch.equal(embeds[:, count + 1 : count + 2], model.image_end_token)
    assert torch.equal(embeds[:, count + 2 :], text)
    assert output["attention_mask"].tolist() == [[1] * (count + 2) + [1, 1, 1, 0]]
    assert output["logits"].shape == (1, count + 6, 96)


def test_document_form_pads_shorter_samples_on_the_left_and_masks_them() -> None:
    model = build(CONCATENATING)
    images = (torch.arange(3 * 3 * 28 * 28).view(3, 3, 28, 28) % 255).to(torch.uint8)
    text = torch.randn(2, 1, 48)
    output = model(images=images, text_embeds=text, num_images_per_sample=[1, 2])
    # One image: 49 + 14×14 features. Two: 49 each, as their sample has 5 tiles in all.
    gap = (49 + 196) - 2 * 49
    assert output["attention_mask"].tolist() == [[1] * (245 + 3), [0] * gap + [1] * (98 + 3)]
    assert not output["multimodal_embeds"][1, :gap].any()
    assert not output["visual_features"][1, :gap].any()
    alone = model(images=images[1:], text_embeds=text[1:], num_images_per_sample=[2])
    assert torch.allclose(output["multimodal_embeds"][1, gap:], alone["multimodal_embeds"][0], atol=1e-6)
    assert torch.allclose(output["logits"][1, gap:], alone["logits"][0], atol=1e-5)  # measured 3.0e-8


def test_concatenated_labels_and_positions_by_hand() -> None:
    visual = [torch.full((2, 1), 7.0), torch.zeros(0, 1)]
    start, end = torch.full((1, 1, 1), 1.0), torch.full((1, 1, 1), 2.0)
    text = torch.tensor([[[5.0], [6.0]], [[8.0], [9.0]]])
    joined = concatenate(visual, text, (start, end), None, torch.tensor([[-100, 3], [4, -100]]))
    assert joined.embeds[..., 0].tolist() == [[1, 7, 7, 2, 5, 6], [0, 0, 0, 0, 8, 9]]
    assert joined.attention_mask.tolist() == [[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]]
    assert joined.position_ids.tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 1]]
    assert joined.labels.tolist() == [[-100] * 5 + [3], [-100] * 4 + [4, -100]]
    with pytest.raises(ValueError, match="1 samples have images, but there are texts for 2"):
        concatenate(visual[:1], text, (start, end))


def test_images_are_grouped_by_sample() -> None:
    images = [torch.full((n, 1), float(n)) for n in (1, 2, 3)]
    grouped = group_by_sample(images, [1, 0, 2])
    assert [part.flatten().tolist() for part in grouped] == [[1], [], [2, 2, 3, 3, 3]]
    with pytest.raises(ValueError, match="adds up to 2, but there are 3"):
        group_by_sample(images, [1, 1])


def test_document_form_trains_and_generates() -> None:
    model = build(CONCATENATING)
    tiles, sizes, grids, _ = model.tile_images(torch.rand(1, 3, 30, 61))
    inputs = {"input_ids": torch.tensor([[1, 5, 9]]), "pixel_values": tiles, "image_sizes": sizes, "image_grids": grids}
    output = model(**inputs, labels=torch.tensor([[-100, 5, 9]]))
    output.loss.backward()
    assert model.image_start_token.grad.any()
    assert model.image_end_token.grad.any()
    assert model.projector.position_embedding.grad.any()
    new = model.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None)
    ids = inputs["input_ids"]
    for expected in new[0]:
        assert model(**(inputs | {"input_ids": ids})).logits[0, -1].argmax() == expected
        ids = torch.cat([ids, expected.view(1, 1)], dim=1)


def test_max_images_bounds_tiles_of_a_sample() -> None:
    model = build(CONCATENATING)  # 5 tiles a sample, base tiles counted
    square = [[60, 60]]
    assert [plan.num_tiles for plan in model.plan_images(square)] == [5]
    assert [plan.num_tiles for plan in model.plan_images(square * 2, None, [2])] == [1, 1]
    with pytest.raises(ValueError, match="6 images, but the model takes at most 5"):
        model.plan_images(square * 6, None, [6])


def test_placeholder_models_say_what_they_need() -> None:
    with pytest.raises(ValueError, match='by "placeholder"; give it input_ids'):
        build()(images=torch.rand(1, 3, 30, 61), text_embeds=torch.zeros(1, 2, 48))
    with pytest.raises(ValueError, match="Either images or video_frames required"):
        build(CONCATENATING)(text_embeds=torch.zeros(1, 2, 48))
    with pytest.raises(ValueError, match="Either images or video_frames required"):
        build()()


def test_classes() -> None:
    assert type(build(ONEVISION)) is LLaVAOneVision
    assert build().dtype == torch.float32
    assert build().to(torch.bfloat16).dtype == torch.bfloat16
    assert build().device == torch.device("cpu")
    assert build(CONCATENATING).state_dict().keys() - build().state_dict().keys() == {
        "image_start_token",
        "image_end_token",
        "projector.position_embedding",
    }
