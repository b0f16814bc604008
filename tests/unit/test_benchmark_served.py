"""What the benchmarks of serving deploy is what they say."""

from pathlib import Path

from benchmarks.served import ENDPOINT, Case, everything_on
from benchmarks.serving import SERVERS
from rayapp.config.serving import INLINE, ServingConfig
from rayapp.storage import Workspace

CASE = Case(Workspace("nowhere"), Path("nowhere"), [{}], [0.0], "", "a" * 64)


def config_of(server: str) -> ServingConfig:
    return ServingConfig.model_validate(everything_on(CASE) | SERVERS[server].args)


def test_everything_is_on() -> None:
    config = config_of("rayapp")
    endpoint = config.endpoints[ENDPOINT]
    assert config.requires_key
    assert None not in (config.limits, config.budgets, endpoint.breaker)
    assert endpoint.fallback
    assert endpoint.rules
    assert endpoint.split is not None
    routed_to = {target.release for target in endpoint.arms()}
    assert routed_to == {CASE.release_id}  # whose answers are the expected ones


def test_the_pool_differs_by_where_the_model_is() -> None:
    inline, pool = config_of("rayapp"), config_of("rayapp-pool")
    assert inline.placement_of(ENDPOINT) == INLINE
    assert pool.placement_of(ENDPOINT) != INLINE
    assert pool.model_copy(update={"placement": INLINE, "pools": {}}) == inline
