"""Errors that `llava_core` raises, and the closed sets of reasons they carry.

    TesseraError
    ├── ConfigError        a setting is wrong; raised before any work (also a ValueError)
    ├── ImageRefused       one image cannot be used; becomes a rejected row
    ├── PromptRefused      one prompt or conversation cannot be used; becomes a rejected row
    └── CheckpointRefused  a checkpoint folder cannot be trusted or does not fit; stops the job

Reasons are closed enums, because rows are counted by them. This module raises nothing itself.
"""

from enum import StrEnum


class TesseraError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(TesseraError, ValueError):
    """A setting is wrong: the message names what was expected, what came, and what to do."""


class ImageReason(StrEnum):
    """Why an image was refused."""

    EMPTY = "EMPTY"
    """No bytes at all."""
    NOT_IMAGE = "NOT_IMAGE"
    """It does not begin as any image does, whatever its name says."""
    UNSUPPORTED = "UNSUPPORTED"
    """An image of a kind that is not decoded: SVG, HEIC, JPEG XL, camera raws and others."""
    UNSUPPORTED_MODE = "UNSUPPORTED_MODE"
    """Colours whose range nobody knows: floating point, 32-bit, LAB, HSV."""
    TRUNCATED = "TRUNCATED"
    """The file ends before its picture does."""
    CORRUPT = "CORRUPT"
    """Damaged: its bytes are not what its format allows."""
    BOMB = "BOMB"
    """More pixels, or more unpacked bytes, than an image may have."""
    BAD_DIMENSIONS = "BAD_DIMENSIONS"
    """A height or width of zero, or an array that is not height × width × 3."""
    TOO_SMALL = "TOO_SMALL"
    """A side is shorter than the limit."""
    TOO_LARGE = "TOO_LARGE"
    """More encoded bytes than an image may have."""
    ASPECT = "ASPECT"
    """One side is too many times as long as the other; 50 times unless a job says otherwise."""
    BAD_BASE64 = "BAD_BASE64"
    """Text that should be base64 and is not."""
    TIMEOUT = "TIMEOUT"
    """Decoding it, or answering about it, took too long or would have."""
    MEMORY = "MEMORY"
    """Decoding it, or answering about it, took more memory than there is for it."""
    DECODER_CRASH = "DECODER_CRASH"
    """The process that decoded it, or answered about it, crashed or failed."""


class PromptReason(StrEnum):
    """Why a prompt or conversation was refused."""

    EMPTY_TEXT = "EMPTY_TEXT"
    """Nothing is said where something has to be."""
    TOO_LONG = "TOO_LONG"
    """More characters, tokens or images than the model or the setting takes."""
    TOKEN_MISMATCH = "TOKEN_MISMATCH"
    """The text has other places for images or videos (`<image>`, `<video>`) than there are images or videos."""
    BAD_CONVERSATION = "BAD_CONVERSATION"
    """Turns in a form that nobody knows, in a wrong order, or that do not fit the template."""
    NOT_FINITE = "NOT_FINITE"
    """The model's scores for the next token were no numbers."""


class CheckpointReason(StrEnum):
    """Why a checkpoint was refused."""

    NOT_FOUND = "NOT_FOUND"
    """No such folder or name on the hub, or a file that it needs is not there."""
    UNKNOWN_LAYOUT = "UNKNOWN_LAYOUT"
    """Settings of no layout, language model or tower that is read."""
    UNSAFE_FORMAT = "UNSAFE_FORMAT"
    """Weights that are pickles, which can run code."""
    REMOTE_CODE = "REMOTE_CODE"
    """Settings that ask for Python code of the checkpoint to be run."""
    PATH_TRAVERSAL = "PATH_TRAVERSAL"
    """An index that names files outside the folder."""
    CORRUPT = "CORRUPT"
    """A file that cannot be read, or that says what cannot be."""
    MISSING_TENSORS = "MISSING_TENSORS"
    """Weights that its settings ask for are not there."""
    UNEXPECTED_TENSORS = "UNEXPECTED_TENSORS"
    """Weights that its settings have no use for."""
    WRONG_SHAPE = "WRONG_SHAPE"
    """A tensor of another shape or type than its settings ask for."""
    NOT_FINITE = "NOT_FINITE"
    """A weight that is infinite or no number."""
    VOCABULARY = "VOCABULARY"
    """A tokenizer that does not fit the weights."""
    NOT_EXPRESSIBLE = "NOT_EXPRESSIBLE"
    """The wanted layout, or the settings that are read, have no way to say what this model is."""


class _Refused(TesseraError):
    """An error with a reason of a closed enum and a detail for people."""

    reason: StrEnum

    def __init__(self, reason: StrEnum, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["_Refused"], tuple[StrEnum, str]]:
        return type(self), (self.reason, self.detail)


class ImageRefused(_Refused):
    """One image cannot be used.

    Args:
        reason: one of `ImageReason`.
        detail: what was found, for people; never needed to decide anything.
    """

    reason: ImageReason


class PromptRefused(_Refused):
    """One prompt or conversation cannot be used; `reason` is one of `PromptReason`."""

    reason: PromptReason


class CheckpointRefused(_Refused):
    """A checkpoint cannot be trusted or does not fit; `reason` is one of `CheckpointReason`."""

    reason: CheckpointReason
