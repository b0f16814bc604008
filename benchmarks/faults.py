"""Nothing dropped: requests at a steady rate while what answers them is killed, moved and replaced.

    python -m benchmarks.faults [--rate 50] [OUTPUT.json]

Needs a workspace with a flight-delay champion (scripts/quickstart makes one; RAYAPP_WORKSPACE names
it) whose head is down, and two quiet cores: one has all of the head's processes, the other one the
load generator. Two gateway replicas answer; one run of open loop without faults, then one with each
fault of TRIALS, then HAProxy itself, which nothing stands in front of on one node (two_nodes.py has
two). Each begins once the head is quiet. Each request has an id of its own. Told for each: the
requests that were under way when it struck, what was answered otherwise than 200, what was lost,
the 99th percentile outside the second after the fault and how many times that of the run without a
fault it is, and at the end how many rows the prediction log has for each answered id (one, or it is
wrong). A run whose generator was late is done again, once; the figures are those of the last one,
and num_late_runs says of how many runs the generator was.
"""

import argparse
import asyncio
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from rich.console import Console
from rich.progress import track

from benchmarks import results_file
from benchmarks.cpu import idle_ms_per_s, settled
from benchmarks.open_loop import Generator, post
from benchmarks.served import Case, deploy, everything_on, head, is_running, prepared
from benchmarks.serving import GENERATOR_CORE, LATE_MS, SERVERS, is_right
from benchmarks.trials import (
    CONTROLLER,
    HAPROXY,
    REPLICA,
    SETTLE_S,
    Log,
    Run,
    kill,
    kill_replica,
    titled,
)
from rayapp.storage import Workspace

OURS = SERVERS["rayapp"]
SETTINGS = {
    "min_replicas": 2,
    "max_replicas": 2,
    "num_cpus": 0.1,
    "commit_every_s": 1,
}
CALM_S, BEFORE_S, AFTER_S, AFTER_INGRESS_S = 30.0, 3.0, 17.0, 37.0
WARM_RPS, WARM_S = 50.0, 5.0
IDLE_S, QUIET_MS_PER_S = 5.0, 500
"""A head that takes more CPU than this while nothing is asked is still starting something."""
MAX_P99_RATIO = 3
MAX_RUNS = 2
"""Of one trial, while the generator is late."""
POOL_REPLICA = "ray::ServeReplica:gateway:pool-models"
KEEPER = "ray::Keeper"


@dataclass(frozen=True)
class Site:
    """A head that serves. root: its first process. folder: for configs. prefix: of the ids of this
    benchmark's requests, which no other run has."""

    case: Case
    root: psutil.Process
    port: int
    folder: Path
    prefix: str

    def processes(self, title: str) -> list[psutil.Process]:
        """Those of this head whose command line holds `title`, eldest first."""
        return titled(self.root, title)

    async def deploy(self, **settings: Any) -> None:
        known = everything_on(self.case) | SETTINGS | settings
        await asyncio.to_thread(deploy, self.case, self.folder, known)

    async def settle(self, settings: Mapping[str, Any]) -> None:
        """Both replicas answer, and both of the pool where there is one, under the configuration
        that the run begins with, and nothing is busy with itself any more."""
        await self.deploy(**settings)
        await self._answers(settings)
        await self._warm()
        deadline_s = time.monotonic() + SETTLE_S
        idle = partial(idle_ms_per_s, self.root, IDLE_S)
        found = await asyncio.to_thread(settled, idle, deadline_s, QUIET_MS_PER_S)
        if found > QUIET_MS_PER_S:
            raise SystemExit(
                f"after {SETTLE_S} s the head takes {found:.0f} ms of CPU a second while nothing "
                f"is asked, more than {QUIET_MS_PER_S}: see what else runs in it"
            )

    async def _answers(self, settings: Mapping[str, Any]) -> None:
        wanted = {REPLICA: 2, POOL_REPLICA: 2 if "pools" in settings else 0}
        deadline_s, num_good = time.monotonic() + SETTLE_S, 0
        url = f"http://127.0.0.1:{self.port}/v2/health/ready"
        async with httpx.AsyncClient(timeout=5) as client:
            while num_good < 50:
                if time.monotonic() > deadline_s:
                    raise SystemExit(f"not two replicas again within {SETTLE_S} s")
                await asyncio.sleep(0.1)
                try:
                    is_good = (
                        (await client.get(url)).is_success
                        and all(len(self.processes(t)) == n for t, n in wanted.items())
                        and await asyncio.to_thread(is_running, self.case)
                    )
                except httpx.HTTPError:
                    is_good = False
                num_good = num_good + 1 if is_good else 0

    async def _warm(self) -> None:
        """A pool loads a model when it is first asked for it."""
        credential = {"Authorization": f"Bearer {self.case.key}"}
        requests = [post(OURS.path, OURS.body([row]), credential) for row in self.case.rows]
        generator = Generator("127.0.0.1", self.port, requests, lambda index, body: True, 256)
        await generator.run(WARM_RPS, WARM_S, seed=0)


Fault = Callable[[Site, Generator], Awaitable[int]]
"""Strikes, and returns how many requests were under way then."""


async def nothing(site: Site, generator: Generator) -> int:
    return 0


def deployed(**settings: Any) -> Fault:
    async def strike(site: Site, generator: Generator) -> int:
        held = generator.num_in_flight
        await site.deploy(**settings)
        return held

    return strike


@dataclass(frozen=True)
class Trial:
    """settings: of the gateway when it begins, beside SETTINGS. calm: the trial without a fault
    that it is compared with."""

    fault: Fault
    settings: Mapping[str, Any] = field(default_factory=dict)
    calm: str = "none"


IN_POOL = {
    "placement": "models",
    "pools": {"models": {"min_replicas": 2, "max_replicas": 2, "num_cpus": 0.1}},
}
INGRESS_KILLED, CALM_IN_POOL = "HAProxy killed", "none, the model in a pool"
TRIALS: dict[str, Trial] = {
    "none": Trial(nothing),
    "gateway replica killed": Trial(kill_replica(REPLICA)),
    "Serve controller killed": Trial(kill(CONTROLLER)),
    "keeper of the limits killed": Trial(kill(KEEPER)),
    "other configuration deployed": Trial(deployed(commit_every_s=1.5)),
    "configuration deployed whose constructor raises": Trial(deployed(workspace="/proc/nowhere")),
    "replica scaled away": Trial(deployed(min_replicas=1, max_replicas=1)),
    CALM_IN_POOL: Trial(nothing, IN_POOL, CALM_IN_POOL),
    "pool replica killed": Trial(kill_replica(POOL_REPLICA), IN_POOL, CALM_IN_POOL),
    INGRESS_KILLED: Trial(kill(HAPROXY)),
}


async def run(site: Site, name: str, rate_rps: float, attempt: int) -> Run:
    """One fault, under load."""
    fault = TRIALS[name].fault
    after_s = AFTER_INGRESS_S if name == INGRESS_KILLED else AFTER_S
    seconds = CALM_S if fault is nothing else BEFORE_S + after_s
    rows, expected = site.case.rows, site.case.expected
    number = list(TRIALS).index(name)
    ids = [f"{site.prefix}-{number}-{attempt}-{i}" for i in range(int(rate_rps * seconds * 1.3))]
    credential = {"Authorization": f"Bearer {site.case.key}"}
    requests = [
        post(
            OURS.path,
            OURS.body([rows[i % len(rows)]]),
            credential | {"X-Request-Id": one},
        )
        for i, one in enumerate(ids)
    ]

    def check(index: int, body: bytes) -> bool:
        return is_right(OURS, body, [expected[index % len(expected)]])

    generator = Generator("127.0.0.1", site.port, requests, check, max_connections=256)
    began_s = time.perf_counter()

    async def strike() -> tuple[int, float]:
        await asyncio.sleep(BEFORE_S)
        held = await fault(site, generator)
        return held, time.perf_counter() - began_s

    striking = asyncio.create_task(strike())
    outcome = await generator.run(rate_rps, seconds, seed=number)
    held, struck_s = await striking
    answered = [ids[i] for i in np.flatnonzero(outcome.is_ok)]
    return Run(outcome, held, struck_s, answered)


async def run_all(site: Site, rate_rps: float) -> dict[str, Any]:
    log = Log(site.case.workspace, site.prefix, results_file.now())
    told: dict[str, dict[str, Any]] = {}
    answered: list[str] = []
    for name in track(TRIALS, "faults", console=Console(stderr=True)):
        for attempt in range(MAX_RUNS):
            await site.settle(TRIALS[name].settings)
            found = await run(site, name, rate_rps, attempt)
            answered += found.ids
            is_late = found.outcome.late_ms > LATE_MS
            told[name] = found.figures() | {"num_late_runs": attempt + is_late}
            sys.stderr.write(f"{name}: {json.dumps(told[name])}\n")
            if not is_late:
                break
    return {
        "rate_rps": rate_rps,
        **compared(told, {name: trial.calm for name, trial in TRIALS.items()}),
        "log": await asyncio.to_thread(log.figures, answered),
        **results_file.measured_here(),
    }


def compared(
    told: Mapping[str, Mapping[str, Any]], calm_of: Mapping[str, str]
) -> dict[str, list[Any]]:
    """Each trial's figures with its p99 beside that of its run without a fault, and the trials
    whose p99 is more than MAX_P99_RATIO times that."""
    faults = [
        {
            "fault": name,
            **found,
            "p99_ratio": round(found["p99_ms"] / told[calm_of[name]]["p99_ms"], 2),
        }
        for name, found in told.items()
    ]
    slower = [one["fault"] for one in faults if one["p99_ratio"] > MAX_P99_RATIO]
    return {"faults": faults, f"p99_over_{MAX_P99_RATIO}_times": slower}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("output", nargs="?", help="default: benchmarks/results/faults-DATE.json")
    chosen = parser.parse_args()
    os.sched_setaffinity(0, {GENERATOR_CORE})
    output = results_file.path_of("faults", chosen.output)
    workspace = Workspace.from_environment(os.environ)
    with (
        tempfile.TemporaryDirectory() as bundle,
        tempfile.TemporaryDirectory() as folder,
        prepared(workspace, Path(bundle)) as case,
        head(case, Path(folder), everything_on(case) | SETTINGS) as (root, port),
    ):
        site = Site(case, root, port, Path(folder), f"fault-{secrets.token_hex(4)}")
        result = asyncio.run(run_all(site, chosen.rate))
    results_file.tell(output, result)


if __name__ == "__main__":
    main()
