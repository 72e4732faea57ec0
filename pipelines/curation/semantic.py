"""Semantic duplicates: different pictures of the same thing, by cosine of their embeddings within k-means clusters.

SemDeDup's rule: inside each cluster, rows ranked by their distance to the centroid; a row is dropped when an earlier
one has a cosine above 1 - epsilon. Here the earlier row must itself be kept (`split_chains`), so that every row dropped
is close to one that survives. Pairs in different clusters are not compared; that is what k-means saves, and what it
costs.

D is the width of an embedding, K the number of clusters. Sums are in float64 and rows in the order of their uids, so
neither blocks nor threads show in the result. What this does *not* do: compute embeddings, or run on a cluster.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llava_core.errors import ConfigError
from pipelines.errors import TableError

Vectors = NDArray[np.float64]
CHUNK = 2048
"""Rows compared at once with those before them."""

LINKS = pa.schema(
    [pa.field("uid", pa.string()), pa.field("survivor_uid", pa.string()), pa.field("cosine", pa.float64())]
)
"""A dropped row, the kept one that it is closest to, and how close."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticConfig:
    """How semantic duplicates are found."""

    epsilon: float = 0.05
    """A row is dropped when its cosine to a kept one exceeds 1 - epsilon. SemDeDup's figures: 0.001 to 0.1, by how much
    shall go."""
    clusters: int | None = None
    """K of k-means. None: one for about 1,000 rows, at least 1."""
    iterations: int = 20
    """Rounds of k-means; it stops earlier when no row changes its cluster."""
    sample: int = 100_000
    """Rows that k-means is fitted on, about; chosen by a hash of their uids."""
    keep: Literal["hard", "easy"] = "hard"
    """Which rows rank first: "hard" the farthest from the centroid (SemDeDup's default), "easy" the nearest."""
    split_chains: bool = True
    """Whether only kept rows drop others. False: SemDeDup's rule to the letter, where a dropped row drops others
    too."""
    seed: int = 0
    """Seed of the first centroids."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for values out of range."""
        if not 0 < self.epsilon < 1:
            raise ConfigError(f"SemanticConfig.epsilon is {self.epsilon}; expected a number between 0 and 1")
        for name, value in (("clusters", self.clusters), ("iterations", self.iterations), ("sample", self.sample)):
            if value is not None and value < 1:
                raise ConfigError(f"SemanticConfig.{name} is {value}; expected at least 1")
        if self.keep not in ("hard", "easy"):
            raise ConfigError(f"SemanticConfig.keep is {self.keep!r}; expected 'hard' or 'easy'")


def unit_vectors(embeddings: pa.Table) -> tuple[pa.Table, Vectors]:
    """Scale embeddings to length 1 and put them in the order of their uids.

    Args:
        embeddings: uid string, embedding list<float>[D]; rows whose embedding is null, all zero or not finite are left
            out: nothing is like them.

    Returns:
        The rows left, ascending by uid; float64[N, D].

    Raises:
        TableError: embeddings of different widths.
    """
    embeddings = embeddings.filter(pc.is_valid(embeddings["embedding"])).sort_by("uid").combine_chunks()
    if not len(embeddings):
        return embeddings, np.zeros((0, 0))
    column = embeddings["embedding"]
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(widths) != 1:
        raise TableError(f"embeddings must all have one width; found {sorted(widths)}")
    vectors = pc.list_flatten(column).to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(column), widths[0])
    length = np.linalg.norm(vectors, axis=1)
    good = np.isfinite(length) & (length > 0)
    return embeddings.filter(pa.array(good)), vectors[good] / length[good, None]


def uid_hashes(uids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """uint64[N]: 64 bits of the blake2b of each uid."""
    digests = (blake2b(uid.encode(), digest_size=8).digest() for uid in uids.to_pylist())
    return np.frombuffer(b"".join(digests), np.uint64)


def fit_centroids(vectors: Vectors, config: SemanticConfig, rows: int) -> Vectors:
    """Fit k-means on the unit sphere.

    Args:
        vectors: float64[N, D], unit length, in an order that does not depend on how they were read.
        config: K, rounds, seed.
        rows: how many rows there are of which these are a sample; sets K where the config does not.

    Returns:
        float64[K, D], unit length; K at most N. A cluster that loses all its rows keeps its centroid.
    """
    wanted = config.clusters or max(1, rows // 1000)
    chosen = np.random.default_rng(config.seed).choice(len(vectors), min(wanted, len(vectors)), replace=False)
    centroids = vectors[np.sort(chosen)]
    before: NDArray[np.int64] | None = None
    for _ in range(config.iterations):
        nearest = assign(vectors, centroids)
        if before is not None and np.array_equal(nearest, before):
            break
        order = np.argsort(nearest, kind="stable")
        present, starts = np.unique(nearest[order], return_index=True)
        sums = np.zeros_like(centroids)
        sums[present] = np.add.reduceat(vectors[order], starts)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = np.where(lengths > 0, sums / np.where(lengths > 0, lengths, 1), centroids)
        before = nearest
    return centroids


def assign(vectors: Vectors, centroids: Vectors) -> NDArray[np.int64]:
    """int64[N]: the centroid with the greatest cosine, the first of equal ones."""
    chunks = [np.argmax(vectors[at : at + CHUNK] @ centroids.T, axis=1) for at in range(0, len(vectors), CHUNK)]
    return np.concatenate([np.empty(0, np.int64), *chunks])


def semantic_links(uids: pa.ChunkedArray, vectors: Vectors, centroid: Vectors, config: SemanticConfig) -> pa.Table:
    """Apply SemDeDup's rule to one cluster.

    Args:
        uids: ascending.
        vectors: float64[N, D], unit length.
        centroid: float64[D].
        config: epsilon, which rows rank first, chains.

    Returns:
        LINKS, one row for each row that is dropped.

    Source: SemDeDup (Abbas et al. 2023, arXiv 2303.09540), section 3 and `semdedup.py` of facebookresearch/SemDeDup;
    deviation: `split_chains`.

    Example:
        >>> angles = np.radians([0, 10, 20, 90])
        >>> vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        >>> uids, centroid = pa.chunked_array([["a", "b", "c", "d"]]), np.array([0.0, 1.0])
        >>> semantic_links(uids, vectors, centroid, SemanticConfig(epsilon=0.02)).select([0, 1]).to_pylist()
        [{'uid': 'b', 'survivor_uid': 'a'}]
        >>> whole_rule = SemanticConfig(epsilon=0.02, split_chains=False)
        >>> semantic_links(uids, vectors, centroid, whole_rule).select([0, 1]).to_pylist()
        [{'uid': 'b', 'survivor_uid': 'a'}, {'uid': 'c', 'survivor_uid': 'a'}]
    """
    towards = vectors @ centroid
    order = np.argsort(towards if config.keep == "hard" else -towards, kind="stable")
    ranked = vectors[order]
    survivor = np.arange(len(order))
    for start in range(0, len(order), CHUNK):
        cosines = ranked[start : start + CHUNK] @ ranked[: start + CHUNK].T
        close = np.tril(cosines > 1 - config.epsilon, start - 1)
        for row in np.flatnonzero(close.any(axis=1)):
            earlier = np.flatnonzero(close[row])
            if config.split_chains:
                earlier = earlier[survivor[earlier] == earlier]
            if len(earlier):
                survivor[start + row] = survivor[earlier[np.argmax(cosines[row, earlier])]]
    dropped = np.flatnonzero(survivor != np.arange(len(order)))
    cosine = np.einsum("nd,nd->n", ranked[dropped], ranked[survivor[dropped]])
    columns = [uids.take(pa.array(order[dropped])), uids.take(pa.array(order[survivor[dropped]])), pa.array(cosine)]
    return pa.table(columns, schema=LINKS)
