"""A head that serves language models, for all tests of this folder."""

from collections.abc import Iterator

import pytest
from llm_head import Served, serve
from openai import OpenAI
from shells import Shell, end_head, new_shell


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "llm" in item.path.parts:
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="package")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    opened = new_shell(tmp_path_factory.mktemp("llm") / "workspace")
    started = opened.rayapp("up", "--num-cpus", "2")
    assert started.returncode == 0, started.stderr
    yield opened
    end_head(opened)


@pytest.fixture(scope="package")
def served(shell: Shell) -> Served:
    return serve(shell)


@pytest.fixture(scope="package")
def openai(served: Served) -> OpenAI:
    return OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0, timeout=300)
