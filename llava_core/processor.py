"""From prompts and images to a model's inputs, in transformers' calling form and for training.

    "USER: <image>\\nWhat?" + image 480×640 ─ plan_tiles ─▶ 2340 image tokens, 5 tiles
        ─▶ input_ids with the placeholder repeated, pixel_values uint8[5, 3, S, S], image_sizes, image_grids

Two doors. `processor(text=..., images=...)` takes finished prompts and trusts them: special tokens and placeholders in
the text are parsed, as transformers does. `encode` takes a conversation, whose texts are nobody's but the speakers':
special tokens in them stay text; it also gives labels.

Legend: B samples, T tokens, N tiles of an image, S tile side (px), F frames.
What this does *not* do: normalise pixels (the model does, on its device), decide token counts (`config.plan_tiles`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase

from llava_core.collation import Encoded, PaddingSide, pad_rows, text_tensors, visual_tensors
from llava_core.config import ModelConfig, plan_tiles
from llava_core.conversations import (
    IMAGE_PLACEHOLDER,
    MAX_TEXT_CHARS,
    VIDEO_PLACEHOLDER,
    Conversation,
    Message,
    check_media,
    from_messages,
)
from llava_core.errors import ConfigError, PromptReason, PromptRefused
from llava_core.geometry import Size
from llava_core.labels import IGNORE_INDEX, PromptTokenizer, Tokens, with_placeholders
from llava_core.media import Media, MediaLoader
from llava_core.media_inputs import ImageInput, load_image, nest
from llava_core.prompts import ImagePlacement, Segment, find_template, prompt_text, render

__all__ = ["Encoded", "LLaVAProcessor"]


class LLaVAProcessor:
    """Tokenizer, templates and tiling of one checkpoint.

    Args:
        tokenizer: a fast tokenizer of transformers; one without the placeholder tokens is copied and given them.
        config: the model's.

    Raises:
        ConfigError: the tokenizer and the config disagree about the placeholder ids, or it is not a fast tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> None:
        self.config = config
        self.template = find_template(config.template)
        self.tokenizer = with_placeholders(tokenizer, config)
        self.image_token = str(self.tokenizer.convert_ids_to_tokens(config.image_token_id))
        video_id = config.video_token_id
        self.video_token = None if video_id is None else str(self.tokenizer.convert_ids_to_tokens(video_id))
        self.load_media = MediaLoader(config)
        self.stop_token_ids, self.stop_strings = _read_stops(self.tokenizer, self.template.stop)
        """Ids, and words, that end an answer."""
        self._tokenise = PromptTokenizer(self.tokenizer, config.image_token_id, video_id)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """Read a checkpoint, in any layout that `llava_core.checkpoints` reads.

        Args:
            path: a folder, "tiny", or a name on the hub.

        Raises:
            CheckpointRefused: not such a folder.
        """
        from llava_core.checkpoints import load_tokenizer, read_config, resolve_model

        folder = resolve_model(path)
        config = read_config(folder)
        return cls(load_tokenizer(folder, config), config)

    def save_pretrained(self, path: str | Path) -> None:
        """Write the tokenizer's files; with the model's own (`model.save_pretrained`) they make a checkpoint folder."""
        self.tokenizer.save_pretrained(str(path))

    @property
    def pad_token_id(self) -> int:
        """What rows are filled up with: the tokenizer's padding token, or the end token of one that has none."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise ConfigError("the tokenizer has neither a padding nor an end token; set tokenizer.pad_token")

    load_image = staticmethod(load_image)

    def encode_words(self, text: str) -> list[int]:
        """Ids of a text alone, without special tokens before or after it."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def num_image_tokens(self, size: Size, num_images: int = 1, max_tiles: int | None = None) -> int:
        """Image tokens of an image of a size, before one pixel is decoded.

        Args:
            size: (height, width), pixels.
            num_images: images in the same sample.
            max_tiles: as in `plan_tiles`.
        """
        return plan_tiles(Size(*size), self.config, num_images=num_images, max_tiles=max_tiles).num_image_tokens

    def encode(
        self,
        conversation: Conversation,
        images: Sequence[ImageInput] = (),
        videos: Sequence[NDArray[np.uint8] | Tensor] = (),
        *,
        max_tiles: int | None = None,
        max_length: int | None = None,
        add_generation_prompt: bool | None = None,
        image_placement: ImagePlacement = "front",
        media: Media | None = None,
    ) -> Encoded:
        """Encode one conversation with its images.

        Args:
            conversation: its texts stay text; `Image()` and `Video()` parts are the places of images and videos.
            images: in the order of their places.
            videos: uint8[F, H, W, 3] each, in the order of their places.
            max_tiles: as in `plan_tiles`.
            max_length: most tokens; longer is refused, never cut.
            add_generation_prompt: end with the opening of an answer; None: where the user speaks last.
            image_placement: as in `render`.
            media: what `load_media` made of these images and videos, where several conversations share them.

        Returns:
            Ids, labels and tiles.

        Raises:
            PromptRefused: as `render` does; TOKEN_MISMATCH where images and places differ in number; TOO_LONG.
            ImageRefused: as `load_image` does.
        """
        check_media(conversation, len(images), len(videos))
        generate = add_generation_prompt
        if generate is None:
            generate = bool(conversation) and conversation[-1].role == "user"
        # A prompt that is refused costs no decoding.
        segments = self._render(conversation, generate, image_placement)
        media = media or self.load_media(images, videos, max_tiles)
        tokens = self._tokenise(segments, media.image_tokens, media.video_tokens)
        return _encoded(tokens.input_ids, tokens.labels, media, max_length)

    def tokenise(
        self,
        conversation: Conversation,
        image_tokens: Sequence[int] = (),
        video_tokens: Sequence[int] = (),
        *,
        add_generation_prompt: bool = False,
        image_placement: ImagePlacement = "front",
    ) -> Tokens:
        """Ids and labels of a conversation whose media are known by their plans alone: nothing is decoded.

        Args:
            conversation: its last turn is the assistant's, or the user's where a generation prompt is added.
            image_tokens: of each image, as `plan_tiles` counts them.
            video_tokens: of each video.
            add_generation_prompt: end with the opening of an answer.
            image_placement: as in `render`.

        Returns:
            What `encode` of the same media holds.

        Raises:
            PromptRefused: as `encode` does.
        """
        check_media(conversation, len(image_tokens), len(video_tokens))
        segments = self._render(conversation, add_generation_prompt, image_placement)
        return self._tokenise(segments, image_tokens, video_tokens)

    def _render(self, conversation: Conversation, generate: bool, image_placement: ImagePlacement) -> list[Segment]:
        segments = render(conversation, self.template, generate, image_placement)
        characters = sum(len(segment.text) for segment in segments)
        if characters > MAX_TEXT_CHARS:
            raise PromptRefused(PromptReason.TOO_LONG, f"{characters} characters; at most {MAX_TEXT_CHARS}")
        return segments

    def collate(
        self, samples: Sequence[Encoded], *, padding_side: PaddingSide = "left", with_labels: bool = False
    ) -> BatchFeature:
        """Make a batch of encoded samples.

        Args:
            samples: from `encode`.
            padding_side: "left" for generation; "right" as the released training pads.
            with_labels: include `labels` int64[B, T].

        Returns:
            What `__call__` returns.

        Raises:
            ConfigError: videos of different numbers of frames.
        """
        data = text_tensors([sample.input_ids.tolist() for sample in samples], self.pad_token_id, padding_side)
        if with_labels:
            data["labels"] = pad_rows([sample.labels.tolist() for sample in samples], IGNORE_INDEX, padding_side)
        return BatchFeature(data | visual_tensors(samples))

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        *,
        return_tensors: str | None = "pt",
        padding: bool | str = True,
        padding_side: PaddingSide = "left",
        max_length: int | None = None,
        truncation: bool = False,
        max_tiles: int | None = None,
    ) -> BatchFeature:
        """Tokenise finished prompts and tile their images, as transformers' processors do.

        Args:
            images: one image; a flat list in the order of the placeholders; or a list for each text.
            text: prompts, trusted: `<image>`, `<video>` and special tokens in them are parsed.
            videos: the same as images, each uint8[F, H, W, 3].
            return_tensors: "pt", or None for `input_ids` and `attention_mask` as lists.
            padding: True or "longest"; False only where all prompts are of one length, or without tensors.
            padding_side: "left" for generation, "right" for training.
            max_length: most tokens of a prompt; longer is refused, never cut.
            truncation: False; a cut could go through an image's tokens.
            max_tiles: as in `plan_tiles`.

        Returns:
            input_ids, attention_mask int64[B, T]; with images pixel_values uint8[ΣN, 3, S, S], image_sizes and
            image_grids int64[num_images, 2], num_images_per_sample list[int]; with videos pixel_values_videos
            uint8[num_videos, F, 3, S, S].

        Raises:
            PromptRefused: TOKEN_MISMATCH where images and placeholders differ in number; TOO_LONG.
            ImageRefused: as `load_image` does.
            ConfigError: an argument outside its choices.
        """
        if return_tensors not in ("pt", None) or padding not in (True, False, "longest"):
            raise ConfigError(
                f"return_tensors={return_tensors!r}, padding={padding!r}; expected 'pt' or None, and a bool"
            )
        if truncation:
            raise ConfigError(f"truncation={truncation!r}: prompts are never cut; max_length refuses longer ones")
        if text is None:
            raise ConfigError('text is missing: pass prompts, with "<image>" where an image stands')
        texts = [self._canonical(one) for one in ([text] if isinstance(text, str) else text)]
        image_lists = nest(images, [one.count(self.image_token) for one in texts], "image")
        video_lists = nest(videos, [one.count(self.video_token) if self.video_token else 0 for one in texts], "video")
        samples = [
            self._encode_trusted(*sample, max_tiles, max_length)
            for sample in zip(texts, image_lists, video_lists, strict=True)
        ]
        rows = [sample.input_ids.tolist() for sample in samples]
        if padding or (return_tensors and len({len(row) for row in rows}) == 1):
            data = text_tensors(rows, self.pad_token_id, padding_side)
        elif return_tensors:
            raise ConfigError("prompts of different lengths need padding=True to become one tensor")
        else:
            data = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
        if return_tensors is None:
            data = {name: rows if isinstance(rows, list) else rows.tolist() for name, rows in data.items()}
        return BatchFeature(data | visual_tensors(samples))

    def _encode_trusted(
        self, text: str, images: Sequence[Any], videos: Sequence[Any], max_tiles: int | None, max_length: int | None
    ) -> Encoded:
        """Encode a prompt whose placeholders and special tokens are parsed."""
        media = self.load_media(images, videos, max_tiles)
        counts = {self.config.image_token_id: iter(media.image_tokens)}
        if self.config.video_token_id is not None:
            counts[self.config.video_token_id] = iter(media.video_tokens)
        ids: list[int] = []
        for token in self.tokenizer(text, verbose=False).input_ids:
            ids += [token] * next(counts[token]) if token in counts else [token]
        return _encoded(ids, [IGNORE_INDEX] * len(ids), media, max_length)

    def _canonical(self, text: str) -> str:
        """A prompt whose placeholders are spelt as the tokenizer spells them."""
        text = text.replace(IMAGE_PLACEHOLDER, self.image_token)
        return text if self.video_token is None else text.replace(VIDEO_PLACEHOLDER, self.video_token)

    def apply_chat_template(
        self,
        conversation: Any,
        add_generation_prompt: bool = True,
        tokenize: bool = False,
        return_dict: bool = True,
        return_tensors: str = "pt",
    ) -> Any:
        """Write conversations as the checkpoint's template has them.

        The string no longer tells the template's special tokens from a user's: for texts of unknown origin use
        `encode`, or `tokenize=True` here, which goes through it.

        Args:
            conversation: messages (`Message`, or transformers' dicts), or a list of such conversations.
            add_generation_prompt: end with the opening of an answer.
            tokenize: return model inputs; images are then taken from the dicts' "image" entries.
            return_dict: True: model inputs are a batch.
            return_tensors: "pt".

        Returns:
            A string for a conversation, a list for a list; with `tokenize` a batch, as from `collate`.

        Raises:
            PromptRefused: see `render`.
            ConfigError: an argument outside its choices.
        """
        if tokenize and (not return_dict or return_tensors != "pt"):
            raise ConfigError(f"return_dict={return_dict!r}, return_tensors={return_tensors!r}; expected True and 'pt'")
        many = bool(conversation) and isinstance(conversation[0], list | tuple)
        conversations = list(conversation) if many else [conversation]
        if tokenize:
            samples = [
                self.encode(
                    _messages(one),
                    _payloads(one, "image"),
                    _payloads(one, "video"),
                    add_generation_prompt=add_generation_prompt,
                )
                for one in conversations
            ]
            return self.collate(samples)
        texts = [prompt_text(render(_messages(one), self.template, add_generation_prompt)) for one in conversations]
        return texts if many else texts[0]

    def decode(self, token_ids: Any, skip_special_tokens: bool = True) -> str:
        """Text of token ids; image tokens left out with the special ones."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens))

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = True) -> list[str]:
        """Texts of several rows of token ids."""
        return [self.decode(row, skip_special_tokens) for row in sequences]


def _encoded(ids: Sequence[int], labels: Sequence[int], media: Media, max_length: int | None) -> Encoded:
    if max_length is not None and len(ids) > max_length:
        raise PromptRefused(PromptReason.TOO_LONG, f"{len(ids)} tokens; at most {max_length}")
    return Encoded(
        input_ids=torch.tensor(ids, dtype=torch.int64),
        labels=torch.tensor(labels, dtype=torch.int64),
        tiles=media.tiles,
        image_sizes=media.sizes,
        image_grids=media.grids,
        num_image_tokens=sum(media.image_tokens) + sum(media.video_tokens),
        videos=media.videos,
    )


def _messages(conversation: Sequence[Any]) -> Conversation:
    plain = all(isinstance(message, Message) for message in conversation)
    return tuple(conversation) if plain else from_messages(conversation)


def _payloads(conversation: Sequence[Any], kind: str) -> list[Any]:
    """The pixels that transformers' dict messages carry, in order."""
    items = [
        item
        for message in conversation
        if isinstance(message, Mapping) and not isinstance(message["content"], str)
        for item in message["content"]
    ]
    return [item[kind] for item in items if item.get("type") == kind and kind in item]


def _read_stops(tokenizer: PreTrainedTokenizerBase, end_of_turn: str) -> tuple[frozenset[int], tuple[str, ...]]:
    """The tokenizer's end token, and a template's end of turn: a token where it is one of the added ones, else words.

    Words have other tokens amid a text than alone ("###" of template v0 is one of Vicuna's tokens, but never after a
    line's end).
    """
    ends = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    turn = tokenizer.added_tokens_encoder.get(end_of_turn)
    return frozenset(ends if turn is None else [*ends, turn]), (end_of_turn,) if turn is None else ()
