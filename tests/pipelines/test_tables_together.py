"""Several writers on one table: whatever comes between a decision and its commit, every fragment is in exactly once.

Each seed is one history. An act (commit, withdraw, overwrite, checkpoint) loads a snapshot and decides; just before
its commit other acts may run to their end, and the store may fail before the commit or lose its answer after it. At
last one driver commits the whole plan; the oracle then wants each row of it once. The same histories are run against a
broken `swap` to show that the oracle can see.
"""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deltalake import CommitProperties, DeltaTable, Transaction

from pipelines import tables, upkeep
from pipelines.parts import Receipt
from pipelines.tables import commit, committed_fragments
from pipelines.upkeep import overwrite
from tests.pipelines.table_cases import SCHEMA, fragment_counts, uids, write
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]

OLD, NEW, KEPT = "old", "new", [f"f{number}" for number in range(6)]
Swap = Callable[..., None]


class History:
    """One seed's acts on one table."""

    def __init__(self, uri: str, seed: int, whole_swap: Swap) -> None:
        self.uri, self.chance, self.whole_swap = uri, random.Random(seed), whole_swap
        self.depth = 0
        self.doubled: Counter[str] = Counter()
        self.receipts: dict[str, list[Receipt]] = {
            name: [write(uri, name, 1 + number % 3, number % 2, attempt=attempt) for attempt in range(3)]
            for number, name in enumerate([OLD, NEW, *KEPT])
        }

    def pick(self, *names: str) -> list[Receipt]:
        """Receipts of some attempt at each: with one attempt only, a doubled commit would name one file twice."""
        return [self.chance.choice(self.receipts[name]) for name in names]

    def swap(self, *args: Any, **kwargs: Any) -> None:
        """The real commit, with whatever may happen around it."""
        if self.depth < 3 and self.chance.random() < 0.5:
            self.act()
        trouble = self.chance.random()
        if trouble < 0.1:
            raise OSError("the store did not answer")
        self.whole_swap(*args, **kwargs)
        if trouble > 0.9:
            raise OSError("the answer was lost")

    def act(self) -> None:
        """One thing that some driver or somebody does."""
        self.depth += 1
        try:
            kind = self.chance.choices(["commit", "new plan", "overwrite", "upkeep"], [8, 3, 1, 1])[0]
            if kind == "commit":
                names = self.chance.sample([*KEPT, NEW], self.chance.randint(1, 4))
                commit(self.uri, self.pick(*names), run_id="run", schema=SCHEMA)
            elif kind == "new plan":
                commit(self.uri, self.pick(NEW), run_id="run", schema=SCHEMA, stale=[OLD])
            elif kind == "overwrite":
                overwrite(self.uri, run_id=self.chance.choice(["run", None]))
            elif (table := tables.open_table(self.uri)) is not None:
                table.create_checkpoint()
        except OSError:
            pass  # a driver that gave up
        finally:
            self.depth -= 1
            if tables.open_table(self.uri) is not None:
                found = fragment_counts(self.uri)
                self.doubled.update({uid: count - 1 for uid, count in found.items() if count > 1})

    def finish(self, receipts: list[Receipt], stale: list[str]) -> None:
        """Commit alone, started again as often as the store breaks it."""
        depth, self.depth = self.depth, 9
        for _ in range(20):
            try:
                commit(self.uri, receipts, run_id="run", schema=SCHEMA, stale=stale)
                break
            except OSError:
                continue
        self.depth = depth

    def run(self, acts: int) -> bool:
        """Act, then let one calm driver finish; say whether the oracle is content."""
        self.finish(self.pick(OLD), [])
        for _ in range(acts):
            self.act()
        self.finish(self.pick(NEW, *KEPT), [OLD])
        expected = uids(*((name, self.receipts[name][0].rows) for name in [NEW, *KEPT]))
        return not self.doubled and fragment_counts(self.uri) == expected


def broken_swap(table: DeltaTable, actions: list[Any], marks: dict[str, int], *, mode: str = "append") -> None:
    """A commit without the marks, from whatever snapshot is newest: what a plain writer does."""
    table.create_write_transaction(actions, mode, table.schema(), partition_by=["status"])


def late_swap(table: DeltaTable, actions: list[Any], marks: dict[str, int], *, mode: str = "append") -> None:
    """A commit with the marks, but from a snapshot that is newer than the decision."""
    marks_now = [Transaction(name, version) for name, version in marks.items()]
    newest = DeltaTable(table.table_uri)
    newest.create_write_transaction(
        actions,
        mode,
        table.schema(),
        partition_by=["status"],
        commit_properties=CommitProperties(app_transactions=marks_now),
    )


def histories(root: Path, seeds: range, whole_swap: Swap, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Run each seed; return the first that the oracle complains about."""
    monkeypatch.setattr(tables.time, "sleep", lambda seconds: None)
    for seed in seeds:
        # one half looks at marks one by one, the other at files and the counter
        monkeypatch.setattr(tables, "_FEW", 0 if seed % 2 else 99)
        history = History(str(root / f"{whole_swap.__name__}{seed}"), seed, whole_swap)
        monkeypatch.setattr(tables, "swap", history.swap)
        monkeypatch.setattr(upkeep, "swap", history.swap)
        if not history.run(acts=6):
            return seed
    return None


def test_every_fragment_once_in_any_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert histories(tmp_path, range(16), tables.swap, monkeypatch) is None


@pytest.mark.slow
def test_every_fragment_once_in_many_histories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert histories(tmp_path, range(100, 400), tables.swap, monkeypatch) is None


@pytest.mark.parametrize("broken", [broken_swap, late_swap])
def test_the_oracle_sees_a_commit_that_is_broken(broken: Swap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert histories(tmp_path, range(8), broken, monkeypatch) is not None


@pytest.mark.parametrize("run_id", ["run", None])
def test_an_overwrite_between_decision_and_commit(
    run_id: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path)
    commit(uri, [write(uri, "a")], run_id="run", schema=SCHEMA)
    whole = tables.swap

    def overtaken(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(tables, "swap", whole)
        overwrite(uri, run_id=run_id)
        whole(*args, **kwargs)

    monkeypatch.setattr(tables, "swap", overtaken)
    assert commit(uri, [write(uri, "b")], run_id="run", schema=SCHEMA).committed == ("b",)
    assert committed_fragments(uri, "run", ["a", "b"]) == {"b"}
    again = commit(uri, [write(uri, "b", attempt=1)], run_id="run", schema=SCHEMA)
    assert again.already == ("b",)
    assert fragment_counts(uri) == uids(("b", 3))


def test_a_commit_that_always_loses_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path)
    whole = tables.swap
    calls: list[int] = []

    def beaten(table: DeltaTable, *args: Any, **kwargs: Any) -> None:
        calls.append(1)
        whole(DeltaTable(uri), [], {f"other/{len(calls)}": 1})
        whole(table, *args, **kwargs)

    monkeypatch.setattr(tables, "swap", beaten)
    monkeypatch.setattr(tables.time, "sleep", lambda seconds: None)
    with pytest.raises(tables.ConflictError, match="30 commits lost"):
        commit(uri, [write(uri, "a")], run_id="run", schema=SCHEMA)
    assert len(calls) == 30
    assert committed_fragments(uri, "run", ["a"]) == set()


def test_a_store_that_stays_broken_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path)

    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(tables, "swap", broken)
    monkeypatch.setattr(tables.time, "sleep", lambda seconds: None)
    with pytest.raises(OSError, match="no route"):
        commit(uri, [write(uri, "a")], run_id="run", schema=SCHEMA)


def test_the_same_on_s3(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_bucket.delta_options.items():
        monkeypatch.setenv(name, value)
    uri = f"{s3_bucket.uri}/out/captions"
    first = commit(uri, [write(uri, "a"), write(uri, "old", 1, 1)], run_id="run", schema=SCHEMA)
    assert first.committed == ("a", "old")
    assert commit(uri, [write(uri, "a")], run_id="run", schema=SCHEMA).already == ("a",)
    whole = tables.swap
    late = [write(uri, "b"), write(uri, "c", 4, 0)]

    def beaten_once(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(tables, "swap", whole)
        commit(uri, late[:1], run_id="run", schema=SCHEMA)
        whole(*args, **kwargs)

    monkeypatch.setattr(tables, "swap", beaten_once)
    report = commit(uri, late, run_id="run", schema=SCHEMA, stale=["old"])
    assert (report.committed, report.already, report.withdrawn) == (("c",), ("b",), ("old",))
    options = tables.collect_options(uri)
    assert fragment_counts(uri, options) == uids(("a", 3), ("b", 3), ("c", 4))
    overwrite(uri, run_id="run")
    assert fragment_counts(uri, options) == uids()
    keys = {row["Key"] for row in s3_bucket.client().list_objects_v2(Bucket=s3_bucket.name)["Contents"]}
    assert {f"out/captions/{file.path}" for receipt in late for file in receipt.files} <= keys
