"""Somebody else answers when the intended endpoint cannot, and the answer says so."""

import logging
from collections.abc import Sequence
from typing import Generic

from rayapp.config.routing import CHAMPION
from rayapp.errors import DeadlineExceeded, Unavailable
from rayapp.serve.endpoints.base import (
    AnyAsk,
    AnyEndpoint,
    AskT,
    ReplyT,
    StaleFeature,
    is_callers_fault,
)

log = logging.getLogger("rayapp.serve.endpoints.fallback")


class Fallback(Generic[AskT, ReplyT]):
    """Asks the endpoints in order until one answers. What a caller can mend is told at once; a
    stand-in that finds the request not in order, perhaps for a column of its own, only does not
    stand in. If nobody answers, the intended endpoint's trouble is raised.

    is_last_alike: the last endpoint wants of a request what the champion wants; so what it finds
    wrong is the caller's mistake, which the champion had no time or was not there to find.
    """

    def __init__(
        self, endpoints: Sequence[AnyEndpoint[AskT, ReplyT]], is_last_alike: bool = False
    ) -> None:
        self._first, *self._others = endpoints
        self._alike = self._others[-1] if is_last_alike else None

    async def predict(self, ask: AskT) -> ReplyT:
        try:
            return await self._first.predict(ask)
        except Exception as error:
            if is_callers_fault(error):
                raise
            reply = await self._instead(ask)
            if reply is None:
                raise
            reason = _reason(error)
            log.log(
                logging.ERROR if reason == "failed" else logging.INFO,
                "degraded",
                extra={"request_id": ask.request_id, "reason": reason},
                exc_info=error if reason == "failed" else None,
            )
            return reply.instead(reason)

    async def _instead(self, ask: AskT) -> ReplyT | None:
        for number, endpoint in enumerate(self._others, start=1):
            try:
                return await endpoint.predict(ask)
            except Exception as error:
                if endpoint is self._alike and is_callers_fault(error) and _is_champions(ask):
                    raise
                extra = {"request_id": ask.request_id, "number": number}
                log.warning("fallback_failed", extra=extra, exc_info=error)
        return None


def _is_champions(ask: AnyAsk) -> bool:
    """Whoever is another arm's may go by the columns of that arm."""
    return ask.assignment is None or ask.assignment.arm == CHAMPION


def _reason(error: Exception) -> str:
    """The word in x-degraded; no inside of ours."""
    if isinstance(error, DeadlineExceeded):
        return "timeout"
    if isinstance(error, StaleFeature):
        return f"stale:{error.feature}"
    return "unavailable" if isinstance(error, Unavailable) else "failed"
