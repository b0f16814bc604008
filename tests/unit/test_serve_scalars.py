"""One row in plain Python against Arrow: the same value, or none at all."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayapp.schemas.data import ColumnType
from rayapp.serve.wire.scalars import UnsureError, compile_scalar
from rayapp.transforms import FUNCTIONS, Expression, arrow_type

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TYPES: dict[str, ColumnType] = {
    "i": "integer",
    "j": "integer",
    "x": "number",
    "y": "number",
    "s": "string",
    "t": "string",
    "b": "boolean",
    "at": "timestamp",
    "to": "timestamp",
}
EXPRESSIONS = [
    "i",
    "i + j * 2 - 3",
    "-i / j",
    "x + i",
    "x * y - 0.5",
    "x / y",
    "-x",
    "i < j",
    "i <= x",
    "x == y",
    "i != j and x > 0",
    "1 < i < 5 or b",
    "not b",
    "not (b and x > 1)",
    "s == t",
    "s < t",
    "s != 'a'",
    "b == true",
    "at < to",
    "at - hours(2) < to",
    "number(to - at)",
    "number(hours(x))",
    "number(hours(2) + minutes(i))",
    "at + days(1) > to + seconds(x)",
    "hour(at, 'America/New_York')",
    "minute_of_hour(at, 'Asia/Kolkata')",
    "day_of_week(at + minutes(i), 'Australia/Lord_Howe')",
    "day_of_year(at, 'UTC')",
    "month(at - hours(1), 'Europe/Berlin')",
    "year(at, 'Pacific/Kiritimati')",
    "is_null(x)",
    "is_null(i + j)",
    "is_in(s, 'a', 'b')",
    "is_in(i, 1, 2, 3)",
    "if_else(b, i, x)",
    "if_else(x > y, s, 'other')",
    "if_else(is_null(s), null, i)",
    "coalesce(x, y, 0)",
    "coalesce(i, j)",
    "coalesce(s, 'none')",
    "abs(i - j)",
    "abs(x)",
    "floor(x)",
    "floor(i / 2)",
    "log1p(x)",
    "clip(x, 0, 10)",
    "clip(i, -1.5, 1.5)",
    "concat(s, '-', t)",
    "concat(s, i)",
    "number(b)",
    "number(i)",
    "text(i)",
    "lower(s)",
    "length(s)",
]
TIMES = st.integers(86_400, 2_111_000_000).map(lambda s: EPOCH + timedelta(seconds=s))
WHOLE = st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.floats(-4, 4) | st.floats(allow_nan=False)
TEXTS = st.sampled_from(["", "a", "b", "A", "é", "日本"]) | st.text(max_size=3)
VALUES: dict[ColumnType, st.SearchStrategy[Any]] = {
    "integer": WHOLE,
    "number": NUMBERS,
    "string": TEXTS,
    "boolean": st.booleans(),
    "timestamp": TIMES,
}
ROWS = st.fixed_dictionaries({n: st.none() | VALUES[kind] for n, kind in TYPES.items()})


def table_of(row: dict[str, Any]) -> pa.Table:
    return pa.table({n: pa.array([row[n]], arrow_type(kind)) for n, kind in TYPES.items()})


def by_arrow(text: str, table: pa.Table) -> Any:
    return _us(Expression.parse(text).evaluate(table)[0].as_py())


def by_scalars(text: str, row: dict[str, Any]) -> Any:
    return compile_scalar(Expression.parse(text), TYPES)({n: _us(v) for n, v in row.items()})


def _us(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value - EPOCH) // timedelta(microseconds=1)
    return value


COMPILED = {text: compile_scalar(Expression.parse(text), TYPES) for text in EXPRESSIONS}


@settings(max_examples=40)
@given(row=ROWS)
def test_the_value_is_arrows_or_none_is_given(row: dict[str, Any]) -> None:
    table = table_of(row)
    plain = {name: _us(value) for name, value in row.items()}
    for text, compute in COMPILED.items():
        try:
            found = compute(plain)
        except UnsureError:
            continue
        expected = by_arrow(text, table)
        assert type(found) is type(expected), (text, found, expected)
        is_nan = found != found and expected != expected
        assert is_nan or found == expected, (text, found, expected)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_an_ordinary_row_needs_no_arrow(text: str) -> None:
    at = datetime(2013, 3, 10, 6, 59, tzinfo=UTC)
    row = {"i": 2, "j": 3, "x": 1.5, "y": 0.5, "s": "ab", "t": "c", "b": True}
    row |= {"at": at, "to": at + timedelta(hours=3)}
    nothing = dict.fromkeys(TYPES)
    for given_row in (row, nothing):
        assert by_scalars(text, given_row) == by_arrow(text, table_of(given_row))


def test_every_function_is_tried() -> None:
    tried = " ".join(EXPRESSIONS)
    assert [name for name in FUNCTIONS if f"{name}(" not in tried] == []


@pytest.mark.parametrize("text", ["text(x)", "number(s)", "i == s", "text(b)", "missing + 1"])
def test_what_only_arrow_knows_is_not_compiled(text: str) -> None:
    with pytest.raises(UnsureError):
        compile_scalar(Expression.parse(text), TYPES)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("i / j", {"i": 1, "j": 0}),
        ("i + j", {"i": 2**62, "j": 1}),
        ("lower(s)", {"s": "É"}),
        ("log1p(x)", {"x": -2.0}),
        ("floor(x)", {"x": float("inf")}),
        ("hour(at, 'UTC')", {"at": datetime(2100, 1, 1, tzinfo=UTC)}),
    ],
)
def test_a_value_that_is_not_certain_is_left_to_arrow(text: str, row: dict[str, Any]) -> None:
    with pytest.raises(UnsureError):
        by_scalars(text, dict.fromkeys(TYPES) | row)
