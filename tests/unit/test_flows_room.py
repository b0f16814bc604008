"""A stage that has to wait says what for, who holds it, and how it need not wait."""

from rayapp.flows.room import waits


def test_who_holds_what_is_waited_for_is_named() -> None:
    held = {"gateway": 0.3, "engine-small": 1.0}
    assert waits("CPU", 1, {"CPU": 0.2}, {"CPU": 2}, held) == (
        "waiting for CPU: this needs 1, the cluster has 2 of which 0.2 are free; deployments hold "
        "engine-small 1, gateway 0.3 (their num_cpus and replicas); jobs and what they have "
        "started hold 0.5\n  next: deployments keep what they hold: take one away, or rayapp down "
        "&& rayapp up --num-cpus 3"
    )


def test_what_jobs_hold_comes_back() -> None:
    told = waits("CPU", 1, {"CPU": 0}, {"CPU": 2}, {"gateway": 0.5})
    assert told.endswith(
        "; jobs and what they have started hold 1.5\n  next: it goes on when jobs end; or rayapp "
        "down && rayapp up --num-cpus 2"
    )


def test_a_cluster_that_never_has_so_many_says_so() -> None:
    assert waits("GPU", 4, {}, {"CPU": 2}, {}) == (
        "waiting for GPU: this needs 4, the cluster has 0 of which 0 are free\n  next: the cluster "
        "never has so many: ask for less, or add a node that has them"
    )
