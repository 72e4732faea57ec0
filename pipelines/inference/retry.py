"""`--retry-rejected`: rejected rows of a run are made again, and take the place of the old ones.

The fragment stays committed as it is; one commit takes its rejected rows out and puts in what became of them. So each
row is in the table exactly once, at every moment. What this does *not* do: touch rows that are fine.
"""

import dataclasses
from collections.abc import Sequence

from pipelines.accounts import rejected
from pipelines.inference.job import InferenceJob
from pipelines.inference.work import Work


def rejected_works(job: InferenceJob) -> list[Work]:
    """Return the work of a run that has rejected rows in the table, narrowed to them."""
    spec = job.spec
    has_questions = "question_id" in spec.inquiry.schema.names
    columns = ["uri", "fragment_id", *(["question_id"] if has_questions else [])]
    rows = rejected(spec.table_uri, job.run_id, columns, storage_options=spec.storage_options)
    found: dict[str, list[tuple[str, str]]] = {}
    for batch in rows.to_batches():
        for row in batch.to_pylist():
            found.setdefault(row["fragment_id"], []).append((row["uri"], row.get("question_id", "")))
    return [narrowed(work, found[work.work_id]) for work in job.works if work.work_id in found]


def narrowed(work: Work, rows: Sequence[tuple[str, str]]) -> Work:
    """Return work that makes only some rows of the table, by uri and question."""
    exact = all(question for _, question in rows) or work.exact
    return dataclasses.replace(work, only=tuple(sorted(rows)), num_rows=len(rows), exact=exact)
