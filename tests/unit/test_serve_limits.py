"""Rates over several gateways: what the keeper gives, what a gateway spends, and either's death."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from serving_case import ENDPOINT, ROW, Case, make_bundle

from rayapp.config.serving import ServingConfig
from rayapp.config.tenants import LimitsConfig
from rayapp.errors import RequestError
from rayapp.serve.callers.limits import Bucket, Grant, Keeper, Limiter

LIMITS = LimitsConfig.model_validate(
    {
        "default": {"requests_per_s": 10, "burst": 5},
        "tenants": {"acme": {"requests_per_s": 100, "burst": 200}},
    }
)
RATE = {"requests_per_s": 1, "burst": 1}


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


class Site:
    """A keeper and the gateways that lease from it, on one clock."""

    def __init__(self, limits: LimitsConfig = LIMITS, num_gateways: int = 1) -> None:
        self.clock = Clock()
        self.limits = limits
        self.keeper: Keeper | None = Keeper(limits, self.clock)
        self.num_leases = 0
        share = 1 / num_gateways
        self.gateways = [
            Limiter(limits, self.lease, share, self.clock) for _ in range(num_gateways)
        ]

    async def lease(self, tenant: str, wanted: float) -> Grant:
        await asyncio.sleep(0)
        self.num_leases += 1
        if self.keeper is None:
            raise ConnectionError("the keeper is dead")
        return self.keeper.lease(tenant, wanted)

    async def admitted(self, tenant: str | None, num_asked: int, gateway: int = 0) -> int:
        calls = [self.gateways[gateway].admit(tenant) for _ in range(num_asked)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [r for r in results if r is not None]
        assert all(isinstance(r, RequestError) and r.status == 429 for r in refused)
        return num_asked - len(refused)


@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 20)), max_size=40),
    st.floats(0.5, 50),
    st.integers(1, 30),
)
def test_a_bucket_never_gives_more_than_its_rate(
    asks: list[tuple[float, int]], rate: float, burst: int
) -> None:
    bucket, now_s, given_ = Bucket(rate, burst, 0.0), 0.0, 0.0
    for pause_s, wanted in asks:
        now_s += pause_s
        given_ += bucket.take(wanted, now_s).tokens
        assert given_ <= burst + rate * now_s + 1e-6


@pytest.mark.parametrize(("rate", "burst"), [(100, 1), (1000, 10), (20, 1), (100, 50)])
async def test_a_small_burst_costs_nothing_of_the_rate(rate: int, burst: int) -> None:
    limits = {"default": {"requests_per_s": rate, "burst": burst}}
    site = Site(LimitsConfig.model_validate(limits))
    num_admitted = 0
    for _ in range(2000):
        site.clock.now_s += 0.001
        num_admitted += await site.admitted("t", 2)
    assert 0.85 * 2 * rate <= num_admitted <= burst + 2 * rate


async def test_a_burst_and_then_the_rate() -> None:
    site = Site()
    assert await site.admitted("other", 20) == 5
    site.clock.now_s += 0.5
    assert await site.admitted("other", 20) == 5
    site.clock.now_s += 0.1
    assert await site.admitted("other", 20) == 1


async def test_tenants_do_not_use_each_others_rate() -> None:
    site = Site()
    assert await site.admitted("other", 50) == 5
    assert await site.admitted("acme", 150) == 150
    assert await site.admitted(None, 50) == 5
    assert await site.admitted("third", 50) == 5


async def test_several_gateways_share_one_rate() -> None:
    site = Site(num_gateways=3)
    first = sum([await site.admitted("acme", 300, gateway) for gateway in range(3)])
    assert first <= 200
    site.clock.now_s += 1.0
    later = sum([await site.admitted("acme", 300, gateway) for gateway in range(3)])
    assert 80 <= later <= 130


async def test_most_requests_ask_nobody() -> None:
    site = Site()
    await site.admitted("acme", 200)
    assert site.num_leases <= 21


async def test_what_is_not_used_is_void() -> None:
    site = Site()
    await site.admitted("acme", 1)
    before = site.num_leases
    site.clock.now_s += 1.5
    await site.admitted("acme", 1)
    assert site.num_leases == before + 1


async def test_a_slow_keeper_holds_up_nobody_who_keeps_to_the_rate() -> None:
    """A lease that comes late is for all who came meanwhile, and is asked for ahead of need."""
    limits = LimitsConfig.model_validate({"default": {"requests_per_s": 100, "burst": 100}})
    site = Site(limits)
    gateway, answered = site.gateways[0], asyncio.Event()
    keeper = site.keeper
    assert keeper is not None

    async def slow(tenant: str, wanted: float) -> Grant:
        site.num_leases += 1
        await answered.wait()
        return keeper.lease(tenant, wanted)

    gateway._lease = slow
    waiting = [asyncio.create_task(gateway.admit("a")) for _ in range(60)]
    await asyncio.sleep(0)
    answered.set()
    await asyncio.gather(*waiting)
    assert site.num_leases <= 3
    answered.clear()
    await asyncio.sleep(0)
    before = site.num_leases
    for _ in range(5):  # what was leased ahead
        await gateway.admit("a")
    assert site.num_leases - before <= 1


async def test_one_over_its_rate_is_refused_without_asking_the_keeper() -> None:
    site = Site()
    assert await site.admitted("other", 50) == 5
    before = site.num_leases
    assert await site.admitted("other", 1000) == 0
    assert site.num_leases == before


@pytest.mark.parametrize(
    ("requests_per_s", "wait_s", "says"),
    [(0.1, 10, "may send 0.1 requests a second"), (1, 1, "may send 1 request a second")],
)
async def test_the_wait_is_told(requests_per_s: float, wait_s: int, says: str) -> None:
    rate = {"requests_per_s": requests_per_s, "burst": 1}
    limits = LimitsConfig.model_validate({"default": rate})
    site = Site(limits)
    await site.gateways[0].admit("a")
    with pytest.raises(RequestError) as error:
        await site.gateways[0].admit("a")
    assert error.value.retry_after_s == wait_s
    assert says in error.value.what


async def test_without_a_limit_no_lease_is_asked_for() -> None:
    site = Site(LimitsConfig.model_validate({"tenants": {"acme": RATE}}))
    assert await site.admitted("a", 100) == 100
    assert site.num_leases == 0


async def test_while_the_keeper_is_dead_each_gateway_keeps_its_share(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site(num_gateways=2)
    site.keeper = None
    together = [await site.admitted("acme", 300, gateway) for gateway in range(2)]
    assert together == [100, 100]
    assert caplog.text.count("limits_kept_alone") == 2
    site.clock.now_s += 0.5
    assert await site.admitted("acme", 300) == 25
    site.keeper = Keeper(LIMITS, site.clock)  # a successor knows of nothing that was given
    site.clock.now_s += 2
    assert await site.admitted("acme", 500) <= 201


async def test_once_a_lease_has_failed_no_request_waits_for_the_next() -> None:
    site = Site(num_gateways=2)
    gateway, keeper, asked = site.gateways[0], site.keeper, asyncio.Event()
    site.keeper = None
    await gateway.admit("acme")

    async def never(tenant: str, wanted: float) -> Grant:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    gateway._lease = never
    site.clock.now_s += 1.5  # what was granted is void
    calls = [gateway.admit("acme") for _ in range(150)]
    answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert asked.is_set()
    assert answers.count(None) == 100  # half of the burst, as one of two
    gateway._lease = site.lease
    leasing = gateway._allowances["acme"].leasing
    assert leasing is not None
    leasing.cancel()
    await asyncio.sleep(0)
    site.keeper = keeper
    site.clock.now_s += 2
    assert await site.admitted("acme", 1) == 1  # by its own share still, and asks
    assert await site.admitted("acme", 500) > 100


async def test_a_keeper_that_fails_now_and_then_does_not_suspend_the_limit() -> None:
    limits = LimitsConfig.model_validate({"default": {"requests_per_s": 1, "burst": 50}})
    site = Site(limits)
    keeper = site.keeper
    num_admitted = 0
    for tick in range(300):
        site.clock.now_s += 0.1
        site.keeper = keeper if tick % 2 else None
        num_admitted += await site.admitted("t", 20)
    # what the keeper gives, and once more the same, which is this gateway's own share
    assert num_admitted <= 2 * (50 + 30)


async def test_a_client_that_leaves_disturbs_nobody_who_waits() -> None:
    site = Site()
    first = asyncio.create_task(site.gateways[0].admit("acme"))
    second = asyncio.create_task(site.gateways[0].admit("acme"))
    await asyncio.sleep(0)
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_refusal_names_the_limit_and_reaches_no_model(tmp_path: Path) -> None:
    make_bundle(tmp_path / "1")
    case = Case(ServingConfig(limits=LIMITS), releases={"r1": tmp_path / "1"})
    case.promote("r1")
    case.follower.refresh()
    site = Site()
    case.app._limiter = site.gateways[0]
    body = {"dataframe_records": [ROW]}
    async with case.client() as client:
        path = f"/endpoints/{ENDPOINT}/invocations"
        answers = [await client.post(path, json=body) for _ in range(6)]
        looked = await client.get("/")
    assert [a.status_code for a in answers] == [200] * 5 + [429]
    assert answers[-1].headers["retry-after"] == "1"
    assert answers[-1].json()["error"]["type"] == "rate_limited"
    assert looked.status_code == 200
    assert len(case.predictions.records) == 5


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({}, "no rate is set: give `default` or `tenants`, or leave `limits` out"),
        ({"tenants": {"Acme!": RATE}}, "no tenant can have this name: it is 1 to 63 of a-z"),
        ({"tenants": {"": RATE}}, "no tenant can have this name"),
    ],
)
def test_limits_without_effect_are_an_error(limits: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ServingConfig.model_validate({"limits": limits})
