"""Keeping the record of an answer."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from rayapp.errors import Unavailable
from rayapp.schemas.traffic import STATIC
from rayapp.serve.callers.budgets import Charge
from rayapp.serve.endpoints.base import Ask, Reply, RowAnswer, propensity_of
from rayapp.serve.tracing.span import CURRENT, parent_of

log = logging.getLogger("rayapp.serve.predicting")


class RecordSink(Protocol):
    """Where answered rows and feedback go. Returns once a killed process cannot lose them."""

    def append(self, records: Sequence[Mapping[str, Any]]) -> None: ...


class Owed(Protocol):
    """What a record is paid with: a Charge, or several."""

    @property
    def is_void(self) -> bool: ...
    def settle(self) -> None: ...
    def refund(self) -> None: ...


def trace_id(headers: Mapping[bytes, bytes]) -> str | None:
    """Of the trace that a request with these headers is in: its own where it is traced, which is
    also its caller's if that is in one, else its caller's; None where there is neither."""
    span = CURRENT.get()
    found = span if span is not None else parent_of(headers)
    return None if found is None else found.trace_id


def keep(
    sink: RecordSink, endpoint: str, ask: Ask, reply: Reply, at: datetime, latency_ms: float
) -> dict[str, int]:
    """Record an answer, and end its charge. What it costs by release, in billionths of a dollar;
    empty where it costs nothing. Raises Unavailable as `store` does."""
    records = prediction_records(endpoint, ask, reply, at, latency_ms)
    store_charged(sink, records, reply.charge)
    if reply.charge is None:
        return {}
    if reply.by_row is None:
        return {reply.release_id: reply.charge.amount}
    nano_usd: dict[str, int] = {}
    for answer in reply.by_row:
        nano_usd[answer.release_id] = nano_usd.get(answer.release_id, 0) + answer.cost_nano_usd
    return nano_usd


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
    if ask.feature_age_s is not None and reply.release_id != STATIC:
        common["feature_age_s"] = round(ask.feature_age_s, 3)
    if reply.charge is not None:
        if reply.by_row is None:
            common["cost_nano_usd"] = reply.charge.amount // ask.parsed.num_rows
        common["loan_id"] = reply.charge.loan_id
    if ask.assignment is not None:
        common["arm"] = ask.assignment.arm
        common["propensity"] = ask.assignment.propensity
        common["unit"] = ask.assignment.unit
    each = zip(reply.rows.unit_ids, reply.rows.inputs, reply.scores_NK.tolist(), strict=True)
    shared = [common] * len(reply.scores_NK)
    if reply.by_row is not None:
        told = {
            row: common | _of_row(row, reply.charge, propensity_of(ask))
            for row in set(reply.by_row)
        }
        shared = [told[row] for row in reply.by_row]
    return [
        # inputs last: commits then need not parse them (observe/predictions.py)
        shared[row] | {"row": row, "unit_id": unit_id, "scores": scores, "inputs": given}
        for row, (unit_id, given, scores) in enumerate(each)
    ]


def _of_row(answer: RowAnswer, charge: Charge | None, propensity: float) -> dict[str, Any]:
    """The fields of a record that tell who answered its row. propensity: that rules let such a
    request come to a cascade, which leaves nothing more to chance."""
    told: dict[str, Any] = {"release_id": answer.release_id, "degraded": answer.degraded}
    if charge is not None:
        told["cost_nano_usd"] = answer.cost_nano_usd
    if answer.arm is not None:
        told |= {"arm": answer.arm, "propensity": propensity}
    return told


def store_charged(
    sink: RecordSink, records: Sequence[Mapping[str, Any]], charge: Owed | None
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
