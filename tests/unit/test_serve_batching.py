import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from rayapp.families.base import Floats
from rayapp.serve.batching import Batcher, ModelFault


def table(*values: float) -> pa.Table:
    return pa.table({"x": pa.array(values, pa.float64())})


def double(rows: pa.Table) -> Floats:
    return 2 * np.array(rows.column("x"), np.float32)[:, None]


def refuse_negative(rows: pa.Table) -> Floats:
    if min(rows.column("x").to_pylist()) < 0:
        raise ValueError("negative")
    return double(rows)


def batcher(
    predict: Callable[[pa.Table], Floats] = double, max_rows: int = 10, wait_ms: float = 5
) -> tuple[Batcher, list[int]]:
    calls: list[int] = []
    return Batcher(predict, max_rows, wait_ms, calls.append), calls


async def test_rows_go_back_to_whom_they_belong() -> None:
    made, calls = batcher(max_rows=100)
    tables = [table(*range(n)) for n in (1, 3, 2)]
    answers = await asyncio.gather(*(made.predict(t) for t in tables))
    assert [a[:, 0].tolist() for a in answers] == [[0], [0, 2, 4], [0, 2]]
    assert calls == [6]


async def test_no_call_has_more_rows_than_the_limit() -> None:
    made, calls = batcher(max_rows=4)
    answers = await asyncio.gather(*(made.predict(table(*range(n))) for n in (3, 2, 9)))
    assert [len(a) for a in answers] == [3, 2, 9]
    assert answers[2][:, 0].tolist() == [2.0 * i for i in range(9)]
    assert sum(calls) == 14
    assert max(calls) <= 4


async def test_a_full_batch_does_not_wait() -> None:
    made, _ = batcher(max_rows=2, wait_ms=3_600_000)
    await asyncio.wait_for(asyncio.gather(*(made.predict(table(1)) for _ in range(2))), 5)


async def test_without_a_wait_a_lone_request_runs_at_once() -> None:
    made, calls = batcher(wait_ms=0)
    assert (await made.predict(table(3)))[:, 0].tolist() == [6]
    assert calls == [1]


async def test_one_bad_request_fails_alone() -> None:
    made, _ = batcher(refuse_negative)
    answers = await asyncio.gather(
        *(made.predict(table(v)) for v in (1, -1, 2)), return_exceptions=True
    )
    assert isinstance(answers[1], ValueError)
    assert [answers[0][0, 0], answers[2][0, 0]] == [2, 4]  # type: ignore[index]
    assert (await made.predict(table(5)))[0, 0] == 10


@pytest.mark.parametrize("answer", [np.array([[np.nan]]), np.ones((2, 1))])
async def test_what_is_no_answer_is_not_given_out(answer: Floats) -> None:
    made, _ = batcher(lambda rows: answer)
    with pytest.raises(ModelFault):
        await made.predict(table(1))


async def test_a_client_that_left_takes_nobody_along() -> None:
    made, _ = batcher(wait_ms=20)
    gone = asyncio.ensure_future(made.predict(table(1)))
    stays = asyncio.ensure_future(made.predict(table(2)))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays)[0, 0] == 4


async def test_rows_that_come_during_a_call_share_the_next_one() -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(rows: pa.Table) -> Floats:
        started.set()
        assert go_on.wait(10)
        return double(rows)

    made, calls = batcher(slow, max_rows=100, wait_ms=0)
    first = asyncio.ensure_future(made.predict(table(*range(50))))
    while not started.is_set():
        await asyncio.sleep(0.001)
    others = [asyncio.ensure_future(made.predict(table(7))) for _ in range(5)]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, *others)
    assert calls == [50, 5]
