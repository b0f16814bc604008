import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest

from rayapp.families.base import Floats
from rayapp.serve.batching import Batcher, ModelFault


def rows(*values: float) -> Floats:
    return np.array(values, np.float32)[:, None]


def double(x_NF: Floats) -> Floats:
    return 2 * x_NF


def refuse_negative(x_NF: Floats) -> Floats:
    if x_NF.min() < 0:
        raise ValueError("negative")
    return double(x_NF)


def batcher(
    score: Callable[[Floats], Floats] = double, max_rows: int = 10, wait_ms: float = 5
) -> tuple[Batcher, list[int]]:
    calls: list[int] = []
    return Batcher(score, max_rows, wait_ms, calls.append), calls


async def test_rows_go_back_to_whom_they_belong() -> None:
    made, calls = batcher(max_rows=100)
    requests = [rows(*range(n)) for n in (1, 3, 2)]
    answers = await asyncio.gather(*(made.predict(x_NF) for x_NF in requests))
    assert [a[:, 0].tolist() for a in answers] == [[0], [0, 2, 4], [0, 2]]
    assert calls == [6]


async def test_no_call_has_more_rows_than_the_limit() -> None:
    made, calls = batcher(max_rows=4)
    answers = await asyncio.gather(*(made.predict(rows(*range(n))) for n in (3, 2, 9)))
    assert [len(a) for a in answers] == [3, 2, 9]
    assert answers[2][:, 0].tolist() == [2.0 * i for i in range(9)]
    assert sum(calls) == 14
    assert max(calls) <= 4


async def test_a_full_batch_does_not_wait() -> None:
    made, _ = batcher(max_rows=2, wait_ms=3_600_000)
    await asyncio.wait_for(asyncio.gather(*(made.predict(rows(1)) for _ in range(2))), 5)


async def test_without_a_wait_a_lone_request_runs_at_once() -> None:
    made, calls = batcher(wait_ms=0)
    assert (await made.predict(rows(3)))[:, 0].tolist() == [6]
    assert calls == [1]


async def test_one_bad_request_fails_alone() -> None:
    made, _ = batcher(refuse_negative)
    answers = await asyncio.gather(
        *(made.predict(rows(v)) for v in (1, -1, 2)), return_exceptions=True
    )
    assert isinstance(answers[1], ValueError)
    assert [answers[0][0, 0], answers[2][0, 0]] == [2, 4]  # type: ignore[index]
    assert (await made.predict(rows(5)))[0, 0] == 10


@pytest.mark.parametrize("answer", [np.array([[np.nan]]), np.ones((2, 1))])
async def test_what_is_no_answer_is_not_given_out(answer: Floats) -> None:
    made, _ = batcher(lambda x_NF: answer)
    with pytest.raises(ModelFault):
        await made.predict(rows(1))


async def test_a_client_that_left_takes_nobody_along() -> None:
    made, _ = batcher(wait_ms=20)
    gone = asyncio.ensure_future(made.predict(rows(1)))
    stays = asyncio.ensure_future(made.predict(rows(2)))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays)[0, 0] == 4


async def test_rows_that_come_during_a_call_share_the_next_one() -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(x_NF: Floats) -> Floats:
        started.set()
        assert go_on.wait(10)
        return double(x_NF)

    made, calls = batcher(slow, max_rows=100, wait_ms=0)
    first = asyncio.ensure_future(made.predict(rows(*range(50))))
    while not started.is_set():
        await asyncio.sleep(0.001)
    others = [asyncio.ensure_future(made.predict(rows(7))) for _ in range(5)]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, *others)
    assert calls == [50, 5]
