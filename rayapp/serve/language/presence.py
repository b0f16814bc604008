"""Work for a client that is still there."""

import asyncio
from types import TracebackType

from rayapp.serve.wire.http import ClientGone, Receive


class Presence:
    """A context whose block is cancelled once the client has gone, and then raises ClientGone: what
    nobody waits for is not worked on. To be entered when the request's body was read."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_gone = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        if self._task is not None:
            self._task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watching.cancel()
        if not self._is_gone or self._task is None:
            return
        self._task.uncancel()
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            raise ClientGone
