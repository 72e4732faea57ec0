"""The flow: Ray lives here. Rooms below never import one another; they meet in a table."""

import os

# Before Ray is imported: without the first every actor without a GPU brings a FutureWarning; without the second a
# thread that still works for a stopped job starts another Ray while the first one ends.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
