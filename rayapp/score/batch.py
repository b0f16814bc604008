"""Batch scoring: the rows of a dataset through a bundle, into one commit of a Delta table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset

from rayapp.errors import DataError
from rayapp.families.bundle import SCHEMA_FILE, PackedBundle
from rayapp.families.inputs import typed_inputs
from rayapp.schemas.data import ROW_ID_COLUMN
from rayapp.schemas.model import BundleSchema
from rayapp.score.inputs import digest_of, hashes_of, need_inputs, row_faults
from rayapp.score.table import commit_scored, scored_by

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
    found = dataset.schema()
    names = need_inputs(schema, list(found.names) if found is not None else [])
    scored = dataset.select_columns(names).map_batches(
        _Score(PackedBundle.pack(bundle_folder)), batch_format="pyarrow", batch_size=None
    )
    blocks = list(scored.iter_batches(batch_size=None, batch_format="pyarrow"))
    rows = pa.concat_tables(blocks) if blocks else None
    if rows is None or not rows.num_rows:
        raise DataError("there are no rows to score", "check the split and the time window")
    digest = digest_of(rows.column(_HASH))
    output = _output(rows, release_id, digest)
    commit_scored(output_uri, output, scored_by(release_id, digest), before=0, after=1)
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
        errors = row_faults(typed)
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
                _HASH: hashes_of(rows),
            }
        )


def _output(rows: pa.Table, release_id: str, digest: str) -> pa.Table:
    given: dict[str, Any] = {
        ROW_ID_COLUMN: rows.column(ROW_ID_COLUMN),
        "release_id": pa.repeat(release_id, rows.num_rows),
        "input_digest": pa.repeat(digest, rows.num_rows),
        "scores": rows.column("scores"),
        "error": rows.column("error"),
    }
    return pa.table(given, schema=SCORE_SCHEMA)
