"""Whoever answers is told the question in its own words and paid for: its tokens are counted, and
what they may come to is reserved, before its engine is asked."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from rayapp.config.language import Redaction
from rayapp.schemas.prompt import Prompt
from rayapp.serve.aside import aside
from rayapp.serve.callers.token_limits import TokenLimiter
from rayapp.serve.language.ask import Bill, TextAsk, TextReply
from rayapp.serve.language.charges import NOBODY, Payers, Prices
from rayapp.serve.language.log import prompt_text
from rayapp.serve.language.served import Served, told, version_of
from rayapp.serve.language.tab import Tab
from rayapp.serve.tracing.span import step


@dataclass(frozen=True)
class Desk:
    """What all answers of a gateway are paid by, and how. tokens_at_a_time: of one choice, those
    that are paid for and recorded together. limiter: None where nobody's tokens are limited."""

    tokens_at_a_time: int
    redacts: Redaction
    payers: Payers = NOBODY
    limiter: TokenLimiter | None = None

    def tab(self, ask: TextAsk, prices: Prices, is_whole: bool) -> Tab:
        """is_whole: nothing of the answer is given before all of it is there, so all of it is
        reserved."""
        num_answers = ask.asked.num_answers
        most = ask.max_tokens * num_answers
        tokens = most if is_whole else self.tokens_at_a_time * num_answers
        return Tab(self.payers, ask.tenant, prices, tokens, most, self.limiter)


@dataclass(frozen=True)
class Opened:
    """A question that is counted and reserved, and that nobody was asked yet."""

    served: Served
    ask: TextAsk
    bill: Bill


class Billed:
    """find: who answers now; raises Unavailable where nobody does. prices: of their tokens.
    max_output_tokens: of an answer, where the caller does not say. first_told: a prompt that counts
    more than that of who answers."""

    def __init__(
        self,
        find: Callable[[], Served],
        prices: Prices,
        max_output_tokens: int,
        desk: Desk,
        first_told: Callable[[], Prompt | None] = lambda: None,
    ) -> None:
        self._find = find
        self._prices = prices
        self._max_output_tokens = max_output_tokens
        self._desk = desk
        self._first_told = first_told

    async def predict(self, ask: TextAsk) -> TextReply:
        """Raises RequestError also for what the model cannot take, and where the tenant's rate or
        budget does not cover it."""
        return await self.answered(await self.opened(ask, is_whole=not ask.asked.is_stream))

    async def opened(self, ask: TextAsk, is_whole: bool) -> Opened:
        """Whoever has it asks, or drops its tab."""
        served = self._find()
        served.require_task(ask.asked)
        asked, said = ask.asked, served.said_to(ask.asked, self._first_told())
        if said is not None:
            asked = told(asked, said)
        counts = await aside(partial(served.engine.count, asked.fields), ask.is_long)
        max_tokens = served.room(asked, counts, self._max_output_tokens)
        keeping = partial(prompt_text, asked.fields, self._desk.redacts)
        prompt = await aside(keeping, ask.is_long)
        ask = replace(ask, asked=asked, max_tokens=max_tokens)
        tab = self._desk.tab(ask, self._prices, is_whole)
        await tab.begin(sum(counts))
        digest = None if said is None else version_of(said)
        return Opened(served, ask, Bill(tab, prompt, digest))

    async def answered(self, opened: Opened) -> TextReply:
        try:
            with step(f"model {opened.served.name}", is_call=True):
                reply = await opened.served.endpoint.predict(opened.ask)
        except BaseException:
            opened.bill.tab.drop()
            raise
        return replace(reply, bill=opened.bill)
