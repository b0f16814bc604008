"""One answer's way from the engine to the caller: passed on, paid for, recorded, and ended well
however it ends."""

import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson

from rayapp.errors import DeadlineExceeded, RequestError, Unavailable
from rayapp.serve.call import Call, Meter
from rayapp.serve.endpoints.deadline import Deadlines
from rayapp.serve.language.ask import TextReply
from rayapp.serve.language.log import AnswerLog
from rayapp.serve.language.presence import Presence
from rayapp.serve.language.relay import Relay
from rayapp.serve.language.tab import Tab
from rayapp.serve.wire.http import ClientGone, Emit, Response, failed, json_response
from rayapp.serve.wire.openai import error_response
from rayapp.serve.wire.sse import LAST_EVENT, event

GONE = "client_gone"
"""Why an answer ended that nobody waited for any more, as the prompt log has it."""


class Flow:
    def __init__(
        self,
        call: Call,
        reply: TextReply,
        relay: Relay,
        written: AnswerLog,
        deadlines: Deadlines,
        meter: Meter,
    ) -> None:
        self._call = call
        self._reply = reply
        self._relay = relay
        assert reply.bill is not None, "whoever answers a gateway is paid"
        self._tab = reply.bill.tab
        self._tab.record = written.record
        self._written = written
        self._deadlines = deadlines
        self._meter = meter
        self._spent = reply.spent
        """What is not recorded of it yet."""
        self._is_ended = False

    async def whole(self) -> Response:
        """An answer that is one document. What nobody got is not paid for."""
        parts = [self._reply.first]
        try:
            async with Presence(self._call.request.receive):
                parts += [part async for part in self._reply.body]
            document = self._relay.document(b"".join(parts))
            self._relay.passed_on()
            self._note_first_token()
            await self._tab.grow(self._relay.usage, self._said)
            await self._record_spent()
        except BaseException:
            self._tab.drop()
            self._drop_spent()
            raise
        finally:
            await self._reply.body.aclose()
        self._end(self._relay.finish_reason or "stop")
        return json_response(200, document)

    async def stream(self, emit: Emit) -> None:
        """An answer as server-sent events. A mistake on the way is the last event but one, as the
        status has gone out long before. It is told once the engine's work and the records are over:
        whoever does not read on can hold up neither."""
        last = LAST_EVENT
        try:
            await self._pass_all(emit)
            self._end(self._relay.finish_reason or "stop")
        except ClientGone:
            self._cut(GONE)
            return
        except Exception as error:  # noqa: BLE001 - sorted by kind in `failed`
            told = error_response(failed(error, self._call.request, self._call.request_id))
            last = event(orjson.loads(told.body)) + LAST_EVENT
            self._cut(_reason(error))
        except BaseException:
            self._cut("stopped")
            raise
        await emit(last)

    async def _pass_all(self, emit: Emit) -> None:
        try:
            async with Presence(self._call.request.receive):
                with self._deadlines.within(self._call.deadline_s):
                    await self._pass(self._reply.first, emit)
                    async for data in self._reply.body:
                        await self._pass(data, emit)
        except DeadlineExceeded:
            given_ms = (self._call.deadline_s - self._call.start_s) * 1000
            raise DeadlineExceeded(
                f"the answer was not complete within {given_ms:.0f} ms"
            ) from None
        finally:
            await self._reply.body.aclose()
        if not self._relay.is_done:
            raise Unavailable("the engine's answer broke off", "ask again")

    async def _pass(self, data: bytes, emit: Emit) -> None:
        events = self._relay.events(data)
        await self._record_spent()
        await self._tab.grow(self._relay.usage, self._said)
        self._relay.passed_on()
        self._note_first_token()
        if events:
            await emit(b"".join(map(event, events)))
        if self._relay.failure is not None:
            raise self._relay.failure

    def _said(self) -> list[dict[str, Any]]:
        return self._relay.said.taken(is_last=False)

    def _note_first_token(self) -> None:
        if self._written.first_token_s is None and self._relay.usage.num_output:
            self._written.first_token_s = time.monotonic()
            taken_s = self._written.first_token_s - self._call.start_s
            self._meter.first_token(self._written.endpoint, taken_s)

    def _cut(self, reason: str) -> None:
        """The answer ended before its end."""
        self._meter.cut(self._written.endpoint, reason)
        with suppress(Unavailable):  # the record of the rest; `store` has told the log
            self._end(reason)

    def _end(self, reason: str) -> None:
        """Once; again does nothing. Raises Unavailable where the last part cannot be recorded."""
        if self._is_ended:
            return
        self._is_ended = True
        self._drop_spent()
        try:
            self._tab.end(self._relay.said.taken(is_last=True), reason)
        finally:
            self._count(self._tab, self._reply.release_id)

    async def _record_spent(self) -> None:
        """Before anything is given for which it was spent: the first part of what is recorded."""
        spent, self._spent = self._spent, None
        if spent is None or spent.reply.bill is None:
            return
        tab = spent.reply.bill.tab
        log = replace(self._written, reply=spent.reply, assignment=spent.assignment)
        tab.record = log.record
        try:
            await tab.grow(spent.usage, list)
        except BaseException:
            tab.drop()
            raise
        tab.end([], None)
        self._tab.number = tab.number
        self._count(tab, spent.reply.release_id)

    def _drop_spent(self) -> None:
        """Nobody got anything for it."""
        spent, self._spent = self._spent, None
        if spent is not None and spent.reply.bill is not None:
            spent.reply.bill.tab.drop()

    def _count(self, tab: Tab, release_id: str) -> None:
        counts = tab.given.counts
        if any(counts.values()):
            who = self._written.endpoint, release_id, self._call.tenant
            self._meter.tokens(*who, counts)
            if tab.cost_nano_usd:
                self._meter.cost(*who, tab.cost_nano_usd)


def _reason(error: Exception) -> str:
    """As the prompt log has it; no inside of ours."""
    if isinstance(error, RequestError):
        return error.kind
    if isinstance(error, DeadlineExceeded):
        return "deadline"
    return "unavailable" if isinstance(error, Unavailable) else "failed"
