"""From a row to a sample: its ids, labels and tile plan, known before one pixel is decoded; or the reason why not.

Legend: T tokens.

What this does *not* do: load images (`loader`), choose rows (`data`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from llava_core.config import plan_tiles
from llava_core.conversations import Conversation, Video, ask, from_llava
from llava_core.errors import PromptReason, PromptRefused
from llava_core.labels import IGNORE_INDEX
from llava_core.processor import LLaVAProcessor
from llava_core.video import num_video_tokens
from pipelines.training.sources import TrainRow
from pipelines.training.stages import Stage

CAPTION_PROMPT = "Describe this image in detail."
"""What is asked where a row has only a caption; the plain template drops it."""


class TrainReason(StrEnum):
    """Why a row is left out of a stage, although nothing is wrong with it."""

    NO_IMAGE = "NO_IMAGE"
    """Only the language model would see it, and that is frozen."""
    SKIPPED = "SKIPPED"
    """`--skip` names it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, ready to be packed."""

    row: TrainRow
    """Where it came from."""
    input_ids: Sequence[int]
    """int[T]; placeholders already repeated."""
    labels: Sequence[int]
    """int[T]; `IGNORE_INDEX` where nothing is to be learned."""
    num_tiles: int
    """Tiles that the tower has to see, frames of videos among them."""
    num_frames: int = 0
    """Frames of its video; 0 without."""
    is_caption: bool = False
    """It describes its image: counts for the description loss."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What extra losses need to know of it."""

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.input_ids)

    @property
    def num_targets(self) -> int:
        """Labels that the loss counts; the first token has nothing before it."""
        return sum(label != IGNORE_INDEX for label in self.labels[1:])


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that cannot be trained on."""

    uid: str
    """Of the row."""
    reason: str
    """Of `pipelines.reasons`, or a `TrainReason`."""
    detail: str
    """For people."""


class Sampler:
    """Makes samples of rows, for one stage and model.

    Args:
        processor: of the model, with the stage's template.
        stage: lengths and tiles.
        skip: ids of rows to leave out.
    """

    def __init__(self, processor: LLaVAProcessor, stage: Stage, skip: Collection[str] = ()) -> None:
        self.processor, self.stage, self.skip = processor, stage, frozenset(skip)

    def __call__(self, row: TrainRow) -> Sample | Unusable:
        """The sample of a row, or why there is none."""
        if row.uid in self.skip:
            return Unusable(row.uid, TrainReason.SKIPPED, "--skip names it")
        if row.error is not None:
            return Unusable(row.uid, row.error, row.detail)
        # A round of such rows alone would have no gradient at all.
        if not row.sizes and not self.stage.trainable & {"language_model", "extra"}:
            return Unusable(row.uid, TrainReason.NO_IMAGE, "the language model is frozen in this stage")
        try:
            return self._sample(row)
        except PromptRefused as refusal:
            return Unusable(row.uid, str(refusal.reason), refusal.detail)

    def _sample(self, row: TrainRow) -> Sample:
        conversation, is_video = read_conversation(row)
        if not conversation or conversation[-1].role != "assistant":
            raise PromptRefused(PromptReason.BAD_CONVERSATION, "the last turn is not the assistant's")
        config, stage = self.processor.config, self.stage
        image_tokens: list[int] = []
        video_tokens: list[int] = []
        num_tiles = num_frames = 0
        if is_video:
            num_frames = num_tiles = min(len(row.sizes), config.video.max_frames)
            side, newline = config.patches_per_side, config.connector.image_newline
            video_tokens = [num_video_tokens(num_frames, side, config.video, newline)]
        else:
            count = len(row.sizes)
            if config.tiles.max_images is not None and count > config.tiles.max_images:
                detail = f"{count} images; the model takes at most {config.tiles.max_images}"
                raise PromptRefused(PromptReason.TOO_LONG, detail)
            most = fewer(stage.max_tiles, row.max_tiles)
            plans = [plan_tiles(size, config, num_images=count, max_tiles=most) for size in row.sizes]
            image_tokens = [plan.num_image_tokens for plan in plans]
            num_tiles = sum(plan.num_tiles for plan in plans)
        total = sum(image_tokens) + sum(video_tokens)
        if total > stage.row_tokens:
            raise PromptRefused(PromptReason.TOO_LONG, f"{total} image tokens; at most {stage.row_tokens}")
        tokens = self.processor.tokenise(
            conversation, image_tokens, video_tokens, image_placement=stage.image_placement
        )
        if len(tokens.input_ids) > stage.row_tokens:
            detail = f"{len(tokens.input_ids)} tokens; at most {stage.row_tokens}"
            raise PromptRefused(PromptReason.TOO_LONG, detail)
        sample = Sample(
            row=row,
            input_ids=tokens.input_ids,
            labels=tokens.labels,
            num_tiles=num_tiles,
            num_frames=num_frames,
            is_caption=row.turns is None,
            extra=row.extra,
        )
        if not sample.num_targets:
            raise PromptRefused(PromptReason.EMPTY_TEXT, "no token of it is to be learned")
        return sample


def fewer(first: int | None, second: int | None) -> int | None:
    """The smaller of two bounds, None being none.

    >>> fewer(None, 4), fewer(2, 4), fewer(None, None)
    (4, 2, None)
    """
    return min((bound for bound in (first, second) if bound is not None), default=None)


def read_conversation(row: TrainRow) -> tuple[Conversation, bool]:
    """What is said, and whether the row's images are the frames of one video.

    They are where the conversation has a `<video>` place and no `<image>`.

    Raises:
        PromptRefused: as `from_llava`; EMPTY_TEXT for a row without conversation or caption.
    """
    if row.turns is None:
        if not (row.text or "").strip():
            raise PromptRefused(PromptReason.EMPTY_TEXT, "neither a conversation nor a caption")
        return ask(CAPTION_PROMPT, len(row.sizes), answer=row.text), False
    said = [turn.get("value") for turn in row.turns if isinstance(turn, dict)] if isinstance(row.turns, list) else []
    has_video = any("<video>" in text for text in said if isinstance(text, str))
    is_video = has_video and not any("<image>" in text for text in said if isinstance(text, str)) and bool(row.sizes)
    conversation = from_llava(row.turns, 0 if is_video else len(row.sizes), int(is_video))
    return conversation, is_video and any(isinstance(p, Video) for m in conversation for p in m.content)


def stage_processor(processor: LLaVAProcessor, stage: Stage) -> LLaVAProcessor:
    """The processor with the stage's template."""
    if stage.template is None:
        return processor
    return LLaVAProcessor(processor.tokenizer, replace(processor.config, template=stage.template))
