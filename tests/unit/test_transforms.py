"""The expression language: what it computes, and what it refuses to be."""

import ast
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from rayapp import transforms
from rayapp.errors import ConfigError, DataError
from rayapp.schemas.model import Feature
from rayapp.transforms import Expression, feature_table

NOON = datetime(2013, 7, 1, 16, 5, tzinfo=UTC)  # 12:05 in New York (daylight saving)
TABLE = pa.table(
    {
        "a": [1, None, 3],
        "b": [2, 2, 0],
        "s": ["x", "y", None],
        "ts": pa.array([NOON] * 3, pa.timestamp("us", "UTC")),
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", [1, None, 3]),
        ("-a + b * 2", [3, None, -3]),
        ("a / b", [0.5, None, float("inf")]),
        ("a > 1", [False, None, True]),
        ("1 <= a < 3", [True, None, False]),
        ("a > 1 or b == 2", [True, True, True]),
        ("a > 1 and b == 2", [False, None, False]),
        ("not is_null(a)", [True, False, True]),
        ("s == 'x'", [True, False, None]),
        ("is_in(s, 'x', 'z')", [True, False, None]),
        ("is_in(b, 0, 7)", [False, False, True]),
        ("coalesce(a, 0)", [1, 0, 3]),
        ("if_else(b == 2, 'even', s)", ["even", "even", None]),
        ("concat(s, '-', b)", ["x-2", "y-2", None]),
        ("clip(a, 0, 2)", [1.0, None, 2.0]),
        ("floor(a / 2)", [0.0, None, 1.0]),
        ("text(b)", ["2", "2", "0"]),
        ("length(s)", [1, 1, None]),
        ("hour(ts, 'America/New_York')", [12, 12, 12]),
        ("minute_of_hour(ts, 'UTC')", [5, 5, 5]),
        ("day_of_week(ts, 'UTC')", [0, 0, 0]),
        ("number(ts - (ts - hours(2)))", [7200.0] * 3),
        ("ts + minutes(30) > ts", [True] * 3),
        ("true", [True] * 3),
    ],
)
def test_values(text: str, expected: list[object]) -> None:
    assert Expression.parse(text).evaluate(TABLE).to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("hours(", "never closed"),
        ("huor(ts, 'UTC')", "no function 'huor'"),
        ("__import__('os')", "no function"),
        ("a.real", "Attribute"),
        ("a[0]", "Subscript"),
        ("[a]", "List"),
        ("lambda: 1", "Lambda"),
        ("a ** 99999", "Pow"),
        ("hour(ts)", "takes 2"),
        ("clip(a, low=1)", "no function 'clip'"),
    ],
)
def test_refuses_what_is_not_in_the_language(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part.replace("(", r"\(")):
        Expression.parse(text)


def test_missing_column_names_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'ts'"):
        Expression.parse("tss").evaluate(TABLE)


def test_types_that_do_not_fit_are_one_error() -> None:
    with pytest.raises(DataError, match="expression 's \\+ a'"):
        Expression.parse("s + a").evaluate(TABLE)


def test_result_type_needs_no_rows() -> None:
    assert Expression.parse("a > 1").result_type({"a": "integer"}) == "boolean"
    assert Expression.parse("a / 2").result_type({"a": "integer"}) == "number"
    with pytest.raises(ConfigError, match="duration"):
        Expression.parse("hours(a)").result_type({"a": "integer"})


def test_columns_are_names_not_functions_or_words() -> None:
    assert Expression.parse("if_else(is_null(a), false, b > 1)").columns == {"a", "b"}


def test_feature_table_keeps_names_and_order() -> None:
    features = [Feature(name="half", expression="b / 2"), Feature(name="s", expression="s")]
    made = feature_table(features, TABLE)
    assert made.column_names == ["half", "s"]
    assert made.column("half").to_pylist() == [1.0, 1.0, 0.0]


def test_one_expression_is_parsed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11's own parser is no matter of several threads."""
    real, held = ast.parse, list[bool]()

    def parse(*given: Any, **more: Any) -> Any:
        held.append(transforms._PARSING.locked())
        return real(*given, **more)

    monkeypatch.setattr(ast, "parse", parse)
    Expression.parse("a + 1")
    assert held == [True]
