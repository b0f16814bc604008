"""The gateway's metrics, exported by Ray's metrics agent under the names of telemetry.METRICS."""

import asyncio
import threading
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

from ray.serve import metrics

from rayapp.schemas.traffic import NANO
from rayapp.serve.endpoints.breaker import State
from rayapp.serve.endpoints.cascade import Counts
from rayapp.telemetry import METRICS

FLUSH_S = 5.0
"""Ray passes on what it has every 10 s."""
SLICE, SLICE_S = 200, 0.02
"""Counts are handed to Ray in slices of so many calls, a millisecond of the event loop, with pauses
between them: for each endpoint that was asked there are some twenty calls, and there may be a
thousand endpoints."""
Labels = tuple[str, ...]
"""Of one series, in the order of the metric's tag_keys."""


class _Meter:
    """Counters are summed here and handed to Ray every few seconds: a call of Ray's costs some
    5 µs, several for each request. Called on the event loop, but for `batch`."""

    def __init__(self, make: Callable[[str], Any] | None = None) -> None:
        self._made = {name: (make or _make)(name) for name in METRICS}
        self._counts: dict[tuple[str, Labels], float] = defaultdict(float)
        self._observed: dict[tuple[str, Labels], list[int]] = {}
        self._observing = threading.Lock()
        self._waiting: deque[tuple[str, float, dict[str, str]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def _count(self, name: str, amount: float, labels: Labels) -> None:
        self._counts[name, labels] += amount
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._hand_over)

    def _observe(self, name: str, value: float, labels: Labels) -> None:
        """Into the bucket of a metric that has them. Handed over with what is counted. Long work
        calls it in a thread."""
        limits = METRICS[name].boundaries
        with self._observing:
            found = self._observed.get((name, labels))
            if found is None:
                found = self._observed[name, labels] = [0] * (len(limits) + 1)
            found[bisect_left(limits, value)] += 1

    def batch(self, endpoint: str, num_rows: int) -> None:
        self._observe("rayapp_batch_rows", num_rows, (endpoint,))

    def dropped_spans(self, service: str, num_spans: int) -> None:
        self._count("rayapp_spans_dropped", num_spans, (service,))

    def flush(self) -> None:
        """Hand over what was counted since the last time, all of it now. Ray passes it on also
        where the process ends then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._take()
        self._hand_over_some(len(self._waiting))

    def _hand_over(self) -> None:
        self._timer = None
        try:
            if not self._waiting:
                self._take()
            self._hand_over_some(SLICE)
        finally:  # what Ray does not take must not keep back the rest
            if self._waiting or self._counts:
                wait_s = SLICE_S if self._waiting else FLUSH_S
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._hand_over)

    def _hand_over_some(self, most: int) -> None:
        for _ in range(min(most, len(self._waiting))):
            name, amount, tags = self._waiting.popleft()
            self._made[name].inc(amount, tags)

    def _take(self) -> None:
        counts, self._counts = self._counts, defaultdict(float)
        for (name, labels), amount in counts.items():
            tags = dict(zip(METRICS[name].tag_keys, labels, strict=True))
            self._waiting.append((name, amount, tags))
        with self._observing:
            observed, self._observed = self._observed, {}
        for (name, labels), found in observed.items():
            tags = dict(zip(METRICS[name].tag_keys, labels, strict=True))
            limits = [*(f"{limit:g}" for limit in METRICS[name].boundaries), "+Inf"]
            for limit, total in zip(limits, accumulate(found), strict=True):
                if total:
                    self._waiting.append((name, total, tags | {"le": limit}))


class ServeMeter(_Meter):
    """A gateway replica's."""

    def request(self, endpoint: str, release: str, status: int, seconds: float) -> None:
        self._count("rayapp_requests", 1, (endpoint, release, str(status)))
        self._count("rayapp_request_seconds", seconds, (endpoint,))
        self._observe("rayapp_request_latency_ms", seconds * 1e3, (endpoint,))

    def kept_out(self, tenant: str | None, num_requests: int) -> None:
        self._count("rayapp_kept_out", num_requests, (tenant or "none",))

    def rows(self, endpoint: str, release: str, num_rows: int) -> None:
        self._count("rayapp_rows", num_rows, (endpoint, release))

    def degraded(self, endpoint: str, reason: str) -> None:
        self._count("rayapp_degraded", 1, (endpoint, reason))

    def breaker(self, endpoint: str, target: str, state: State) -> None:
        tags = {"endpoint": endpoint, "target": target}
        self._made["rayapp_breaker_open"].set(float(state != "closed"), tags)

    def cache(self, endpoint: str, is_hit: bool) -> None:
        self._count("rayapp_cache_lookups", 1, (endpoint, "hit" if is_hit else "miss"))

    def second_ask(self, endpoint: str, reason: str) -> None:
        self._count("rayapp_second_asks", 1, (endpoint, reason))

    def feature_read(self, endpoint: str, is_fresh: bool) -> None:
        self._count("rayapp_feature_reads", 1, (endpoint, "fresh" if is_fresh else "stale"))

    def choice(self, endpoint: str, arm: str, reason: str) -> None:
        self._count("rayapp_choices", 1, (endpoint, arm, reason))

    def cascade(self, endpoint: str, counts: Counts) -> None:
        for outcome, num_rows in counts._asdict().items():
            if num_rows:
                self._count("rayapp_cascade_rows", num_rows, (endpoint, outcome))

    def tokens(
        self, endpoint: str, release: str, tenant: str | None, counts: Mapping[str, int]
    ) -> None:
        for kind, number in counts.items():
            if number:
                self._count("rayapp_tokens", number, (endpoint, release, tenant or "none", kind))

    def first_token(self, endpoint: str, seconds: float) -> None:
        self._observe("rayapp_first_token_ms", seconds * 1e3, (endpoint,))

    def cut(self, endpoint: str, reason: str) -> None:
        self._count("rayapp_answers_cut", 1, (endpoint, reason))

    def cost(self, endpoint: str, release: str, tenant: str | None, nano_usd: int) -> None:
        self._count("rayapp_cost_usd", nano_usd / NANO, (endpoint, release, tenant or "none"))


class PoolMeter(_Meter):
    """A pool replica's."""

    def __init__(self, pool: str, make: Callable[[str], Any] | None = None) -> None:
        super().__init__(make)
        self._pool = pool

    def ask(self, is_held: bool) -> None:
        self._count("rayapp_pool_asks", 1, (self._pool, "held" if is_held else "absent"))

    def load(self, seconds: float) -> None:
        self._count("rayapp_pool_loads", 1, (self._pool,))
        self._count("rayapp_pool_load_seconds", seconds, (self._pool,))

    def held(self, num_models: int, num_bytes: int) -> None:
        self._made["rayapp_pool_models"].set(num_models, {"pool": self._pool})
        self._made["rayapp_pool_bytes"].set(num_bytes, {"pool": self._pool})


def _make(name: str) -> Any:
    spec = METRICS[name]
    description = f"{spec.description} ({spec.unit})"
    tag_keys: Any = spec.tag_keys  # annotated there as a tuple of exactly one
    if spec.kind == "counter":
        return metrics.Counter(name, description, tag_keys=tag_keys)
    if spec.kind == "buckets":
        return metrics.Counter(name, description, tag_keys=(*tag_keys, "le"))
    return metrics.Gauge(name, description, tag_keys=tag_keys)
