"""How much an engine takes at once, and how it takes less where memory runs out.

    a prefill fails ─▶ half the passes ─▶ … ─▶ the smallest ─▶ half as many requests together ─▶ … ─▶ one alone ┐
    a decoding step fails ───────────────────▶ half as many requests together ─▶ … ─▶ one alone ────────────────┤
    a cache finds no room ─▶ its request waits for others to end (`kv`) ─▶ … ─▶ alone ──────────────────────────┘
                          └─▶ fewer tiles of its images ─▶ MemoryError

Each lowers only what it took, because a prefill that was too large says nothing of how many requests can decode. What
was found to fit is remembered, unless the fault was a single request's: where one of those whose step failed had to
lose tiles, the budgets from before are back when the last of them has its result.

What this does *not* do: run steps, or undo them (`packed`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

LEAST_PASS_TOKENS = 64
"""Where memory runs out, passes are not made shorter than this."""


@dataclass(frozen=True, slots=True)
class Budgets:
    """What one step takes at most."""

    batch_size: int
    """Requests that decode together."""
    tile_budget: int
    """Tiles in one pass of the tower."""
    prefill_tokens: int
    """Tokens in one pass over prompts."""

    @property
    def smallest(self) -> bool:
        """Whether passes cannot be made smaller."""
        return self.tile_budget == 1 and self.prefill_tokens <= LEAST_PASS_TOKENS

    def with_half_the_passes(self) -> "Budgets":
        """The same requests together, in passes of half the size."""
        return replace(
            self,
            tile_budget=max(1, self.tile_budget // 2),
            prefill_tokens=max(min(self.prefill_tokens, LEAST_PASS_TOKENS), self.prefill_tokens // 2),
        )

    def with_at_most(self, num_requests: int) -> "Budgets":
        """The same passes, at most so many requests together."""
        return replace(self, batch_size=min(self.batch_size, num_requests))


class Ladder:
    """The budgets in force.

    Args:
        budgets: to begin with.
    """

    def __init__(self, budgets: Budgets) -> None:
        self.now = budgets
        self._before = budgets
        self._suspects: set[int] = set()
        self._at_fault = False

    def begin(self) -> None:
        """Start with requests that have nothing to do with those before."""
        if self._at_fault:  # the call before ended in an error, and its requests have no results
            self.now = self._before
        self._suspects.clear()
        self._at_fault = False

    def step_down(self, undone: Iterable[int], num_running: int, *, prefill: bool) -> None:
        """Take less: a step failed of more than one request, or in passes that can be smaller.

        Args:
            undone: places of the requests that will come again because of it.
            num_running: how many others run on.
            prefill: whether it was a prefill, rather than a step of decoding.
        """
        if not self._suspects:
            self._before = self.now
        places = set(undone)
        self._suspects |= places
        if prefill and not self.now.smallest:
            self.now = self.now.with_half_the_passes()
        else:
            self.now = self.now.with_at_most((len(places) + num_running) // 2)

    def blame(self, place: int) -> None:
        """Say that a request does not fit even alone: what was lowered for it was not at fault."""
        self._at_fault |= place in self._suspects

    def settle(self, place: int) -> None:
        """Say that a request has its result."""
        if place not in self._suspects:
            return
        self._suspects.discard(place)
        if self._at_fault and not self._suspects:
            self.now = self._before
            self._at_fault = False
