"""A small corpus with broken files, the command that captions it, and the check that no row is lost or doubled."""

import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars
import pytest
from deltalake import DeltaTable

from pipelines.corpus_settings import CorpusSettings
from pipelines.fragments import make_uid
from pipelines.inference.config import CaptionConfig, InferenceConfig
from pipelines.inference.job import InferenceJob, freeze
from tests.pipelines.inference.fakes import photo

ROOT = Path(__file__).resolve().parents[2]
BAD: Mapping[str, tuple[bytes, str]] = {
    "a/empty.jpg": (b"", "EMPTY"),
    "a/words.png": (b"these are words, not pixels", "NOT_IMAGE"),
    "cut_off.jpg": (photo(60, 80)[:600], "TRUNCATED"),
}
"""Name → content, and the reason that it is rejected with."""
SMALL = CorpusSettings(rows_per_fragment=4)
"""Fragments of 4 rows on average, so that a small corpus has several."""


def corpus_files(count: int = 37) -> dict[str, bytes]:
    """Name → content: `count` images of different sizes in nested folders, every one different, and those of `BAD`."""
    folders = ("", "a/", "b/c/")
    good = {
        f"{folders[number % 3]}{number:02d}.{'png' if number % 5 == 0 else 'jpg'}": photo(
            20 + 3 * number, 90 - 2 * (number % 40), seed=number, encoding="PNG" if number % 5 == 0 else "JPEG"
        )
        for number in range(count)
    }
    return good | {name: content for name, (content, _) in BAD.items()}


def write_corpus(folder: Path, count: int = 37) -> Path:
    """Write a corpus into a folder."""
    for name, data in corpus_files(count).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def caption_config(folder: Path | str, output: Path | str, **changes: Any) -> CaptionConfig:
    """A quick run over a corpus."""
    values: dict[str, Any] = {"input": (str(folder),), "output": str(output), "max_new_tokens": 4, "corpus": SMALL}
    return CaptionConfig(**(values | changes))


def caption_command(folder: str, output: str, *words: str) -> list[str]:
    """Flags of the same run."""
    flags = ["--input", folder, "--output", output, "--max-new-tokens", "4"]
    return [*flags, "--rows-per-fragment", str(SMALL.rows_per_fragment), *words]


def driver_command(*words: str) -> list[str]:
    """The command of a driver that may kill itself; see `caption_driver`."""
    return [sys.executable, str(Path(__file__).with_name("caption_driver.py")), *words]


def driver_environment(**extra: str) -> dict[str, str]:
    """One thread for arithmetic, so that a busy machine stays usable."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **extra}


def check_table(uri: str, root: str, names: list[str], options: dict[str, str] | None = None) -> DeltaTable:
    """Hold a table to its promise: every file of a corpus is one row, with the right reason where it is bad.

    Args:
        uri: the table.
        root: of the corpus, as it stands in front of `names`.
        names: of all files.
        options: of the store.
    """
    table = DeltaTable(uri, storage_options=options)
    rows = table.to_pyarrow_table().to_pylist()
    expected = {make_uid(f"{root}/{name}", ""): name for name in names}
    assert Counter(row["uid"] for row in rows) == Counter(expected.keys())
    assert {expected[row["uid"]]: row["error"] for row in rows} == {
        name: BAD[name][1] if name in BAD else None for name in names
    }
    assert all((row["status"] == "rejected") == (row["error"] is not None) for row in rows)
    assert all(row["num_output_tokens"] >= 1 for row in rows if row["error"] is None)
    frame = polars.read_delta(uri, storage_options=options)
    assert sorted(frame["uid"].to_list()) == sorted(row["uid"] for row in rows)
    assert frame.filter(polars.col("status") == "rejected")["error"].null_count() == 0
    return table


def use_engine(monkeypatch: pytest.MonkeyPatch, engine: str = "engine") -> None:
    """Let jobs in this process run on an engine of `tests.pipelines.inference.poison`, which needs no model.

    For tests of what becomes of rows and receipts: loading a model takes most of such a test's time.
    """

    def freeze_light(config: InferenceConfig) -> InferenceJob:
        job = freeze(config)
        return replace(job, spec=replace(job.spec, engine_factory=f"tests.pipelines.inference.poison:{engine}"))

    monkeypatch.setattr("pipelines.inference.flow.freeze", freeze_light)
