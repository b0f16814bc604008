"""A stage that has to wait says what for, and who holds it."""

from rayapp.flows.room import waits


def test_who_holds_what_is_waited_for_is_named() -> None:
    held = {"gateway": 1.0, "pool-small": 1.0}
    assert waits("CPU", 1, {"CPU": 0}, {"CPU": 2}, held) == (
        "waiting for CPU: this needs 1, the cluster has 2 of which 0 are free; deployments hold "
        "gateway 1, pool-small 1 (their num_cpus and replicas)"
    )


def test_a_cluster_without_any_says_so() -> None:
    assert waits("GPU", 4, {}, {"CPU": 2}, {}) == (
        "waiting for GPU: this needs 4, the cluster has 0 of which 0 are free"
    )
