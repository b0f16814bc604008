"""A second endpoint hears the same requests; nobody waits for it, and nobody is told."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic

from rayapp.errors import Unavailable
from rayapp.serve.endpoints.base import AnyEndpoint, AskT, ReplyT
from rayapp.serve.endpoints.split import position

log = logging.getLogger("rayapp.serve.endpoints.shadow")


class Shadow(Generic[AskT, ReplyT]):
    """share: of units that the shadow hears. It is left out while it has max_ongoing requests
    already, so it cannot pile up. heard: takes the ask, the shadow's reply and the milliseconds
    that it took, to be recorded."""

    def __init__(
        self,
        inner: AnyEndpoint[AskT, ReplyT],
        shadow: AnyEndpoint[AskT, ReplyT],
        share: float,
        salt: str,
        max_ongoing: int,
        heard: Callable[[AskT, ReplyT, float], Awaitable[None]],
    ) -> None:
        self._inner = inner
        self._shadow = shadow
        self._share = share
        self._salt = salt
        self._max_ongoing = max_ongoing
        self._heard = heard
        self._ongoing: set[asyncio.Task[None]] = set()

    async def predict(self, ask: AskT) -> ReplyT:
        reply = await self._inner.predict(ask)
        is_in = position(self._salt, ask.unit or ask.request_id) < self._share
        if is_in and len(self._ongoing) < self._max_ongoing:
            task = asyncio.get_running_loop().create_task(self._listen(ask))
            self._ongoing.add(task)
            task.add_done_callback(self._ongoing.discard)
        return reply

    async def _listen(self, ask: AskT) -> None:
        began_s = time.monotonic()
        try:
            reply = await self._shadow.predict(ask)
            await self._heard(ask, reply, (time.monotonic() - began_s) * 1000)
        except Unavailable as error:
            log.info("shadow_away", extra={"request_id": ask.request_id, "because": error.what})
        except Exception as error:
            log.warning("shadow_failed", extra={"request_id": ask.request_id}, exc_info=error)

    async def drain(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._ongoing)
