"""What the benchmarks of serving deploy is what they say."""

from pathlib import Path

from benchmarks.served import ENDPOINT, Case, everything_on
from rayapp.config.serving import ServingConfig
from rayapp.storage import Workspace

CASE = Case(Workspace("nowhere"), Path("nowhere"), [{}], [0.0], "", "a" * 64)


def test_everything_is_on() -> None:
    config = ServingConfig.model_validate(everything_on(CASE))
    endpoint = config.endpoints[ENDPOINT]
    assert config.requires_key
    assert None not in (config.limits, config.budgets, endpoint.breaker)
    assert endpoint.fallback
    assert endpoint.rules
    assert endpoint.split is not None
    routed_to = {target.release for target in endpoint.arms()}
    assert routed_to == {CASE.release_id}  # whose answers are the expected ones
