"""A few rows of plain Python values straight to a model's floats: what an endpoint does most.

    columns ─▶ check each value ─▶ features (scalars.py) ─▶ x_NF

families/inputs.py and encoding.py do the same with Arrow, for any number of rows, at tens of
microseconds a column and step, however few the rows. A RowEncoder gives what they give, or None:
for a value that they would refuse (they say why), and for one that it is not certain about. A
property test holds the two side by side.
"""

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

import numpy as np

from rayapp.families.base import Floats
from rayapp.schemas.data import Column, ColumnType
from rayapp.schemas.model import BundleSchema, EncodedFeature
from rayapp.serve.scalars import EPOCH, LARGEST_EXACT, MICROSECOND, UnsureError, compile_scalar
from rayapp.transforms import Expression

log = logging.getLogger("rayapp.serve.rows")

MAX_ROWS = 32
"""From about here on Arrow, which goes by columns, is the cheaper way."""
Read = Callable[[Any], Any]
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
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
        self._readers = [(c.name, _reader(c)) for c in schema.inputs]
        self._times = [c.name for c in schema.inputs if c.type == "timestamp"]
        types = {c.name: c.type for c in schema.inputs}
        self._features = [_feature(f, types) for f in schema.features]

    def encode(self, columns: Mapping[str, Sequence[Any]], num_rows: int) -> EncodedRows | None:
        """columns: one value per row for every input. None: let Arrow decide."""
        if num_rows > MAX_ROWS:
            return None
        try:
            rows = [self._checked(columns, row) for row in range(num_rows)]
            x_NF = np.array(
                [[feature(row) for feature in self._features] for row in rows], np.float32
            )
        except (UnsureError, LookupError, ArithmeticError):
            return None
        return EncodedRows(x_NF, [self._logged(row) for row in rows])

    def _checked(self, columns: Mapping[str, Sequence[Any]], row: int) -> dict[str, Any]:
        return {name: read(columns[name][row]) for name, read in self._readers}

    def _logged(self, row: dict[str, Any]) -> dict[str, Any]:
        for name in self._times:
            us = row[name]
            row[name] = None if us is None else EPOCH + us * MICROSECOND
        return row


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


def _feature(feature: EncodedFeature, types: Mapping[str, Any]) -> Callable[[Any], float]:
    if feature.expression in types:
        compute: Callable[[Any], Any] = itemgetter(feature.expression)
    else:
        compute = compile_scalar(Expression.parse(feature.expression), types)
    if feature.kind == "category":
        return _category(compute, feature.vocabulary)
    return _float_of(compute)


def _category(compute: Callable[[Any], Any], vocabulary: Sequence[str]) -> Callable[[Any], float]:
    places = {value: float(place) for place, value in enumerate(vocabulary)}
    unknown = float(len(vocabulary))

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
        if abs(value) <= _LARGEST_FLOAT32:
            return value
        if math.isfinite(value):
            raise UnsureError(value)
        return math.nan  # what is not finite is missing

    return number
