"""A row of the prediction log."""

from datetime import UTC, datetime

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
