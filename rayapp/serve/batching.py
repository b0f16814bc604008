"""Requests that arrive together share one model call."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from rayapp.families.base import Floats

log = logging.getLogger("rayapp.serve.batching")

INLINE_ROWS = 32
"""Up to this many rows the model runs on the event loop: a hop to a thread costs more than it."""
Waiting = tuple[pa.Table, "asyncio.Future[Floats]"]


class ModelFault(Exception):
    """The model gave something that is no answer: ours to mend, not the caller's."""


class Batcher:
    """One model's queue. While a call runs, arriving rows wait for the next one, so batches grow
    with the load and an idle endpoint waits no longer than `wait_ms`."""

    def __init__(
        self,
        predict: Callable[[pa.Table], Floats],
        max_rows: int,
        wait_ms: float,
        on_batch: Callable[[int], None],
    ) -> None:
        self._predict = predict
        self._max_rows = max_rows
        self._wait_s = wait_ms / 1000
        self._on_batch = on_batch
        self._waiting: deque[Waiting] = deque()
        self._num_rows = 0
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[None] | None = None

    async def predict(self, table: pa.Table) -> Floats:
        """Scores [N, K] of the table's own rows. Raises what the model raises for these rows."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Floats] = loop.create_future()
        self._waiting.append((table, future))
        self._num_rows += table.num_rows
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
        while self._waiting and (
            not taken or size + self._waiting[0][0].num_rows <= self._max_rows
        ):
            table, future = self._waiting.popleft()
            self._num_rows -= table.num_rows
            if not future.cancelled():  # its client may have gone meanwhile
                taken.append((table, future))
                size += table.num_rows
        return taken

    async def _run(self, batch: list[Waiting]) -> None:
        if not batch:
            return
        tables = [table for table, _ in batch]
        try:
            table = tables[0] if len(tables) == 1 else pa.concat_tables(tables).combine_chunks()
            if table.num_rows <= INLINE_ROWS:
                scores_NK = self._in_parts(table)
            else:
                scores_NK = await asyncio.to_thread(self._in_parts, table)
        except Exception as error:  # noqa: BLE001 - a model's error belongs to the request it is for
            await self._blame(batch, error)
            return
        start = 0
        for part, future in batch:
            if not future.done():
                future.set_result(scores_NK[start : start + part.num_rows])
            start += part.num_rows

    def _in_parts(self, table: pa.Table) -> Floats:
        starts = range(0, table.num_rows, self._max_rows)
        parts = [self._call(table.slice(start, self._max_rows)) for start in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _call(self, table: pa.Table) -> Floats:
        self._on_batch(table.num_rows)
        scores_NK = self._predict(table)
        if len(scores_NK) != table.num_rows or not np.isfinite(scores_NK).all():
            raise ModelFault(f"scores of {table.num_rows} rows: {scores_NK.shape}, not all finite")
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
