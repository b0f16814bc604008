"""Somebody else answers when the intended endpoint cannot, and the answer says so."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from rayapp.errors import DeadlineExceeded, Unavailable
from rayapp.serve.endpoints.base import (
    Ask,
    Endpoint,
    Reply,
    is_callers_fault,
)

log = logging.getLogger("rayapp.serve.fallback")


class Fallback:
    """Asks the endpoints in order until one answers. What a caller can mend is told at once: no
    other model would find the request in order. The last one's own trouble is raised."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._first, *self._others = endpoints

    async def predict(self, ask: Ask) -> Reply:
        try:
            return await self._first.predict(ask)
        except Exception as error:
            if is_callers_fault(error):
                raise
            return await self._degraded(ask, error)

    async def _degraded(self, ask: Ask, error: Exception) -> Reply:
        reason = _reason(error)
        for number, endpoint in enumerate(self._others, start=1):
            try:
                reply = await endpoint.predict(ask)
            except Exception as another:
                if is_callers_fault(another) or number == len(self._others):
                    raise
                log.warning("fallback_failed", extra={"number": number}, exc_info=another)
            else:
                return replace(reply, degraded=reason)
        raise error


def _reason(error: Exception) -> str:
    """The word in x-degraded; no inside of ours."""
    if isinstance(error, DeadlineExceeded):
        return "timeout"
    return "unavailable" if isinstance(error, Unavailable) else "failed"
