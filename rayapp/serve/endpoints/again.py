"""Asking once more, within a budget: after a failure, or when an answer takes long.

Without a budget, a pool in trouble gets twice the load when it can bear it least.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Generic

from rayapp.errors import Unavailable
from rayapp.serve.endpoints.base import AnyEndpoint, AskT, ReplyT

RESERVE = 10.0
"""Second asks that may come at once after calm."""


class Budget:
    """Second asks may be `share` of the first ones, in the long run."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._tokens = RESERVE

    def earn(self) -> None:
        self._tokens = min(RESERVE, self._tokens + self._share)

    def spend(self) -> bool:
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Retry(Generic[AskT, ReplyT]):
    """Only what is Unavailable is asked for again, once. A model's answer depends on nothing but
    its input, so that asking twice does no harm."""

    def __init__(
        self,
        inner: AnyEndpoint[AskT, ReplyT],
        budget: Budget,
        on_again: Callable[[], None] = lambda: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._budget = budget
        self._on_again = on_again
        self._clock_s = clock_s

    async def predict(self, ask: AskT) -> ReplyT:
        self._budget.earn()
        try:
            return await self._inner.predict(ask)
        except Unavailable:
            if ask.deadline_s <= self._clock_s() or not self._budget.spend():
                raise
        self._on_again()
        return await self._inner.predict(ask)


class Hedge(Generic[AskT, ReplyT]):
    """A second ask goes out where the first has no answer after after_s; the first answer counts,
    the other ask is cancelled. After J. Dean and L. Barroso, "The Tail at Scale" (2013)."""

    def __init__(
        self,
        inner: AnyEndpoint[AskT, ReplyT],
        after_s: float,
        budget: Budget,
        on_again: Callable[[], None] = lambda: None,
    ) -> None:
        self._inner = inner
        self._after_s = after_s
        self._budget = budget
        self._on_again = on_again

    async def predict(self, ask: AskT) -> ReplyT:
        self._budget.earn()
        tasks = {asyncio.create_task(self._answer(ask))}
        try:
            done, _ = await asyncio.wait(tasks, timeout=self._after_s)
            if not done and self._budget.spend():
                self._on_again()
                tasks.add(asyncio.create_task(self._answer(ask)))
            return await _first_answer(tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _answer(self, ask: AskT) -> ReplyT:
        return await self._inner.predict(ask)


async def _first_answer(tasks: "set[asyncio.Task[ReplyT]]") -> ReplyT:
    """Of whoever answers first; an error only where nobody answers."""
    waiting = set(tasks)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answered = [task for task in done if task.exception() is None]
        if answered or not waiting:
            return (answered or list(done))[0].result()
