"""A stage that has to wait says what for, who holds it, and how it need not wait."""

import inspect
import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import ray.data
from ray.util.state.exception import ServerUnavailable

from rayapp.data.read import speak_only_of_trouble
from rayapp.flows import room
from rayapp.flows.room import Wait, waits


def test_who_holds_what_is_waited_for_is_named() -> None:
    held = {"gateway": 0.3, "engine-small": 1.0}
    assert waits("CPU", 1, {"CPU": 0.2}, {"CPU": 2}, held) == (
        "too little CPU is free: this needs 1, the cluster has 2 of which 0.2 are free; "
        "deployments hold engine-small 1, gateway 0.3 (their num_cpus and replicas); jobs and what "
        "they have started hold 0.5\n  next: deployments keep what they hold: take one away, or "
        "rayapp down && rayapp up --num-cpus 3"
    )


def test_what_jobs_hold_comes_back() -> None:
    told = waits("CPU", 1, {"CPU": 0}, {"CPU": 2}, {"gateway": 0.5})
    assert told.endswith(
        "; jobs and what they have started hold 1.5\n  next: it goes on when jobs end; or rayapp "
        "down && rayapp up --num-cpus 2"
    )


def test_a_cluster_that_never_has_so_many_says_so() -> None:
    assert waits("GPU", 4, {}, {"CPU": 2}, {}) == (
        "too little GPU is free: this needs 4, the cluster has 0 of which 0 are free\n  next: the "
        "cluster never has so many: ask for less, or add a node that has them"
    )


def test_a_dashboard_that_does_not_tell_who_holds_it_fails_no_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(address: str, **query: Any) -> Any:
        asked.append(address)
        raise ServerUnavailable("Failed to connect to API server.")

    asked, told = list[str](), list[str]()
    session: Any = SimpleNamespace(dashboard_url="http://127.0.0.1:1", say=told.append)
    monkeypatch.setattr(room, "list_actors", away)
    for resources in ("available_resources", "cluster_resources"):
        monkeypatch.setattr(ray, resources, lambda: {"CPU": 0.5})
    room.tell_if_it_waits(session, room.ONE_CPU)
    assert (asked, told) == ([session.dashboard_url], [])


@pytest.mark.parametrize(("waited_s", "shown"), [(31, "31 s"), (125, "2 min")])
def test_what_has_waited_says_how_long(waited_s: float, shown: str) -> None:
    told = waits("CPU", 2, {"CPU": 1}, {"CPU": 2}, {"engine": 1}, waited_s)
    assert told.startswith(f"waiting for CPU, {shown} so far: this needs 2, the cluster has 2 of")


def _told_at(seen: Mapping[int, tuple[bool, bool]]) -> list[float]:
    """What is told by one who looks each 10 s for 16 min. seen: (has a place, waits) from a second
    on."""
    wait, found, last = Wait(), [], (False, False)
    for now_s in range(0, 960, 10):
        last = seen.get(now_s, last)
        waited_s = wait.told(*last, now_s)
        if waited_s is not None:
            found.append(waited_s)
    return found


WAITS, GOES_ON, BETWEEN = (False, True), (True, True), (False, False)


def test_a_wait_is_told_at_growing_distances() -> None:
    assert _told_at({20: WAITS}) == [30, 60, 120, 300, 600, 900]


def test_what_goes_on_does_not_wait() -> None:
    """Of several tasks some have no place yet."""
    assert _told_at({0: GOES_ON}) == []
    assert _told_at({0: WAITS, 50: GOES_ON, 100: WAITS, 140: GOES_ON}) == [30, 30]


def test_what_is_asked_for_again_has_waited_all_the_while() -> None:
    """Ray Train takes back its place for workers each minute, and asks for it again."""
    assert _told_at({0: WAITS, 60: BETWEEN, 70: WAITS, 130: GOES_ON}) == [30, 70, 120]


def test_who_holds_what_is_not_preceded_by_a_raw_warning() -> None:
    speak_only_of_trouble()
    log = logging.getLogger(ray.data.dataset.__name__)
    assert "The Dataset job will hang" in inspect.getsource(ray.data.dataset)
    told = {
        text: bool(log.filter(log.makeRecord(log.name, logging.WARNING, "", 0, text, (), None)))
        for text in ("Warning: … The Dataset job will hang unless more CPUs …", "a block is lost")
    }
    assert list(told.values()) == [False, True]
