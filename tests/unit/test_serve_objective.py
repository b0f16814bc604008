"""The cheapest that is quick and good enough: each constraint has somebody whom it refuses."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from routed import Answering, Clock, ask_of, auc, loaded_of, schema_of
from serving_case import estimate

from rayapp.config.choosing import ObjectiveConfig
from rayapp.errors import DeadlineExceeded, RequestError, Unavailable
from rayapp.evaluate.metrics import METRICS
from rayapp.schemas.release import HIGHER_IS_BETTER, HIGHER_IS_BETTER_IN_WORDS
from rayapp.serve.endpoints.alike import RowTerms
from rayapp.serve.endpoints.base import Assignment, Reply
from rayapp.serve.endpoints.latency import Latency
from rayapp.serve.endpoints.objective import Allocation, Objective
from rayapp.serve.wire.protocols import Parsed

MIN_ANSWERS = 20
WINDOW_S = 100.0


class Choice:
    """A champion and others, each given as (lower bound of its AUC, cost)."""

    def __init__(self, *arms: tuple[float, int], **config: Any) -> None:
        self.clock = Clock()
        self.names = ["champion", *(f"c{number}" for number in range(1, len(arms)))]
        self.arms = {
            name: Answering(loaded_of(f"release-of-{name}", auc(low)), self.clock)
            for name, (low, _) in zip(self.names, arms, strict=True)
        }
        settings = {
            "max_p95_ms": 50,
            "metric": "auc",
            "min_quality": 0.7,
            "candidates": {
                name: {"endpoint": name, "usd_per_1000_rows": 1} for name in self.names[1:]
            },
            "explore": 0.1,
            "min_answers": MIN_ANSWERS,
            "window_s": WINDOW_S,
        }
        self.config = ObjectiveConfig.model_validate(settings | config)
        self.told: list[tuple[str, str]] = []
        self.objective = Objective(
            [
                self.arms[name].candidate(name, cost)
                for name, (_, cost) in zip(self.names, arms, strict=True)
            ],
            self.config,
            RowTerms(self.config.metric, self.config.min_quality),
            "salt",
            lambda arm, reason: self.told.append((arm, reason)),
            self.clock,
        )

    def measure(self, name: str, took_s: float = 0.001, num: int = MIN_ANSWERS) -> None:
        """As if so many requests had been answered by this arm."""
        latency = self.objective._latencies[self.names.index(name)]
        for _ in range(num):
            latency.note(took_s, self.clock.now_s)
        self.clock.now_s += 1

    def measure_all(self) -> "Choice":
        for name in self.names:
            self.measure(name)
        return self

    @property
    def allocation(self) -> Allocation:
        return self.objective.allocation(self.clock.now_s)

    @property
    def chosen(self) -> str:
        return self.names[self.allocation.chosen]

    async def ask(self, unit: str = "u") -> tuple[Reply, str, float]:
        asked = ask_of(unit=unit)
        reply = await self.objective.predict(asked)
        assert asked.assignment is not None
        return reply, asked.assignment.arm, asked.assignment.propensity


# the constraints


def test_the_cheapest_answers() -> None:
    choice = Choice((0.8, 30), (0.75, 10), (0.72, 20)).measure_all()
    assert (choice.chosen, choice.allocation.degraded, choice.allocation.problems) == (
        "c1",
        None,
        {},
    )


def test_whose_interval_does_not_clear_the_quality_is_refused() -> None:
    """Its value would: 0.705 is above 0.7, the lower end of its interval is not."""
    choice = Choice((0.8, 30), (0.695, 10)).measure_all()
    assert choice.chosen == "champion"
    assert choice.allocation.problems == {
        "c1": "release release-of-c: auc is 0.6950 at the worse end of its interval, at least 0.7 "
        "is required"
    }


def test_of_a_metric_where_less_is_better_the_upper_end_counts() -> None:
    choice = Choice((0.8, 30), (0.8, 20), (0.8, 10), metric="log_loss", min_quality=0.5)
    for name, high in zip(choice.names, (0.4, 0.49, 0.51), strict=True):
        choice.arms[name].loaded = loaded_of(name, estimate("log_loss", 0.3, high))
    choice.measure_all()
    assert choice.chosen == "c1"
    assert "at most 0.5 is required" in choice.allocation.problems["c2"]


@pytest.mark.parametrize("estimates", [(), (estimate("auc", None, None),)])
def test_without_an_interval_there_is_no_evidence(estimates: Sequence[Any]) -> None:
    choice = Choice((0.8, 30), (0.8, 10)).measure_all()
    choice.arms["c1"].loaded = loaded_of("r", *estimates)
    assert choice.chosen == "champion"
    assert (
        choice.allocation.problems["c1"] == "release r: its evaluation has no auc with an interval"
    )


def test_who_gives_other_classes_needs_more_or_is_not_loaded_is_refused() -> None:
    choice = Choice((0.8, 30), (0.8, 10), (0.8, 10), (0.8, 10)).measure_all()
    more = schema_of(inputs=("a", "b"))
    choice.arms["c3"].loaded = loaded_of("r", auc(0.9), schema=more)
    choice.arms["c1"].loaded = loaded_of("r", auc(0.9), schema=schema_of(("no", "yes")))
    choice.arms["c2"].loaded = None
    assert choice.chosen == "champion"
    assert choice.allocation.problems == {
        "c1": "release r: it does not give the champion's classes",
        "c2": "it is not loaded",
        "c3": "release r needs 'b', which the champion does not take",
    }


def test_who_is_too_slow_is_refused() -> None:
    choice = Choice((0.8, 30), (0.8, 10))
    choice.measure("champion")
    choice.measure("c1", took_s=0.051)
    assert choice.chosen == "champion"
    assert choice.allocation.explorable == (0,)
    assert (
        "its p95 exceeded 50 ms: 20 of 20 answers in the last 100 s"
        in (choice.allocation.problems["c1"])
    )


def test_nothing_is_known_of_a_latency_until_there_are_enough_answers() -> None:
    choice = Choice((0.8, 30), (0.8, 10))
    choice.measure("champion")
    choice.measure("c1", num=MIN_ANSWERS - 1)
    assert choice.chosen == "champion"
    assert choice.allocation.explorable == (0, 1)
    choice.measure("c1", num=1)
    assert choice.chosen == "c1"


async def test_before_anything_is_measured_the_best_answers_and_nothing_is_degraded() -> None:
    choice = Choice((0.75, 30), (0.8, 10), (0.6, 1))
    assert (choice.chosen, choice.allocation.degraded) == ("c1", None)
    assert choice.allocation.explorable == (0, 1)


async def test_where_nobody_is_good_enough_the_best_answers_and_says_so() -> None:
    choice = Choice((0.6, 30), (0.65, 10), (0.5, 1)).measure_all()
    reply, arm, propensity = await choice.ask()
    assert (reply.release_id, reply.degraded) == ("release-of-c1", "objective:quality")
    assert (arm, propensity) == ("c1", 1.0)
    assert reply.by_row is not None
    assert (reply.by_row[0].degraded, reply.by_row[0].cost_nano_usd) == ("objective:quality", 10)
    assert choice.told == [("c1", "degraded")]


async def test_where_nobody_is_quick_enough_the_best_answers_and_says_so() -> None:
    choice = Choice((0.8, 30), (0.75, 10), (0.6, 1))
    for name in choice.names:
        choice.measure(name, took_s=0.2)
    reply, arm, _ = await choice.ask()
    assert (arm, reply.degraded) == ("champion", "objective:latency")


async def test_without_any_release_the_champions_trouble_is_told() -> None:
    choice = Choice((0.8, 30), (0.8, 10))
    for arm in choice.arms.values():
        arm.loaded, arm.error = None, Unavailable("nothing is there", "release")
    with pytest.raises(Unavailable):
        await choice.ask()
    assert choice.told == [("champion", "cheapest")]


# what is measured


async def test_answers_are_measured_where_they_are_given() -> None:
    choice = Choice((0.8, 30), (0.8, 10)).measure_all()
    choice.arms["c1"].took_s = 0.2
    arms = [(await choice.ask(f"u{n}"))[1] for n in range(300)]
    assert arms[0] == "c1"
    assert set(arms[-200:]) == {"champion"}
    assert choice.allocation.problems.keys() == {"c1"}


async def test_a_failure_took_for_ever_and_a_callers_mistake_no_time() -> None:
    choice = Choice((0.8, 30), (0.8, 10), explore=1e-9).measure_all()
    latency = choice.objective._latencies[1]
    mistake = RequestError("no such column", "leave it out", 422, "unknown_column", "a")
    in_a_hurry = ask_of(deadline_s=choice.clock.now_s)
    for error, asked, counted in (
        (mistake, ask_of(), 0),
        (DeadlineExceeded("late"), in_a_hurry, 0),
        (DeadlineExceeded("late"), ask_of(), 1),
        (ValueError("broken"), ask_of(), 1),
    ):
        choice.arms["c1"].error = error
        before = latency.num_slow
        with pytest.raises(type(error)):
            await choice.objective.predict(asked)
        assert latency.num_slow - before == counted, error


async def test_a_callers_mistake_that_took_long_to_find_counts_for_nothing() -> None:
    choice = Choice((0.8, 30), (0.8, 10), explore=1e-9).measure_all()
    mistake = RequestError("no such column", "leave it out", 422, "unknown_column", "a")
    choice.arms["c1"].error, choice.arms["c1"].took_s = mistake, 0.2
    with pytest.raises(RequestError):
        await choice.objective.predict(ask_of())
    assert choice.objective._latencies[1].num_slow == 0


async def test_a_request_that_is_cancelled_late_was_slow() -> None:
    choice = Choice((0.8, 30), (0.8, 10), explore=1e-9).measure_all()
    latency = choice.objective._latencies[1]
    never = asyncio.Event()
    began = asyncio.Event()

    async def stand_still(ask: Any) -> Reply:
        began.set()
        await never.wait()
        raise AssertionError

    choice.arms["c1"].predict = stand_still  # type: ignore[method-assign]
    for waited_s, counted in ((0.01, 0), (0.2, 1)):
        task = asyncio.create_task(choice.objective.predict(ask_of()))
        await began.wait()
        began.clear()
        choice.clock.now_s += waited_s
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert latency.num_slow == counted


def test_another_release_has_still_to_be_measured() -> None:
    choice = Choice((0.8, 30), (0.8, 10)).measure_all()
    assert choice.chosen == "c1"
    choice.arms["c1"].loaded = loaded_of("another", auc(0.8))
    assert choice.chosen == "champion"
    assert choice.allocation.explorable == (0, 1)


def latency_of(min_answers: int = MIN_ANSWERS) -> Latency:
    return Latency(0.05, min_answers, WINDOW_S)


def test_a_latency_comes_back_once_it_is_well_within_the_limit() -> None:
    latency, states, now_s = latency_of(), [], 0.0
    for took_ms in (30, 60, 49, 44):
        for _ in range(300):
            now_s += 1
            latency.note(took_ms / 1000, now_s)
        states.append(latency.state)
    assert states == ["quick", "slow", "slow", "quick"]


@given(st.lists(st.floats(0.046, 0.0499), min_size=MIN_ANSWERS, max_size=400))
def test_a_latency_between_both_limits_changes_nothing(took_s: list[float]) -> None:
    for first, state in ((0.03, "quick"), (0.06, "slow")):
        latency = latency_of()
        for _ in range(MIN_ANSWERS):
            latency.note(first, 0.0)
        for number, one in enumerate(took_s):
            latency.note(one, number / 2)
            assert latency.state == state


def test_a_latency_around_the_limit_does_not_flap() -> None:
    """Answers take 45 to 55 ms in turn, for a day: it is left once and for all."""
    latency, changes = latency_of(), list[str]()
    for number in range(86_400):
        latency.note((45 + number % 11) / 1000, float(number))
        if not changes or changes[-1] != latency.state:
            changes.append(latency.state)
    assert changes == ["unknown", "slow"]


def test_a_lull_changes_nothing_and_lets_the_slow_one_be_explored() -> None:
    latency = latency_of()
    for _ in range(MIN_ANSWERS):
        latency.note(0.06, 0.0)
    assert (latency.look(WINDOW_S / 2), latency.is_measured) == ("slow", True)
    assert (latency.look(2 * WINDOW_S), latency.is_measured) == ("slow", False)
    assert latency.num_answers == 0


def test_a_standstill_is_seen_before_it_fills_a_window() -> None:
    latency = latency_of(min_answers=100)
    for number in range(5):
        latency.note(9.0, float(number))
    before = latency.state
    latency.note(9.0, 5.0)
    assert (before, latency.state) == ("unknown", "slow")


@given(st.lists(st.tuples(st.floats(0, 0.1), st.floats(0, 30)), max_size=200))
def test_the_window_holds_what_was_answered_within_it(answers: list[tuple[float, float]]) -> None:
    latency, now_s, noted = latency_of(), 0.0, list[tuple[float, float]]()
    for took_s, wait_s in answers:
        now_s += wait_s
        latency.note(took_s, now_s)
        noted.append((took_s, now_s))
        recent = [t for t, at_s in noted if at_s > now_s - 0.9 * WINDOW_S]
        old = [t for t, at_s in noted if at_s > now_s - WINDOW_S]
        assert len(recent) <= latency.num_answers <= len(old)
        assert latency.num_slow <= sum(t > 0.05 for t in old)
    assert len(latency._parts) <= 10


# exploring


@given(
    st.floats(0.001, 1),
    st.integers(0, 4),
    st.sets(st.integers(0, 4)),
)
def test_propensities_sum_to_one(explore: float, chosen: int, explorable: set[int]) -> None:
    allocation = Allocation(chosen, tuple(sorted(explorable)), None, {})
    shares = [allocation.propensity(place, explore) for place in range(5)]
    assert sum(shares) == pytest.approx(1)
    assert all(share >= 0 for share in shares)


@given(
    st.lists(st.tuples(st.floats(0.6, 0.9), st.integers(1, 50)), min_size=2, max_size=4),
    st.sampled_from([0.05, 0.3, 1.0]),
    st.lists(st.sampled_from([0, 0.001, 0.2]), min_size=4, max_size=4),
)
def test_units_get_each_arm_as_often_as_its_propensity_says(
    arms: list[tuple[float, int]], explore: float, took_s: list[float]
) -> None:
    choice = Choice(*arms, explore=explore)
    for name, one in zip(choice.names, took_s, strict=False):
        choice.measure(name, one, num=MIN_ANSWERS if one else 0)
    allocation, num_units = choice.allocation, 3000
    found = Counter(choice.objective._place_of(f"unit-{n}", allocation) for n in range(num_units))
    for place in range(len(arms)):
        share = allocation.propensity(place, explore)
        error = 5 * (share * (1 - share) / num_units) ** 0.5
        assert abs(found[place] / num_units - share) <= error + 1e-9


async def test_what_is_logged_is_the_propensity_of_the_arm_that_answered() -> None:
    choice = Choice((0.8, 30), (0.8, 10), (0.6, 1), explore=0.5).measure_all()
    found = {
        arm: propensity for _, arm, propensity in [await choice.ask(f"u{n}") for n in range(99)]
    }
    assert found == {"champion": 0.25, "c1": 0.75}
    assert set(choice.told) == {("champion", "explored"), ("c1", "cheapest")}


async def test_what_rules_let_through_is_a_part_of_the_propensity() -> None:
    choice = Choice((0.8, 30), (0.8, 10), explore=0.5).measure_all()
    asked = ask_of(unit="u0")
    asked.assignment = Assignment("champion", 0.4, "u0")
    await choice.objective.predict(asked)
    assert asked.assignment.propensity in (0.4 * 0.25, 0.4 * 0.75)


async def test_a_unit_stays_with_its_arm_while_that_may_be_had() -> None:
    choice = Choice((0.8, 30), (0.8, 10), (0.8, 20), explore=1.0).measure_all()
    units = [f"unit-{n}" for n in range(200)]
    before = {unit: choice.objective._place_of(unit, choice.allocation) for unit in units}
    again = {unit: choice.objective._place_of(unit, choice.allocation) for unit in units}
    fewer = replace(choice.allocation, explorable=(0, 1))
    after = {unit: choice.objective._place_of(unit, fewer) for unit in units}
    assert before == again
    assert {unit for unit in units if after[unit] != before[unit]} == {
        unit for unit in units if before[unit] == 2
    }


async def test_rows_of_several_units_do_not_explore() -> None:
    choice = Choice((0.8, 30), (0.8, 10), explore=1.0).measure_all()
    asked = replace(ask_of(), parsed=Parsed([{"id": 1, "a": 0.5}, {"id": 2, "a": 0.5}], 2))
    reply = await choice.objective.predict(asked)
    assert asked.assignment is not None
    assert (asked.assignment.arm, asked.assignment.propensity) == ("c1", 1.0)
    assert asked.assignment.unit is None
    assert reply.by_row is not None
    assert [row.cost_nano_usd for row in reply.by_row] == [10, 10]


async def test_rows_of_other_columns_are_the_champions_matter() -> None:
    choice = Choice((0.8, 30), (0.8, 10)).measure_all()
    misspelt = replace(ask_of(), parsed=Parsed([{"a": 0.5, "b": 1}], 1))
    assert (await choice.objective.predict(misspelt)).release_id == "release-of-champion"
    assert misspelt.assignment is not None
    assert (misspelt.assignment.propensity, misspelt.assignment.unit) == (1.0, None)


def test_config_and_evaluation_agree_which_way_a_metric_is_better() -> None:
    directed = {n: m for n, m in METRICS.items() if m.higher_is_better is not None}
    of_rows = {n: m.higher_is_better for n, m in directed.items() if m.tasks != ("text",)}
    in_words = {n: m.higher_is_better for n, m in directed.items() if "text" in m.tasks}
    assert (of_rows, in_words) == (HIGHER_IS_BETTER, HIGHER_IS_BETTER_IN_WORDS)
