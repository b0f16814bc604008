"""The gateway's side of a pool: rows go to a replica that holds the model, and scores come back."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence

from rayapp.errors import DeadlineExceeded
from rayapp.families.base import Floats
from rayapp.serve.batching import Queue, Waiting, deliver
from rayapp.serve.tracing.span import CURRENT

log = logging.getLogger("rayapp.serve.pool.scorer")

Part = tuple[Floats, float]
"""One request's encoded rows [N, F], and the seconds that it has left."""
Outcome = Floats | Exception
Traces = Sequence[str | None]
"""The traceparent of each part, None for one that is not traced; empty where none is."""
Call = Callable[[Sequence[Part], Traces], Awaitable[list[Outcome]]]
"""Ask a replica; one outcome for each part. Raises Unavailable where none answers."""


class PoolScorer:
    """One model in a pool. Requests that arrive in the same turn of the event loop share a call,
    and so do those that arrive while max_calls of them are under way: a hop to another process
    costs as much as ten answers."""

    def __init__(
        self,
        call: Call,
        max_rows: int,
        max_calls: int,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call = call
        self._max_calls = max_calls
        self._clock_s = clock_s
        self._waiting = Queue(max_rows, clock_s)
        self._calls: set[asyncio.Task[None]] = set()
        self._due: asyncio.Handle | None = None
        self._traces: dict[asyncio.Future[Floats], str] = {}

    async def predict(self, x_NF: Floats, deadline_s: float = math.inf) -> Floats:
        future = self._waiting.put(x_NF, deadline_s)
        self._send_soon()
        span = CURRENT.get()
        if span is None:
            return await future
        self._traces[future] = span.traceparent
        try:
            return await future
        finally:
            del self._traces[future]

    def _send_soon(self) -> None:
        if self._waiting and self._due is None and len(self._calls) < self._max_calls:
            self._due = asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._due = None
        batch = self._waiting.take()
        if batch:
            task = asyncio.get_running_loop().create_task(self._sent(batch))
            self._calls.add(task)
            task.add_done_callback(self._ended)
        self._send_soon()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._calls.discard(task)
        self._send_soon()

    async def _sent(self, batch: list[Waiting]) -> None:
        now_s = self._clock_s()
        parts = [(x_NF, deadline_s - now_s) for x_NF, _, deadline_s in batch]
        traces = [self._traces.get(future) for _, future, _ in batch] if self._traces else []
        longest_s = max(left_s for _, left_s in parts)
        try:
            async with asyncio.timeout(None if math.isinf(longest_s) else longest_s):
                outcomes = await self._call(parts, traces if any(traces) else ())
        except TimeoutError:
            outcomes = [DeadlineExceeded() for _ in batch]
        except Exception as error:  # noqa: BLE001 - whatever it is, each of them hears it
            outcomes = [error for _ in batch]
        deliver(batch, outcomes)
