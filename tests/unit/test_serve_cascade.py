"""The first model answers what it is sure of, the champion the rest; and what happens where one of
them cannot."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from routed import Answering, Clock, ask_of, loaded_of, schema_of
from serving_case import estimate

from rayapp.config.choosing import CascadeConfig
from rayapp.errors import RequestError, Unavailable
from rayapp.serve.endpoints.base import Reply, RowAnswer
from rayapp.serve.endpoints.cascade import Cascade, Counts
from rayapp.serve.endpoints.deadline import Deadlines
from rayapp.serve.wire.protocols import Parsed

CALIBRATED = estimate("calibration_error", 0.0, 0.04)
SURE, UNSURE = 0.95, 0.6
MISTAKE = RequestError("no such column", "leave it out", 422, "unknown_column", "x")


class Pair:
    """A first model that gives P(1) = a, and a champion that gives P(1) = a / 2."""

    def __init__(self, max_error: float = 0.1) -> None:
        self.clock = Clock()
        self.first = Answering(loaded_of("small", CALIBRATED), self.clock)
        self.champion = Answering(loaded_of("large"), self.clock, score=lambda a: a / 2)
        config = {"first": {"endpoint": "small", "usd_per_1000_rows": 1}, "max_error": max_error}
        self.counts: list[Counts] = []
        self.cascade = Cascade(
            self.first.candidate("first", 1),
            self.champion.candidate("champion", 10),
            CascadeConfig.model_validate(config),
            Deadlines(self.clock),
            self.counts.append,
            self.clock,
        )

    @property
    def problem(self) -> str | None:
        return self.cascade.problems().get("first")


KEPT = RowAnswer("small", 1, None, "first")
ESCALATED = RowAnswer("large", 11, None, "champion")
GIVEN = RowAnswer("small", 1, "cascade", "first")
WHOLE = RowAnswer("large", 10, None, "champion")


async def test_sure_rows_are_kept() -> None:
    pair = Pair()
    reply = await pair.cascade.predict(ask_of(SURE, 1 - SURE))
    assert (reply.release_id, reply.degraded) == ("small", None)
    assert reply.by_row == (KEPT, KEPT)
    assert pair.champion.asks == []
    assert pair.counts == [Counts(2, 0, 0)]


async def test_unsure_rows_go_on_in_one_call_and_the_champion_is_named() -> None:
    pair = Pair()
    reply = await pair.cascade.predict(ask_of(UNSURE, SURE, 0.5))
    assert [asked.parsed.records for asked in pair.champion.asks] == [[{"a": UNSURE}, {"a": 0.5}]]
    assert (reply.release_id, reply.degraded) == ("large", None)
    assert reply.scores_NK[:, 1].tolist() == pytest.approx([UNSURE / 2, SURE, 0.25])
    assert reply.by_row == (ESCALATED, KEPT, ESCALATED)
    assert [row["by"] for row in reply.rows.inputs] == ["large", "small", "large"]
    assert pair.counts == [Counts(1, 2, 0)]


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40),
    st.floats(0.01, 0.49),
)
def test_it_is_the_champions_answer_for_what_is_handed_on_and_the_firsts_for_the_rest(
    values: list[float], max_error: float
) -> None:
    pair, asked = Pair(max_error), ask_of(*values)
    small = asyncio.run(pair.first.predict(asked)).scores_NK
    large = asyncio.run(pair.champion.predict(asked)).scores_NK
    merged = asyncio.run(pair.cascade.predict(asked))
    is_unsure_N = small.max(axis=1).astype(np.float64) < 1 - max_error
    expected = np.where(is_unsure_N[:, None], large, small)
    assert merged.scores_NK.tobytes() == expected.tobytes()
    assert merged.by_row is not None
    assert [row.release_id == "large" for row in merged.by_row] == is_unsure_N.tolist()
    assert merged.release_id == ("large" if is_unsure_N.any() else "small")
    num_escalated = int(is_unsure_N.sum())
    assert sum(row.cost_nano_usd for row in merged.by_row) == len(values) + 10 * num_escalated
    assert pair.counts == [Counts(len(values) - num_escalated, num_escalated, 0)]


async def test_parts_of_a_request_are_other_questions_to_a_cache() -> None:
    pair = Pair()
    await pair.cascade.predict(ask_of(UNSURE, SURE))
    await pair.cascade.predict(ask_of(SURE, UNSURE))
    await pair.cascade.predict(ask_of(UNSURE, UNSURE))
    bodies = [asked.body for asked in pair.champion.asks]
    assert len(set(bodies)) == 3
    assert bodies[2] == b"{}"


@pytest.mark.parametrize("error", [Unavailable("away", "wait"), ValueError("broken")])
async def test_rows_that_the_champion_cannot_answer_keep_the_first_models(error: Exception) -> None:
    pair = Pair()
    pair.champion.error = error
    reply = await pair.cascade.predict(ask_of(UNSURE, SURE))
    assert (reply.release_id, reply.degraded) == ("small", "cascade")
    assert reply.scores_NK[:, 1].tolist() == pytest.approx([UNSURE, SURE])
    assert reply.by_row == (GIVEN, KEPT)
    assert pair.counts == [Counts(1, 0, 1)]


async def test_a_champion_that_takes_too_long_is_given_up_in_time_to_answer() -> None:
    pair = Pair()
    never, asked = asyncio.Event(), list[Any]()

    async def wait(ask: Any) -> Reply:
        asked.append(ask)
        pair.clock.now_s = ask.deadline_s + 0.01
        await never.wait()
        raise AssertionError

    pair.champion.predict = wait  # type: ignore[method-assign]
    deadline_s = pair.clock.now_s + 1
    reply = await pair.cascade.predict(ask_of(UNSURE, deadline_s=deadline_s))
    assert reply.by_row == (GIVEN,)
    assert deadline_s - asked[0].deadline_s == pytest.approx(0.05)
    assert pair.clock.now_s < deadline_s
    hurried = pair.clock.now_s + 0.011
    await pair.cascade.predict(ask_of(UNSURE, deadline_s=hurried))
    assert hurried - asked[1].deadline_s == pytest.approx(0.0025)


@pytest.mark.parametrize("error", [Unavailable("away", "wait"), ValueError("broken"), MISTAKE])
async def test_what_the_first_model_cannot_answer_the_champion_does(error: Exception) -> None:
    pair = Pair()
    pair.first.error = error
    reply = await pair.cascade.predict(ask_of(SURE, UNSURE))
    assert (reply.release_id, reply.degraded, reply.by_row) == ("large", None, (WHOLE, WHOLE))
    assert pair.counts == [Counts(0, 2, 0)]


async def test_a_callers_mistake_is_told_of_all_rows() -> None:
    """Of the rows that went on alone it would name the wrong number."""
    pair = Pair()
    pair.champion.error = MISTAKE
    with pytest.raises(RequestError):
        await pair.cascade.predict(ask_of(SURE, UNSURE))
    assert [asked.parsed.num_rows for asked in pair.champion.asks] == [1, 2]


@pytest.mark.parametrize("row", [{}, {"a": SURE, "b": 1}, {"b": 1, "id": "k"}])
async def test_rows_of_other_columns_are_the_champions_matter(row: dict[str, Any]) -> None:
    pair = Pair()
    pair.champion.error = MISTAKE
    for shape in ([row], {name: [value] for name, value in row.items()}):
        asked = replace(ask_of(), parsed=Parsed(shape, 1))
        with pytest.raises(RequestError):
            await pair.cascade.predict(asked)
    assert pair.first.asks == []


async def test_a_business_key_is_no_column() -> None:
    pair = Pair()
    asked = replace(ask_of(), parsed=Parsed([{"a": SURE, "id": "k"}], 1))
    assert (await pair.cascade.predict(asked)).by_row == (KEPT,)


async def test_releases_that_move_meanwhile_are_not_mixed() -> None:
    pair = Pair()
    small, large = pair.first.predict, pair.champion.predict

    async def first_moved(ask: Any) -> Reply:
        return replace(await small(ask), release_id="another")

    async def champion_moved(ask: Any) -> Reply:
        return replace(await large(ask), schema=schema_of(("no", "yes")))

    pair.first.predict = first_moved  # type: ignore[method-assign]
    assert (await pair.cascade.predict(ask_of(SURE))).by_row == (WHOLE,)
    pair.first.predict = small  # type: ignore[method-assign]
    pair.champion.predict = champion_moved  # type: ignore[method-assign]
    reply = await pair.cascade.predict(ask_of(SURE, UNSURE))
    assert reply.by_row == (WHOLE, WHOLE)
    assert reply.schema.classes == ("no", "yes")


# models that are no first model

REFUSED = {
    "is not calibrated: calibration_error 0.0510 to 0.0900 over 100 rows, at most 0.05": loaded_of(
        "small", estimate("calibration_error", 0.051, 0.09)
    ),
    "is not known to be calibrated: calibration_error 0.0200 to 0.0600": loaded_of(
        "small", estimate("calibration_error", 0.02, 0.06)
    ),
    "its evaluation has no calibration_error with an interval": loaded_of(
        "small", estimate("calibration_error", None, None)
    ),
    "is a regression without intervals": loaded_of(
        "small", CALIBRATED, schema=schema_of((), "regression")
    ),
    "does not give the champion's classes": loaded_of(
        "small", CALIBRATED, schema=schema_of(("no", "yes"))
    ),
    "needs 'b', which the champion does not take": loaded_of(
        "small", CALIBRATED, schema=schema_of(inputs=("a", "b"))
    ),
    "it is not loaded": None,
}


@pytest.mark.parametrize("reason", REFUSED)
async def test_a_first_model_that_says_nothing_of_its_errors_is_refused(reason: str) -> None:
    pair = Pair()
    assert pair.problem is None
    pair.first.loaded = REFUSED[reason]
    assert reason in (pair.problem or "")
    reply = await pair.cascade.predict(ask_of(SURE))
    assert (reply.by_row, reply.degraded) == ((WHOLE,), None)
    assert pair.first.asks == []


def test_a_limit_that_hands_nothing_on_is_refused() -> None:
    pair = Pair(max_error=0.5)
    assert "with 2 classes no error is likelier than 0.5" in (pair.problem or "")


async def test_without_a_champion_its_trouble_is_told() -> None:
    pair = Pair()
    pair.champion.loaded, pair.champion.error = None, Unavailable("none", "release one")
    with pytest.raises(Unavailable):
        await pair.cascade.predict(ask_of(SURE))


# some of the rows


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=9), st.data())
def test_rows_are_taken_from_records_and_columns_alike(
    values: list[float], data: st.DataObject
) -> None:
    numbers = range(len(values))
    rows = data.draw(st.lists(st.sampled_from(numbers), min_size=1, unique=True))
    wanted = [values[row] for row in rows]
    shapes = ([{"a": v} for v in values], {"a": values}, {"a": pa.array(values)})
    for given_ in shapes:
        taken = Parsed(given_, len(values), "id").take(rows)
        assert list(taken.plain("a") or ()) == wanted
        assert (taken.num_rows, taken.request_id) == (len(rows), "id")
