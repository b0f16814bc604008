"""The one check of raw rows against a bundle's inputs: in the endpoint and in batch scoring.

    one request   to_arrow ─▶ first_problem      the first value that is wrong refuses it all
    many rows     typed_inputs                   every value that is wrong, by row

Types never change silently: 5.0 is an integer, 1.7 is not; "5" is not a number; true is not 1. NaN
means missing, because neither pandas nor a binary tensor has another way to say it; infinity is
refused.
"""

import json
import math
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import NoneType
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from rayapp.errors import DataError
from rayapp.schemas.data import Column, ColumnType
from rayapp.transforms import arrow_type

Kind = Literal["missing_column", "wrong_type", "missing_value", "not_finite", "range", "category"]
"""What is wrong, in the words that an endpoint's answer has too."""
Values: TypeAlias = Sequence[Any] | pa.Array

_PYTHON_TYPES: dict[ColumnType, frozenset[type]] = {
    "string": frozenset({str}),
    "integer": frozenset({int, float}),
    "number": frozenset({int, float}),
    "boolean": frozenset({bool}),
    "timestamp": frozenset({str, datetime}),
}
_WANTED: dict[ColumnType, str] = {
    "string": "a text",
    "integer": "a whole number (of 64 bits)",
    "number": "a number",
    "boolean": "true or false",
    "timestamp": "an ISO 8601 time with a zone, for example 2013-10-01T12:00:00Z",
}
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""datetime.min and datetime.max, in microseconds since 1970 in UTC."""
_MAX_SHOWN = 8
_ARROW_ERRORS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError)
_REFUSALS = (*_ARROW_ERRORS, OverflowError, UnicodeError, ValueError, TypeError)


@dataclass(frozen=True)
class InputProblem:
    """One value that breaks the schema. row counts from 0. what and next_step read as errors do."""

    kind: Kind
    column: str
    row: int
    what: str
    next_step: str


def to_arrow(values: Values, column: Column) -> pa.Array | InputProblem:
    """The values as the column's Arrow type, or the first one that is of another type."""
    typed = _typed(values, column.type)
    return _first_of_wrong_type(values, column) if typed is None else typed


def first_problem(values: pa.Array, column: Column) -> InputProblem | None:
    """The first row that the column's own rules refuse; typed values as `to_arrow` gives them."""
    for kind, bad, wanted in _broken(values, column):
        row = pc.index(bad, True).as_py()
        found = values[row].as_py()
        return InputProblem(
            kind,
            column.name,
            row,
            f"{column.name!r} in row {row} is {shown(found)}, must be {wanted}",
            f"send {wanted} for {column.name!r}",
        )
    return None


@dataclass(frozen=True)
class InputFault:
    """One value that breaks its column's contract. row: its index, or None for a whole column.

    value is what was found and limit what the contract wants, both as text for a person.
    """

    row: int | None
    column: str
    kind: Kind
    value: str
    limit: str


@dataclass(frozen=True)
class TypedInputs:
    """table: exactly the schema's columns, as many rows as came in; null where a value has the
    wrong type. faults: all of them, by row and then in the order of the columns."""

    table: pa.Table
    faults: tuple[InputFault, ...]


def typed_inputs(table: pa.Table, columns: Sequence[Column]) -> TypedInputs:
    """Check and convert raw rows; columns of `table` that are not in `columns` are ignored.

    A column that is not there at all is one fault, or nulls where it may be null. Raises DataError
    for a column that comes twice.
    """
    arrays: list[pa.Array] = []
    faults: list[InputFault] = []
    for column in columns:
        found = table.schema.get_all_field_indices(column.name)
        if len(found) > 1:
            raise DataError(
                f"column {column.name!r} comes {len(found)} times",
                "send every column once",
            )
        if found:
            array, wrong = _checked(_flat(table.column(found[0])), column)
            faults.extend(wrong)
        else:
            array = pa.nulls(table.num_rows, arrow_type(column.type))
            if not column.nullable:
                faults.append(
                    InputFault(None, column.name, "missing_column", "", _WANTED[column.type])
                )
        arrays.append(array)
    place = {column.name: i for i, column in enumerate(columns)}
    faults.sort(key=lambda f: (-1 if f.row is None else f.row, place[f.column]))
    return TypedInputs(pa.table(arrays, names=[c.name for c in columns]), tuple(faults))


def _checked(raw: pa.Array, column: Column) -> tuple[pa.Array, list[InputFault]]:
    wanted = arrow_type(column.type)
    lost: list[int] = []
    typed = to_arrow(raw, column)
    if isinstance(typed, InputProblem):
        # one bad value refuses the whole column: keep the others, on the way to the messages
        ones = [to_arrow(raw.slice(row, 1), column) for row in range(typed.row, len(raw))]
        lost = [typed.row + i for i, one in enumerate(ones) if isinstance(one, InputProblem)]
        kept = [pa.nulls(1, wanted) if isinstance(one, InputProblem) else one for one in ones]
        good = to_arrow(raw.slice(0, typed.row), column) if typed.row else pa.array([], wanted)
        typed = pa.concat_arrays([good, *kept])
    faults = [_fault(raw, row, column, "wrong_type", _WANTED[column.type]) for row in lost]
    for kind, bad, limit in _broken(typed, column):
        rows = set(pc.indices_nonzero(bad).to_pylist()) - set(lost)
        faults += [_fault(raw, row, column, kind, limit) for row in sorted(rows)]
    return typed, faults


def _fault(raw: pa.Array, row: int, column: Column, kind: Kind, limit: str) -> InputFault:
    return InputFault(row, column.name, kind, shown(raw[row].as_py()), limit)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _broken(values: pa.Array, column: Column) -> Iterator[tuple[Kind, pa.Array, str]]:
    """Each rule that at least one row breaks: its kind, those rows, and what is wanted."""
    if values.null_count and not column.nullable:
        yield "missing_value", values.is_null(), _WANTED[column.type]
    if column.type in ("number", "integer"):
        yield from _out_of_range(values, column)
    if column.allowed is not None:
        texts = values if pa.types.is_string(values.type) else pc.cast(values, pa.string())
        known = pc.is_in(texts, value_set=pa.array(column.allowed, pa.string()))
        bad = pc.and_(pc.is_valid(values), pc.invert(known))
        if pc.any(bad, min_count=0).as_py():
            more = len(column.allowed) - _MAX_SHOWN
            names = ", ".join(column.allowed[:_MAX_SHOWN]) + (
                f" … ({more} more)" if more > 0 else ""
            )
            yield "category", bad, f"one of {names}"


def _out_of_range(values: pa.Array, column: Column) -> Iterator[tuple[Kind, pa.Array, str]]:
    ends = pc.min_max(values).as_py()  # one look tells whether any row needs a closer one
    low, high = ends["min"], ends["max"]
    if low is None:
        return
    if low == float("-inf") or high == float("inf"):
        yield "not_finite", pc.fill_null(pc.is_inf(values), False), "a finite number"
    minimum, maximum = column.minimum, column.maximum
    if minimum is not None and low < minimum:
        yield (
            "range",
            pc.fill_null(pc.less(_as_floats(values), minimum), False),
            f"at least {minimum:g}",
        )
    if maximum is not None and high > maximum:
        yield (
            "range",
            pc.fill_null(pc.greater(_as_floats(values), maximum), False),
            f"at most {maximum:g}",
        )


def _as_floats(values: pa.Array) -> pa.Array:
    """Arrow itself compares no integer beyond 2**53 with a float."""
    return pc.cast(values, pa.float64(), safe=False)


def _typed(values: Values, kind: ColumnType) -> pa.Array | None:
    """None where one of them is of another type; which one, Arrow's own message does not say."""
    try:
        if isinstance(values, pa.Array):
            return _from_arrow(values, kind)
        if set(map(type, values)) - {NoneType} <= _PYTHON_TYPES[kind]:
            return _from_python(values, kind)
    except _REFUSALS:
        return None
    return None


def _from_python(values: Sequence[Any], kind: ColumnType) -> pa.Array:
    if kind == "integer":
        values = [_whole(v) if type(v) is float else v for v in values]
    if kind == "timestamp":
        texts = [v.isoformat() if isinstance(v, datetime) else v for v in values]
        return _in_calendar(pc.cast(pa.array(texts, pa.string()), arrow_type(kind)))
    return pa.array(values, arrow_type(kind), from_pandas=True)  # NaN becomes null


def _whole(value: float) -> int | None:
    """Raises ValueError for 1.7, which pa.array would cut to 1."""
    if math.isnan(value):
        return None
    if not value.is_integer():
        raise ValueError(value)
    return int(value)


def _from_arrow(values: pa.Array, kind: ColumnType) -> pa.Array:
    """Casts that lose nothing. Raises an Arrow error for any other."""
    if not _CAN_BECOME[kind](values.type) and not pa.types.is_null(values.type):
        raise pa.ArrowTypeError(f"{values.type} is not {_WANTED[kind]}")
    if pa.types.is_floating(values.type):
        if pa.types.is_float16(values.type):
            values = pc.cast(values, pa.float32())
        nan = pc.fill_null(pc.is_nan(values), False)
        if pc.any(nan, min_count=0).as_py():
            values = pc.if_else(nan, pa.scalar(None, values.type), values)
    if kind == "timestamp" and pa.types.is_timestamp(values.type) and values.type.tz is None:
        raise pa.ArrowTypeError("a time without a zone")
    cast = pc.cast(values, arrow_type(kind))
    return _in_calendar(cast) if kind == "timestamp" else cast


def _in_calendar(times: pa.Array) -> pa.Array:
    """Raises ValueError for a time outside the years 1 to 9999, which only Arrow can hold."""
    us = pc.cast(times, pa.int64())
    bounds = pc.min_max(us)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    if low is not None and not _FIRST_US <= low <= high <= _LAST_US:
        raise ValueError(times)
    return times


def _is_numeric(arrow: pa.DataType) -> bool:
    return bool(pa.types.is_integer(arrow) or pa.types.is_floating(arrow))


def _is_text(arrow: pa.DataType) -> bool:
    return bool(pa.types.is_string(arrow) or pa.types.is_large_string(arrow))


_CAN_BECOME: dict[ColumnType, Callable[[pa.DataType], bool]] = {
    "string": _is_text,
    "integer": _is_numeric,
    "number": _is_numeric,
    "boolean": pa.types.is_boolean,
    "timestamp": lambda arrow: pa.types.is_timestamp(arrow) or _is_text(arrow),
}


def _first_of_wrong_type(values: Values, column: Column) -> InputProblem:
    """Called when the whole column was refused; looks at one value after the other."""
    wanted = _WANTED[column.type]
    for row, value in enumerate(values):
        one = values.slice(row, 1) if isinstance(values, pa.Array) else [value]
        if _typed(one, column.type) is None:
            found = shown(value.as_py() if isinstance(value, pa.Scalar) else value)
            return InputProblem(
                "wrong_type",
                column.name,
                row,
                f"{column.name!r} in row {row} is {found}, must be {wanted}",
                f"send {wanted} for {column.name!r}",
            )
    return InputProblem(
        "wrong_type",
        column.name,
        0,
        f"{column.name!r} holds values of types that do not go together",
        f"send {wanted} in every row of {column.name!r}",
    )


class _AsJson(reprlib.Repr):
    """JSON's spelling, but for a text that stands alone, which is quoted as messages quote."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = self.maxother = 200

    def repr_str(self, x: str, level: int) -> str:
        text = x[: self.maxstring]
        if level == self.maxlevel:
            return repr(text)
        return json.dumps(text, ensure_ascii=not text.isprintable())

    def repr_bool(self, x: bool, level: int) -> str:
        return json.dumps(x)

    def repr_float(self, x: float, level: int) -> str:
        return json.dumps(x)

    def repr_NoneType(self, x: None, level: int) -> str:
        return "null"

    def repr_datetime(self, x: datetime, level: int) -> str:
        return repr(x.isoformat())


_AS_JSON = _AsJson()


def shown(value: Any) -> str:
    """What somebody sent, for a message: its first 60 characters. No more is looked at than that
    needs, however long the value is and however deep it goes."""
    text = _AS_JSON.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
