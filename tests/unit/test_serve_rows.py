"""Rows in plain Python against the Arrow path: the same floats and the same record, or none."""

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayapp.families.encoding import encode
from rayapp.families.inputs import InputProblem, first_problem, to_arrow
from rayapp.schemas.data import Column
from rayapp.schemas.model import BundleSchema, EncodedFeature
from rayapp.serve.wire.rows import MAX_ROWS, RowEncoder
from rayapp.serve.wire.scalars import UnsureError

COLUMNS = (
    Column(name="code", type="string", allowed=("a", "b", "é")),
    Column(name="word", type="string", nullable=True),
    Column(name="count", type="integer", nullable=True, minimum=0, maximum=10),
    Column(name="level", type="integer", allowed=("1", "2"), nullable=True),
    Column(name="size", type="number", nullable=True, minimum=-5.5),
    Column(name="need", type="number"),
    Column(name="flag", type="boolean", nullable=True),
    Column(name="at", type="timestamp", nullable=True),
)
FEATURES = (
    EncodedFeature(name="code", expression="code", kind="category", vocabulary=("a", "b")),
    EncodedFeature(name="word", expression="word", kind="category", vocabulary=("x", "日本")),
    EncodedFeature(name="count", expression="count", kind="number"),
    EncodedFeature(name="level", expression="level", kind="number"),
    EncodedFeature(name="size", expression="size * 2", kind="number"),
    EncodedFeature(name="need", expression="need", kind="number"),
    EncodedFeature(name="flag", expression="flag", kind="number"),
    EncodedFeature(name="hour", expression="hour(at, 'America/New_York')", kind="number"),
    EncodedFeature(
        name="both", expression="concat(code, word)", kind="category", vocabulary=("ax",)
    ),
)
SCHEMA = BundleSchema(
    name="toy",
    family="tabular",
    task="binary",
    label="y",
    classes=("no", "yes"),
    inputs=COLUMNS,
    features=FEATURES,
)
GOOD: dict[str, Any] = {
    "code": "a",
    "word": "x",
    "count": 3,
    "level": 2,
    "size": 1.5,
    "need": 2,
    "flag": True,
    "at": "2013-03-10T06:59:00Z",
}
NUMBERS = [0, 1, -1, 3, 5.0, 1.7, -5.5, 2**53, 2**60, -(2**70), 1e300, 0.1, math.nan, math.inf]
TEXTS = ["", "a", "é", "1", "x", "日本", "\ud800"]
TIMES = [
    "2013-03-10T07:00:00Z",
    "2013-03-10 07:00:00+01:30",
    "2013-03-10T07:00",
    "2013-13-01T00Z",
    "2013-03-10T07:00:00.123456-0400",
    "2013-W10-1T00:00:00Z",
    "20130310T070000Z",
    "1000-01-01T00:00:00Z",
    "9999-12-31T23:59:59-12:00",
    "2013-03-10T24:00:00Z",
]
ODD = st.sampled_from([None, True, [1], {"a": 1}, *NUMBERS, *TEXTS, *TIMES])
CHANGES = st.dictionaries(st.sampled_from(sorted(GOOD)), ODD, max_size=3)


def by_arrow(columns: dict[str, list[Any]]) -> tuple[Any, list[dict[str, Any]]] | None:
    """x and records, or None where a value is refused."""
    arrays = {}
    for column in COLUMNS:
        values = to_arrow(columns[column.name], column)
        if isinstance(values, InputProblem) or first_problem(values, column) is not None:
            return None
        arrays[column.name] = values
    table = pa.table(arrays)
    return encode(FEATURES, table), table.to_pylist()


@settings(max_examples=150)
@given(changes=st.lists(CHANGES, min_size=1, max_size=3))
def test_what_is_given_is_what_arrow_gives(changes: list[dict[str, Any]]) -> None:
    rows = [GOOD | change for change in changes]
    columns = {name: [row[name] for row in rows] for name in GOOD}
    encoder = RowEncoder(SCHEMA)
    found = encoder.encode(columns, len(rows))
    same = encoder.encode_records(rows, ignores_unknown=False)
    assert (found is None) == (same is None)
    if found is None or same is None:
        return
    np.testing.assert_array_equal(found.x_NF, same.x_NF)
    assert found.inputs == same.inputs
    expected = by_arrow(columns)
    assert expected is not None, f"Arrow refuses {columns}"
    np.testing.assert_array_equal(found.x_NF, expected[0])
    assert found.x_NF.dtype == np.float32
    assert found.inputs == expected[1]
    assert [[type(v) for v in row.values()] for row in found.inputs] == [
        [type(v) for v in row.values()] for row in expected[1]
    ]


def test_ordinary_rows_need_no_arrow() -> None:
    rows = [GOOD, GOOD | {"word": None, "size": float("nan"), "at": None, "code": "é"}]
    found = RowEncoder(SCHEMA).encode({n: [row[n] for row in rows] for n in GOOD}, 2)
    assert found is not None
    assert found.inputs[0]["at"] == datetime(2013, 3, 10, 6, 59, tzinfo=UTC)
    assert found.x_NF[0].tolist() == [0, 0, 3, 2, 3, 2, 1, 1, 0]
    assert found.x_NF[1, 0] == 2  # allowed by the contract, never seen in training
    assert np.isnan(found.x_NF[1, [1, 4, 7, 8]]).all()


@pytest.mark.parametrize(
    ("column", "value"),
    [("code", "z"), ("count", 11), ("count", 1.5), ("need", None), ("size", -6), ("flag", 1)],
)
def test_what_breaks_the_schema_is_left_to_arrow(column: str, value: object) -> None:
    columns = {name: [v] for name, v in (GOOD | {column: value}).items()}
    assert RowEncoder(SCHEMA).encode(columns, 1) is None
    assert by_arrow(columns) is None


def test_many_rows_and_missing_columns_are_left_to_arrow() -> None:
    columns = {name: [v] * (MAX_ROWS + 1) for name, v in GOOD.items()}
    assert RowEncoder(SCHEMA).encode(columns, MAX_ROWS + 1) is None
    del columns["flag"]
    assert RowEncoder(SCHEMA).encode(columns, 1) is None


def test_records_with_other_columns_are_left_to_arrow() -> None:
    encoder = RowEncoder(SCHEMA)
    keyed = encoder.encode_records([GOOD | {"id": "k"}, GOOD], ignores_unknown=False)
    assert keyed is not None
    assert "id" not in keyed.inputs[0]
    assert encoder.encode_records([GOOD | {"more": 1}], ignores_unknown=False) is None
    assert encoder.encode_records([GOOD | {"more": 1}], ignores_unknown=True) is not None
    less = {name: value for name, value in GOOD.items() if name != "flag"}
    assert encoder.encode_records([less], ignores_unknown=True) is None
    assert encoder.encode_records([less | {"id": 1}], ignores_unknown=False) is None


def test_a_schema_that_only_arrow_knows_has_no_row_encoder() -> None:
    feature = EncodedFeature(name="f", expression="text(size)", kind="category")
    with pytest.raises(UnsureError):
        RowEncoder(SCHEMA.model_copy(update={"features": (feature,)}))
