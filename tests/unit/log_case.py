"""A row of the prediction log, and the death of a writer."""

import os
from datetime import UTC, datetime

from rayapp.observe.spool import Spool

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def record(endpoint: str, request_id: str) -> dict[str, object]:
    return {
        "request_id": request_id,
        "row": 0,
        "endpoint": endpoint,
        "release_id": "r1",
        "at": NOON,
        "unit_id": "u",
        "inputs": {"when": NOON, "size": 1.5, "place": None},
        "scores": [0.25, 0.75],
        "latency_ms": 1.25,
    }


def die(spool: Spool) -> None:
    """As a killed process leaves its segment: unlocked, and not closed by its writer."""
    assert spool._file is not None
    os.close(spool._file)
    spool._file = None
