"""The bad-input catalogue, rows 1-101, through the probe: each has its outcome or reason, or says why it cannot come.

No row is lost or doubled on the way, whatever its neighbours do; `slow`: the public collection of hostile files.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.corpus import plan_corpus
from pipelines.corpus_settings import CorpusSettings
from pipelines.curation.config import CurateConfig
from pipelines.curation.dedupe import DedupeConfig, dedupe_table
from pipelines.curation.job import freeze
from pipelines.curation.probe_stage import ProbeStage
from pipelines.reasons import ROW_REASONS
from pipelines.sandbox import SandboxSettings
from tests.pipelines.curation.catalogue_cases import CASES, ELSEWHERE

MALFORMED = Path(__file__).parents[3] / ".." / "shared" / "data" / "malformed"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProbeStage]:
    """One probe for all cases, whose decoder does what hostile files say, in half a second of processor time."""
    folder = tmp_path_factory.mktemp("stage")
    (folder / "corpus").mkdir()
    (folder / "corpus" / "a.jpg").write_bytes(b"x")
    with pytest.MonkeyPatch.context() as patch:

        def hostile_sandbox(**values: Any) -> SandboxSettings:
            return SandboxSettings(**(values | {"cpu_seconds": 0.5}), decoder="tests.pipelines.hostile:decode")

        patch.setattr("pipelines.curation.job.SandboxSettings", hostile_sandbox)
        made = ProbeStage(freeze(CurateConfig(input=(str(folder / "corpus"),), output=str(folder / "out"))).probe)
    yield made
    made.looker.close()


def probed(folder: Path, stage: ProbeStage) -> list[dict[str, Any]]:
    """Rows of `scores` of a folder; a JSONL file is read if there is one, else whatever the folder holds."""
    kind = "json" if (folder / "a.jsonl").exists() else "auto"
    fragments = plan_corpus([str(folder)], settings=CorpusSettings(kind=kind))
    rows = [row for fragment in fragments for row in stage.table(fragment).to_pylist()]
    assert len(rows) == sum(fragment.num_rows for fragment in fragments)
    assert len({row["uid"] for row in rows}) == len(rows)
    assert all((row["status"] == "rejected") == (row["error"] is not None) for row in rows)
    assert {row["error"] for row in rows} - {None} <= ROW_REASONS
    return rows


@pytest.mark.parametrize("number", sorted(CASES))
def test_row(number: int, tmp_path: Path, stage: ProbeStage) -> None:
    for place, (write, reasons) in enumerate(CASES[number]):
        folder = tmp_path / str(place)
        folder.mkdir()
        write(folder)
        rows = probed(folder, stage)
        assert tuple(row["error"] for row in rows) == reasons
        for row in rows:
            assert row["error"] or row["phash"] is not None
            assert not row["error"] or row["error_detail"]
            assert "hunter2" not in str(row), "credentials are not repeated"
            assert all(char.isprintable() for char in row["uri"] + (row["error_detail"] or ""))


def test_every_row_of_the_catalogue_is_accounted_for() -> None:
    assert sorted([*CASES, *ELSEWHERE]) == list(range(1, 102))


def test_an_exact_duplicate_is_kept_once_whatever_the_order(tmp_path: Path, stage: ProbeStage) -> None:
    """Row 56 reaches its end in dedupe."""
    CASES[56][0][0](tmp_path)
    (fragment,) = plan_corpus([str(tmp_path)], settings=CorpusSettings(kind="json"))
    rows = stage.table(fragment)
    both = [dedupe_table(order, DedupeConfig())[0].to_pylist() for order in (rows, rows.take([1, 0]))]
    assert both[0] == both[1]
    assert Counter(row["role"] for row in both[0]) == {"survivor": 1, "duplicate": 1}


@pytest.mark.slow
def test_public_hostile_files_are_rows_each(tmp_path: Path, stage: ProbeStage) -> None:
    """About 1,400 files: rows in are ok and rejected, and none ends the process that decodes."""
    if not MALFORMED.is_dir():
        pytest.skip("shared/data/malformed is not here")
    with (MALFORMED / "pil_status.csv").open(newline="") as opened:
        known = {row["path"] for row in csv.DictReader(opened) if (MALFORMED / row["path"]).is_file()}
    assert len(known) > 1000
    for number, name in enumerate(sorted(known)):
        (tmp_path / f"{number:05d}.img").write_bytes((MALFORMED / name).read_bytes())
    rows = probed(tmp_path, stage)
    found = Counter(row["error"] for row in rows)
    assert len(rows) == len(known)
    assert found[None] > 800
    assert not found["DECODER_CRASH"]
    assert {"BOMB", "CORRUPT", "TRUNCATED", "UNSUPPORTED_MODE"} <= found.keys()
