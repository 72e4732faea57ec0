"""Curation from a folder to shards, in this process, on the shared Ray: again, changed, grown, killed, contaminated."""

import dataclasses
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from llava_core.errors import ConfigError
from pipelines.corpus_settings import CorpusSettings
from pipelines.curation.config import CurateConfig
from pipelines.curation.flow import curate_corpus
from pipelines.curation.lease import Lease, LeaseError
from pipelines.curation.rules import RulesConfig
from pipelines.fragments import make_uid
from pipelines.sandbox import SandboxSettings
from pipelines.synthetic.corpus import SyntheticConfig, Truth, make_corpus
from tests.e2e.processes import started
from tests.pipelines.hostile import hostile, noting

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

ROWS = SyntheticConfig(rows=100, seed=4, planted=0.7)
RULES = RulesConfig(min_blur=5, min_bright_end=0.15, max_blockiness=3.0, min_text_chars=1)
ROOT = Path(__file__).resolve().parents[2]


def config(folder: Path, **changes: Any) -> CurateConfig:
    values: dict[str, Any] = {
        "input": (str(folder / "corpus"),),
        "output": str(folder / "out"),
        "rules": RULES,
        "corpus": CorpusSettings(rows_per_fragment=12),
        "num_workers": 1,
    }
    return CurateConfig(**(values | changes))


def run(settings: CurateConfig) -> list[str]:
    said: list[str] = []
    curate_corpus(settings, said.append)
    return said


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return list(pa.table(DeltaTable(folder / "out" / name).to_pyarrow_dataset().to_table()).to_pylist())


def versions(folder: Path) -> dict[str, int]:
    return {name: DeltaTable(folder / "out" / name).version() for name in ("scores", "clusters", "selection", "shards")}


def part_files(folder: Path, name: str) -> set[str]:
    return {path.name for path in (folder / "out" / name).rglob("part-*.parquet")}


def check(folder: Path, truths: list[Truth]) -> None:
    """Hold every table to the truth of the corpus."""
    root = folder / "corpus"
    named = {make_uid(f"{root}/{truth.name}", ""): truth for truth in truths}
    scores = {row["uid"]: row for row in rows(folder, "scores")}
    assert {uid: row["error"] for uid, row in scores.items()} == {uid: truth.error for uid, truth in named.items()}
    clusters = rows(folder, "clusters")
    assert Counter(row["uid"] for row in clusters) == Counter(uid for uid, truth in named.items() if not truth.error)
    selection = rows(folder, "selection")
    assert Counter(row["uid"] for row in selection) == Counter(named.keys())
    kept = {row["uid"] for row in selection if row["error"] is None}
    pictures = Counter(named[uid].of or named[uid].name for uid in kept)
    wanted = {truth.of or truth.name for truth in truths if truth.outcome in ("kept", "exact", "near")}
    assert set(pictures) == wanted
    assert set(pictures.values()) == {1}
    shards = rows(folder, "shards")
    assert Counter(row["uid"] for row in shards) == Counter(kept)
    for row in shards:
        (image,) = row["images"]
        assert image == (root / named[row["uid"]].name).read_bytes(), "bytes in are bytes out"


@pytest.fixture
def decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Counter[str]]:
    """Let probes note what they decode; called, it gives the files' hashes since it was called before."""
    log = tmp_path / "decoded.txt"
    log.touch()

    def with_notes(**values: Any) -> SandboxSettings:
        return SandboxSettings(**values, decoder=noting(log))

    monkeypatch.setattr("pipelines.curation.job.SandboxSettings", with_notes)

    def since() -> Counter[str]:
        found = Counter(log.read_text().split())
        log.write_text("")
        return found

    return since


def content(folder: Path, truths: list[Truth]) -> Counter[str]:
    """Hashes of the files of rows, without those that are refused unread or by their header."""
    unread = ("over_long", "bomb", "not_image", "empty_file")
    files = (folder / "corpus" / truth.name for truth in truths if truth.kind not in unread)
    return Counter(sha256(file.read_bytes()).hexdigest() for file in files)


def test_twice_then_other_thresholds_then_more_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: Callable[[], Counter[str]]
) -> None:
    truths = make_corpus(tmp_path, ROWS)
    said = run(config(tmp_path))
    check(tmp_path, truths)
    assert decoded() == content(tmp_path, truths)
    assert said[-1].splitlines()[0].split() == ["rows", "in", "100"]
    assert "file://" in said[-1]
    assert "<html" in (tmp_path / "out" / "report.html").read_text()

    before, files = versions(tmp_path), part_files(tmp_path, "scores")
    said = run(config(tmp_path))
    assert "nothing was missing" in said[-1]
    assert len(said) == 1
    assert versions(tmp_path) == before

    with monkeypatch.context() as unreadable:
        # other thresholds: no fragment is sent to a probe
        unreadable.setattr("pipelines.curation.flow.stream_probed", None)
        strict = config(tmp_path, rules=dataclasses.replace(RULES, min_blur=150))
        preview = run(config(tmp_path, rules=strict.rules, diff=True))
        assert versions(tmp_path) == before
        said = run(strict)
    changed = [line for line in said if line.startswith("select: kept")]
    assert changed == [f"select: {preview[0].splitlines()[0]}"]
    assert {name for name, version in versions(tmp_path).items() if version != before[name]} == {"selection", "shards"}
    assert part_files(tmp_path, "scores") == files

    run(config(tmp_path))
    assert not decoded()
    grown = dataclasses.replace(ROWS, rows=120)
    truths = make_corpus(tmp_path, grown, first=ROWS.rows)
    said = run(config(tmp_path))
    check(tmp_path, truths)
    assert decoded() == content(tmp_path, truths[ROWS.rows :]), "only what is new"
    live = {Path(uri).name for uri in DeltaTable(tmp_path / "out" / "scores").file_uris()}
    assert files - live, "although new files fall into fragments that were there"
    assert any(line.startswith("probe: 120 rows, 20 of them to do") for line in said)
    new = sum(not truth.error for truth in truths[ROWS.rows :])
    assert f"dedupe: {new:,} new rows matched against the index" in said
    assert versions(tmp_path)["clusters"] == before["clusters"] + 1

    with monkeypatch.context() as unreadable:
        unreadable.setattr("pipelines.curation.flow.stream_probed", None)
        run(config(tmp_path, pixels="tiles"))
    check(tmp_path, truths)
    run(config(tmp_path))
    run(config(tmp_path, limit=12))
    assert len(rows(tmp_path, "selection")) == 12
    # this was complete once, and a call with another probe has taken its place since
    run(config(tmp_path))
    check(tmp_path, truths)


def test_files_that_go_or_change_take_their_rows_along(tmp_path: Path, decoded: Callable[[], Counter[str]]) -> None:
    truths = make_corpus(tmp_path, SyntheticConfig(rows=30, seed=8, planted=0.3, least_side=100, most_side=140))
    run(config(tmp_path))
    copied = {truth.of for truth in truths}
    gone = next(truth for truth in truths if truth.kind == "plain" and truth.name not in copied)
    for suffix in (".jpg", ".txt"):
        (tmp_path / "corpus" / gone.name).with_suffix(suffix).unlink()
    changed = next(
        truth for truth in truths if truth.kind == "plain" and truth.name not in copied and truth is not gone
    )
    file = tmp_path / "corpus" / changed.name
    file.write_bytes(file.read_bytes() + b"after the end of the image")
    decoded()
    said = run(config(tmp_path))
    assert any("were taken out" in line for line in said)
    check(tmp_path, [truth for truth in truths if truth is not gone])
    assert decoded() == content(tmp_path, [changed])


@pytest.mark.slow
def test_images_that_come_after_their_records_are_tried_again_when_asked(tmp_path: Path) -> None:
    """Records are fragments by themselves: no image that comes later makes them others."""
    truths = make_corpus(tmp_path, SyntheticConfig(rows=6, seed=8, planted=0, least_side=100, most_side=140))
    images = [f"corpus/{truth.name}" for truth in truths]
    lines = [json.dumps({"image": image, "text": f"picture {at}"}) for at, image in enumerate(images)]
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    late = [tmp_path / images[at] for at in (1, 4)]
    for file in late:
        file.rename(file.with_suffix(".later"))
    settings = config(tmp_path, input=(str(tmp_path / "records.jsonl"),), rules=RulesConfig())
    run(settings)
    assert Counter(row["error"] for row in rows(tmp_path, "scores")) == {None: 4, "NOT_FOUND": 2}
    late[0].with_suffix(".later").rename(late[0])
    before = versions(tmp_path)
    assert "nothing was missing" in run(settings)[-1]
    assert versions(tmp_path) == before
    again = dataclasses.replace(settings, retry_rejected=True)
    assert "probe: 2 rejected rows are probed again" in run(again)
    for name, reason in (("scores", "NOT_FOUND"), ("selection", "REJECTED")):
        assert Counter(row["error"] for row in rows(tmp_path, name)) == {None: 5, reason: 1}
    shown = {image for row in rows(tmp_path, "shards") for image in row["images"]}
    assert shown == {(tmp_path / image).read_bytes() for at, image in enumerate(images) if at != 4}
    assert "nothing was missing" in run(settings)[-1]


def test_evaluation_images_and_decisions_of_people(tmp_path: Path) -> None:
    settings = SyntheticConfig(rows=24, seed=11, planted=0, least_side=100, most_side=140)
    truths = make_corpus(tmp_path, settings)
    shown = tmp_path / "corpus" / truths[7].name
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "x.jpg").write_bytes(shown.read_bytes())
    against = (str(tmp_path / "evaluation"),)
    run(config(tmp_path, against=against))
    dropped = [row for row in rows(tmp_path, "selection") if row["error"]]
    assert [(row["uri"], row["error"]) for row in dropped] == [(str(shown), "CONTAMINATED")]
    decisions = tmp_path / "overrides.json"
    other = make_uid(str(tmp_path / "corpus" / truths[3].name), "")
    decisions.write_text(json.dumps({"not_duplicate": [make_uid(str(shown), "")], "drop": [other]}))
    before = versions(tmp_path)
    preview = run(config(tmp_path, against=against, overrides=str(decisions), diff=True))
    with pytest.raises(ConfigError, match=r"no row of .*scores was measured with these settings"):
        run(config(tmp_path, against=against, quality="aesthetic", diff=True))
    with pytest.raises(ConfigError, match="evaluation images of --against are not measured"):
        run(config(tmp_path, against=(str(shown),), diff=True))
    assert versions(tmp_path) == before
    said = run(config(tmp_path, against=against, overrides=str(decisions)))
    assert f"select: {preview[0].splitlines()[0]}" in said
    assert [(row["uid"], row["error"]) for row in rows(tmp_path, "selection") if row["error"]] == [(other, "VETOED")]
    assert not [line for line in said if line.startswith("probe:")]


def test_a_corpus_without_a_row_comes_to_tables_without_a_row(tmp_path: Path) -> None:
    empty = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())}), empty)
    settings = config(tmp_path, input=(str(empty),))
    assert run(dataclasses.replace(settings, plan=True)) == ["rows in: 0; there is nothing to do"]
    assert not (tmp_path / "out").exists()
    said = run(settings)
    assert said[-1].splitlines()[0].split() == ["rows", "in", "0"]
    assert [rows(tmp_path, name) for name in versions(tmp_path)] == [[], [], [], []]
    assert "nothing was missing" in run(settings)[-1]


def test_an_image_that_kills_its_decoder_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truths = make_corpus(tmp_path, SyntheticConfig(rows=24, seed=2, planted=0, least_side=100, most_side=140))
    bad = tmp_path / "corpus" / truths[5].name
    bad.write_bytes(hostile(bad.read_bytes(), "crash"))

    def with_hook(**values: Any) -> SandboxSettings:
        return SandboxSettings(**values, decoder="tests.pipelines.hostile:decode")

    monkeypatch.setattr("pipelines.curation.job.SandboxSettings", with_hook)
    run(config(tmp_path))
    scores = rows(tmp_path, "scores")
    assert [(row["uri"], row["error"]) for row in scores if row["error"]] == [(str(bad), "DECODER_CRASH")]
    assert len(scores) == 24


def test_a_second_run_is_refused_while_one_holds_the_output(tmp_path: Path) -> None:
    make_corpus(tmp_path, SyntheticConfig(rows=2, planted=0, least_side=64, most_side=70))
    (tmp_path / "out").mkdir()
    with Lease(str(tmp_path / "out")), pytest.raises(LeaseError, match="another run has been writing here"):
        run(config(tmp_path))
    assert not (tmp_path / "out" / "scores").exists()


def test_a_driver_killed_on_the_way_is_continued_at_once(tmp_path: Path) -> None:
    truths = make_corpus(tmp_path, SyntheticConfig(rows=60, seed=4, planted=0.5, least_side=100, most_side=140))
    words = ["--input", str(tmp_path / "corpus"), "--output", str(tmp_path / "out"), "--rows-per-fragment", "6"]
    thresholds = ["--min-blur", "5", "--min-bright-end", "0.15", "--max-blockiness", "3", "--min-text-chars", "1"]
    command = [sys.executable, str(ROOT / "jobs" / "curate_corpus.py"), *words, *thresholds, "--num-workers", "1"]
    with started(command, {**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        for line in process.stdout or ():
            if "to do, by" in line:
                break
        while process.poll() is None and not list((tmp_path / "out" / "scores").rglob("part-*.parquet")):
            time.sleep(0.02)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "scores").rglob("part-*.parquet")}
    assert written
    run(config(tmp_path, corpus=CorpusSettings(rows_per_fragment=6)))
    check(tmp_path, truths)
