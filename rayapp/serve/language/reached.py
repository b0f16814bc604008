"""Whether an engine is there, and could be asked the last time: what a gateway knows of it without
asking."""

import time
from collections.abc import Callable

from rayapp.errors import Unavailable
from rayapp.schemas.language import Adapter, Answering, LlmClient, Prefix
from rayapp.serve.language.client import AdapterUnavailable


class Reached:
    """A client that remembers. clock_s: of time.monotonic."""

    def __init__(self, client: LlmClient, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock_s = clock_s
        self._failed: tuple[str, float] | None = None

    async def open(
        self,
        path: str,
        body: bytes,
        prefix: Prefix | None = None,
        adapter: Adapter | None = None,
    ) -> Answering:
        try:
            answering = await self._client.open(path, body, prefix, adapter)
        except AdapterUnavailable:
            self._failed = None
            raise
        except Unavailable as error:
            self._failed = error.what, self._clock_s()
            raise
        self._failed = None
        return answering

    async def is_there(self) -> bool:
        return await self._client.is_there()

    async def problem(self) -> str | None:
        """None where it is there and took the last request, or nobody has asked yet."""
        found = [] if await self.is_there() else ["starting: it has no replica that has loaded yet"]
        if self._failed is not None:
            what, at_s = self._failed
            ago_s = self._clock_s() - at_s
            found.append(f"the last request, {ago_s:.0f} s ago, was not taken: {what}")
        return "; ".join(found) or None
