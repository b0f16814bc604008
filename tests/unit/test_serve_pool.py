"""What a pool decides: who holds what, who is asked, and when once more."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from serving_case import until

from rayapp.config.serving import ServingConfig
from rayapp.errors import DeadlineExceeded, Unavailable
from rayapp.families.base import Floats
from rayapp.serve.endpoints.again import RESERVE, Budget, Hedge, Retry
from rayapp.serve.endpoints.base import Ask
from rayapp.serve.meter import PoolMeter
from rayapp.serve.pool.plan import SILENT_AFTER_S, ModelLoad, Planner, Report, copies_wanted
from rayapp.serve.pool.replica import PoolReplica
from rayapp.serve.pool.router import ranks
from rayapp.serve.pool.scorer import Outcome, Part, PoolScorer, Traces


def report(max_bytes: int = 100, **busy: float) -> Report:
    """heat follows busy; every model has 10 bytes."""
    return Report(max_bytes, {m: ModelLoad(10, share, share) for m, share in busy.items()})


# plan


def test_a_model_has_as_many_copies_as_its_load_needs() -> None:
    reports = {"r1": report(hot=0.9, calm=0.1), "r2": report(calm=0.2), "r3": report()}
    wanted = copies_wanted(reports, {}, target_busy=0.5)
    assert wanted == {"r1": {}, "r2": {}, "r3": {"hot": 10}}
    wanted = copies_wanted(reports, {}, target_busy=0.3)
    assert wanted == {"r1": {}, "r2": {"hot": 10}, "r3": {"hot": 10}}


def test_no_copy_is_planned_where_it_could_never_fit() -> None:
    reports = {"r1": report(hot=0.9), "r2": report(max_bytes=9)}
    assert copies_wanted(reports, {}, target_busy=0.5)["r2"] == {}


def test_a_pinned_model_has_a_copy_though_nobody_asks() -> None:
    reports = {"r1": report(hot=0.4), "r2": report()}
    assert copies_wanted(reports, {"p": 7}, 0.5) == {"r1": {}, "r2": {"p": 7}}
    assert copies_wanted({"r1": report(p=0.0)}, {"p": 10}, 0.5) == {"r1": {}}


@given(
    st.dictionaries(
        st.sampled_from(["r1", "r2", "r3"]),
        st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 3)),
        min_size=1,
    )
)
def test_no_replica_is_told_to_load_what_it_has_nor_more_copies_than_replicas(
    loads: dict[str, dict[str, float]],
) -> None:
    reports = {replica: report(100, **busy) for replica, busy in loads.items()}
    wanted = copies_wanted(reports, {}, 0.6)
    for replica, models in wanted.items():
        assert not models.keys() & reports[replica].models.keys()
    for model in "abcdef":
        total = sum(r.models[model].busy for r in reports.values() if model in r.models)
        held = sum(model in r.models for r in reports.values())
        added = sum(model in models for models in wanted.values())
        assert added <= max(0, math.ceil(total / 0.6) - held)


def test_a_new_replica_starts_with_what_is_asked_for_most() -> None:
    now_s = 0.0
    planner = Planner(0.6, lambda: now_s)
    planner.report("r1", report(a=0.1, b=0.3))
    planner.report("r2", report(b=0.1, c=0.2))
    planner.pin({"p": 10})
    assert list(planner.first(30)) == ["p", "b", "c"]
    assert list(planner.first(10)) == ["p"]
    assert planner.report("r1", report()).pinned == {"p"}
    now_s += SILENT_AFTER_S + 1
    assert list(planner.first(30)) == ["p"]  # nobody has been heard of since


class Pins:
    """A planner, and what gateways say to it: every second, in turn, for as long as they live."""

    def __init__(self, *gateways: dict[str, int]) -> None:
        self.now_s = 0.0
        self.gateways = list(gateways)
        self.planner = Planner(0.6, lambda: self.now_s)
        self.shelved = {"a", "b", "x"}
        """What a replica that holds all of them has pinned, x by somebody who is gone."""

    def pass_s(self, seconds: int) -> set[str]:
        for _ in range(seconds):
            for gateway in self.gateways:
                self.planner.pin(gateway)
                plan = self.planner.report("r1", report())
                self.shelved |= plan.pinned
                if plan.knows_all:
                    self.shelved &= plan.pinned
            self.now_s += 1
        return self.shelved


def test_a_planner_that_starts_unpins_nothing_before_it_has_heard_all() -> None:
    pins = Pins({"a": 10}, {"b": 10})
    assert pins.pass_s(2) == {"a", "b", "x"}
    assert pins.pass_s(20) == {"a", "b"}
    pins.planner = Planner(0.6, lambda: pins.now_s)  # it died
    assert pins.pass_s(1) == {"a", "b"}
    pins.gateways = []
    pins.now_s += 60
    assert pins.planner.report("r1", report()).pinned == {"a", "b"}
    pins.gateways = [{"a": 10}]  # the first of those that come back
    assert pins.pass_s(1) == {"a", "b"}
    assert pins.pass_s(20) == {"a"}


def test_a_pin_moves_with_the_last_gateway_that_says_it() -> None:
    pins = Pins({"a": 10}, {"a": 10})
    pins.pass_s(20)
    pins.gateways[0] = {"b": 10}  # has loaded the next champion
    assert pins.pass_s(20) == {"a", "b"}
    pins.gateways[1] = {"b": 10}
    assert pins.pass_s(20) == {"b"}
    pins.gateways = [{}]  # of a configuration that pins nothing
    assert pins.pass_s(20) == set()


# router


def test_who_holds_a_model_is_asked_first_then_its_home() -> None:
    held = {name: frozenset(["m"] if name == "r2" else []) for name in ("r1", "r2", "r3", "r4")}
    warm, home, rest = ranks("m", held)
    assert warm == ["r2"]
    assert len(home) == 1
    assert sorted(home + rest) == ["r1", "r3", "r4"]
    assert ranks("m", {"r1": frozenset("m")}) == [["r1"]]


def test_only_the_models_at_home_in_a_replica_move_when_it_goes() -> None:
    replicas = {f"r{n}": frozenset[str]() for n in range(5)}
    models = [f"model{n}" for n in range(500)]
    before = {m: ranks(m, replicas)[0][0] for m in models}
    del replicas["r3"]
    after = {m: ranks(m, replicas)[0][0] for m in models}
    moved = {m for m in models if before[m] != after[m]}
    assert moved == {m for m in models if before[m] == "r3"}
    assert 60 < len(moved) < 140  # a fifth of them


# scorer


class Replicas:
    """Doubles rows; holds calls until `gate` is set."""

    def __init__(self) -> None:
        self.calls: list[list[Part]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def call(self, parts: Sequence[Part], traces: Traces) -> list[Outcome]:
        self.calls.append(list(parts))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [ValueError("negative") if x_NF.min() < 0 else 2 * x_NF for x_NF, _ in parts]


def rows(*values: float) -> Floats:
    return np.array(values, np.float32)[:, None]


async def test_requests_that_come_together_share_a_call_and_each_gets_its_own() -> None:
    replicas = Replicas()
    scorer = PoolScorer(replicas.call, max_rows=100, max_calls=1)
    asked = [scorer.predict(rows(n, n)) for n in (1, -1, 3)]
    first, second, third = await asyncio.gather(*asked, return_exceptions=True)
    assert not isinstance(first, BaseException)
    assert not isinstance(third, BaseException)
    assert (first[:, 0].tolist(), third[:, 0].tolist()) == ([2, 2], [6, 6])
    assert str(second) == "negative"
    assert [len(parts) for parts in replicas.calls] == [3]


async def test_while_calls_are_under_way_the_next_ones_gather() -> None:
    replicas = Replicas()
    replicas.gate.clear()
    scorer = PoolScorer(replicas.call, max_rows=4, max_calls=2)
    asked = []
    for n in range(9):
        asked.append(asyncio.create_task(scorer.predict(rows(n))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert [len(parts) for parts in replicas.calls] == [1, 1]
    replicas.gate.set()
    assert [r[0, 0] for r in await asyncio.gather(*asked)] == [2 * n for n in range(9)]
    assert [len(parts) for parts in replicas.calls] == [1, 1, 4, 3]


async def test_a_replica_that_does_not_answer_holds_nobody_past_the_deadline() -> None:
    replicas = Replicas()
    replicas.gate.clear()
    now_s = 100.0
    scorer = PoolScorer(replicas.call, 4, 1, lambda: now_s)
    with pytest.raises(DeadlineExceeded):
        await scorer.predict(rows(1), now_s + 0.01)
    replicas.gate.set()
    assert (await scorer.predict(rows(1), now_s + 60))[0, 0] == 2
    assert replicas.calls[1][0][1] == pytest.approx(60)


async def test_whatever_a_call_raises_is_heard_by_all_in_it() -> None:
    replicas = Replicas()
    replicas.error = Unavailable("gone", "wait")
    scorer = PoolScorer(replicas.call, 4, 1)
    found = await asyncio.gather(
        *(scorer.predict(rows(1)) for _ in range(2)), return_exceptions=True
    )
    assert [type(error) for error in found] == [Unavailable, Unavailable]


# again


class Scripted:
    """An endpoint that goes through its steps: seconds until the answer, or an error."""

    def __init__(self, *steps: object) -> None:
        self.steps = list(steps)
        self.num_asked = self.num_cancelled = 0

    async def predict(self, ask: Ask) -> Any:
        step = self.steps[min(self.num_asked, len(self.steps) - 1)]
        self.num_asked += 1
        if isinstance(step, Exception):
            raise step
        if isinstance(step, asyncio.Event):
            try:
                await step.wait()
            except asyncio.CancelledError:
                self.num_cancelled += 1
                raise
        return self.num_asked if isinstance(step, asyncio.Event) else step


class Spent(Budget):
    """There is nothing in it, ever."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.num_refused = 0

    def spend(self) -> bool:
        self.num_refused += 1
        return False


GONE = Unavailable("gone", "wait")
ASK = Ask("id", b"", None)  # type: ignore[arg-type]


async def test_only_what_is_unavailable_is_asked_again_and_once() -> None:
    again: list[int] = []
    inner = Scripted(GONE, "answer")
    retry = Retry(inner, Budget(0.1), lambda: again.append(1))
    assert await retry.predict(ASK) == "answer"
    assert again == [1]
    for error in (ValueError("model"), DeadlineExceeded()):
        inner = Scripted(error)
        with pytest.raises(type(error)):
            await Retry(inner, Budget(1)).predict(ASK)
        assert inner.num_asked == 1
    inner = Scripted(GONE)
    with pytest.raises(Unavailable):
        await Retry(inner, Budget(1)).predict(ASK)
    assert inner.num_asked == 2


async def test_second_asks_are_a_share_of_the_first_ones() -> None:
    inner = Scripted(GONE)
    retry = Retry(inner, Budget(0.1))
    for _ in range(1000):
        with pytest.raises(Unavailable):
            await retry.predict(ASK)
    assert inner.num_asked - 1000 == pytest.approx(100 + RESERVE, abs=1)


async def test_nothing_is_asked_again_after_its_deadline() -> None:
    inner = Scripted(GONE)
    late = Ask("id", b"", None, deadline_s=5.0)  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await Retry(inner, Budget(1), clock_s=lambda: 6.0).predict(late)
    assert inner.num_asked == 1


async def test_the_first_answer_of_two_counts_and_the_other_ask_ends() -> None:
    never = asyncio.Event()
    inner = Scripted(never, "second")
    hedge = Hedge(inner, 0.001, Budget(0.05))
    assert await hedge.predict(ASK) == "second"
    await asyncio.sleep(0)
    assert (inner.num_asked, inner.num_cancelled) == (2, 1)


async def test_a_hedge_that_fails_does_not_end_the_first_ask() -> None:
    gate = asyncio.Event()
    inner = Scripted(gate, GONE)
    asked = asyncio.create_task(Hedge(inner, 0.001, Budget(1)).predict(ASK))
    await until(lambda: inner.num_asked == 2)
    gate.set()
    assert await asked == 2


async def test_without_budget_there_is_no_second_ask() -> None:
    gate = asyncio.Event()
    inner = Scripted(gate)
    budget = Spent()
    asked = asyncio.create_task(Hedge(inner, 0.001, budget).predict(ASK))
    await until(lambda: budget.num_refused)
    gate.set()
    await asked
    assert inner.num_asked == 1


# configuration


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"placement": "gpu"}, "neither inline nor one of `pools`"),
        ({"pools": {"gpu": {}}}, "`pools.gpu` has no effect, since nothing is placed there"),
        ({"endpoints": {"a": {"is_pinned": True}}}, "no effect on a model that is inline"),
        ({"pools": {"inline": {}}}, "`pools.inline`: none can be named so"),
        (
            {
                "placement": "p",
                "pools": {"p": {}, "q": {}},
                "endpoints": {"a": {"placement": "q"}, "b": {"placement": "inline"}},
            },
            "`placement` 'p' has no effect, since each of `endpoints` has its own: leave it out",
        ),
        (
            {"placement": "p", "pools": {"p": {"hedge_share": 0.1}}},
            "no effect without `hedge_after_ms`",
        ),
    ],
)
def test_a_placement_without_effect_is_an_error(args: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ServingConfig.model_validate(args)


def test_an_endpoint_may_be_placed_apart_from_the_others() -> None:
    config = ServingConfig.model_validate(
        {"placement": "p", "pools": {"p": {}}, "endpoints": {"a": {}, "b": {"placement": "inline"}}}
    )
    assert [config.placement_of(name) for name in ("a", "b", "c")] == ["p", "inline", "p"]


def test_a_placement_is_also_for_champions_that_stand_in() -> None:
    own = {"placement": "inline", "fallback": [{"endpoint": "b"}]}
    args = {"placement": "p", "pools": {"p": {}}, "endpoints": {"a": own}}
    assert ServingConfig.model_validate(args).placement_of("b") == "p"


# what a replica leaves behind


async def test_what_a_pools_replica_counted_is_handed_over_when_it_goes() -> None:
    counted: list[float] = []

    class Counter:
        def inc(self, amount: float, tags: dict[str, str]) -> None:
            counted.append(amount)

    replica = object.__new__(PoolReplica)
    replica.__del__()  # of one that could not begin
    replica._meter = PoolMeter("p", lambda name: Counter())
    replica._meter.ask(is_held=True)
    replica._meter.ask(is_held=True)
    replica.__del__()
    assert counted == [2]
