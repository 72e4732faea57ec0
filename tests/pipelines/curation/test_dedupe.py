import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.curation.dedupe import DedupeConfig, count_clusters, dedupe_dataset, dedupe_table
from pipelines.curation.hashes import content_hash, phash, pixel_hash
from pipelines.curation.near import NearConfig
from pipelines.curation.survivors import SurvivorPolicy
from pipelines.errors import TableError
from schemas.cluster import CLUSTER
from tests.pipelines.curation.cases import flipped, real, table

CONFIG = DedupeConfig(survivor=SurvivorPolicy(sources=("b",)))


def crowd(count: int, seed: int) -> pa.Table:
    """Rows among which there is a good deal of everything: copies, near-duplicates, chains, low information, nulls."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for place in range(count):
        row = {
            "uid": f"{int(rng.integers(0, 2**63)):016x}",
            "phash": int(rng.integers(0, 2**64, dtype=np.uint64)),
            "width": int(rng.integers(50, 60)),
            "source": "ab"[place % 2],
            "quality": None if place % 3 else float(rng.random()),
            "low_information": place % 50 == 7,
        }
        kind, former = rng.random(), rows[int(rng.integers(0, len(rows)))] if rows else None
        if former and former["phash"] is not None and kind < 0.5:
            row["phash"] = flipped(int(former["phash"]), int(rng.integers(0, 5)), rng)
        elif former and "content_hash" in former and kind < 0.6:
            row |= {name: former[name] for name in ("content_hash", "pixel_hash", "phash", "low_information")}
        elif kind < 0.62:
            row |= {"phash": None, "low_information": None, "pixel_hash": None}
        row.setdefault("content_hash", f"content of {row['uid']}".encode())
        row.setdefault("pixel_hash", f"{row['uid']}'s pixels".encode())
        rows.append(row)
    return table(*rows)


def slow_clusters(rows: pa.Table, distance: int) -> dict[str, str]:
    """uid → survivor, by comparing everything with everything, in the order of the policy of CONFIG."""

    def rank(row):
        quality = -np.inf if row["quality"] is None else row["quality"]
        return -row["width"] * row["height"], row["source"] != "b", -quality, row["uid"]

    def same(a, b):
        if a["content_hash"] == b["content_hash"] or (a["pixel_hash"] and a["pixel_hash"] == b["pixel_hash"]):
            return True
        if a["low_information"] or b["low_information"] or a["phash"] is None or b["phash"] is None:
            return False
        return (a["phash"] ^ b["phash"]).bit_count() <= distance

    survivors: list[dict[str, object]] = []
    given = {}
    for row in sorted(rows.to_pylist(), key=rank):
        leader = next((other for other in survivors if same(row, other)), None)
        given[row["uid"]] = leader["uid"] if leader else row["uid"]
        if leader is None:
            survivors.append(row)
    return given


def test_agrees_with_comparing_everything_in_the_order_of_the_policy() -> None:
    rows = crowd(900, seed=1)
    clusters, report = dedupe_table(rows, CONFIG)
    got = dict(zip(clusters["uid"].to_pylist(), clusters["survivor_uid"].to_pylist(), strict=True))
    assert got == slow_clusters(rows, 3)
    counts = count_clusters([clusters])
    assert counts["rows"] == 900 == counts["survivor"] + counts["duplicate"]
    assert min(counts[name] for name in ("near", "exact_content", "flag:chain_split", "flag:no_phash")) > 10, counts
    assert report.recall == (1, 1, 1, 1)


def test_the_order_of_rows_does_not_matter() -> None:
    rows = crowd(2000, seed=2)
    expected, _ = dedupe_table(rows, CONFIG)
    rng = np.random.default_rng(0)
    for _ in range(4):
        arrived = rows.take(pa.array(rng.permutation(len(rows))))
        assert dedupe_table(arrived, CONFIG)[0].equals(expected)


def test_matching_new_data_against_an_index_is_matching_against_its_survivors() -> None:
    rows = crowd(2000, seed=3)
    old, new = rows[:1500], rows[1500:]
    before, _ = dedupe_table(old, CONFIG)
    kept = before.filter(pa.compute.equal(before["role"], "survivor")).select(["uid", "cluster_id"])
    index = old.join(kept, "uid", join_type="inner")
    clusters, _ = dedupe_table(new, CONFIG, index=index)
    rows_now = clusters.to_pylist()
    old_uids = set(old["uid"].to_pylist())
    assert len(rows_now) == 500
    matched = [row for row in rows_now if row["survivor_uid"] in old_uids]
    assert len(matched) > 100
    survivors = set(kept["uid"].to_pylist())
    names = dict(zip(before["uid"].to_pylist(), before["cluster_id"].to_pylist(), strict=True))
    for row in rows_now:
        assert ("indexed" in row["flags"]) == (row["survivor_uid"] in old_uids)
    for row in matched:
        assert row["survivor_uid"] in survivors
        assert row["cluster_id"] == names[row["survivor_uid"]]


def taken(dataset) -> pa.Table:
    blocks = dataset.iter_batches(batch_format="pyarrow", batch_size=None)
    return pa.concat_tables(blocks).cast(CLUSTER).sort_by("uid").combine_chunks()


@pytest.mark.ray
def test_ray_gives_the_same_table_for_any_blocks(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from pipelines.curation import dedupe, near_stage

    monkeypatch.setattr(dedupe, "PARTITION_ROWS", 500)
    monkeypatch.setattr(near_stage, "SLICE_HASHES", 1500)
    rows, index, against = crowd(1500, seed=4), crowd(300, seed=5), crowd(40, seed=6)
    hashes = rows["phash"].combine_chunks()
    index = index.set_column(3, "phash", pa.concat_arrays([hashes[:200], index["phash"].combine_chunks()[200:]]))
    against = against.set_column(3, "phash", hashes[-40:]).select(["uid", "content_hash", "pixel_hash", "phash"])
    vetoes = frozenset(rows["uid"].to_pylist()[:5])
    expected, report = dedupe_table(rows, CONFIG, index=index, against=against, vetoes=vetoes)
    counts = count_clusters([expected])
    assert min(counts[name] for name in ("contaminated", "flag:indexed", "near", "flag:vetoed")) >= 5, counts
    shuffled = rows.take(pa.array(np.random.default_rng(0).permutation(len(rows))))
    for blocks in ([rows], [shuffled.slice(start, 400) for start in (800, 0, 1200, 400)]):
        clusters, ray_report = dedupe_dataset(
            ray.data.from_arrow(blocks),
            CONFIG,
            index=ray.data.from_arrow(index),
            against=ray.data.from_arrow(against),
            vetoes=vetoes,
        )
        assert taken(clusters).equals(expected)
        assert ray_report == report


@pytest.mark.ray
def test_partitions_are_finished_in_the_worker_and_full_buckets_searched_again(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from pipelines.curation import dedupe

    def finish(partition: int, clusters: pa.Table) -> pa.Table:
        uids = clusters["uid"].to_pylist()
        assert uids == sorted(uids)
        return pa.table({"partition": [partition], "rows": [len(uids)], "uids": [",".join(uids)]})

    monkeypatch.setattr(dedupe, "PARTITION_ROWS", 300)
    rows = table(*({"phash": 7 << 40 | place} for place in range(1024)), {"uid": "x", "phash": 2**63})
    config = DedupeConfig(near=NearConfig(bucket_cap=100))
    receipts = []
    for blocks in ([rows], [rows[700:], rows[:700]]):
        dataset, report = dedupe_dataset(ray.data.from_arrow(blocks), config, finish=finish)
        receipts.append(sorted(tuple(row.values()) for row in dataset.take_all()))
    assert receipts[0] == receipts[1], "what a partition holds does not depend on blocks"
    assert sum(rows for _, rows, _ in receipts[0]) == 1025
    assert report == dedupe_table(rows, config)[1]


@pytest.mark.ray
def test_missing_columns_are_named_on_the_driver(ray_session: None) -> None:
    import ray

    with pytest.raises(TableError, match="pixel_hash"):
        dedupe_dataset(ray.data.from_arrow(crowd(5, 0).drop_columns(["pixel_hash"])), CONFIG)


def probed(paths: list[Path]) -> pa.Table:
    """What the probe says of some files, as far as deduplication reads it."""
    rows = []
    for path in paths:
        with Image.open(path) as opened:
            image = np.asarray(opened.convert("RGB"))
        seen = phash(image)
        rows.append(
            {
                "uid": f"{path.parent.name}/{path.name}",
                "content_hash": content_hash(path.read_bytes()),
                "pixel_hash": pixel_hash(image),
                "phash": seen.bits,
                "low_information": seen.low_information,
                "width": image.shape[1],
                "height": image.shape[0],
            }
        )
    return table(*rows)


def test_real_photos_with_resized_copies() -> None:
    folder = real("dedup/fastnd")
    photos = sorted((folder / "caltech_101_rand_resize").glob("*.jpg"))
    truth = json.loads((folder / "caltech_clusters.json").read_text())["clusters"]
    cluster_of = {name: number for number, names in enumerate(truth) for name in names}
    rows = probed(photos)
    size = {row["uid"]: row["width"] * row["height"] for row in rows.to_pylist()}
    wrong, found, duplicates = [], 0, sum(len(names) - 1 for names in truth)
    for row in dedupe_table(rows, DedupeConfig())[0].to_pylist():
        if row["role"] == "duplicate":
            names = [Path(row[key]).name for key in ("uid", "survivor_uid")]
            if cluster_of.get(names[0], -1) != cluster_of.get(names[1], -2):
                wrong.append(names)
            found += 1
            assert size[row["uid"]] <= size[row["survivor_uid"]]
    assert wrong == []
    assert found == duplicates == 65


def test_real_files_twice_are_exact_copies() -> None:
    folder = real("dedup/fastnd/potatoes_multi_folder")
    clusters, _ = dedupe_table(probed(sorted(folder.rglob("*.png"))), DedupeConfig())
    rows = {row["uid"]: row for row in clusters.to_pylist()}
    assert len(rows) == 32
    for uid, row in rows.items():
        if uid.startswith("v2/"):
            assert row["role"] == "duplicate"
            same_file = row["kind"] == "exact_content" and row["survivor_uid"] == uid.replace("v2/", "v1/")
            assert same_file or row["kind"] == "near"


def test_real_edits_of_one_photo() -> None:
    folder = real("dedup/pdq")
    edits, unrelated = folder / "bridge-mods", folder / "reg-test-input/labelme-subset"
    paths = [*sorted(edits.glob("*.jpg")), *sorted(unrelated.glob("*.jpg"))]
    clusters, _ = dedupe_table(probed(paths), DedupeConfig())
    survivors = {Path(row["uid"]).stem for row in clusters.to_pylist() if row["role"] == "survivor"}
    # of 12 edits only the strong sharpening moves the hash by more than 3 bits; the 7 other photos are left alone
    assert survivors == {"aaa-orig", "sharpen-a-lot", "q0003", "q0004", "q0122", "q0291", "q0746", "q1050", "q2821"}
