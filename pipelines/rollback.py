"""Brings back what a curation gave at an earlier time: its selection and its shards, as new versions of their tables.

    2026-11-25T02:31:07Z  selection 4, shards 4        ◀─ --to 2026-11-25T03:00 brings these back
    2026-11-26T02:30:55Z  selection 5, shards 6

What was measured (`scores`, `clusters`) stays: it is the truth about images, whatever is selected of them. The newest
versions stay too, so going back can be taken back. The folder's records are set to "failed", so that the same curation
run again does not take its work for done: pause the schedule first, and change what was wrong before it goes on. What
this does *not* do: bring back files that a vacuum has removed.
"""

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime

from llava_core.errors import ConfigError
from pipelines import upkeep
from pipelines.cli import Say
from pipelines.record import RunRecord
from pipelines.storage import StorageOptions, absolute_uri, filesystem, join_uri, storage_options
from pipelines.tables import open_table

TABLES = ("selection", "shards")


@dataclass(frozen=True, kw_only=True, slots=True)
class RollbackConfig:
    """Bring back the selection and the shards of an earlier time."""

    output: str
    """Output folder of curate_corpus; a path or an s3:// URI."""
    to: str | None = None
    """Time, as ISO 8601 (UTC if it names no zone): what stood then comes back. Left out, versions are listed."""

    def __post_init__(self) -> None:
        if not self.output.strip():
            raise ConfigError("output is empty; expected the folder of a curation")
        if self.to is not None:
            _ = self.moment

    @property
    def moment(self) -> datetime:
        """The time to go back to."""
        assert self.to is not None
        try:
            found = datetime.fromisoformat(self.to)
        except ValueError as error:
            raise ConfigError(f"to is {self.to!r}; expected a time as 2026-11-25T03:00") from error
        return found if found.tzinfo else found.replace(tzinfo=UTC)


def roll_back(config: RollbackConfig, say: Say) -> None:
    """List the versions of a curation's tables, or bring back those of a time.

    Args:
        config: which.
        say: where lines for people go.

    Raises:
        ConfigError: there is no such table, or nothing stood at that time.
    """
    output = absolute_uri(config.output)
    options = storage_options(output)
    found = {name: versions(join_uri(output, name), options) for name in TABLES}
    if config.to is None:
        for name, times in found.items():
            for version, at in times.items():
                say(f"{at.isoformat(timespec='milliseconds')}  {name} {version}")
        return
    wanted = {name: _at(times, config.moment, name) for name, times in found.items()}
    forget(output, options)
    for name, version in wanted.items():
        if version == max(found[name]):
            say(f"{name}: version {version} is what stands")
            continue
        now = upkeep.restore(join_uri(output, name), version, storage_options=options)
        say(f"{name}: version {version} is back, as version {now}")


def versions(table_uri: str, options: StorageOptions | None = None) -> dict[int, datetime]:
    """Versions of a table and when they were committed, oldest first.

    Raises:
        ConfigError: no table is there.
    """
    table = open_table(table_uri, options)
    if table is None:
        raise ConfigError(f"{table_uri} is no table; expected the output folder of a curation that has ended once")
    commits = {one["version"]: datetime.fromtimestamp(one["timestamp"] / 1000, UTC) for one in table.history()}
    return dict(sorted(commits.items()))


def forget(output: str, options: StorageOptions | None = None) -> None:
    """Set a folder's complete records to "failed": what they say of its tables is about to be wrong."""
    store, path = filesystem(join_uri(output, "_run"), options)
    for name in store.ls(path, detail=False) if store.exists(path) else ():
        run_id = str(name).rpartition("/")[2].removesuffix(".json")
        record = RunRecord.read(output, run_id, options)
        if record is not None and record.status == "complete":
            dataclasses.replace(record, status="failed").write(output, options)


def _at(times: dict[int, datetime], moment: datetime, name: str) -> int:
    """The newest version that is not younger than a moment; the table's making, without rows, is none."""
    known = [version for version, at in times.items() if at <= moment and version > 0]
    if not known:
        first = times[min(times)].isoformat(timespec="seconds")
        raise ConfigError(f"{name} held nothing at {moment.isoformat()}; its first version is of {first}")
    return max(known)
