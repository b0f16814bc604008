"""Too many callers at once, and an engine that stands still though it says that it is well."""

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import httpx
import psutil
import pytest
from llm_head import JSON, Served, chat, engines
from waiting import until

pytestmark = pytest.mark.slow
NUM_CALLERS = 1_000


async def crowd(served: Served) -> list[httpx.Response]:
    headers = JSON | {"authorization": f"Bearer {served.key}"}
    limits = httpx.Limits(max_connections=NUM_CALLERS)
    async with httpx.AsyncClient(
        base_url=served.url, headers=headers, timeout=300, limits=limits
    ) as client:
        asked = [
            client.post("/v1/chat/completions", content=chat(max_tokens=2))
            for _ in range(NUM_CALLERS)
        ]
        return await asyncio.gather(*asked)


def test_a_thousand_callers_at_once_are_answered_or_told_to_come_back(served: Served) -> None:
    statuses = Counter[int]()
    for answer in asyncio.run(crowd(served)):
        statuses[answer.status_code] += 1
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert set(error) >= {"message", "type", "code"}
            assert int(answer.headers["retry-after"]) >= 1
    assert set(statuses) <= {200, 503}
    assert statuses[200] > 100
    with served.client() as client:
        assert client.post("/v1/chat/completions", content=chat(), headers=JSON).is_success


@pytest.fixture
def stopped(served: Served) -> Iterator[psutil.Process]:
    (engine,) = engines(served)
    engine.send_signal(signal.SIGSTOP)
    yield engine
    with suppress(psutil.NoSuchProcess):  # where its replica, which is gone, could not end it
        engine.kill()


def test_an_engine_that_stands_still_is_replaced(served: Served, stopped: psutil.Process) -> None:
    """It is not dead, so only a probe that wants a token of it finds out."""
    headers = JSON | {"x-deadline-ms": "3000"}
    with served.client() as client:
        told = client.post("/v1/chat/completions", content=chat(), headers=headers)
        assert told.status_code in (503, 504)
        assert told.json()["error"]["code"] in ("unavailable", "deadline_exceeded")

        def is_back() -> bool:
            answer = client.post("/v1/chat/completions", content=chat(), headers=headers)
            assert answer.status_code in (200, 503, 504)
            return answer.is_success

        until(is_back, wait_s=400)
    (engine,) = [one for one in engines(served) if one.pid != stopped.pid]
    assert engine.is_running()
