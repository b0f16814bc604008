"""Requests that arrive together share one model call."""

import asyncio
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from rayapp.errors import DeadlineExceeded
from rayapp.families.base import Floats

log = logging.getLogger("rayapp.serve.batching")

INLINE_ROWS = 32
"""Up to this many rows the model runs on the event loop: a hop to a thread costs more than it."""
Waiting = tuple[Floats, "asyncio.Future[Floats]", float]
"""Encoded rows [N, F], where their scores go, and until when they are wanted."""


class ModelFault(Exception):
    """The model gave something that is no answer: ours to mend, not the caller's."""


class Queue:
    """Requests that wait for one model."""

    def __init__(self, max_rows: int, clock_s: Callable[[], float]) -> None:
        self._max_rows = max_rows
        self._clock_s = clock_s
        self._waiting: deque[Waiting] = deque()
        self.num_rows = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, x_NF: Floats, deadline_s: float) -> "asyncio.Future[Floats]":
        future: asyncio.Future[Floats] = asyncio.get_running_loop().create_future()
        self._waiting.append((x_NF, future, deadline_s))
        self.num_rows += len(x_NF)
        return future

    def take(self) -> list[Waiting]:
        """The requests of the next call: as many as fit, but at least one where there is any that
        is still wanted."""
        taken: list[Waiting] = []
        size, now_s = 0, self._clock_s()
        while self._waiting and (not taken or size + len(self._waiting[0][0]) <= self._max_rows):
            x_NF, future, deadline_s = self._waiting.popleft()
            self.num_rows -= len(x_NF)
            if future.cancelled():
                continue  # its client has gone meanwhile
            if deadline_s <= now_s:
                future.set_exception(DeadlineExceeded())
                continue
            taken.append((x_NF, future, deadline_s))
            size += len(x_NF)
        return taken


class Batcher:
    """One model's queue. Requests that arrive in the same turn of the event loop share a call, and
    so do those that arrive while a call runs: batches grow with the load, and a lone request does
    not wait. wait_ms > 0 holds an idle queue open for that long, for models whose calls are dear.
    """

    def __init__(
        self,
        score: Callable[[Floats], Floats],
        max_rows: int,
        wait_ms: float,
        on_batch: Callable[[int], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._score = score
        self._max_rows = max_rows
        self._wait_s = wait_ms / 1000
        self._on_batch = on_batch
        self._waiting = Queue(max_rows, clock_s)
        self._due: asyncio.Handle | None = None
        self._running: asyncio.Task[None] | None = None

    async def predict(self, x_NF: Floats, deadline_s: float = math.inf) -> Floats:
        """Scores [N, K] of these rows. Raises what the model raises for them, and DeadlineExceeded
        where their turn comes after deadline_s, of time.monotonic: then no model sees them."""
        loop = asyncio.get_running_loop()
        future = self._waiting.put(x_NF, deadline_s)
        if self._running is None:
            if self._wait_s and self._waiting.num_rows >= self._max_rows:
                self._run_next()
            elif self._due is None:
                self._due = (
                    loop.call_later(self._wait_s, self._run_next)
                    if self._wait_s
                    else loop.call_soon(self._run_next)
                )
        return await future

    def _run_next(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        batch = self._waiting.take()
        if sum(len(x_NF) for x_NF, _, _ in batch) > INLINE_ROWS:
            self._running = asyncio.get_running_loop().create_task(self._run_aside(batch))
            return
        if batch:
            deliver(batch, self._outcomes([x_NF for x_NF, _, _ in batch]))
        if self._waiting:
            self._due = asyncio.get_running_loop().call_soon(self._run_next)

    async def _run_aside(self, batch: list[Waiting]) -> None:
        try:
            parts = [x_NF for x_NF, _, _ in batch]
            deliver(batch, await asyncio.to_thread(self._outcomes, parts))
        finally:
            self._running = None
            if self._waiting:
                self._run_next()

    def _outcomes(self, parts: Sequence[Floats]) -> list[Floats | Exception]:
        """The scores of each request, or its error: one's rows must not fail the others', so after
        a failure each is tried by itself."""
        try:
            scores_NK = self._in_calls(parts[0] if len(parts) == 1 else np.concatenate(parts))
        except Exception as error:
            if len(parts) == 1:
                return [error]
            log.warning("batch_failed", extra={"num_requests": len(parts)}, exc_info=error)
            return [outcome for part in parts for outcome in self._outcomes([part])]
        stops = list(itertools.accumulate(map(len, parts)))
        starts = [0, *stops[:-1]]
        return [scores_NK[start:stop] for start, stop in zip(starts, stops, strict=True)]

    def _in_calls(self, x_NF: Floats) -> Floats:
        starts = range(0, len(x_NF), self._max_rows)
        parts = [self._call(x_NF[start : start + self._max_rows]) for start in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _call(self, x_NF: Floats) -> Floats:
        self._on_batch(len(x_NF))
        scores_NK = self._score(x_NF)
        if len(scores_NK) != len(x_NF) or not np.isfinite(scores_NK).all():
            raise ModelFault(f"scores of {len(x_NF)} rows: {scores_NK.shape}, not all finite")
        return scores_NK


def deliver(batch: Sequence[Waiting], outcomes: Sequence[Floats | Exception]) -> None:
    for (_, future, _), outcome in zip(batch, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
