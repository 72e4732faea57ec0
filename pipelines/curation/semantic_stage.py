"""Semantic duplicates among the survivors of a `clusters` table, in one process and on Ray Data.

Only survivors are compared. When one of them is dropped for another, its exact copies go with it; each of its
near-duplicates goes too where its own embedding is close enough to the new survivor, and otherwise stays, under the
best of those that stay: nothing is dropped for a row that it was not checked against. Vetoed rows take no part.

On Ray, the driver holds 8 bytes for each survivor, the sample that k-means is fitted on, and the rows of clusters that
change. What this does *not* do: match embeddings of earlier runs or of references.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray
from ray.data import Dataset

from pipelines.curation.blocks import Hashes
from pipelines.curation.clusters import FRESH, cluster_rows, narrow
from pipelines.curation.dedupe import DedupeConfig
from pipelines.curation.near import among
from pipelines.curation.near_stage import NO_HASHES, tables_of
from pipelines.curation.semantic import (
    LINKS,
    SemanticConfig,
    Vectors,
    assign,
    fit_centroids,
    semantic_links,
    uid_hashes,
    unit_vectors,
)
from pipelines.errors import TableError
from schemas.cluster import CLUSTER, ClusterFlag, ClusterKind, ClusterRole

PARTITIONS = 200
"""Most shuffle partitions; each holds whole k-means clusters."""


def semantic_table(
    clusters: pa.Table, rows: pa.Table, embeddings: pa.Table, config: DedupeConfig, semantic: SemanticConfig
) -> pa.Table:
    """Drop semantic duplicates in this process.

    Args:
        clusters: CLUSTER, as `dedupe_table` returns it.
        rows: the rows that it was made from.
        embeddings: uid string, embedding list<float>[D]; rows that lack one have no semantic duplicates.
        config: who survives among near-duplicates that stay.
        semantic: settings.

    Returns:
        CLUSTER, ascending by uid.
    """
    hashes = np.sort(_eligible(clusters)["hash"].to_numpy())
    some = _of_hashes(embeddings, hashes, len(hashes), semantic.sample)
    centroids = fit_centroids(unit_vectors(some)[1], semantic, len(hashes))
    named = _assigned(embeddings, hashes, centroids)
    numbers = sorted(pc.unique(named["cluster"]).to_pylist())
    found = [_links(named.filter(pc.equal(named["cluster"], number)), centroids, semantic) for number in numbers]
    links = pa.concat_tables([LINKS.empty_table(), *found])
    affected = _affected(clusters, links)
    changes = changed_rows(
        affected, links, _of_uids(rows, affected["uid"]), _of_uids(embeddings, affected["uid"]), config, semantic
    )
    return _replace(clusters, changes).sort_by("uid").combine_chunks()


def semantic_dataset(
    clusters: Dataset, rows: Dataset, embeddings: Dataset, config: DedupeConfig, semantic: SemanticConfig
) -> Dataset:
    """Drop semantic duplicates on Ray: `semantic_table` of datasets.

    Args:
        clusters: as for `semantic_table`; read three times, so materialised or read from a table.
        rows: as for `semantic_table`; read once.
        embeddings: as for `semantic_table`; read three times. The one shuffle carries survivors' embeddings.
        config: as for `semantic_table`.
        semantic: as for `semantic_table`.

    Returns:
        Dataset of CLUSTER rows, in no order.
    """
    survivors = _collect(clusters.map_batches(_eligible, batch_format="pyarrow"))
    hashes = np.sort(survivors["hash"].to_numpy()) if survivors else NO_HASHES
    shared = ray.put(hashes)
    choose = partial(_chosen, shared=shared, rows=len(hashes), sample=semantic.sample)
    some = _collect(embeddings.map_batches(choose, batch_format="pyarrow"))
    if some is None:
        return clusters
    centroids = ray.put(fit_centroids(unit_vectors(some)[1], semantic, len(hashes)))
    links = _collect(
        embeddings.map_batches(partial(_assigned_ref, shared=shared, centroids=centroids), batch_format="pyarrow")
        .groupby("cluster", num_partitions=min(PARTITIONS, max(1, len(hashes) // 10_000)))
        .map_groups(partial(_links_ref, centroids=centroids, semantic=semantic), batch_format="pyarrow")
    )
    if links is None:
        return clusters
    links = links.cast(LINKS).sort_by("uid")
    affected = _collect(clusters.map_batches(partial(_affected, links=links), batch_format="pyarrow"))
    assert affected is not None
    mine = partial(_of_uids, uids=affected["uid"])
    own_rows, vectors = (_collect(data.map_batches(mine, batch_format="pyarrow")) for data in (rows, embeddings))
    if own_rows is None or vectors is None:
        raise TableError("the clusters name rows that neither the rows nor the embeddings hold; read all from one run")
    changes = ray.put(changed_rows(affected, links, own_rows, vectors, config, semantic))
    return clusters.map_batches(partial(_replace_ref, changes=changes), batch_format="pyarrow")


def changed_rows(
    affected: pa.Table,
    links: pa.Table,
    rows: pa.Table,
    embeddings: pa.Table,
    config: DedupeConfig,
    semantic: SemanticConfig,
) -> pa.Table:
    """Work out the clusters that links change.

    Args:
        affected: CLUSTER, all rows of the clusters whose survivors are in `links`, on either side.
        links: LINKS; no survivor in it is dropped by it.
        rows: narrow rows of the same uids.
        embeddings: of the same uids, where there are any.
        config: near-duplicates and survivors.
        semantic: epsilon.

    Returns:
        CLUSTER: the affected rows as they are now.
    """
    new = {row["uid"]: row for row in links.to_pylist()}
    listed, vectors = unit_vectors(embeddings)
    place = {uid: at for at, uid in enumerate(listed["uid"].to_pylist())}
    kept, leftover = [], []
    for row in affected.to_pylist():
        link = new.get(row["survivor_uid"])
        if link is None:
            kept.append(row)
            continue
        near = row["kind"] == ClusterKind.NEAR
        cosine = _cosine(place, vectors, row["uid"], link["survivor_uid"]) if near else link["cosine"]
        if near and cosine <= 1 - semantic.epsilon:
            leftover.append(row)
        else:
            kept.append(row | _moved(link["survivor_uid"], cosine))
    return pa.concat_tables([_renamed(kept), _reclustered(leftover, rows, config)]).sort_by("uid")


def _cosine(place: dict[str, int], vectors: Vectors, uid: str, other: str) -> float:
    """Cosine of two rows; -1 where one has no embedding."""
    if uid not in place or other not in place:
        return -1.0
    return float(vectors[place[uid]] @ vectors[place[other]])


def _moved(survivor: str, cosine: float) -> dict[str, object]:
    return {
        "survivor_uid": survivor,
        "kind": ClusterKind.SEMANTIC.value,
        "distance": max(0.0, 1 - cosine),
        "role": ClusterRole.DUPLICATE.value,
    }


def _renamed(rows: list[dict[str, Any]]) -> pa.Table:
    """Name each cluster by its least uid, or by the least name that it had, for clusters of earlier runs."""
    names: dict[str, str] = {}
    for row in rows:
        had = row["cluster_id"] if row["kind"] != ClusterKind.SEMANTIC else row["uid"]
        names[row["survivor_uid"]] = min(names.get(row["survivor_uid"], had), had)
    return pa.Table.from_pylist([row | {"cluster_id": names[row["survivor_uid"]]} for row in rows], schema=CLUSTER)


def _reclustered(leftover: list[dict[str, Any]], rows: pa.Table, config: DedupeConfig) -> pa.Table:
    """Near-duplicates whose survivor is gone, clustered anew among themselves; flagged as parts of a split chain."""
    if not leftover:
        return CLUSTER.empty_table()
    former = {row["uid"]: row for row in leftover}
    own = narrow(rows.filter(pc.is_in(rows["uid"], pa.array(list(former)))), FRESH)
    survivors = [former[uid]["survivor_uid"] for uid in own["uid"].to_pylist()]
    groups = np.unique(survivors, return_inverse=True)[1].astype(np.uint64)
    anew = cluster_rows(own, groups, config.near, config.survivor, NO_HASHES).to_pylist()
    split = ClusterFlag.CHAIN_SPLIT.value
    flags = [[*(flag for flag in former[row["uid"]]["flags"] if flag != split), split] for row in anew]
    return pa.Table.from_pylist([row | {"flags": own} for row, own in zip(anew, flags, strict=True)], schema=CLUSTER)


def _eligible(clusters: pa.Table) -> pa.Table:
    """Hashes of the uids of survivors that nobody vetoed."""
    free = [ClusterFlag.VETOED.value not in flags for flags in clusters["flags"].to_pylist()]
    mine = pc.and_(pc.equal(clusters["role"], ClusterRole.SURVIVOR.value), pa.array(free, pa.bool_()))
    return pa.table({"hash": uid_hashes(clusters.filter(mine)["uid"])})


def _of_hashes(embeddings: pa.Table, hashes: Hashes, rows: int, sample: int | None) -> pa.Table:
    """Embeddings of the uids with these hashes; about `sample` of them, the lowest by hash, out of `rows`."""
    own = uid_hashes(embeddings["uid"])
    chosen = among(own, hashes)
    if sample is not None and rows > sample:
        chosen &= own < np.uint64(int(sample / rows * 2**64))
    return embeddings.filter(pa.array(chosen)).select(["uid", "embedding"])


def _of_uids(table: pa.Table, uids: pa.ChunkedArray) -> pa.Table:
    return table.filter(pc.is_in(table["uid"], value_set=uids.combine_chunks()))


def _assigned(embeddings: pa.Table, hashes: Hashes, centroids: Vectors) -> pa.Table:
    """Embeddings of survivors, with their k-means cluster."""
    mine, vectors = unit_vectors(_of_hashes(embeddings, hashes, len(hashes), None))
    nearest: NDArray[np.int64] = assign(vectors, centroids) if len(mine) else np.empty(0, np.int64)
    return mine.append_column("cluster", pa.array(nearest))


def _links(group: pa.Table, centroids: Vectors, semantic: SemanticConfig) -> pa.Table:
    """One k-means cluster → LINKS."""
    ordered, vectors = unit_vectors(group)
    return semantic_links(ordered["uid"], vectors, centroids[group["cluster"][0].as_py()], semantic)


def _affected(clusters: pa.Table, links: pa.Table) -> pa.Table:
    sides = pa.concat_arrays([*links["uid"].chunks, *links["survivor_uid"].chunks])
    return clusters.filter(pc.is_in(clusters["survivor_uid"], value_set=sides)).cast(CLUSTER)


def _replace(clusters: pa.Table, changes: pa.Table) -> pa.Table:
    place = pc.index_in(clusters["uid"], value_set=changes["uid"].combine_chunks())
    same = clusters.filter(pc.is_null(place)).cast(CLUSTER)
    return pa.concat_tables([same, changes.take(place.drop_null())])


def _chosen(batch: pa.Table, shared: "ray.ObjectRef[Any]", rows: int, sample: int) -> pa.Table:
    return _of_hashes(batch, ray.get(shared), rows, sample)


def _assigned_ref(batch: pa.Table, shared: "ray.ObjectRef[Any]", centroids: "ray.ObjectRef[Any]") -> pa.Table:
    return _assigned(batch, ray.get(shared), ray.get(centroids))


def _links_ref(group: pa.Table, centroids: "ray.ObjectRef[Any]", semantic: SemanticConfig) -> pa.Table:
    return _links(group, ray.get(centroids), semantic)


def _replace_ref(batch: pa.Table, changes: "ray.ObjectRef[Any]") -> pa.Table:
    return _replace(batch, ray.get(changes))


def _collect(dataset: Dataset) -> pa.Table | None:
    """All rows on the driver; None where there are none."""
    blocks: Iterator[pa.Table] = (block for block in tables_of(dataset) if block.num_rows)
    found = list(blocks)
    return pa.concat_tables(found) if found else None
