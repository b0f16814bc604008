"""One Ray cluster inside this process for the whole tier: starting one takes longer than a test."""

from collections.abc import Iterator

import pytest
from local_cluster import local_cluster


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    with local_cluster():
        yield
