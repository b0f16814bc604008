"""A head that serves language models, for all tests of this folder: its __init__.py makes it a
package, at whose end a fixture of that scope is over."""

from collections.abc import Iterator

import pytest
from llm_head import Served, serve
from openai import OpenAI
from shells import Shell, head_in


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "llm" in item.path.parts:
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="package")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with head_in(tmp_path_factory.mktemp("llm")) as opened:
        yield opened


@pytest.fixture(scope="package")
def served(shell: Shell) -> Served:
    return serve(shell)


@pytest.fixture(scope="package")
def openai(served: Served) -> OpenAI:
    return OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0, timeout=300)
