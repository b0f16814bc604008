"""Endpoints that wrap endpoints: each alone, on a clock that only the test moves."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayapp.config.serving import BreakerConfig, CacheConfig
from rayapp.errors import DeadlineExceeded, RequestError, Unavailable
from rayapp.schemas.model import BundleSchema
from rayapp.serve.endpoints.base import Ask, Assignment, Endpoint, Reply
from rayapp.serve.endpoints.breaker import Breaker
from rayapp.serve.endpoints.cache import Cache
from rayapp.serve.endpoints.deadline import Deadlines, Timeout
from rayapp.serve.endpoints.fallback import Fallback
from rayapp.serve.endpoints.rules import Rules
from rayapp.serve.endpoints.shadow import Shadow
from rayapp.serve.endpoints.split import REST, Arm, Split, position
from rayapp.serve.wire.protocols import Parsed
from rayapp.serve.wire.validation import Rows

SCHEMA = BundleSchema(
    name="s", family="f", task="binary", label="y", classes=("0", "1"), inputs=(), features=()
)
ROWS = Rows(np.zeros((1, 1), np.float32), ({},), (None,))
CALLERS_FAULT = RequestError("no such column", "leave it out", 422, "unknown_column", "x")


def ask(body: bytes = b"{}", unit: str | None = None, request_id: str = "q", **more: Any) -> Ask:
    headers = {b"x-unit-id": unit.encode()} if unit is not None else {}
    return Ask(request_id, body, Parsed({}, 1), headers=headers, **more)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Scripted:
    """Answers as release `name`; each outcome of the script once, then answers for ever."""

    def __init__(self, name: str, *script: Exception | None) -> None:
        self.name = name
        self.script = list(script)
        self.asks: list[Ask] = []

    async def predict(self, ask: Ask) -> Reply:
        self.asks.append(ask)
        outcome = self.script.pop(0) if self.script else None
        if outcome is not None:
            raise outcome
        return Reply(self.name, SCHEMA, ROWS, np.ones((1, 2), np.float32))


class Slow(Scripted):
    """Answers once `go` is set, or fails then."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        super().__init__(name)
        self.error = error
        self.go = asyncio.Event()
        self.num_cancelled = 0

    async def predict(self, ask: Ask) -> Reply:
        reply = await super().predict(ask)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return reply


async def outcome(endpoint: Endpoint, asked: Ask | None = None) -> str:
    try:
        reply = await endpoint.predict(asked or ask())
    except Exception as error:  # noqa: BLE001 - the outcome is what is looked at
        return type(error).__name__
    return reply.release_id


# deadlines


async def test_what_outlives_its_deadline_is_cancelled() -> None:
    slow = Slow("a")
    timeout = Timeout(slow, 20, Deadlines())
    assert await outcome(timeout) == "DeadlineExceeded"
    assert slow.num_cancelled == 1


async def test_what_is_past_its_deadline_is_not_begun() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    with pytest.raises(DeadlineExceeded), deadlines.within(clock.now_s):
        raise AssertionError("begun")


async def test_a_deadline_leaves_nothing_behind() -> None:
    deadlines = Deadlines()
    for _ in range(3):
        with deadlines.within(asyncio.get_running_loop().time() + 60):
            assert deadlines._buckets
    assert not deadlines._buckets


async def test_of_two_deadlines_in_one_tick_the_outer_one_holds() -> None:
    slow, clock = Slow("a"), Clock()
    deadlines = Deadlines(clock)
    inner: Fallback[Ask, Reply] = Fallback([Timeout(slow, 50, deadlines, clock), Slow("b")])

    async def asked() -> str:
        with deadlines.within(clock.now_s + 0.0501):
            return (await inner.predict(ask(deadline_s=clock.now_s + 0.0501))).release_id

    task = asyncio.create_task(asked())
    while not slow.asks:
        await asyncio.sleep(0)
    clock.now_s += 1
    with pytest.raises(DeadlineExceeded):
        await task


async def test_another_cancellation_is_none_of_the_deadlines_business() -> None:
    slow = Slow("a")
    task = asyncio.create_task(Timeout(slow, 60_000, Deadlines()).predict(ask()))
    while not slow.asks:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_shorter_of_both_limits_holds() -> None:
    inner = Scripted("a")
    clock = Clock()
    timeout = Timeout(inner, 50, Deadlines(clock), clock)
    await timeout.predict(ask(deadline_s=clock.now_s + 10))
    await timeout.predict(ask(deadline_s=clock.now_s + 0.01))
    assert [a.deadline_s - clock.now_s for a in inner.asks] == pytest.approx([0.05, 0.01])


# the breaker


def breaker(
    inner: Endpoint,
    clock: Clock,
    states: list[str],
    release_id: Sequence[str | None] = ("r1",),
    **config: Any,
) -> Breaker[Ask, Reply]:
    settings = {"min_requests": 4, "window_s": 10, "open_s": 5, "failure_share": 0.5} | config
    config_ = BreakerConfig.model_validate(settings)
    return Breaker(inner, lambda: release_id[0], config_, states.append, clock)


async def test_a_breaker_opens_probes_and_closes() -> None:
    clock, states = Clock(), list[str]()
    inner = Scripted("a", None, None, ValueError(), ValueError(), ValueError())
    guarded = breaker(inner, clock, states)
    assert [await outcome(guarded) for _ in range(4)] == ["a", "a", "ValueError", "ValueError"]
    assert await outcome(guarded) == "Unavailable"
    assert len(inner.asks) == 4
    clock.now_s += 5
    assert await outcome(guarded) == "ValueError"  # the probe
    assert await outcome(guarded) == "Unavailable"
    clock.now_s += 5
    assert await outcome(guarded) == "a"
    assert await outcome(guarded) == "a"
    assert states == ["open", "half_open", "open", "half_open", "closed"]


async def test_a_callers_mistakes_and_hurry_open_no_breaker() -> None:
    clock, states = Clock(), list[str]()
    guarded = breaker(Scripted("a", *[CALLERS_FAULT] * 8), clock, states)
    assert {await outcome(guarded) for _ in range(8)} == {"RequestError"}
    hurried = breaker(Scripted("a", *[DeadlineExceeded()] * 8), clock, states)
    late = ask(deadline_s=clock.now_s)
    assert {await outcome(hurried, late) for _ in range(8)} == {"DeadlineExceeded"}
    assert states == []
    slow = breaker(Scripted("a", *[DeadlineExceeded()] * 8), clock, states)
    assert [await outcome(slow) for _ in range(5)][-1] == "Unavailable"


@pytest.mark.parametrize(
    ("given_s", "goes_away", "last"), [(10, False, "Unavailable"), (4, False, "a"), (10, True, "a")]
)
async def test_who_had_all_the_time_there_is_has_failed(
    given_s: float, goes_away: bool, last: str
) -> None:
    """Whoever ends the request cancels what hangs, as does a caller that goes away before."""
    clock, states, slow = Clock(), list[str](), Slow("a")
    config = BreakerConfig(min_requests=4)
    guarded = Breaker(slow, lambda: "r1", config, states.append, clock, enough_s=10)
    asked = ask(deadline_s=clock.now_s + given_s)
    begun = [asyncio.create_task(outcome(guarded, asked)) for _ in range(4)]
    while len(slow.asks) < 4:
        await asyncio.sleep(0)
    clock.now_s += given_s - goes_away
    for task in begun:
        task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)
    slow.go.set()
    assert await outcome(guarded) == last
    assert states == (["open"] if last == "Unavailable" else [])


async def test_old_failures_are_forgotten() -> None:
    clock, states = Clock(), list[str]()
    inner = Scripted("a", *[ValueError()] * 3, None, *[ValueError()] * 3)
    guarded = breaker(inner, clock, states)
    for _ in range(3):
        await outcome(guarded)
    clock.now_s += 11
    for _ in range(4):
        await outcome(guarded)
    assert states == ["open"]
    assert len(guarded._outcomes) == 4


def opened(
    inner: Endpoint, clock: Clock, states: list[str], release_id: Sequence[str | None] = ("r1",)
) -> Breaker[Ask, Reply]:
    """One that would now let a probe through."""
    guarded = breaker(inner, clock, states, release_id)
    guarded._of, guarded.state, guarded._opened_s = "r1", "open", clock.now_s - 5
    return guarded


async def test_another_release_starts_with_a_clean_slate() -> None:
    clock, states, release_id = Clock(), list[str](), ["r1"]
    guarded = breaker(Scripted("a", *[ValueError()] * 4), clock, states, release_id)
    for _ in range(4):
        await outcome(guarded)
    assert await outcome(guarded) == "Unavailable"
    release_id[0] = "r2"
    assert await outcome(guarded) == "a"
    assert states == ["open", "closed"]


async def test_what_the_release_before_was_asked_counts_for_nothing() -> None:
    clock, states, release_id = Clock(), list[str](), ["r1"]
    slow = Slow("a", error=ValueError())
    guarded = breaker(slow, clock, states, release_id)
    begun = [asyncio.create_task(outcome(guarded)) for _ in range(4)]
    while len(slow.asks) < 4:
        await asyncio.sleep(0)
    release_id[0] = "r2"
    begun.append(asyncio.create_task(outcome(guarded)))
    await asyncio.sleep(0)
    slow.go.set()
    assert await asyncio.gather(*begun) == ["ValueError"] * 5
    assert (states, len(guarded._outcomes)) == ([], 1)


@pytest.mark.parametrize("error", [None, ValueError()])
async def test_a_probe_of_the_release_before_decides_nothing(error: Exception | None) -> None:
    clock, states, release_id = Clock(), list[str](), ["r1"]
    slow = Slow("a", error=error)
    guarded = opened(slow, clock, states, release_id)
    probe = asyncio.create_task(outcome(guarded))
    while not slow.asks:
        await asyncio.sleep(0)
    release_id[0] = "r2"
    guarded._inner = Scripted("b", *[ValueError()] * 4)
    assert [await outcome(guarded) for _ in range(4)] == ["ValueError"] * 4
    assert states == ["half_open", "closed", "open"]
    clock.now_s += 4
    slow.go.set()
    await probe
    assert await outcome(guarded) == "Unavailable"
    clock.now_s += 1
    assert await outcome(guarded) == "b"
    assert states[3:] == ["half_open", "closed"]


async def test_after_a_rollback_a_failed_probe_keeps_nobody_out() -> None:
    clock, states, release_id = Clock(), list[str](), ["r1"]
    slow = Slow("a", error=ValueError())
    guarded = opened(slow, clock, states, release_id)
    probe = asyncio.create_task(outcome(guarded))
    while not slow.asks:
        await asyncio.sleep(0)
    release_id[0], guarded._inner = "r2", Scripted("b")
    assert await outcome(guarded) == "b"
    slow.go.set()
    assert await probe == "ValueError"
    assert await outcome(guarded) == "b"
    assert states == ["half_open", "closed"]


async def test_nobody_is_blamed_while_nothing_is_loaded() -> None:
    clock, states = Clock(), list[str]()
    guarded = breaker(Scripted("a", *[Unavailable("a", "b")] * 8), clock, states, [None])
    assert {await outcome(guarded) for _ in range(8)} == {"Unavailable"}
    assert states == []


async def test_what_was_begun_before_it_opened_does_not_keep_it_open() -> None:
    clock, states = Clock(), list[str]()
    guarded = breaker(Scripted("a", *[ValueError()] * 4), clock, states)
    for _ in range(4):
        await outcome(guarded)
    clock.now_s += 4
    guarded._count("r1", failed=True)
    clock.now_s += 1
    assert await outcome(guarded) == "a"


async def test_one_probe_at_a_time() -> None:
    clock, states = Clock(), list[str]()
    slow = Slow("a")
    guarded = opened(slow, clock, states)
    probe = asyncio.create_task(outcome(guarded))
    while not slow.asks:
        await asyncio.sleep(0)
    assert await outcome(guarded) == "Unavailable"
    slow.go.set()
    assert await probe == "a"
    assert guarded.state == "closed"


async def test_a_probe_that_is_given_up_can_be_followed_by_another() -> None:
    clock, states = Clock(), list[str]()
    slow = Slow("a")
    guarded = opened(slow, clock, states)
    probe = asyncio.create_task(guarded.predict(ask()))
    while not slow.asks:
        await asyncio.sleep(0)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    slow.go.set()
    assert await outcome(guarded) == "a"


# fallback


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unavailable("a", "b"), "unavailable"),
        (DeadlineExceeded(), "timeout"),
        (ValueError("an inside of ours"), "failed"),
    ],
)
async def test_a_fallback_answers_and_says_so(
    error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    chain = Fallback([Scripted("a", error), Scripted("b", ValueError()), Scripted("c")])
    reply = await chain.predict(ask())
    assert (reply.release_id, reply.degraded) == ("c", reason)
    reply = await chain.predict(ask())
    assert (reply.release_id, reply.degraded) == ("a", None)
    assert ("an inside of ours" in caplog.text) == (reason == "failed")


async def test_a_fallback_is_no_way_around_the_contract() -> None:
    other = Scripted("b")
    assert await outcome(Fallback([Scripted("a", CALLERS_FAULT), other])) == "RequestError"
    assert other.asks == []


async def test_a_stand_in_that_wants_another_column_does_not_stand_in() -> None:
    chain = Fallback([Scripted("a", ValueError()), Scripted("b", CALLERS_FAULT), Scripted("c")])
    assert await outcome(chain) == "c"


@pytest.mark.parametrize(
    ("arm", "told"), [(None, "RequestError"), (REST, "RequestError"), ("b", "Unavailable")]
)
async def test_what_a_stand_in_alike_finds_wrong_is_the_callers_mistake(
    arm: str | None, told: str
) -> None:
    """Another arm's callers may have its columns instead."""
    intended, declared = Scripted("a", Unavailable("a", "b")), Scripted("c", CALLERS_FAULT)
    asked = ask()
    asked.assignment = None if arm is None else Assignment(arm, 1.0, "u")
    assert await outcome(Fallback([intended, declared], is_last_alike=True), asked) == told


async def test_the_first_trouble_of_a_chain_is_told() -> None:
    chain = Fallback([Scripted("a", Unavailable("a", "b")), Scripted("b", ValueError())])
    assert await outcome(chain) == "Unavailable"


# splits

UNITS = [f"unit-{n}" for n in range(4000)]


def split(salt: str = "s", **shares: float) -> Split[Ask, Reply]:
    return Split(Scripted("a"), [Arm(n, share, Scripted(n)) for n, share in shares.items()], salt)


def test_shares_are_kept() -> None:
    arms = [split(b=0.1, c=0.3).arm_of(unit).name for unit in UNITS]
    found = {name: arms.count(name) / len(arms) for name in ("b", "c", REST)}
    assert found == pytest.approx({"b": 0.1, "c": 0.3, REST: 0.6}, abs=0.03)


@given(st.floats(0.01, 0.98), st.floats(0.01, 0.98))
def test_a_larger_share_only_adds_units(one: float, other: float) -> None:
    small, large = sorted((one, other))
    before, after = split(b=small), split(b=large)
    for unit in UNITS[:200]:
        if before.arm_of(unit).name == "b":
            assert after.arm_of(unit).name == "b"


def test_another_salt_divides_independently() -> None:
    first, second = split("s", b=0.5), split("t", b=0.5)
    both = [(first.arm_of(u).name, second.arm_of(u).name) for u in UNITS]
    assert both.count(("b", "b")) / len(both) == pytest.approx(0.25, abs=0.03)


async def test_an_answer_names_its_arm_and_its_chance() -> None:
    divided = split(b=0.25)
    asks = [ask(unit=unit) for unit in UNITS[:50]]
    replies = [await divided.predict(asked) for asked in asks]
    found = [(r.release_id, a.assignment) for r, a in zip(replies, asks, strict=True)]
    assert {(release_id, made.arm, made.propensity) for release_id, made in found if made} == {
        ("a", REST, 0.75),
        ("b", "b", 0.25),
    }
    assert [made.unit for _, made in found if made] == UNITS[:50]
    again = [await divided.predict(ask(unit=unit)) for unit in UNITS[:50]]
    assert [r.release_id for r in again] == [r.release_id for r in replies]


async def test_rows_of_several_units_are_not_divided() -> None:
    divided = split(b=1.0)
    several = replace(ask(), parsed=Parsed([{"id": 1}, {"id": 2}], 2))
    assert (await divided.predict(several)).release_id == "a"
    assert several.assignment is None
    one = replace(ask(), parsed=Parsed([{"id": 1}, {"id": 1}], 2))
    assert (await divided.predict(one)).release_id == "b"


async def test_an_assignment_outlives_the_arms_failure() -> None:
    divided = Split(Scripted("a"), [Arm("b", 1.0, Scripted("b", ValueError()))], "s")
    asked = ask(unit="u")
    fallback: Fallback[Ask, Reply] = Fallback([divided, Scripted("z")])
    reply = await fallback.predict(asked)
    assert (reply.release_id, reply.degraded) == ("z", "failed")
    assert asked.assignment is not None
    assert asked.assignment.arm == "b"


def test_all_units_can_be_given_to_arms() -> None:
    assert {split(b=0.5, c=0.5).arm_of(unit).name for unit in UNITS} == {"b", "c"}


def test_a_unit_is_the_header_the_rows_key_or_the_request() -> None:
    def of(given: Any) -> str | None:
        return replace(ask(), parsed=Parsed(given, 1)).unit

    assert ask(unit="u").unit == "u"
    assert of({"id": [7, 7]}) == "7"
    assert of({"id": pa.array([7])}) == "7"
    assert of([{"id": "k"}]) == "k"
    assert of([{"a": 1}]) == of({}) == of([{"id": None}]) == "q"
    assert of([{"id": "k"}, {"a": 1}]) is None


def test_positions_are_uniform() -> None:
    counts, _ = np.histogram([position("s", unit) for unit in UNITS], bins=10, range=(0, 1))
    chi_square = ((counts - 400) ** 2 / 400).sum()
    assert chi_square < 27.9  # 99.9th percentile with nine degrees of freedom


# the cache


class Cached:
    def __init__(self, inner: Endpoint, max_bytes: int = 10_000) -> None:
        self.release_id: str | None = "a"
        self.clock = Clock()
        self.lookups: list[bool] = []
        config = CacheConfig.model_construct(max_bytes=max_bytes, ttl_s=60)
        self.cache = Cache(inner, lambda: self.release_id, config, self.lookups.append, self.clock)


async def test_equal_bodies_are_answered_once() -> None:
    inner = Scripted("a")
    cached = Cached(inner)
    for body in (b"1", b"1", b"2", b"1"):
        assert await outcome(cached.cache, ask(body)) == "a"
    assert len(inner.asks) == 2
    assert cached.lookups == [False, True, False, True]
    cached.clock.now_s += 60
    await outcome(cached.cache, ask(b"1"))
    assert len(inner.asks) == 3


async def test_equal_bodies_that_are_read_in_different_ways_are_different_questions() -> None:
    inner = Scripted("a")
    cached = Cached(inner)
    for protocol in (b"mlflow", b"oip", b"oip40", b"oip"):
        await outcome(cached.cache, ask(protocol=protocol))
    assert cached.lookups == [False, False, False, True]


async def test_no_answer_outlives_its_release() -> None:
    inner = Scripted("a")
    cached = Cached(inner)
    await outcome(cached.cache)
    inner.name = cached.release_id = "b"
    assert await outcome(cached.cache) == "b"
    inner.name = cached.release_id = "a"
    assert await outcome(cached.cache) == "a"
    assert len(inner.asks) == 2


async def test_an_answer_of_a_champion_that_moved_meanwhile_is_not_kept() -> None:
    slow = Slow("b")
    cached = Cached(slow)
    task = asyncio.create_task(outcome(cached.cache))
    while not slow.asks:
        await asyncio.sleep(0)
    slow.go.set()
    assert await task == "b"
    assert cached.cache.num_bytes == 0


async def test_equal_questions_at_once_are_asked_once() -> None:
    slow = Slow("a")
    cached = Cached(slow)
    tasks = [asyncio.create_task(outcome(cached.cache)) for _ in range(5)]
    while not slow.asks:
        await asyncio.sleep(0)
    slow.go.set()
    assert await asyncio.gather(*tasks) == ["a"] * 5
    assert len(slow.asks) == 1


async def test_an_error_is_shared_and_not_kept() -> None:
    failing = Slow("a", error=ValueError())
    cached = Cached(failing)
    tasks = [asyncio.create_task(outcome(cached.cache)) for _ in range(3)]
    while not failing.asks:
        await asyncio.sleep(0)
    failing.go.set()
    assert await asyncio.gather(*tasks) == ["ValueError"] * 3
    assert len(failing.asks) == 1
    await outcome(cached.cache)
    assert len(failing.asks) == 2


async def test_the_endpoints_own_time_limit_is_over_for_all_who_wait() -> None:
    slow = Slow("a")
    cached = Cached(Timeout(slow, 30, Deadlines()))
    tasks = [asyncio.create_task(outcome(cached.cache)) for _ in range(4)]
    assert await asyncio.gather(*tasks) == ["DeadlineExceeded"] * 4
    assert len(slow.asks) == 1


async def test_a_callers_own_deadline_is_over_for_it_alone() -> None:
    class FirstInAHurry(Slow):
        async def predict(self, ask: Ask) -> Reply:
            reply = await super().predict(ask)
            if len(self.asks) == 1:
                raise DeadlineExceeded
            return reply

    slow = FirstInAHurry("a")
    cached = Cached(slow)
    asks = [ask(deadline_s=cached.clock.now_s), ask()]
    tasks = [asyncio.create_task(outcome(cached.cache, asked)) for asked in asks]
    while not slow.asks:
        await asyncio.sleep(0)
    slow.go.set()
    assert await asyncio.gather(*tasks) == ["DeadlineExceeded", "a"]


async def test_who_waits_in_the_cache_keeps_its_own_deadline() -> None:
    slow = Slow("a")
    cached = Cached(slow)
    limited = Timeout(cached.cache, 30, Deadlines())
    tasks = [asyncio.create_task(outcome(limited)) for _ in range(4)]
    assert await asyncio.gather(*tasks) == ["DeadlineExceeded"] * 4
    assert len(slow.asks) <= 2


async def test_who_waits_goes_on_when_the_first_is_given_up() -> None:
    slow = Slow("a")
    cached = Cached(slow)
    first, second = (asyncio.create_task(cached.cache.predict(ask())) for _ in range(2))
    while not slow.asks:
        await asyncio.sleep(0)
    first.cancel()
    while len(slow.asks) < 2:
        await asyncio.sleep(0)
    slow.go.set()
    assert (await second).release_id == "a"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_the_cache_is_bounded_and_drops_the_longest_unused() -> None:
    inner = Scripted("a")
    cached = Cached(inner, max_bytes=2500)  # two replies of a row each
    for body in (b"1", b"2", b"1", b"3", b"1", b"2"):
        await outcome(cached.cache, ask(body))
    assert 2000 < cached.cache.num_bytes <= 2500
    assert [a.body for a in inner.asks] == [b"1", b"2", b"3", b"2"]


async def test_a_reply_that_is_too_large_is_not_kept() -> None:
    inner = Scripted("a")
    cached = Cached(inner, max_bytes=1000)
    await outcome(cached.cache)
    await outcome(cached.cache)
    assert len(inner.asks) == 2
    assert cached.cache.num_bytes == 0


async def test_nobody_to_answer_is_nothing_to_keep() -> None:
    cached = Cached(Scripted("a", Unavailable("a", "b")))
    cached.release_id = None
    assert await outcome(cached.cache) == "Unavailable"


# shadows


def shadowed(
    inner: Endpoint, shadow: Endpoint, share: float = 1.0
) -> tuple[Shadow[Ask, Reply], list[str]]:
    heard: list[str] = []

    async def hear(asked: Ask, reply: Reply, latency_ms: float) -> None:
        assert latency_ms >= 0
        heard.append(f"{asked.request_id}:{reply.release_id}")

    return Shadow(inner, shadow, share, "s", 2, hear), heard


async def test_a_shadow_hears_and_nobody_waits_for_it() -> None:
    slow = Slow("b")
    endpoint, heard = shadowed(Scripted("a"), slow)
    assert await outcome(endpoint) == "a"
    assert heard == []
    slow.go.set()
    await endpoint.drain()
    assert heard == ["q:b"]


async def test_a_failing_shadow_concerns_nobody(caplog: pytest.LogCaptureFixture) -> None:
    endpoint, heard = shadowed(Scripted("a"), Scripted("b", ValueError()))
    assert await outcome(endpoint) == "a"
    await endpoint.drain()
    assert heard == []
    assert "shadow_failed" in caplog.text


async def test_a_slow_shadow_does_not_pile_up() -> None:
    slow = Slow("b")
    endpoint, _ = shadowed(Scripted("a"), slow)
    for _ in range(10):
        await outcome(endpoint)
        await asyncio.sleep(0)
    assert len(slow.asks) == 2
    slow.go.set()
    await endpoint.drain()


async def test_a_shadow_hears_its_share_of_units() -> None:
    shadow = Scripted("b")
    endpoint, _ = shadowed(Scripted("a"), shadow, share=0.2)
    for unit in UNITS[:500]:
        await outcome(endpoint, ask(unit=unit))
        await endpoint.drain()
    assert len(shadow.asks) / 500 == pytest.approx(0.2, abs=0.06)


async def test_what_was_not_answered_is_not_heard() -> None:
    shadow = Scripted("b")
    endpoint, _ = shadowed(Scripted("a", ValueError()), shadow)
    assert await outcome(endpoint) == "ValueError"
    await endpoint.drain()
    assert shadow.asks == []


async def unheard(asked: Ask, reply: Reply, latency_ms: float) -> None: ...


Make = Callable[[Endpoint], Endpoint]
WRAPPERS: dict[str, Make] = {
    "timeout": lambda inner: Timeout(inner, 1000, Deadlines()),
    "breaker": lambda inner: Breaker(inner, lambda: "r", BreakerConfig()),
    "fallback": lambda inner: Fallback([inner, Scripted("z")]),
    "split": lambda inner: Split(inner, [], "s"),
    "rules": lambda inner: Rules(inner, []),
    "cache": lambda inner: Cache(inner, lambda: "a", CacheConfig()),
    "shadow": lambda inner: Shadow(inner, Scripted("z"), 1, "s", 1, unheard),
}


@pytest.mark.parametrize("name", WRAPPERS)
async def test_each_wrapper_passes_on_answers_and_callers_mistakes(name: str) -> None:
    endpoint = WRAPPERS[name](Scripted("a", None, CALLERS_FAULT))
    assert await outcome(endpoint, ask(b"1")) == "a"
    assert await outcome(endpoint, ask(b"2")) == "RequestError"
