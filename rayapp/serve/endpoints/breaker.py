"""A circuit breaker: what fails most of the time is not asked for a while.

    closed ── failures over the limit ──▶ open ── after open_s ──▶ half-open, one probe at a time
      ▲                                     ▲                          │
      └────────────── probe succeeds ───────┴────── probe fails ───────┘

After M. Nygard, "Release It!" (2007). Counted are outcomes within a sliding window of time; a
caller's own mistakes and callers that went away do not count.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Literal

from rayapp.config.serving import BreakerConfig
from rayapp.errors import DeadlineExceeded, Unavailable
from rayapp.schemas.record import short
from rayapp.serve.endpoints.base import AnyEndpoint, AskT, ReplyT, is_callers_fault

State = Literal["closed", "open", "half_open"]
ABOUT = 0.9
"""Of the time that is enough: reading what is asked takes some of it."""


class Breaker(Generic[AskT, ReplyT]):
    """Of whichever release answers: another one starts with a clean slate, on which nothing counts
    that the one before was asked. release_id: its id, or None while there is none to blame.
    may_be_long: of answers that are in time once they begin and may rightly take long until they
    are whole, as nobody sees them begin: late ones count for nothing. enough_s: who had so long and
    gave no answer has failed, though it was the request that ended."""

    def __init__(
        self,
        inner: AnyEndpoint[AskT, ReplyT],
        release_id: Callable[[], str | None],
        config: BreakerConfig,
        on_state: Callable[[State], None] = lambda state: None,
        clock_s: Callable[[], float] = time.monotonic,
        may_be_long: Callable[[AskT], bool] = lambda ask: False,
        enough_s: float = math.inf,
    ) -> None:
        self._inner = inner
        self._enough_s = enough_s * ABOUT
        self._may_be_long = may_be_long
        self._release_id = release_id
        self._of: str | None = None
        self._config = config
        self._on_state = on_state
        self._clock_s = clock_s
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._num_failed = 0
        self._opened_s = 0.0
        self._is_probing = False
        self.state: State = "closed"

    async def predict(self, ask: AskT) -> ReplyT:
        release_id = self._release_id()
        if release_id is None:
            return await self._inner.predict(ask)
        if release_id != self._of:
            self._of = release_id
            self._reset()
        if self.state != "closed":
            return await self._probe(ask, release_id)
        began_s = self._clock_s()
        try:
            reply = await self._inner.predict(ask)
        except BaseException as error:
            if self._counts(error, ask, began_s):
                self._count(release_id, failed=True)
            raise
        self._count(release_id, failed=False)
        return reply

    def _counts(self, error: BaseException, ask: AskT, began_s: float) -> bool:
        """A caller that gives too little time must not close the endpoint to others. Whoever ends a
        request that is over cancels what is still asked; a caller that goes away does so before."""
        if isinstance(error, DeadlineExceeded | asyncio.CancelledError):
            if self._may_be_long(ask):
                return False
            if self._clock_s() >= ask.deadline_s:
                return ask.deadline_s - began_s >= self._enough_s
            return isinstance(error, DeadlineExceeded)
        return isinstance(error, Exception) and not is_callers_fault(error)

    async def _probe(self, ask: AskT, release_id: str) -> ReplyT:
        left_s = self._opened_s + self._config.open_s - self._clock_s()
        if left_s > 0 or self._is_probing:
            raise Unavailable(
                f"release {short(release_id)} failed {self._num_failed} of its last requests "
                f"and is not asked again for {max(left_s, 0.0):.1f} s",
                "try again after the seconds in retry-after",
            )
        self._become("half_open")
        self._is_probing = True
        began_s = self._clock_s()
        try:
            reply = await self._inner.predict(ask)
        except BaseException as error:
            if release_id == self._of:
                if self._counts(error, ask, began_s):
                    self._opened_s = self._clock_s()
                self._is_probing = False
                self._become("open")
            raise
        if release_id == self._of:
            self._reset()
        return reply

    def _reset(self) -> None:
        self._outcomes.clear()
        self._num_failed = 0
        self._is_probing = False
        self._become("closed")

    def _count(self, release_id: str, failed: bool) -> None:
        if release_id != self._of or self.state != "closed":
            return  # begun before another release came, or before it opened
        now_s = self._clock_s()
        self._outcomes.append((now_s, failed))
        self._num_failed += failed
        while self._outcomes and self._outcomes[0][0] <= now_s - self._config.window_s:
            self._num_failed -= self._outcomes.popleft()[1]
        if not failed or len(self._outcomes) < self._config.min_requests:
            return
        if self._num_failed / len(self._outcomes) >= self._config.failure_share:
            self._opened_s = now_s
            self._become("open")

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._on_state(state)
