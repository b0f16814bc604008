"""The last commit of a replica that stops: always made, and never beside another one."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from serving_case import until

from rayapp.serve.background import Background


async def nothing() -> None:
    pass


async def stopped(background: Background, drain: Callable[[], Awaitable[None]] = nothing) -> None:
    """Start it and stop it, as its server does. Raises what the server would be told."""
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        pass

    await background.lifespan(receive, send, drain)


async def test_the_look_out_waits_for_nobodys_rows() -> None:
    """Long bodies are parsed in asyncio's own threads, and there may be more of them."""
    looked, parsed = threading.Event(), threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    background = Background(
        lambda patience_s: looked.set(), 0.001, lambda: None, 3600, lambda: None
    )
    parsing = asyncio.create_task(asyncio.to_thread(parsed.wait))
    try:
        await asyncio.wait_for(background.start(), 10)
        looked.clear()
        await until(looked.is_set)
    finally:
        parsed.set()
        await parsing
        await background.stop()


async def test_a_drain_that_fails_does_not_keep_back_the_last_commit() -> None:
    done: list[str] = []
    background = Background(
        lambda patience_s: None, 3600, lambda: None, 3600, lambda: done.append("flush")
    )

    async def fail() -> None:
        raise RuntimeError("a shadow failed")

    with pytest.raises(RuntimeError, match="a shadow failed"):
        await stopped(background, fail)
    assert done == ["flush"]


async def test_the_last_commit_waits_for_one_that_is_running() -> None:
    begun, may_end = threading.Event(), threading.Event()
    done: list[str] = []

    def commit() -> None:
        begun.set()
        may_end.wait()
        done.append("commit")

    background = Background(
        lambda patience_s: None, 3600, commit, 0.001, lambda: done.append("flush")
    )

    async def once_it_runs() -> None:
        while not begun.is_set():
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_later(0.05, may_end.set)

    await stopped(background, once_it_runs)
    assert done == ["commit", "flush"]
