"""What answers of language models cost: reserved before they are given, recorded and paid part by
part, never more than the budget, and never anything else than what was recorded."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from fake_llm import count, words
from hypothesis import given
from hypothesis import strategies as st
from language_case import COMPLETIONS, EMBEDDINGS, LanguageCase, chat, events_of, with_settings
from memory_bank import MemoryBank
from serving_case import until

from rayapp.config.tenants import BudgetsConfig
from rayapp.errors import RequestError, Unavailable
from rayapp.schemas.traffic import NANO
from rayapp.serve.callers.budgets import Budgets
from rayapp.serve.language.charges import NOBODY, Payers, Prices
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


class Site:
    """A gateway whose callers may spend so many billionths of a dollar, in all."""

    def __init__(self, limit: int, every: int = 2, model: str = "big", **extra: Any) -> None:
        self.bank = MemoryBank()
        config = BudgetsConfig(default_usd=limit / NANO)
        self.budgets = Budgets(config, self.bank, deadline_s=1, now=lambda: NOON)
        priced = with_settings({model: PRICED}, record_every_tokens=every, **extra)
        self.case = LanguageCase(priced, budgets=self.budgets)

    async def paid(self) -> int:
        """What was spent, once all loans are back; which is what the records have."""
        await self.budgets.drain()
        assert self.bank.loans == {}
        spent = self.bank.spent
        records = self.case.sink.records
        assert spent == sum(record["cost_nano_usd"] for record in records)
        assert spent == sum(nano_usd for _, nano_usd in self.case.meter.costs)
        for record in records:
            tokens = record["num_prompt_tokens"], record["num_output_tokens"]
            assert record["cost_nano_usd"] == tokens[0] * IN + tokens[1] * OUT
            assert min(tokens) >= 0
            assert (record["loan_id"] is None) == (record["cost_nano_usd"] == 0)
        assert self.case.is_idle()
        return spent

    @property
    def records(self) -> list[dict[str, Any]]:
        return self.case.sink.records


def streamed(events: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content", "")
        for event in events
        if isinstance(event, dict)
        for choice in event.get("choices", ())
    )


# whole answers


async def test_a_whole_answer_costs_what_it_used_and_gives_the_rest_back() -> None:
    site = Site(10 * IN + 20 * OUT)  # just what is reserved for the first
    assert (await site.case.chat(TEN)).status_code == 200
    assert await site.paid() == 10 * IN + 10 * OUT
    refused = await site.case.chat(TEN)  # which might have 20 tokens
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "insufficient_quota")
    assert refused.json()["error"]["code"] == "budget_exceeded"
    assert "retry-after" in refused.headers
    assert len(site.case.engine.asked) == 1
    assert (await site.case.chat(TEN, max_tokens=8)).status_code == 200
    assert await site.paid() == 20 * IN + 18 * OUT


@pytest.mark.parametrize("trouble", ["is_away", "status", "breaks_at", "ends_at"])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_answer_that_fails_costs_nothing(trouble: str, is_stream: bool) -> None:
    site = Site(10 * IN + 20 * OUT)
    values = {"is_away": True, "status": 500, "breaks_at": 0, "ends_at": 0}
    setattr(site.case.engine.trouble, trouble, values[trouble])
    for _ in range(3):
        assert (await site.case.chat(TEN, stream=is_stream)).status_code == 503
    assert await site.paid() == 0
    setattr(site.case.engine.trouble, trouble, {"is_away": False}.get(trouble))
    assert (await site.case.chat(TEN)).status_code == 200


async def test_nobody_pays_for_what_no_one_waited_for() -> None:
    site = Site(1000)
    site.case.engine.trouble.hangs_at = 1
    caller = site.case.caller(chat(TEN))
    await until(lambda: site.case.engine.num_ongoing)
    caller.go()
    await caller.done()
    assert await site.paid() == 0


async def test_what_cannot_be_recorded_is_not_paid() -> None:
    site = Site(1000)
    site.case.sink.error = OSError(28, "No space left on device")
    assert (await site.case.chat(TEN)).status_code == 503
    events = events_of((await site.case.chat(TEN, stream=True)).content)
    assert events[-2]["error"]["code"] == "unavailable"
    assert await site.paid() == 0


async def test_vectors_cost_their_input() -> None:
    site = Site(9 * IN, model="vectors")
    asked = {"model": "vectors", "input": ["a b c", "d e"]}
    assert (await site.case.post(EMBEDDINGS, asked)).status_code == 200
    assert await site.paid() == 5 * IN
    assert (await site.case.post(EMBEDDINGS, asked)).status_code == 429


# streams


async def test_a_stream_is_cut_where_the_budget_ends() -> None:
    site = Site(10 * IN + 5 * OUT)
    answer = await site.case.chat(TEN, stream=True)
    *given_, told, last = events_of(answer.content)
    assert (told["error"]["type"], last) == ("insufficient_quota", "[DONE]")
    assert told["error"]["code"] == "budget_exceeded"
    assert streamed(given_) == "w0 w1 w2 w3 "  # two parts; a third would be overspent
    assert site.case.output == streamed(given_)
    assert site.records[-1]["finish_reason"] == "budget_exceeded"
    assert await site.paid() == 10 * IN + 4 * OUT
    assert site.case.meter.cuts == [("big", "budget_exceeded")]


async def test_a_budget_that_is_just_enough_is() -> None:
    """The last part is reserved for no more tokens than may still come."""
    site = Site(10 * IN + 5 * OUT)
    answer = await site.case.chat(TEN, stream=True, max_tokens=5)
    assert streamed(events_of(answer.content)) == "w0 w1 w2 w3 w4 "
    assert site.records[-1]["finish_reason"] == "length"
    assert await site.paid() == 10 * IN + 5 * OUT


async def test_a_short_answer_reserves_no_long_part() -> None:
    site = Site(10 * IN + 1 * OUT, every=32)
    answer = await site.case.chat(TEN, stream=True, max_tokens=1)
    assert streamed(events_of(answer.content)) == "w0 "
    assert await site.paid() == 10 * IN + OUT


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_prompt_that_is_longer_than_counted_is_paid_as_it_is(is_stream: bool) -> None:
    site = Site(10 * IN + 20 * OUT)
    site.case.counts = lambda fields: [1]
    assert (await site.case.chat(TEN, stream=is_stream)).status_code == 200
    assert await site.paid() == 10 * IN + 10 * OUT
    poor = Site(9 * IN)
    poor.case.counts = lambda fields: [1]
    answer = await poor.case.chat(TEN, stream=is_stream, max_tokens=1)
    told = events_of(answer.content)[-2] if is_stream else answer.json()
    assert told["error"]["code"] == "budget_exceeded"
    assert await poor.paid() == 0


async def test_several_choices_and_prompts_are_reserved_together() -> None:
    site = Site(4 * IN + 19 * OUT)
    asked = {"model": "big", "prompt": ["a b", "c d"], "n": 2, "max_tokens": 5}
    assert (await site.case.post(COMPLETIONS, asked)).status_code == 429
    assert site.case.engine.asked == []
    assert (await site.case.post(COMPLETIONS, asked | {"max_tokens": 4})).status_code == 200
    assert await site.paid() == 4 * IN + 6 * OUT


async def test_callers_at_once_do_not_overspend() -> None:
    limit = 40 * (10 * IN + 10 * OUT) + 7
    site = Site(limit)
    answers = await asyncio.gather(*(site.case.chat(TEN, stream=True) for _ in range(64)))
    spent = await site.paid()
    assert spent <= limit
    complete = [a for a in answers if a.status_code == 200 and b'"error"' not in a.content]
    assert len(complete) <= 40


async def test_models_that_cost_nothing_are_recorded_in_parts_too() -> None:
    site = Site(1)
    answer = await site.case.chat(TEN, stream=True, model="small")
    assert streamed(events_of(answer.content)) == TEN
    assert [r["num_output_tokens"] for r in site.records] == [2, 2, 2, 2, 2]
    assert {(r["cost_nano_usd"], r["loan_id"]) for r in site.records} == {(0, None)}
    assert site.case.meter.costs == []


async def test_while_the_accounts_are_away_nothing_is_given() -> None:
    class Away:
        def lend(self, *arguments: Any) -> Any:
            raise OSError("no database")

        def close(self, loan_id: str, spent: int) -> bool:
            return True

    site = Site(1000)
    site.budgets.bank = Away()
    assert (await site.case.chat(TEN)).status_code == 503
    assert site.case.engine.asked == []
    assert site.records == []


async def test_a_replica_that_stood_still_ends_its_answers() -> None:
    """Its loan may have been settled by what it had recorded."""
    site = Site(1000)
    late_s, hanging = [0.0], asyncio.Event()
    site.budgets.clock_s = lambda: late_s[0]
    site.case.engine.trouble.hangs_at = 4
    site.case.engine.trouble.goes_on = hanging
    caller = site.case.caller(chat(TEN, stream=True))
    await caller.has(4)
    late_s[0] = 1e6
    site.case.engine.trouble.hangs_at = None
    hanging.set()
    await caller.done()
    assert caller.events[-2]["error"]["code"] == "unavailable"
    assert [r["num_output_tokens"] for r in site.records] == [2]


# any pieces


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, Any], int, list[int]]:
    """A request, how many tokens a part has, and where the stream's bytes are cut."""
    text = " ".join(
        draw(st.lists(st.text("abé🙂", min_size=1, max_size=4), min_size=1, max_size=12))
    )
    fields: dict[str, Any] = {"n": draw(st.integers(1, 3)), "max_tokens": draw(st.integers(1, 15))}
    if draw(st.booleans()):
        asked = chat(text, stream=True, **fields)
    else:
        prompts = [text, *draw(st.lists(st.sampled_from(["a", "b c", "d e f"]), max_size=2))]
        asked = {"model": "big", "prompt": prompts, "stream": True, **fields}
    return asked, draw(st.integers(1, 8)), draw(st.lists(st.integers(1, 400), max_size=40))


def cut(body: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield body[:size]
        body = body[size:]
    yield body


def texts(events: list[Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for made in events:
        for choice in made.get("choices", ()) if isinstance(made, dict) else ():
            piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
            found[choice["index"]] = found.get(choice["index"], "") + piece
    return found


def recorded(records: list[dict[str, Any]]) -> dict[int, str]:
    found: dict[int, str] = {}
    for record in records:
        for choice in json.loads(record["output"] or "[]"):
            found[choice["index"]] = found.get(choice["index"], "") + choice.get("text", "")
    return found


async def check(asked: dict[str, Any], every: int, sizes: list[int], limit: int) -> None:
    site = Site(limit, every=every, redacts="nothing")
    site.case.engine.pieces = lambda body: [piece for piece in cut(body, sizes) if piece]
    path = COMPLETIONS if "prompt" in asked else "/v1/chat/completions"
    answer = await site.case.post(path, asked)
    spent = await site.paid()
    assert spent <= limit
    if answer.status_code == 429:
        assert (spent, site.records) == (0, [])
        return
    events = events_of(answer.content)
    given_texts = {at: text for at, text in texts(events).items() if text}
    assert recorded(site.records) == given_texts
    assert [record["part"] for record in site.records] == list(range(len(site.records)))
    num_output = sum(record["num_output_tokens"] for record in site.records)
    assert num_output == sum(len(words(text)) for text in given_texts.values())
    if site.records[-1]["finish_reason"] != "budget_exceeded":
        assert spent == sum(count(asked)) * IN + num_output * OUT


@given(answers(), st.sampled_from([60, 150, 400, 10**6]))
def test_parts_make_the_whole(asked: tuple[dict[str, Any], int, list[int]], limit: int) -> None:
    asyncio.run(check(*asked, limit))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=20),
    st.integers(1, 10),
    st.integers(0, 20),
    st.integers(0, 400),
)
def test_a_tab_never_spends_more_than_there_is(
    steps: list[tuple[int, int]], tokens_at_a_time: int, num_counted: int, limit: int
) -> None:
    """Whatever an engine counts, in whatever steps."""

    async def run() -> None:
        bank = MemoryBank()
        budgets = Budgets(BudgetsConfig(default_usd=limit / NANO), bank, 1, now=lambda: NOON)
        parts: list[Part] = []

        def record(part: Part) -> None:
            parts.append(part)
            part.charges.settle()

        tab = Tab(Payers(budgets), None, Prices(IN, OUT), tokens_at_a_time, 1000)
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
        await budgets.drain()
        assert bank.spent == sum(part.charges.money.amount for part in parts) <= limit
        assert bank.spent == tab.cost_nano_usd
        assert all(part.charges.money.amount >= 0 for part in parts)

    asyncio.run(run())


async def test_a_tab_whose_record_fails_is_over() -> None:
    parts: list[Part] = []

    def record(part: Part) -> None:
        if parts:
            raise Unavailable("no room", "try again")
        parts.append(part)

    tab = Tab(NOBODY, None, Prices(IN, OUT), 2, 100)
    tab.record = record
    await tab.begin(1)
    await tab.grow(Usage(1, 0, 2), lambda: [])
    await tab.grow(Usage(1, 0, 4), lambda: [{"text": "a"}])
    with pytest.raises(Unavailable):
        await tab.grow(Usage(1, 0, 6), lambda: [])
    tab.end([], "stop")
    assert (len(parts), tab.given) == (1, Usage(1, 0, 2))
    assert tab.cost_nano_usd == parts[0].charges.money.amount
    assert orjson.dumps(parts[0].said) == b'[{"text":"a"}]'
