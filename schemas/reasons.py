"""Why a reader of corpora rejected a row or a whole file, and why a question could not be asked: closed enums.

Two kinds of reasons live elsewhere, because other rooms give them too: those of an image
(`llava_core.errors.ImageReason`, of which readers give `BAD_BASE64`) and of a prompt. `pipelines.reasons` joins all.
Where a word is in several enums it means the same. This module decides nothing; it only names.
"""

from enum import StrEnum


class CorpusReason(StrEnum):
    """Why a row, or the one row that stands for an unreadable file, was rejected by a reader."""

    NOT_FOUND = "NOT_FOUND"
    """The file is not there (any more)."""
    UNREADABLE = "UNREADABLE"
    """The file is there and the operating system refuses to read it."""
    TOO_LARGE = "TOO_LARGE"
    """More bytes than a file, member or record may have; left unread."""
    MEMORY = "MEMORY"
    """A header claims more rows or bytes than the file can hold."""
    BOMB = "BOMB"
    """A compressed archive unpacks to far more than its size."""
    CORRUPT = "CORRUPT"
    """The container is damaged, or in a form that no reader knows."""
    TRUNCATED_ARCHIVE = "TRUNCATED_ARCHIVE"
    """A tar ends before its end marker."""
    PATH_TRAVERSAL = "PATH_TRAVERSAL"
    """A name or link leaves the folder it has to stay in."""
    SPECIAL_MEMBER = "SPECIAL_MEMBER"
    """A tar member that is a link, device, pipe or sparse file."""
    DUP_KEY = "DUP_KEY"
    """A second sample or member under a name that is taken; the first one stands."""
    MISSING_PART = "MISSING_PART"
    """A sample without an image."""
    UNSAFE_TYPE = "UNSAFE_TYPE"
    """A type that runs code when it is read (pickles, Arrow extension types that carry them)."""
    NESTED_ARCHIVE = "NESTED_ARCHIVE"
    """An archive inside an archive."""
    SCHEMA = "SCHEMA"
    """Columns or top-level form are not what a corpus needs: missing, doubled, of a wrong type, ambiguous."""
    NULL_FIELD = "NULL_FIELD"
    """The image, or the column named as uid, is null."""
    BAD_JSON = "BAD_JSON"
    """Not strict JSON, or not an object."""
    BAD_ENCODING = "BAD_ENCODING"
    """Text or a file name that is not UTF-8."""
    TOO_LONG = "TOO_LONG"
    """A text above the limit."""
    BAD_CONVERSATION = "BAD_CONVERSATION"
    """Turns in a form that no reader knows."""
    SCHEME = "SCHEME"
    """A URI whose scheme or place is not allowed for this corpus."""


class QuestionReason(StrEnum):
    """Why a question was rejected before any image was looked at, where no other enum has a word for it.

    Those that have: `DUP_KEY` (a question id that is taken), `EMPTY_TEXT` (nothing is asked), `TOKEN_MISMATCH` (other
    images than places for them), `SCHEMA`, `BAD_JSON`, `NULL_FIELD` (a column that the prompt needs is empty).
    """

    UNKNOWN_IMAGE = "UNKNOWN_IMAGE"
    """The question names no image of the corpus, or several."""
