"""Somebody else answers when the intended endpoint cannot, and the answer says so."""

import logging
from collections.abc import Sequence
from typing import Generic

from rayapp.errors import DeadlineExceeded, Unavailable
from rayapp.serve.endpoints.base import (
    AnyEndpoint,
    AskT,
    ReplyT,
    StaleFeature,
    is_callers_fault,
)

log = logging.getLogger("rayapp.serve.fallback")


class Fallback(Generic[AskT, ReplyT]):
    """Asks the endpoints in order until one answers. What a caller can mend is told at once; a
    stand-in that finds the request not in order, perhaps for a column of its own, only does not
    stand in. If nobody answers, the intended endpoint's trouble is raised."""

    def __init__(self, endpoints: Sequence[AnyEndpoint[AskT, ReplyT]]) -> None:
        self._first, *self._others = endpoints

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
                extra = {"request_id": ask.request_id, "number": number}
                log.warning("fallback_failed", extra=extra, exc_info=error)
        return None


def _reason(error: Exception) -> str:
    """The word in x-degraded; no inside of ours."""
    if isinstance(error, DeadlineExceeded):
        return "timeout"
    if isinstance(error, StaleFeature):
        return f"stale:{error.feature}"
    return "unavailable" if isinstance(error, Unavailable) else "failed"
