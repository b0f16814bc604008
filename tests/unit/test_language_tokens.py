"""Budgets in tokens, beside those in money or alone: both are reserved, or neither, and each is
settled by what was recorded."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from language_case import EMBEDDINGS, LanguageCase, chat, events_of, text_of, with_settings
from memory_bank import MemoryBank
from serving_case import until

from rayapp.config.tenants import BudgetsConfig, TokenBudgetsConfig
from rayapp.errors import RequestError
from rayapp.schemas.traffic import NANO
from rayapp.serve.callers.budgets import Budgets
from rayapp.serve.language.charges import Cost, Payers, Prices
from rayapp.serve.language.relay import Usage
from rayapp.serve.language.tab import Part, Tab

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
IN, OUT = 2, 10
"""Billionths of a dollar for a token."""
PRICED = {
    "usd_per_million_input_tokens": IN / 1000,
    "usd_per_million_output_tokens": OUT / 1000,
    "max_output_tokens": 20,
}
TEN = " ".join(f"w{number}" for number in range(10))


def of_tokens(limit: int, bank: MemoryBank, **extra: Any) -> Budgets:
    config = TokenBudgetsConfig(default_tokens=limit, **extra)
    return Budgets(config, bank, deadline_s=1, now=lambda: NOON)


def of_money(limit: int, bank: MemoryBank) -> Budgets:
    config = BudgetsConfig(default_usd=limit / NANO)
    return Budgets(config, bank, deadline_s=1, now=lambda: NOON)


class Site:
    """A gateway whose callers may use so many tokens, and spend so much."""

    def __init__(self, tokens: int, nano_usd: int = 10**6, every: int = 2) -> None:
        self.tokens, self.money = MemoryBank(), MemoryBank()
        self.payers = Payers(of_money(nano_usd, self.money), of_tokens(tokens, self.tokens))
        config = with_settings({"big": PRICED}, record_every_tokens=every)
        self.case = LanguageCase(
            config, budgets=self.payers.money, token_budgets=self.payers.tokens
        )

    async def used(self) -> tuple[int, int]:
        """Tokens, and billionths of a dollar, once all loans are back; which is what the records
        have."""
        await self.payers.drain()
        assert self.tokens.loans == self.money.loans == {}
        used = Cost()
        for record in self.case.sink.records:
            tokens = record["num_prompt_tokens"] + record["num_output_tokens"]
            used = Cost(used.nano_usd + record["cost_nano_usd"], used.tokens + tokens)
            assert (record["token_loan_id"] is None) == (tokens == 0)
        assert (self.money.spent, self.tokens.spent) == used
        assert self.case.is_idle()
        return used.tokens, used.nano_usd


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_a_whole_answer_uses_what_it_has_and_gives_the_rest_back() -> None:
    site = Site(30)  # just what is reserved for the first
    assert (await site.case.chat(TEN)).status_code == 200
    assert await site.used() == (20, 10 * IN + 10 * OUT)
    assert (site.tokens.units, site.money.units) == ({"tokens"}, {"nano_usd"})
    refused = await site.case.chat(TEN)
    assert code_of(refused) == (429, "budget_exceeded")
    assert refused.json()["error"]["type"] == "insufficient_quota"
    assert "may use 30 tokens a month" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) == 29 * 86_400 + 43_200
    assert len(site.case.engine.asked) == 1


async def test_a_stream_is_cut_where_the_tokens_end() -> None:
    site = Site(15)
    answer = await site.case.chat(TEN, stream=True)
    *given_, told, last = events_of(answer.content)
    assert (told["error"]["type"], last) == ("insufficient_quota", "[DONE]")
    assert told["error"]["code"] == "budget_exceeded"
    assert text_of(given_) == site.case.output == "w0 w1 w2 w3 "
    assert site.case.sink.records[-1]["finish_reason"] == "budget_exceeded"
    assert await site.used() == (14, 10 * IN + 4 * OUT)


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize(("tokens", "nano_usd"), [(5, 10**6), (1000, 15)])
async def test_a_refusal_of_one_leaves_nothing_reserved_of_the_other(
    tokens: int, nano_usd: int, is_stream: bool
) -> None:
    site = Site(tokens, nano_usd)
    assert code_of(await site.case.chat(TEN, stream=is_stream)) == (429, "budget_exceeded")
    assert await site.used() == (0, 0)
    assert site.case.engine.asked == []


async def test_models_that_cost_no_money_use_tokens() -> None:
    site = Site(16, nano_usd=0)
    answer = await site.case.chat(TEN, stream=True, model="small")
    assert text_of(events_of(answer.content)) == "w0 w1 w2 w3 w4 w5 "
    assert {record["loan_id"] for record in site.case.sink.records} == {None}
    assert await site.used() == (16, 0)


async def test_vectors_use_their_input() -> None:
    site = Site(9)
    asked = {"model": "vectors", "input": ["a b c", "d e"]}
    assert (await site.case.post(EMBEDDINGS, asked)).status_code == 200
    assert await site.used() == (5, 0)
    assert (await site.case.post(EMBEDDINGS, asked)).status_code == 429


@pytest.mark.parametrize("trouble", ["is_away", "status", "breaks_at", "ends_at"])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_answer_that_fails_uses_nothing(trouble: str, is_stream: bool) -> None:
    site = Site(30)
    values = {"is_away": True, "status": 500, "breaks_at": 0, "ends_at": 0}
    setattr(site.case.engine.trouble, trouble, values[trouble])
    for _ in range(3):
        assert (await site.case.chat(TEN, stream=is_stream)).status_code == 503
    assert await site.used() == (0, 0)


async def test_many_streams_whose_engine_dies_use_no_more_than_was_given() -> None:
    limit = 64 * 10 + 100
    site = Site(limit)
    site.case.engine.trouble.breaks_at = 4
    answers = await asyncio.gather(*(site.case.chat(TEN, stream=True) for _ in range(64)))
    used, _ = await site.used()
    assert used <= limit
    begun = [events_of(answer.content) for answer in answers if answer.status_code == 200]
    reasons = {events[-2]["error"]["code"] for events in begun}
    reasons |= {code_of(answer)[1] for answer in answers if answer.status_code != 200}
    assert {events[-1] for events in begun} == {"[DONE]"}
    assert reasons == {"unavailable", "budget_exceeded"}
    num_given = sum(len(text_of(events).split()) for events in begun)
    num_prompts = sum(1 for events in begun if text_of(events))
    assert used == num_given + 10 * num_prompts


async def test_a_replica_that_stood_still_ends_its_answers() -> None:
    """Its loan of tokens may have been settled by what it had recorded."""
    site = Site(1000)
    late_s, hanging = [0.0], asyncio.Event()
    assert site.payers.tokens is not None
    site.payers.tokens.clock_s = lambda: late_s[0]
    site.case.engine.trouble.hangs_at = 4
    site.case.engine.trouble.goes_on = hanging
    caller = site.case.caller(chat(TEN, stream=True))
    await caller.has(4)
    late_s[0] = 1e6
    site.case.engine.trouble.hangs_at = None
    hanging.set()
    await caller.done()
    assert caller.events[-2]["error"]["code"] == "unavailable"
    assert [r["num_output_tokens"] for r in site.case.sink.records] == [2]
    await site.payers.drain()
    assert (site.money.spent, site.money.loans) == (10 * IN + 2 * OUT, {})


async def test_a_caller_that_leaves_while_tokens_are_asked_for_leaves_no_money_reserved() -> None:
    site = Site(1000, nano_usd=1000)
    assert site.payers.tokens is not None
    site.payers.tokens._lend = never  # type: ignore[method-assign]
    caller = asyncio.create_task(site.payers.reserve("acme", Cost(1000, 5)))
    assert site.payers.money is not None
    wallets = site.payers.money._wallets
    await until(lambda: "acme" in wallets and wallets["acme"].purse is not None)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert (await site.payers.money.reserve("acme", 1000)).amount == 1000


async def never(*arguments: Any, **more: Any) -> None:
    await asyncio.Event().wait()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=20),
    st.integers(1, 10),
    st.integers(0, 20),
    st.integers(0, 400),
    st.integers(0, 80),
)
def test_a_tab_never_uses_more_than_there_is(
    steps: list[tuple[int, int]], at_a_time: int, num_counted: int, nano_usd: int, tokens: int
) -> None:
    """Of either, whatever an engine counts, in whatever steps."""

    async def run() -> None:
        money_bank, token_bank = MemoryBank(), MemoryBank()
        payers = Payers(of_money(nano_usd, money_bank), of_tokens(tokens, token_bank))
        parts: list[Part] = []

        def record(part: Part) -> None:
            parts.append(part)
            part.charges.settle()

        tab = Tab(payers, None, Prices(IN, OUT), at_a_time, 1000)
        tab.record = record
        usage = Usage()
        try:
            await tab.begin(num_counted)
            for num_prompt, num_output in steps:
                usage = Usage(usage.num_prompt + num_prompt, 0, usage.num_output + num_output)
                await tab.grow(usage, lambda: [])
            tab.end([], "stop")
        except RequestError:
            tab.drop()
            if parts:
                tab.end([], "budget_exceeded")
        await payers.drain()
        costs = [part.charges.cost for part in parts]
        assert money_bank.spent == sum(cost.nano_usd for cost in costs) <= nano_usd
        assert token_bank.spent == sum(cost.tokens for cost in costs) <= tokens
        for part in parts:
            assert part.charges.cost.tokens == part.usage.num_prompt + part.usage.num_output >= 0

    asyncio.run(run())
