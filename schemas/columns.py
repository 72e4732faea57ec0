"""The columns that rooms share, each defined once.

A schema of a room is a `pyarrow.schema` made of these; `schemas.conform` holds a table to it.
"""

from typing import Literal

import pyarrow as pa

Status = Literal["ok", "rejected"]

UID = pa.field("uid", pa.string(), nullable=False)
URI = pa.field("uri", pa.string(), nullable=False)
FRAGMENT_ID = pa.field("fragment_id", pa.string(), nullable=False)
RUN_ID = pa.field("run_id", pa.string(), nullable=False)
STATUS = pa.field("status", pa.string(), nullable=False)
ERROR = pa.field("error", pa.string())
ERROR_DETAIL = pa.field("error_detail", pa.string())
