"""Pools of processes, started when a test first asks for one of that size."""

import pytest

from tests.distributed.compare import assert_equal, assert_same
from tests.distributed.pool import Pool


@pytest.fixture(scope="session")
def pools():
    found = {}

    def pool_of(size, forks=False):
        key = size, forks
        if key not in found or not found[key].is_open:
            found[key] = Pool(size, forks)
        return found[key]

    yield pool_of
    for pool in found.values():
        pool.close()


@pytest.fixture
def everywhere(pools):
    """Run a function in several processes, and check that all return the same: what one process returns."""

    def run(function, *arguments, sizes=(2,), tolerance=1e-6, **named):
        expected = function(*arguments, **named)
        for size in sizes:
            found = pools(size).run(function, *arguments, **named)
            assert_same(found[0], expected, tolerance, f"{size} processes")
            for other in found[1:]:
                assert_equal(other, found[0])
        return expected

    return run
