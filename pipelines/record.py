"""What a run was: its settings, versions, seeds, plan and counts, beside its output in `_run/{run_id}.json`.

The table is the truth about rows; the record is for people, and for one decision: which fragments an earlier start of
the same run planned that today's plan no longer has.
"""

import dataclasses
import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

from pipelines.storage import StorageOptions, join_uri, read_json, write_json

_PACKAGES = ("tessera", "torch", "transformers", "ray", "deltalake", "pyarrow", "pillow")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """One run of one job."""

    run_id: str
    """Hash of everything that changes a row."""
    job: str
    """The job's name, as its file under `jobs/`."""
    settings: Mapping[str, Any]
    """The resolved settings, as JSON values."""
    seeds: Mapping[str, int] = field(default_factory=dict)
    """Seeds by use."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of packages, and the git revision where there is one."""
    fragments: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Planned fragment ids by input."""
    rows_in: int = 0
    """Rows of all planned fragments."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows out: "ok", and rejected ones by reason."""
    status: Literal["running", "complete", "failed"] = "running"
    """"complete" only when rows in are rows out."""
    started: str = ""
    """ISO 8601, UTC, of the latest start."""
    finished: str = ""
    """ISO 8601, UTC; empty while it runs."""

    def write(self, output: str, storage_options: StorageOptions | None = None) -> str:
        """Write the record beside an output and return its URI."""
        uri = record_uri(output, self.run_id)
        write_json(uri, dataclasses.asdict(self), storage_options)
        return uri

    @classmethod
    def read(cls, output: str, run_id: str, storage_options: StorageOptions | None = None) -> Self | None:
        """Read a run's record; None where it never started here."""
        try:
            values = read_json(record_uri(output, run_id), storage_options)
        except FileNotFoundError:
            return None
        names = {one.name for one in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})


def record_uri(output: str, run_id: str) -> str:
    """Return where a run's record is.

    >>> record_uri("s3://bucket/captions", "0123456789abcdef")
    's3://bucket/captions/_run/0123456789abcdef.json'
    """
    return join_uri(output, "_run", f"{run_id}.json")


def run_id(settings: Mapping[str, Any]) -> str:
    """Name a run by everything that changes a row: equal settings, in any order, give the same 16 hex digits.

    Args:
        settings: JSON values only, so that nothing is named by its address or its repr.

    Raises:
        TypeError: a value is not JSON.
        ValueError: a number is not finite.

    >>> run_id({"a": 1, "b": [2.5, None]}) == run_id({"b": [2.5, None], "a": 1})
    True
    """
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stale_fragments(earlier: RunRecord | None, planned: Mapping[str, Sequence[str]]) -> set[str]:
    """Return fragments that an earlier start planned for the same inputs and today's plan has not.

    A file that changed has a new fragment; the rows of its old one have to leave, or they would be in twice. Inputs
    that today's command does not name are left alone. Only for whole plans: one cut short by --limit has fewer
    fragments for another reason.

    >>> before = RunRecord(run_id="r", job="j", settings={}, fragments={"a": ["1", "2"], "b": ["3"]})
    >>> sorted(stale_fragments(before, {"a": ["2", "4"]}))
    ['1']
    """
    if earlier is None:
        return set()
    today = {one for ids in planned.values() for one in ids}
    return {one for source in planned for one in earlier.fragments.get(source, ()) if one not in today}


def merged_fragments(
    earlier: RunRecord | None, planned: Mapping[str, Sequence[str]], *, finished: bool
) -> dict[str, Any]:
    """Return the plan to record: today's added to what was planned before, or in its place.

    A start adds, so that a fragment that has become stale is remembered until a run has taken it out; a run that is
    complete replaces, for the inputs it names.

    Args:
        earlier: the record before, if any.
        planned: today's fragment ids by input.
        finished: the run is complete and its plan was whole, not cut short by --limit.

    >>> before = RunRecord(run_id="r", job="j", settings={}, fragments={"a": ["1", "2"], "b": ["3"]})
    >>> merged_fragments(before, {"a": ["2", "4"]}, finished=False)
    {'a': ['1', '2', '4'], 'b': ['3']}
    >>> merged_fragments(before, {"a": ["2", "4"]}, finished=True)
    {'a': ['2', '4'], 'b': ['3']}
    """
    merged = {source: list(ids) for source, ids in (earlier.fragments if earlier else {}).items()}
    for source, ids in planned.items():
        today = set(ids)
        kept = [] if finished else [one for one in merged.get(source, []) if one not in today]
        merged[source] = kept + list(ids)
    return merged


def run_versions(root: Path | None = None) -> dict[str, str]:
    """Return the versions of the packages that rows depend on, and the git revision where there is one.

    Args:
        root: the repository; this project's own by default.
    """
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    revision = git_revision(root or Path(__file__).resolve().parents[1])
    return found | ({"git": revision} if revision else {})


def git_revision(root: Path) -> str | None:
    """Return the commit of a repository, "+changes" after it where files differ; None outside one."""
    if not (root / ".git").exists():
        return None
    try:
        commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        head, changes = (
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10)
            for words in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def now_utc() -> str:
    """Return the time as ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
