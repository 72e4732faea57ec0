"""`--retry-rejected`: rejected rows of a probe are measured again, and what becomes of them takes their place.

The fragment stays committed as it is; one commit takes its rejected rows out and puts in what became of them. So each
row is in the table exactly once, at every moment. What this does *not* do: touch rows that are fine.
"""

from collections.abc import Sequence

from pipelines.accounts import rejected
from pipelines.curation.probe_stage import ProbeSpec
from pipelines.fragments import Fragment


def rejected_rows(fragments: Sequence[Fragment], spec: ProbeSpec) -> dict[str, list[int]]:
    """Return the rows of a plan that the table has rejected, ascending, by fragment id."""
    columns = ("fragment_id", "row_index")
    rows = rejected(spec.table_uri, spec.settings.run_id, columns, storage_options=spec.storage_options)
    planned = {fragment.fragment_id for fragment in fragments}
    found: dict[str, list[int]] = {}
    for name, index in zip(rows["fragment_id"].to_pylist(), rows["row_index"].to_pylist(), strict=True):
        if name in planned:
            found.setdefault(name, []).append(index)
    return {name: sorted(indices) for name, indices in found.items()}
