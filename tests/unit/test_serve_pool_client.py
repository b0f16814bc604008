"""A gateway's side of a pool: what it asks of replicas and planner, and what their silence does."""

import asyncio
from typing import Any

import pytest
from serving_case import until

from rayapp.config.serving import PoolConfig
from rayapp.errors import Unavailable
from rayapp.serve.pool import client
from rayapp.serve.pool.client import Pool

RELEASE = "f" * 64


class Replicas:
    """As much of a deployment's handle as a pool's client uses. Loads wait for `gate`."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    def options(self, **options: Any) -> "Replicas":
        return self

    async def remote(self, *args: Any) -> None:
        await self.gate.wait()


def pool_of(replicas: Replicas) -> Pool:
    return Pool("small", PoolConfig(), replicas, None)  # type: ignore[arg-type]


async def test_a_load_that_takes_too_long_is_not_waited_for_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "PREPARE_S", 0.001)
    pool = pool_of(Replicas())
    with pytest.raises(Unavailable, match="did not load release ffffffffffff"):
        await asyncio.to_thread(pool.prepare, "e", RELEASE, 10, None, False)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
