"""Which replicas of a pool should hold which models: a decision over what they report.

    replica ── report: how busy, with which models ──▶ Planner ◀── pin: these must stay ── gateway
            ◀─ models to load before they are asked ── (an actor)

A model has as many copies as its own load needs. Copies that are too many are not taken away: they
cool down, and make room when room is wanted (shelf.py). While there is no planner, replicas keep
what they hold, and load what they are asked for. It remembers nothing that it is not told again
every second, so one that has died is soon replaced by one that knows as much.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

PLANNER_WAIT_S = 2.0
"""Longer than this nobody waits for the planner."""
SILENT_AFTER_S = 5.0
"""A replica that has not reported for so long is gone, and so is a gateway that was not heard."""


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """num_bytes: its memory. busy: share of the time that its calls took. heat: how much it is
    asked for."""

    num_bytes: int
    busy: float
    heat: float


@dataclass(frozen=True, slots=True)
class Report:
    """Of one replica. max_bytes: for models that stay."""

    max_bytes: int
    models: Mapping[str, ModelLoad] = field(default_factory=dict)

    @property
    def busy(self) -> float:
        return sum(load.busy for load in self.models.values())


Wanted = dict[str, int]
"""Models to load → their bytes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """For one replica. pinned: models that are never to be unloaded. knows_all: no gateway that
    lives wants others to stay."""

    wanted: Wanted
    pinned: frozenset[str]
    knows_all: bool


def copies_wanted(
    reports: Mapping[str, Report], pinned: Mapping[str, int], target_busy: float
) -> dict[str, Wanted]:
    """Replica → what it should load. Every model gets copies until none of them need be busier
    than target_busy, the busiest model first, each on the least busy replica that has none of it; a
    pinned one gets at least one."""
    wanted: dict[str, Wanted] = {replica: {} for replica in reports}
    busy = {replica: report.busy for replica, report in reports.items()}
    totals: dict[str, float] = dict.fromkeys(pinned, 0.0)
    for report in reports.values():
        for model_id, load in report.models.items():
            totals[model_id] = totals.get(model_id, 0.0) + load.busy
    for model_id in sorted(totals, key=lambda m: (-totals[m], m)):
        holders = {replica for replica, report in reports.items() if model_id in report.models}
        num_bytes = _bytes_of(model_id, reports, pinned)
        others = [r for r in reports if r not in holders and num_bytes <= reports[r].max_bytes]
        least = 1 if model_id in pinned else 0
        num_copies = max(least, math.ceil(totals[model_id] / target_busy - 1e-9))
        others.sort(key=lambda r: (busy[r], r))
        for replica in others[: max(0, num_copies - len(holders))]:
            wanted[replica][model_id] = num_bytes
            busy[replica] += totals[model_id] / num_copies
    return wanted


def first_models(
    reports: Mapping[str, Report], pinned: Mapping[str, int], max_bytes: int
) -> Wanted:
    """What a replica that is new, or back, loads before it says that it is ready: the pinned ones,
    then those that are asked for most, until its memory is full."""
    heats: dict[str, float] = {}
    for report in reports.values():
        for model_id, load in report.models.items():
            heats[model_id] = heats.get(model_id, 0.0) + load.heat
    ordered = [*pinned, *sorted(heats.keys() - pinned.keys(), key=lambda m: (-heats[m], m))]
    taken: Wanted = {}
    for model_id in ordered:
        num_bytes = _bytes_of(model_id, reports, pinned)
        if sum(taken.values()) + num_bytes <= max_bytes:
            taken[model_id] = num_bytes
    return taken


def _bytes_of(model_id: str, reports: Mapping[str, Report], pinned: Mapping[str, int]) -> int:
    found = [r.models[model_id].num_bytes for r in reports.values() if model_id in r.models]
    return max([*found, pinned.get(model_id, 0)])


class Planner:
    """What the replicas of one pool last reported. One at a time asks it."""

    def __init__(self, target_busy: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._target_busy = target_busy
        self._clock_s = clock_s
        self._reports: dict[str, tuple[float, Report]] = {}
        self._pinned: dict[str, tuple[float, int]] = {}
        self._heard_from_s, self._heard_s = math.inf, -math.inf

    def report(self, replica: str, report: Report) -> Plan:
        now_s = self._clock_s()
        self._reports[replica] = now_s, report
        pinned = self._all_pinned()
        wanted = copies_wanted(self._alive(), pinned, self._target_busy)
        return Plan(wanted[replica], frozenset(pinned), self._knows_all(now_s))

    def first(self, max_bytes: int) -> Wanted:
        return first_models(self._alive(), self._all_pinned(), max_bytes)

    def pin(self, models: Mapping[str, int]) -> None:
        """A gateway says which models are never to be unloaded, every second. One that none of them
        says any more may be, a while later; but where none says anything, nothing is changed."""
        now_s = self._clock_s()
        if now_s - self._heard_s >= SILENT_AFTER_S:
            self._heard_from_s = now_s
        self._heard_s = now_s
        self._pinned |= {model_id: (now_s, num_bytes) for model_id, num_bytes in models.items()}
        if self._knows_all(now_s):
            since_s = now_s - SILENT_AFTER_S
            self._pinned = {m: found for m, found in self._pinned.items() if found[0] >= since_s}

    def _knows_all(self, now_s: float) -> bool:
        """Gateways have been heard for so long that none which lives can be missing. After a start,
        or a silence, they are not: what serves would be unpinned until its gateway speaks."""
        return now_s - self._heard_from_s >= SILENT_AFTER_S

    def _all_pinned(self) -> Wanted:
        return {model_id: num_bytes for model_id, (_, num_bytes) in self._pinned.items()}

    def _alive(self) -> dict[str, Report]:
        since_s = self._clock_s() - SILENT_AFTER_S
        self._reports = {r: found for r, found in self._reports.items() if found[0] >= since_s}
        return {replica: report for replica, (_, report) in self._reports.items()}
