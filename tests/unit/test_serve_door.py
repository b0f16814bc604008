"""Which requests the door hands to the gateway, and which it leaves to Ray Serve."""

import asyncio
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

from rayapp.serve import door
from rayapp.serve.ingress import DOOR, NUM_PORTS, ingress_settings


class Recorder:
    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])


@pytest.fixture
def gateway() -> Iterator[Recorder]:
    yield Recorder()
    door.close()


async def ask(app: Any, path: str, kind: str = "http") -> None:
    await app({"type": kind, "path": path}, None, None)


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/endpoints/m/invocations", "/invocations"])
async def test_predictions_go_to_the_gateway(gateway: Recorder, path: str) -> None:
    serve = Recorder()
    door.open_to(gateway)
    await ask(door.Door(serve), path)
    assert (gateway.paths, serve.paths) == ([path], [])


@pytest.mark.parametrize(
    "path", ["/-/healthz", "/-/routes", "/", "/feedback", "/prefix/v2/models/m"]
)
async def test_the_rest_goes_to_serve(gateway: Recorder, path: str) -> None:
    serve = Recorder()
    door.open_to(gateway)
    await ask(door.Door(serve), path)
    assert (gateway.paths, serve.paths) == ([], [path])


async def test_a_shut_door_and_a_websocket_go_to_serve(gateway: Recorder) -> None:
    serve = Recorder()
    middleware = door.Door(serve)
    await ask(middleware, "/invocations")
    door.open_to(gateway)
    await ask(middleware, "/invocations", kind="websocket")
    assert (gateway.paths, serve.paths) == ([], ["/invocations"] * 2)


async def test_a_server_on_another_event_loop_goes_to_serve(gateway: Recorder) -> None:
    """The gateway's queues belong to its own loop; touched from another they would break."""
    serve = Recorder()
    door.open_to(gateway)
    await asyncio.to_thread(asyncio.run, ask(door.Door(serve), "/invocations"))
    assert (gateway.paths, serve.paths) == ([], ["/invocations"])


def test_serve_is_told_where_the_door_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    told = ingress_settings(Path("/tmp/x"), range(20_000, 20_000 + NUM_PORTS))
    assert told["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == DOOR
    module, _, function = DOOR.partition(":")
    (made,) = getattr(importlib.import_module(module), function)()
    assert isinstance(made, Middleware)
    assert made.cls is door.Door


def test_without_haproxy_serve_keeps_its_own_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert ingress_settings(Path("/tmp/x"), range(20_000, 20_000 + NUM_PORTS)) == {}
