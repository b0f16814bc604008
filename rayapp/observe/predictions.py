"""The prediction log and the feedback: which tables they are, and how they are read."""

from collections.abc import Sequence
from datetime import datetime

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from rayapp.observe.commit import RecordTable
from rayapp.observe.tables import TIME, answered, dated, on_dates, parsed, read_table, where
from rayapp.schemas.data import Column
from rayapp.schemas.traffic import PredictionRecord
from rayapp.storage import Workspace
from rayapp.transforms import arrow_type

PREDICTIONS_TABLE = "predictions"
FEEDBACK_TABLE = "feedback"
_PREDICTIONS_SCHEMA = pa.schema(
    {
        "endpoint": pa.string(),
        "date": pa.string(),
        "request_id": pa.string(),
        "row": pa.int64(),
        "release_id": pa.string(),
        "at": TIME,
        "unit_id": pa.string(),
        "inputs": pa.string(),
        "scores": pa.list_(pa.float64()),
        "latency_ms": pa.float64(),
        "degraded": pa.string(),
        "arm": pa.string(),
        "propensity": pa.float64(),
        "unit": pa.string(),
        "tenant": pa.string(),
        "trace_id": pa.string(),
        "cost_nano_usd": pa.int64(),
        "loan_id": pa.string(),
        "feature_age_s": pa.float64(),
    }
)
_FEEDBACK_SCHEMA = pa.schema(
    {
        "endpoint": pa.string(),
        "request_id": pa.string(),
        "row": pa.int64(),
        "at": TIME,
        "label": pa.string(),
        "score": pa.float64(),
        "comment": pa.string(),
        "tenant": pa.string(),
    }
)


_INPUTS = b',"inputs":'
"""A quote in a JSON text is escaped, so this can be only where the key is."""


def _prediction_rows(records: Sequence[bytes]) -> pa.Table:
    """inputs as JSON text: each endpoint has its own columns, and a release may change them. They
    are half of a record, and come last, so nobody need parse them here."""
    parted = [record.partition(_INPUTS) for record in map(_inputs_last, records)]
    heads = b"".join(head + b"}\n" for head, _, _ in parted)
    rows = parsed(heads, _PREDICTIONS_SCHEMA)
    inputs = pa.array([text[:-1] for _, _, text in parted], pa.binary()).cast(pa.string())
    return dated(rows.set_column(rows.schema.get_field_index("inputs"), "inputs", inputs))


def _inputs_last(record: bytes) -> bytes:
    """What was spooled by an earlier version has them amid the others, of which none is an object
    that could end a record."""
    if record.endswith(b"}}"):
        return record
    fields = orjson.loads(record)
    return orjson.dumps(fields | {"inputs": fields.pop("inputs")})


def _feedback_rows(records: Sequence[bytes]) -> pa.Table:
    """label as JSON text, which keeps 1, true and "1" apart."""
    rows = [
        {**r, "at": _time(r["at"]), "label": _label_text(r["label"])}
        for r in map(orjson.loads, records)
    ]
    return pa.Table.from_pylist(rows, _FEEDBACK_SCHEMA)


PREDICTIONS = RecordTable(
    _PREDICTIONS_SCHEMA,
    ("endpoint", "date"),
    _prediction_rows,
    key=("endpoint", "tenant", "request_id", "row", "inputs"),
)
FEEDBACK = RecordTable(
    _FEEDBACK_SCHEMA,
    ("endpoint",),
    _feedback_rows,
    key=("tenant", "request_id", "row", "label", "score", "comment"),
)


def read_predictions(
    table_uri: str,
    endpoint: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    request_id: str | None = None,
) -> pa.Table:
    """Committed predictions in order of time; no rows where there is no table yet.

    since is included, until is not. inputs is JSON text: see inputs_table.
    """
    wanted = where(endpoint, since, until, request_id) & on_dates(since, until)
    found = read_table(table_uri, _PREDICTIONS_SCHEMA, wanted)
    return found.sort_by([("at", "ascending"), ("request_id", "ascending"), ("row", "ascending")])


def read_feedback(
    table_uri: str,
    endpoint: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    request_id: str | None = None,
) -> pa.Table:
    """Committed feedback in order of time; label is JSON text."""
    found = read_table(table_uri, _FEEDBACK_SCHEMA, where(endpoint, since, until, request_id))
    return found.sort_by("at")


def find_predictions(
    workspace: Workspace, request_id: str, with_shadows: bool = False
) -> list[PredictionRecord]:
    """The rows that a request was answered with, in order; empty while they are not committed.
    with_shadows: also what shadows made of it, which nobody was answered with."""
    table = read_predictions(workspace.table(PREDICTIONS_TABLE), request_id=request_id)
    if not with_shadows:
        table = answered(table)
    rows = table.drop_columns(["date"]).to_pylist()
    return [
        PredictionRecord(
            **{
                **row,
                "inputs": orjson.loads(row["inputs"]),
                "scores": tuple(row["scores"]),
            }
        )
        for row in rows
    ]


def inputs_table(predictions: pa.Table, inputs: Sequence[Column]) -> pa.Table:
    """The logged inputs as typed columns again, one row per prediction; a column that an older
    release did not take is null there."""
    rows = [orjson.loads(text) for text in predictions.column("inputs").to_pylist()]
    columns = {}
    for column in inputs:
        values = [row.get(column.name) for row in rows]
        if column.type == "timestamp":
            columns[column.name] = pc.cast(pa.array(values, pa.string()), TIME)
        else:
            columns[column.name] = pa.array(values, arrow_type(column.type))
    return pa.table(columns)


def _label_text(label: str | float | bool | None) -> str | None:
    return None if label is None else orjson.dumps(label).decode()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
