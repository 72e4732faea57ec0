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
    NOT_IMAGE = "NOT_IMAGE"
    UNSUPPORTED = "UNSUPPORTED"
    UNSUPPORTED_MODE = "UNSUPPORTED_MODE"
    TRUNCATED = "TRUNCATED"
    CORRUPT = "CORRUPT"
    BOMB = "BOMB"
    BAD_DIMENSIONS = "BAD_DIMENSIONS"
    TOO_SMALL = "TOO_SMALL"
    TOO_LARGE = "TOO_LARGE"
    ASPECT = "ASPECT"
    BAD_BASE64 = "BAD_BASE64"
    TIMEOUT = "TIMEOUT"
    MEMORY = "MEMORY"
    DECODER_CRASH = "DECODER_CRASH"


class PromptReason(StrEnum):
    """Why a prompt or conversation was refused."""

    EMPTY_TEXT = "EMPTY_TEXT"
    TOO_LONG = "TOO_LONG"
    TOKEN_MISMATCH = "TOKEN_MISMATCH"
    BAD_CONVERSATION = "BAD_CONVERSATION"
    NOT_FINITE = "NOT_FINITE"


class CheckpointReason(StrEnum):
    """Why a checkpoint was refused."""

    NOT_FOUND = "NOT_FOUND"
    UNKNOWN_LAYOUT = "UNKNOWN_LAYOUT"
    UNSAFE_FORMAT = "UNSAFE_FORMAT"
    REMOTE_CODE = "REMOTE_CODE"
    PATH_TRAVERSAL = "PATH_TRAVERSAL"
    CORRUPT = "CORRUPT"
    MISSING_TENSORS = "MISSING_TENSORS"
    UNEXPECTED_TENSORS = "UNEXPECTED_TENSORS"
    WRONG_SHAPE = "WRONG_SHAPE"
    NOT_FINITE = "NOT_FINITE"
    VOCABULARY = "VOCABULARY"
    NOT_EXPRESSIBLE = "NOT_EXPRESSIBLE"


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
