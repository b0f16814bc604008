"""A head of the tests' own, started and stopped as a user does it: by the command line."""

from collections.abc import Iterator

import pytest
from shells import Shell, head_in


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with head_in(tmp_path_factory.mktemp("head")) as opened:
        yield opened
