"""How a gateway finds the handle of an engine: Serve blocks whoever asks it for one, for as long as
its controller is away."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.exceptions import RayServeException
from serving_case import until

from rayapp.errors import Unavailable
from rayapp.serve.language import client
from rayapp.serve.language.client import ServeLlm

CHAT = "/v1/chat/completions"


class Handle:
    """As Serve's, which belongs to the event loop that it is given options on."""

    def __init__(self) -> None:
        router = SimpleNamespace(curr_replicas={"r": 1})
        self._router = SimpleNamespace(_asyncio_router=SimpleNamespace(_request_router=router))

    def options(self, **given: Any) -> "Handle":
        asyncio.get_running_loop()
        return self

    async def remote(self, *asked: Any) -> AsyncGenerator[int | bytes, None]:
        yield 200
        yield b"{}"


class Controller:
    """Answers once it may. error: what it then raises."""

    def __init__(self, is_away: bool = False, error: Exception | None = None) -> None:
        self.may_answer = threading.Event()
        if not is_away:
            self.may_answer.set()
        self.error = error
        self.num_asked = 0

    def find(self) -> Any:
        self.num_asked += 1
        assert self.may_answer.wait(5), "the event loop waits for it"
        if self.error is not None:
            raise self.error
        return Handle()


async def status(engine: ServeLlm) -> int:
    return (await engine.open(CHAT, b"{}")).status


async def test_others_are_answered_while_an_engine_is_looked_up() -> None:
    controller = Controller(is_away=True)
    engine = ServeLlm("small", controller.find)
    asked = [asyncio.create_task(status(engine)) for _ in range(3)]
    looked = asyncio.create_task(engine.is_there())
    await until(lambda: controller.num_asked)
    controller.may_answer.set()
    assert [*await asyncio.gather(*asked), await looked] == [200, 200, 200, True]
    assert controller.num_asked == 1


async def test_nobody_waits_long_and_what_is_found_later_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "FIND_S", 0.001)
    controller = Controller(is_away=True)
    engine = ServeLlm("small", controller.find)
    for _ in range(2):
        with pytest.raises(Unavailable, match="the replicas of engine 'small' are not there"):
            await status(engine)
        assert not await engine.is_there()
    controller.may_answer.set()
    await until(lambda: engine._ask is not None)
    assert await status(engine) == 200
    assert controller.num_asked == 1


async def test_a_caller_that_goes_keeps_nobody_from_the_answer() -> None:
    controller = Controller(is_away=True)
    engine = ServeLlm("small", controller.find)
    first, second = (asyncio.create_task(status(engine)) for _ in range(2))
    await until(lambda: controller.num_asked)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    controller.may_answer.set()
    assert await second == 200
    assert controller.num_asked == 1


async def test_one_that_was_not_deployed_is_looked_up_again() -> None:
    controller = Controller(error=RayServeException("not deployed"))
    engine = ServeLlm("small", controller.find)
    with pytest.raises(Unavailable):
        await status(engine)
    controller.error = None
    assert await status(engine) == 200
    assert controller.num_asked == 2


async def test_what_is_no_trouble_of_serve_flies() -> None:
    engine = ServeLlm("small", Controller(error=LookupError("a bug")).find)
    with pytest.raises(LookupError):
        await engine.open(CHAT, b"{}")


async def test_a_known_engine_is_asked_at_once() -> None:
    """Before its first part comes, nobody else has a turn."""
    engine = ServeLlm("small", Controller().find)
    await status(engine)
    with pytest.raises(StopIteration):
        engine.open(CHAT, b"{}").send(None)
