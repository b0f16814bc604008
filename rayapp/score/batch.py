"""Batch scoring: the rows of a dataset through a bundle, into one commit of a Delta table."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError
from ray.data import Dataset

from rayapp.errors import DataError, WorkspaceError
from rayapp.families.bundle import SCHEMA_FILE, PackedBundle
from rayapp.families.inputs import typed_inputs
from rayapp.schemas.data import ROW_ID_COLUMN
from rayapp.schemas.model import BundleSchema

log = logging.getLogger("rayapp.score.batch")

_ATTEMPTS = 5
_DIGEST_BYTES = 16
_HASH = "_hash"
SCORE_SCHEMA = pa.schema(
    {
        ROW_ID_COLUMN: pa.string(),
        "release_id": pa.string(),
        "input_digest": pa.string(),
        "scores": pa.list_(pa.float64()),
        "error": pa.string(),
    }
)
"""scores: as Bundle.predict gives them, or null where error says why the row has none."""


@dataclass(frozen=True)
class BatchResult:
    """num_rows: all rows that came in; num_errors: those of them without a score. input_digest:
    of the rows, whatever their order."""

    num_rows: int
    num_errors: int
    input_digest: str


def score_batch(
    dataset: Dataset, bundle_folder: Path, release_id: str, output_uri: str
) -> BatchResult:
    """Score the rows of `dataset`, which has a `_row_id` and the bundle's inputs.

    A row whose inputs break their contract is kept with the reason. The same rows by the same
    release are written once, however often this runs. Raises DataError for a dataset without rows
    or without one of the inputs, WorkspaceError where the table cannot be written.
    """
    schema = BundleSchema.parse((bundle_folder / SCHEMA_FILE).read_bytes())
    names = [ROW_ID_COLUMN, *(column.name for column in schema.inputs)]
    needed = {ROW_ID_COLUMN, *(c.name for c in schema.inputs if not c.nullable)}
    found = dataset.schema()
    have = list(found.names) if found is not None else []
    if not needed <= set(have):
        raise DataError(
            f"scoring by {schema.name}: no column {min(needed - set(have))!r}, columns are {have}",
            "score a snapshot whose view has the bundle's inputs",
        )
    scored = dataset.select_columns([name for name in names if name in have]).map_batches(
        _Score(PackedBundle.pack(bundle_folder)), batch_format="pyarrow", batch_size=None
    )
    blocks = list(scored.iter_batches(batch_size=None, batch_format="pyarrow"))
    rows = pa.concat_tables(blocks) if blocks else None
    if rows is None or not rows.num_rows:
        raise DataError("there are no rows to score", "check the split and the time window")
    digest = _digest(rows.column(_HASH))
    _commit(output_uri, _output(rows, release_id, digest), release_id, digest)
    num_errors = rows.num_rows - rows.column("error").null_count
    return BatchResult(rows.num_rows, num_errors, digest)


@dataclass(frozen=True)
class _Score:
    """Scores one block. A task, not an actor: it shares a task with the read before it, where an
    actor would hold the last free CPU and wait for that read for ever."""

    packed: PackedBundle

    def __call__(self, rows: pa.Table) -> pa.Table:
        bundle = self.packed.open()
        inputs = bundle.schema.inputs
        typed = typed_inputs(rows, inputs)
        errors: list[str | None] = [None] * rows.num_rows
        for fault in reversed(typed.faults):  # the first fault of a row is the one that stays
            assert fault.row is not None  # a missing column was refused before any row was read
            errors[fault.row] = f"{fault.column}: {fault.kind}, {fault.value} is not {fault.limit}"
        good_N = np.array([error is None for error in errors], dtype=bool)
        scores: list[list[float] | None] = [None] * rows.num_rows
        if good_N.any():
            scores_NK = bundle.predict(typed.table.filter(pa.array(good_N)))
            for row, score in zip(np.flatnonzero(good_N), scores_NK.tolist(), strict=True):
                scores[row] = score
        return pa.table(
            {
                ROW_ID_COLUMN: pc.cast(rows.column(ROW_ID_COLUMN), pa.string()),
                "scores": pa.array(scores, pa.list_(pa.float64())),
                "error": pa.array(errors, pa.string()),
                _HASH: pa.array(list(_hashes(rows)), pa.binary(_DIGEST_BYTES)),
            }
        )


def _hashes(rows: pa.Table) -> Iterator[bytes]:
    names = sorted(rows.column_names)
    for row in rows.select(names).to_pylist():
        data = orjson.dumps(row, default=str)
        yield hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _digest(hashes: pa.ChunkedArray) -> str:
    """Of a set of rows: their order, which Ray Data does not promise, makes no difference."""
    return hashlib.sha256(b"".join(sorted(hashes.to_pylist()))).hexdigest()


def _output(rows: pa.Table, release_id: str, digest: str) -> pa.Table:
    given: dict[str, Any] = {
        ROW_ID_COLUMN: rows.column(ROW_ID_COLUMN),
        "release_id": pa.repeat(release_id, rows.num_rows),
        "input_digest": pa.repeat(digest, rows.num_rows),
        "scores": rows.column("scores"),
        "error": rows.column("error"),
    }
    return pa.table(given, schema=SCORE_SCHEMA)


def _commit(uri: str, rows: pa.Table, release_id: str, digest: str) -> None:
    app, reason = f"score/{release_id}/{digest}", ""
    for attempt in range(_ATTEMPTS):
        table = _open(uri)
        if table is not None and table.transaction_version(app) is not None:
            log.info("rows_scored_before", extra={"table": uri, "release_id": release_id})
            return
        try:
            if table is None:
                table = DeltaTable.create(uri, SCORE_SCHEMA, mode="error")
            fence = CommitProperties(app_transactions=[Transaction(app, 1)])
            write_deltalake(table, rows, mode="append", commit_properties=fence)
            return
        except DeltaError as error:
            # somebody committed, or made the table, in between: ask the table again
            log.info("commit_lost_a_race", extra={"table": uri, "attempt": attempt})
            reason = str(error).splitlines()[0]
    raise WorkspaceError(
        f"table {uri}: {_ATTEMPTS} commits failed ({reason})",
        "see whether another job writes the same table, then run this again",
    )


def _open(uri: str) -> DeltaTable | None:
    try:
        return DeltaTable(uri)
    except TableNotFoundError:
        return None
