"""What a gateway replica does beside answering: follow the champion, commit the prediction log."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from rayapp.serve.wire.http import Receive, Send

log = logging.getLogger("rayapp.serve.background")

REFRESH_S = 0.5
"""A release that takes longer to load does not keep a replica from looking at keys and pointers."""


class Background:
    """Runs with the server: starts before the first request, stops after the last.

    refresh and commit block, so each runs in a thread; refresh in one of its own, since a revoked
    key must not wait behind the long bodies that share asyncio's. refresh must not raise; it is
    told how long to wait for what it began, None for as long as it takes. flush is the last commit,
    which also waits for another process of this node that is committing.
    """

    def __init__(
        self,
        refresh: Callable[[float | None], object],
        follow_every_s: float,
        commit: Callable[[], object],
        commit_every_s: float,
        flush: Callable[[], object],
    ) -> None:
        self._refresh = refresh
        self._follow_every_s = follow_every_s
        self._commit = commit
        self._commit_every_s = commit_every_s
        self._flush = flush
        self._committing = threading.Lock()
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="lookout")
        self._tasks: list[asyncio.Task[None]] = []

    async def lifespan(
        self, receive: Receive, send: Send, drain: Callable[[], Awaitable[None]]
    ) -> None:
        """ASGI's lifespan protocol: startup is complete once the champion, if any, is loaded, and
        shutdown once `drain` is over, whether it failed or not, and what it left is committed."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                try:
                    await drain()
                finally:
                    await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def start(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._looking, self._refresh, None)
        refresh, commit = partial(self._refresh, REFRESH_S), partial(self._alone, self._commit)
        self._tasks = [
            asyncio.create_task(self._every(self._follow_every_s, refresh, self._looking)),
            asyncio.create_task(self._every(self._commit_every_s, commit)),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._looking.shutdown(wait=False)
        await asyncio.to_thread(self._logged, partial(self._alone, self._flush))

    async def _every(
        self, seconds: float, work: Callable[[], object], threads: Executor | None = None
    ) -> None:
        """threads: None for asyncio's own."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds)
            await loop.run_in_executor(threads, self._logged, work)

    def _alone(self, work: Callable[[], object]) -> None:
        """A commit whose task was cancelled still runs in its thread, and the last one waits."""
        with self._committing:
            work()

    @staticmethod
    def _logged(work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:  # tried again at the next turn: what is spooled stays spooled
            log.exception("background_work_failed")
