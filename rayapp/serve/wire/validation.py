"""A request's columns against the bundle's schema: typed rows, or the field at fault. Pure."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from rayapp.errors import RequestError
from rayapp.families.base import Floats
from rayapp.families.inputs import InputProblem, Values, first_problem, shown, to_arrow
from rayapp.schemas.data import Column, ColumnType
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.traffic import UNIT_ID
from rayapp.serve.follow import Encoder
from rayapp.serve.wire.protocols import Parsed, bad_request, is_key, key_text, plain_values
from rayapp.serve.wire.rows import MAX_ROWS, EncodedRows, RowEncoder

_TAKES: dict[ColumnType, tuple[str, ...]] = {
    "string": ("BYTES",),
    "timestamp": ("BYTES",),
    "boolean": ("BOOL",),
    "integer": ("INT", "UINT", "FP"),
    "number": ("INT", "UINT", "FP"),
}


@dataclass(frozen=True)
class Rows:
    """Rows that may be predicted. x_NF: the model's input. inputs: each row's checked values, in
    the order of the bundle's columns."""

    x_NF: Floats
    inputs: Sequence[Mapping[str, Any]]
    unit_ids: tuple[str | None, ...]


def validated(
    parsed: Parsed,
    bundle: Encoder,
    encoder: RowEncoder | None,
    ignores_unknown: bool = False,
) -> Rows:
    """encoder: the quick way for a few rows, if the bundle has one. ignores_unknown: a column that
    the schema does not have is passed over.

    Raises RequestError 422 that names the first field that breaks the schema.
    """
    schema = bundle.schema
    quick = None if encoder is None else _quickly(parsed, schema, encoder, ignores_unknown)
    if quick is not None:
        return Rows(quick.x_NF, quick.inputs, _unit_ids(parsed, schema))
    if not ignores_unknown:
        _refuse_unknown(parsed.names(), schema)
    unit_ids = _unit_ids(parsed, schema)
    table = _table(parsed, schema)
    return Rows(bundle.encode(table), table.to_pylist(), unit_ids)


def with_nulls(parsed: Parsed, schema: BundleSchema) -> Parsed:
    """The rows with null in each column that they lack and that may be null."""
    optional = [column.name for column in schema.inputs if column.nullable]
    records = parsed.records
    if records is not None:
        nulls = dict.fromkeys(optional)
        return replace(parsed, given=[nulls | dict(record) for record in records])
    missing = [name for name in optional if name not in parsed.columns]
    nulls_N = {name: [None] * parsed.num_rows for name in missing}
    kinds = {c.name: _TAKES[c.type][-1] for c in schema.inputs if c.name in nulls_N}
    datatypes = {**parsed.datatypes, **kinds} if parsed.datatypes else parsed.datatypes
    return replace(parsed, given={**parsed.columns, **nulls_N}, datatypes=datatypes)


def _quickly(
    parsed: Parsed, schema: BundleSchema, encoder: RowEncoder, ignores_unknown: bool
) -> EncodedRows | None:
    """A few rows in plain Python. None: the Arrow way decides, and says what is wrong."""
    if parsed.num_rows > MAX_ROWS:
        return None
    given = parsed.given
    if not isinstance(given, Mapping):
        return encoder.encode_records(given, ignores_unknown)
    datatypes = parsed.datatypes
    for column in schema.inputs if datatypes else ():
        if not datatypes.get(column.name, "").startswith(_TAKES[column.type]):
            return None
    columns = {name: plain_values(values) for name, values in given.items()}
    if not ignores_unknown and columns.keys() - encoder.names - {UNIT_ID}:
        return None
    return encoder.encode(columns, parsed.num_rows)


def _table(parsed: Parsed, schema: BundleSchema) -> pa.Table:
    arrays = []
    for column in schema.inputs:
        values = parsed.column(column.name)
        if values is None:
            raise _violation(
                "missing_column",
                f"column {column.name!r} is missing",
                f"send {column.name!r}"
                + (", null where it is not known" if column.nullable else ""),
                column.name,
            )
        arrays.append(typed_column(values, parsed.datatypes.get(column.name), column))
    return pa.Table.from_arrays(arrays, names=[c.name for c in schema.inputs])


def typed_column(given: Values, datatype: str | None, column: Column) -> pa.Array:
    """datatype: what its tensor says, where that counts. Raises RequestError 422."""
    if datatype is not None and not datatype.startswith(_TAKES[column.type]):
        wanted = " or ".join(_TAKES[column.type])
        raise _violation(
            "wrong_type",
            f"{column.name!r} has datatype {datatype}, must be of kind {wanted}",
            f"{column.name!r} is a {column.type}: see GET /v2/models/NAME of this endpoint",
            column.name,
        )
    values = to_arrow(given, column)
    problem = values if isinstance(values, InputProblem) else first_problem(values, column)
    if problem is not None:
        raise _violation(problem.kind, problem.what, problem.next_step, column.name)
    return values


def _refuse_unknown(names: Iterable[str], schema: BundleSchema) -> None:
    known = [c.name for c in schema.inputs]
    for name in names:
        if name not in known and name != UNIT_ID:
            missing = set(known).difference(names)
            near = difflib.get_close_matches(name, [k for k in known if k in missing], n=1)
            raise _violation(
                "unknown_column",
                f"the model has no input {shown(name)}",
                f"did you mean {near[0]!r}?"
                if near
                else "leave it out; inputs are listed at GET /v2/models/NAME of this endpoint",
                name,
            )


def _unit_ids(parsed: Parsed, schema: BundleSchema) -> tuple[str | None, ...]:
    plain = parsed.plain(UNIT_ID)
    if plain is None or any(c.name == UNIT_ID for c in schema.inputs):
        return (None,) * parsed.num_rows
    for row, value in enumerate(plain):
        if not is_key(value):
            raise bad_request(
                f"{UNIT_ID!r} in row {row} is {shown(value)}, must be a text or a whole number "
                "(of 64 bits)",
                "send the row's business key, or null",
                UNIT_ID,
            )
    return tuple(key_text(value) for value in plain)


def _violation(kind: str, what: str, next_step: str, param: str) -> RequestError:
    return RequestError(what, next_step, 422, kind, param)
