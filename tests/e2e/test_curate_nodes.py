"""One corpus on 1, 2 and 4 simulated nodes, in other orders, a worker killed on the way: the same tables, by bits."""

import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipelines.synthetic.corpus import SyntheticConfig, make_corpus
from tests.e2e.processes import finished

ROOT = Path(__file__).resolve().parents[2]


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    table = pa.table(DeltaTable(folder / name).to_pyarrow_dataset().to_table())
    return list(table.sort_by("uid").to_pylist())


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("part-*.parquet")}


@pytest.mark.slow
def test_nodes_orders_and_deaths_do_not_show(tmp_path: Path) -> None:
    make_corpus(tmp_path, SyntheticConfig(rows=120, seed=4, planted=0.6, least_side=100, most_side=160))
    found = []
    for nodes in (1, 2, 4):
        output = tmp_path / f"out{nodes}"
        words = [sys.executable, "-m", "tests.e2e.curate_nodes", str(nodes), str(tmp_path / "corpus"), str(output)]
        code, said = finished(words, {**os.environ, "OMP_NUM_THREADS": "1"}, timeout=400, folder=ROOT)
        assert code == 0, said[-3000:]
        assert "killed ray::" in said
        found.append((rows(output, "clusters"), files(output / "shards")))
    assert sum(row["role"] == "duplicate" for row in found[0][0]) > 10
    assert len(found[0][1]) > 3
    assert found[1] == found[0]
    assert found[2] == found[0]
