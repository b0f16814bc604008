"""What the benchmarks of failing parts share: how a process is killed under load, what a run told,
and how many rows the prediction log has for each request that was answered."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import psutil

from benchmarks.cpu import family
from benchmarks.open_loop import Outcome
from benchmarks.served import ENDPOINT
from rayapp.observe.predictions import PREDICTIONS_TABLE, read_predictions
from rayapp.storage import Workspace

AFTERMATH_S = 1.0
"""So long after a fault latencies do not count."""
SETTLE_S, COMMITS_S = 180, 5
MIN_HELD = 3
"""So many requests wait in a replica when it is killed."""
REPLICA, CONTROLLER = "ray::ServeReplica:gateway:gateway", "ray::ServeController"
HAPROXY = "haproxy.cfg"


class Victims(Protocol):
    def processes(self, title: str) -> list[psutil.Process]: ...


class Load(Protocol):
    """num_in_flight: requests that are due and not answered yet."""

    num_in_flight: int


Strike = Callable[[Victims, Load], Awaitable[int]]
"""Strikes, and returns how many requests were under way then."""


def titled(root: psutil.Process, title: str) -> list[psutil.Process]:
    """root and what is below it whose command line holds `title`, eldest first."""
    found = []
    for process in family(root):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return sorted(found, key=psutil.Process.create_time)


def kill_replica(title: str) -> Strike:
    """Stopped first, until requests wait in it."""

    async def strike(victims: Victims, load: Load) -> int:
        victim = (await asyncio.to_thread(victims.processes, title))[0]
        victim.suspend()
        while load.num_in_flight < MIN_HELD:
            await asyncio.sleep(0.01)
        held = load.num_in_flight
        victim.kill()
        return held

    return strike


def kill(title: str) -> Strike:
    async def strike(victims: Victims, load: Load) -> int:
        found = await asyncio.to_thread(victims.processes, title)
        if not found:
            raise SystemExit(f"no process {title!r} to kill")
        held = load.num_in_flight
        for process in found:
            process.kill()
        return held

    return strike


@dataclass(frozen=True)
class Run:
    """struck_s: from its start. ids: of the requests that were answered."""

    outcome: Outcome
    held: int
    struck_s: float
    ids: list[str]

    def figures(self) -> dict[str, Any]:
        outcome = self.outcome
        failed_s = outcome.due_s[~outcome.is_ok]
        ok_s = outcome.due_s[outcome.is_ok]
        calm = (ok_s < self.struck_s) | (ok_s > self.struck_s + AFTERMATH_S)
        latencies_ms = outcome.latencies_ms
        return {
            "num_sent": outcome.num_sent,
            "num_ok": outcome.num_ok,
            "other_statuses": outcome.statuses,
            "num_wrong": outcome.num_wrong,
            "num_lost": outcome.num_lost,
            "held_when_struck": self.held,
            "p99_ms": round(float(np.percentile(latencies_ms[calm], 99)), 1),
            "slowest_ms": round(float(latencies_ms.max()), 1),
            "failing_for_s": round(float(np.ptp(failed_s)), 2) if len(failed_s) else 0.0,
            "generator_late_ms": round(outcome.late_ms, 1),
        }


@dataclass(frozen=True)
class Log:
    """What the prediction log has of this run. prefix: of the ids of its requests, which no other
    run has. since: when it began."""

    workspace: Workspace
    prefix: str
    since: datetime

    def figures(self, answered: Sequence[str]) -> dict[str, int]:
        return tally(self.rows(answered), answered)

    def rows(self, awaited: Sequence[str]) -> Counter[str]:
        """The rows that each id has, once all of `awaited` have some and what comes late had its
        time."""
        deadline_s = time.monotonic() + SETTLE_S
        while set(awaited) - self._rows_now().keys() and time.monotonic() < deadline_s:
            time.sleep(1)
        time.sleep(COMMITS_S)  # what comes late would be there twice
        return self._rows_now()

    def _rows_now(self) -> Counter[str]:
        uri = self.workspace.table(PREDICTIONS_TABLE)
        ids = read_predictions(uri, ENDPOINT, self.since).column("request_id").to_pylist()
        return Counter(one for one in ids if one.startswith(self.prefix))


def tally(found: Counter[str], answered: Sequence[str]) -> dict[str, int]:
    """Of the answered ids: how many are in the log once, not at all, and more than once; and those
    there of requests that got no answer with status 200. found: the rows that each id has."""
    counts = Counter(min(found[one], 2) for one in answered)
    return {
        "num_answered": len(answered),
        "num_once": counts[1],
        "num_missing": counts[0],
        "num_twice": counts[2],
        "num_not_answered": len(set(found) - set(answered)),
    }
