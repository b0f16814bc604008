"""A few rows of plain Python values straight to a model's floats: what an endpoint does most.

    record ─▶ check each value ─▶ features (scalars.py) ─▶ x_NF

families/inputs.py and encoding.py do the same with Arrow, for any number of rows, at tens of
microseconds a column and step, however few the rows. A RowEncoder gives what they give, or None:
for a value that they would refuse (they say why), and for one that it is not certain about. A
property test holds the two side by side.

For each bundle one function is written and compiled, as dataclasses do: a test of type and range
for each column, in line, and only where that fails a call of the column's reader, which knows every
case. A call for each column would cost five times as much. Nothing that a schema says becomes part
of the source; names and limits are passed in.
"""

import logging
import math
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from rayapp.families.base import Floats
from rayapp.families.encoding import LARGEST_FLOAT32
from rayapp.schemas.data import Column, ColumnType
from rayapp.schemas.model import BundleSchema, EncodedFeature
from rayapp.schemas.traffic import UNIT_ID
from rayapp.serve.wire.scalars import EPOCH, LARGEST_EXACT, MICROSECOND, UnsureError, compile_scalar
from rayapp.transforms import Expression

log = logging.getLogger("rayapp.serve.wire.rows")

MAX_ROWS = 32
"""From about here on Arrow, which goes by columns, is the cheaper way."""
Read = Callable[[Any], Any]
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d(:?\d\d)?)", re.ASCII
)


@dataclass(frozen=True)
class EncodedRows:
    """x_NF: the model's input. inputs: the checked values of each row, by column."""

    x_NF: Floats
    inputs: list[dict[str, Any]]


class RowEncoder:
    """Of one bundle. Raises UnsureError when made for a schema that only Arrow can encode."""

    def __init__(self, schema: BundleSchema) -> None:
        self.names = frozenset(column.name for column in schema.inputs)
        self._in_order = [column.name for column in schema.inputs]
        self._has_unit_id = UNIT_ID in self.names
        self._encode_row = _compiled(schema)

    def encode(self, columns: Mapping[str, Sequence[Any]], num_rows: int) -> EncodedRows | None:
        """columns: one value per row for every input. None: let Arrow decide."""
        if num_rows > MAX_ROWS or not columns.keys() >= self.names:
            return None
        names = self._in_order
        each = zip(*(columns[name] for name in names), strict=True)
        return self._encoded([dict(zip(names, values, strict=True)) for values in each])

    def encode_records(
        self, records: Sequence[Mapping[str, Any]], ignores_unknown: bool
    ) -> EncodedRows | None:
        """One mapping a row, with every input and perhaps the row's key. None: let Arrow decide,
        also where there is something else and ignores_unknown is False."""
        if len(records) > MAX_ROWS:
            return None
        if not ignores_unknown:
            for record in records:
                has_key = UNIT_ID in record and not self._has_unit_id
                if len(record) != len(self._in_order) + has_key:
                    return None
        return self._encoded(records)

    def _encoded(self, records: Sequence[Mapping[str, Any]]) -> EncodedRows | None:
        try:
            pairs = [self._encode_row(record) for record in records]
            flat = array("f", pairs[0][0] if len(pairs) == 1 else chain(*[p[0] for p in pairs]))
        except (UnsureError, LookupError, ArithmeticError):
            return None
        x_NF = np.frombuffer(flat, np.float32).reshape(len(pairs), -1)
        return EncodedRows(x_NF, [row for _, row in pairs])


def row_encoder(schema: BundleSchema) -> RowEncoder | None:
    """None where only Arrow can encode this schema."""
    try:
        return RowEncoder(schema)
    except UnsureError as error:
        log.info("no_row_encoder", extra={"bundle": schema.name, "because": str(error)})
        return None


def _reader(column: Column) -> Read:
    """A function that gives a value as the column's type has it, or raises UnsureError."""
    read = _READS[column.type]
    if column.allowed is not None:
        if column.type not in ("string", "integer"):
            raise UnsureError(column.name)
        read = _among(read, frozenset(column.allowed))
    if column.type in ("integer", "number"):
        low = -math.inf if column.minimum is None else column.minimum
        high = math.inf if column.maximum is None else column.maximum
        read = _between(read, low, high)
    return _present(read, column.nullable)


def _present(read: Read, nullable: bool) -> Read:
    def present(value: Any) -> Any:
        found = None if value is None else read(value)
        if found is None and not nullable:
            raise UnsureError(value)
        return found

    return present


def _among(read: Read, allowed: frozenset[str]) -> Read:
    def among(value: Any) -> Any:
        found = read(value)
        if found is not None and str(found) not in allowed:
            raise UnsureError(value)
        return found

    return among


def _between(read: Read, low: float, high: float) -> Read:
    def between(value: Any) -> Any:
        found = read(value)
        if found is not None and not low <= found <= high:
            raise UnsureError(value)
        return found

    return between


def _text(value: Any) -> str:
    if type(value) is not str:
        raise UnsureError(value)
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UnsureError(value)  # half a character is no text
    return value


def _whole(value: Any) -> int | None:
    if type(value) is float and (value.is_integer() or math.isnan(value)):
        value = None if math.isnan(value) else int(value)
    if value is None or (type(value) is int and -LARGEST_EXACT <= value <= LARGEST_EXACT):
        return value
    raise UnsureError(value)


def _number(value: Any) -> float | None:
    if type(value) is int and -LARGEST_EXACT <= value <= LARGEST_EXACT:
        return float(value)
    if type(value) is not float or math.isinf(value):
        raise UnsureError(value)
    return None if math.isnan(value) else value


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise UnsureError(value)
    return value


def _time(value: Any) -> int:
    if type(value) is not str or _TIME.fullmatch(value) is None:
        raise UnsureError(value)
    try:
        return (datetime.fromisoformat(value) - EPOCH) // MICROSECOND
    except (ValueError, OverflowError):
        raise UnsureError(value) from None


_READS: dict[ColumnType, Read] = {
    "string": _text,
    "integer": _whole,
    "number": _number,
    "boolean": _truth,
    "timestamp": _time,
}


EncodeRow = Callable[[Mapping[str, Any]], tuple[list[float], dict[str, Any]]]


def _compiled(schema: BundleSchema) -> EncodeRow:
    """A function from a record to its features and its checked values. It raises LookupError for a
    missing column, and UnsureError or ArithmeticError where only Arrow is certain."""
    known: dict[str, Any] = {"nan": math.nan, "EPOCH": EPOCH, "MICROSECOND": MICROSECOND}
    lines = ["def encode_row(record):"]
    for i, column in enumerate(schema.inputs):
        known |= {f"name{i}": column.name, f"read{i}": _reader(column)}
        lines.append(f" v{i} = record[name{i}]")
        unsure, limits = _quick_test(column, i)
        known |= limits
        lines.append(f" if {unsure}: v{i} = read{i}(v{i})")
    pairs = ", ".join(f"name{i}: v{i}" for i in range(len(schema.inputs)))
    lines.append(f" row = {{{pairs}}}")
    places = {column.name: i for i, column in enumerate(schema.inputs)}
    types = {column.name: column.type for column in schema.inputs}
    values = []
    for j, feature in enumerate(schema.features):
        value, needs = _feature_value(feature, j, places, types)
        values.append(value)
        known |= needs
    lines.append(f" features = [{', '.join(values)}]")
    for i, column in enumerate(schema.inputs):
        if column.type == "timestamp":
            lines.append(f" if v{i} is not None: row[name{i}] = EPOCH + v{i} * MICROSECOND")
    lines.append(" return features, row")
    exec(compile("\n".join(lines), "<row encoder>", "exec"), known)  # noqa: S102 - text of ours only
    encode_row: EncodeRow = known["encode_row"]
    return encode_row


def _quick_test(column: Column, i: int) -> tuple[str, dict[str, Any]]:
    """Source that is false where v{i} is certainly in order as it is, and what it speaks of."""
    limits = {
        f"low{i}": -LARGEST_FLOAT32 if column.minimum is None else column.minimum,
        f"high{i}": LARGEST_FLOAT32 if column.maximum is None else column.maximum,
    }
    if column.type == "number":
        return f"type(v{i}) is not float or not low{i} <= v{i} <= high{i}", limits
    if column.type == "string" and column.allowed is not None:
        among = {f"allowed{i}": frozenset(column.allowed)}
        return f"type(v{i}) is not str or v{i} not in allowed{i}", among
    if column.type == "string":
        return f"type(v{i}) is not str or not v{i}.isascii()", {}
    if column.type == "boolean":
        return f"v{i} is not True and v{i} is not False", {}
    if column.type == "integer" and column.allowed is None:
        limits = {
            f"low{i}": max(-LARGEST_EXACT, limits[f"low{i}"]),
            f"high{i}": min(LARGEST_EXACT, limits[f"high{i}"]),
        }
        return f"type(v{i}) is not int or not low{i} <= v{i} <= high{i}", limits
    return "True", {}


def _feature_value(
    feature: EncodedFeature, j: int, places: Mapping[str, int], types: Mapping[str, ColumnType]
) -> tuple[str, dict[str, Any]]:
    """Source of the feature's float, and what it speaks of."""
    i = places.get(feature.expression)
    if i is None or (feature.kind == "category" and types[feature.expression] != "string"):
        return f"feature{j}(row)", {f"feature{j}": _feature(feature, types)}
    if feature.kind == "category":
        vocabulary, unknown = _places(feature.vocabulary)
        needs = {f"place{j}": vocabulary.get, f"unknown{j}": unknown}
        return f"nan if v{i} is None else place{j}(v{i}, unknown{j})", needs
    if types[feature.expression] in ("number", "integer", "boolean"):
        return f"nan if v{i} is None else v{i}", {}
    return f"feature{j}(row)", {f"feature{j}": _feature(feature, types)}


def _feature(feature: EncodedFeature, types: Mapping[str, Any]) -> Callable[[Any], float]:
    if feature.expression in types:
        compute: Callable[[Any], Any] = itemgetter(feature.expression)
    else:
        compute = compile_scalar(Expression.parse(feature.expression), types)
    if feature.kind == "category":
        return _category(compute, feature.vocabulary)
    return _float_of(compute)


def _places(vocabulary: Sequence[str]) -> tuple[dict[str, float], float]:
    """Each known value's code, and that of every other."""
    known = {value: float(place) for place, value in enumerate(vocabulary)}
    return known, float(len(vocabulary))


def _category(compute: Callable[[Any], Any], vocabulary: Sequence[str]) -> Callable[[Any], float]:
    places, unknown = _places(vocabulary)

    def category(row: Any) -> float:
        value = compute(row)
        if value is None:
            return math.nan
        if type(value) is not str:
            raise UnsureError(value)
        return places.get(value, unknown)

    return category


def _float_of(compute: Callable[[Any], Any]) -> Callable[[Any], float]:
    def number(row: Any) -> float:
        value = compute(row)
        if value is None:
            return math.nan
        if type(value) is not float:
            if type(value) is str or abs(value) > LARGEST_EXACT:
                raise UnsureError(value)
            return float(value)
        if abs(value) <= LARGEST_FLOAT32:
            return value
        if math.isfinite(value):
            raise UnsureError(value)
        return math.nan  # what is not finite is missing

    return number
