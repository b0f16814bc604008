"""The door: the gateway answers inside its replica's own HTTP server, ahead of Ray Serve's wrapper.

Ray Serve lets a cluster name a function that gives ASGI middlewares (the environment variable
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH) and puts them around the HTTP server of every ingress
replica. This one hands prediction requests straight to the gateway that lives in the same process,
which saves Serve's own work on each of them, several times what an answer costs. Everything else
passes through to Serve and reaches the same gateway by the ordinary way: other paths, gRPC, an
application with a route prefix, Serve's fallback proxy, and a replica whose code runs on another
event loop than its server.

What goes through the door is not seen by Serve's queue limits, request metrics and autoscaling. The
gateway has its own limits and metrics, and scaling.py is the autoscaling signal. Draining needs no
help: the HTTP server itself waits for its requests.
"""

import asyncio
from typing import Any, NamedTuple

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

HOT_PATHS = ("/v2/models/", "/endpoints/", "/invocations")


class _Opened(NamedTuple):
    gateway: ASGIApp
    loop: asyncio.AbstractEventLoop
    paths: tuple[str, ...]


# One a process, as its HTTP server is; Serve gives the middleware no other way to the deployment.
_opened: _Opened | None = None


def open_to(gateway: ASGIApp, paths: tuple[str, ...] = HOT_PATHS) -> None:
    """From now on this process's HTTP server answers through `gateway` what is asked at paths that
    begin so, where both run on the event loop of the caller."""
    global _opened
    _opened = _Opened(gateway, asyncio.get_running_loop(), paths)


def close() -> None:
    global _opened
    _opened = None


def middlewares() -> list[Middleware]:
    """What RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names."""
    return [Middleware(Door)]


class Door:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened = _opened
        if (
            opened is None
            or scope["type"] != "http"
            or not scope["path"].startswith(opened.paths)
            or asyncio.get_running_loop() is not opened.loop
        ):
            await self._app(scope, receive, send)
        else:
            await opened.gateway(scope, receive, in_one_write(send))


def in_one_write(send: Send) -> Send:
    """uvicorn writes an answer's head and its body apart: two system calls here, and for whoever
    reads them. Under this `send` they are one, where the server is the one that we know."""
    cycle = getattr(send, "__self__", None)
    return _OneWrite(cycle) if isinstance(cycle, RequestResponseCycle) else send


class _OneWrite:
    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    async def __call__(self, message: Message) -> None:
        cycle: Any = self._cycle
        if message["type"] == "http.response.start":
            cycle.transport = _Held(cycle.transport)
            await cycle.send(message)
            return
        await cycle.send(message)
        held = cycle.transport
        if isinstance(held, _Held):
            held.flush()  # of an answer without a body nothing was written yet
            cycle.transport = held.real


class _Held:
    """A connection that keeps what is written first for what comes next."""

    def __init__(self, real: asyncio.Transport) -> None:
        self.real = real
        self._kept: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._kept is None:
            self._kept = data
        else:
            kept, self._kept = self._kept, b""
            self.real.write(kept + data)

    def flush(self) -> None:
        if self._kept:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self.real.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)
