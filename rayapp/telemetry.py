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


METRICS: dict[str, MetricSpec] = {}

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def configure_logging() -> None:
    """For a job's driver: our events at INFO on stderr, everybody else's at WARNING."""
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT, datefmt="%H:%M:%S")
    logging.getLogger("rayapp").setLevel(os.environ.get("RAYAPP_LOG_LEVEL", "INFO"))
