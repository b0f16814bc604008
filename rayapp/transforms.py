"""The row-wise expression language: one definition for contracts, features, labels, batch and
online.

    Expression.parse("if_else(arr_delay > 15, 1, 0)").evaluate(table)

An expression is read with Python's own parser and may hold only what `_eval` and FUNCTIONS list; it
compiles to pyarrow.compute calls, so there is nothing to execute and nothing per row. Nulls
propagate as in SQL: a comparison with null is null. Durations are microseconds.
"""

import ast
import difflib
import keyword
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayapp.errors import ConfigError, DataError
from rayapp.schemas.data import ColumnType
from rayapp.schemas.model import EncodedFeature, Feature

Value = Any  # pa.Array, pa.ChunkedArray or pa.Scalar: pyarrow.compute takes each of them

_ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": pa.timestamp("us", "UTC"),
}
_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
    ast.And: "and_kleene",
    ast.Or: "or_kleene",
}
_ALLOWED = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.Name)
_ALLOWED_LEAVES = (ast.Constant, ast.Load, ast.USub, ast.Not, *_OPERATORS)
WORDS = {"true": True, "false": False, "null": None}


def arrow_type(column_type: ColumnType) -> pa.DataType:
    return _ARROW_TYPES[column_type]


def column_type(arrow: pa.DataType) -> ColumnType | None:
    """The ColumnType that an Arrow type is stored as, or None for one that a table may not hold."""
    if pa.types.is_boolean(arrow):
        return "boolean"
    if pa.types.is_integer(arrow):
        return "integer"
    if pa.types.is_floating(arrow):
        return "number"
    if pa.types.is_string(arrow) or pa.types.is_large_string(arrow):
        return "string"
    return "timestamp" if pa.types.is_timestamp(arrow) else None


def _duration(us_per_unit: int) -> Callable[[Value], Value]:
    def convert(x: Value) -> Value:
        us = pc.round(pc.multiply(pc.cast(x, pa.float64()), float(us_per_unit)))
        return pc.cast(pc.cast(us, pa.int64()), pa.duration("us"))

    return convert


def _local(part: Callable[[Value], Value]) -> Callable[[Value, Value], Value]:
    """A calendar part as a clock on the wall in `zone` shows it."""

    def read(timestamp: Value, zone: Value) -> Value:
        return part(pc.cast(timestamp, pa.timestamp("us", zone.as_py())))

    return read


def _number(x: Value) -> Value:
    if pa.types.is_duration(x.type):
        return pc.divide(pc.cast(pc.cast(x, pa.int64()), pa.float64()), 1e6)
    return pc.cast(x, pa.float64())


def _concat(*parts: Value) -> Value:
    return pc.binary_join_element_wise(*[pc.cast(p, pa.string()) for p in parts], "")


def _is_in(x: Value, *values: Value) -> Value:
    found = pc.is_in(x, value_set=pa.array([v.as_py() for v in values], type=x.type))
    return pc.if_else(pc.is_null(x), pa.scalar(None, pa.bool_()), found)


def _clip(x: Value, low: Value, high: Value) -> Value:
    clipped = pc.min_element_wise(pc.max_element_wise(_number(x), low), high)
    return pc.if_else(pc.is_null(x), pa.scalar(None, pa.float64()), clipped)


@dataclass(frozen=True)
class Function:
    """One name of the language. num_args: exact count, or None for one or more."""

    run: Callable[..., Value]
    num_args: int | None
    result: ColumnType | None
    """None: the type of the last argument."""


FUNCTIONS: dict[str, Function] = {
    "days": Function(_duration(86_400_000_000), 1, None),
    "hours": Function(_duration(3_600_000_000), 1, None),
    "minutes": Function(_duration(60_000_000), 1, None),
    "seconds": Function(_duration(1_000_000), 1, None),
    "hour": Function(_local(pc.hour), 2, "integer"),
    "minute_of_hour": Function(_local(pc.minute), 2, "integer"),
    "day_of_week": Function(_local(pc.day_of_week), 2, "integer"),
    "day_of_year": Function(_local(pc.day_of_year), 2, "integer"),
    "month": Function(_local(pc.month), 2, "integer"),
    "year": Function(_local(pc.year), 2, "integer"),
    "is_null": Function(pc.is_null, 1, "boolean"),
    "is_in": Function(_is_in, None, "boolean"),
    "if_else": Function(pc.if_else, 3, None),
    "coalesce": Function(pc.coalesce, None, None),
    "abs": Function(pc.abs, 1, None),
    "floor": Function(lambda x: pc.floor(_number(x)), 1, "number"),
    "log1p": Function(lambda x: pc.log1p(_number(x)), 1, "number"),
    "clip": Function(_clip, 3, "number"),
    "concat": Function(_concat, None, "string"),
    "number": Function(_number, 1, "number"),
    "text": Function(lambda x: pc.cast(x, pa.string()), 1, "string"),
    "lower": Function(pc.utf8_lower, 1, "string"),
    "length": Function(lambda x: pc.cast(pc.utf8_length(x), pa.int64()), 1, "integer"),
}


_PARSING = threading.Lock()
"""Python 3.11 counts the depth of its parsers' trees for all threads together, and raises
SystemError where two of them parse at a time, as a gateway does that loads two releases
(github.com/python/cpython/issues/106905)."""


@dataclass(frozen=True)
class Expression:
    """A parsed expression. Equal texts are equal expressions."""

    text: str
    columns: frozenset[str] = field(compare=False)
    tree: ast.expr = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> "Expression":
        """Raises ConfigError that names the first thing the language does not have."""
        try:
            with _PARSING:
                tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise ConfigError(
                f"expression {text!r}: {error.msg} at character {error.offset}",
                "see docs/reference/expressions.md; a column is named by letters, digits and _, "
                "and what a file calls otherwise gets a physicalName in its contract",
            ) from None
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        columns: set[str] = set()
        for node in ast.walk(tree):
            _check_node(node, text)
            if isinstance(node, ast.Name) and id(node) not in called and node.id not in WORDS:
                columns.add(node.id)
        return cls(text, frozenset(columns), tree)

    @staticmethod
    def is_column_name(name: str) -> bool:
        """Whether a column of this name can be spoken of: an identifier that is no word of Python
        or of the language, and not one of rayapp's own, which start with an underscore."""
        if keyword.iskeyword(name) or name in WORDS or name.startswith("_"):
            return False
        return name.isidentifier()

    def evaluate(self, table: pa.Table) -> pa.Array:
        """One value per row. Raises DataError for a column that is missing or of a wrong type."""
        missing = sorted(self.columns - set(table.column_names))
        if missing:
            near = difflib.get_close_matches(missing[0], table.column_names, n=1)
            raise DataError(
                f"expression {self.text!r}: no column {missing[0]!r}",
                f"did you mean {near[0]!r}?" if near else f"columns are {table.column_names}",
            )
        try:
            value = _eval(self.tree, table)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise DataError(
                f"expression {self.text!r}: {str(error).splitlines()[0]}",
                "check the types of its columns; number(x) and text(x) convert",
            ) from None
        if isinstance(value, pa.Scalar):
            return pa.repeat(value, table.num_rows)
        return value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value

    def result_type(self, types: Mapping[str, ColumnType]) -> ColumnType:
        """The type of the result, found on an empty table. Raises ConfigError if it has none."""
        try:
            result = column_type(self.evaluate(_empty_table(tuple(types.items()))).type)
        except DataError as error:
            raise ConfigError(error.what, error.next_step) from None
        if result is None:
            raise ConfigError(
                f"expression {self.text!r} gives a duration or null, not a value",
                "number(x) turns a duration into seconds",
            )
        return result


@lru_cache(maxsize=64)  # a config asks for the types of dozens of expressions over one view
def _empty_table(types: tuple[tuple[str, ColumnType], ...]) -> pa.Table:
    return pa.table({name: pa.array([], arrow_type(kind)) for name, kind in types})


def _check_node(node: ast.AST, text: str) -> None:
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        function = FUNCTIONS.get(name)
        if function is None or node.keywords:
            near = difflib.get_close_matches(name, FUNCTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"functions are {sorted(FUNCTIONS)}"
            raise ConfigError(f"expression {text!r}: no function {name!r}", hint)
        if function.num_args not in (None, len(node.args)) or not node.args:
            raise ConfigError(
                f"expression {text!r}: {name} takes {function.num_args or 'one or more'} "
                f"argument(s), got {len(node.args)}",
                "see docs/reference/expressions.md",
            )
    elif not isinstance(node, _ALLOWED + _ALLOWED_LEAVES):
        raise ConfigError(
            f"expression {text!r}: {type(node).__name__} is not part of the language",
            "see docs/reference/expressions.md",
        )


def _eval(node: ast.expr, table: pa.Table) -> Value:
    match node:
        case ast.Constant():
            return pa.scalar(node.value)
        case ast.Name(id=name) if name in WORDS:
            return pa.scalar(WORDS[name])
        case ast.Name(id=name):
            return table.column(name)
        case ast.UnaryOp(op=ast.Not()):
            return pc.invert(_eval(node.operand, table))
        case ast.UnaryOp():
            return pc.negate(_eval(node.operand, table))
        case ast.BinOp():
            return _binary(node.op, _eval(node.left, table), _eval(node.right, table))
        case ast.BoolOp():
            return _fold(node.op, [_eval(v, table) for v in node.values])
        case ast.Compare():
            sides = [_eval(v, table) for v in (node.left, *node.comparators)]
            pairs = zip(node.ops, sides, sides[1:], strict=False)
            return _fold(ast.And(), [_binary(op, a, b) for op, a, b in pairs])
        case ast.Call(func=ast.Name(id=name)):
            return FUNCTIONS[name].run(*[_eval(a, table) for a in node.args])
    raise AssertionError(f"_check_node let {ast.dump(node)} through")


def _binary(op: ast.AST, left: Value, right: Value) -> Value:
    if isinstance(op, ast.Div):  # a share of two counts is meant as a number, never a whole one
        left, right = _number(left), _number(right)
    return pc.call_function(_OPERATORS[type(op)], [left, right])


def _fold(op: ast.AST, values: Sequence[Value]) -> Value:
    result = values[0]
    for value in values[1:]:
        result = _binary(op, result, value)
    return result


def feature_table(features: Sequence[Feature | EncodedFeature], table: pa.Table) -> pa.Table:
    """One column per feature, named by it, in order. This is the train/serve parity: every caller
    (training, batch, gateway, drift) computes features here and nowhere else."""
    columns = [
        table.column(f.expression)
        if f.expression in table.column_names
        else _parsed(f.expression).evaluate(table)
        for f in features
    ]
    return pa.table(columns, names=[f.name for f in features])


_PARSED: dict[str, Expression] = {}


def _parsed(text: str) -> Expression:
    """Parsing costs more than evaluating one row, so each text is parsed once per process."""
    found = _PARSED.get(text)
    if found is None:
        found = _PARSED[text] = Expression.parse(text)
    return found
