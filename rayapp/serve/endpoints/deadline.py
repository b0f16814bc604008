"""Time limits: one for a wrapped endpoint, and the clock that ends whole requests."""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import Generic

from rayapp.errors import DeadlineExceeded
from rayapp.serve.endpoints.base import AnyEndpoint, AskT, ReplyT

_TIMEOUT = "that is the endpoint's own limit, `timeout_ms` of the serving config"
TICK_S = 0.01
"""How late a request may be ended."""


class Timeout(Generic[AskT, ReplyT]):
    """The wrapped endpoint has this long, and never longer than the request itself; so something
    else can still answer in time. limit_ms: None for no limit but the request's. share: of what the
    request has left, it gets no more."""

    def __init__(
        self,
        inner: AnyEndpoint[AskT, ReplyT],
        limit_ms: float | None,
        deadlines: "Deadlines",
        clock_s: Callable[[], float] = time.monotonic,
        share: float = 1.0,
    ) -> None:
        self._inner = inner
        self._limit_s = math.inf if limit_ms is None else limit_ms / 1000
        self._share = share
        self._deadlines = deadlines
        self._clock_s = clock_s

    async def predict(self, ask: AskT) -> ReplyT:
        now_s = self._clock_s()
        deadline_s = min(now_s + self._limit_s, now_s + (ask.deadline_s - now_s) * self._share)
        if deadline_s >= ask.deadline_s:
            return await self._inner.predict(ask)
        with self._deadlines.within(deadline_s, _TIMEOUT):
            return await self._inner.predict(ask.until(deadline_s))


class Deadlines:
    """Ends tasks that outlive their deadline, all of them by one timer.

    A timer of its own for each request (asyncio.timeout) costs 5 µs of a core, which most requests
    would pay for nothing. Here a request is put into the bucket of its last 10 ms and taken out
    again; one timer looks at the bucket that is due.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._buckets: dict[int, set[Watch]] = defaultdict(set)
        self._timer: asyncio.TimerHandle | None = None

    def within(self, deadline_s: float, next_step: str | None = None) -> "Watch":
        """A context: its block is cancelled soon after `deadline_s`, of the clock, and raises
        DeadlineExceeded; at once where the deadline is over. next_step: of the error, where more
        time for the request would not help."""
        return Watch(self, deadline_s, next_step)

    def _begin(self, watch: "Watch") -> None:
        watch.begun_s = self._clock_s()
        if watch.deadline_s <= watch.begun_s:
            raise watch.exceeded()
        self._buckets[watch.place].add(watch)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._end_those_due)

    def _end(self, watch: "Watch") -> None:
        bucket = self._buckets.get(watch.place)
        if bucket is not None:
            bucket.discard(watch)
            if not bucket:
                del self._buckets[watch.place]

    def _end_those_due(self) -> None:
        now = int(self._clock_s() / TICK_S)
        for place in [place for place in self._buckets if place <= now]:
            for watch in self._buckets.pop(place):
                watch.is_over = True
                if watch.task is not None:
                    watch.task.cancel()
        self._timer = None
        if self._buckets:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._end_those_due)


class Watch:
    """Made for each request, so it is as small as can be."""

    __slots__ = (
        "_deadlines",
        "_next_step",
        "_num_before",
        "begun_s",
        "deadline_s",
        "is_over",
        "place",
        "task",
    )

    def __init__(
        self, deadlines: Deadlines, deadline_s: float, next_step: str | None = None
    ) -> None:
        self._deadlines = deadlines
        self._next_step = next_step
        self.deadline_s = self.begun_s = deadline_s
        self.place = int(deadline_s / TICK_S) + 1
        self.is_over = False
        self._num_before = 0
        self.task: asyncio.Task[object] | None = None

    def __enter__(self) -> None:
        self.task = asyncio.current_task()
        self._num_before = 0 if self.task is None else self.task.cancelling()
        self._deadlines._begin(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._deadlines._end(self)
        if not self.is_over or self.task is None:
            return
        # Somebody else may have cancelled the task too, an outer deadline of the same tick for
        # one: then the cancellation goes on to them (as asyncio.timeout has it).
        is_ours_alone = self.task.uncancel() <= self._num_before
        if is_ours_alone and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise self.exceeded() from None

    def exceeded(self) -> DeadlineExceeded:
        given_ms = max(0.0, self.deadline_s - self.begun_s) * 1000
        given = f"{given_ms:.0f} ms" if given_ms >= 1 else "less than 1 ms"
        what = f"there was no answer within {given}"
        if self._next_step is None:
            return DeadlineExceeded(what)
        return DeadlineExceeded(what, self._next_step)
