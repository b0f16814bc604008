"""The keeper of the limits as the actor that it is: two gateways, one rate, and its death."""

import asyncio
import time

import pytest
import ray

from rayapp.config.serving import ServingConfig
from rayapp.errors import RequestError
from rayapp.serve import replica
from rayapp.serve.callers.limits import Limiter
from rayapp.serve.cluster.shared import Owner
from rayapp.serve.replica import make_limiter

pytestmark = pytest.mark.usefixtures("ray_local")
BURST = 40
CONFIG = ServingConfig.model_validate(
    {"limits": {"default": {"requests_per_s": 0.01, "burst": BURST}}, "max_replicas": 2}
)


async def admitted(limiter: Limiter, num_asked: int) -> int:
    results = [limiter.admit("acme") for _ in range(num_asked)]
    outcomes = await asyncio.gather(*results, return_exceptions=True)
    assert all(o is None or isinstance(o, RequestError) for o in outcomes)
    return sum(outcome is None for outcome in outcomes)


async def test_two_gateways_have_one_rate_and_outlive_its_keeper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateways = [make_limiter(CONFIG, Owner("gateway", "memory")) for _ in range(2)]
    first, second = (g for g in gateways if g is not None)
    (keeper,) = [
        ray.get_actor(found["name"], found["namespace"])
        for found in ray.util.list_named_actors(all_namespaces=True)
        if found["name"].startswith("limits-")
    ]
    await _until_the_keeper_answers(first)
    with monkeypatch.context() as patch:
        patch.setattr(replica, "KEEPER_WAIT_S", 60)  # on a busy machine it may answer late
        both = await admitted(first, 30) + await admitted(second, 30)
    assert both == BURST
    ray.kill(keeper, no_restart=False)
    # by itself each admits half of the burst, and the successor gives at most a whole one
    after, deadline_s = 0, time.monotonic() + 60
    while not after:  # the kill takes a moment to arrive
        assert time.monotonic() < deadline_s
        after += await admitted(first, 100) + await admitted(second, 100)
    assert BURST / 2 <= after <= 2 * BURST
    ray.kill(keeper)


async def _until_the_keeper_answers(limiter: Limiter) -> None:
    """Its process takes a moment to start, longer than a request waits for it."""
    deadline_s = time.monotonic() + 60
    while True:
        try:
            await limiter._lease("acme", 0)
        except TimeoutError:
            assert time.monotonic() < deadline_s
        else:
            return
