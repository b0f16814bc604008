"""Whether an engine still generates."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping


class EngineStalled(Exception):
    """The engine is alive and generates nothing."""


class Pulse:
    """probe: makes the engine generate something small. probe_every_s: so long it may be silent
    before it must. stall_s: so long it may take over that. progress: tokens of each answer that the
    engine is at, by a name of its own. Of one that is not streamed nothing else is heard before it
    is whole; an engine that is full of such answers is well, and a probe would wait behind them."""

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]],
        probe_every_s: float,
        stall_s: float,
        clock_s: Callable[[], float] = time.monotonic,
        progress: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._probe = probe
        self._progress = progress
        self._seen: Mapping[str, int] = {}
        self._probe_every_s = probe_every_s
        self._stall_s = stall_s
        self._clock_s = clock_s
        self._last_s = clock_s()
        self._probing: asyncio.Future[None] | None = None
        self._begun_s = 0.0
        """When that began, of the event loop's time."""

    def beat(self) -> None:
        """Something was generated."""
        self._last_s = self._clock_s()

    async def check(self) -> None:
        """Raises EngineStalled, or what the probe raises. A probe that takes too long goes on, so
        that whoever checks again hears of it at once, until it is answered after all."""
        loop = asyncio.get_running_loop()
        self._look()
        if self._probing is None:
            if self._quiet_s <= self._probe_every_s:
                return
            self._probing, self._begun_s = asyncio.ensure_future(self._probe()), loop.time()
        left_s = self._begun_s + self._stall_s - loop.time()
        await asyncio.wait({self._probing}, timeout=max(0.0, left_s))
        self._look()
        if self._probing.done():
            probing, self._probing = self._probing, None
            probing.result()
            self.beat()
        elif self._quiet_s >= self._stall_s:  # else others got on while the probe had to wait
            raise EngineStalled(f"nothing was generated for {self._quiet_s:.0f} s")

    def _look(self) -> None:
        """Answers that come and go show nothing: callers do that with an engine that stands
        still."""
        before, self._seen = self._seen, self._progress()
        if any(num_tokens > before.get(name, 0) for name, num_tokens in self._seen.items()):
            self.beat()

    @property
    def _quiet_s(self) -> float:
        return self._clock_s() - self._last_s
