"""The gateway's counters, exported by Ray's metrics agent under the names of telemetry.METRICS."""

from typing import Any

from ray.serve import metrics

from rayapp.serve.endpoints.breaker import State
from rayapp.telemetry import METRICS


class ServeMeter:
    def __init__(self) -> None:
        self._made = {name: _make(name) for name in METRICS}

    def request(self, endpoint: str, release: str, status: int, seconds: float) -> None:
        tags = {"endpoint": endpoint, "release": release, "status": str(status)}
        self._made["rayapp_requests"].inc(1, tags)
        self._made["rayapp_request_latency_ms"].observe(seconds * 1e3, {"endpoint": endpoint})
        self._made["rayapp_request_seconds"].inc(seconds, {"endpoint": endpoint})

    def rows(self, endpoint: str, release: str, num_rows: int) -> None:
        self._made["rayapp_rows"].inc(num_rows, {"endpoint": endpoint, "release": release})

    def degraded(self, endpoint: str, reason: str) -> None:
        self._made["rayapp_degraded"].inc(1, {"endpoint": endpoint, "reason": reason})

    def breaker(self, endpoint: str, target: str, state: State) -> None:
        tags = {"endpoint": endpoint, "target": target}
        self._made["rayapp_breaker_open"].set(float(state != "closed"), tags)

    def cache(self, endpoint: str, is_hit: bool) -> None:
        tags = {"endpoint": endpoint, "outcome": "hit" if is_hit else "miss"}
        self._made["rayapp_cache_lookups"].inc(1, tags)

    def batch(self, endpoint: str, num_rows: int) -> None:
        self._made["rayapp_batch_rows"].observe(num_rows, {"endpoint": endpoint})


def _make(name: str) -> Any:
    spec = METRICS[name]
    description = f"{spec.description} ({spec.unit})"
    tag_keys: Any = spec.tag_keys  # annotated there as a tuple of exactly one
    if spec.kind == "counter":
        return metrics.Counter(name, description, tag_keys=tag_keys)
    if spec.kind == "gauge":
        return metrics.Gauge(name, description, tag_keys=tag_keys)
    return metrics.Histogram(name, description, boundaries=list(spec.boundaries), tag_keys=tag_keys)
