"""From a conversation to the segments of a prompt: which text stands where, and which of it is trained on.

    Conversation ─ render(template) ─▶ Segment("…USER: ", special) Segment("<image>", special) Segment("\\nWhat?")
                                        Segment(" ASSISTANT:", special) Segment(" A cat.", trainable) Segment("</s>", …)

Special tokens count only in segments that the template wrote (`special`); what users or models said is text. Labels
follow from the segments' offsets (`labels`), never from counting tokens again.

What this does *not* do: tokenise, load images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llava_core.conversations import (
    IMAGE_PLACEHOLDER,
    VIDEO_PLACEHOLDER,
    Conversation,
    Image,
    Message,
    Part,
    Text,
    Video,
    ask,
    check_media,
    clean_text,
    from_llava,
    from_messages,
)
from llava_core.errors import PromptReason, PromptRefused
from llava_core.templates import TEMPLATES, Template, find_template

__all__ = [
    "CHOICE_SUFFIX",
    "IMAGE_PLACEHOLDER",
    "JUDGE_SUFFIX",
    "SHORT_SUFFIX",
    "TEMPLATES",
    "VIDEO_PLACEHOLDER",
    "Conversation",
    "Image",
    "ImagePlacement",
    "Message",
    "Part",
    "Segment",
    "Template",
    "Text",
    "Video",
    "ask",
    "check_media",
    "clean_text",
    "find_template",
    "from_llava",
    "from_messages",
    "prompt_text",
    "render",
]

SHORT_SUFFIX = "Answer the question using a single word or phrase."
CHOICE_SUFFIX = "Answer with the option's letter from the given choices directly."
"""What follows a question on a line of its own, in LLaVA's training mix and in its evaluation."""
JUDGE_SUFFIX = "What is in each box, and is this statement true or false?"
"""What follows a statement of NLVR, so that a model looks before it judges; our own, as LLaVA's authors have none."""

ImagePlacement = Literal["front", "keep"]
"""A turn's only image: to the front of its turn, as the released data code moves it, or where it stands."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt."""

    text: str
    """Its characters; `<image>` or `<video>` of a special segment is a placeholder."""
    trainable: bool = False
    """The loss counts it: answers and the end of their turn."""
    special: bool = False
    """Written by the template, so special tokens in it are parsed."""

    @property
    def is_placeholder(self) -> bool:
        """Whether it stands for an image or a video."""
        return self.special and self.text in (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER)


def render(
    conversation: Conversation,
    template: Template | str,
    add_generation_prompt: bool = False,
    image_placement: ImagePlacement = "front",
) -> list[Segment]:
    """Write a conversation as its template has it.

    Args:
        conversation: an optional system message, then user and assistant in turns.
        template: the template, or its name in `TEMPLATES`.
        add_generation_prompt: end with what an answer begins after; the last message must then be the user's.
        image_placement: where a turn's only image or video goes; several keep their positions.

    Returns:
        The segments in order, none empty; their texts joined are the prompt.

    Raises:
        PromptRefused: BAD_CONVERSATION for roles out of order or media outside user turns; EMPTY_TEXT for a turn
            without text.
        ConfigError: no such template.

    Example:
        >>> for segment in render(ask("What?", answer="A cat."), "mistral_instruct"):
        ...     print("trained on" if segment.trainable else "not", repr(segment.text))
        not '[INST] '
        not '<image>'
        not '\\n'
        not 'What?'
        not ' [/INST]'
        trained on ' '
        trained on 'A cat.'
        trained on ' </s>'
    """
    form = find_template(template) if isinstance(template, str) else template
    system, turns = _check_order(conversation, form, add_generation_prompt)
    block = [Segment(form.system_open, special=True), Segment(system), Segment(form.system_close, special=True)]
    block = block if system else []
    segments = [] if form.system_inside else list(block)
    segments.append(Segment(form.start, special=True))
    for index, message in enumerate(turns):
        if message.role == "assistant":
            segments += _answer(message, form)
            continue
        first = index == 0
        opening = form.user_open if first or form.user_open_next is None else form.user_open_next
        segments.append(Segment(opening, special=True))
        segments += block if first and form.system_inside else []
        segments += _user(message, form, image_placement)
        segments.append(Segment(form.user_close, special=True))
        if add_generation_prompt or index + 1 < len(turns):
            segments.append(Segment(form.answer_open, special=True))
    return [segment for segment in segments if segment.text]


def prompt_text(segments: Sequence[Segment]) -> str:
    """The prompt as one string, for people and for `processor(text=...)`; special tokens are no longer told apart."""
    return "".join(segment.text for segment in segments)


def _check_order(conversation: Conversation, form: Template, generate: bool) -> tuple[str, list[Message]]:
    """The system text, and the turns after it, checked."""
    turns = list(conversation)
    system = form.system
    if turns and turns[0].role == "system":
        system = turns.pop(0).text
    for index, message in enumerate(turns):
        expected = "assistant" if index % 2 else "user"
        if message.role != expected:
            raise _bad(f"turn {index} is the {message.role}'s, not the {expected}'s")
    if not turns:
        raise _bad("no user turn")
    if generate and turns[-1].role != "user":
        raise _bad("a prompt for generation must end with the user's turn")
    for message in conversation:
        if message.role != "user" and not all(isinstance(part, Text) for part in message.content):
            raise _bad(f"an image or video in the {message.role}'s turn")
        needs_text = message.role != "system" and not (message.role == "user" and form.media_only)
        if needs_text and not message.text.strip():
            raise PromptRefused(PromptReason.EMPTY_TEXT, f"the {message.role}'s turn has no text")
    if form.media_only and (len(turns) > 2 or all(isinstance(part, Text) for part in turns[0].content)):
        raise _bad(f"template {form.name!r} takes one round, about an image")
    return (system.strip() if form.trim else system), turns


def _bad(detail: str) -> PromptRefused:
    return PromptRefused(PromptReason.BAD_CONVERSATION, detail)


def _user(message: Message, form: Template, placement: ImagePlacement) -> list[Segment]:
    parts = list(message.content)
    if form.media_only:
        parts = [part for part in parts if not isinstance(part, Text)]
    elif placement == "front":
        parts = _media_first(parts)
    if form.trim:
        parts = _trimmed(parts)
    segments = []
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        segments.append(_segment(part))
        # See `conversations`: a newline after media, unless whitespace or an explicit nothing follows.
        follows = after.text[:1] if isinstance(after, Text) else "media"
        if not isinstance(part, Text) and after is not None and follows and not follows.isspace():
            segments.append(Segment("" if form.media_only else "\n"))
    return segments


def _media_first(parts: list[Part]) -> list[Part]:
    """`preprocess_multimodal` of LLaVA-VL/LLaVA-NeXT: only a turn's single placeholder, and only if not first."""
    media = [part for part in parts if not isinstance(part, Text)]
    if len(media) != 1 or parts[0] == media[0]:
        return parts
    text = "".join(part.text for part in parts if isinstance(part, Text)).strip()
    return [media[0], Text("\n" + text)]


def _trimmed(parts: list[Part]) -> list[Part]:
    if parts and isinstance(parts[0], Text):
        parts = [Text(parts[0].text.lstrip()), *parts[1:]]
    if parts and isinstance(parts[-1], Text):
        parts = [*parts[:-1], Text(parts[-1].text.rstrip())]
    return parts


def _segment(part: Part) -> Segment:
    match part:
        case Image():
            return Segment(IMAGE_PLACEHOLDER, special=True)
        case Video():
            return Segment(VIDEO_PLACEHOLDER, special=True)
        case Text(text):
            return Segment(text)


def _answer(message: Message, form: Template) -> list[Segment]:
    text = message.text.strip() if form.trim else message.text
    return [
        Segment(form.answer_lead, trainable=True, special=True),
        Segment(text, trainable=True),
        Segment(form.answer_close, trainable=True, special=True),
        Segment(form.answer_tail, special=True),
    ]
