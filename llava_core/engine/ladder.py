"""How much an engine takes at once, and how it takes less where memory runs out.

    a step fails ─▶ its requests come again, under half the budgets ─▶ … ─▶ one request alone, in the smallest passes
                 ─▶ fewer tiles of its images ─▶ refused

What was found to fit is remembered, unless the fault was a single request's: where one of those whose step failed had
to lose tiles or was refused, the budgets from before are back when the last of them has its result.

What this does *not* do: run steps, or undo them (`packed`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

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

    def halved(self, most_requests: int) -> "Budgets":
        """Half of everything, and at most so many requests."""
        return Budgets(
            batch_size=max(1, min(self.batch_size, most_requests)),
            tile_budget=max(1, self.tile_budget // 2),
            prefill_tokens=max(min(self.prefill_tokens, LEAST_PASS_TOKENS), self.prefill_tokens // 2),
        )


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
        self._suspects.clear()
        self._at_fault = False

    def step_down(self, undone: Iterable[int], num_running: int) -> None:
        """Take less: a step failed.

        Args:
            undone: places of the requests that will come again because of it.
            num_running: how many others run on.
        """
        if not self._suspects:
            self._before = self.now
        places = set(undone)
        self._suspects |= places
        self.now = self.now.halved((len(places) + num_running) // 2)

    def blame(self) -> None:
        """Say that a request did not fit alone, in the smallest passes: what was lowered for it was not at fault."""
        self._at_fault = True

    def settle(self, place: int) -> None:
        """Say that a request has its result."""
        if place not in self._suspects:
            return
        self._suspects.discard(place)
        if self._at_fault and not self._suspects:
            self.now = self._before
            self._at_fault = False
