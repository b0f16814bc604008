"""The autoscaling signal: what a replica reports, and what the policy makes of it."""

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingContext

from rayapp.serve.cluster.scaling import BUSY, ONGOING, Load, ScalingPolicy, wanted_replicas


class Counter:
    def __init__(self) -> None:
        self.value = 0.0

    def __call__(self) -> float:
        return self.value


def test_busy_is_the_share_of_a_core_since_the_last_report() -> None:
    cpu_s, clock_s, ongoing = Counter(), Counter(), 3
    load = Load(lambda: ongoing, cpu_s, clock_s)
    cpu_s.value, clock_s.value = 1.0, 4.0
    assert load.figures() == {BUSY: 0.25, ONGOING: 3.0}
    cpu_s.value, clock_s.value = 3.0, 6.0
    assert load.figures()[BUSY] == 1.0
    assert load.figures()[BUSY] == 0.0  # no time has passed


@pytest.mark.parametrize(
    ("busy", "ongoing", "in_serve", "wanted"),
    [
        ([0.3], [0], 0, 0.5),  # half of what one may be
        ([0.9], [0], 0, 1.5),  # a busy core, though nobody is seen waiting
        ([0.9, 0.9], [0, 0], 0, 3.0),
        ([0.0], [32], 0, 2.0),  # waiting for something that uses no core here
        ([0.0], [4], 48, 3.0),  # still queued in Serve's wrapper
        ([], [], 0, 0.0),
    ],
)
def test_the_larger_demand_counts(
    busy: list[float], ongoing: list[float], in_serve: float, wanted: float
) -> None:
    assert wanted_replicas(busy, ongoing, in_serve, 0.6, 16) == pytest.approx(wanted)


def context(metrics: dict[str, dict[ReplicaID, float]]) -> AutoscalingContext:
    return AutoscalingContext(
        deployment_id=DeploymentID("gateway"),
        deployment_name="gateway",
        app_name="gateway",
        current_num_replicas=2,
        target_num_replicas=2,
        running_replicas=[],
        total_num_requests=1.0,
        total_queued_requests=0.0,
        aggregated_metrics=metrics,
        raw_metrics=None,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=4,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=None,
    )


def test_the_policy_reads_what_serve_aggregates() -> None:
    one, two = (ReplicaID(name, DeploymentID("gateway")) for name in "ab")
    reported = {BUSY: {one: 0.6, two: 0.3}, ONGOING: {one: 0.0, two: 2.0}}
    policy = ScalingPolicy(target_busy_share=0.6, target_ongoing=16)
    wanted, state = policy(context(reported))
    assert wanted == pytest.approx(1.5)
    assert state == {}
    assert policy(context({}))[0] == pytest.approx(1 / 16)  # before the first report
