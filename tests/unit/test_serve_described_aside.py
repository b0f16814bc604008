"""What the interfaces say of themselves is made beside the event loop, where every other request
would wait for it."""

import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from language_case import LanguageCase
from serving_case import case_of_tasks

from rayapp.serve import gateway
from rayapp.serve.language import gateway as language_gateway


async def made_by(
    client: httpx.AsyncClient,
    path: str,
    module: ModuleType,
    names: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> list[threading.Thread]:
    """The threads that these functions ran in, for one answer."""
    threads: list[threading.Thread] = []

    def noted(name: str) -> Any:
        make = getattr(module, name)

        def noting(*asked: Any) -> Any:
            threads.append(threading.current_thread())
            return make(*asked)

        return noting

    for name in names:
        monkeypatch.setattr(module, name, noted(name))
    async with client:
        assert (await client.get(path)).status_code == 200
    return threads


@pytest.mark.parametrize(
    ("path", "last"), [("/openapi.json", "json_response"), ("/docs", "render_page")]
)
async def test_of_endpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, last: str
) -> None:
    client = case_of_tasks(tmp_path).client()
    threads = await made_by(client, path, gateway, ("describe", last), monkeypatch)
    assert len(threads) == 2
    assert threading.current_thread() not in threads


@pytest.mark.parametrize(
    ("path", "last"), [("/v1/openapi.json", "json_response"), ("/v1/docs", "render_models")]
)
async def test_of_models(monkeypatch: pytest.MonkeyPatch, path: str, last: str) -> None:
    client, names = LanguageCase().client(), ("describe_models", last)
    threads = await made_by(client, path, language_gateway, names, monkeypatch)
    assert len(threads) == 2
    assert threading.current_thread() not in threads
