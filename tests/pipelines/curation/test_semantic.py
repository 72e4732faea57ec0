import numpy as np
import pyarrow as pa
import pytest

from llava_core.errors import ConfigError
from pipelines.curation.dedupe import DedupeConfig, dedupe_table
from pipelines.curation.semantic import SemanticConfig, assign, fit_centroids, semantic_links, unit_vectors
from pipelines.curation.semantic_stage import semantic_dataset, semantic_table
from pipelines.errors import TableError
from tests.pipelines.curation.cases import table

BASE = 0x0F1E_2D3C_4B5A_6978


def turned(*degrees: float) -> list[list[float]]:
    """Vectors in the plane, of lengths that do not matter."""
    return [[3 * np.cos(np.radians(angle)), 3 * np.sin(np.radians(angle))] for angle in degrees]


def embeddings(vectors: dict[str, list[float] | None]) -> pa.Table:
    return pa.table({"uid": list(vectors), "embedding": pa.array(list(vectors.values()), pa.list_(pa.float32()))})


def semdedup(vectors: np.ndarray, centroid: np.ndarray, epsilon: float, keep: str) -> set[int]:
    """SemDeDup as published: full matrix, upper triangle, greatest cosine to any earlier row."""
    towards = vectors @ centroid
    order = np.argsort(towards if keep == "hard" else -towards, kind="stable")
    ranked = vectors[order]
    greatest = np.triu(ranked @ ranked.T, k=1).max(axis=0)
    return {int(order[row]) for row in np.flatnonzero(greatest > 1 - epsilon)}


@pytest.mark.parametrize("keep", ["hard", "easy"])
def test_the_rule_to_the_letter_is_semdedup_s(keep: str) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(400, 6))
    vectors = np.concatenate([centres, centres[:200] + 0.1 * rng.normal(size=(200, 6)), centres[:100] + 0.05])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    uids = pa.chunked_array([[f"{place:04}" for place in range(len(vectors))]])
    config = SemanticConfig(epsilon=0.01, keep=keep, split_chains=False)
    links = semantic_links(uids, vectors, vectors.mean(axis=0), config)
    dropped = {int(uid) for uid in links["uid"].to_pylist()}
    assert dropped == semdedup(vectors, vectors.mean(axis=0), 0.01, keep)
    assert 150 < len(dropped) < 400
    split = semantic_links(uids, vectors, vectors.mean(axis=0), SemanticConfig(epsilon=0.01, keep=keep))
    kept = set(uids.to_pylist()) - set(split["uid"].to_pylist())
    assert set(split["survivor_uid"].to_pylist()) <= kept
    assert min(split["cosine"].to_pylist()) > 0.99
    assert {int(uid) for uid in split["uid"].to_pylist()} < dropped, "chains make the whole rule drop more"


def test_the_closest_kept_row_survives() -> None:
    _, vectors = unit_vectors(embeddings(dict(zip("abcd", turned(0, 30, 22, 90), strict=True))))
    links = semantic_links(pa.chunked_array([list("abcd")]), vectors, vectors[3], SemanticConfig(epsilon=0.08))
    # ranked a (farthest from d), c, b: c matches a only; b matches a no longer, and c is gone
    assert links.to_pylist() == [{"uid": "c", "survivor_uid": "a", "cosine": pytest.approx(np.cos(np.radians(22)))}]


def test_embeddings_that_say_nothing_are_left_out() -> None:
    given = {"d": [3, 4], "c": [0, 0], "b": None, "a": [float("nan"), 1], "e": [0, -2]}
    rows, vectors = unit_vectors(embeddings(given))
    assert rows["uid"].to_pylist() == ["d", "e"]
    assert vectors.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, -1]]
    assert len(unit_vectors(embeddings({"a": None}))[0]) == 0
    with pytest.raises(TableError, match=r"\[2, 3\]"):
        unit_vectors(embeddings({"a": [1, 2], "b": [1, 2, 3]}))


def test_k_means_finds_separate_clusters_and_repeats_itself() -> None:
    rng = np.random.default_rng(1)
    centres = np.eye(5, 12)
    vectors = np.repeat(centres, 40, axis=0) + 0.05 * rng.normal(size=(200, 12))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    config = SemanticConfig(clusters=5, seed=4)
    centroids = fit_centroids(vectors, config, 200)
    assert (centroids == fit_centroids(vectors, config, 200)).all()
    nearest = assign(vectors, centroids)
    within = (vectors * centroids[nearest]).sum(axis=1).mean()
    start = vectors[np.sort(np.random.default_rng(4).choice(200, 5, replace=False))]
    assert within > (vectors * start[assign(vectors, start)]).sum(axis=1).mean() + 0.005
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1)
    assert len(fit_centroids(vectors[:3], config, 3)) == 3
    assert len(fit_centroids(vectors, SemanticConfig(), 2500)) == 2


ROWS = table(
    {"uid": "cat", "phash": BASE, "width": 50},
    {"uid": "cat copy", "phash": BASE, "content_hash": b"content of cat"},
    {"uid": "cat near", "phash": BASE ^ 0b1},
    {"uid": "cat near, another meaning", "phash": BASE ^ 0b10, "width": 40},
    {"uid": "cat near, no embedding", "phash": BASE ^ 0b100},
    {"uid": "other cat", "phash": 1},
    {"uid": "other cat near", "phash": 3},
    {"uid": "vetoed cat", "phash": 1 << 40},
    {"uid": "dog", "phash": 99 << 20},
)
DEGREES = {
    "cat": 10,
    "cat copy": 10,
    "cat near": 11,
    "cat near, another meaning": 60,
    "other cat": 5,
    "other cat near": 5,
    "vetoed cat": 10,
    "dog": 95,
}
MEANING = dict(zip(DEGREES, turned(*DEGREES.values()), strict=True))


def after() -> pa.Table:
    config = DedupeConfig()
    clusters, _ = dedupe_table(ROWS, config, vetoes=frozenset({"vetoed cat"}))
    settings = SemanticConfig(epsilon=0.02, clusters=1)
    return semantic_table(clusters, ROWS, embeddings(MEANING), config, settings)


def test_copies_go_with_their_survivor_and_near_duplicates_are_checked_again() -> None:
    rows = {row["uid"]: row for row in after().to_pylist()}
    assert list(rows) == sorted(ROWS["uid"].to_pylist())
    facts = {uid: (row["survivor_uid"], row["cluster_id"], row["kind"], row["role"]) for uid, row in rows.items()}
    # the centroid lies at about 33 degrees, so "other cat" at 5 is harder than "cat" at 10, and stays
    meant = ("other cat", "cat", "semantic", "duplicate")
    stays = "cat near, another meaning"
    assert facts == {
        "other cat": ("other cat", "cat", None, "survivor"),
        "other cat near": ("other cat", "cat", "near", "duplicate"),
        "cat": meant,
        "cat copy": meant,
        "cat near": meant,
        stays: (stays, stays, None, "survivor"),
        "cat near, no embedding": (stays, stays, "near", "duplicate"),
        "vetoed cat": ("vetoed cat", "vetoed cat", None, "survivor"),
        "dog": ("dog", "dog", None, "survivor"),
    }
    assert rows["cat"]["distance"] == pytest.approx(1 - np.cos(np.radians(5)), abs=1e-6)
    assert rows["cat near"]["distance"] == pytest.approx(1 - np.cos(np.radians(6)), abs=1e-6)
    assert rows["cat near, no embedding"]["distance"] == 2
    assert rows[stays]["flags"] == ["chain_split"]


@pytest.mark.parametrize(
    "settings", [{"epsilon": 0}, {"epsilon": 1}, {"clusters": 0}, {"iterations": 0}, {"keep": "best"}, {"sample": 0}]
)
def test_wrong_settings_are_refused(settings) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SemanticConfig(**settings)


@pytest.mark.ray
def test_ray_gives_the_same(ray_session: None) -> None:
    import ray

    config = DedupeConfig()
    clusters, _ = dedupe_table(ROWS, config, vetoes=frozenset({"vetoed cat"}))
    parts = [
        ray.data.from_arrow([part.slice(start, 4) for start in (4, 8, 0)])
        for part in (clusters, ROWS, embeddings(MEANING))
    ]
    settings = SemanticConfig(epsilon=0.02, clusters=1)
    blocks = semantic_dataset(*parts, config, settings).iter_batches(batch_format="pyarrow", batch_size=None)
    result = pa.concat_tables(blocks).cast(clusters.schema).sort_by("uid").combine_chunks()
    assert result.to_pylist() == after().to_pylist()
