"""From a request's columns to its answer: check, share a model call, keep the record."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from rayapp.errors import Unavailable
from rayapp.families.base import Floats
from rayapp.serve.follow import Loaded
from rayapp.serve.protocols import Parsed
from rayapp.serve.validation import Rows, validated

log = logging.getLogger("rayapp.serve.predicting")

INLINE_BYTES = 32 * 1024
"""Longer bodies are parsed and recorded in a thread, so that they do not hold up short ones."""
Result = TypeVar("Result")


class RecordSink(Protocol):
    """Where answered rows and feedback go. Returns once a killed process cannot lose them."""

    def append(self, records: Sequence[Mapping[str, Any]]) -> None: ...


async def predict(
    loaded: Loaded,
    body: bytes,
    parse: Callable[[bytes], Parsed],
    sink: RecordSink,
    request_id: str,
    start_s: float,
    now: Callable[[], datetime],
) -> tuple[Parsed, Floats]:
    """start_s: when the request came, by time.perf_counter. Raises RequestError for a request that
    is not in order, Unavailable when its record cannot be kept."""

    def understand() -> tuple[Parsed, Rows]:
        parsed = parse(body)
        return parsed, validated(parsed, loaded.bundle, loaded.row_encoder)

    is_long = len(body) > INLINE_BYTES
    parsed, rows = await _run(understand, is_long)
    scores_NK = await loaded.batcher.predict(rows.x_NF)
    latency_ms = (time.perf_counter() - start_s) * 1000

    def record() -> None:
        store(sink, prediction_records(loaded, request_id, rows, scores_NK, now(), latency_ms))

    await _run(record, is_long)
    return parsed, scores_NK


def prediction_records(
    loaded: Loaded,
    request_id: str,
    rows: Rows,
    scores_NK: Floats,
    at: datetime,
    latency_ms: float,
) -> list[dict[str, Any]]:
    """One per answered row, with the fields of schemas.traffic.PredictionRecord."""
    common = {
        "request_id": request_id,
        "endpoint": loaded.endpoint,
        "release_id": loaded.release_id,
        "at": at,
        "latency_ms": round(latency_ms, 3),
    }
    each = zip(rows.unit_ids, rows.inputs, scores_NK.tolist(), strict=True)
    return [
        common | {"row": row, "unit_id": unit_id, "inputs": given, "scores": scores}
        for row, (unit_id, given, scores) in enumerate(each)
    ]


def store(sink: RecordSink, records: Sequence[Mapping[str, Any]]) -> None:
    """Raises Unavailable when they cannot be written: an answer without a record could never be
    explained, so there is none."""
    try:
        sink.append(records)
    except OSError as error:
        log.exception("spool_unwritable")
        raise Unavailable(
            f"this replica cannot keep its records ({error.strerror})",
            "try again; the disk under the workspace's spool needs room",
        ) from None


async def _run(work: Callable[[], Result], is_long: bool) -> Result:
    return await asyncio.to_thread(work) if is_long else work()
