"""Nothing dropped on two nodes: what a client sees of two addresses while a node's HAProxy, its
replica, or all of it is killed, and while a node is cut off.

    python -m benchmarks.two_nodes [--rate 50] [OUTPUT.json]

Needs root on Linux (see nodes.py) and a workspace with a flight-delay champion that no head uses
(scripts/quickstart makes one; RAYAPP_WORKSPACE names it; it is the folder that both nodes share).
One gateway replica and one HAProxy on each of two nodes; open loop, half of it to each address, by
a client that asks the other address again with the same id where one refuses, resets, or has no
route yet. Told for each trial: what the first asks met, how often a second was needed, what was
lost, the 99th percentile outside the second after the fault, the seconds until no first ask failed,
and until both HAProxies had all replicas that are left. At the end: how many rows the prediction
log has for each answered id (one, or it is wrong), and which of those with two were asked twice.
"""

import argparse
import asyncio
import csv
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from deltalake import DeltaTable
from rich.console import Console
from rich.progress import track

from benchmarks import results_file
from benchmarks.nodes import DASHBOARD_PORT, Node, cluster, require_root
from benchmarks.served import Case, everything_on, prepared, write_config
from benchmarks.serving import SERVERS, is_right
from benchmarks.trials import (
    HAPROXY,
    REPLICA,
    SETTLE_S,
    Load,
    Log,
    Run,
    kill,
    kill_replica,
    tally,
)
from benchmarks.two_addresses import TwoAddresses
from rayapp.cli.head_state import ensure_token
from rayapp.observe.commit import DEATHS
from rayapp.observe.commit import SETTLE_S as REPEATED_S
from rayapp.observe.predictions import PREDICTIONS_TABLE
from rayapp.serve.cluster.ingress import CLUSTER_FOLDER
from rayapp.storage import Workspace

OURS = SERVERS["rayapp"]
SETTINGS = {
    "min_replicas": 2,
    "max_replicas": 2,
    "num_cpus": 0.6,  # a node has one: so one replica on each
    "commit_every_s": 1,
}
PORT = 8000
SERVER = "SERVE_REPLICA_gateway-gateway"
"""So HAProxy's names of the replicas begin."""
BEFORE_S, AFTER_S = 3.0, 27.0
LOOK_EVERY_S = 0.25
ANSWERING_S = 0.3
"""So long replicas take, at most, to answer what they hold."""
NUM_HELD = 10
"""So many requests are under way when an HAProxy is killed with some of them in its hands."""


@dataclass(frozen=True)
class Site:
    """folder: for configs. prefix: of the ids of this benchmark's requests."""

    case: Case
    head: Node
    worker: Node
    folder: Path
    prefix: str

    @property
    def nodes(self) -> list[Node]:
        return [node for node in (self.head, self.worker) if node.is_alive]

    def deploy(self) -> None:
        """Through Ray's own client, on the head."""
        settings = everything_on(self.case) | SETTINGS
        path = write_config(self.folder, settings, {"host": "0.0.0.0", "port": PORT})
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"proxy_location": "EveryNode"}))
        serve = f"{Path(sys.executable).parent}/serve"
        address = f"http://127.0.0.1:{DASHBOARD_PORT}"
        command = self.head.inside(serve, "deploy", str(path), "--address", address)
        known = dict(os.environ) | environment(self.case.workspace)
        subprocess.run(command, check=True, env=known, stdout=subprocess.DEVNULL)

    def is_whole(self) -> bool:
        """Every node's HAProxy reaches the replicas of every node, and no other."""
        nodes = self.nodes
        return all(num_routes(node) == len(nodes) for node in nodes)

    def is_spread(self) -> bool:
        return all(len(node.processes(REPLICA)) == 1 for node in self.nodes)

    async def settle(self) -> None:
        """Both addresses answer, and both HAProxies have both replicas, for five seconds."""
        deadline_s, num_good = time.monotonic() + SETTLE_S, 0
        async with httpx.AsyncClient(timeout=5) as client:
            while num_good < 20:
                if time.monotonic() > deadline_s:
                    raise SystemExit(f"not well again within {SETTLE_S} s: {self.looks()}")
                await asyncio.sleep(LOOK_EVERY_S)
                try:
                    for node in self.nodes:
                        (await client.get(f"{url(node)}/v2/health/ready")).raise_for_status()
                    num_good = num_good + 1 if self.is_whole() and self.is_spread() else 0
                except httpx.HTTPError:
                    num_good = 0

    async def forget_deaths(self) -> None:
        """After a replica's death the log leaves out what is recorded twice, for two minutes."""
        table = DeltaTable(self.case.workspace.table(PREDICTIONS_TABLE))
        died_s = table.transaction_version(DEATHS) or 0
        await asyncio.sleep(max(0.0, died_s + REPEATED_S + 5 - time.time()))

    def looks(self) -> dict[str, str]:
        return {
            node.name: f"{len(node.processes(REPLICA))} replica(s), {num_routes(node)} route(s)"
            for node in self.nodes
        }


def url(node: Node) -> str:
    return f"http://{node.address}:{PORT}"


def environment(workspace: Workspace) -> dict[str, str]:
    """What every node of the cluster has, and every client."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(ensure_token(workspace)),
        "RAYAPP_WORKSPACE": workspace.uri,
        "PYTHONDONTWRITEBYTECODE": "",
    }


def servers(node: Node) -> list[dict[str, str]]:
    """HAProxy's own statistics of the replicas that it passes requests on to; none where it does
    not run."""
    try:
        (path,) = node.seen(CLUSTER_FOLDER).glob("*/admin.sock")  # Serve adds the node's id
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
            asked.settimeout(2)
            asked.connect(str(path))
            asked.sendall(b"show stat\n")
            with asked.makefile() as answer:
                text = answer.read()
    except (OSError, ValueError):
        return []
    rows = csv.DictReader(text.removeprefix("# ").splitlines())
    return [row for row in rows if row["svname"].startswith(SERVER)]


def num_routes(node: Node) -> int:
    return sum(row["status"].startswith("UP") for row in servers(node))


Fault = Callable[[Site, Load], Awaitable[int]]
"""Strikes, and returns how many requests were under way then."""


async def nothing(site: Site, load: Load) -> int:
    return 0


async def kill_ingress(site: Site, load: Load) -> int:
    return await kill(HAPROXY)(site.worker, load)


async def kill_ingress_with_requests(site: Site, load: Load) -> int:
    """Replicas have not read what it passed on to them."""
    stopped, ingress = await asyncio.to_thread(on_the_way, site)
    held = await hold(stopped, load)
    each(ingress, psutil.Process.kill)
    each(stopped, psutil.Process.resume)
    return held


async def kill_ingress_with_answers(site: Site, load: Load) -> int:
    """Replicas have recorded and sent their answers, and it dies before it passes them on."""
    stopped, ingress = await asyncio.to_thread(on_the_way, site)
    held = await hold(stopped, load)
    each(ingress, psutil.Process.suspend)
    each(stopped, psutil.Process.resume)
    await asyncio.sleep(ANSWERING_S)
    each(ingress, psutil.Process.kill)
    return held


def on_the_way(site: Site) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """All replicas, and the HAProxy of the worker node."""
    replicas = [process for node in site.nodes for process in node.processes(REPLICA)]
    return replicas, site.worker.processes(HAPROXY)


async def hold(stopped: Sequence[psutil.Process], load: Load) -> int:
    """Stop them until requests wait in them; how many are under way then."""
    each(stopped, psutil.Process.suspend)
    while load.num_in_flight < NUM_HELD:
        await asyncio.sleep(0.01)
    return load.num_in_flight


def each(processes: Sequence[psutil.Process], act: Callable[[psutil.Process], object]) -> None:
    for process in processes:
        act(process)


async def kill_worker_replica(site: Site, load: Load) -> int:
    return await kill_replica(REPLICA)(site.worker, load)


async def kill_node(site: Site, load: Load) -> int:
    held = load.num_in_flight
    site.worker.first.kill()
    return held


async def cut_off_node(site: Site, load: Load) -> int:
    """As a machine without power: nobody is told, packets go unanswered."""
    held = load.num_in_flight
    await asyncio.to_thread(site.worker.cut_off)
    return held


TRIALS: dict[str, Fault] = {
    "none": nothing,
    "HAProxy of one node killed": kill_ingress,
    "HAProxy of one node killed with requests in its hands": kill_ingress_with_requests,
    "HAProxy of one node killed with answers in its hands": kill_ingress_with_answers,
    "gateway replica of one node killed": kill_worker_replica,
    "worker node killed": kill_node,
    "worker node cut off": cut_off_node,
}
CLUSTERS = (list(TRIALS)[:-1], list(TRIALS)[-1:])
"""A node that is lost does not come back, so each such trial is the last of its cluster's."""


@dataclass(frozen=True)
class Trial:
    """asked_twice: ids. well_s: from the fault until the last first ask that failed was due.
    whole_s: until every HAProxy that is left had every replica that is left, for good; None when
    that took longer than the trial."""

    run: Run
    reasons: Counter[str]
    asked_twice: list[str]
    well_s: float
    whole_s: float | None

    def figures(self) -> dict[str, Any]:
        return self.run.figures() | {
            "num_second_asks": len(self.asked_twice),
            "first_asks_met": dict(self.reasons),
            "first_asks_well_after_s": round(self.well_s, 2),
            "whole_after_s": None if self.whole_s is None else round(self.whole_s, 1),
        }


async def trial(site: Site, name: str, rate_rps: float) -> Trial:
    """One fault, under load."""
    fault, number, seconds = TRIALS[name], list(TRIALS).index(name), BEFORE_S + AFTER_S
    rows, expected = site.case.rows, site.case.expected
    ids = [f"{site.prefix}-{number}-{i}" for i in range(int(rate_rps * seconds * 1.3))]

    def check(index: int, body: bytes) -> bool:
        return is_right(OURS, body, [expected[index % len(expected)]])

    load = TwoAddresses(
        (f"{url(site.head)}{OURS.path}", f"{url(site.worker)}{OURS.path}"),
        [OURS.body([rows[i % len(rows)]]) for i in range(len(ids))],
        ids,
        {"Authorization": f"Bearer {site.case.key}"},
        check,
    )
    began_s = time.perf_counter()

    async def strike() -> tuple[int, float]:
        await asyncio.sleep(BEFORE_S)
        held = await fault(site, load)
        return held, time.perf_counter() - began_s

    striking = asyncio.create_task(strike())
    looking = asyncio.create_task(broken_until(site, began_s + BEFORE_S, began_s + seconds))
    outcome = await load.run(rate_rps, seconds, seed=number)
    (held, struck_s), until_s = await striking, await looking
    answered = [ids[i] for i in np.flatnonzero(outcome.is_ok)]
    again = load.second_asks
    well_s = max(0.0, max(again.due_s) - struck_s) if again.due_s else 0.0
    whole_s = None if until_s is None else max(0.0, until_s - began_s - struck_s)
    run = Run(outcome, held, struck_s, answered)
    return Trial(run, again.reasons, [ids[i] for i in again.numbers], well_s, whole_s)


async def broken_until(site: Site, from_s: float, end_s: float) -> float | None:
    """When (perf_counter) the nodes were last seen not whole; None when they are not at the end."""
    until_s, is_whole = from_s, True
    while (now_s := time.perf_counter()) < end_s:
        is_whole = await asyncio.to_thread(site.is_whole)
        if not is_whole:
            until_s = now_s
        await asyncio.sleep(LOOK_EVERY_S)
    return until_s if is_whole else None


async def run_some(
    site: Site, names: Sequence[str], rate_rps: float
) -> tuple[dict[str, Trial], Counter[str]]:
    """These trials, and the rows that each of their requests has in the log."""
    log = Log(site.case.workspace, site.prefix, results_file.now())
    trials: dict[str, Trial] = {}
    for name in track(names, "two nodes", console=Console(stderr=True)):
        await site.settle()
        if TRIALS[name] in (kill_ingress_with_requests, kill_ingress_with_answers):
            await site.forget_deaths()
        trials[name] = await trial(site, name, rate_rps)
        sys.stderr.write(f"{name}: {json.dumps(trials[name].figures())}\n")
    answered = [one for found in trials.values() for one in found.run.ids]
    return trials, await asyncio.to_thread(log.rows, answered)


def run_all(case: Case, rate_rps: float) -> dict[str, Any]:
    shared = [Path.cwd(), Path(sys.prefix), case.workspace.local]
    trials: dict[str, Trial] = {}
    rows: Counter[str] = Counter()
    for names in CLUSTERS:
        with (
            tempfile.TemporaryDirectory() as folder,
            cluster(2, Path(folder), environment(case.workspace), shared) as (head, worker),
        ):
            site = Site(case, head, worker, Path(folder), f"nodes-{secrets.token_hex(4)}")
            site.deploy()
            found, more = asyncio.run(run_some(site, names, rate_rps))
        trials |= found
        rows += more
    return {
        "rate_rps": rate_rps,
        "trials": [
            {"fault": name, **found.figures(), **twice(rows, found)}
            for name, found in trials.items()
        ],
        "log": tally(rows, [one for found in trials.values() for one in found.run.ids]),
        **results_file.measured_here(),
    }


def twice(rows: Counter[str], found: Trial) -> dict[str, int]:
    """Of a trial's answered ids: those with more than one row in the log, and of these, how many
    the client had asked twice."""
    more: Sequence[str] = [one for one in found.run.ids if rows[one] > 1]
    return {
        "num_logged_twice": len(more),
        "num_logged_twice_asked_twice": len(set(more) & set(found.asked_twice)),
    }


def end(number: int, frame: object) -> None:
    """By SIGTERM: what was created is removed on the way out."""
    raise SystemExit(128 + number)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("output", nargs="?", help="default: benchmarks/results/two-nodes-DATE.json")
    chosen = parser.parse_args()
    require_root()
    signal.signal(signal.SIGTERM, end)
    output = results_file.path_of("two-nodes", chosen.output)
    workspace = Workspace.from_environment(os.environ)
    with tempfile.TemporaryDirectory() as bundle, prepared(workspace, Path(bundle)) as case:
        result = run_all(case, chosen.rate)
    results_file.tell(output, result)


if __name__ == "__main__":
    main()
