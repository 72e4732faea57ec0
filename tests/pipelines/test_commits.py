"""Receipts are committed in groups, whose commits take a share of the time; curation's and captioning's flows do so."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest

from pipelines import commits
from pipelines.commits import commit_in_groups
from pipelines.parts import Receipt


def test_commits_take_a_share_of_the_time_however_long_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receipt comes each second; a commit takes none, then 2 seconds, and in the end 0.5."""
    clock, long = [100.0], [0.0, 2.0, 0.5, 0.0, 0.0]
    heard: list[str] = []
    made: list[list[str]] = []

    def each_second() -> Iterator[Receipt]:
        for number in range(31):
            clock[0] += 1.0
            yield Receipt(fragment_id=f"f{number}", run_id="r", files=(), ok=1, rejected={})

    def commit(group: Sequence[Receipt]) -> None:
        clock[0] += long[len(made)]
        made.append([receipt.fragment_id for receipt in group])

    monkeypatch.setattr(commits, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    commit_in_groups(each_second(), lambda receipt: heard.append(receipt.fragment_id), commit)
    assert [len(group) for group in made] == [2, 2, 20, 5, 2]
    assert [name for group in made for name in group] == heard == [f"f{number}" for number in range(31)]


def test_nothing_is_committed_of_nothing() -> None:
    def commit(group: Sequence[Receipt]) -> None:
        raise AssertionError(f"{len(group)} receipts are committed")

    commit_in_groups([], lambda _: None, commit)
