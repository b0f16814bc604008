"""Requests that arrive together share one model call."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import numpy as np

from rayapp.families.base import Floats

log = logging.getLogger("rayapp.serve.batching")

INLINE_ROWS = 32
"""Up to this many rows the model runs on the event loop: a hop to a thread costs more than it."""
Waiting = tuple[Floats, "asyncio.Future[Floats]"]
"""Encoded rows [N, F], and where their scores go."""


class ModelFault(Exception):
    """The model gave something that is no answer: ours to mend, not the caller's."""


class Batcher:
    """One model's queue. While a call runs, arriving rows wait for the next one, so batches grow
    with the load and an idle endpoint waits no longer than `wait_ms`."""

    def __init__(
        self,
        score: Callable[[Floats], Floats],
        max_rows: int,
        wait_ms: float,
        on_batch: Callable[[int], None],
    ) -> None:
        self._score = score
        self._max_rows = max_rows
        self._wait_s = wait_ms / 1000
        self._on_batch = on_batch
        self._waiting: deque[Waiting] = deque()
        self._num_rows = 0
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[None] | None = None

    async def predict(self, x_NF: Floats) -> Floats:
        """Scores [N, K] of these rows. Raises what the model raises for them."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Floats] = loop.create_future()
        self._waiting.append((x_NF, future))
        self._num_rows += len(x_NF)
        if self._running is None:
            if self._num_rows >= self._max_rows or not self._wait_s:
                self._start()
            elif self._timer is None:
                self._timer = loop.call_later(self._wait_s, self._start)
        return await future

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is None and self._waiting:
            self._running = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._run(self._take())
        finally:
            self._running = None

    def _take(self) -> list[Waiting]:
        """The requests of the next call: as many as fit, but at least one."""
        taken: list[Waiting] = []
        size = 0
        while self._waiting and (not taken or size + len(self._waiting[0][0]) <= self._max_rows):
            x_NF, future = self._waiting.popleft()
            self._num_rows -= len(x_NF)
            if not future.cancelled():  # its client may have gone meanwhile
                taken.append((x_NF, future))
                size += len(x_NF)
        return taken

    async def _run(self, batch: list[Waiting]) -> None:
        if not batch:
            return
        parts = [x_NF for x_NF, _ in batch]
        try:
            x_NF = parts[0] if len(parts) == 1 else np.concatenate(parts)
            if len(x_NF) <= INLINE_ROWS:
                scores_NK = self._in_parts(x_NF)
            else:
                scores_NK = await asyncio.to_thread(self._in_parts, x_NF)
        except Exception as error:  # noqa: BLE001 - a model's error belongs to the request it is for
            await self._blame(batch, error)
            return
        start = 0
        for part, future in batch:
            if not future.done():
                future.set_result(scores_NK[start : start + len(part)])
            start += len(part)

    def _in_parts(self, x_NF: Floats) -> Floats:
        starts = range(0, len(x_NF), self._max_rows)
        parts = [self._call(x_NF[start : start + self._max_rows]) for start in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _call(self, x_NF: Floats) -> Floats:
        self._on_batch(len(x_NF))
        scores_NK = self._score(x_NF)
        if len(scores_NK) != len(x_NF) or not np.isfinite(scores_NK).all():
            raise ModelFault(f"scores of {len(x_NF)} rows: {scores_NK.shape}, not all finite")
        return scores_NK

    async def _blame(self, batch: list[Waiting], error: Exception) -> None:
        """One request's rows must not fail the others': each is tried again by itself."""
        if len(batch) == 1:
            if not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        log.warning("batch_failed", extra={"num_requests": len(batch)}, exc_info=error)
        for one in batch:
            await self._run([one])
