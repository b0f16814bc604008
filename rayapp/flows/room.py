"""Whether the cluster has room for a stage now: Ray waits for what is not free, and tells nobody
who looks at the job."""

from collections import Counter
from collections.abc import Mapping

import ray
from ray.util.state import list_actors

from rayapp.flows.session import Session

_REPLICA = "ServeReplica:"


ONE_CPU = {"CPU": 1.0}
"""What a task of Ray Data needs."""


def tell_if_it_waits(session: Session, needs: Mapping[str, float], times: int = 1) -> None:
    """Say what a stage will wait for, and who holds it. needs: what it cannot start without, so
    many times, by Ray's names of resources (CPU, GPU)."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for resource, each in needs.items():
        number = each * times
        if free.get(resource, 0) < number:
            session.say(waits(resource, number, free, total, _held(session, resource)))


def waits(
    resource: str,
    number: float,
    free: Mapping[str, float],
    total: Mapping[str, float],
    held: Mapping[str, float],
) -> str:
    """held: what deployments have reserved, by their names."""
    said = (
        f"waiting for {resource}: this needs {number:g}, the cluster has "
        f"{total.get(resource, 0):g} of which {free.get(resource, 0):g} are free"
    )
    if not held:
        return said
    listed = ", ".join(f"{name} {reserved:g}" for name, reserved in sorted(held.items()))
    return f"{said}; deployments hold {listed} (their num_{resource.lower()}s and replicas)"


def _held(session: Session, resource: str) -> dict[str, float]:
    if session.dashboard_url is None:
        return {}  # deployments, and the list of actors, need one
    held: Counter[str] = Counter()
    actors = list_actors(
        session.dashboard_url, filters=[("state", "=", "ALIVE")], detail=True, limit=10_000
    )
    for actor in actors:
        if actor.class_name.startswith(_REPLICA):
            reserved = (actor.required_resources or {}).get(resource, 0)
            held[actor.class_name.split(":")[-1]] += reserved
    return {name: number for name, number in held.items() if number}
