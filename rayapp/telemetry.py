"""The table of metric names, and logging set-up. A metric that is not in the table does not
exist."""

import logging
import os
import sys
from typing import Literal, NamedTuple


class MetricSpec(NamedTuple):
    """One exported metric. Ray's agent exports it to Prometheus as ray_<name>.

    buckets: a histogram as counters by their upper limit `le`, for what is observed at every
    request: one of Ray's own takes 20 µs an observation.
    """

    kind: Literal["counter", "gauge", "buckets"]
    unit: str
    description: str
    tag_keys: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()


METRICS: dict[str, MetricSpec] = {
    "rayapp_requests": MetricSpec(
        "counter", "requests", "Answered requests", ("endpoint", "release", "status")
    ),
    "rayapp_rows": MetricSpec(
        "counter", "rows", "Predicted rows, by what x-release names", ("endpoint", "release")
    ),
    "rayapp_request_latency_ms": MetricSpec(
        "buckets",
        "ms",
        "From the request's first byte in the gateway to its answer",
        ("endpoint",),
        (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000),
    ),
    "rayapp_request_seconds": MetricSpec(
        "counter", "s", "Sum of request latencies: the exact mean's numerator", ("endpoint",)
    ),
    "rayapp_kept_out": MetricSpec(
        "counter", "requests", "Refused by HAProxy and not counted as requests", ("tenant",)
    ),
    "rayapp_degraded": MetricSpec(
        "counter", "requests", "Answered by a fallback", ("endpoint", "reason")
    ),
    "rayapp_feature_reads": MetricSpec(
        "counter",
        "requests",
        "Needed feature values, by whether those were fresh",
        ("endpoint", "outcome"),
    ),
    "rayapp_cost_usd": MetricSpec(
        "counter",
        "USD",
        "What answers cost at the endpoints' prices",
        ("endpoint", "release", "tenant"),
    ),
    "rayapp_tokens": MetricSpec(
        "counter",
        "tokens",
        "Of language models, as engines count them: read (prompt), of those found in the prefix "
        "cache (cached), and generated (output)",
        ("endpoint", "release", "tenant", "kind"),
    ),
    "rayapp_first_token_ms": MetricSpec(
        "buckets",
        "ms",
        "From the request's first byte in the gateway to the first token that it sends",
        ("endpoint",),
        (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000),
    ),
    "rayapp_answers_cut": MetricSpec(
        "counter",
        "answers",
        "Of language models, that ended before the model was done, and why",
        ("endpoint", "reason"),
    ),
    "rayapp_spans_dropped": MetricSpec(
        "counter", "spans", "Spans that the collector did not take, or not in time", ("service",)
    ),
    "rayapp_choices": MetricSpec(
        "counter",
        "requests",
        "By whom an objective chose to answer, and why: cheapest, explored, degraded, columns",
        ("endpoint", "arm", "reason"),
    ),
    "rayapp_cascade_rows": MetricSpec(
        "counter",
        "rows",
        "Rows of cascades, or answers in words: kept by the first model, escalated to the "
        "champion, or given by the first model since the champion could not answer",
        ("endpoint", "outcome"),
    ),
    "rayapp_breaker_open": MetricSpec(
        "gauge", "0 or 1", "A release that is not asked now", ("endpoint", "target")
    ),
    "rayapp_cache_lookups": MetricSpec(
        "counter", "requests", "Looked up in the answer cache", ("endpoint", "outcome")
    ),
    "rayapp_second_asks": MetricSpec(
        "counter", "requests", "Asked of a pool once more", ("endpoint", "reason")
    ),
    "rayapp_pool_asks": MetricSpec(
        "counter", "calls", "Calls by whether the replica held the model", ("pool", "outcome")
    ),
    "rayapp_pool_loads": MetricSpec("counter", "models", "Models loaded when asked", ("pool",)),
    "rayapp_pool_load_seconds": MetricSpec("counter", "s", "Time that they took", ("pool",)),
    "rayapp_pool_models": MetricSpec("gauge", "models", "Models held by a replica", ("pool",)),
    "rayapp_pool_bytes": MetricSpec("gauge", "bytes", "Memory that they take", ("pool",)),
    "rayapp_batch_rows": MetricSpec(
        "buckets", "rows", "Rows of one model call", ("endpoint",), (1, 2, 4, 8, 16, 32, 64, 128)
    ),
}

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_PLAIN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class EventFormatter(logging.Formatter):
    """An event's name, then its facts as `key=value`: what `extra` holds would else not be seen."""

    def __init__(self) -> None:
        super().__init__(LOG_FORMAT, datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        facts = {k: v for k, v in vars(record).items() if k not in _PLAIN_FIELDS}
        told = "".join(f" {key}={value}" for key, value in facts.items())
        return super().formatMessage(record) + told


def configure_logging() -> None:
    """Everybody's warnings on stderr; our own events from RAYAPP_LOG_LEVEL on (WARNING).

    Called by a job's driver and by each gateway replica.
    """
    # Ray Serve puts another stderr in a replica's, which keeps up to a thousand lines back.
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(EventFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("rayapp").setLevel(os.environ.get("RAYAPP_LOG_LEVEL", "WARNING"))
