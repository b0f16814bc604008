"""Counters reach Ray every few seconds, with the labels that telemetry.METRICS names."""

import asyncio
from typing import Any

from serving_case import until

from rayapp.serve.endpoints.cascade import Counts
from rayapp.serve.meter import PoolMeter, ServeMeter
from rayapp.telemetry import METRICS


class Recorded:
    def __init__(self, name: str) -> None:
        spec = METRICS[name]
        self.tag_keys = (*spec.tag_keys, "le") if spec.kind == "buckets" else spec.tag_keys
        self.seen: list[tuple[float, dict[str, str]]] = []

    def inc(self, amount: float, tags: dict[str, str]) -> None:
        assert tuple(tags) == self.tag_keys
        self.seen.append((amount, tags))

    observe = set = inc


async def test_counts_are_summed_and_handed_over_in_time(monkeypatch: Any) -> None:
    made: dict[str, Recorded] = {}
    monkeypatch.setattr("rayapp.serve.meter.FLUSH_S", 0.001)
    meter = ServeMeter(lambda name: made.setdefault(name, Recorded(name)))
    for _ in range(3):
        meter.request("e", "r", 200, 0.5)
        meter.rows("e", "r", 2)
    meter.request("e", "r", 503, 0.5)
    assert made["rayapp_requests"].seen == []
    await until(lambda: made["rayapp_requests"].seen)
    tags = {"endpoint": "e", "release": "r"}
    assert made["rayapp_requests"].seen == [
        (3, tags | {"status": "200"}),
        (1, tags | {"status": "503"}),
    ]
    assert made["rayapp_rows"].seen == [(6, tags)]
    assert made["rayapp_request_seconds"].seen == [(2.0, {"endpoint": "e"})]
    latencies = made["rayapp_request_latency_ms"].seen
    assert latencies == [(4, {"endpoint": "e", "le": le}) for le in ("500", "1000", "5000", "+Inf")]


async def test_every_metric_takes_the_labels_that_it_declares() -> None:
    made: dict[str, Recorded] = {}
    meter = ServeMeter(lambda name: made.setdefault(name, Recorded(name)))
    meter.request("e", "r", 200, 0.5)
    meter.rows("e", "r", 1)
    meter.kept_out("t", 3)
    meter.degraded("e", "timeout")
    meter.breaker("e", "e", "open")
    meter.cache("e", True)
    meter.batch("e", 4)
    meter.second_ask("e", "retry")
    meter.feature_read("e", True)
    meter.cost("e", "r", None, 5)
    meter.dropped_spans("s", 2)
    meter.choice("e", "champion", "cheapest")
    meter.cascade("e", Counts(3, 1, 0))
    meter.tokens("e", "r", None, {"prompt": 3, "output": 0})
    meter.first_token("e", 0.1)
    meter.cut("e", "client_gone")
    meter.flush()
    pool = PoolMeter("p", lambda name: made[name])
    pool.ask(is_held=False)
    pool.load(0.5)
    pool.held(3, 1000)
    pool.batch("e", 4)
    pool.flush()
    assert {name for name, recorded in made.items() if recorded.seen} == set(METRICS)


async def test_what_many_endpoints_counted_is_handed_over_in_slices(monkeypatch: Any) -> None:
    """All at once would be a stall of the event loop that every request waits for."""
    monkeypatch.setattr("rayapp.serve.meter.FLUSH_S", 0.001)
    monkeypatch.setattr("rayapp.serve.meter.SLICE", 7)
    made: dict[str, Recorded] = {}
    meter = ServeMeter(lambda name: made.setdefault(name, Recorded(name)))
    for number in range(10):
        meter.request(f"e{number}", "r", 200, 0.5)
    turns = []

    def num_seen() -> int:
        return sum(len(recorded.seen) for recorded in made.values())

    async with asyncio.timeout(10):
        while num_seen() < 10 * 6:
            before = num_seen()
            await asyncio.sleep(0)
            turns.append(num_seen() - before)
            if len(turns) == 10:
                meter.request("later", "r", 200, 0.5)
    assert max(turns) == 7
    meter.flush()
    assert num_seen() == 11 * 6
    meter.flush()
    assert num_seen() == 11 * 6


async def test_what_ray_does_not_take_keeps_back_nothing_else(monkeypatch: Any) -> None:
    monkeypatch.setattr("rayapp.serve.meter.FLUSH_S", 0.001)
    made: dict[str, Recorded] = {}
    meter = ServeMeter(lambda name: made.setdefault(name, Recorded(name)))
    monkeypatch.setattr(made["rayapp_rows"], "inc", None)  # cannot be called
    meter.rows("e", "r", 1)
    meter.request("e", "r", 200, 0.5)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    await until(lambda: made["rayapp_requests"].seen)
