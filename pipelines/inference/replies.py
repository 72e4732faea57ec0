"""Replies that are already known, so that the same question about the same images is asked once.

Within a fragment every repeat is answered by its first; a worker also remembers the replies of earlier fragments, as
many as `KEPT`. Which worker gets which fragment decides what is run twice across fragments, never what a row says.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from llava_core.engine.types import Result

KEPT = 20_000
"""Replies that a worker remembers: a kilobyte each, at most."""

Key = tuple[str, ...]
"""Of one request: the hashes of its images' bytes, its prompt, and what else decides its tiles."""


def content_hash(data: bytes) -> str:
    """Hash an encoded image."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request."""

    result: Result
    """The engine's, or why there is none."""
    bound: int | None
    """On the tiles of its images."""


class Replies:
    """What one worker remembers; `begin` at each fragment."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._recent: OrderedDict[Key, Reply] = OrderedDict()
        self._own: dict[Key, Reply | None] = {}
        self.new = self.known = 0
        """Requests of this fragment that were asked, and those whose reply was known."""

    def begin(self) -> None:
        """Begin a fragment: what was asked and never answered, because its worker's work was cut off, is forgotten."""
        self._own = {}
        self.new = self.known = 0

    def expect(self, key: Key) -> bool:
        """Whether a request's reply is known or on its way; if not, the caller has to ask, and then to `add` it."""
        if key not in self._own:
            self._own[key] = self._recent.get(key)
            if self._own[key] is None:
                self.new += 1
                return False
        self.known += 1
        return True

    def add(self, key: Key, reply: Reply) -> None:
        """Note a reply."""
        self._own[key] = self._recent[key] = reply
        self._recent.move_to_end(key)
        while len(self._recent) > self._kept:
            self._recent.popitem(last=False)

    def of(self, key: Key) -> Reply:
        """The reply to a request that is known by now."""
        found = self._own[key]
        assert found is not None, "requests are answered in the order in which they were expected"
        return found


def key_of(images: Sequence[str], prompt: str, bound: object) -> Key:
    """Return the key of a request.

    Args:
        images: `content_hash` of each.
        prompt: of the request.
        bound: on its tiles, where it was not derived from the images alone.
    """
    return (*images, prompt, str(bound))
