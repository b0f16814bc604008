"""What comes in to be scored: which columns, what is wrong with a row, and its digest."""

import hashlib
from collections.abc import Iterator, Sequence

import orjson
import pyarrow as pa

from rayapp.errors import DataError
from rayapp.families.inputs import TypedInputs
from rayapp.schemas.data import ROW_ID_COLUMN
from rayapp.schemas.model import BundleSchema

_DIGEST_BYTES = 16


def need_inputs(schema: BundleSchema, have: Sequence[str]) -> list[str]:
    """Of the columns that there are, the row id and the bundle's inputs. Raises DataError where one
    of them is not there, and may not be null."""
    needed = {ROW_ID_COLUMN, *(c.name for c in schema.inputs if not c.nullable)}
    if not needed <= set(have):
        raise DataError(
            f"scoring by {schema.name}: no column {min(needed - set(have))!r}, "
            f"columns are {list(have)}",
            "score a snapshot whose view has the bundle's inputs",
        )
    wanted = [ROW_ID_COLUMN, *(column.name for column in schema.inputs)]
    return [name for name in wanted if name in have]


def row_faults(typed: TypedInputs) -> list[str | None]:
    """Of each row, what breaks the contract of its inputs first; None where nothing does."""
    errors: list[str | None] = [None] * typed.table.num_rows
    for fault in reversed(typed.faults):  # the first fault of a row is the one that stays
        assert fault.row is not None  # need_inputs has refused a missing column
        errors[fault.row] = f"{fault.column}: {fault.kind}, {fault.value} is not {fault.limit}"
    return errors


def hashes_of(rows: pa.Table) -> pa.Array:
    return pa.array(list(_hashes(rows)), pa.binary(_DIGEST_BYTES))


def _hashes(rows: pa.Table) -> Iterator[bytes]:
    names = sorted(rows.column_names)
    for row in rows.select(names).to_pylist():
        data = orjson.dumps(row, default=str)
        yield hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def digest_of(hashes: pa.Array | pa.ChunkedArray) -> str:
    """Of a set of rows: their order, which Ray Data does not promise, makes no difference."""
    return hashlib.sha256(b"".join(sorted(hashes.to_pylist()))).hexdigest()
