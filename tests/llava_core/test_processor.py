"""The processor against transformers' own, and against counts and spans worked out by hand.

Tiles of 28 pixels, 7×7 patches; pinpoints are not closed under transposition; every pixel of an image differs.
"""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor, PreTrainedTokenizerFast

from llava_core.checkpoints import own
from llava_core.config import ConnectorConfig, ModelConfig, TileConfig, VideoConfig, VisionConfig
from llava_core.conversations import Image, Message, Text, Video, ask
from llava_core.errors import ConfigError, ImageReason, ImageRefused, PromptReason, PromptRefused
from llava_core.geometry import Size
from llava_core.labels import IGNORE_INDEX
from llava_core.processor import Encoded, LLaVAProcessor
from tests import tiny_tokenizers

TILE, PATCHES = 28, 7
PINPOINTS = ((28, 56), (56, 28), (56, 56), (84, 28), (28, 112))
TOWER = {"model_type": "clip_vision_model", "hidden_size": 32, "image_size": TILE, "patch_size": 4}
TOKENS_OF_40_33 = 49 + 14 * (12 + 1)
PIXEL_TOLERANCE = 1.01 / 255 / 0.26
"""One level of 255 in normalised units; measured: 0.0 (tile resizing is Pillow's, tile for tile)."""


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8[H, W, 3], smooth, asymmetrical, no two pixels alike."""
    rows, cols = np.mgrid[:height, :width]
    red = (rows * 255) // max(height - 1, 1)
    green = (cols * 255) // max(width - 1, 1)
    blue = (rows * 7 + cols * 3 + seed * 40) % 256
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def config_of(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "vision": VisionConfig(tower=TOWER),
        "text_dim": 48,
        "connector": ConnectorConfig(image_newline=True),
        "tiles": TileConfig(tile_size=TILE, pinpoints=PINPOINTS, axis_order="hf", rounding="hf"),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<video>"),
    }
    return ModelConfig(**{**values, **changes})


def processor_of(tokenizer: PreTrainedTokenizerFast | None = None, **changes: Any) -> LLaVAProcessor:
    tokenizer = tokenizer or tiny_tokenizers.byte_level(bos=True)
    return LLaVAProcessor(tokenizer, config_of(tokenizer, **changes))


def onevision(**changes: Any) -> LLaVAProcessor:
    pinpoints = ((28, 28), (28, 56), (56, 28), (56, 56), (84, 56), (56, 112))
    tiles = TileConfig(tile_size=TILE, pinpoints=pinpoints, anyres_max=2, multi_image="single")
    return processor_of(
        tiny_tokenizers.byte_level(), tiles=tiles, family="llava_onevision", template="qwen_2", **changes
    )


def refused(reason: PromptReason | ImageReason) -> Any:
    return pytest.raises((PromptRefused, ImageRefused), check=lambda error: error.reason is reason)


def transformers_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaNextProcessor:
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE}, crop_size=TILE, image_grid_pinpoints=[list(point) for point in PINPOINTS]
    )
    return LlavaNextProcessor(
        images, tokenizer, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


TEXTS = [
    "USER: <image>\nWhat is it? ASSISTANT:",
    "USER: <image> and <image>: which?</s> ASSISTANT:",
    "USER: No picture. ASSISTANT:",
    "<image>",
]
SIZES = [(40, 33), (90, 20), (31, 77), (20, 90)]


@pytest.mark.parametrize("kind", ["byte_level", "byte_level_bos", "metaspace", "metaspace_legacy", "unigram"])
def test_inputs_equal_transformers(kind: str) -> None:
    makers = {
        "byte_level": tiny_tokenizers.byte_level,
        "byte_level_bos": lambda: tiny_tokenizers.byte_level(bos=True),
        "metaspace": tiny_tokenizers.metaspace,
        "metaspace_legacy": lambda: tiny_tokenizers.metaspace("always"),
        "unigram": tiny_tokenizers.unigram,
    }
    tokenizer = makers[kind]()
    images = [picture(*size, seed) for seed, size in enumerate(SIZES)]
    tokenizer.padding_side = "left"
    theirs = transformers_processor(tokenizer)(
        images=[PILImage.fromarray(image) for image in images], text=list(TEXTS), padding=True, return_tensors="pt"
    )
    ours = processor_of(tokenizer)(images=images, text=TEXTS)
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["attention_mask"], theirs["attention_mask"])
    assert torch.equal(ours["image_sizes"], theirs["image_sizes"])
    assert ours["num_images_per_sample"] == [1, 2, 0, 1]


def test_tiles_equal_transformers() -> None:
    tokenizer = tiny_tokenizers.byte_level()
    images = [picture(*size, seed) for seed, size in enumerate(SIZES)]
    theirs = transformers_processor(tokenizer)(
        images=[PILImage.fromarray(image) for image in images], text=list(TEXTS), padding=True, return_tensors="pt"
    )["pixel_values"]
    processor = processor_of(tokenizer)
    ours = processor(images=images, text=TEXTS)
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (processor.config.tiles.image_mean, processor.config.tiles.image_std)
    )
    counts = [1 + rows * cols for rows, cols in ours["image_grids"].tolist()]
    assert counts == [5, 4, 5, 5] and len(ours["pixel_values"]) == sum(counts)
    for tiles, padded in zip(ours["pixel_values"].split(counts), theirs, strict=True):
        error = ((tiles / 255 - mean) / std - padded[: len(tiles)]).abs().max().item()
        assert error <= PIXEL_TOLERANCE


def test_every_form_of_an_image_is_the_same_image() -> None:
    processor = processor_of()
    image = picture(40, 33)
    file = io.BytesIO()
    PILImage.fromarray(image).save(file, "PNG")
    forms = [
        image,
        file.getvalue(),
        PILImage.fromarray(image),
        torch.from_numpy(image),
        torch.from_numpy(image).permute(2, 0, 1),
        np.asfortranarray(image),
    ]
    for form in forms:
        assert np.array_equal(processor.load_image(form), image)
        assert torch.equal(processor(form, TEXTS[0])["pixel_values"], processor(image, TEXTS[0])["pixel_values"])
    grey = image[:, :, 1]
    assert np.array_equal(processor.load_image(grey), np.stack([grey] * 3, axis=-1))


def test_pil_modes_become_rgb() -> None:
    load = processor_of().load_image
    clear = PILImage.new("RGBA", (3, 2), (255, 0, 0, 0))
    assert load(clear).tolist() == [[[255, 255, 255]] * 3] * 2
    assert load(PILImage.fromarray(np.full((2, 3), 65535, np.uint16))).tolist() == [[[255, 255, 255]] * 3] * 2
    with refused(ImageReason.UNSUPPORTED_MODE):
        load(PILImage.new("F", (3, 2)))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((4, 5, 3), np.float32), ImageReason.UNSUPPORTED_MODE),
        (torch.zeros(3, 4, 5), ImageReason.UNSUPPORTED_MODE),
        (np.zeros((4, 5, 4), np.uint8), ImageReason.BAD_DIMENSIONS),
        (np.zeros((0, 5, 3), np.uint8), ImageReason.BAD_DIMENSIONS),
        (np.zeros((4, 5, 3, 1), np.uint8), ImageReason.BAD_DIMENSIONS),
        (b"<html>", ImageReason.NOT_IMAGE),
        ("a/path.png", ImageReason.UNSUPPORTED),
    ],
)
def test_what_is_no_image_is_refused(image: Any, reason: ImageReason) -> None:
    with refused(reason):
        processor_of().load_image(image)
    with refused(reason):
        processor_of().encode(ask("What?"), [image])


def test_images_nested_flat_and_single() -> None:
    processor = processor_of()
    a, b, c, d = (picture(*size) for size in SIZES)
    nested = processor(images=[[a], [b, c], [], [d]], text=TEXTS)
    for form in ([a, b, c, d], (a, b, c, d), [a, [b, c], None, d]):
        other = processor(images=form, text=TEXTS)
        assert torch.equal(other["pixel_values"], nested["pixel_values"])
        assert torch.equal(other["input_ids"], nested["input_ids"])
    single = processor(images=a, text=TEXTS[0])
    assert torch.equal(single["pixel_values"], nested["pixel_values"][:5])


@pytest.mark.parametrize(
    "images", [None, [], [[], [], [], []], [0, 1, 2], [[0], [1], [2], [3]], [[0, 1], [2], [], [3]]]
)
def test_another_number_of_images_is_refused(images: Any) -> None:
    def filled(item: Any) -> Any:
        return [filled(one) for one in item] if isinstance(item, list) else picture(*SIZES[item])

    with refused(PromptReason.TOKEN_MISMATCH):
        processor_of()(images=None if images is None else filled(images), text=TEXTS)


def test_nested_for_another_number_of_texts() -> None:
    with pytest.raises(ConfigError, match="nested for 1 samples, but there are 4 texts"):
        processor_of()(images=[[picture(5, 6)]], text=TEXTS)


def test_texts_without_images() -> None:
    batch = processor_of()(text=["One.", "Two, three."])
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["attention_mask"].tolist()[1] == [1] * batch["input_ids"].shape[1]
    assert batch["attention_mask"][0].sum() < batch["attention_mask"].shape[1]
    assert batch["attention_mask"][0].tolist()[0] == 0  # padded left


def test_padding_and_tensors() -> None:
    processor = processor_of()
    lists = processor(text=["One.", "Two, three."], return_tensors=None, padding=False)
    assert [len(row) for row in lists["input_ids"]] == [len(row) for row in lists["attention_mask"]]
    assert len(lists["input_ids"][0]) < len(lists["input_ids"][1])
    right = processor(text=["One.", "Two, three."], padding_side="right")
    count = len(lists["input_ids"][0])
    assert right["input_ids"][0, :count].tolist() == lists["input_ids"][0]
    assert right["attention_mask"][0].tolist() == [1] * count + [0] * (right["input_ids"].shape[1] - count)
    assert processor(text="One.", padding=False)["input_ids"].shape == (1, count)
    assert isinstance(processor(text="One.", return_tensors=None)["input_ids"], list)
    for wrong in (
        {"padding": False},
        {"return_tensors": "np"},
        {"padding": "max_length"},
        {"padding_side": "up"},
        {"truncation": True},
    ):
        with pytest.raises(ConfigError):
            processor(text=["One.", "Two, three."], **wrong)
    with pytest.raises(ConfigError, match="text is missing"):
        processor(images=picture(5, 6))


def test_encode_counts_labels_and_tiles() -> None:
    processor = processor_of()
    image = picture(40, 33)
    encoded = processor.encode(ask("What is it?", answer="A red bus."), [image])
    # only 56×56 keeps all 40·33 pixels; 14×14 features, 33 · 14/40 = 11 columns kept, (14 − 11) // 2 = 1 cut each side
    assert encoded.image_sizes == (Size(40, 33),) and encoded.image_grids == (Size(2, 2),)
    assert encoded.num_image_tokens == TOKENS_OF_40_33 == processor.num_image_tokens(Size(40, 33))
    token = processor.config.image_token_id
    ids, labels = encoded.input_ids, encoded.labels
    assert int((ids == token).sum()) == encoded.num_image_tokens
    trained = ids[labels != IGNORE_INDEX]
    assert torch.equal(trained, labels[labels != IGNORE_INDEX])
    assert processor.decode(trained, skip_special_tokens=False) == " A red bus.</s>"
    assert encoded.tiles.shape == (5, 3, TILE, TILE) and encoded.tiles.dtype == torch.uint8


def test_encode_and_call_agree_on_a_prompt() -> None:
    processor = processor_of()
    images = [picture(40, 33), picture(90, 20)]
    conversation = ask("Which is taller?", 2)
    encoded = processor.encode(conversation, images)
    called = processor(images=images, text=processor.apply_chat_template(conversation))
    assert called["input_ids"][0].tolist() == encoded.input_ids.tolist()
    assert torch.equal(called["pixel_values"], encoded.tiles)
    assert called["image_grids"].tolist() == [list(grid) for grid in encoded.image_grids]


def test_a_users_placeholders_and_special_tokens_are_text() -> None:
    processor = processor_of()
    image = picture(40, 33)
    question = "Is <image> or </s> or <|im_end|> a tag?"
    plain = processor.encode(ask("Is it a tag?"), [image])
    forged = processor.encode(ask(question), [image])
    specials = set(processor.tokenizer.all_special_ids) | set(processor.tokenizer.get_added_vocab().values())
    assert [i for i in forged.input_ids.tolist() if i in specials] == [
        i for i in plain.input_ids.tolist() if i in specials
    ]
    assert question in processor.decode(forged.input_ids)


def test_answers_in_several_rounds() -> None:
    processor = processor_of(template="qwen_2")
    talk = (*ask("What?", answer="A bus."), *ask("Colour?", 0, answer="Red."))
    encoded = processor.encode(talk, [picture(40, 33)])
    kept = encoded.labels != IGNORE_INDEX
    assert processor.decode(encoded.labels[kept], skip_special_tokens=False) == "A bus.<|im_end|>Red.<|im_end|>"


def test_generation_prompt_follows_the_last_speaker() -> None:
    processor = processor_of(template="chatml_direct")
    image = picture(40, 33)
    asking = processor.encode(ask("What?"), [image])
    assert processor.decode(asking.input_ids, False).endswith("<|im_start|>assistant\n")
    assert (asking.labels == IGNORE_INDEX).all()
    history = processor.encode(ask("What?"), [image], add_generation_prompt=False)
    assert processor.decode(history.input_ids, False).endswith("What?<|im_end|>")


def test_too_long_is_refused_and_never_cut() -> None:
    processor = processor_of()
    image, talk = picture(40, 33), ask("What?", answer="A bus.")
    length = len(processor.encode(talk, [image]).input_ids)
    assert len(processor.encode(talk, [image], max_length=length).input_ids) == length
    with refused(PromptReason.TOO_LONG):
        processor.encode(talk, [image], max_length=length - 1)
    with refused(PromptReason.TOO_LONG):
        processor(image, TEXTS[0], max_length=20)
    with refused(PromptReason.TOO_LONG):
        processor.encode((Message("user", (Text("x" * 1_000_001),)),))


def test_refusals_of_conversations() -> None:
    processor = processor_of()
    image = picture(40, 33)
    with refused(PromptReason.TOKEN_MISMATCH):
        processor.encode(ask("What?", 2), [image])
    with refused(PromptReason.TOKEN_MISMATCH):
        processor.encode(ask("What?", 0), [image])
    with refused(PromptReason.EMPTY_TEXT):
        processor.encode(ask("  "), [image])
    with refused(PromptReason.BAD_CONVERSATION):
        processor.encode((), [])
    with refused(PromptReason.BAD_CONVERSATION):
        processor.encode((Message("assistant", (Text("Hi"),)),))
    with refused(PromptReason.BAD_CONVERSATION):
        processor.encode((Message("user", (Text("\udc00"),)),))


def test_more_images_than_the_model_takes() -> None:
    tiles = TileConfig(policy="grid", tile_size=TILE, max_tiles=4, max_images=2)
    processor = processor_of(tiles=tiles)
    with refused(PromptReason.TOO_LONG):
        processor.encode(ask("Which?", 3), [picture(9, 9)] * 3)
    assert processor.encode(ask("Which?", 2), [picture(9, 9)] * 2).image_grids == (Size(0, 0),) * 2


def test_max_tiles_reaches_images() -> None:
    processor = processor_of()
    image = picture(56, 50)
    for most, grid, tiles in ((None, (2, 2), 5), (3, (2, 1), 3), (0, (0, 0), 1)):
        assert processor.encode(ask("x"), [image], max_tiles=most).image_grids == (grid,)
        assert len(processor(image, "<image>", max_tiles=most)["pixel_values"]) == tiles


def test_several_onevision_images_are_squares_with_a_newline_each() -> None:
    processor = onevision()
    encoded = processor.encode(ask("Which?", 3), [picture(*size) for size in SIZES[:3]])
    assert encoded.image_grids == (Size(0, 0),) * 3
    assert encoded.num_image_tokens == 3 * 50 and len(encoded.tiles) == 3
    # 40×33 padded to a square: the border has the mean colour
    border = torch.tensor(processor.config.tiles.pad_color, dtype=torch.uint8)
    assert torch.equal(encoded.tiles[0, :, TILE // 2, 0], border)
    alone = processor.encode(ask("What?"), [picture(40, 33)])
    assert alone.image_grids != (Size(0, 0),)


def clip_of(frames: int, height: int = 20, width: int = 50) -> np.ndarray:
    return np.stack([picture(height, width, seed) for seed in range(frames)])


@pytest.mark.parametrize(
    ("position", "tokens"), [("one_token", 5 * 16 + 1), ("grid", 5 * 4 * 5), ("frame", 5 * 17), ("no_token", 5 * 16)]
)
def test_videos_are_sampled_squashed_and_counted(position: Any, tokens: int) -> None:
    # 7 patches pooled by 2 are 4 a side, 16 a frame
    processor = onevision(video=VideoConfig(max_frames=5, newline_position=position))
    video = clip_of(13)
    encoded = processor.encode(ask("What happens?", 0, 1), videos=[video])
    assert encoded.num_image_tokens == tokens
    assert int((encoded.input_ids == processor.config.video_token_id).sum()) == tokens
    assert encoded.videos[0].shape == (5, 3, TILE, TILE)
    # frames 0, 3, 6, 9, 12; each as Pillow squashes it
    for place, frame in enumerate((0, 3, 6, 9, 12)):
        expected = np.asarray(PILImage.fromarray(video[frame]).resize((TILE, TILE), PILImage.Resampling.BICUBIC))
        found = encoded.videos[0][place].permute(1, 2, 0).numpy()
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    called = processor(text="<video>\nWhat?", videos=video)
    assert called["pixel_values_videos"].shape == (1, 5, 3, TILE, TILE)
    assert int((called["input_ids"] == processor.config.video_token_id).sum()) == tokens
    assert "pixel_values" not in called


def test_video_tokens_equal_transformers() -> None:
    """`replace_video_token`: frames · ceil(√(P²) / 2)² + 1."""
    tokens = onevision().encode(ask("?", 0, 1), videos=[clip_of(3)]).num_image_tokens
    assert tokens == 3 * int(np.ceil(np.sqrt(49) / 2)) ** 2 + 1


def test_videos_that_do_not_fit() -> None:
    processor = onevision()
    with pytest.raises(ConfigError, match=r"videos of \[2, 3\] frames"):
        processor(text=["<video>", "<video>"], videos=[clip_of(2), clip_of(3)])
    for wrong, reason in (
        (clip_of(2).astype(np.float32), ImageReason.UNSUPPORTED_MODE),
        (clip_of(2)[:, :, :, 0], ImageReason.BAD_DIMENSIONS),
        (clip_of(2)[:0], ImageReason.BAD_DIMENSIONS),
    ):
        with refused(reason):
            processor.encode(ask("?", 0, 1), videos=[wrong])


def test_images_and_videos_in_one_sample_keep_their_order() -> None:
    processor = onevision()
    talk = (Message("user", (Video(), Text("then"), Image(), Text("?"))),)
    encoded = processor.encode(talk, [picture(40, 33)], [clip_of(2)])
    media = [
        i for i in encoded.input_ids.tolist() if i in (processor.config.image_token_id, processor.config.video_token_id)
    ]
    assert media[0] == processor.config.video_token_id and media[-1] == processor.config.image_token_id
    assert media.count(processor.config.video_token_id) == 2 * 16 + 1


def test_collate_pads_each_side_and_masks_by_length() -> None:
    processor = processor_of()
    long = processor.encode(ask("What is in it?", answer="A bus."), [picture(40, 33)])
    short = processor.encode(ask("Hi", 0, answer="Yo"))
    left = processor.collate([long, short], with_labels=True)
    right = processor.collate([long, short], padding_side="right", with_labels=True)
    count, width = len(short.input_ids), len(long.input_ids)
    assert left["input_ids"].shape == left["labels"].shape == (2, width)
    assert left["input_ids"][1, width - count :].tolist() == short.input_ids.tolist()
    assert right["labels"][1].tolist() == [*short.labels.tolist(), *[IGNORE_INDEX] * (width - count)]
    # padding is the end token here, which also ends the answers: those must not be masked
    assert processor.pad_token_id == processor.tokenizer.eos_token_id == short.input_ids[-1]
    assert left["attention_mask"].sum(1).tolist() == [width, count]
    assert left["num_images_per_sample"] == [1, 0]
    assert "labels" not in processor.collate([long])


def test_stop_and_padding_tokens() -> None:
    tokenizer = tiny_tokenizers.byte_level()
    end, turn = (tokenizer.convert_tokens_to_ids(name) for name in ("</s>", "<|im_end|>"))
    assert processor_of(tokenizer).stop_token_ids == {end}
    assert processor_of(tokenizer, template="qwen_2").stop_token_ids == {end, turn}
    tokenizer.pad_token = "<|im_start|>"
    assert processor_of(tokenizer).pad_token_id == tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="neither a padding nor an end token"):
        _ = processor_of(tokenizer).pad_token_id


def test_original_checkpoints_get_their_placeholder_tokens() -> None:
    tokenizer = tiny_tokenizers.byte_level(media=False)
    size = len(tokenizer)
    config = config_of(tokenizer, image_token_id=size, video_token_id=size + 1)
    processor = LLaVAProcessor(tokenizer, config)
    assert (processor.image_token, processor.video_token) == ("<image>", "<video>")
    assert len(tokenizer) == size  # the caller's own is left alone
    ids = processor.encode(ask("What?"), [picture(40, 33)]).input_ids.tolist()
    assert ids.count(size) == TOKENS_OF_40_33


def test_placeholder_ids_that_do_not_fit_are_refused() -> None:
    tokenizer = tiny_tokenizers.byte_level()
    with pytest.raises(ConfigError, match=f"id for <image> is 5, .*<image> has id {len(tokenizer) - 2} there"):
        processor_of(tokenizer, image_token_id=5)
    with pytest.raises(ConfigError, match="id for <video> is 99999"):
        processor_of(tokenizer, video_token_id=99999)


def test_another_spelling_of_the_placeholder() -> None:
    tokenizer = tiny_tokenizers.byte_level(media=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|image_pad|>"]})
    processor = processor_of(tokenizer, image_token_id=len(tokenizer) - 1, video_token_id=None)
    assert processor.image_token == "<|image_pad|>"
    ids = processor(picture(40, 33), "USER: <image>\nWhat?")["input_ids"]
    assert int((ids == len(tokenizer) - 1).sum()) == TOKENS_OF_40_33


def test_features_put_before_the_text_need_no_placeholders() -> None:
    processor = processor_of(placement="concatenate")
    encoded = processor.encode(ask("What?"), [picture(40, 33)])
    assert processor.config.image_token_id not in encoded.input_ids.tolist()
    assert len(encoded.tiles) == 5


def test_chat_template_in_transformers_form() -> None:
    processor = processor_of(template="mistral_instruct")
    image = picture(40, 33)
    messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "What?"}]}]
    assert processor.apply_chat_template(messages) == "[INST] <image>\nWhat? [/INST]"
    both = processor.apply_chat_template([messages, messages], add_generation_prompt=False)
    assert both == ["[INST] <image>\nWhat? [/INST]"] * 2
    assert processor.apply_chat_template(ask("What?")) == "[INST] <image>\nWhat? [/INST]"
    batch = processor.apply_chat_template([messages], tokenize=True)
    assert torch.equal(batch["input_ids"][0], processor.encode(ask("What?"), [image]).input_ids)
    assert len(batch["pixel_values"]) == 5
    # as transformers' pages call it
    settings = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    assert torch.equal(processor.apply_chat_template(messages, **settings)["input_ids"], batch["input_ids"])
    for wrong in ({"return_dict": False}, {"return_tensors": "np"}):
        with pytest.raises(ConfigError, match="expected True and 'pt'"):
            processor.apply_chat_template(messages, **settings | wrong)


def test_decoding() -> None:
    processor = processor_of()
    ids = processor.tokenizer("A red bus.</s>", add_special_tokens=False).input_ids
    assert processor.decode(ids) == "A red bus."
    assert processor.decode([processor.config.image_token_id, *ids]) == "A red bus."
    assert processor.batch_decode(torch.tensor([ids, ids]), skip_special_tokens=False) == ["A red bus.</s>"] * 2


def test_a_saved_processor_reads_back(tmp_path: Path) -> None:
    processor = processor_of(tiny_tokenizers.metaspace())
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(own.write(processor.config, "float32")))
    read = LLaVAProcessor.from_pretrained(tmp_path)
    assert read.config == processor.config
    image, talk = picture(40, 33), ask("What </s> is  it? 好", answer="A bus.")
    ours, theirs = processor.encode(talk, [image]), read.encode(talk, [image])
    for field in dataclasses.fields(Encoded):
        left, right = getattr(ours, field.name), getattr(theirs, field.name)
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
