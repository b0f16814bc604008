"""An engine's own HTTP interface, asked inside of its process: a request is a path and a JSON body,
the answer its status and the bytes of its body, without a socket between."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Interface = Callable[[Message, Receive, Send], Awaitable[None]]
"""An ASGI application."""


async def answered(
    interface: Interface, path: str, body: bytes, on_generated: Callable[[], None]
) -> AsyncGenerator[int | bytes, None]:
    """The answer's status, then its body as it comes. Whoever stops listening ends it. Raises what
    the interface raises. on_generated: told of each part of a good answer. A status, and a refusal,
    come also from an engine that generates nothing."""
    messages: asyncio.Queue[Message | None] = asyncio.Queue()
    answering = asyncio.create_task(_answer(interface, path, body, messages))
    is_good = False
    try:
        while (message := await messages.get()) is not None:
            if message["type"] == "http.response.start":
                status = int(message["status"])
                is_good = status == 200
                yield status
                continue
            parts = [message.get("body", b"")]
            while not messages.empty():  # what came meanwhile goes along
                more = messages.get_nowait()
                if more is None:
                    messages.put_nowait(None)
                    break
                parts.append(more.get("body", b""))
            if any(parts):
                if is_good:
                    on_generated()
                yield b"".join(parts)
        await answering  # raises what was not turned into an answer
    finally:
        answering.cancel()
        # the engine has let go of it: an adapter may be unloaded once nobody holds it
        await asyncio.wait({answering})


async def _answer(
    interface: Interface, path: str, body: bytes, messages: "asyncio.Queue[Message | None]"
) -> None:
    was_read = False

    async def receive() -> Message:
        nonlocal was_read
        if was_read:  # it waits for the client to go away; to end the task says the same
            await asyncio.Event().wait()
        was_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        messages.put_nowait(message)

    try:
        await interface(_scope(path), receive, send)
    finally:
        messages.put_nowait(None)


def _scope(path: str) -> Message:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "state": {},
    }
