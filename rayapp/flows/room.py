"""Whether the cluster has room for a stage now: Ray waits for what is not free, and tells nobody
who looks at the job."""

import re
from collections import Counter
from collections.abc import Mapping
from math import ceil
from typing import Any

import ray
from ray.util.state import list_actors, list_placement_groups

from rayapp.flows.session import Session

_REPLICA = "ServeReplica:"
_DEPLOYMENT = re.compile(r"SERVE_REPLICA::[^#]*#([^#]*)#")
"""Ray Serve names a replica's placement group so: application, deployment, replica."""


ONE_CPU = {"CPU": 1.0}
"""What a task of Ray Data needs."""


def tell_if_it_waits(session: Session, needs: Mapping[str, float], times: int = 1) -> None:
    """Say what a stage will wait for, who holds it, and how it could go on. needs: what it cannot
    start without, so many times, by Ray's names of resources (CPU, GPU)."""
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
    there, left = total.get(resource, 0), free.get(resource, 0)
    said = (
        f"waiting for {resource}: this needs {number:g}, the cluster has {there:g} of which "
        f"{left:g} are free"
    )
    listed = [f"{name} {reserved:g}" for name, reserved in sorted(held.items())]
    if listed:
        said += (
            f"; deployments hold {', '.join(listed)} (their num_{resource.lower()}s and replicas)"
        )
    others = there - left - sum(held.values())
    if others > 0.001:  # sums of tenths
        said += f"; jobs and what they have started hold {others:g}"
    return f"{said}\n  next: {_next(resource, number, there, held)}"


def _next(resource: str, number: float, there: float, held: Mapping[str, float]) -> str:
    """How it need not wait. A head on one machine may be told to have more CPUs than that has: they
    take turns then."""
    more = "add a node that has them"
    if resource == "CPU":
        more = f"rayapp down && rayapp up --num-cpus {ceil(number + sum(held.values()))}"
    if there - sum(held.values()) >= number:
        return f"it goes on when jobs end; or {more}"
    if there >= number:
        return f"deployments keep what they hold: take one away, or {more}"
    return f"the cluster never has so many: ask for less, or {more}"


def _held(session: Session, resource: str) -> dict[str, float]:
    """By deployments: a replica that is an actor, or an engine, which has a placement group."""
    if session.dashboard_url is None:
        return {}  # deployments, and the list of actors, need one
    held: Counter[str] = Counter()
    query: dict[str, Any] = {"detail": True, "limit": 10_000}
    for actor in list_actors(session.dashboard_url, filters=[("state", "=", "ALIVE")], **query):
        if actor.class_name.startswith(_REPLICA):
            reserved = (actor.required_resources or {}).get(resource, 0)
            held[actor.class_name.split(":")[-1]] += reserved
    created: list[Any] = [("state", "=", "CREATED")]
    for group in list_placement_groups(session.dashboard_url, filters=created, **query):
        name = _DEPLOYMENT.match(group.name or "")
        if name is not None:
            bundles = group.bundles or []
            held[name[1]] += sum(b["unit_resources"].get(resource, 0) for b in bundles)
    return {name: number for name, number in held.items() if number}
