from math import comb

import pyarrow as pa
import pytest

from pipelines.curation.dedupe import DedupeConfig, count_clusters, dedupe_table, describe_search
from pipelines.curation.near import NearConfig
from pipelines.curation.survivors import SurvivorPolicy
from pipelines.errors import TableError
from schemas.cluster import CLUSTER
from tests.pipelines.curation.cases import table

BASE = 0x0F1E_2D3C_4B5A_6978


def clustered(rows: pa.Table, config: DedupeConfig | None = None, **others) -> dict[str, dict[str, object]]:
    clusters, _ = dedupe_table(rows, config or DedupeConfig(), **others)
    assert clusters.schema == CLUSTER
    assert clusters["uid"].to_pylist() == sorted(rows["uid"].to_pylist()), "one row for every row, by uid"
    return {row.pop("uid"): row for row in clusters.to_pylist()}


def survivor(uid: str, cluster: str, *flags: str) -> dict[str, object]:
    return {
        "cluster_id": cluster,
        "survivor_uid": uid,
        "kind": None,
        "distance": None,
        "role": "survivor",
        "flags": list(flags),
    }


def duplicate(of: str, cluster: str, kind: str, distance: float, *flags: str, role: str = "duplicate"):
    return {
        "cluster_id": cluster,
        "survivor_uid": of,
        "kind": kind,
        "distance": distance,
        "role": role,
        "flags": list(flags),
    }


def test_each_row_names_the_strongest_relation_to_its_survivor() -> None:
    rows = table(
        {"uid": "file", "content_hash": b"C" * 16, "pixel_hash": b"P" * 16, "phash": BASE},
        {"uid": "best", "content_hash": b"C" * 16, "pixel_hash": b"P" * 16, "phash": BASE, "quality": 0.9},
        {"uid": "lossless", "content_hash": b"D" * 16, "pixel_hash": b"P" * 16, "phash": BASE},
        {"uid": "same", "phash": BASE},
        {"uid": "near", "phash": BASE ^ 0b1011},
        {"uid": "far", "phash": BASE ^ 0b1111},
        {"uid": "alone", "phash": 1},
    )
    assert clustered(rows) == {
        "best": survivor("best", "best", "chain_split"),
        "file": duplicate("best", "best", "exact_content", 0, "chain_split"),
        "lossless": duplicate("best", "best", "exact_pixel", 0, "chain_split"),
        "same": duplicate("best", "best", "near", 0, "chain_split"),
        "near": duplicate("best", "best", "near", 3, "chain_split"),
        # one bit from "near", but four from the survivor
        "far": survivor("far", "far", "chain_split"),
        "alone": survivor("alone", "alone"),
    }


def test_cluster_id_is_the_least_uid_whoever_survives() -> None:
    rows = table(
        {"uid": "m", "phash": BASE, "width": 99}, {"uid": "b", "phash": BASE ^ 1}, {"uid": "x", "phash": BASE ^ 2}
    )
    got = clustered(rows)
    assert {row["cluster_id"] for row in got.values()} == {"b"}
    assert {row["survivor_uid"] for row in got.values()} == {"m"}


def test_low_information_is_matched_exactly_or_not_at_all() -> None:
    rows = table(
        {"uid": "a", "phash": BASE, "low_information": True},
        {"uid": "b", "phash": BASE, "low_information": True},
        {"uid": "c", "phash": BASE},
        {"uid": "d", "phash": BASE, "low_information": True, "pixel_hash": b"white pixels...."},
        {"uid": "e", "phash": BASE, "low_information": True, "pixel_hash": b"white pixels...."},
        {"uid": "f", "phash": BASE ^ 1, "low_information": None},
    )
    assert clustered(rows) == {
        "a": survivor("a", "a", "low_information"),
        "b": survivor("b", "b", "low_information"),
        "c": survivor("c", "c"),
        "d": survivor("d", "d", "low_information"),
        "e": duplicate("d", "d", "exact_pixel", 0, "low_information"),
        "f": duplicate("c", "c", "near", 1),
    }


def test_rejected_rows_without_hashes_survive_alone() -> None:
    nothing = {"phash": None, "pixel_hash": None, "low_information": None, "width": None, "height": None}
    rows = table(
        {"uid": "a", **nothing, "content_hash": None},
        {"uid": "b", **nothing, "content_hash": None},
        {"uid": "c", **nothing, "content_hash": b"same broken file"},
        {"uid": "d", **nothing, "content_hash": b"same broken file"},
    )
    got = clustered(rows)
    assert [row["role"] for row in got.values()] == ["survivor", "survivor", "survivor", "duplicate"]
    assert got["d"] == duplicate("c", "c", "exact_content", 0, "no_phash")


def test_many_rows_without_hashes_are_not_compared_with_each_other() -> None:
    nothing = {"phash": None, "pixel_hash": None, "content_hash": None}
    rows = table(*({"uid": f"same end {'x' * (place % 7)}{place // 7}", **nothing} for place in range(30_000)))
    assert all(row["role"] == "survivor" for row in clustered(rows).values())


def test_resolution_comes_first_then_source_then_quality() -> None:
    pair = [{"uid": "a", "phash": BASE, "source": "web"}, {"uid": "b", "phash": BASE ^ 1, "source": "shop"}]
    config = DedupeConfig(survivor=SurvivorPolicy(sources=("shop",)))
    assert clustered(table(*pair))["b"]["survivor_uid"] == "a"
    assert clustered(table(*pair), config)["a"]["survivor_uid"] == "b"
    pair[0]["width"] = 11
    assert clustered(table(*pair), config)["b"]["survivor_uid"] == "a"


def test_index_survivors_stay_and_lend_their_cluster_id() -> None:
    rows = table({"uid": "a", "phash": BASE ^ 1, "width": 999}, {"uid": "z", "phash": 5}, {"uid": "n", "phash": 4})
    index = table(
        {"uid": "old", "phash": BASE}, {"uid": "older", "phash": 5 ^ 0b110}, {"uid": "other", "phash": 5 ^ 0b111}
    )
    index = index.append_column("cluster_id", pa.array(["long ago", "older", None]))
    assert clustered(rows, index=index) == {
        "a": duplicate("old", "long ago", "near", 1, "indexed"),
        "z": duplicate("older", "older", "near", 2, "indexed"),
        "n": duplicate("older", "older", "near", 3, "indexed"),
    }


def test_references_contaminate_and_what_they_do_not_match_stays() -> None:
    rows = table(
        {"uid": "a", "phash": BASE ^ 0b111, "width": 50},
        {"uid": "b", "phash": BASE ^ 0b111_111, "width": 900},
        {"uid": "c", "phash": BASE ^ 0b111_110, "width": 20},
        {"uid": "d", "phash": 77, "content_hash": b"in the test set."},
    )
    against = table({"uid": "eval1", "phash": BASE}, {"uid": "eval2", "phash": 77, "content_hash": b"in the test set."})
    against = against.select(["uid", "content_hash", "pixel_hash", "phash"])
    index = table({"uid": "indexed", "phash": BASE, "width": 9999})
    contaminated = duplicate("eval1", "eval1", "near", 3, "chain_split", role="contaminated")
    assert clustered(rows, against=against, index=index) == {
        "a": contaminated,
        "b": survivor("b", "b", "chain_split"),
        "c": duplicate("b", "b", "near", 1, "chain_split"),
        "d": duplicate("eval2", "eval2", "exact_content", 0, role="contaminated"),
    }


def test_an_evaluation_image_may_be_a_row_itself_and_stand_in_several_sets() -> None:
    rows = table({"uid": "a", "phash": BASE}, {"uid": "b", "phash": BASE ^ 0b11, "width": 900}, {"uid": "c"})
    against = table({"uid": "a", "phash": BASE}, {"uid": "e", "phash": BASE ^ 0b11 << 9}, {"uid": "a", "phash": BASE})
    got = clustered(rows, against=against)
    assert {uid: (row["survivor_uid"], row["kind"], row["role"]) for uid, row in got.items()} == {
        "a": ("a", "exact_content", "contaminated"),
        "b": ("a", "near", "contaminated"),
        "c": ("c", None, "survivor"),
    }
    spared = clustered(rows, against=against, vetoes=frozenset({"a"}))
    assert (spared["a"]["role"], spared["b"]["role"]) == ("survivor", "contaminated"), "its picture is still shown"


def test_vetoed_rows_are_nobody_s_duplicate_but_may_have_some() -> None:
    rows = table(
        {"uid": "a", "phash": BASE, "width": 99}, {"uid": "b", "phash": BASE ^ 1}, {"uid": "c", "phash": BASE ^ 2}
    )
    got = clustered(rows, vetoes=frozenset({"b"}))
    assert got == {
        "a": survivor("a", "a"),
        "b": survivor("b", "b", "vetoed"),
        "c": duplicate("a", "a", "near", 1),
    }


def test_capped_hashes_are_flagged_and_reported() -> None:
    rows = table(*({"phash": 7 << 40 | place} for place in range(2**12)), {"uid": "x", "phash": BASE})
    clusters, report = dedupe_table(rows, DedupeConfig(near=NearConfig(bucket_cap=100)))
    counts = count_clusters([clusters])
    assert report.capped == counts["flag:bucket_capped"] == 4096
    assert counts["rows"] == counts["survivor"] + counts["duplicate"] == 4097


def test_what_the_search_may_have_left_out_is_said() -> None:
    rows = table(*({"phash": 7 << 40 | place} for place in range(2**12)), {"uid": "x", "low_information": True})
    clusters, _ = dedupe_table(rows, DedupeConfig(near=NearConfig(bucket_cap=100)))
    # by four blocks of 16 bits: bits that touch all four are missed, one in each, or two in one of them
    missed = 16**4 / comb(64, 4), (4 * comb(16, 2) * 16**3) / comb(64, 5)
    assert [round(100 * (1 - share)) for share in missed] == [90, 74]
    assert describe_search(NearConfig(max_distance=5), clusters) == (
        "Pairs up to 3 bits apart are all found, about 90 % at 4 bits, about 74 % at 5 bits; "
        "4,096 rows in buckets above the cap may lack some; "
        "1 rows whose hash says too little are matched exactly only."
    )
    plain = dedupe_table(table({"uid": "a"}), DedupeConfig())[0]
    assert describe_search(NearConfig(max_distance=2), plain) == "Pairs up to 2 bits apart are all found."


def test_hashes_stored_signed_are_the_same_bits() -> None:
    rows = table({"phash": 2**63 + 5}, {"phash": 2**63 + 4})
    signed = rows.set_column(3, "phash", pa.array([-(2**63) + 5, -(2**63) + 4], pa.int64()))
    assert dedupe_table(signed, DedupeConfig())[0].equals(dedupe_table(rows, DedupeConfig())[0])
    assert dedupe_table(signed, DedupeConfig())[1].pairs == 1


def test_missing_columns_and_doubled_uids_are_named() -> None:
    rows = table({"uid": "a", "phash": BASE}, {"uid": "b", "phash": BASE ^ 1})
    with pytest.raises(TableError, match=r"\['width'\] are missing"):
        dedupe_table(rows.drop_columns(["width"]), DedupeConfig())
    with pytest.raises(TableError, match="2 uids occur more than once"):
        dedupe_table(rows, DedupeConfig(), index=rows)


def test_no_rows_at_all() -> None:
    clusters, report = dedupe_table(table({})[:0], DedupeConfig())
    assert (len(clusters), report.pairs) == (0, 0)
