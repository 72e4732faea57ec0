"""What decoders raise on bad files, turned into `ImageRefused`.

Pillow reports one fault by many types (OSError, ValueError, SyntaxError, struct.error, EOFError, …), and some only as
Python warnings. Here each becomes a reason; the warnings, which are about metadata that is not used, are muted. What
libtiff writes to the process's standard error is not caught.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from llava_core.errors import ImageReason, ImageRefused

_TRUNCATED_WORDS = ("truncated", "unexpected end", "end of file", "premature", "not enough", "not large enough")
_BOMB_WORDS = ("decompressed data too large", "too much memory", "text chunk")


@contextmanager
def refusing_what_fails(name: str) -> Iterator[None]:
    """Run a decoder so that it can only succeed or raise `ImageRefused`.

    Args:
        name: of the format, for the detail.

    Raises:
        ImageRefused: `BOMB`, `MEMORY`, `TRUNCATED` or `CORRUPT`; a refusal from inside passes through.

    Example:
        >>> with refusing_what_fails("PNG"):
        ...     raise SyntaxError("broken PNG file")
        Traceback (most recent call last):
        llava_core.errors.ImageRefused: CORRUPT: PNG: SyntaxError: broken PNG file
    """
    try:
        with _MUTED:
            yield
    except ImageRefused:
        raise
    except Exception as error:  # whatever a decoder makes of hostile bytes, it is the file's fault
        raise ImageRefused(_reason_of(error), f"{name}: {type(error).__name__}: {error}") from error


def _reason_of(error: Exception) -> ImageReason:
    message = str(error).lower()
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ImageReason.BOMB
    if isinstance(error, MemoryError):
        return ImageReason.MEMORY
    if any(words in message for words in _BOMB_WORDS):
        return ImageReason.BOMB
    if isinstance(error, EOFError) or any(words in message for words in _TRUNCATED_WORDS):
        return ImageReason.TRUNCATED
    return ImageReason.CORRUPT


class _Muted:
    """Python's warnings off while any thread is inside.

    Their filters belong to the process, so that threads that each saved and restored them would restore each
    other's: the first one in saves them, the last one out restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_MUTED = _Muted()
