"""The table of metric names, and logging set-up. A metric that is not in the table does not
exist."""

import logging
import os
from typing import Literal, NamedTuple


class MetricSpec(NamedTuple):
    """One exported metric. Ray's agent exports it to Prometheus as ray_<name>."""

    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    description: str
    tag_keys: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()


METRICS: dict[str, MetricSpec] = {
    "rayapp_requests": MetricSpec(
        "counter", "requests", "Answered requests", ("endpoint", "release", "status")
    ),
    "rayapp_rows": MetricSpec("counter", "rows", "Predicted rows", ("endpoint", "release")),
    "rayapp_request_latency_ms": MetricSpec(
        "histogram",
        "ms",
        "From the request's first byte in the gateway to its answer",
        ("endpoint",),
        (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000),
    ),
    "rayapp_request_seconds": MetricSpec(
        "counter", "s", "Sum of request latencies: the exact mean's numerator", ("endpoint",)
    ),
    "rayapp_batch_rows": MetricSpec(
        "histogram", "rows", "Rows of one model call", ("endpoint",), (1, 2, 4, 8, 16, 32, 64, 128)
    ),
}

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def configure_logging() -> None:
    """For a job's driver: our events at INFO on stderr, everybody else's at WARNING."""
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT, datefmt="%H:%M:%S")
    logging.getLogger("rayapp").setLevel(os.environ.get("RAYAPP_LOG_LEVEL", "WARNING"))
