"""Every planted case has the outcome that its truth says, stage by stage, without Ray."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llava_core.errors import ConfigError, ImageRefused
from llava_core.images import decode_image
from pipelines.corpus import plan_corpus, read_fragment
from pipelines.curation.dedupe import DedupeConfig, dedupe_table
from pipelines.curation.hashes import phash
from pipelines.curation.looker import Looker
from pipelines.curation.models import LLAVA_NEXT
from pipelines.curation.probe import ProbeSettings, probe_rows
from pipelines.curation.rules import RulesConfig
from pipelines.curation.select import SelectConfig, select_rows
from pipelines.sandbox import SandboxSettings
from pipelines.synthetic.corpus import (
    ORDER,
    SOURCES,
    SyntheticConfig,
    Truth,
    kind_of,
    make_corpus,
    make_rows,
    truth_of,
)

CONFIG = SyntheticConfig(rows=260, seed=4, planted=0.7)
RULES = RulesConfig(min_blur=5, min_bright_end=0.15, max_blockiness=3.0, min_text_chars=1)
"""Thresholds between these pictures and their planted faults; see the margins in the test."""
REASONS: Mapping[str, set[str | None]] = {
    "kept": {None},
    "exact": {"DUPLICATE_EXACT"},
    "near": {"DUPLICATE_NEAR"},
    "blurred": {"BLURRED"},
    "dark": {"TOO_DARK"},
    "blocky": {"BLOCKY"},
    "no_text": {"TEXT_TOO_SHORT"},
    "rejected": {"REJECTED"},
}


class Curated:
    """A corpus taken through all stages."""

    def __init__(self, folder: Path, config: SyntheticConfig) -> None:
        self.folder = folder
        self.truth = {truth.name: truth for truth in make_corpus(folder, config)}
        root = str(folder / "corpus")
        settings = ProbeSettings(run_id="r", model=LLAVA_NEXT)
        with Looker(SandboxSettings()) as sandbox:
            tables = [
                probe_rows(read_fragment(one), sandbox, settings, fragment_id=one.fragment_id, root=root)
                for one in plan_corpus([root])
            ]
        self.scores = pa.concat_tables(tables).sort_by("uid")
        ok = self.scores.filter(pa.array([status == "ok" for status in self.scores["status"].to_pylist()]))
        self.clusters, self.pairs = dedupe_table(ok, DedupeConfig())
        selection = select_rows(self.scores, self.clusters, SelectConfig(rules=RULES))
        self.name_of = {row["uid"]: row["uri"].removeprefix(f"{root}/") for row in self.scores.to_pylist()}
        self.score = {self.name_of[row["uid"]]: row for row in self.scores.to_pylist()}
        self.cluster = {self.name_of[row["uid"]]: row for row in self.clusters.to_pylist()}
        self.selected = {self.name_of[row["uid"]]: row for row in selection.to_pylist()}

    def of(self, *kinds: str) -> list[Truth]:
        return [truth for truth in self.truth.values() if truth.kind in kinds]


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    return Curated(tmp_path_factory.mktemp("synthetic"), CONFIG)


def test_every_kind_and_source_is_there_and_every_row_is_accounted_for(curated: Curated) -> None:
    kinds = Counter(truth.kind for truth in curated.truth.values())
    assert set(kinds) == set(ORDER)
    assert min(kinds.values()) >= 4, kinds
    assert {truth.source for truth in curated.truth.values()} == set(SOURCES)
    assert set(curated.score) == set(curated.selected) == set(curated.truth)
    assert {name: row["source"] for name, row in curated.score.items()} == {
        name: truth.source for name, truth in curated.truth.items()
    }


def test_what_cannot_be_used_is_rejected_for_the_planted_reason_and_nothing_else_is(curated: Curated) -> None:
    assert {name: row["error"] for name, row in curated.score.items()} == {
        name: truth.error for name, truth in curated.truth.items()
    }
    for truth in curated.of("wrong_extension"):
        assert (Path(truth.name).suffix, curated.score[truth.name]["format"]) == (".jpg", "PNG")


def groups(curated: Curated) -> dict[str, list[Truth]]:
    found: dict[str, list[Truth]] = {}
    for truth in curated.truth.values():
        if truth.outcome in ("kept", "exact", "near"):
            found.setdefault(truth.of or truth.name, []).append(truth)
    return found


def test_of_each_picture_one_row_survives_and_the_relation_is_the_planted_one(curated: Curated) -> None:
    seen = Counter[str]()
    for original, members in groups(curated).items():
        survivors = {curated.name_of[curated.cluster[truth.name]["survivor_uid"]] for truth in members}
        assert len(survivors) == 1, (original, survivors)
        survivor = curated.truth[survivors.pop()]
        assert survivor.kind in ("plain", "exact_copy", "repacked", "wrong_extension")
        for truth in members:
            row = curated.cluster[truth.name]
            if truth.name == survivor.name:
                assert (row["role"], row["kind"]) == ("survivor", None)
                continue
            assert row["role"] == "duplicate"
            pixels_only = "repacked" in (truth.kind, survivor.kind) and truth.kind != survivor.kind
            exact = "exact_pixel" if pixels_only else "exact_content"
            assert row["kind"] == ("near" if truth.outcome == "near" else exact), (truth, row)
            seen[truth.kind] += 1
    assert min(seen[kind] for kind in ("exact_copy", "reencoded", "resized", "cropped", "edited")) >= 2
    assert seen["repacked"] + seen["plain"] >= 2


def test_no_two_pictures_are_taken_for_one(curated: Curated) -> None:
    for name, row in curated.cluster.items():
        other = curated.truth[curated.name_of[row["survivor_uid"]]]
        own = curated.truth[name]
        assert (own.of or own.name) == (other.of or other.name)


def test_the_selection_drops_each_planted_fault_for_its_reason(curated: Curated) -> None:
    plain = [curated.score[truth.name] for truth in curated.of("plain")]
    assert min(row["blur"] for row in plain) > 10 * 5
    assert max(row["blockiness"] for row in plain) < 1.5
    for name, truth in curated.truth.items():
        if truth.outcome not in ("kept", "exact", "near"):
            assert curated.selected[name]["error"] in REASONS[truth.outcome], (truth, curated.selected[name])
            assert truth.kind != "dark" or curated.selected[name]["failed"] == ["TOO_DARK"]
            detail = curated.selected[name]["error_detail"]
            assert truth.error is None or detail == truth.error
    for original, members in groups(curated).items():
        kept = [truth for truth in members if curated.selected[truth.name]["error"] is None]
        assert len(kept) == 1, original
        for truth in members:
            if truth is not kept[0]:
                reason = curated.selected[truth.name]["error"]
                near = truth.outcome == "near"
                assert reason == ("DUPLICATE_NEAR" if near else "DUPLICATE_EXACT")


def test_the_truth_lies_beside_the_corpus(curated: Curated) -> None:
    lines = [json.loads(line) for line in (curated.folder / "truth.jsonl").read_text().splitlines()]
    assert [Truth(**line) for line in lines] == list(curated.truth.values())


def test_a_corpus_grows_without_changing(tmp_path: Path) -> None:
    small, large = SyntheticConfig(rows=20, seed=5), SyntheticConfig(rows=30, seed=5)
    rows: list[Any] = list(make_rows(large))
    assert list(make_rows(small)) == rows[:20]
    make_corpus(tmp_path, small)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*.*")}
    truths = make_corpus(tmp_path, large, first=20)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(truths) == 30
    assert sum(path.suffix != ".txt" for path in (tmp_path / "corpus").rglob("*.*")) == 30
    other = SyntheticConfig(rows=20, seed=6)
    assert all(
        a.image != b.image for a, b in zip(make_rows(small), make_rows(other), strict=True) if a.image and b.image
    )


def test_settings_and_kinds() -> None:
    assert all(truth_of(index, SyntheticConfig(rows=9, planted=0)).outcome == "kept" for index in range(9))
    assert all(kind_of(index, SyntheticConfig(rows=9, planted=1)) != "plain" for index in range(1, 9))
    with pytest.raises(ConfigError, match="planted is 2"):
        SyntheticConfig(rows=1, planted=2)
    with pytest.raises(ConfigError, match="most_side"):
        SyntheticConfig(rows=1, most_side=9)


def test_every_crop_is_near_and_every_truncated_file_is_cut_however_small_they_are() -> None:
    """A third of these crops would be too far if the first side that is drawn were taken; whole files have 4 kB."""
    config = SyntheticConfig(rows=5000, seed=3, planted=0.9, least_side=64, most_side=80)
    found = Counter[str]()
    for index in range(1, config.rows):
        kind = kind_of(index, config)
        if kind not in ("cropped", "truncated"):
            continue
        (row,) = make_rows(replace(config, rows=index + 1), first=index)
        found[kind] += 1
        if kind == "truncated":
            with pytest.raises(ImageRefused) as refused:
                decode_image(row.image)
            assert refused.value.reason == "TRUNCATED"
            continue
        copied = int(Path(row.truth.of or "").stem)
        (original,) = make_rows(replace(config, rows=copied + 1), first=copied)
        one, other = (phash(decode_image(data)).bits for data in (row.image, original.image))
        assert (one ^ other).bit_count() <= 3, index
    assert min(found.values()) > 250
