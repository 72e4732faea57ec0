"""Shards are named by their rows: what lies beside them in a folder, kept or not, changes no name."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.corpus import plan_corpus
from pipelines.corpus_settings import CorpusSettings
from pipelines.curation.shard_plan import ShardSize, cut_by_size, plan_shards
from pipelines.fragments import Fragment
from tests.pipelines.curation.shard_cases import kept_rows, photo, write_corpus

SIZE = ShardSize(least_bytes=20_000, most_bytes=60_000)


def planned(folder: Path) -> list[Fragment]:
    return plan_corpus([str(folder)], settings=CorpusSettings(rows_per_fragment=6))


def names(folder: Path, dropped: str = "") -> list[str]:
    """Ids of the shards of a folder, whose rows are all kept but for one."""
    fragments = planned(folder)
    kept = kept_rows(fragments)
    uris = pa.array([f"{folder}/{dropped}"])
    return [
        one.shard_id
        for one in plan_shards(kept.filter(pa.compute.invert(pa.compute.is_in(kept["uri"], uris))), fragments, SIZE)
    ]


def test_a_file_that_is_not_kept_changes_fragments_and_no_shard(tmp_path: Path) -> None:
    write_corpus(tmp_path, 80)
    before, fragments = names(tmp_path), {one.fragment_id for one in planned(tmp_path)}
    assert len(before) > 2
    (tmp_path / "040x.jpg").write_bytes(photo(20, 30, 200))
    assert fragments - {one.fragment_id for one in planned(tmp_path)}
    assert names(tmp_path, "040x.jpg") == before


def test_a_row_that_comes_moves_its_own_shard_and_seldom_more_than_one_other() -> None:
    size, moved = ShardSize(least_bytes=2_000, most_bytes=6_000), []
    for seed in range(200):
        numbers = np.random.default_rng(seed)
        rows = [*range(900)]
        weights, fractions = numbers.integers(50, 150, 901), numbers.random(901)
        after = [*rows[:400], 900, *rows[400:]]
        before_shards, after_shards = (
            {tuple(one[start:stop]) for start, stop in pairwise(cut_by_size(weights[one], fractions[one], size))}
            for one in (rows, after)
        )
        assert len(before_shards) > 15
        moved.append(len(after_shards - before_shards))
    assert min(moved) >= 1
    assert np.mean(moved) < 1.5 and np.mean(np.array(moved) <= 2) > 0.9


def test_a_file_that_changed_or_has_another_caption_is_another_shard(tmp_path: Path) -> None:
    write_corpus(tmp_path, 80)
    before = names(tmp_path)
    (tmp_path / "079.txt").write_text("another caption")
    assert [one == other for one, other in zip(names(tmp_path), before, strict=True)].count(False) == 1
    captioned = names(tmp_path)
    (tmp_path / "000.jpg").write_bytes(photo(20, 30, 201))
    assert names(tmp_path)[0] != captioned[0]
