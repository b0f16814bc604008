"""Keeping the record of an answer."""

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from rayapp.errors import Unavailable
from rayapp.serve.callers.budgets import Charge
from rayapp.serve.endpoints.base import Ask, Reply

log = logging.getLogger("rayapp.serve.predicting")

_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)
_VERSION_0_BYTES = 55
"""Only a later version's header may be longer."""


class RecordSink(Protocol):
    """Where answered rows and feedback go. Returns once a killed process cannot lose them."""

    def append(self, records: Sequence[Mapping[str, Any]]) -> None: ...


def trace_id(headers: Mapping[bytes, bytes]) -> str | None:
    """The trace that the caller is in, by its `traceparent` header (W3C Trace Context); None
    where there is none, or one that the specification says to leave aside."""
    given = headers.get(b"traceparent")
    if given is None or (given.startswith(b"00") and len(given) != _VERSION_0_BYTES):
        return None
    found = _TRACEPARENT.fullmatch(given)
    return found[1].decode() if found is not None else None


def prediction_records(
    endpoint: str, ask: Ask, reply: Reply, at: datetime, latency_ms: float
) -> list[dict[str, Any]]:
    """One per answered row, with the fields of schemas.traffic.PredictionRecord."""
    common = {
        "request_id": ask.request_id,
        "endpoint": endpoint,
        "release_id": reply.release_id,
        "at": at,
        "latency_ms": round(latency_ms, 3),
        "degraded": reply.degraded,
        "tenant": ask.tenant,
        "trace_id": trace_id(ask.headers),
    }
    if ask.feature_age_s is not None and reply.degraded is None:
        common["feature_age_s"] = round(ask.feature_age_s, 3)
    if reply.charge is not None:
        common["cost_nano_usd"] = reply.charge.cost // ask.parsed.num_rows
        common["loan_id"] = reply.charge.loan_id
    if ask.assignment is not None:
        common["arm"] = ask.assignment.arm
        common["propensity"] = ask.assignment.propensity
        common["unit"] = ask.assignment.unit
    each = zip(reply.rows.unit_ids, reply.rows.inputs, reply.scores_NK.tolist(), strict=True)
    return [
        # inputs last: commits then need not parse them (observe/predictions.py)
        common | {"row": row, "unit_id": unit_id, "scores": scores, "inputs": given}
        for row, (unit_id, given, scores) in enumerate(each)
    ]


def store_charged(
    sink: RecordSink, records: Sequence[Mapping[str, Any]], charge: Charge | None
) -> None:
    """As `store`; what is recorded is paid for, and what is not, is not."""
    if charge is None:
        store(sink, records)
        return
    try:
        if charge.is_void:
            raise Unavailable(
                "this replica stood still for so long that the budget it pays from was returned",
                "try again",
            )
        store(sink, records)
    except BaseException:
        charge.refund()
        raise
    charge.settle()


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
