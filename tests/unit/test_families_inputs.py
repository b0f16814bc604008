from datetime import UTC, datetime

import pyarrow as pa
import pytest

from rayapp.errors import DataError
from rayapp.families.inputs import InputFault, TypedInputs, typed_inputs
from rayapp.schemas.data import Column

NOON = datetime(2013, 5, 1, 12, tzinfo=UTC)


def check(values: pa.Array | list[object], **column: object) -> TypedInputs:
    given = values if isinstance(values, pa.Array) else pa.array(values)
    return typed_inputs(pa.table({"c": given}), [Column.model_validate({"name": "c", **column})])


def kinds(checked: TypedInputs) -> list[tuple[int | None, str]]:
    return [(fault.row, fault.kind) for fault in checked.faults]


@pytest.mark.parametrize(
    ("column_type", "values", "expected"),
    [
        ("number", pa.array([1, 2], pa.int32()), [1.0, 2.0]),
        ("number", pa.array([1.5, 2.5], pa.float32()), [1.5, 2.5]),
        ("integer", pa.array([3.0, -4.0]), [3, -4]),
        ("integer", pa.array([3, 4], pa.uint8()), [3, 4]),
        ("string", pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        ("string", pa.array(["a", ""], pa.large_string()), ["a", ""]),
        ("boolean", pa.array([True, False]), [True, False]),
    ],
)
def test_values_that_fit_are_converted(
    column_type: str, values: pa.Array, expected: list[object]
) -> None:
    checked = check(values, type=column_type)
    assert not checked.faults
    assert checked.table.column("c").to_pylist() == expected


@pytest.mark.parametrize(
    ("column_type", "values"),
    [
        ("integer", pa.array([1.0, 1.7])),
        ("integer", pa.array([1.0, 2.0**63])),
        ("integer", pa.array([1.0, float("inf")])),
        ("timestamp", pa.array(["2013-05-01T12:00:00Z", "2013-05-01T12:00:00"])),
        ("integer", pa.array([1, 2**63], pa.uint64())),
        ("number", pa.array([1, 2**53 + 1])),
        ("number", pa.array([1, -(2**53) - 1])),
        ("timestamp", pa.array(["2013-05-01T12:00:00Z", "soon"])),
        ("timestamp", pa.array(["2013-05-01T12:00:00Z", "2013-13-01T12:00:00Z"])),
        ("timestamp", pa.array([0, 1], pa.timestamp("ns", "UTC"))),
    ],
)
def test_one_value_that_would_lose_something_is_one_fault(
    column_type: str, values: pa.Array
) -> None:
    checked = check(values, type=column_type)
    assert kinds(checked) == [(1, "wrong_type")]
    assert checked.table.column("c").is_valid().to_pylist() == [True, False]


@pytest.mark.parametrize(
    ("column_type", "values"),
    [
        ("integer", ["1", "2"]),
        ("integer", [True, False]),
        ("number", ["1.5", "2"]),
        ("boolean", [0, 1]),
        ("string", [1, 2]),
        ("timestamp", [1, 2]),
        ("number", [[1.0], [2.0]]),
    ],
)
def test_another_type_is_a_fault_of_every_row(column_type: str, values: list[object]) -> None:
    assert kinds(check(values, type=column_type)) == [(0, "wrong_type"), (1, "wrong_type")]


@pytest.mark.parametrize(
    "text",
    [
        "2013-05-01T12:00:00Z",
        "2013-05-01 12:00:00Z",
        "2013-05-01T12:00Z",
        "2013-05-01T12:00:00.000000Z",
        "2013-05-01T08:00:00-04:00",
        "2013-05-01 14:00:00+02:00",
        "2013-05-01T14:00:00+0200",
    ],
)
def test_iso_texts_become_utc(text: str) -> None:
    checked = check([text, None, "2013-05-01T12:00:00Z"], type="timestamp", nullable=True)
    assert not checked.faults
    assert checked.table.column("c").to_pylist() == [NOON, None, NOON]
    assert checked.table.schema.field("c").type == pa.timestamp("us", "UTC")


def test_infinity_is_not_finite_whatever_the_range() -> None:
    assert kinds(check([1.0, float("-inf"), float("inf")], type="number")) == [
        (1, "not_finite"),
        (2, "not_finite"),
    ]


def test_nan_and_null_count_as_null() -> None:
    values = pa.array([1.0, float("nan"), None])
    assert kinds(check(values, type="number")) == [(1, "missing_value"), (2, "missing_value")]
    allowed = check(values, type="number", nullable=True)
    assert not allowed.faults
    assert allowed.table.column("c").to_pylist() == [1.0, None, None]
    assert not check(pa.nulls(3), type="integer", nullable=True).faults


def test_limits_are_inclusive_and_named() -> None:
    checked = check([0, 1, 5, 6, None], type="integer", nullable=True, minimum=1, maximum=5)
    assert checked.faults == (
        InputFault(0, "c", "range", "0", "at least 1"),
        InputFault(3, "c", "range", "6", "at most 5"),
    )
    assert checked.table.column("c").to_pylist() == [0, 1, 5, 6, None]


def test_a_value_outside_the_allowed_ones() -> None:
    checked = check(["JFK", "XYZ", None], type="string", nullable=True, allowed=("JFK", "LGA"))
    assert checked.faults == (InputFault(1, "c", "category", "'XYZ'", "one of JFK, LGA"),)


def test_missing_columns() -> None:
    table = pa.table({"other": [1, 2]})
    needed = Column(name="c", type="number")
    assert typed_inputs(table, [needed]).faults == (
        InputFault(None, "c", "missing_column", "", "a number"),
    )
    optional = typed_inputs(table, [Column(name="c", type="number", nullable=True)])
    assert not optional.faults
    assert optional.table.to_pydict() == {"c": [None, None]}


def test_faults_come_by_row_then_by_column() -> None:
    columns = [Column(name="b", type="integer"), Column(name="a", type="integer")]
    table = pa.table({"a": [0.5, 0.5], "b": [1.0, 0.5], "rest": [1, 2]})
    checked = typed_inputs(table, columns)
    assert [(f.row, f.column) for f in checked.faults] == [(0, "a"), (1, "b"), (1, "a")]
    assert checked.table.column_names == ["b", "a"]


def test_a_column_that_comes_twice_is_refused() -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["c", "c"])
    with pytest.raises(DataError, match="2 times"):
        typed_inputs(table, [Column(name="c", type="integer")])
