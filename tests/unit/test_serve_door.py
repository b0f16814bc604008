"""Which requests the door hands to the gateway, and which it leaves to Ray Serve."""

import asyncio
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from rayapp.serve.cluster import door
from rayapp.serve.cluster.ingress import (
    CONTROLLER,
    DOOR,
    NUM_PORTS,
    ingress_settings,
    num_threads,
)
from rayapp.serve.wire.http import Response, respond


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


@pytest.mark.parametrize(("num_cores", "expected"), [(1, 1), (2, 1), (8, 2), (96, 4)])
def test_haproxys_threads_follow_the_cores(num_cores: int, expected: int) -> None:
    assert num_threads(num_cores) == expected


def test_serve_is_told_where_the_door_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    told = ingress_settings(Path("/tmp/x"), range(20_000, 20_000 + NUM_PORTS))
    assert told["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == DOOR
    module, _, function = DOOR.partition(":")
    (made,) = getattr(importlib.import_module(module), function)()
    assert made.cls is door.Door
    assert isinstance(made, Middleware)
    assert told["RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH"] == CONTROLLER
    module, _, function = CONTROLLER.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_without_haproxy_serve_keeps_its_own_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert ingress_settings(Path("/tmp/x"), range(20_000, 20_000 + NUM_PORTS)) == {}


class Connection(asyncio.Transport):
    """Notes each write of the server."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


async def answers(app: Any, *requests: bytes) -> list[list[bytes]]:
    """What uvicorn writes for each of them, on one connection."""
    config = uvicorn.Config(app, lifespan="off")
    config.load()
    protocol = HttpToolsProtocol(config, ServerState(), {})
    connection = Connection()
    protocol.connection_made(connection)
    found = []
    for request in requests:
        connection.writes = []
        protocol.data_received(request)
        await asyncio.gather(*protocol.tasks)
        found.append(connection.writes)
    return [*found, [b"closed"] if connection.is_closed else []]


async def test_an_answer_behind_the_door_is_one_write(gateway: Recorder) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await respond(send, Response(200, b"{}"), [(b"x-release", b"r")])

    door.open_to(answer)
    line = b" HTTP/1.1\r\nhost: h\r\n"
    posted, head, other, continued, closed, end = await answers(
        door.Door(answer),
        b"POST /invocations" + line + b"content-length: 2\r\n\r\n{}",
        b"HEAD /invocations" + line + b"\r\n",
        b"GET /" + line + b"\r\n",
        b"POST /invocations" + line + b"content-length: 2\r\nexpect: 100-continue\r\n\r\n{}",
        b"POST /invocations" + line + b"connection: close\r\ncontent-length: 2\r\n\r\n{}",
    )
    assert len(posted) == 1
    assert posted[0].startswith(b"HTTP/1.1 200 OK")
    assert posted[0].endswith(b"x-release: r\r\n\r\n{}")
    assert len(head) == 1
    assert head[0].endswith(b"\r\n\r\n")
    assert [len(part) > 2 for part in other] == [True, False]  # not ours: as uvicorn has it
    assert [part[:12] for part in continued] == [b"HTTP/1.1 100", b"HTTP/1.1 200"]
    assert len(closed) == 1
    assert b"connection: close" in closed[0]
    assert end == [b"closed"]
