"""Whether the cluster has room for a stage now: Ray waits for what is not free, and tells nobody
who looks at the job."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import ceil
from threading import Event, Thread
from typing import Any

import ray
from ray.util.state import list_actors, list_placement_groups, list_tasks
from ray.util.state.exception import RayStateApiException

from rayapp.flows.session import Session

_REPLICA = "ServeReplica:"
_DEPLOYMENT = re.compile(r"SERVE_REPLICA::[^#]*#([^#]*)#")
"""Ray Serve names a replica's placement group so: application, deployment, replica."""


ONE_CPU = {"CPU": 1.0}
"""What a task of Ray Data needs."""
LOOK_EVERY_S = 10.0
TOLD_AT_S = (30.0, 60.0, 120.0, 300.0)
"""How long something has waited when that is said again; from then on each time after the last of
these once more."""


@contextmanager
def telling_waits(session: Session, needs: Mapping[str, float], times: int = 1) -> Iterator[None]:
    """`tell_if_it_waits`, and again at growing distances while something that the block has asked
    Ray for waits and nothing of it has a place. Ray itself waits for ever."""
    tell_if_it_waits(session, needs, times)
    if session.dashboard_url is None:
        yield  # what waits is listed by one
        return
    over = Event()
    watch = Thread(target=_watch, args=(session, needs, times, over.wait), daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _watch(
    session: Session, needs: Mapping[str, float], times: int, is_over: Callable[[float], bool]
) -> None:
    wait = Wait()
    while not is_over(LOOK_EVERY_S):
        with suppress(RayStateApiException):  # the dashboard is too busy to say
            waited_s = wait.told(*_standing(session, needs), time.monotonic())
            if waited_s is not None:
                tell_if_it_waits(session, needs, times, waited_s)


class Wait:
    """How long something has waited, and when that is said."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._next_s = TOLD_AT_S[0]

    def told(self, has_place: bool, is_waiting: bool, now_s: float) -> float | None:
        """The seconds, where they are to be said now. What lost its place waits anew; what Ray
        takes back and asks for again, as it does for workers, has waited all the while."""
        if has_place:
            self._since_s, self._next_s = None, TOLD_AT_S[0]
        if has_place or not is_waiting:
            return None
        if self._since_s is None:
            self._since_s = now_s
        waited_s = now_s - self._since_s
        if waited_s < self._next_s:
            return None
        later = [at_s for at_s in TOLD_AT_S if at_s > waited_s]
        self._next_s = later[0] if later else waited_s + TOLD_AT_S[-1]
        return waited_s


def _standing(session: Session, needs: Mapping[str, float]) -> tuple[bool, bool]:
    """Of all that this job has asked Ray for and that takes some of what it needs: whether
    something has a place, and whether something waits for one."""
    states = set(_states(session, needs))
    waiting = {"PENDING", "PENDING_CREATION", "PENDING_NODE_ASSIGNMENT"}
    return not states.isdisjoint({"CREATED", "ALIVE", "RUNNING"}), not states.isdisjoint(waiting)


def _states(session: Session, needs: Mapping[str, float]) -> Iterator[str]:
    """Of placement groups, actors and tasks, by Ray's words."""
    job_id = ray.get_runtime_context().get_job_id()
    query: dict[str, Any] = {"detail": True, "limit": 10_000}
    made: list[Any] = [("creator_job_id", "=", job_id)]
    for group in list_placement_groups(session.dashboard_url, filters=made, **query):
        if any(_takes(bundle["unit_resources"], needs) for bundle in group.bundles or []):
            yield group.state
    own: list[Any] = [("job_id", "=", job_id)]
    for actor in list_actors(session.dashboard_url, filters=own, **query):
        if _takes(actor.required_resources, needs):
            yield actor.state
    # constructors too: until one has returned, its actor is called pending
    for state in ("RUNNING", "PENDING_NODE_ASSIGNMENT"):
        tasks = [*own, ("state", "=", state)]
        for task in list_tasks(session.dashboard_url, filters=tasks, **query):
            if _takes(task.required_resources, needs):
                yield state


def _takes(resources: Mapping[str, float] | None, needs: Mapping[str, float]) -> bool:
    return any((resources or {}).get(name) for name in needs)


def tell_if_it_waits(
    session: Session, needs: Mapping[str, float], times: int = 1, waited_s: float | None = None
) -> None:
    """Say what a stage will wait for, who holds it, and how it could go on. needs: what it cannot
    start without, so many times, by Ray's names of resources (CPU, GPU). waited_s: how long it has
    waited already, where that is known. Says nothing where the dashboard does not tell who holds
    it: the stage may go on all the same."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for resource, each in needs.items():
        number = each * times
        if free.get(resource, 0) < number:
            with suppress(RayStateApiException):
                held = _held(session, resource)
                session.say(waits(resource, number, free, total, held, waited_s))


def waits(
    resource: str,
    number: float,
    free: Mapping[str, float],
    total: Mapping[str, float],
    held: Mapping[str, float],
    waited_s: float | None = None,
) -> str:
    """held: what deployments have reserved, by their names. waited_s: None where it may not wait
    yet: what comes before it goes on."""
    there, left = total.get(resource, 0), free.get(resource, 0)
    begin = f"too little {resource} is free"
    if waited_s is not None:
        begin = f"waiting for {resource}, {_duration(waited_s)} so far"
    said = f"{begin}: this needs {number:g}, the cluster has {there:g} of which {left:g} are free"
    listed = [f"{name} {reserved:g}" for name, reserved in sorted(held.items())]
    if listed:
        said += (
            f"; deployments hold {', '.join(listed)} (their num_{resource.lower()}s and replicas)"
        )
    others = there - left - sum(held.values())
    if others > 0.001:  # sums of tenths
        said += f"; jobs and what they have started hold {others:g}"
    return f"{said}\n  next: {_next(resource, number, there, held)}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


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
