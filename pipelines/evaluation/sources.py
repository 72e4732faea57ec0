"""Where a benchmark's official files are, and reading them; a file that is missing is named, with where it comes from.

What this does *not* do: know what is in a file (the readers do), or look at images.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_core.errors import ConfigError
from pipelines.storage import exists, filesystem, join_uri, read_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A folder with the files of one benchmark."""

    benchmark: str
    """Its name, for messages."""
    folder: str
    """Local path or URI."""
    split: str
    """Which part."""
    ocr: bool = False
    """Whether OCR tokens go into the prompt, where the benchmark has them."""

    def find(self, names: Sequence[str], where: str) -> str:
        """Return the URI of the first file that is there.

        Args:
            names: below the folder, in the order of preference.
            where: it can be had from.

        Raises:
            ConfigError: none is there.
        """
        for name in names:
            if exists(uri := join_uri(self.folder, name)):
                return uri
        raise ConfigError(
            f"{self.benchmark} ({self.split}): {' or '.join(names)} is not in {self.folder}; it comes from {where}"
        )

    def json(self, names: Sequence[str], where: str) -> Any:
        """Read a JSON file; see `find`."""
        uri = self.find(names, where)
        try:
            return json.loads(read_bytes(uri))
        except ValueError as error:
            raise self.broken(uri, str(error)) from error

    def lines(self, names: Sequence[str], where: str) -> list[dict[str, Any]]:
        """Read a JSONL file; see `find`."""
        uri = self.find(names, where)
        try:
            return [json.loads(line) for line in read_bytes(uri).splitlines() if line.strip()]
        except ValueError as error:
            raise self.broken(uri, str(error)) from error

    def table(self, names: Sequence[str], where: str) -> list[dict[str, str]]:
        """Read a TSV file with a head; see `find`."""
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        text = read_bytes(self.find(names, where)).decode("utf-8-sig")
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"))

    def glob(self, pattern: str) -> list[str]:
        """Return paths below the folder that match, sorted."""
        store, root = filesystem(self.folder)
        root = root.rstrip("/")
        return sorted(path.removeprefix(f"{root}/") for path in store.glob(f"{root}/{pattern}"))

    def broken(self, uri: str, why: str) -> ConfigError:
        """Return the error for a file that is not what it should be."""
        return ConfigError(f"{self.benchmark} ({self.split}): {uri} is not the official file: {why}")


def records(source: Source, value: object, name: str, needs: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Yield a list's records, each held to the keys that it needs.

    Args:
        source: of the file, for messages.
        value: what should be a list of objects.
        name: of the file.
        needs: keys.

    Raises:
        ConfigError: it is no list, or a record lacks a key.
    """
    if not isinstance(value, list):
        raise source.broken(name, f"expected a list of records, found {type(value).__name__}")
    for place, record in enumerate(value):
        lacking = [key for key in needs if not isinstance(record, Mapping) or key not in record]
        if lacking:
            raise source.broken(name, f"record {place} lacks {', '.join(lacking)}")
        yield record
