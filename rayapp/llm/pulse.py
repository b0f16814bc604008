"""Whether an engine still generates."""

import asyncio
import time
from collections.abc import Awaitable, Callable


class EngineStalled(Exception):
    """The engine is alive and generates nothing."""


class Pulse:
    """probe: makes the engine generate something small. probe_every_s: so long it may be silent
    before it must, be it that nobody asks or that answers which are not streamed take long.
    stall_s: so long it may take over that."""

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]],
        probe_every_s: float,
        stall_s: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe = probe
        self._probe_every_s = probe_every_s
        self._stall_s = stall_s
        self._clock_s = clock_s
        self._last_s = clock_s()

    def beat(self) -> None:
        """Something was generated."""
        self._last_s = self._clock_s()

    async def check(self) -> None:
        """Raises EngineStalled, or what the probe raises."""
        last_s = self._last_s
        if self._clock_s() - last_s <= self._probe_every_s:
            return
        try:
            async with asyncio.timeout(self._stall_s):
                await self._probe()
        except TimeoutError:
            if self._last_s == last_s:  # else others got on while the probe had to wait
                quiet_s = self._clock_s() - last_s
                raise EngineStalled(f"nothing was generated for {quiet_s:.0f} s") from None
        else:
            self.beat()
