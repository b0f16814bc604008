"""What the benchmarks of serving deploy is what they say, and what they make of what they saw."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cpu import settled
from benchmarks.faults import MAX_P99_RATIO, SETTINGS, TRIALS, compared
from benchmarks.served import ENDPOINT, Case, everything_on, write_config
from benchmarks.serving import SERVERS
from rayapp.config.serving import INLINE, ServingConfig
from rayapp.storage import Workspace

CASE = Case(Workspace("nowhere"), Path("nowhere"), [{}], [0.0], "", "a" * 64)


def deployed(folder: Path, args: Mapping[str, Any]) -> ServingConfig:
    path = write_config(folder, {**everything_on(CASE), **args}, {"port": 1})
    (application,) = json.loads(path.read_text())["applications"]
    return ServingConfig.model_validate(application["args"])


def test_everything_is_on(tmp_path: Path) -> None:
    config = deployed(tmp_path, SERVERS["rayapp"].args)
    endpoint = config.endpoints[ENDPOINT]
    assert config.requires_key
    assert None not in (config.limits, config.budgets, endpoint.breaker)
    assert endpoint.fallback
    assert endpoint.rules
    assert endpoint.split is not None
    routed_to = {target.release for target in endpoint.arms()}
    assert routed_to == {CASE.release_id}  # whose answers are the expected ones


def test_the_pool_differs_by_where_the_model_is(tmp_path: Path) -> None:
    inline, pool = (deployed(tmp_path, SERVERS[name].args) for name in ("rayapp", "rayapp-pool"))
    assert inline.placement_of(ENDPOINT) == INLINE
    assert pool.placement_of(ENDPOINT) != INLINE
    assert pool.model_copy(update={"placement": INLINE, "pools": {}}) == inline


def test_each_fault_begins_and_is_compared_under_a_configuration_that_is_one(
    tmp_path: Path,
) -> None:
    for trial in TRIALS.values():
        deployed(tmp_path, {**SETTINGS, **trial.settings})
        assert TRIALS[trial.calm].settings == trial.settings


def test_each_fault_is_compared_with_its_own_calm_run() -> None:
    told = {"calm": 10.0, "killed": 31.0, "calm in a pool": 20.0, "killed in a pool": 60.0}
    calm_of = {name: "calm in a pool" if "pool" in name else "calm" for name in told}
    found = compared({name: {"p99_ms": p99_ms} for name, p99_ms in told.items()}, calm_of)
    assert [one["p99_ratio"] for one in found["faults"]] == [1.0, 3.1, 1.0, 3.0]
    assert found[f"p99_over_{MAX_P99_RATIO}_times"] == ["killed"]


def test_what_is_still_starting_is_waited_for() -> None:
    idle = iter([1000.0, 1000.0, 400.0, 200.0, 190.0, 100.0])
    assert settled(lambda: next(idle), 10, most=500, clock_s=lambda: 0) == 190


def test_what_never_comes_to_rest_is_told_as_it_is() -> None:
    now_s = iter(range(10))
    assert settled(lambda: 1000.0, 5, most=500, clock_s=lambda: next(now_s)) == 1000
