"""The reference of tables, from the schemas and the docstrings under them.

What this does *not* do: read a table.
"""

from collections.abc import Iterator
from enum import EnumType, StrEnum
from types import ModuleType

import pyarrow as pa

from docs.generate.rendering import cell, docstring, prose, table
from docs.generate.said import class_docs, module_docs
from llava_core import errors
from pipelines.curation import cluster_stage
from pipelines.training.samples import TrainReason
from schemas import answer, caption, cluster, corpus, generated, reasons, result, score, selection, shard

TABLES: tuple[tuple[str, ModuleType, str], ...] = (
    ("captions", caption, "CAPTION"),
    ("answers", answer, "ANSWER"),
    ("scores", score, "SCORE"),
    ("clusters", cluster, "CLUSTER"),
    ("selection", selection, "SELECTION"),
    ("shards", shard, "SHARD"),
    ("results", result, "RESULT"),
    ("rows of a corpus", corpus, "CORPUS"),
)
"""What people call it, the module, and the name of its schema."""
ENUMS = (selection.DropReason, cluster.ClusterKind, cluster.ClusterRole, cluster.ClusterFlag, result.ResultReason)
REASONS = (
    *(errors.ImageReason, errors.PromptReason, reasons.CorpusReason, reasons.QuestionReason, TrainReason),
    errors.CheckpointReason,
)


def tables_page() -> str:
    """All tables and reasons."""
    intro = (
        "Tables that hold rows are Delta tables, partitioned by `status`: `ok` or `rejected`. A row's `uid` is the "
        "same for the same place of a corpus; `run_id` is the hash of every setting that changes a row."
    )
    parts = ["# Tables", intro]
    for name, module, constant in TABLES:
        schema: pa.Schema = getattr(module, constant)
        said = "\n\n".join(filter(None, (docstring(module.__doc__), prose(module_docs(module).get(constant, "")))))
        parts += [f"## {name}", said, columns(schema)]
        if schema is caption.CAPTION:
            parts.append(prose(module_docs(generated)["GENERATED"]))
        if schema is cluster.CLUSTER:
            parts.append(prose(module_docs(cluster_stage)["CLUSTERS"]))
    parts += ["## Reasons", "Each is a closed list. Rows are counted by them; those of a checkpoint stop the job."]
    for kind in (*REASONS, *ENUMS):
        parts += [f"### {kind.__name__}", docstring(kind.__doc__), _members(kind)]
    return "\n\n".join(parts)


def columns(schema: pa.Schema) -> str:
    """The columns of a schema."""
    rows = ((f"`{one.name}`", f"`{one.type}`", "yes" if one.nullable else "no") for one in schema)
    return table(("column", "type", "may be null"), rows)


def _members(kind: EnumType) -> str:
    return table(("value", "meaning"), _rows(kind, class_docs(kind)))


def _rows(kind: EnumType, docs: dict[str, str]) -> Iterator[tuple[str, str]]:
    one: StrEnum
    for one in kind:
        yield f"`{one.value}`", cell(docs[one.name])
