"""Actors that replicas share: which ones share one, and what becomes of one that has died."""

from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from serving_case import until

from rayapp.config.replicas import PoolConfig
from rayapp.config.tenants import LimitsConfig
from rayapp.serve.callers.limits import Keeper
from rayapp.serve.cluster import shared
from rayapp.serve.cluster.shared import Owner, SharedActor
from rayapp.serve.pool.plan import Planner


def test_only_equal_configurations_of_one_application_and_workspace_share_one() -> None:
    owner = Owner("gateway", "s3://one")
    limits, others = (
        LimitsConfig.model_validate({"default": {"requests_per_s": rate, "burst": 1}})
        for rate in (1, 2)
    )
    names = [
        owner.name("limits", Keeper, limits),
        owner.name("limits", Keeper, others),
        Owner("other", "s3://one").name("limits", Keeper, limits),
        Owner("gateway", "s3://two").name("limits", Keeper, limits),
        owner.name("pool-a", Planner, PoolConfig()),
        owner.name("pool-b", Planner, PoolConfig()),
    ]
    assert len(set(names)) == len(names)
    assert Owner("gateway", "s3://one").name("limits", Keeper, limits) == names[0]
    assert names[0].startswith("limits-gateway-")


class Actor:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.num_tends = 0

    @property
    def tend(self) -> Any:
        return self

    async def remote(self) -> None:
        self.num_tends += 1
        if self.error is not None:
            raise self.error


async def test_one_that_has_died_for_good_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "TEND_EVERY_S", 0.001)
    started: list[Actor] = []

    def start() -> Actor:
        started.append(Actor())
        return started[-1]

    one = SharedActor(start)
    (first,) = started
    await until(lambda: first.num_tends > 1)
    first.error = ActorUnavailableError("it restarts", None)
    num_before = first.num_tends
    await until(lambda: first.num_tends > num_before + 1)
    assert one.actor is first
    first.error = ActorDiedError()
    await until(lambda: one.actor is not first)
    assert one.actor is started[1]
