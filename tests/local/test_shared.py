"""An actor that replicas share, as the actor that it is: it goes when the last of them has gone."""

import asyncio

import pytest
import ray
from local_cluster import until

from rayapp.config.tenants import LimitsConfig
from rayapp.serve.callers.limits import Keeper
from rayapp.serve.cluster import shared
from rayapp.serve.cluster.shared import NAMESPACE, Owner, SharedActor, shared_actor

pytestmark = pytest.mark.usefixtures("ray_local")
LIMITS = LimitsConfig.model_validate({"default": {"requests_per_s": 1, "burst": 5}})
OWNER = Owner("draining", "memory")


def held() -> SharedActor:
    """By one replica."""
    return shared_actor(OWNER, "limits", Keeper, LIMITS, LIMITS)


def is_there() -> bool:
    name = OWNER.name("limits", Keeper, LIMITS)
    return {"name": name, "namespace": NAMESPACE} in ray.util.list_named_actors(all_namespaces=True)


async def taken(one: SharedActor) -> float:
    grant = await one.actor.lease.remote("acme", 5)
    tokens: float = grant.tokens
    return tokens


async def test_it_serves_who_still_drains_and_ends_after_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared, "TEND_EVERY_S", 0.2)
    monkeypatch.setattr(shared, "ENDS_AFTER_S", 3.0)
    first, second = held(), held()
    assert (await taken(first), await taken(second) < 5) == (5, True)
    first._tending.cancel()
    await asyncio.sleep(6)
    assert await taken(second) == 5  # by the same bucket, which has filled meanwhile
    second._tending.cancel()
    await asyncio.to_thread(until, lambda: not is_there(), 60)


async def test_one_that_was_killed_is_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "TEND_EVERY_S", 0.2)
    one = held()
    killed = one.actor
    await taken(one)
    ray.kill(killed, no_restart=True)
    await asyncio.to_thread(until, lambda: one.actor is not killed, 60)
    assert await taken(one) == 5
    one._tending.cancel()
    ray.kill(one.actor)
