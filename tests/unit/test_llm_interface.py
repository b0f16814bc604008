"""What an engine answers inside of its process, and what of that shows that it generates."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from rayapp.llm.interface import Interface, Receive, Send, answered

Act = Callable[[Receive, Send], Awaitable[None]]


class Beats:
    def __init__(self) -> None:
        self.num = 0

    def __call__(self) -> None:
        self.num += 1


def interface_of(act: Act) -> Interface:
    async def interface(scope: Any, receive: Receive, send: Send) -> None:
        assert (scope["method"], scope["path"]) == ("POST", "/v1/completions")
        await act(receive, send)

    return interface


def start(status: int) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": []}


def part(data: bytes, is_last: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": not is_last}


def asked(act: Act, beats: Beats) -> Any:
    return aclosing(answered(interface_of(act), "/v1/completions", b"{}", beats))


async def test_a_good_answer_comes_as_it_grows() -> None:
    goes_on = asyncio.Event()

    async def act(receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "http.request", "body": b"{}", "more_body": False}
        await send(start(200))
        await send(part(b"a"))
        await goes_on.wait()
        await send(part(b"b"))
        await send(part(b"c"))
        await send(part(b"", is_last=True))

    beats = Beats()
    async with asked(act, beats) as parts:
        assert [await anext(parts), await anext(parts), beats.num] == [200, b"a", 1]
        goes_on.set()
        assert [found async for found in parts] == [b"bc"]
    assert beats.num == 2


async def test_an_answer_that_only_began_shows_nothing_of_the_engine() -> None:
    """A stream's status goes out before its first token: asked often enough, an engine that stands
    still would never be probed."""
    was_cancelled = asyncio.Event()

    async def act(receive: Receive, send: Send) -> None:
        await send(start(200))
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    beats = Beats()
    async with asked(act, beats) as parts:
        assert await anext(parts) == 200
    assert was_cancelled.is_set()  # before whoever stopped listening goes on
    assert beats.num == 0


async def test_a_refusal_shows_nothing_of_the_engine() -> None:
    async def act(receive: Receive, send: Send) -> None:
        await send(start(400))
        await send(part(b"no", is_last=True))

    beats = Beats()
    async with asked(act, beats) as parts:
        assert [found async for found in parts] == [400, b"no"]
    assert beats.num == 0


async def test_what_is_no_answer_is_raised() -> None:
    async def act(receive: Receive, send: Send) -> None:
        raise LookupError("the engine is dead")

    async with asked(act, Beats()) as parts:
        with pytest.raises(LookupError, match="dead"):
            await anext(parts)
