"""A second model hears the same requests; its answers are complete, cost nobody anything, and only
the prompt log gets them, under a name of their own."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from rayapp.config.language import Redaction
from rayapp.schemas.traffic import SHADOW
from rayapp.serve.call import Meter
from rayapp.serve.endpoints.deadline import Deadlines
from rayapp.serve.language.ask import TextAsk, TextReply, completed
from rayapp.serve.language.billed import Billed
from rayapp.serve.language.log import AnswerLog
from rayapp.serve.language.relay import Relay
from rayapp.serve.predicting import RecordSink


class Unheard:
    """Asks for a whole answer, whatever the caller wants of his own. Whoever answers is paid by
    nobody, so nothing is taken from the caller's rate or budget."""

    def __init__(self, inner: Billed, deadlines: Deadlines) -> None:
        self._inner = inner
        self._deadlines = deadlines

    async def predict(self, ask: TextAsk) -> TextReply:
        fields = {
            k: v for k, v in ask.asked.fields.items() if k not in ("stream", "stream_options")
        }
        asked = replace(ask.asked, fields=fields, is_stream=False, wants_usage=False)
        with self._deadlines.within(ask.deadline_s):
            return await completed(await self._inner.predict(replace(ask, asked=asked)))


class Overheard:
    """Records what a shadow answered. prompts: where the answers under a name are recorded."""

    def __init__(
        self,
        prompts: Callable[[str], RecordSink],
        redacts: Redaction,
        now: Callable[[], datetime],
        meter: Meter,
    ) -> None:
        self._prompts = prompts
        self._redacts = redacts
        self._now = now
        self._meter = meter

    async def __call__(self, name: str, ask: TextAsk, reply: TextReply, took_ms: float) -> None:
        assert reply.bill is not None, "a shadow is Billed"
        tab, told = reply.bill.tab, name + SHADOW
        relay = Relay(ask.asked, name, "")
        begun_s = time.monotonic() - took_ms / 1000
        tab.record = AnswerLog(
            self._prompts(told), ask, begun_s, told, self._redacts, self._now, reply, ask.assignment
        ).record
        try:
            relay.document(reply.first)
            relay.passed_on()
            await tab.grow(relay.usage, list)
        except BaseException:
            tab.drop()
            raise
        tab.end(relay.said.taken(is_last=True), relay.finish_reason or "stop")
        self._meter.tokens(told, reply.release_id, ask.tenant, relay.usage.counts)
