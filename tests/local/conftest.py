"""One Ray cluster inside this process for the whole tier: starting one takes longer than a test."""

import shutil
import tempfile
from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """address="local" always: a plain ray.init() joins whatever cluster it finds running."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # socket paths may have 107 bytes at most
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
