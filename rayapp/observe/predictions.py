"""The prediction log and the feedback: which tables they are, and how they are read."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.json as pj
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from rayapp.errors import WorkspaceError
from rayapp.families.meter import step_back
from rayapp.observe.commit import RecordTable, commit_spool
from rayapp.observe.spool import Spool
from rayapp.schemas.data import Column
from rayapp.schemas.traffic import SHADOW, PredictionRecord
from rayapp.storage import Workspace
from rayapp.transforms import arrow_type

PREDICTIONS_TABLE = "predictions"
FEEDBACK_TABLE = "feedback"
_FEEDBACK_SPOOL = "_feedback"  # no endpoint has such a name
_TIME = pa.timestamp("us", "UTC")
_PREDICTIONS_SCHEMA = pa.schema(
    {
        "endpoint": pa.string(),
        "date": pa.string(),
        "request_id": pa.string(),
        "row": pa.int64(),
        "release_id": pa.string(),
        "at": _TIME,
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
        "at": _TIME,
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
    rows = _parsed(heads, _PREDICTIONS_SCHEMA)
    inputs = pa.array([text[:-1] for _, _, text in parted], pa.binary()).cast(pa.string())
    date = pc.strftime(rows.column("at"), format="%Y-%m-%d")
    for name, values in (("inputs", inputs), ("date", date)):
        rows = rows.set_column(rows.schema.get_field_index(name), name, values)
    return rows


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


def _parsed(lines: bytes, schema: pa.Schema) -> pa.Table:
    """What is not there is null."""
    return pj.read_json(
        pa.BufferReader(lines),
        read_options=pj.ReadOptions(use_threads=False, block_size=len(lines)),
        parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    ).combine_chunks()


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


OnRepeated = Callable[[Mapping[str, int]], object]


@dataclass(frozen=True)
class Committed:
    """repeated_costs: of rows that were left out, since the table had them, by the loan that paid
    for the repetition; billionths of a dollar."""

    num_rows: int
    repeated_costs: Mapping[str, int]


class NodeLog:
    """One replica's writers, and the commit of everything this node has spooled.

    commits_aside: commits run in a process of their own. In a thread they would hold Python's lock
    for a tenth of a second at a time, and every request of the process would wait for it.
    on_repeated: gets what was paid for rows that another replica had recorded, and been paid for,
    already.
    """

    def __init__(
        self,
        workspace: Workspace,
        commits_aside: bool = False,
        on_repeated: OnRepeated = lambda costs: None,
    ) -> None:
        self._workspace = workspace
        self._commits_aside = commits_aside
        self._on_repeated = on_repeated
        self._aside: ProcessPoolExecutor | None = None
        self._predictions: dict[str, Spool] = {}
        self.feedback = Spool(workspace.spool(_FEEDBACK_SPOOL))

    def predictions(self, endpoint: str) -> Spool:
        found = self._predictions.get(endpoint)
        if found is None:
            made = Spool(self._workspace.spool(endpoint) / PREDICTIONS_TABLE)
            found = self._predictions.setdefault(endpoint, made)
        return found

    def commit(self) -> int:
        """Rows committed, of live and of dead processes; 0 while another process is at it."""
        if not self._commits_aside:
            return self._told(commit_node(self._workspace, wait=False))
        if self._aside is None:
            spawn = get_context("spawn")  # a fork would copy Ray's threads' locks, not the threads
            self._aside = ProcessPoolExecutor(1, spawn, initializer=step_back)
        try:
            return self._told(self._aside.submit(commit_node, self._workspace, False).result())
        except BrokenProcessPool:
            self._aside = None  # it was killed; the next commit has another
            raise

    def flush(self) -> int:
        """Close this replica's spools and commit, after the process that may be at it."""
        for spool in (self.feedback, *self._predictions.values()):
            spool.close()
        if self._aside is not None:
            self._aside.shutdown(cancel_futures=True)
            self._aside = None
        return self._told(commit_node(self._workspace, wait=True))

    def _told(self, committed: Committed) -> int:
        if committed.repeated_costs:
            self._on_repeated(committed.repeated_costs)
        return committed.num_rows


def commit_node(workspace: Workspace, wait: bool) -> Committed:
    """Commit everything that this node has spooled."""
    feedback = workspace.spool(_FEEDBACK_SPOOL)
    spools = (
        (feedback, FEEDBACK_TABLE, FEEDBACK, "."),
        (feedback.parent, PREDICTIONS_TABLE, PREDICTIONS, f"*/{PREDICTIONS_TABLE}"),
    )
    num_rows, refused = 0, []
    repeated: Counter[str] = Counter()

    def add(rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            if row.get("loan_id") is not None:
                repeated[row["loan_id"]] += row["cost_nano_usd"]

    for folder, name, kind, below in spools:
        table_uri = workspace.table(name)
        try:
            num_rows += commit_spool(folder, table_uri, kind, wait, on_repeated=add, below=below)
        except WorkspaceError as error:  # one table's trouble must not keep the others back
            refused.append(error)
    if refused:
        raise refused[0]
    return Committed(num_rows, repeated)


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
    wanted = _where(endpoint, since, until, request_id)
    if since is not None:
        wanted &= ds.field("date") >= _date(since)
    if until is not None:
        wanted &= ds.field("date") <= _date(until)
    found = _read(table_uri, _PREDICTIONS_SCHEMA, wanted)
    return found.sort_by([("at", "ascending"), ("request_id", "ascending"), ("row", "ascending")])


def read_feedback(
    table_uri: str,
    endpoint: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    request_id: str | None = None,
) -> pa.Table:
    """Committed feedback in order of time; label is JSON text."""
    found = _read(table_uri, _FEEDBACK_SCHEMA, _where(endpoint, since, until, request_id))
    return found.sort_by("at")


def find_predictions(workspace: Workspace, request_id: str) -> list[PredictionRecord]:
    """The rows that a request was answered with, in order; empty while they are not committed. What
    a shadow made of it nobody was answered with."""
    table = read_predictions(workspace.table(PREDICTIONS_TABLE), request_id=request_id)
    table = table.filter(pc.invert(pc.ends_with(table.column("endpoint"), SHADOW)))
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
            columns[column.name] = pc.cast(pa.array(values, pa.string()), _TIME)
        else:
            columns[column.name] = pa.array(values, arrow_type(column.type))
    return pa.table(columns)


def _where(
    endpoint: str | None,
    since: datetime | None,
    until: datetime | None,
    request_id: str | None,
) -> ds.Expression:
    wanted = ds.scalar(True)
    if endpoint is not None:
        wanted &= ds.field("endpoint") == endpoint
    if request_id is not None:
        wanted &= ds.field("request_id") == request_id
    if since is not None:
        wanted &= ds.field("at") >= pa.scalar(since, _TIME)
    if until is not None:
        wanted &= ds.field("at") < pa.scalar(until, _TIME)
    return wanted


def _read(table_uri: str, schema: pa.Schema, wanted: ds.Expression) -> pa.Table:
    try:
        if not DeltaTable.is_deltatable(table_uri):
            return schema.empty_table()
        found = DeltaTable(table_uri).to_pyarrow_dataset().to_table(filter=wanted)
    except (DeltaError, OSError) as error:
        raise WorkspaceError(
            f"table {table_uri}: cannot be read ({error})",
            "`rayapp audit verify` names the damage",
        ) from None
    for name in schema.names:
        if name not in found.column_names:  # a table from before there was such a column
            found = found.append_column(name, pa.nulls(len(found), schema.field(name).type))
    return found.select(schema.names).cast(schema)


def _label_text(label: str | float | bool | None) -> str | None:
    return None if label is None else orjson.dumps(label).decode()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _date(at: datetime) -> str:
    return at.astimezone(UTC).date().isoformat()
