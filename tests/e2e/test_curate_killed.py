"""Curation ended by SIGKILL half way, driver, workers and decoders at once: what the next call decodes again."""

import os
import sys
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipelines.synthetic.corpus import SyntheticConfig, make_corpus
from tests.e2e.processes import end_session, finished, started

ROOT = Path(__file__).resolve().parents[2]
IN_FLIGHT = 4
"""Fragments, at most: one that is probed, one that Ray Data reads ahead, one that is being committed, since the driver
commits each receipt as it comes, and one more where that takes longer than a probe."""


def committed(scores: Path) -> dict[str, set[str]]:
    """Files of each fragment that is in the table, rejected ones too."""
    found: dict[str, set[str]] = {}
    if (scores / "_delta_log").exists():
        for row in pa.table(
            DeltaTable(scores).to_pyarrow_dataset().to_table(columns=["uri", "fragment_id"])
        ).to_pylist():
            found.setdefault(row["fragment_id"], set()).add(row["uri"])
    return found


@pytest.mark.slow
def test_no_row_that_was_committed_is_decoded_again(tmp_path: Path) -> None:
    truths = make_corpus(tmp_path, SyntheticConfig(rows=160, seed=4, planted=0.5, least_side=100, most_side=140))
    corpus, output, log = tmp_path / "corpus", tmp_path / "out", tmp_path / "decoded.txt"

    def command(pause: float) -> list[str]:
        words = [str(corpus), str(output), str(log), str(pause)]
        return [sys.executable, "-m", "tests.e2e.curate_driver", *words]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with started(command(0.1), environment, ROOT) as process:
        until = time.monotonic() + 200
        while sum(map(len, committed(output / "scores").values())) < 80:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        end_session(process.pid)
    there = committed(output / "scores")
    before = Counter(log.read_text().split())
    done = {uri for uris in there.values() for uri in uris}
    assert 80 <= len(done) < 160
    code, said = finished(command(0.1), environment, timeout=300, folder=ROOT)
    assert code == 0, said[-3000:]
    again = Counter(log.read_text().split()) - before

    of_content: dict[str, set[str]] = {}
    for truth in truths:
        file = corpus / truth.name
        of_content.setdefault(sha256(file.read_bytes()).hexdigest(), set()).add(str(file))
    everything = committed(output / "scores")
    assert {uri for uris in everything.values() for uri in uris} == {str(corpus / truth.name) for truth in truths}
    # a file may lie in the corpus twice, so what is counted are the files with this content that were not yet done
    for content, times in again.items():
        assert times <= len(of_content[content] - done), "a committed row was decoded again"
    rejected = {str(corpus / truth.name) for truth in truths if truth.kind == "truncated"}
    assert rejected & done, "so that the next line says something"
    assert not [content for content in again if of_content[content] <= rejected & done]
    alone = {content: min(uris) for content, uris in of_content.items() if len(uris) == 1}
    twice = {alone[content] for content in again.keys() & before.keys() & alone.keys()}
    fragments = [name for name, uris in everything.items() if uris & twice]
    assert len(fragments) <= IN_FLIGHT, fragments
    sys.stdout.write(
        f"{len(done)} of 160 rows were done, {len(twice)} were decoded twice, of {len(fragments)} fragments\n"
    )
