"""Rates in tokens: what a request asks for before, what it gives back afterwards, and what becomes
of both while the keeper is away."""

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from language_case import COMPLETIONS, EMBEDDINGS, LanguageCase, chat, events_of, with_settings
from memory_bank import MemoryBank
from serving_case import until

from rayapp.config.tenants import BudgetsConfig, TokenLimitsConfig
from rayapp.errors import OverRate, RequestError
from rayapp.schemas.traffic import NANO
from rayapp.serve.callers.budgets import Budgets
from rayapp.serve.callers.limits import Bucket, Grant, Keeper
from rayapp.serve.callers.token_limits import TokenLimiter

LIMITS = TokenLimitsConfig.model_validate(
    {
        "default": {"tokens_per_s": 10, "burst": 100},
        "tenants": {"acme": {"tokens_per_s": 100, "burst": 1000}},
    }
)
TEN = " ".join(f"w{number}" for number in range(10))


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


class Site:
    """A keeper and the gateways that lease from it, on one clock."""

    def __init__(self, limits: TokenLimitsConfig = LIMITS, num_gateways: int = 1) -> None:
        self.clock = Clock()
        self.keeper: Keeper | None = Keeper(limits, self.clock)
        self.num_leases = 0
        share = 1 / num_gateways
        self.gateways = [
            TokenLimiter(limits, self.lease, self.give_back, share, self.clock)
            for _ in range(num_gateways)
        ]

    async def lease(self, tenant: str, wanted: float) -> Grant:
        await asyncio.sleep(0)
        self.num_leases += 1
        if self.keeper is None:
            raise ConnectionError("the keeper is dead")
        return self.keeper.lease_whole(tenant, wanted)

    def give_back(self, tenant: str, unused: float) -> None:
        if self.keeper is None:
            raise ConnectionError("the keeper is dead")
        self.keeper.give_back(tenant, unused)

    async def refused(self, tenant: str | None, num_tokens: int, gateway: int = 0) -> RequestError:
        with pytest.raises(RequestError) as error:
            await self.gateways[gateway].take(tenant, num_tokens)
        assert (error.value.status, error.value.kind) == (429, "rate_limited")
        return error.value

    async def left(self, tenant: str) -> float:
        """In the keeper's bucket."""
        assert self.keeper is not None
        return self.keeper.lease(tenant, 10**6).tokens


@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 60), st.floats(0, 1)), max_size=40),
    st.floats(0.5, 50),
    st.integers(1, 50),
)
def test_a_bucket_never_gives_more_than_its_rate(
    asks: list[tuple[float, int, float]], rate: float, burst: int
) -> None:
    """What is more than the burst is owed, so nobody is ahead by more than one request."""
    bucket, now_s, used = Bucket(rate, burst, 0.0), 0.0, 0.0
    most = max(burst, *(wanted for _, wanted, _ in asks), 0)
    for pause_s, wanted, used_share in asks:
        now_s += pause_s
        grant = bucket.take_whole(wanted, now_s)
        assert grant.tokens in (0, wanted)
        assert (grant.wait_s > 0) == (grant.tokens == 0)
        unused = round(grant.tokens * (1 - used_share))
        bucket.put_back(unused, now_s)
        used += grant.tokens - unused
        assert used <= most + rate * now_s + 1e-6


async def test_a_request_has_all_that_it_asks_for_or_nothing() -> None:
    site = Site()
    await site.gateways[0].take("other", 70)
    refused = await site.refused("other", 50)
    assert refused.retry_after_s == 2  # 20 more must flow in
    assert not isinstance(refused, OverRate)  # a smaller one is still answered
    await site.gateways[0].take("other", 30)
    site.clock.now_s += 2
    await site.gateways[0].take("other", 20)
    await site.refused("other", 1)


async def test_what_was_not_used_goes_back() -> None:
    site = Site()
    taken = await site.gateways[0].take("other", 100)
    await site.refused("other", 60)
    taken.end(num_used=40)
    (await site.gateways[0].take("other", 60)).end(num_used=60)
    assert await site.left("other") == 0
    taken = await site.gateways[0].take("acme", 1000)
    site.clock.now_s += 5
    taken.end(num_used=0)
    assert await site.left("acme") == 1000  # more does not lie in it
    taken.end(num_used=2000)  # an engine counted more than we did: nothing comes back
    assert await site.left("acme") == 0


async def test_more_than_the_burst_is_refused_for_good() -> None:
    site = Site()
    refused = await site.refused("other", 101)
    assert (refused.retry_after_s, refused.param) == (None, "max_tokens")
    assert "at any time" in refused.what
    assert "lower `max_tokens`" in refused.next_step
    assert site.num_leases == 0
    await site.gateways[0].take("other", 100)


async def test_tenants_do_not_use_each_others_rate() -> None:
    site = Site()
    for tenant in ("other", "third", None):
        await site.gateways[0].take(tenant, 100)
        await site.refused(tenant, 1)
    await site.gateways[0].take("acme", 1000)


async def test_several_gateways_share_one_rate() -> None:
    site = Site(num_gateways=3)
    taken = [await site.gateways[number].take("acme", 300) for number in range(3)]
    await site.refused("acme", 300)
    taken[1].end(num_used=100)
    await site.gateways[2].take("acme", 300)
    await site.refused("acme", 1)


async def test_who_has_no_rate_asks_nobody() -> None:
    tokens = {"tokens_per_s": 1, "burst": 1}
    site = Site(TokenLimitsConfig.model_validate({"tenants": {"acme": tokens}}))
    for tenant in ("other", None):
        (await site.gateways[0].take(tenant, 10**9)).end(num_used=0)
    assert site.num_leases == 0
    await site.refused("acme", 2)


async def test_while_the_keeper_is_dead_each_gateway_keeps_its_share(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site(num_gateways=2)
    keeper, site.keeper = site.keeper, None
    taken = [await site.gateways[number].take("acme", 500) for number in range(2)]
    refused = await site.refused("acme", 100)
    assert refused.retry_after_s == 2
    assert caplog.text.count("token_limits_kept_alone") == 2
    taken[0].end(num_used=400)  # to where it came from
    await site.gateways[0].take("acme", 100)
    await site.refused("acme", 100, gateway=1)
    site.keeper = keeper
    await site.gateways[1].take("acme", 1000)


async def test_one_that_is_larger_than_a_share_is_not_shut_out_while_the_keeper_is_dead() -> None:
    site = Site(num_gateways=2)
    site.keeper = None
    await site.gateways[0].take("acme", 900)
    site.clock.now_s += 8  # 50 tokens a second are this gateway's; it owes 400
    await site.refused("acme", 1)
    site.clock.now_s += 1
    await site.gateways[0].take("acme", 50)


async def test_a_keeper_that_dies_before_something_comes_back_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    taken = await site.gateways[0].take("acme", 500)
    site.keeper = None
    taken.end(num_used=1)
    assert "tokens_not_given_back" in caplog.text


@pytest.mark.parametrize("is_answered", [True, False], ids=["meanwhile", "later"])
async def test_a_caller_that_leaves_while_the_keeper_is_asked_gives_all_back(
    is_answered: bool,
) -> None:
    site, answered = Site(), asyncio.Event()
    gateway, keeper = site.gateways[0], site.keeper
    assert keeper is not None
    asked: list[float] = []

    async def slow(tenant: str, wanted: float) -> Grant:
        grant = keeper.lease_whole(tenant, wanted)
        asked.append(grant.tokens)
        await answered.wait()
        return grant

    gateway._lease = slow
    callers = [asyncio.create_task(gateway.take("other", 70)) for _ in range(2)]
    await until(lambda: len(asked) == 2)
    assert asked == [70, 0]
    if is_answered:
        answered.set()
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    answered.set()
    await asyncio.sleep(0.01)
    assert all(caller.cancelled() for caller in callers)
    assert await site.left("other") == 100


async def test_a_keeper_that_dies_while_it_is_asked_disturbs_nobody_who_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    site.keeper = None
    caller = asyncio.create_task(site.gateways[0].take("other", 70))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    await asyncio.sleep(0.01)
    assert caller.cancelled()
    assert caplog.text == ""


# the gateway


class Served:
    """A gateway whose callers without a key may ask for so many tokens at once, ten a second."""

    def __init__(self, burst: int, budgets: Budgets | None = None, **settings: Any) -> None:
        limits = {"default": {"tokens_per_s": 10, "burst": burst}}
        self.site = Site(TokenLimitsConfig.model_validate(limits))
        self.case = LanguageCase(
            with_settings(record_every_tokens=2, **settings),
            budgets=budgets,
            token_limiter=self.site.gateways[0],
        )

    async def left(self) -> float:
        return await self.site.left("")


@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_answer_takes_what_it_may_come_to_and_uses_what_it_is(is_stream: bool) -> None:
    served = Served(30)
    assert (await served.case.chat(TEN, stream=is_stream)).status_code == 200
    assert await served.left() == 10


async def test_a_refusal_is_in_openais_shape_and_reaches_no_engine() -> None:
    served = Served(30)
    await served.site.gateways[0].take(None, 15)
    refused = await served.case.chat(TEN, stream=True)
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limited")
    assert "this request asks for 30" in error["message"]
    assert refused.headers["retry-after"] == "2"
    assert "x-rayapp-refused" not in refused.headers
    never = await served.case.chat(TEN, max_tokens=21)
    assert (never.status_code, never.json()["error"]["param"]) == (429, "max_tokens")
    assert "retry-after" not in never.headers
    assert served.case.engine.asked == []
    assert (await served.case.chat(TEN, max_tokens=5)).status_code == 200


async def test_every_answer_of_a_request_is_counted() -> None:
    served = Served(24)
    asked = {"model": "big", "prompt": ["a b", "c d"], "n": 2, "max_tokens": 5}
    assert (await served.case.post(COMPLETIONS, asked)).status_code == 200
    assert await served.left() == 24 - 4 - 6
    served = Served(5)
    vectors = {"model": "vectors", "input": ["a b c", "d e"]}
    assert (await served.case.post(EMBEDDINGS, vectors)).status_code == 200
    assert (await served.case.post(EMBEDDINGS, vectors)).status_code == 429


@pytest.mark.parametrize("trouble", ["is_away", "status", "breaks_at", "ends_at"])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_answer_that_fails_gives_all_of_it_back(trouble: str, is_stream: bool) -> None:
    served = Served(30)
    values = {"is_away": True, "status": 500, "breaks_at": 0, "ends_at": 0}
    setattr(served.case.engine.trouble, trouble, values[trouble])
    assert (await served.case.chat(TEN, stream=is_stream)).status_code == 503
    assert await served.left() == 30


async def test_what_a_budget_refuses_takes_nothing_of_the_rate() -> None:
    config = BudgetsConfig(default_usd=1 / NANO)
    budgets = Budgets(config, MemoryBank(), deadline_s=1)
    models = {"big": {"usd_per_million_output_tokens": 1}}
    served = Served(100, budgets, models=models)
    refused = await served.case.chat(TEN)
    assert refused.json()["error"]["code"] == "budget_exceeded"
    assert await served.left() == 100


async def test_a_caller_that_leaves_a_stream_gives_the_rest_back() -> None:
    served = Served(30)
    served.case.engine.trouble.hangs_at = 4
    caller = served.case.caller(chat(TEN, stream=True))
    await caller.has(4)
    caller.go()
    await caller.done()
    assert await served.left() == 30 - 10 - 3


async def test_a_caller_that_leaves_before_an_answer_gives_all_back() -> None:
    served = Served(30)
    served.case.engine.trouble.hangs_before = True
    caller = served.case.caller(chat(TEN, stream=True))
    await until(lambda: served.case.engine.num_ongoing)
    caller.go()
    await caller.done()
    assert await served.left() == 30


async def test_what_cannot_be_recorded_gives_its_tokens_back() -> None:
    served = Served(30)
    served.case.sink.error = OSError(28, "No space left on device")
    assert (await served.case.chat(TEN)).status_code == 503
    answer = await served.case.chat(TEN, stream=True)
    assert events_of(answer.content)[-2]["error"]["code"] == "unavailable"
    assert await served.left() == 30
    assert orjson.loads((await served.case.chat(TEN, max_tokens=54)).content)["error"]["code"] == (
        "rate_limited"
    )
