"""A Ray cluster of this process's own."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
import waiting

ATTEMPTS = 3
"""Ray gives a node 30 s to start, which a busy machine may take; the limit cannot be set."""


@contextmanager
def local_cluster() -> Iterator[None]:
    """address="local" always: a plain ray.init() joins whatever cluster it finds running."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # socket paths may have 107 bytes at most
    try:
        _start(folder)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: str) -> None:
    for attempt in range(ATTEMPTS):
        try:
            ray.init(
                address="local",
                num_cpus=2,
                num_gpus=1,  # a logical one: what is asked of Ray can be seen without a device
                include_dashboard=False,
                log_to_driver=False,
                _temp_dir=folder,
            )
            return
        except Exception as error:  # Ray raises a bare Exception for this one
            if "timed out during startup" not in str(error) or attempt == ATTEMPTS - 1:
                raise
            ray.shutdown()


def until(condition: Callable[[], bool], wait_s: float = 20) -> None:
    """What is waited for here is of this machine, and soon there."""
    waiting.until(condition, wait_s, every_s=0.02)


def until_free(resource: str, number: float) -> None:
    """Until Ray says that so much is: it gives back, and tells what is free, in the background."""
    until(lambda: ray.available_resources().get(resource, 0) == number, wait_s=60)
