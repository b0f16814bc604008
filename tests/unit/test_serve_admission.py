"""How many at a time: as many as the loop keeps pace with, and no tenant at another's cost."""

import asyncio
import hashlib
import math
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from language_case import LanguageCase, chat, with_settings
from serving_case import ENDPOINT, ROW, Case, in_parallel, make_bundle, until

from rayapp.config.serving import ServingConfig
from rayapp.errors import Unavailable
from rayapp.schemas.traffic import ApiKey
from rayapp.serve.callers.admission import MIN_LIMIT, MOST, TICK_S, Admission

MAX_TURN_S = 0.04


class Cpu:
    """The CPU time of the loop's thread, as a test says it passes."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def cpu() -> Cpu:
    return Cpu()


def entered(admission: Admission, tenant: str | None, times: int) -> int:
    """How many of so many requests that come at once are taken."""
    num_taken = 0
    for _ in range(times):
        try:
            admission.enter(tenant)
        except Unavailable:
            continue
        num_taken += 1
    return num_taken


def _limits_after_turns_of(*turns_s: float) -> list[float]:
    async def limit_after(turn_s: float) -> float:
        admission = Admission(128, 0.02)
        assert entered(admission, None, 128) == 128
        for _ in range(round(0.4 / turn_s)):
            until_s = time.thread_time() + turn_s
            while time.thread_time() < until_s:
                pass
            await asyncio.sleep(0)
        return admission.limit

    return [uvloop.run(limit_after(turn_s)) for turn_s in turns_s]


def turn(admission: Admission, cpu: Cpu, cost_s: float, tenant: str | None = None) -> int:
    """100 requests come, those taken cost so much each, and are answered: how many were taken."""
    num_taken = entered(admission, tenant, 100)
    cpu.now_s += num_taken * cost_s
    for _ in range(num_taken):
        admission.leave(tenant)
    admission.tick()
    return num_taken


async def test_the_limit_finds_what_fits_into_a_turn(cpu: Cpu) -> None:
    """1 ms a request: 60 fit into a tick and the longest turn together."""
    admission = Admission(128, MAX_TURN_S, cpu_s=cpu)
    taken = [turn(admission, cpu, 0.001) for _ in range(200)]
    fitting = (TICK_S + MAX_TURN_S) / 0.001
    assert taken[0] == 100
    assert all(0.75 * fitting <= one <= fitting + 1 for one in taken[-100:])


async def test_it_recovers_when_requests_become_cheap(cpu: Cpu) -> None:
    admission = Admission(64, MAX_TURN_S, cpu_s=cpu)
    for _ in range(100):
        turn(admission, cpu, 0.01)
    assert admission.limit == MIN_LIMIT
    for _ in range(100):
        turn(admission, cpu, 0.0001)
    assert admission.limit == 64


async def test_one_dear_request_at_a_time_is_no_crowd(cpu: Cpu) -> None:
    admission = Admission(128, MAX_TURN_S, cpu_s=cpu)
    for _ in range(50):
        admission.enter(None)
        cpu.now_s += 0.5
        admission.leave(None)
        admission.tick()
    assert admission.limit == 128


async def test_turns_of_a_real_loop_are_told_from_many_short_ones() -> None:
    """What it is for, on the event loop that Ray Serve uses."""
    short, long = await asyncio.to_thread(_limits_after_turns_of, 0.002, 0.05)
    assert short > 80, "a collection of garbage may have made one turn long"
    assert long < 60


async def test_a_loop_that_waits_for_its_core_refuses_nobody(cpu: Cpu) -> None:
    """However long a turn takes by the clock: no CPU time passes here."""
    admission = Admission(128, MAX_TURN_S, cpu_s=cpu)
    assert [turn(admission, cpu, 0.0) for _ in range(50)] == [100] * 50


async def test_slow_models_that_are_waited_for_are_not_too_much(cpu: Cpu) -> None:
    admission = Admission(128, MAX_TURN_S, cpu_s=cpu)
    assert entered(admission, None, 120) == 120
    for _ in range(1000):
        admission.tick()
    assert admission.limit == 128


async def test_a_crowd_of_tenants_is_bounded_too(cpu: Cpu) -> None:
    admission = Admission(8, MAX_TURN_S, cpu_s=cpu)
    assert sum(entered(admission, f"t{i}", 1) for i in range(500)) == 8 * MOST


async def test_never_more_than_the_configuration_says(cpu: Cpu) -> None:
    admission = Admission(2, MAX_TURN_S, cpu_s=cpu)
    assert entered(admission, None, 5) == 2
    admission.leave(None)
    assert entered(admission, None, 5) == 1
    cpu.now_s += 10
    admission.tick()
    assert admission.limit == 2


@pytest.mark.parametrize(
    ("max_ongoing", "answers"), [(1, "answers 1 request already"), (2, "answers 2 requests")]
)
async def test_who_meets_the_configurations_limit_is_told_its_name(
    max_ongoing: int, answers: str
) -> None:
    admission = Admission(max_ongoing, MAX_TURN_S)
    entered(admission, None, max_ongoing)
    with pytest.raises(Unavailable) as refused:
        admission.enter(None)
    assert answers in refused.value.what
    limit = f"max_ongoing_requests of its config lets it take {max_ongoing} at a time"
    assert limit in refused.value.what


async def test_who_is_more_than_it_keeps_pace_with_is_told_so(cpu: Cpu) -> None:
    admission = Admission(128, MAX_TURN_S, cpu_s=cpu)
    turn(admission, cpu, 0.01)
    assert admission.limit < 128
    entered(admission, None, 128)
    with pytest.raises(Unavailable, match="already, which is as many as it keeps pace with"):
        admission.enter(None)


async def test_a_tenant_under_its_share_is_never_refused(cpu: Cpu) -> None:
    admission = Admission(10, MAX_TURN_S, cpu_s=cpu)
    assert entered(admission, "offender", 1000) == 10
    assert entered(admission, "quiet", 5) == 5
    assert entered(admission, "quiet", 1) == 0
    assert entered(admission, "offender", 1) == 0
    for _ in range(10):
        admission.leave("offender")
    assert admission.num_ongoing == 5
    assert entered(admission, "offender", 1000) == 5


async def test_shares_are_by_weight(cpu: Cpu) -> None:
    admission = Admission(12, MAX_TURN_S, {"gold": 4, "batch": 0.5}, cpu_s=cpu)
    assert entered(admission, "offender", 1000) == 12
    for tenant in ("gold", "batch", None):
        assert entered(admission, tenant, 1) == 1
    for _ in range(12):
        admission.leave("offender")
    assert entered(admission, "offender", 1000) == 9  # nobody else wants them
    assert entered(admission, "gold", 100) == 7  # and one in hand: 12 × 4 / 6.5, rounded up
    assert entered(admission, "batch", 100) == 0
    assert entered(admission, None, 100) == 1
    assert entered(admission, "offender", 1) == 0


@given(st.integers(8, 256), st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_beside_a_flood_nobody_is_refused_under_its_share(limit: int, weights: list[float]) -> None:
    """Whatever the tiers, and in whatever order they ask."""
    tenants = {f"t{number}": weight for number, weight in enumerate(weights)}

    async def refused() -> list[str]:
        admission = Admission(limit, MAX_TURN_S, tenants, cpu_s=Cpu())
        entered(admission, "flood", 10 * limit)
        shares = {t: math.floor(limit * w / (1 + sum(weights))) for t, w in tenants.items()}
        return [t for t, share in shares.items() if entered(admission, t, share) < share]

    assert asyncio.run(refused()) == []


async def test_a_weight_counts_while_its_tenant_asks(cpu: Cpu) -> None:
    admission = Admission(10, MAX_TURN_S, {"gold": 4}, cpu_s=cpu)
    entered(admission, "gold", 1)
    admission.leave("gold")
    assert entered(admission, "a", 10) == 10
    assert entered(admission, "b", 10) == 2  # 10 / 6, rounded up
    for _ in range(500):
        admission.tick()
    for _ in range(10):
        admission.leave("a")
    assert entered(admission, "b", 10) == 8


async def test_a_tenant_that_asks_no_more_has_no_share(cpu: Cpu) -> None:
    admission = Admission(10, MAX_TURN_S, cpu_s=cpu)
    entered(admission, "gone", 1)
    admission.leave("gone")
    assert entered(admission, "here", 10) == 10
    assert entered(admission, "other", 10) == 4  # a third, rounded up: three have asked
    for _ in range(500):
        admission.tick()
    for _ in range(10):
        admission.leave("here")
    assert entered(admission, "other", 10) == 6


async def test_an_idle_replica_looks_at_nothing(cpu: Cpu) -> None:
    admission = Admission(10, MAX_TURN_S, cpu_s=cpu)
    admission.enter(None)
    admission.leave(None)
    for _ in range(500):
        if admission._timer is None:
            return
        admission._timer.cancel()
        admission.tick()
    pytest.fail("still looking")


# the gateways

TIERS = {"tiers": {"gold": {"weight": 4, "tenants": ["acme"]}}}


def key_of(case: Case | LanguageCase, tenant: str) -> dict[str, str]:
    """The header of a key that the gateway knows."""
    secret = "s" * 43
    digest = hashlib.sha256(secret.encode()).hexdigest()
    key = ApiKey(
        key_id=f"{len(case.keys):012x}", tenant=tenant, role="caller", secret_sha256=digest
    )
    case.keys[key.key_id] = key
    case.ring.refresh()
    return {"authorization": f"Bearer {key.text(secret)}"}


@pytest.mark.parametrize(("tiers", "num_of_acme"), [(TIERS, 5), ({}, 3)])
async def test_a_tenant_has_its_tiers_share_beside_a_flood(
    tmp_path: Path, tiers: dict[str, object], num_of_acme: int
) -> None:
    """Who it is says its key alone: the flood claims to be of that tenant too."""
    make_bundle(tmp_path / "1")
    config = {"batch_wait_ms": 20, "max_ongoing_requests": 6, **tiers}
    case = Case(ServingConfig.model_validate(config), releases={"r1": tmp_path / "1"})
    case.promote("r1")
    case.follower.refresh()
    callers = [
        *[{"x-tenant": "acme", "tenant": "acme"}] * 12,
        *[key_of(case, "acme")] * 6,
        *[key_of(case, "small")],
    ]
    path, body = f"/endpoints/{ENDPOINT}/invocations", {"dataframe_records": [ROW]}
    async with case.client() as client:
        calls = [client.post(path, json=body, headers=headers) for headers in callers]
        answers = await in_parallel(*calls)
    taken = [answer.status_code == 200 for answer in answers]
    assert [sum(taken[:12]), sum(taken[12:18]), sum(taken[18:])] == [6, num_of_acme, 1]


@pytest.mark.parametrize(("tiers", "num_of_acme"), [(TIERS, 2), ({}, 1)])
async def test_language_models_share_by_tier_too(tiers: dict[str, Any], num_of_acme: int) -> None:
    case = LanguageCase(with_settings(max_ongoing_requests=2, **tiers))
    case.engine.trouble.hangs_before = True
    flood = [case.caller(chat()) for _ in range(4)]
    await until(lambda: case.engine.num_ongoing == 2)
    acme = [case.caller(chat(), **key_of(case, "acme")) for _ in range(2)]
    await until(lambda: case.engine.num_ongoing == 2 + num_of_acme)
    for caller in (*flood, *acme):
        caller.go()
        await caller.done()
    assert [caller.status for caller in acme].count(503) == 2 - num_of_acme
    assert case.is_idle()
