"""What every test may ask for: one Ray session for the whole run.

It starts at the first test that asks and stops at the end, so a run without Ray tests never pays for it.
"""

import logging
import os
from collections.abc import Iterator

import pytest

RAY_CPUS = 2
OBJECT_STORE_BYTES = 120 * 2**20


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray with 2 CPUs and a small object store; quiet; shared by all tests, so leave nothing running in it."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray.data import DataContext

    ray.init(
        address="local",
        num_cpus=RAY_CPUS,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    context = DataContext.get_current()
    context.enable_progress_bars = False
    yield
    ray.shutdown()
