"""Conversations: who said what, and where the images stand; from LLaVA JSON, transformers' messages or a question.

    {"from": "human", "value": "<image>\\nWhat?"}  ─▶  Message("user", (Image(), Text("\\nWhat?")))

`Text` is only ever text, whatever it spells, so `</s>` or `<image>` in it cannot become a token. An image or video is
followed by a newline in the prompt, unless whitespace follows or an empty `Text("")`, which says that nothing does.

What this does *not* do: write prompts (`prompts`), hold pixels (the images come beside the conversation, in order).
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llava_core.errors import PromptReason, PromptRefused

Role = Literal["system", "user", "assistant"]

IMAGE_PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"
MAX_TEXT_CHARS = 1_000_000
"""A longer text is refused before it is tokenised."""

_LLAVA_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant", "system": "system"}
SURROGATES = re.compile("[\ud800-\udfff]")
"""Half characters, which no text encoding takes."""
_MEDIA = re.compile("(<image>|<video>)")
# Kept: tab, newline, and the joiners U+200C and U+200D, without which Persian, Indic scripts and emoji change.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufdd0-\ufdef]"
)


@dataclass(frozen=True, slots=True)
class Text:
    """Literal text."""

    text: str
    """Never parsed for special tokens."""


@dataclass(frozen=True, slots=True)
class Image:
    """The place of the next image."""


@dataclass(frozen=True, slots=True)
class Video:
    """The place of the next video."""


Part = Text | Image | Video


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Role
    """Who speaks."""
    content: tuple[Part, ...]
    """What is said, in order."""

    @property
    def text(self) -> str:
        """All text of the turn, joined."""
        return "".join(part.text for part in self.content if isinstance(part, Text))


Conversation = Sequence[Message]


def clean_text(text: str) -> str:
    """Normalise text of unknown origin: NFC, line ends, no control, bidi-control or zero-width characters.

    Args:
        text: any string.

    Returns:
        The same text to a reader.

    Raises:
        PromptRefused: TOO_LONG; or BAD_CONVERSATION for half of a surrogate pair, which no tokenizer can encode.

    Example:
        >>> clean_text("cafe\\u0301\\r\\n\\u202eok\\x00")
        'café\\nok'
    """
    if len(text) > MAX_TEXT_CHARS:
        raise PromptRefused(PromptReason.TOO_LONG, f"{len(text)} characters; at most {MAX_TEXT_CHARS}")
    if SURROGATES.search(text):
        raise _bad("text has half of a surrogate pair")
    return _INVISIBLE.sub("", unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")))


def ask(question: str, num_images: int = 1, num_videos: int = 0, answer: str | None = None) -> tuple[Message, ...]:
    """A conversation of one question, media first.

    Args:
        question: the user's words; stays text whatever it spells.
        num_images: images that it is about.
        num_videos: videos that it is about, after the images.
        answer: what the assistant said, to train on.

    Returns:
        One message, or two with an answer.

    Raises:
        PromptRefused: see `clean_text`.

    Example:
        >>> ask("What is <image>?")
        (Message(role='user', content=(Image(), Text(text='What is <image>?'))),)
    """
    turn = Message("user", (*[Image()] * num_images, *[Video()] * num_videos, Text(clean_text(question))))
    return (turn,) if answer is None else (turn, Message("assistant", (Text(clean_text(answer)),)))


def from_llava(turns: object, num_images: int = 0, num_videos: int = 0) -> tuple[Message, ...]:
    """Read `conversations` of LLaVA JSON: `{"from": "human" | "gpt" | "system", "value": str}`.

    `<image>` in a human turn is the place of an image (of a video where the sample has only videos, as the released
    OneVision data writes it); in any other turn it is literal text. Nothing is put between a placeholder and what
    follows it.

    Args:
        turns: the list of turns, as JSON gives it.
        num_images: images of the sample.
        num_videos: videos of the sample.

    Returns:
        The conversation, its roles not yet checked (`prompts.render` does).

    Raises:
        PromptRefused: BAD_CONVERSATION for anything that is not such a list; TOKEN_MISMATCH where the human turns
            have another number of placeholders than the sample has images or videos; TOO_LONG.

    Example:
        >>> from_llava([{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", "value": "An <image>."}], 1)[1]
        Message(role='assistant', content=(Text(text='An <image>.'),))
    """
    if not isinstance(turns, list | tuple):
        raise PromptRefused(PromptReason.BAD_CONVERSATION, f"conversations is {type(turns).__name__}, not a list")
    image_is_video = num_images == 0 and num_videos > 0
    messages = []
    for turn in turns:
        match turn:
            case {"from": "human" | "gpt" | "system" as speaker, "value": str(value)}:
                role, text = _LLAVA_ROLES[speaker], clean_text(value)
            case _:
                raise _bad(f"not a turn with from and value: {str(turn)[:80]!r}")
        messages.append(Message(role, _split_media(text, image_is_video) if role == "user" else (Text(text),)))
    check_media(messages, num_images, num_videos)
    return tuple(messages)


def _split_media(text: str, image_is_video: bool) -> tuple[Part, ...]:
    """Text and placeholders; an empty text after each that no whitespace follows, so that nothing is added."""
    before, *rest = _MEDIA.split(text)
    parts: list[Part] = [Text(before)] if before else []
    for name, after in zip(rest[::2], rest[1::2], strict=True):
        parts.append(Video() if image_is_video or name == VIDEO_PLACEHOLDER else Image())
        parts += [] if after[:1].isspace() else [Text("")]
        parts += [Text(after)] if after else []
    return tuple(parts)


def _bad(detail: str) -> PromptRefused:
    return PromptRefused(PromptReason.BAD_CONVERSATION, detail)


def check_media(conversation: Conversation, num_images: int, num_videos: int = 0) -> None:
    """Raise `PromptRefused(TOKEN_MISMATCH)` unless a conversation has a place for each image and video.

    Args:
        conversation: the messages.
        num_images: images given with it.
        num_videos: videos given with it.
    """
    parts = [part for message in conversation for part in message.content]
    for kind, name, given in ((Image, "image", num_images), (Video, "video", num_videos)):
        places = sum(isinstance(part, kind) for part in parts)
        if places != given:
            detail = f"the text has {places} <{name}> places, but {given} {name}s are given"
            raise PromptRefused(PromptReason.TOKEN_MISMATCH, detail)


def from_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """Read transformers' chat messages: `{"role", "content": str | [{"type": "text" | "image" | "video", ...}]}`.

    Args:
        messages: as `apply_chat_template` of transformers takes them; pixels in them are ignored here.

    Returns:
        The conversation.

    Raises:
        PromptRefused: BAD_CONVERSATION for anything else.

    Example:
        >>> from_messages([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}])
        (Message(role='user', content=(Image(), Text(text='What?'))),)
    """
    read = []
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in ("system", "user", "assistant"):
            raise _bad(f"not a message with a known role: {str(message)[:80]!r}")
        content = message.get("content")
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(items, Sequence):
            raise _bad(f"content is {type(content).__name__}, neither text nor a list of parts")
        read.append(Message(message["role"], tuple(_part(item) for item in items)))
    return tuple(read)


def _part(item: object) -> Part:
    match item:
        case {"type": "image" | "image_url"}:
            return Image()
        case {"type": "video"}:
            return Video()
        case {"type": "text", "text": str(text)}:
            return Text(clean_text(text))
        case _:
            raise _bad(f"not a text, image or video part: {str(item)[:80]!r}")
