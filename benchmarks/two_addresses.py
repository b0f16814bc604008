"""Open loop to two addresses, by a client as they are behind a load balancer with two targets: what
one address refuses, resets, or has no route for is asked of the other, under the same id."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

from benchmarks.open_loop import Check, Outcome

ASKED_AGAIN = frozenset({404, 500, 502, 503, 504})
"""Of an ingress that has no routes yet, or no replica to pass a request on to."""
CONNECT_S, ANSWER_S = 1.0, 5.0
_TIMER_S = 0.001


@dataclass
class SecondAsks:
    """reasons: the exception's name or the status, for each first ask that failed. numbers: of the
    requests that were asked twice. due_s: when these were due, from the start of the run."""

    reasons: Counter[str] = field(default_factory=Counter)
    numbers: list[int] = field(default_factory=list)
    due_s: list[float] = field(default_factory=list)


class TwoAddresses:
    """One run. bodies and ids: of the requests, which go to the addresses in turn. num_in_flight:
    requests that are due and not answered yet."""

    def __init__(
        self,
        urls: tuple[str, str],
        bodies: Sequence[bytes],
        ids: Sequence[str],
        headers: Mapping[str, str],
        is_right: Check,
    ) -> None:
        self._urls, self._bodies, self._ids, self._is_right = urls, bodies, ids, is_right
        self._headers = {**headers, "Content-Type": "application/json"}
        self.num_in_flight = 0
        self.second_asks = SecondAsks()
        self._statuses: Counter[int] = Counter()
        self._num_wrong = 0

    async def run(self, rate_rps: float, seconds: float, seed: int) -> Outcome:
        """Arrivals are a Poisson process. A request without an answer from either is lost."""
        gaps = np.random.default_rng(seed).exponential(1 / rate_rps, int(rate_rps * seconds * 1.2))
        offsets_s = np.cumsum(gaps)
        offsets_s = offsets_s[offsets_s < seconds]
        done_s = np.full(len(offsets_s), np.nan)
        late_s = np.zeros(len(offsets_s))
        limits = httpx.Limits(max_connections=256)
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        async with httpx.AsyncClient(limits=limits, timeout=timeout) as client:
            start_s = time.perf_counter() + 0.05

            async def ask(i: int) -> None:
                self.num_in_flight += 1
                late_s[i] = time.perf_counter() - start_s - offsets_s[i]
                try:
                    if await self._answered(client, i, float(offsets_s[i])):
                        done_s[i] = time.perf_counter() - start_s
                finally:
                    self.num_in_flight -= 1

            async with asyncio.TaskGroup() as asks:
                for i, due_s in enumerate(offsets_s):
                    left_s = due_s + start_s - time.perf_counter()
                    if left_s > 0:
                        await asyncio.sleep(max(left_s, _TIMER_S))
                    asks.create_task(ask(i))
        is_ok = ~np.isnan(done_s)
        num_told = int(is_ok.sum()) + self._num_wrong + self._statuses.total()
        return Outcome(
            rate_rps=rate_rps,
            seconds=seconds,
            num_sent=len(offsets_s),
            num_ok=int(is_ok.sum()),
            num_wrong=self._num_wrong,
            num_lost=len(offsets_s) - num_told,
            statuses=dict(self._statuses),
            latencies_ms=(done_s[is_ok] - offsets_s[is_ok]) * 1e3,
            other_ms=np.empty(0),
            due_s=offsets_s,
            is_ok=is_ok,
            late_ms=float(np.percentile(late_s * 1e3, 99)),
        )

    async def _answered(self, client: httpx.AsyncClient, i: int, due_s: float) -> bool:
        """Whether request i got its right answer from one of the addresses."""
        first = i % 2
        found = await self._asked(client, i, first)
        if isinstance(found, str) or found.status_code in ASKED_AGAIN:
            reason = found if isinstance(found, str) else str(found.status_code)
            self.second_asks.reasons[reason] += 1
            self.second_asks.numbers.append(i)
            self.second_asks.due_s.append(due_s)
            found = await self._asked(client, i, 1 - first)
        if isinstance(found, str):
            return False
        if found.status_code != 200:
            self._statuses[found.status_code] += 1
            return False
        if not self._is_right(i, found.content):
            self._num_wrong += 1
            return False
        return True

    async def _asked(self, client: httpx.AsyncClient, i: int, address: int) -> httpx.Response | str:
        """The answer, or why there is none."""
        headers = {**self._headers, "X-Request-Id": self._ids[i]}
        try:
            return await client.post(self._urls[address], content=self._bodies[i], headers=headers)
        except httpx.TransportError as error:
            return type(error).__name__
