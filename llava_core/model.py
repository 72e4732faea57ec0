"""The model: vision tower, connector, packing and any causal language model, in one module.

    tiles ─ image_processor ─▶ patch features ─ projector ─▶ image features ─ pack ─▶ in `<image>`'s place ─▶ logits

Legend: B samples, T tokens, D text width, V vocabulary, N tiles, S tile side (px). Tensor names are our own layout's:
`image_processor.encoder.*`, `projector.*`, `image_newline`, `language_model.*`; other layouts are mapped by
`checkpoints`. `LLaVANeXT` is every family but video (1.0 and 1.5 are settings of it); `LLaVAOneVision` adds video.

What this does *not* do: turn text and images into its inputs (`processor`), answer many requests (`engine`), train.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, Unpack, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from llava_core import generation
from llava_core.config import Family, ModelConfig
from llava_core.document_form import (
    Concatenated,
    DocumentSettings,
    concatenate,
    document_config,
    group_by_sample,
    pad_left,
)
from llava_core.errors import ConfigError
from llava_core.language import LLaVAOutput, build_language_model, check_placeholders
from llava_core.losses import language_loss
from llava_core.visual import Counts, Sizes, VisualEncoder, VisualInputs, plain_counts

VISUAL_INPUTS = ("pixel_values", "image_sizes", "image_grids", "num_images_per_sample", "pixel_values_videos")
"""Inputs that end in `embed_inputs`; the others are the language model's."""


class LLaVANeXT(VisualEncoder):
    """LLaVA 1.0, 1.5 and NeXT over any causal language model.

    Args:
        config: the whole model.
        **settings: instead of a config, the document's keyword arguments (`DocumentSettings`); no language model then.

    Raises:
        ConfigError: both were given, an unknown keyword, or parts that do not fit together.
    """

    FAMILY: Family = "llava_next"

    language_model: Any
    """Transformers' causal language model, or None."""
    always_run_tower: bool
    """Run the tower on an empty tile where a training batch has no image, and give every visual parameter a gradient
    whatever a batch has, so that all devices exchange the same ones."""

    def __init__(self, config: ModelConfig | None = None, **settings: Unpack[DocumentSettings]) -> None:
        if config is not None and settings:
            raise ConfigError(f"{type(self).__name__} got a config and also {', '.join(settings)}; expected either")
        super().__init__(config or document_config(settings, self.FAMILY))
        self.always_run_tower = False
        if self.config.placement == "concatenate":
            width = self.config.text_dim
            self.image_start_token = nn.Parameter(torch.randn(1, 1, width) / math.sqrt(width))
            self.image_end_token = nn.Parameter(torch.randn(1, 1, width) / math.sqrt(width))
        self.language_model = None if self.config.text is None else build_language_model(self.config.text)

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> Self:
        """Load a checkpoint folder of any layout.

        Args:
            path: the folder, or a name on the hub.
            **options: of `checkpoints.load_model`: dtype, device, vision_tower, allow_bin, quantization_config.

        Returns:
            The model, of the class that its config asks for.

        Raises:
            CheckpointRefused: the folder cannot be trusted or does not fit.
        """
        from llava_core.checkpoints import load_model

        return cast(Self, load_model(path, **options))

    def save_pretrained(
        self, path: str | Path, layout: Literal["own", "hf", "original"] = "own", **options: Any
    ) -> None:
        """Write a checkpoint folder; `options` are those of `checkpoints.save_model`."""
        from llava_core.checkpoints import save_model

        save_model(self, path, layout=layout, **options)

    @property
    def device(self) -> torch.device:
        """Where inputs go: the language model's device; without one, the connector's."""
        return self._text_weight().device

    @property
    def dtype(self) -> torch.dtype:
        """Of embeddings and features."""
        return self._text_weight().dtype

    def _text_weight(self) -> Tensor:
        if self.language_model is None:
            return next(self.projector.parameters())
        weight: Tensor = self.language_model.get_input_embeddings().weight
        return weight

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Keep no activations of tower and language model layers in training; they are computed again."""
        options = gradient_checkpointing_kwargs or {"use_reentrant": False}
        for part in (self.image_processor.encoder, self.language_model):
            if part is not None:
                # Newer transformers warn about the old name, older ones lack the new one.
                new_name = getattr(part, "activation_checkpointing_enable", None)
                (new_name or part.gradient_checkpointing_enable)(options)

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        for part in (self.image_processor.encoder, self.language_model):
            if part is not None:
                new_name = getattr(part, "activation_checkpointing_disable", None)
                (new_name or part.gradient_checkpointing_disable)()

    def embed_inputs(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_sizes: Sizes | None = None,
        image_grids: Sizes | None = None,
        num_images_per_sample: Counts | None = None,
        pixel_values_videos: Tensor | None = None,
    ) -> Tensor:
        """Embed a prompt, features in the place of its placeholders.

        Args:
            input_ids: int64[B, T], with `image_token_id` once for each image token, `video_token_id` likewise.
            pixel_values: of all images, as `encode_images` takes them; None without images.
            image_sizes: (height, width) of each image.
            image_grids: (rows, cols) of tiles of each image.
            num_images_per_sample: how many images belong to each sample.
            pixel_values_videos: of all videos, as `encode_videos` takes them.

        Returns:
            float[B, T, D].

        Raises:
            ValueError: placeholders and features differ in number; both numbers are named.
        """
        images = self._encode_given_images(pixel_values, image_sizes, image_grids, num_images_per_sample)
        videos = [] if pixel_values_videos is None else self.encode_videos(pixel_values_videos)
        return self.place_features(input_ids, images, videos)

    def _encode_given_images(
        self, pixel_values: Tensor | None, sizes: Sizes | None, grids: Sizes | None, counts: Counts | None
    ) -> list[Tensor]:
        if pixel_values is None or pixel_values.shape[0] == 0:
            return []
        return self.encode_images(pixel_values, sizes, grids, counts)

    def place_features(self, input_ids: Tensor, images: list[Tensor], videos: list[Tensor] | None = None) -> Tensor:
        """Embed ids, and put packed features over their placeholders, images and videos each in order.

        Args:
            input_ids: int64[B, T].
            images: float[T_i, D] of each image.
            videos: float[T_i, D] of each video.

        Returns:
            float[B, T, D].

        Raises:
            ValueError: placeholders and features differ in number; both numbers are named.
        """
        config = self.config
        image_mask = input_ids == config.image_token_id
        video_mask = torch.zeros_like(image_mask)
        if config.video_token_id is not None:
            video_mask = input_ids == config.video_token_id
        # A placeholder's id may lie beyond the vocabulary (it does in the original layout), so it is never looked up.
        text_ids = input_ids.masked_fill(image_mask | video_mask, 0)
        embeds: Tensor = self.language_model.get_input_embeddings()(text_ids)
        for name, mask, features in (("image", image_mask, images), ("video", video_mask, videos or [])):
            count = sum(part.shape[0] for part in features)
            check_placeholders(name, mask, count)
            if count:
                embeds = embeds.masked_scatter(mask[..., None], torch.cat(features).to(embeds))
        if self.training and self.always_run_tower:
            nothing = self.visual_zero() if images or videos else self.empty_features().sum()
            embeds = embeds + nothing.to(embeds)
        return embeds

    def forward(
        self,
        images: Tensor | None = None,
        text_embeds: Tensor | None = None,
        video_frames: Tensor | None = None,
        num_images_per_sample: Counts | None = None,
        attention_mask: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Sizes | None = None,
        image_grids: Sizes | None = None,
        pixel_values_videos: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **options: Any,
    ) -> LLaVAOutput:
        """Run the model, on processor outputs or on the document's own inputs.

        Args:
            images: document: whole images, [num_images, 3, H, W], uint8 or float in 0..1; tiled here.
            text_embeds: document: float[B, L, D].
            video_frames: document: whole frames, [B, F, 3, H, W], uint8 or float in 0..1.
            num_images_per_sample: how many images belong to each sample; None for one each.
            attention_mask: int[B, T] of `input_ids`, or of `text_embeds`.
            input_ids: int64[B, T]; with a cache, the new tokens alone.
            pixel_values: tiles of all images, as `encode_images` takes them.
            image_sizes: (height, width) of each image.
            image_grids: (rows, cols) of tiles of each image.
            pixel_values_videos: [num_videos, F, 3, S, S].
            inputs_embeds: float[B, T, D] instead of `input_ids`, from `embed_inputs`.
            labels: int64[B, T], −100 where nothing is to be learned; not shifted.
            position_ids: int64[B, T], handed on.
            past_key_values: cache, handed on.
            use_cache: handed on.
            logits_to_keep: logits of so many last positions alone; 0 keeps all.
            **options: of the language model.

        Returns:
            Logits and loss where there is a language model; visual features; in the document's form the
            concatenated embeddings.

        Raises:
            ValueError: inputs that do not go together, or numbers of tokens that do not match.
        """
        handed_on = {"past_key_values": past_key_values, "use_cache": use_cache, "logits_to_keep": logits_to_keep}
        options |= {name: value for name, value in handed_on.items() if value is not None}
        visual = (pixel_values, image_sizes, image_grids, num_images_per_sample)
        raw = images is not None or video_frames is not None or text_embeds is not None
        if raw or (self.config.placement == "concatenate" and pixel_values is not None):
            if images is not None:
                visual = self.tile_images(images, num_images_per_sample)
            frames = pixel_values_videos if video_frames is None else self.tile_frames(video_frames)
            samples = self._sample_features(visual, frames)
            return self._run_concatenated(samples, text_embeds, input_ids, attention_mask, labels, options)
        if inputs_embeds is not None:
            return self._run_language_model(inputs_embeds, attention_mask, position_ids, labels, options)
        if input_ids is None:
            raise ValueError("Either images or video_frames required, or input_ids; none of them came")
        features = self._encode_given_images(*visual)
        videos = [] if pixel_values_videos is None else self.encode_videos(pixel_values_videos)
        embeds = self.place_features(input_ids, features, videos)
        output = self._run_language_model(embeds, attention_mask, position_ids, labels, options)
        output["visual_features"] = (*features, *videos)
        return output

    def _run_language_model(
        self,
        embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        labels: Tensor | None,
        options: dict[str, Any],
    ) -> LLaVAOutput:
        if self.language_model is None:
            raise ValueError("this model was built without a language model; give its config a text config")
        if labels is not None and not (isinstance(options["logits_to_keep"], int) and options["logits_to_keep"] == 0):
            raise ValueError("a loss needs the logits of every position; with labels, leave logits_to_keep at 0")
        placed = {} if position_ids is None else {"position_ids": position_ids}
        out = self.language_model(inputs_embeds=embeds, attention_mask=attention_mask, **placed, **options)
        return LLaVAOutput(
            loss=None if labels is None else language_loss(out.logits, labels),
            logits=out.logits,
            past_key_values=out.get("past_key_values"),
            hidden_states=out.get("hidden_states"),
        )

    def _sample_features(self, visual: VisualInputs, frames: Tensor | None) -> list[Tensor]:
        """float[T, D] of each sample, in the document's form: its video, or its images one after another."""
        if frames is not None:
            return self.encode_videos(frames)
        if visual[0] is None:
            raise ValueError("Either images or video_frames required")
        counts = visual[3]
        return group_by_sample(self._encode_given_images(*visual), None if counts is None else plain_counts(counts))

    def _concatenate(
        self, samples: list[Tensor], text: Tensor, attention_mask: Tensor | None, labels: Tensor | None
    ) -> Concatenated:
        if self.config.placement != "concatenate":
            raise ValueError('this model\'s config places images by "placeholder"; give it input_ids and pixel_values')
        boundaries = (self.image_start_token, self.image_end_token)
        return concatenate(samples, text, boundaries, attention_mask, labels)

    def _run_concatenated(
        self,
        samples: list[Tensor],
        text_embeds: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        options: dict[str, Any],
    ) -> LLaVAOutput:
        """The document's form: features alone, or before the text, and logits where there is a language model."""
        output = LLaVAOutput(visual_features=pad_left(samples)[0])
        if text_embeds is None and input_ids is not None:
            text_embeds = self.language_model.get_input_embeddings()(input_ids)
        if text_embeds is None:
            return output
        joined = self._concatenate(samples, text_embeds, attention_mask, labels)
        if self.language_model is not None:
            ran = self._run_language_model(
                joined.embeds, joined.attention_mask, joined.position_ids, joined.labels, options
            )
            output = LLaVAOutput(**ran, visual_features=output.visual_features)
        output["multimodal_embeds"], output["attention_mask"] = joined.embeds, joined.attention_mask
        return output

    def prompt_embeds(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Embed a prompt for generation, however the model places images.

        Args:
            inputs: a processor's outputs and options of `generate`, mixed.

        Returns:
            float[B, T, D], its mask int[B, T], and what was neither: the options.
        """
        options = dict(inputs)
        input_ids, mask = options.pop("input_ids"), options.pop("attention_mask", None)
        mask = torch.ones_like(input_ids) if mask is None else mask
        visual = {name: options.pop(name, None) for name in VISUAL_INPUTS}
        pixels, videos = visual["pixel_values"], visual["pixel_values_videos"]
        if self.config.placement == "concatenate" and (pixels is not None or videos is not None):
            given = (pixels, visual["image_sizes"], visual["image_grids"], visual["num_images_per_sample"])
            text = self.language_model.get_input_embeddings()(input_ids)
            joined = self._concatenate(self._sample_features(given, videos), text, mask, None)
            return joined.embeds, joined.attention_mask, options
        return self.embed_inputs(input_ids, **visual), mask, options

    @torch.no_grad()
    def generate(self, **inputs: Any) -> Tensor:
        """Generate from a processor's outputs.

        Args:
            **inputs: `input_ids`, `attention_mask` and visual inputs; everything else goes to transformers' `generate`.

        Returns:
            int64[B, T]: the new tokens alone.
        """
        embeds, mask, options = self.prompt_embeds(inputs)
        generated: Tensor = self.language_model.generate(inputs_embeds=embeds, attention_mask=mask, **options)
        return generated

    def prefill(self, **inputs: Any) -> generation.Prefix:
        """Encode and prefill one prompt's beginning, images included, so that many questions can follow it."""
        return generation.prefill(self, **inputs)

    def generate_with_cache(
        self, prefix: generation.Prefix, questions: Sequence[Tensor], **options: Any
    ) -> list[Tensor]:
        """Answer any number of questions on top of one prefilled prefix; see `generation.generate_with_cache`."""
        return generation.generate_with_cache(self, prefix, questions, **options)


class LLaVAOneVision(LLaVANeXT):
    """LLaVA-OneVision: SigLIP, several images as single tiles, video; arguments as `LLaVANeXT`."""

    FAMILY: Family = "llava_onevision"


def model_class(config: ModelConfig) -> type[LLaVANeXT]:
    """The class that a config asks for."""
    return LLaVAOneVision if config.family == "llava_onevision" else LLaVANeXT
