"""Equal questions to the same release are answered once."""

import asyncio
import hashlib
import time
from collections.abc import Callable

from rayapp.config.serving import CacheConfig
from rayapp.errors import DeadlineExceeded
from rayapp.serve.endpoints.base import Ask, Endpoint, Reply
from rayapp.serve.endpoints.kept import Kept

_ROW_BYTES, _VALUE_BYTES = 1024, 96
"""About what a row of plain Python weighs, and each value in it."""
Key = tuple[str, str | None, bytes, bytes]


class Cache:
    """Exact: the key is the release that would answer, the tenant, the protocol, every byte of the
    body, and the feature values that were looked up.
    Requests that come while the same question is being answered wait for that answer (single
    flight). Bounded in bytes, the longest unused go first; a moved champion has another key, so no
    answer outlives it.

    release_id: who would answer now, or None where nobody can.
    """

    def __init__(
        self,
        inner: Endpoint,
        release_id: Callable[[], str | None],
        config: CacheConfig,
        on_lookup: Callable[[bool], None] = lambda is_hit: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._release_id = release_id
        self._on_lookup = on_lookup
        self._clock_s = clock_s
        self._kept: Kept[Key, Reply] = Kept(config, clock_s)
        self._flights: dict[Key, asyncio.Future[Reply]] = {}

    @property
    def num_bytes(self) -> int:
        return self._kept.num_bytes

    async def predict(self, ask: Ask) -> Reply:
        release_id = self._release_id()
        if release_id is None:
            return await self._inner.predict(ask)
        question = hashlib.blake2b(ask.body, digest_size=20)
        question.update(ask.looked_up)
        key = (release_id, ask.tenant, ask.protocol, question.digest())
        kept = self._kept.get(key)
        if kept is not None:
            self._on_lookup(True)
            return kept
        flight = self._flights.get(key)
        self._on_lookup(flight is not None)
        if flight is None:
            return await self._answered(ask, key)
        try:
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not flight.cancelled() or (task is not None and task.cancelling()):
                raise
        return await self.predict(ask)  # the one that was waited for was given up, this one is not

    async def _answered(self, ask: Ask, key: Key) -> Reply:
        flight: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        try:
            reply = await self._inner.predict(ask)
        except BaseException as error:
            if self._is_its_own(error, ask):
                flight.cancel()
            else:
                flight.set_exception(error)
                flight.exception()  # seen, also where nobody waits
            raise
        else:
            flight.set_result(reply)
            if reply.release_id == key[0]:  # else the champion moved meanwhile
                self._kept.put(key, reply, _weight(reply))
            return reply
        finally:
            del self._flights[key]

    def _is_its_own(self, error: BaseException, ask: Ask) -> bool:
        """Whether it is over for this caller alone: those who wait for its answer may have longer,
        unless the time limit was the endpoint's."""
        if isinstance(error, DeadlineExceeded):
            return self._clock_s() >= ask.deadline_s
        return isinstance(error, asyncio.CancelledError)


def _weight(reply: Reply) -> int:
    """Bytes that keeping the reply takes, as an estimate that is rather too high."""
    inputs = reply.rows.inputs
    values = sum(len(row) for row in inputs)
    arrays = reply.scores_NK.nbytes + reply.rows.x_NF.nbytes
    return _ROW_BYTES * len(inputs) + _VALUE_BYTES * values + int(arrays)
