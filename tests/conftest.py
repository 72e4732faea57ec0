"""What every test may ask for: one Ray session for the whole run.

It starts at the first test that asks and stops at the end, so a run without Ray tests never pays for it. Where tests
run in several processes, each of them that asks has one of its own.
"""

from collections.abc import Iterator

import pytest

RAY_CPUS = 2
OBJECT_STORE_BYTES = 120 * 2**20


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray with 2 CPUs and a small object store; quiet; shared by all tests, so leave nothing running in it."""
    import ray

    from pipelines.runtime import start_ray

    start_ray("local", num_cpus=RAY_CPUS, object_store_bytes=OBJECT_STORE_BYTES)
    yield
    ray.shutdown()
