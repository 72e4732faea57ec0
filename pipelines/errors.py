"""Errors of the flow: contracts between rooms that are broken, and jobs that cannot go on.

    TesseraError (llava_core.errors)
    ├── PartError        a part file does not hold what its fragment holds, or did not arrive whole
    ├── TableError       a table is not what the caller says it is: other schema, mixed files
    ├── ConflictError    a commit lost to other writers as often as it was allowed to
    ├── AccountingError  rows in are not rows out
    ├── StalledError     nothing came back within the deadline
    └── StoppedError     somebody asked the job to stop

A bad row is none of these: it becomes a rejected row. A wrong setting is `llava_core.errors.ConfigError`.
"""

from llava_core.errors import TesseraError


class PartError(TesseraError):
    """A part file does not hold what its fragment holds, or did not arrive whole."""


class TableError(TesseraError):
    """A table is not what the caller says it is; stops the job."""


class ConflictError(TesseraError):
    """A commit lost to other writers as often as it was allowed to; running the job again is safe."""


class AccountingError(TesseraError):
    """Rows in are not rows out: ok + rejected."""


class StalledError(TesseraError):
    """Nothing came back within the deadline."""


class StoppedError(TesseraError):
    """Somebody asked the job to stop; running it again does the rest."""
