"""Shards are named by their rows: what lies beside them in a folder, kept or not, changes no name."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.corpus import plan_corpus
from pipelines.corpus_settings import CorpusSettings
from pipelines.curation.balance import BalanceConfig, uid_fractions
from pipelines.curation.shard_plan import ShardSize, cut_by_size, plan_shards
from pipelines.fragments import Fragment, make_fragment
from pipelines.row_refs import ObjectRef
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


def test_under_a_strong_cap_a_row_that_goes_moves_as_little_as_without() -> None:
    # a cap keeps a hundredth, and about as many rows cut: by the numbers of balancing every row that is left would
    uids = [f"{number:06d}" for number in range(200_000)]
    numbers = uid_fractions(uids, BalanceConfig().seed)
    kept = [uid for uid, number in zip(uids, numbers, strict=True) if number < 0.01]
    size = ShardSize(least_bytes=5 * 150_000, most_bytes=400 * 150_000)
    names = pa.array(kept)
    fragment = make_fragment(
        kind="parquet", source="/d", root="/d", container=ObjectRef(uri="/d/a.parquet", size=9, version="1"), num_rows=1
    )
    rows = pa.table(
        {
            "uid": names,
            "source": ["web"] * len(kept),
            "corpus_fragment": [fragment.fragment_id] * len(kept),
            "row_index": pa.array(range(len(kept)), pa.int32()),
            **dict.fromkeys(("n_image_tokens", "n_text_tokens", "n_tiles"), pa.array([1] * len(kept))),
            "file_bytes": [148_000] * len(kept),
        }
    )
    before, after = ({one.shard_id for one in plan_shards(some, [fragment], size)} for some in (rows, rows.slice(1)))
    assert len(before) > 10
    assert len(after - before) <= 2


@pytest.mark.parametrize(("name", "value"), [("source", "docs"), ("n_text_tokens", 4), ("n_image_tokens", 9)])
def test_what_a_row_carries_names_its_shard(tmp_path: Path, name: str, value: object) -> None:
    write_corpus(tmp_path, 80)
    fragments = planned(tmp_path)
    kept = kept_rows(fragments)
    place = kept.schema.get_field_index(name)
    values = kept[name].to_pylist()
    at = kept["uri"].to_pylist().index(str(tmp_path / "041.jpg"))
    values[at] = value
    other = kept.set_column(place, kept.schema.field(place), pa.array(values, kept.schema.field(place).type))
    before, after = ([one.shard_id for one in plan_shards(some, fragments, SIZE)] for some in (kept, other))
    assert [one == two for one, two in zip(before, after, strict=True)].count(False) == 1


def test_a_file_that_changed_or_has_another_caption_is_another_shard(tmp_path: Path) -> None:
    write_corpus(tmp_path, 80)
    before = names(tmp_path)
    (tmp_path / "079.txt").write_text("another caption")
    assert [one == other for one, other in zip(names(tmp_path), before, strict=True)].count(False) == 1
    captioned = names(tmp_path)
    (tmp_path / "000.jpg").write_bytes(photo(20, 30, 201))
    assert names(tmp_path)[0] != captioned[0]
