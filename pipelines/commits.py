"""When receipts are committed: in groups, as they come, so that commits take a tenth of a driver's time at most.

What this does *not* do: commit (`tables`), or notice that nothing comes any more (`progress.watched`).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from pipelines.parts import Receipt

COMMIT_SECONDS, COMMIT_SHARE = 2.0, 10.0
"""Receipts are committed when the last commit is this many seconds ago, and as many times as long as it took: a commit
loads the table's snapshot, which grows with the table, so a fixed number would take ever more of the driver's time."""


def commit_in_groups(
    receipts: Iterable[Receipt],
    hear: Callable[[Receipt], None],
    commit: Callable[[Sequence[Receipt]], None],
    held: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Commit receipts as they come; what has come is committed whatever ends the stream.

    Args:
        receipts: as they come.
        hear: told of each at once.
        commit: commits some of them, one at least.
        held: around each commit, what no signal may cut short.
    """
    group: list[Receipt] = []
    due = time.monotonic() + COMMIT_SECONDS
    try:
        for receipt in receipts:
            hear(receipt)
            group.append(receipt)
            if (now := time.monotonic()) >= due:
                with held():
                    commit(group)
                    group, ended = [], time.monotonic()
                    due = ended + max(COMMIT_SECONDS, COMMIT_SHARE * (ended - now))
    finally:
        with held():
            if group:
                commit(group)
