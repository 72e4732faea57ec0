"""What people decided against the rules: a JSON file, written by hand or saved from the report, honoured by every run.

    {"not_duplicate": ["uid", …], "keep": ["uid", …], "drop": ["uid", …]}

What this does *not* do: decide who may write it; it is an input like the corpus, and part of a run's identity.
"""

import json
from dataclasses import dataclass, fields
from typing import Any

from llava_core.errors import ConfigError
from pipelines.storage import StorageOptions, read_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Overrides:
    """Decisions about single rows, by uid."""

    not_duplicate: frozenset[str] = frozenset()
    """Nobody's duplicate, and no evaluation image, whatever dedupe found; rules still apply."""
    keep: frozenset[str] = frozenset()
    """Kept whatever the rules, dedupe and balance say, unless the probe could not read it."""
    drop: frozenset[str] = frozenset()
    """Dropped."""

    def __post_init__(self) -> None:
        both = sorted((self.keep | self.not_duplicate) & self.drop)
        if both:
            raise ConfigError(f"overrides keep and drop the same rows: {both[:3]}; expected each uid on one side")

    def to_json(self) -> dict[str, list[str]]:
        """Plain values, sorted; `parse_overrides` reads them back."""
        return {one.name: sorted(getattr(self, one.name)) for one in fields(self)}


def parse_overrides(values: Any) -> Overrides:
    """Check what a file holds.

    Raises:
        ConfigError: another form, or an unknown key.

    Example:
        >>> parse_overrides({"drop": ["a"]}).drop
        frozenset({'a'})
    """
    known = [one.name for one in fields(Overrides)]
    if not isinstance(values, dict) or (set(values) - set(known)):
        got = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ConfigError(f"overrides hold {got}; expected an object with some of {known}")
    for name, uids in values.items():
        if not isinstance(uids, list) or not all(isinstance(uid, str) for uid in uids):
            raise ConfigError(f"overrides.{name} is not a list of uids")
    return Overrides(**{name: frozenset(uids) for name, uids in values.items()})


def read_overrides(uri: str | None, storage_options: StorageOptions | None = None) -> Overrides:
    """Read an override file; no decisions where no file is named.

    Raises:
        ConfigError: it is not there, not JSON, or of another form.
    """
    if uri is None:
        return Overrides()
    try:
        values = json.loads(read_bytes(uri, storage_options))
    except FileNotFoundError as error:
        raise ConfigError(f"the override file {uri} is not there") from error
    except ValueError as error:
        raise ConfigError(f"the override file {uri} is not JSON: {error}") from error
    return parse_overrides(values)
