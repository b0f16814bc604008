"""Too much: what the gateway answers at five times what it can, and how soon it is well again.

    python -m benchmarks.overload [--seconds 60] [OUTPUT.json]

Needs what benchmarks.serving needs. One replica with everything switched on, all of its processes
on one core. Told:

    sustainable: the highest rate with p99 < 100 ms, as benchmarks.serving finds it; for requests of
                 one row, and for those of 32
    overload:    five times that rate; goodput (answers with 200 a second, whenever they came, and
                 those within 100 ms) as a share of it, and how quick the refusals were
    recovery:    half the sustainable rate from the moment on at which the overload ends, whatever
                 of it is still waiting; seconds until no second of requests is slower than 100 ms
                 (99th percentile) any more
    tenants:     four tenants within their rates, then the same when one of them sends twenty times
                 its own; the 95th percentile of the three others, and whom the refusals hit
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks import results_file
from benchmarks.open_loop import Outcome, post, run
from benchmarks.served import Case, everything_on, head, prepared
from benchmarks.serving import (
    GENERATOR_CORE,
    ONE_REPLICA,
    P99_LIMIT_MS,
    SERVERS,
    Climber,
    is_right,
    wait_ready,
)
from rayapp.govern.keys import create_key, revoke_key
from rayapp.ledger import Ledger
from rayapp.storage import Workspace

TOO_MUCH, RECOVERY_S = 5, 15.0
CROWD = 2000
"""Connections at a time while there is too much, so that requests do not wait for one."""
TENANTS = ("first", "second", "third")
OFFENDER, OFFENDED_S, TIMES = "offender", 20.0, 20
PARTS = {"tenants": 20, "tenants_beside_a_flood": 5}
"""A tenant's share is this part of the sustainable rate; so an offender sends as much as the
gateway can answer, or four times as much."""


def recovered_s(outcome: Outcome) -> float | None:
    """When the first second begins from which on none is slow, or has a request without its answer;
    None where that is never."""
    latency_ms = np.full(len(outcome.due_s), np.inf)
    latency_ms[outcome.is_ok] = outcome.latencies_ms
    second = outcome.due_s.astype(int)
    is_slow = [
        np.percentile(latency_ms[second == one], 99, method="higher") >= P99_LIMIT_MS
        for one in range(int(outcome.seconds))
        if (second == one).any()
    ]
    slow = np.flatnonzero(is_slow)
    if not len(slow):
        return 0.0
    return float(slow[-1] + 1) if slow[-1] + 1 < len(is_slow) else None


async def much_then_half(
    climber: Climber, rate_rps: float, seconds: float, batch: bool = False
) -> tuple[Outcome, Outcome]:
    """The second run begins when the last request of the first one is due. rate_rps: what is
    sustained."""
    return await asyncio.gather(
        climber.load(TOO_MUCH * rate_rps, seconds, batch, CROWD),
        climber.load(rate_rps / 2, RECOVERY_S, batch, after_s=seconds),
    )


def overload(climber: Climber, seconds: float, batch: bool = False) -> dict[str, Any]:
    best, ended_by = climber.climb(batch)
    rate_rps = best.outcome.rate_rps
    much, after = uvloop.run(much_then_half(climber, rate_rps, seconds, batch))
    goodput_rps = much.num_ok / seconds
    quick_rps = float((much.latencies_ms < P99_LIMIT_MS).sum()) / seconds
    return {
        "sustainable_rps": round(rate_rps),
        "sustainable_ended_by": ended_by,
        "overload": {
            "rate_rps": round(much.rate_rps),
            "num_sent": much.num_sent,
            "goodput_rps": round(goodput_rps),
            "goodput_of_sustainable": round(goodput_rps / rate_rps, 2),
            "within_100_ms_rps": round(quick_rps),
            "within_100_ms_of_sustainable": round(quick_rps / rate_rps, 2),
            "accepted_p99_ms": round(much.percentile_ms(99), 1),
            "other_statuses": much.statuses,
            "num_lost": much.num_lost,
            "num_wrong": much.num_wrong,
            "refusal_p50_ms": _percentile(much.other_ms, 50),
            "refusal_p99_ms": _percentile(much.other_ms, 99),
            "generator_late_ms": round(much.late_ms, 1),
        },
        "recovery_s": recovered_s(after),
    }


def _percentile(values: Any, percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 1) if len(values) else None


async def together(
    case: Case, port: int, rates: dict[str, float], keys: dict[str, str]
) -> dict[str, Outcome]:
    """Each tenant at its rate, at the same time."""
    server = SERVERS["rayapp"]

    def check(index: int, body: bytes) -> bool:
        return is_right(server, body, [case.expected[index]])

    async def one(tenant: str, seed: int) -> Outcome:
        credential = {"Authorization": f"Bearer {keys[tenant]}"}
        requests = [post(server.path, server.body([row]), credential) for row in case.rows]
        return await run("127.0.0.1", port, requests, check, rates[tenant], OFFENDED_S, seed=seed)

    outcomes = await asyncio.gather(*(one(tenant, i) for i, tenant in enumerate(rates)))
    return dict(zip(rates, outcomes, strict=True))


def tenants(case: Case, folder: Path, share: float) -> dict[str, Any]:
    """On a head of its own. share: how many requests a second each tenant may send. Three send half
    of that; the offender sends all that it may, then twenty times that."""
    ledger = Ledger.of(case.workspace, "benchmark")
    limits = {"limits": {"default": {"requests_per_s": share, "burst": share}}}
    made = {name: create_key(ledger, name, "caller") for name in (*TENANTS, OFFENDER)}
    keys = {name: text for name, (text, _) in made.items()}
    good = dict.fromkeys(TENANTS, share / 2)
    try:
        with head(case, folder, everything_on(case) | ONE_REPLICA | limits) as (_, port):
            wait_ready("rayapp", case, port)
            uvloop.run(together(case, port, good, keys))  # warm
            within = uvloop.run(together(case, port, good | {OFFENDER: share * 0.95}, keys))
            beside = uvloop.run(together(case, port, good | {OFFENDER: TIMES * share}, keys))
    finally:
        for _, key in made.values():
            revoke_key(ledger, key.key_id)
    before, after = (_p95([found[name] for name in TENANTS]) for found in (within, beside))
    return {
        "share_rps": round(share),
        "p95_all_within_ms": before,
        "p95_beside_offender_ms": after,
        "p95_ratio": round(after / before, 2),
        "beside_offender": {
            name: {
                "num_sent": found.num_sent,
                "num_ok": found.num_ok,
                "other_statuses": found.statuses,
                "num_lost": found.num_lost,
                "generator_late_ms": round(found.late_ms, 1),
            }
            for name, found in beside.items()
        },
    }


def _p95(outcomes: Sequence[Outcome]) -> float:
    return round(float(np.percentile(np.concatenate([o.latencies_ms for o in outcomes]), 95)), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of overload")
    parser.add_argument("output", nargs="?", help="default: benchmarks/results/overload-DATE.json")
    chosen = parser.parse_args()
    os.sched_setaffinity(0, {GENERATOR_CORE})
    output = results_file.path_of("overload", chosen.output)
    workspace = Workspace.from_environment(os.environ)
    with (
        tempfile.TemporaryDirectory() as bundle,
        tempfile.TemporaryDirectory() as folder,
        prepared(workspace, Path(bundle)) as case,
    ):
        with head(case, Path(folder), everything_on(case) | ONE_REPLICA) as (root, port):
            wait_ready("rayapp", case, port)
            climber = Climber("rayapp", case, root, port)
            climber.step(50, 4)  # warm
            result = overload(climber, chosen.seconds)
            result["of_32_rows"] = overload(climber, chosen.seconds, batch=True)
        for name, part in PARTS.items():
            result[name] = tenants(case, Path(folder), result["sustainable_rps"] / part)
    results_file.tell(output, result | results_file.measured_here())


if __name__ == "__main__":
    main()
