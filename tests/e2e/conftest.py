"""A head of the tests' own, started and stopped as a user does it: by the command line."""

from collections.abc import Iterator

import pytest
from shells import Shell, end_head, new_shell


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell whose workspace has a running head with two CPUs."""
    opened = new_shell(tmp_path_factory.mktemp("head") / "workspace")
    started = opened.rayapp("up", "--num-cpus", "2")
    assert started.returncode == 0, started.stderr
    yield opened
    end_head(opened)
