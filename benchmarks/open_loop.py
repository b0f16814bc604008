"""An open-loop HTTP load generator: requests leave when they are due, whatever came back so far.

Latency is counted from the time a request was due, so a server that stalls is charged for everybody
who would have come meanwhile (no coordinated omission). Arrivals are a Poisson process with a fixed
seed. Connections are kept alive; a request that finds none idle opens another, up to a limit, and
beyond it waits, which counts. Written on asyncio's protocols because every microsecond here is
taken from the generator's one core.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Check = Callable[[int, bytes], bool]
"""(index of the request, body of the answer) → whether its values are right."""
_TAIL_S = 5.0
_TIMER_S = 0.001


@dataclass(frozen=True)
class Outcome:
    """What one run saw. latencies_ms: of answers with status 200 and right values, from the time
    they were due; other_ms: of answers with another status. due_s and is_ok: of every request, from
    the start of the run. statuses: how many of each other status. num_lost: no answer at all,
    within 5 s after the last was due. late_ms: 99th percentile of how late the generator itself
    sent."""

    rate_rps: float
    seconds: float
    num_sent: int
    num_ok: int
    num_wrong: int
    num_lost: int
    statuses: dict[int, int]
    latencies_ms: npt.NDArray[np.float64]
    other_ms: npt.NDArray[np.float64]
    due_s: npt.NDArray[np.float64]
    is_ok: npt.NDArray[np.bool_]
    late_ms: float

    def percentile_ms(self, percent: float) -> float:
        if not len(self.latencies_ms):
            return float("inf")
        return float(np.percentile(self.latencies_ms, percent))

    @property
    def is_clean(self) -> bool:
        return self.num_ok == self.num_sent > 0


def post(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """One request of JSON as it goes over the wire."""
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: benchmark\r\nContent-Type: application/json\r\n"
        f"{more}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def run(
    host: str,
    port: int,
    requests: Sequence[bytes],
    is_right: Check,
    rate_rps: float,
    seconds: float,
    max_connections: int = 256,
    seed: int = 1,
    after_s: float = 0.0,
) -> Outcome:
    """requests are sent in turn. Raises OSError when the server cannot be connected to."""
    generator = Generator(host, port, requests, is_right, max_connections)
    return await generator.run(rate_rps, seconds, seed, after_s)


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, owner: "Generator") -> None:
        self._owner = owner
        self._transport: Any = None  # uvloop's is no asyncio.Transport by name
        self._buffer = b""
        self._body_at = 0
        self._end = 0
        self._is_last = False
        self.index: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, index: int, request: bytes) -> None:
        self.index = index
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self._end:
            body_at = self._buffer.find(b"\r\n\r\n") + 4
            if body_at < 4:
                return
            head = self._buffer[:body_at].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 : head.find(b"\r", at)]) if at >= 0 else 0
            self._body_at, self._end = body_at, body_at + length
            self._is_last = b"connection: close" in head
        if len(self._buffer) >= self._end and self.index is not None:
            status, body = int(self._buffer[9:12]), self._buffer[self._body_at : self._end]
            index, self.index = self.index, None
            self._buffer, self._end = b"", 0
            self._owner.answered(self, index, status, body, self._is_last)

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.closed(self)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Generator:
    """One run; num_in_flight: requests that are due and not answered yet. See `run`."""

    def __init__(
        self,
        host: str,
        port: int,
        requests: Sequence[bytes],
        is_right: Check,
        max_connections: int,
    ) -> None:
        self._host, self._port = host, port
        self._requests, self._is_right = requests, is_right
        self._max_connections = max_connections
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._num_opening = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._queue: deque[int] = deque()
        self._due_s: npt.NDArray[np.float64] = np.empty(0)
        self._done_s: npt.NDArray[np.float64] = np.empty(0)
        self._statuses: dict[int, int] = {}
        self._other_s: list[float] = []
        self._num_wrong = 0
        self.num_in_flight = 0
        self._finished = asyncio.Event()
        self._all_sent = False

    async def run(
        self, rate_rps: float, seconds: float, seed: int, after_s: float = 0.0
    ) -> Outcome:
        """after_s: until the run starts. It connects at once: later the server may be too busy for
        it to start in time."""
        gaps = np.random.default_rng(seed).exponential(1 / rate_rps, int(rate_rps * seconds * 1.2))
        offsets_s = np.cumsum(gaps)
        offsets_s = offsets_s[offsets_s < seconds]
        count = len(offsets_s)
        await self._open_one()
        start_s = time.perf_counter() + 0.05 + after_s
        self._due_s = offsets_s + start_s
        self._done_s = np.full(count, np.nan)
        sent_s = np.empty(count)
        due = self._due_s.tolist()
        next_one = 0
        while next_one < count:
            now_s = time.perf_counter()
            while next_one < count and due[next_one] <= now_s:
                sent_s[next_one] = now_s
                self.num_in_flight += 1
                self._dispatch(next_one)
                next_one += 1
            if next_one < count:
                # The loop's timers are good to a millisecond, which late_ms and every latency have
                # in them. Turning the loop instead would be more exact, and slow a server whose
                # core shares hardware with this one.
                await asyncio.sleep(max(due[next_one] - time.perf_counter(), _TIMER_S))
        self._all_sent = True
        if self.num_in_flight:
            with contextlib.suppress(TimeoutError):  # what is missing then is counted as lost
                await asyncio.wait_for(self._finished.wait(), _TAIL_S)
        for connection in list(self._open):
            connection.close()
        is_ok = ~np.isnan(self._done_s)
        num_ok = int(is_ok.sum())
        num_other = sum(self._statuses.values())
        return Outcome(
            rate_rps=rate_rps,
            seconds=seconds,
            num_sent=count,
            num_ok=num_ok,
            num_wrong=self._num_wrong,
            num_lost=count - num_ok - self._num_wrong - num_other,
            statuses=dict(self._statuses),
            latencies_ms=(self._done_s[is_ok] - self._due_s[is_ok]) * 1e3,
            other_ms=np.array(self._other_s) * 1e3,
            due_s=offsets_s,
            is_ok=is_ok,
            late_ms=float(np.percentile((sent_s - self._due_s) * 1e3, 99)),
        )

    def _dispatch(self, number: int) -> None:
        if self._idle:
            self._idle.pop().send(number, self._requests[number % len(self._requests)])
            return
        self._queue.append(number)
        self._open_another()

    def _open_another(self) -> None:
        if self._queue and len(self._open) + self._num_opening < self._max_connections:
            task = asyncio.get_running_loop().create_task(self._open_one())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open_one(self) -> None:
        """For a request that waits. Where nobody takes the connection, that request is lost."""
        self._num_opening += 1
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(
                lambda: _Connection(self), self._host, self._port
            )
        except OSError:
            if not self._queue:
                raise
            self._queue.popleft()
            self._close_request()
            return
        finally:
            self._num_opening -= 1
        self._open.add(connection)
        self._rest(connection)

    def _rest(self, connection: _Connection) -> None:
        if self._queue:
            number = self._queue.popleft()
            connection.send(number, self._requests[number % len(self._requests)])
        else:
            self._idle.append(connection)

    def answered(
        self, connection: _Connection, number: int, status: int, body: bytes, is_last: bool
    ) -> None:
        """is_last: the server says that it closes the connection."""
        if status != 200:
            self._statuses[status] = self._statuses.get(status, 0) + 1
            self._other_s.append(time.perf_counter() - self._due_s[number])
        elif self._is_right(number % len(self._requests), body):
            self._done_s[number] = time.perf_counter()
        else:
            self._num_wrong += 1
        self._close_request()
        if is_last:
            self._open.discard(connection)
            connection.close()
            self._open_another()
        else:
            self._rest(connection)

    def closed(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.index is not None:
            connection.index = None
            self._close_request()  # lost: neither a status nor a latency

    def _close_request(self) -> None:
        self.num_in_flight -= 1
        if self._all_sent and not self.num_in_flight:
            self._finished.set()
